//! The data plane's clock: microseconds since the process started.
#![expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Read once per batch, never per call: a read costs as much as decoding a command.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// The process's clock, which the first call starts at zero: all are one, so that threads can compare times.
    pub fn start() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        Self { start: *START.get_or_init(Instant::now) }
    }

    /// Microseconds since the start. Never goes back.
    pub fn micros(&self) -> u64 {
        Instant::now().duration_since(self.start).as_micros() as u64
    }
}

/// Unix time in milliseconds; 0 before 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
