//! The answers that a client waits for, in the order in which it will get them.

use std::collections::VecDeque;

use mecha_kafka::frame::{RequestHead, ResponseHead};
use mecha_kafka::route::learn::{self, Kept};
use mecha_kafka::route::merge;
use mecha_kafka::table::ApiKey;
use mecha_telemetry::CloseReason;

use crate::session::kafka::placement::Placement;

/// Bytes of answers that are gathered to be one, or to be read.
pub(super) const MAX_GATHERED: usize = 32 << 20;

/// A request that waits for its answer.
pub(super) struct Asked {
    pub(super) head: RequestHead,
    pub(super) how: How,
}

/// How its answer comes.
pub(super) enum How {
    /// In parts, from so many brokers that have not answered. Their bodies are gathered.
    Gathered { missing: usize, bodies: Vec<Vec<u8>>, sought: Vec<(Kept, String)> },
    /// From one broker, as it is.
    Passes,
    /// It is there.
    Ready(Vec<u8>),
}

/// All of them.
#[derive(Default)]
pub(super) struct Answers {
    waiting: VecDeque<Asked>,
    /// The number of the first.
    first: u64,
}

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number that the next one will have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    pub(super) fn push(&mut self, asked: Asked) {
        self.waiting.push_back(asked);
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Asked> {
        self.waiting.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Whether bytes of this one may be taken now: they go to the client, or are gathered.
    pub(super) fn may_come(&self, number: u64) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at == Some(0)
            || at
                .and_then(|at| self.waiting.get(at))
                .is_some_and(|asked| matches!(asked.how, How::Gathered { .. }))
    }

    /// A part came, whole.
    pub(super) fn gathered(&mut self, number: u64, body: Vec<u8>) {
        if let Some(Asked { how: How::Gathered { missing, bodies, .. }, .. }) = self.get_mut(number) {
            *missing = missing.saturating_sub(1);
            bodies.push(body);
        }
    }

    pub(super) fn is_gathered(&mut self, number: u64) -> bool {
        matches!(self.get_mut(number), Some(Asked { how: How::Gathered { .. }, .. }))
    }

    /// The first one passed to its end.
    pub(super) fn passed(&mut self) {
        self.waiting.pop_front();
        self.first += 1;
    }

    /// Appends the answers that are there and whose turn it is. Whether there were any.
    pub(super) fn leave(&mut self, placement: &Placement, out: &mut Vec<u8>) -> Result<bool, CloseReason> {
        let mut has_left = false;
        while let Some(asked) = self.waiting.front() {
            match &asked.how {
                How::Gathered { missing: 0, bodies, sought } => {
                    asked.whole(bodies, sought, placement, out)?;
                }
                How::Gathered { .. } | How::Passes => break,
                How::Ready(bytes) => out.extend_from_slice(bytes),
            }
            has_left = true;
            self.passed();
        }
        Ok(has_left)
    }
}

impl Asked {
    /// Learns from what was gathered, and appends it as one answer.
    fn whole(
        &self,
        bodies: &[Vec<u8>],
        sought: &[(Kept, String)],
        placement: &Placement,
        out: &mut Vec<u8>,
    ) -> Result<(), CloseReason> {
        let RequestHead { key, version, correlation, .. } = self.head;
        let mut merged = Vec::new();
        let whole = if let [body] = bodies {
            let learned = match key {
                ApiKey::METADATA => placement.learn_leaders(version, body),
                ApiKey::FIND_COORDINATOR => placement.learn_coordinators(version, body, sought),
                _ => Ok(()),
            };
            learned.map(|()| body)
        } else {
            merge(key, version, bodies, &mut merged).map(|()| &merged)
        };
        let whole = whole.map_err(|error| {
            tracing::error!(api = key.name(), version, ?error, "an answer cannot be understood");
            CloseReason::UpstreamLost
        })?;
        let body = u32::try_from(whole.len()).map_err(|_| CloseReason::UpstreamLost)?;
        ResponseHead { correlation, body }.write(out);
        out.extend_from_slice(whole);
        Ok(())
    }
}

/// The names that a request to find coordinators has.
pub(super) fn sought(head: &RequestHead, body: &[u8]) -> Vec<(Kept, String)> {
    let mut names = Vec::new();
    // What is not sound is the broker's to refuse.
    let _ = learn::sought(head.version, body, &mut |kind, name| names.push((kind, name.to_string())));
    names
}
