//! What the process holds, as it tells itself and as the system sees it.

use std::time::{Duration, Instant};

use super::{Mecha, PATIENCE, Tagged, eventually};

/// Bytes by which a process may differ from itself: the allocator's own moods, and what a thread touches for the first time.
const NOISE: u64 = 2 << 20;

/// What must come back to where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Open files, from `/proc`.
    pub(crate) files: usize,
    /// Resident bytes, from `/proc`.
    pub(crate) resident: u64,
    pub(crate) clients: u64,
    pub(crate) upstreams: u64,
    pub(crate) pins: u64,
}

impl Mecha {
    /// What it holds now.
    pub(crate) fn levels(&self) -> Levels {
        let gauge = |name: &str| self.metric(name) as u64;
        let (clients, upstreams) = (gauge("mecha_client_connections{"), gauge("mecha_upstream_connections{"));
        let pins = gauge("mecha_upstream_pins{");
        let folder = format!("/proc/{}", self.process.id());
        let count = |_| std::fs::read_dir(format!("{folder}/fd")).unwrap().count();
        // The connection that has just asked for the metrics is still being closed.
        let pause = |_: &usize| std::thread::sleep(Duration::from_millis(5));
        let files = (0..5).map(count).inspect(pause).min().unwrap();
        let statm = std::fs::read_to_string(format!("{folder}/statm")).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        Levels { files, resident: pages * 4096, clients, upstreams, pins }
    }

    /// What it holds once it has served every kind of call, and is left alone.
    pub(crate) fn warmed_up(&self) -> Levels {
        // A worker that has not seen yet that its clients have left would get none of these.
        self.settles();
        let mut clients: Vec<_> =
            (0..16).map(|number| Tagged::new(self.port, &format!("warm:{number}"))).collect();
        for _ in 0..20 {
            clients.iter_mut().for_each(|client| assert!(client.round(1000).is_ok(), "a sound server fails"));
        }
        drop(clients);
        self.settles();
        // Dedicated connections that were given back are still being closed.
        let mut levels = self.levels();
        eventually("it does not come to rest", || {
            let before = std::mem::replace(&mut levels, self.levels());
            Levels { resident: 0, ..before } == Levels { resident: 0, ..levels }
        });
        levels
    }

    /// Waits until everything is as it was: the same connections on both sides, no file more, and no memory but noise.
    #[track_caller]
    pub(crate) fn returns_to(&self, before: Levels) {
        let start = Instant::now();
        loop {
            let now = self.levels();
            let is_back = (now.clients, now.pins) == (before.clients, before.pins)
                // A dedicated connection that was given back clean, and kept, may have been used and spoilt.
                && now.upstreams <= before.upstreams
                && now.files <= before.files;
            if is_back && now.resident <= before.resident + NOISE {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{now:?} after the fault, {before:?} before it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
