//! What goes wrong while the load goes on, in turn.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::load::Weather;
use crate::support::{Client, Process, RedisCluster, memcached_on, redis_on, signal};

/// The servers.
pub(super) struct Servers {
    pub(super) plain: (Process, u16),
    pub(super) cache: (Process, u16),
    pub(super) shards: RedisCluster,
}

/// Number of kinds of faults.
pub(super) const KINDS: usize = 7;

impl Servers {
    /// Does fault number `turn`, and returns its name.
    pub(super) fn fail(&mut self, turn: usize, weather: &Weather) -> &'static str {
        weather.faults.fetch_add(1, Ordering::SeqCst);
        let name = match turn % KINDS {
            0 => {
                self.plain.0 = again(&mut self.plain, redis_on);
                "redis was killed"
            }
            1 => {
                pause(self.plain.0.id(), Duration::from_millis(2500));
                "redis was paused for 2.5 s"
            }
            2 => {
                self.cache.0 = again(&mut self.cache, memcached_on);
                "memcached was killed"
            }
            3 => {
                pause(self.cache.0.id(), Duration::from_millis(800));
                "memcached was paused for 0.8 s"
            }
            4 => {
                if let Some(at) = self.primary(turn) {
                    pause(self.shards.nodes[at].0.id(), Duration::from_millis(800));
                }
                "a shard was paused for 0.8 s"
            }
            5 => {
                if let Some(at) = self.primary(turn) {
                    self.fail_over(at);
                }
                "a primary was killed, and has returned as a replica"
            }
            _ => {
                self.move_slots(turn);
                "slots have moved"
            }
        };
        weather.faults.fetch_add(1, Ordering::SeqCst);
        name
    }

    /// A primary that holds slots, another one in each turn.
    fn primary(&self, turn: usize) -> Option<usize> {
        let is_primary = |at: &usize| role(self.shards.port(*at)).contains("master");
        let all: Vec<_> = (0..self.shards.nodes.len()).filter(is_primary).collect();
        all.get(turn / KINDS % all.len().max(1)).copied()
    }

    fn fail_over(&mut self, at: usize) {
        let primaries = || {
            (0..self.shards.nodes.len())
                .filter(|other| *other != at && role(self.shards.port(*other)).contains("master"))
                .count()
        };
        let before = primaries();
        signal(self.shards.nodes[at].0.id(), "KILL");
        let start = Instant::now();
        while primaries() <= before && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(300));
        self.shards.start_again(at);
        let start = Instant::now();
        while !role(self.shards.port(at)).contains("connected") && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn move_slots(&self, turn: usize) {
        let primaries: Vec<_> = (0..self.shards.nodes.len())
            .filter(|at| role(self.shards.port(*at)).contains("master"))
            .collect();
        let (Some(from), Some(to)) = (
            primaries.get(turn % primaries.len().max(1)),
            primaries.get((turn + 1) % primaries.len().max(1)),
        ) else {
            return;
        };
        for slot in self.shards.slots_of(*from).into_iter().take(20) {
            self.shards.move_slot(slot, *from, *to);
        }
    }
}

fn role(port: u16) -> String {
    Client::try_new(port).map(|mut client| client.call("ROLE")).unwrap_or_default()
}

fn pause(id: u32, time: Duration) {
    signal(id, "STOP");
    std::thread::sleep(time);
    signal(id, "CONT");
}

fn again(server: &mut (Process, u16), start: fn(u16) -> Process) -> Process {
    signal(server.0.id(), "KILL");
    let _ = server.0.wait(Duration::from_secs(5));
    std::thread::sleep(Duration::from_millis(400));
    start(server.1)
}
