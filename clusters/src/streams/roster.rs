//! Which of several servers that are alike comes next.
//!
//! Servers stand in levels by their priority. The first level gets everything while enough of its servers are well; below
//! that share (`spill_below`) it gives the missing part to the next level, and so on. Within a level, servers of the own
//! zone come first, by the same rule, and among those who are left the policy decides, with weights that are small at
//! first where a server is new (`slow_start`).
//!
//! Deliberately absent: why a server is down, which whoever asks tells, and connections.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use crate::{Balance, Balancer, Listed, Node, Sharding};

/// The share of its weight that a server begins with.
const FIRST_SHARE: f64 = 0.1;

/// How servers are chosen, for all lists of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The policy.
    pub sharding: Sharding,
    /// Whose servers come first, if any do.
    pub zone: Option<String>,
    /// Share of well servers, from 0 to 1, below which a level, or the own zone, gives some of its part away.
    pub spill_below: f64,
    /// How long a new server gets less than its part.
    pub slow_start: Option<Duration>,
}

/// What a roster wants to know of servers while it chooses.
pub(super) trait Look {
    /// Whether it is left alone.
    fn is_down(&self, at: usize) -> bool;
    /// How busy it is.
    fn load(&self, at: usize) -> usize;
}

/// The servers of one list, by position: in the order of their priority, and of the list.
#[derive(Default)]
pub(super) struct Roster {
    levels: Vec<Level>,
    weights: Vec<u32>,
    /// Whether it stands in the own zone.
    is_near: Vec<bool>,
    choice: Choice,
    /// By smooth weighted round robin: what each server has to its credit.
    credits: Vec<Cell<f64>>,
    /// Since when each is warming up, in microseconds; 0: it is not.
    warm_since: Vec<Cell<u64>>,
    /// Until when any is.
    warm_until: Cell<u64>,
    turn: Cell<usize>,
}

/// Servers of one priority.
struct Level {
    range: Range<usize>,
    balancer: Balancer,
    is_weighted: bool,
    /// Whether some, and not all, stand in the own zone.
    has_zones: bool,
}

impl Roster {
    /// The servers of `list`, which stands in the order of priorities.
    pub(super) fn new(choice: Choice, list: &[Listed]) -> Self {
        let is_near: Vec<_> =
            list.iter().map(|listed| choice.zone.is_some() && listed.zone == choice.zone).collect();
        let mut levels = Vec::new();
        let mut start = 0;
        for group in list.chunk_by(|one, other| one.priority == other.priority) {
            let range = start..start + group.len();
            start = range.end;
            let node = |(index, listed): (u16, &Listed)| Node {
                index,
                name: listed.name.clone(),
                weight: listed.weight,
            };
            let nodes: Vec<_> = (0..).zip(group).map(node).collect();
            let near = is_near.get(range.clone()).unwrap_or_default();
            levels.push(Level {
                balancer: Balancer::new(choice.sharding, &nodes),
                is_weighted: group
                    .windows(2)
                    .any(|pair| pair.first().map(|one| one.weight) != pair.last().map(|one| one.weight)),
                has_zones: near.contains(&true) && near.contains(&false),
                range,
            });
        }
        Self {
            levels,
            weights: list.iter().map(|listed| listed.weight.max(1)).collect(),
            is_near,
            choice,
            credits: list.iter().map(|_| Cell::default()).collect(),
            warm_since: list.iter().map(|_| Cell::default()).collect(),
            warm_until: Cell::default(),
            turn: Cell::new(fastrand::usize(..1 << 16)),
        }
    }

    /// A server has just come, or is back: it gets less than its part for a while.
    pub(super) fn warm(&self, at: usize, now_micros: u64) {
        let (Some(window), Some(since)) = (self.choice.slow_start, self.warm_since.get(at)) else { return };
        since.set(now_micros.max(1));
        self.warm_until.set(now_micros + window.as_micros() as u64);
    }

    /// The warming up of its servers goes on in a newer roster: what it knows of the server in place `at`.
    pub(super) fn warm_since(&self, at: usize) -> u64 {
        self.warm_since.get(at).map_or(0, Cell::get)
    }

    /// See [`Roster::warm_since`].
    pub(super) fn go_on(&self, at: usize, since_micros: u64) {
        if since_micros > 0 {
            self.warm(at, since_micros);
        }
    }

    /// Whether servers that come back warm up.
    pub(super) fn has_slow_start(&self) -> bool {
        self.choice.slow_start.is_some()
    }

    /// The position of the server that comes first. `key` is what a hash is made of, where one decides.
    pub(super) fn first(&self, key: &[u8], look: &impl Look, now_micros: u64) -> Option<usize> {
        let sharding = &self.choice.sharding;
        let dice = || match sharding.balance.is_hashed() {
            // One key must not jump between levels.
            true => f64::from(mixed(sharding.hash.of(key))) / (f64::from(u32::MAX) + 1.0),
            false => fastrand::f64(),
        };
        let level = match &*self.levels {
            [] => return None,
            [only] => only,
            several => {
                let shares = several.iter().map(|level| self.capacity(level.range.clone(), look, |_| true));
                several.get(pick(shares, dice())?)?
            }
        };
        if sharding.balance.is_hashed() {
            let home = level.balancer.by_key(key).map(|at| level.range.start + at)?;
            let stand_in = || self.others(home, look).into_iter().next().filter(|at| !look.is_down(*at));
            return Some(home).filter(|at| !look.is_down(*at)).or_else(stand_in).or(Some(home));
        }
        let near = level.has_zones.then(|| {
            let share = self.capacity(level.range.clone(), look, |at| self.is_near.get(at) == Some(&true));
            dice() < share
        });
        let is_warming = now_micros < self.warm_until.get();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let is_up = |at: usize| !look.is_down(at);
        // The usual case costs no look at the others.
        if near.is_none() && !is_warming && !level.is_weighted && sharding.balance != Balance::LeastRequest {
            let count = level.range.len();
            let start =
                if sharding.balance == Balance::Random { fastrand::usize(..count) } else { turn % count };
            let at = level.range.start + start;
            if is_up(at) {
                return Some(at);
            }
        }
        let is_wanted = |at: usize| is_up(at) && near.is_none_or(|near| self.is_near.get(at) == Some(&near));
        let mut wanted = level.range.clone().filter(|at| is_wanted(*at));
        let chosen = if level.is_weighted || is_warming {
            self.weighted(wanted, look, turn, now_micros)
        } else {
            match sharding.balance {
                Balance::LeastRequest => {
                    let count = level.range.len();
                    let order = (0..count).map(|step| level.range.start + (turn + step) % count);
                    order.filter(|at| is_wanted(*at)).min_by_key(|at| look.load(*at))
                }
                balance => {
                    let count = wanted.clone().count();
                    let number =
                        if balance == Balance::Random { fastrand::usize(..count.max(1)) } else { turn };
                    if count == 0 { None } else { wanted.nth(number % count) }
                }
            }
        };
        // Nobody there is well: any of the level, then, preferably one that is.
        chosen
            .or_else(|| level.range.clone().find(|at| is_up(*at)))
            .or_else(|| Some(level.range.start + turn % level.range.len().max(1)))
    }

    /// By weights, which are smaller while a server warms up.
    fn weighted(
        &self,
        wanted: impl Iterator<Item = usize> + Clone,
        look: &impl Look,
        turn: usize,
        now_micros: u64,
    ) -> Option<usize> {
        let weight =
            |at: usize| f64::from(self.weights.get(at).copied().unwrap_or(1)) * self.warmth(at, now_micros);
        let total: f64 = wanted.clone().map(weight).sum();
        match self.choice.sharding.balance {
            Balance::LeastRequest => {
                let cost = |at: usize| (look.load(at) + 1) as f64 / weight(at);
                let least = wanted.clone().map(cost).min_by(f64::total_cmp)?;
                let alike = wanted.filter(|at| cost(*at) <= least);
                let count = alike.clone().count().max(1);
                alike.clone().nth(turn % count)
            }
            Balance::Random => {
                let mut left = fastrand::f64() * total;
                let mut last = None;
                for at in wanted {
                    last = Some(at);
                    left -= weight(at);
                    if left < 0.0 {
                        break;
                    }
                }
                last
            }
            _ => {
                // Smooth weighted round robin: whoever is owed most is next, and pays for all.
                let mut best: Option<(f64, usize)> = None;
                for at in wanted {
                    let Some(credit) = self.credits.get(at) else { continue };
                    credit.set(credit.get() + weight(at));
                    if best.is_none_or(|(most, _)| credit.get() > most) {
                        best = Some((credit.get(), at));
                    }
                }
                let (_, at) = best?;
                self.credits.get(at).iter().for_each(|credit| credit.set(credit.get() - total));
                Some(at)
            }
        }
    }

    /// The part of its weight that a server gets now.
    fn warmth(&self, at: usize, now_micros: u64) -> f64 {
        let since = self.warm_since(at);
        let Some(window) = self.choice.slow_start.filter(|_| since > 0) else { return 1.0 };
        let share = now_micros.saturating_sub(since) as f64 / window.as_micros().max(1) as f64;
        share.clamp(FIRST_SHARE, 1.0)
    }

    /// How much of everything some servers can take, from 0 to 1.
    fn capacity(&self, range: Range<usize>, look: &impl Look, is_meant: impl Fn(usize) -> bool) -> f64 {
        let (mut all, mut well) = (0.0, 0.0);
        for at in range.filter(|at| is_meant(*at)) {
            all += 1.0;
            well += f64::from(u8::from(!look.is_down(at)));
        }
        let share = if all > 0.0 { well / all } else { 0.0 };
        if share >= self.choice.spill_below {
            f64::from(u8::from(share > 0.0))
        } else {
            share / self.choice.spill_below
        }
    }

    /// All positions but `first`, in the order in which they are tried when it cannot be reached: those of its level, those
    /// of the others, and last those that are down.
    pub(super) fn others(&self, first: usize, look: &impl Look) -> Vec<usize> {
        let count = self.weights.len();
        let level_of =
            |at: usize| self.levels.iter().position(|level| level.range.contains(&at)).unwrap_or(0);
        let own = level_of(first);
        let mut others: Vec<_> = (1..count).map(|step| (first + step) % count).collect();
        others.sort_by_key(|at| (look.is_down(*at), level_of(*at) != own, level_of(*at)));
        others
    }
}

/// The first position whose share covers `dice`, where each takes what those before it have left over of 1. If together
/// they have less than 1, all get more.
fn pick(shares: impl Iterator<Item = f64> + Clone, dice: f64) -> Option<usize> {
    let total: f64 = shares.clone().sum::<f64>().min(1.0);
    let mut left = dice * total;
    let mut last = None;
    for (at, share) in shares.enumerate().filter(|(_, share)| *share > 0.0) {
        last = Some(at);
        left -= share;
        if left < 0.0 {
            break;
        }
    }
    last.or(Some(0))
}

/// Spreads what a hash leaves close together, and apart from what rings make of it (the end of MurmurHash3).
fn mixed(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests;
