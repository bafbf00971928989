//! Addresses of brokers in responses: replaced, in every message that has any.
//!
//! A client that learns where a broker is goes there, past the proxy. So what a broker says about where brokers are is
//! replaced by what the proxy says, wherever a message has it: the schemas know all places ([`crate::schema::Role`]),
//! those that only failing partitions have (`NodeEndpoints`) too.
//!
//! [`rewrite`] does it for a body that is there as a whole. [`Rewriter`] does it for one that passes by in pieces:
//! responses to `Fetch` and `ShareFetch` may be 50 MiB of records, with the addresses behind them. All but the end
//! of such a body is passed on as it comes. But its length goes out first, when nobody knows yet how long the new
//! addresses are; so the length that is announced has some room ([`ROOM`]), and what is left of it is filled with a tagged
//! field that no client knows, which clients skip. If there were more addresses than there is room, they are left out:
//! they save a client a question, no more.
//!
//! Not replaced: where members of a group are (`ClientHost`), hosts in access control lists, and addresses by which instances
//! of a streams application find each other. None is a broker's.

use std::borrow::Cow;

use crate::frame::ResponseHead;
use crate::schema::{Field, Kind, Role};
use crate::table::ApiKey;
use crate::walk::{Feed, Step, Walk};
use crate::wire::{Malformed, put_string, put_uvarint, uvarint_size};

/// A broker as it told its clients about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Its number. -1 if the message does not say.
    pub id: i32,
    /// Its name or address, as it is on the wire.
    pub host: &'a [u8],
    /// Its port; any number, since it is what somebody sent.
    pub port: i32,
}

/// Where clients are to find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// A name or address.
    pub host: Cow<'a, str>,
    /// A port.
    pub port: u16,
}

/// What [`rewrite`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// The new body was appended.
    Changed,
    /// There is no address in it; nothing was appended.
    Unchanged,
}

/// Replaces the addresses in the body of a response, which is what follows the correlation id, and appends the new body to
/// `out`.
///
/// # Errors
/// See [`Malformed`]. What was appended to `out` by then is of no use.
pub fn rewrite<'m>(
    key: ApiKey,
    version: i16,
    body: &[u8],
    map: &mut dyn FnMut(Node<'_>) -> Address<'m>,
    out: &mut Vec<u8>,
) -> Result<Rewritten, Malformed> {
    let message = key.response().ok_or(Malformed::Unknown)?;
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let before = out.len();
    let mut editor = Editor::new(body, out);
    editor.run(&mut Walk::new(message, version, size)?, map)?;
    if editor.is_changed {
        editor.copy(body.len());
        return Ok(Rewritten::Changed);
    }
    out.truncate(before);
    Ok(Rewritten::Unchanged)
}

/// Copies a body with changes.
struct Editor<'a, 'o> {
    body: &'a [u8],
    out: &'o mut Vec<u8>,
    /// The next byte that the walk takes.
    at: usize,
    /// Up to here the body was copied.
    copied: usize,
    is_changed: bool,
    node: i32,
    host: &'a [u8],
    /// For each tagged field that it is in: where in `out` its size will be put.
    tags: [usize; 4],
    depth: usize,
    /// Whether the body's own tagged fields are to be counted anew, since some are added; where the count goes, and the
    /// count.
    is_end: bool,
    tags_at: Option<usize>,
    tag_count: u32,
    /// Whether endpoints are left out; whether it is among some; what of `out` was there before them.
    leaves_out: bool,
    is_left_out: bool,
    kept: usize,
}

impl<'a, 'o> Editor<'a, 'o> {
    fn new(body: &'a [u8], out: &'o mut Vec<u8>) -> Self {
        Self {
            body,
            out,
            at: 0,
            copied: 0,
            is_changed: false,
            node: -1,
            host: &[],
            tags: [0; 4],
            depth: 0,
            is_end: false,
            tags_at: None,
            tag_count: 0,
            leaves_out: false,
            is_left_out: false,
            kept: 0,
        }
    }

    /// Puts a number before what was appended since `place`.
    fn insert(&mut self, place: usize, number: u32) {
        put_uvarint(number, self.out);
        self.out.get_mut(place..).unwrap_or_default().rotate_right(uvarint_size(number));
    }

    /// Appends what was not copied up to a place in the body.
    fn copy(&mut self, to: usize) {
        self.out.extend_from_slice(self.body.get(self.copied..to).unwrap_or_default());
        self.copied = to;
    }

    /// What is appended from here on is dropped in the end.
    fn leave_out(&mut self) {
        (self.is_left_out, self.kept) = (true, self.out.len());
    }

    fn stop_leaving_out(&mut self) {
        self.out.truncate(self.kept);
        self.is_left_out = false;
    }

    /// Walks to the end.
    fn run<'m>(
        &mut self,
        walk: &mut Walk,
        map: &mut dyn FnMut(Node<'_>) -> Address<'m>,
    ) -> Result<(), Malformed> {
        loop {
            let rest = self.body.get(self.at..).unwrap_or_default();
            let is_end = self.is_end && walk.is_at_tags();
            let step = walk.step(rest)?;
            let (start, head) = (self.at, step.head());
            self.at = start + head + step.body();
            let bytes = self.body.get(start + head..self.at).ok_or(Malformed::Truncated)?;
            match step {
                Step::Done => return Ok(()),
                Step::More => return Err(Malformed::Truncated),
                Step::Value { field: Some(field), .. } => match field.role {
                    Role::Host => {
                        self.host = bytes;
                        // Its length belongs to it.
                        self.copy(start);
                    }
                    Role::Node => {
                        let id = rest.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
                        self.node = id.unwrap_or(-1);
                    }
                    Role::Port => self.address(walk.is_flexible(), field, rest, map),
                    _ => {}
                },
                Step::TagStart { number, field, .. } => {
                    if self.leaves_out && self.depth == 0 && field.name == ENDPOINTS {
                        self.copy(start);
                        self.leave_out();
                    }
                    // Its size is not known yet.
                    self.copy(start + number);
                    let place = self.tags.get_mut(self.depth).ok_or(Malformed::Tag)?;
                    *place = self.out.len();
                    self.copied = start + head;
                    self.depth += 1;
                }
                Step::TagEnd => {
                    self.copy(start);
                    self.depth = self.depth.checked_sub(1).ok_or(Malformed::Tag)?;
                    let place = self.tags.get(self.depth).copied().unwrap_or_default();
                    let content = self.out.len() - place;
                    self.insert(place, content as u32);
                    if self.is_left_out && self.depth == 0 {
                        self.stop_leaving_out();
                        self.tag_count = self.tag_count.saturating_sub(1);
                    }
                }
                Step::Array { field, .. }
                    if self.leaves_out && self.depth == 0 && field.name == ENDPOINTS =>
                {
                    self.copy(start);
                    put_uvarint(1, self.out);
                    self.leave_out();
                }
                Step::Tags { count, .. } if is_end => {
                    if self.is_left_out {
                        self.copied = start;
                        self.stop_leaving_out();
                    }
                    self.copy(start);
                    self.copied = self.at;
                    (self.tags_at, self.tag_count) = (Some(self.out.len()), count);
                }
                _ => {}
            }
        }
    }

    /// The port was read, with which an address is complete.
    fn address<'m>(
        &mut self,
        is_flexible: bool,
        field: &Field,
        port: &[u8],
        map: &mut dyn FnMut(Node<'_>) -> Address<'m>,
    ) {
        // A coordinator that is not known has neither number nor name.
        if self.host.is_empty() {
            return;
        }
        let port = match field.kind {
            Kind::Uint16 => port.first_chunk().map_or(0, |port| i32::from(u16::from_be_bytes(*port))),
            _ => port.first_chunk().map_or(0, |port| i32::from_be_bytes(*port)),
        };
        let address = map(Node { id: self.node, host: self.host, port });
        put_string(address.host.as_bytes(), is_flexible, self.out);
        match field.kind {
            Kind::Uint16 => self.out.extend_from_slice(&address.port.to_be_bytes()),
            _ => self.out.extend_from_slice(&i32::from(address.port).to_be_bytes()),
        }
        self.copied = self.at;
        self.is_changed = true;
        self.host = &[];
    }
}

/// Bytes by which the addresses in a body that passes in pieces may grow.
pub const ROOM: u32 = 1024;

/// The end of a body that is held is no longer, in bytes.
const MAX_END: u32 = 1 << 20;

/// What the addresses at the end of a body are called.
const ENDPOINTS: &str = "NodeEndpoints";

/// The number of a tagged field that no client knows.
const PADDING: u32 = 2_000_000;

/// Replaces the addresses at the end of a body that passes in pieces.
#[derive(Debug)]
pub struct Rewriter {
    feed: Feed,
    end: Vec<u8>,
    is_at_end: bool,
}

impl Rewriter {
    /// Whether responses of this version can be rewritten while they pass. Others must be there as a whole; they are
    /// not larger than what they tell about a cluster.
    #[must_use]
    pub fn can(key: ApiKey, version: i16) -> bool {
        let ends_with_addresses =
            [ApiKey::PRODUCE, ApiKey::FETCH, ApiKey::SHARE_FETCH, ApiKey::SHARE_ACKNOWLEDGE].contains(&key);
        ends_with_addresses && key.has_addresses(version) && key.versions().has(version)
    }

    /// For the response with this head. Its length must not be larger than what `i32` has with [`ROOM`] added.
    ///
    /// # Errors
    /// [`Malformed::Unknown`] unless [`Rewriter::can`]; [`Malformed::Length`] for too large a length.
    pub fn new(key: ApiKey, version: i16, head: ResponseHead) -> Result<(Self, ResponseHead), Malformed> {
        let message = key.response().filter(|_| Self::can(key, version)).ok_or(Malformed::Unknown)?;
        let walk = Walk::new(message, version, head.body)?;
        let mut rewriter = Self { feed: Feed::new(walk), end: Vec::new(), is_at_end: false };
        let head = rewriter.restart(key, version, head)?;
        Ok((rewriter, head))
    }

    /// As [`Rewriter::new`], with the memory that it has. The head to send instead of the one that came.
    ///
    /// # Errors
    /// As there.
    pub fn restart(
        &mut self,
        key: ApiKey,
        version: i16,
        head: ResponseHead,
    ) -> Result<ResponseHead, Malformed> {
        let message = key.response().filter(|_| Self::can(key, version)).ok_or(Malformed::Unknown)?;
        let body = head.body.checked_add(ROOM).filter(|body| *body < i32::MAX as u32 - 4);
        let body = body.ok_or(Malformed::Length)?;
        self.feed.walk_mut().restart(message, version, head.body)?;
        self.end.clear();
        self.is_at_end = false;
        Ok(ResponseHead { body, ..head })
    }

    /// Takes the next piece of the body, all of it. How many bytes of it pass as they are; what is behind them is
    /// held, and [`Rewriter::finish`] tells what to send instead.
    ///
    /// # Errors
    /// See [`Malformed`]. The response was begun and cannot be finished, so the connection ends.
    pub fn push(&mut self, piece: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while !self.is_at_end {
            let rest = piece.get(at..).unwrap_or_default();
            let skipped = self.feed.skip(rest);
            at += skipped;
            if self.feed.is_at_step() && is_end(self.feed.walk()) {
                if self.feed.walk().left() > MAX_END {
                    return Err(Malformed::Length);
                }
                self.is_at_end = true;
                break;
            }
            let rest = piece.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(at);
            }
            at += self.feed.push(rest, |walk, _, _| !is_end(walk))?;
        }
        self.end.extend_from_slice(piece.get(at..).unwrap_or_default());
        Ok(at)
    }

    /// Bytes to come that pass as they are, records all of them: they need not be shown here, if [`Rewriter::passed`] is told.
    #[must_use]
    pub fn unseen(&self) -> usize {
        if self.is_at_end { 0 } else { self.feed.unseen() }
    }

    /// So many bytes have passed, of those that [`Rewriter::unseen`] lets.
    pub fn passed(&mut self, bytes: usize) {
        self.feed.passed(bytes);
    }

    /// Whether the body has come to its end.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_at_end && self.end.len() as u64 >= u64::from(self.feed.walk().left())
    }

    /// Appends what follows the bytes that passed, when the body is whole.
    ///
    /// # Errors
    /// As [`Rewriter::push`].
    pub fn finish<'m>(
        &mut self,
        map: &mut dyn FnMut(Node<'_>) -> Address<'m>,
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let budget = self.end.len() + ROOM as usize;
        let before = out.len();
        for leaves_out in [false, true] {
            out.truncate(before);
            let mut editor = Editor::new(&self.end, out);
            (editor.is_end, editor.leaves_out) = (true, leaves_out);
            editor.run(&mut self.feed.walk().clone(), map)?;
            editor.copy(self.end.len());
            let (count, place) = (editor.tag_count, editor.tags_at.ok_or(Malformed::Tag)?);
            // The count may need another byte for what is added.
            let made = out.len() - before;
            for added in 0..=2u32 {
                let size = uvarint_size(count + added);
                let Some(room) = budget.checked_sub(made + size) else { continue };
                let from = out.len();
                if !pad(room, added, out) {
                    continue;
                }
                debug_assert_eq!(out.len() - from, room);
                put_uvarint(count + added, out);
                out.get_mut(place..).unwrap_or_default().rotate_right(size);
                return Ok(());
            }
        }
        // There is always room without the addresses.
        Err(Malformed::Length)
    }
}

/// Whether what follows is, or may be, the addresses at the end.
fn is_end(walk: &Walk) -> bool {
    walk.is_at_tags() || walk.next_field().is_some_and(|field| field.name == ENDPOINTS)
}

/// Appends so many tagged fields that take exactly `room` bytes, if that is possible.
fn pad(room: usize, fields: u32, out: &mut Vec<u8>) -> bool {
    let number = uvarint_size(PADDING);
    match fields {
        0 => room == 0,
        1 => one_pad(room, PADDING, out),
        _ => {
            // Where one does not do since its size would need half a byte more, a small one goes before it.
            let small = number + 1;
            room > small && one_pad(small, PADDING, out) && one_pad(room - small, PADDING + 1, out)
        }
    }
}

fn one_pad(room: usize, tag: u32, out: &mut Vec<u8>) -> bool {
    let number = uvarint_size(tag);
    for size in 1..=4 {
        let Some(content) = room.checked_sub(number + size) else { return false };
        if uvarint_size(content as u32) == size {
            put_uvarint(tag, out);
            put_uvarint(content as u32, out);
            out.resize(out.len() + content, 0);
            return true;
        }
    }
    false
}
