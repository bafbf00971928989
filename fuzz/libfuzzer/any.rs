//! Every target under libFuzzer: the first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&which, bytes)) = data.split_first() else { return };
    let target = &mecha_fuzz::TARGETS[usize::from(which) % mecha_fuzz::TARGETS.len()];
    (target.check)(bytes);
});
