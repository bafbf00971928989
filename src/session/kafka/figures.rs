//! What one connection of a client to a broker tells figures, while it passes.
//!
//! Of each answer, its errors; of fetches, how long partitions are; of commits that were taken, how far groups have come. What
//! is not understood is not told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mecha_kafka::errors::{Code, NAMES};
use mecha_kafka::frame::RequestHead;
use mecha_kafka::table::ApiKey;
use mecha_kafka::tally::{Mark, Tally, Topic, commits, topics};
use mecha_telemetry::{ApiMetrics, Lag, LagTopic, Seated};

use super::op_of;

/// Bytes of commits that wait for their answers; more are not looked at.
const MAX_COMMITS: usize = 256 << 10;

/// Partitions that a connection reads; of more the length is not told.
const MAX_ENDS: usize = 4096;

/// Where the lengths of a topic's partitions are told.
type Ends = HashMap<i32, Arc<AtomicI64>>;

/// What one connection tells figures.
pub(super) struct Figures {
    apis: Arc<ApiMetrics>,
    lag: Arc<Lag>,
    /// Counts the connection.
    seat: Option<Seated>,
    /// Made with the first answer, kept for the next.
    tally: Option<Box<Tally>>,
    /// Whether it is of the answer that is passing.
    is_tallying: bool,
    ends: AllEnds,
    /// Commits that wait for their answers, the last of which may still be coming.
    commits: VecDeque<Commit>,
    committing: bool,
    held: usize,
}

/// Where lengths are told of what the connection reads.
#[derive(Default)]
struct AllEnds {
    by_id: HashMap<[u8; 16], Ends>,
    by_name: HashMap<Box<str>, Ends>,
    count: usize,
}

struct Commit {
    correlation: i32,
    version: i16,
    body: Vec<u8>,
}

impl Figures {
    pub(super) fn new(apis: Arc<ApiMetrics>, lag: Arc<Lag>) -> Self {
        Self {
            apis,
            lag,
            seat: None,
            tally: None,
            is_tallying: false,
            ends: AllEnds::default(),
            commits: VecDeque::new(),
            committing: false,
            held: 0,
        }
    }

    /// This is the broker; `None` where nobody knows.
    pub(super) fn connected(&mut self, broker: Option<i32>) {
        self.seat = Some(self.apis.connected(broker));
    }

    /// A request passes that is understood.
    pub(super) fn request(&mut self, head: &RequestHead) {
        let is_commit = head.key == ApiKey::OFFSET_COMMIT;
        if is_commit && self.held + head.body as usize <= MAX_COMMITS {
            let RequestHead { correlation, version, .. } = *head;
            self.commits.push_back(Commit { correlation, version, body: Vec::new() });
            self.committing = true;
        }
    }

    /// Whether it has to see what passes of the request.
    pub(super) fn sees_request(&self) -> bool {
        self.committing
    }

    /// A piece of that request passes.
    pub(super) fn request_piece(&mut self, piece: &[u8], is_last: bool) {
        if !self.committing {
            return;
        }
        if let Some(commit) = self.commits.back_mut() {
            commit.body.extend_from_slice(piece);
            self.held += piece.len();
        }
        self.committing = !is_last;
    }

    /// An answer begins that is understood.
    pub(super) fn begin(&mut self, key: ApiKey, version: i16, body: u32) {
        let begun = match &mut self.tally {
            Some(tally) => tally.restart(key, version, body),
            none => Tally::new(key, version, body).map(|tally| *none = Some(Box::new(tally))),
        };
        self.is_tallying = begun.is_ok();
    }

    /// A piece of it passes.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        let Self { tally: Some(tally), is_tallying: true, ends, lag, .. } = self else { return };
        tally.push(piece, &mut |mark| ends.note(lag, mark));
    }

    /// Bytes to come of it that need not be seen.
    pub(super) fn unseen(&self) -> usize {
        match &self.tally {
            Some(tally) if self.is_tallying => tally.unseen(),
            _ => usize::MAX,
        }
    }

    /// So many of those have passed.
    pub(super) fn passed(&mut self, bytes: usize) {
        if let Some(tally) = self.tally.as_mut().filter(|_| self.is_tallying) {
            tally.passed(bytes);
        }
    }

    /// The answer has come to its end: its error, if it was understood.
    pub(super) fn end(&mut self) -> Option<Code> {
        let was_tallying = std::mem::take(&mut self.is_tallying);
        self.tally.as_ref().filter(|_| was_tallying).map(|tally| tally.code())
    }

    /// An answer that is there as a whole: its error, if it is understood.
    pub(super) fn whole(&mut self, key: ApiKey, version: i16, body: &[u8]) -> Option<Code> {
        if key == ApiKey::API_VERSIONS {
            // Brokers that lack the version answer in another one; the error comes first in all.
            return body.first_chunk().map(|error| Code(i16::from_be_bytes(*error)));
        }
        if key == ApiKey::METADATA {
            let mut named = Vec::new();
            let mut topic = |name, id| named.extend(std::str::from_utf8(name).ok().map(|name| (name, id)));
            if topics(version, body, &mut topic).is_ok() && !named.is_empty() {
                self.lag.named(named);
            }
        }
        self.begin(key, version, u32::try_from(body.len()).ok()?);
        self.piece(body);
        self.end()
    }

    /// A request was answered, with this error if that is known.
    pub(super) fn answered(&mut self, key: ApiKey, version: i16, correlation: i32, code: Option<Code>) {
        self.apis.answered(op_of(key), version, code.map_or(NAMES.len(), Code::index));
        let is_it = |commit: &mut Commit| key == ApiKey::OFFSET_COMMIT && commit.correlation == correlation;
        let Some(Commit { version, body, .. }) = self.commits.pop_front_if(is_it) else { return };
        self.held = self.held.saturating_sub(body.len());
        // What was taken in part only, the next commit tells again.
        if code == Some(Code::NONE) {
            let mut marks = Vec::new();
            let group = commits(version, &body, &mut |mark| {
                marks.extend(topic(mark.topic).map(|topic| (topic, mark.partition, mark.offset)));
            });
            if let Some(group) = group.ok().and_then(|group| std::str::from_utf8(group).ok()) {
                self.lag.committed(group, &marks);
            }
        }
    }
}

fn topic(topic: Topic<'_>) -> Option<LagTopic> {
    match topic {
        Topic::Id(id) => Some(LagTopic::Id(id)),
        Topic::Name(name) => Some(LagTopic::Name(std::str::from_utf8(name).ok()?.into())),
    }
}

impl AllEnds {
    /// Tells how long a partition is, if that is known.
    fn note(&mut self, lag: &Lag, mark: Mark<'_>) {
        if mark.offset < 0 {
            return;
        }
        let known = match mark.topic {
            Topic::Id(id) => self.by_id.get(&id),
            Topic::Name(name) => std::str::from_utf8(name).ok().and_then(|name| self.by_name.get(name)),
        };
        if let Some(end) = known.and_then(|ends| ends.get(&mark.partition)) {
            return end.store(mark.offset, Ordering::Relaxed);
        }
        if self.count >= MAX_ENDS {
            return;
        }
        let Some(topic) = topic(mark.topic) else { return };
        let Some(end) = lag.end(&topic, mark.partition) else { return };
        end.store(mark.offset, Ordering::Relaxed);
        self.count += 1;
        let ends = match topic {
            LagTopic::Id(id) => self.by_id.entry(id).or_default(),
            LagTopic::Name(name) => self.by_name.entry(name).or_default(),
        };
        ends.insert(mark.partition, end);
    }
}
