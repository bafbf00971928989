//! What is in flight on a connection to a broker: which request the next response belongs to.
//!
//! A broker answers the requests of a connection one after the other, and repeats the correlation id of each. A
//! response says nothing else about what it is, so whoever reads it must remember the request. A produce request with
//! `acks=0` has no response; [`Acks`] finds out.

use std::collections::VecDeque;

use crate::schema::Role;
use crate::table::ApiKey;
use crate::walk::{Feed, Step, Walk};
use crate::wire::Malformed;

/// A request that waits for its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight<T> {
    /// What was asked for.
    pub key: ApiKey,
    /// In which version.
    pub version: i16,
    /// What the response must repeat.
    pub correlation: i32,
    /// What the caller wants to know about it by then.
    pub note: T,
}

/// Requests of one connection that wait for their responses, the oldest first.
#[derive(Debug)]
pub struct Pending<T> {
    waiting: VecDeque<InFlight<T>>,
    limit: usize,
}

/// No more requests may wait: read no more from the client until one is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A response that belongs to no request, or not to the oldest one. The connection must be closed: no response behind
/// it can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What the oldest request has; `None` if none waits.
    pub expected: Option<i32>,
    /// What the response has.
    pub got: i32,
}

// === impl Pending ===

impl<T> Pending<T> {
    /// Nothing waits. At most `limit` requests ever will.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), limit }
    }

    /// A request goes to the broker, and has a response.
    ///
    /// # Errors
    /// [`Full`] if so many wait already.
    pub fn sent(&mut self, request: InFlight<T>) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// A response came: the request it belongs to.
    ///
    /// # Errors
    /// See [`Mismatch`]. Nothing is removed.
    pub fn answered(&mut self, correlation: i32) -> Result<InFlight<T>, Mismatch> {
        let expected = self.waiting.front().map(|oldest| oldest.correlation);
        match self.waiting.pop_front_if(|oldest| oldest.correlation == correlation) {
            Some(request) => Ok(request),
            None => Err(Mismatch { expected, got: correlation }),
        }
    }

    /// The request that was sent last turned out to have no response.
    pub fn forget_last(&mut self) -> Option<InFlight<T>> {
        self.waiting.pop_back()
    }

    /// The oldest request that waits.
    #[must_use]
    pub fn oldest(&self) -> Option<&InFlight<T>> {
        self.waiting.front()
    }

    /// All that wait, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &InFlight<T>> {
        self.waiting.iter()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether no more may wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.limit
    }
}

/// Finds out whether a produce request wants a response, from the first bytes of its body, in whatever pieces they come.
#[derive(Debug)]
pub struct Acks {
    feed: Feed,
    found: Option<i16>,
}

impl Acks {
    /// For a request of this version with a body of so many bytes.
    ///
    /// # Errors
    /// [`Malformed::Unknown`] if the version is not known. Such a request must not be passed on, since nobody can say
    /// whether it will be answered.
    pub fn new(version: i16, body: u32) -> Result<Self, Malformed> {
        let message = ApiKey::PRODUCE.request().ok_or(Malformed::Unknown)?;
        Ok(Self { feed: Feed::new(Walk::new(message, version, body)?), found: None })
    }

    /// Takes the next piece of the body: acknowledgements that the producer waits for, once they were read. 0 means
    /// that there will be no response. What is behind them is not looked at.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<i16>, Malformed> {
        if self.found.is_none() {
            let found = &mut self.found;
            self.feed.push(piece, |_, step, bytes| {
                if let Step::Value { field: Some(field), .. } = step
                    && field.role == Role::Acks
                    && let Some(bytes) = bytes.first_chunk()
                {
                    *found = Some(i16::from_be_bytes(*bytes));
                }
                found.is_none()
            })?;
        }
        Ok(self.found)
    }
}

/// The beginning of a request to produce, up to its acknowledgements and with them: how many bytes that are, and what they are.
/// `None` if `bytes`, of a body of so many, end before that.
///
/// # Errors
/// See [`Malformed`].
pub fn beginning(version: i16, body: u32, bytes: &[u8]) -> Result<Option<(usize, i16)>, Malformed> {
    let message = ApiKey::PRODUCE.request().ok_or(Malformed::Unknown)?;
    let (mut walk, mut at) = (Walk::new(message, version, body)?, 0);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let step = walk.step(rest)?;
        if matches!(step, Step::More) {
            return Ok(None);
        }
        at += step.head() + step.body();
        if let Step::Value { field: Some(field), .. } = step
            && field.role == Role::Acks
        {
            let acks = rest.first_chunk().ok_or(Malformed::Truncated)?;
            return Ok(Some((at, i16::from_be_bytes(*acks))));
        }
        if matches!(step, Step::Done) {
            return Err(Malformed::Truncated);
        }
        if at > bytes.len() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Acks, Full, InFlight, Mismatch, Pending, beginning};
    use crate::table::ApiKey;

    fn request(correlation: i32) -> InFlight<()> {
        InFlight { key: ApiKey::METADATA, version: 1, correlation, note: () }
    }

    #[test]
    fn responses_belong_to_requests_in_their_order() {
        let mut pending = Pending::new(2);
        pending.sent(request(7)).unwrap();
        pending.sent(request(7)).unwrap();
        assert_eq!(pending.sent(request(8)), Err(Full));
        assert_eq!(pending.answered(8), Err(Mismatch { expected: Some(7), got: 8 }));
        assert_eq!(pending.answered(7).map(|one| one.correlation), Ok(7));
        assert_eq!(pending.answered(7).map(|one| one.correlation), Ok(7));
        assert_eq!(pending.answered(7), Err(Mismatch { expected: None, got: 7 }));
    }

    #[test]
    fn acks_are_found_in_any_pieces_and_every_version() {
        for version in 3..=13 {
            for acks in [-1i16, 0, 1] {
                let mut body = b"\x00\x03cli".to_vec();
                if version >= 9 {
                    // No tags in the header, and a transactional id of two letters.
                    body.extend_from_slice(b"\x00\x03tx");
                } else {
                    body.extend_from_slice(b"\xff\xff");
                }
                body.extend_from_slice(&acks.to_be_bytes());
                body.extend_from_slice(b"whatever follows");
                for size in 1..body.len() {
                    let mut probe = Acks::new(version, body.len() as u32).unwrap();
                    let found = body.chunks(size).find_map(|piece| probe.push(piece).unwrap());
                    assert_eq!(found, Some(acks), "version {version} in pieces of {size}");
                }
                let size = body.len() - b"whatever follows".len();
                for cut in 0..body.len() {
                    let found = beginning(version, body.len() as u32, &body[..cut]);
                    assert_eq!(found, Ok((cut >= size).then_some((size, acks))), "version {version}, {cut}");
                }
            }
        }
    }
}
