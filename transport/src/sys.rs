//! What neither the standard library nor a safe wrapper offers. The only place with `unsafe`.
#![expect(unsafe_code, reason = "calls to the C library, each argued for")]

/// Bytes from which the allocator maps memory for one use, and bytes of free memory at the end of a heap that it keeps.
const KEPT_BY_HEAP: i32 = 1 << 20;

/// Keeps the allocator from learning large buffers: left alone, it keeps up to 64 MiB at the end of each thread's heap once a
/// client has been owed some megabytes, and [`release_free_memory`] cannot reach those. Called once, before threads start.
pub fn limit_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: the function takes two numbers and sets a variable of the allocator's own, under its lock. A value that it
        // does not take is ignored, and then memory comes back later.
        unsafe { libc::mallopt(parameter, KEPT_BY_HEAP) };
    }
}

/// Gives pages that hold nothing back to the system, and returns whether there were any.
///
/// The allocator keeps what is freed in the middle of its heaps, so that a process that once had ten thousand clients would
/// look for ever as if it still had them. Takes some milliseconds for each hundred megabytes that are given back, in which
/// threads that allocate wait: for the control side, and rarely.
pub fn release_free_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the function takes a number, touches nothing but the allocator's own free lists, and locks them.
        unsafe { libc::malloc_trim(0) == 1 }
    }
    // Other allocators do it on their own, or cannot.
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// Bytes of this process that are in memory; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// One test, since what is resident belongs to the whole process.
    #[test]
    fn freed_memory_goes_back_to_the_system() {
        limit_free_memory();
        let at_the_end = std::thread::spawn(|| {
            // Freed once, a buffer of this size would from then on be part of the thread's heap.
            drop(vec![7_u8; 16 << 20]);
            let before = resident_bytes();
            drop((0..8).map(|_| vec![7_u8; 3 << 20]).collect::<Vec<_>>());
            resident_bytes().saturating_sub(before)
        });
        let kept = at_the_end.join().unwrap();
        assert!(kept < 4 << 20, "{} KiB kept at the end of a heap", kept >> 10);

        let before = resident_bytes();
        let mut pieces: Vec<_> = (0..64_000).map(|_| vec![7_u8; 1000].into_boxed_slice()).collect();
        assert!(resident_bytes() > before + (50 << 20));
        // What is still used at the end of the heap keeps all that is free before it.
        pieces.drain(..pieces.len() - 1);
        assert!(release_free_memory());
        let kept = resident_bytes().saturating_sub(before);
        assert!(kept < 8 << 20, "{} KiB kept in the middle of a heap", kept >> 10);
        assert_eq!(pieces.len(), 1);
    }
}
