//! The process' limit on open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files this process may have open now; `u64::MAX` if there is no limit.
pub fn open_files_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit to the hard one: a proxy spends two descriptors on each client. Returns the limit in force.
pub fn raise_open_files_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it was, which is what the caller reports.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    open_files_limit()
}
