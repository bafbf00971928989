//! Goes through a message step by step, led by its schema, without building anything.
//!
//! Each count and each length is compared with the bytes that the message still has before anybody acts on it. So no
//! message makes this reserve memory, or go on for longer than it is long; whatever it says.
//!
//! A [`Walk`] is given the bytes from where it stands and says what they begin with; it is not told what to do about it.
//! [`Feed`] carries a walk over bytes that come in pieces.

use crate::schema::{Field, Kind, Message, Versions};
use crate::table::ApiKey;
use crate::wire::{Malformed, uvarint};

/// What a walk came to. `head` is always how many bytes of the input were taken.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// An array begins.
    Array {
        /// Which one.
        field: &'static Field,
        /// Bytes of the count.
        head: usize,
        /// How many values follow; `None` for null.
        count: Option<u32>,
    },
    /// The message ends here, and so do its bytes.
    Done,
    /// The input ends within the next step. It was not taken: come again with more behind it.
    More,
    /// A structure that may be null says whether it is.
    Presence {
        /// Which one.
        field: &'static Field,
        /// Always 1.
        head: usize,
        /// Whether it follows.
        is_there: bool,
    },
    /// The tagged fields of a structure begin.
    Tags {
        /// Bytes of their count.
        head: usize,
        /// How many.
        count: u32,
    },
    /// A tagged field that the schema knows begins; its content follows step by step, until [`Step::TagEnd`].
    TagStart {
        /// Bytes of its number and its size.
        head: usize,
        /// Bytes of its number alone.
        number: usize,
        /// Which one.
        field: &'static Field,
    },
    /// The content of a tagged field ends.
    TagEnd,
    /// A tagged field that the schema does not know.
    TagUnknown {
        /// Bytes of its number and its size.
        head: usize,
        /// Bytes of content, which follow.
        body: usize,
    },
    /// A value that is not looked into.
    Value {
        /// Which one; `None` for the client's id in the header of a request.
        field: Option<&'static Field>,
        /// Bytes of its length, or of all of it if its kind has none.
        head: usize,
        /// Bytes behind its length, which follow; no more of them than the input may be there yet.
        body: usize,
        /// Whether it is null, which only a length can say.
        is_null: bool,
    },
}

/// Where in a message somebody stands.
#[derive(Clone, Debug)]
pub struct Walk {
    version: i16,
    is_flexible: bool,
    /// Bytes of the message that were not taken.
    left: u32,
    /// How many of them must not be taken by what is going on: they are behind the tagged field that it is in.
    beyond: u32,
    levels: Levels,
}

/// Where somebody stands in each structure and array that is around. A list of its own, since walks are begun for
/// every response that may have an address, and none of them may reserve memory.
#[derive(Clone, Debug)]
struct Levels {
    all: [Level; DEPTH],
    len: usize,
}

/// More than any message has: a test goes to the bottom of all of them.
const DEPTH: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Level {
    /// The client's id, whose length never is a varint.
    ClientId,
    /// The content of a tagged field.
    Content {
        field: &'static Field,
    },
    Fields {
        fields: &'static [Field],
        next: usize,
    },
    Items {
        field: &'static Field,
        kind: &'static Kind,
        left: u32,
    },
    Tagged {
        /// What [`Walk::beyond`] was outside.
        outside: u32,
    },
    Tags {
        fields: &'static [Field],
        left: u32,
        last: Option<u32>,
    },
}

/// A field that is reached, and with what kind: an array's values have another than the array.
enum Reached {
    Nothing(Step),
    Value(&'static Field, &'static Kind),
}

impl Walk {
    /// At the beginning of a body of `left` bytes, behind the correlation id.
    ///
    /// # Errors
    /// [`Malformed::Unknown`] if there is no schema for this version.
    pub fn new(message: &'static Message, version: i16, left: u32) -> Result<Self, Malformed> {
        let mut walk = Self {
            version,
            is_flexible: false,
            left,
            beyond: 0,
            levels: Levels { all: [Level::ClientId; DEPTH], len: 0 },
        };
        walk.restart(message, version, left)?;
        Ok(walk)
    }

    /// As [`Walk::new`], with the memory that it has.
    ///
    /// # Errors
    /// As there.
    pub fn restart(&mut self, message: &'static Message, version: i16, left: u32) -> Result<(), Malformed> {
        if !message.versions.has(version) {
            return Err(Malformed::Unknown);
        }
        self.version = version;
        self.is_flexible = message.is_flexible(version);
        self.left = left;
        self.beyond = 0;
        self.levels.len = 0;
        self.levels.push(Level::Fields { fields: message.fields, next: 0 })?;
        // The rest of the header. A client that does not know what the broker speaks must be able to read one response.
        if self.is_flexible && !(message.is_response && message.key == ApiKey::API_VERSIONS.0) {
            self.levels.push(Level::Fields { fields: &[], next: 0 })?;
        }
        if !message.is_response {
            self.levels.push(Level::ClientId)?;
        }
        Ok(())
    }

    /// Bytes of the message that were not taken.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Whether lengths are varints.
    #[must_use]
    pub fn is_flexible(&self) -> bool {
        self.is_flexible
    }

    /// The field of the message itself (not of structures in it) that comes next; `None` elsewhere.
    #[must_use]
    pub fn next_field(&self) -> Option<&'static Field> {
        match self.levels.as_slice() {
            [Level::Fields { fields, next }] => fields.iter().skip(*next).find(|field| self.is_next(field)),
            _ => None,
        }
    }

    /// Whether all fields of the message itself are behind, but for the tagged ones.
    #[must_use]
    pub fn is_at_tags(&self) -> bool {
        self.is_flexible
            && matches!(self.levels.as_slice(), [Level::Fields { .. }])
            && self.next_field().is_none()
    }

    fn is_next(&self, field: &Field) -> bool {
        field.tag.is_none() && field.versions.has(self.version)
    }

    /// Says what `input`, the bytes from here on, begins with. The body of a value is taken too, whether it is all
    /// there or not.
    ///
    /// # Errors
    /// See [`Malformed`]; the walk is of no use any more.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        // What follows the message is not its business.
        let is_all = input.len() >= self.left as usize;
        let input = input.get(..self.left as usize).unwrap_or(input);
        let step = self.advance(input)?;
        self.settle();
        match step {
            Step::More if is_all => Err(Malformed::Truncated),
            step => Ok(step),
        }
    }

    fn advance(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        loop {
            let version = self.version;
            let Some(level) = self.levels.last_mut() else {
                return if self.left == 0 { Ok(Step::Done) } else { Err(Malformed::Trailing) };
            };
            let reached = match level {
                Level::ClientId => {
                    let Some(length) = input.first_chunk() else { return Ok(Step::More) };
                    self.levels.pop();
                    return self.sized(None, 2, i64::from(i16::from_be_bytes(*length)));
                }
                Level::Fields { fields, next } => {
                    let found = fields
                        .iter()
                        .enumerate()
                        .skip(*next)
                        .find(|(_, field)| field.tag.is_none() && field.versions.has(version));
                    if let Some((at, field)) = found {
                        *next = at;
                        Reached::Value(field, &field.kind)
                    } else if self.is_flexible {
                        let Some((count, head)) = uvarint(input)? else { return Ok(Step::More) };
                        *level = Level::Tags { fields, left: count, last: None };
                        self.take(head)?;
                        // A tagged field takes two bytes at least.
                        self.announce(count, 2)?;
                        Reached::Nothing(Step::Tags { head, count })
                    } else {
                        self.levels.pop();
                        self.settle();
                        continue;
                    }
                }
                Level::Content { field } => Reached::Value(field, &field.kind),
                Level::Items { field, kind, .. } => Reached::Value(field, kind),
                Level::Tagged { outside } => {
                    let outside = *outside;
                    if self.left != self.beyond {
                        return Err(Malformed::Tag);
                    }
                    self.beyond = outside;
                    self.levels.pop();
                    Reached::Nothing(Step::TagEnd)
                }
                Level::Tags { .. } => return self.tag(input),
            };
            match reached {
                Reached::Nothing(step) => return Ok(step),
                Reached::Value(field, kind) => {
                    if let Some(step) = self.value(field, kind, input)? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// Leaves arrays and tagged fields that have ended, so that the last level is where the next byte belongs.
    fn settle(&mut self) {
        while let Some(level) = self.levels.last() {
            let is_over = match level {
                Level::Items { left, .. } | Level::Tags { left, .. } => *left == 0,
                Level::Fields { fields, next } => {
                    !self.is_flexible
                        && self.levels.len > 1
                        && !fields.iter().skip(*next).any(|field| self.is_next(field))
                }
                Level::ClientId | Level::Content { .. } | Level::Tagged { .. } => false,
            };
            if !is_over {
                return;
            }
            self.levels.pop();
        }
    }

    /// The level that led to a value goes on behind it.
    fn pass(&mut self) {
        match self.levels.last_mut() {
            Some(Level::Fields { next, .. }) => *next += 1,
            Some(Level::Items { left, .. }) => *left = left.saturating_sub(1),
            Some(Level::Content { .. }) => {
                self.levels.pop();
            }
            _ => {}
        }
    }

    /// Takes a value; `None` if it is a structure, which begins without a byte.
    fn value(
        &mut self,
        field: &'static Field,
        kind: &'static Kind,
        input: &[u8],
    ) -> Result<Option<Step>, Malformed> {
        if let Some(size) = kind.size() {
            if input.len() < size {
                return Ok(Some(Step::More));
            }
            self.pass();
            self.take(size)?;
            return Ok(Some(Step::Value { field: Some(field), head: size, body: 0, is_null: false }));
        }
        let Some((length, head)) = self.length(kind, field, input)? else { return Ok(Some(Step::More)) };
        match kind {
            Kind::Array(of) => {
                self.pass();
                self.take(head)?;
                let count = u32::try_from(length).ok();
                // Each value takes a byte at least: see the generator of the schemas.
                self.announce(count.unwrap_or(0), of.size().unwrap_or(1) as u32)?;
                self.levels.push(Level::Items { field, kind: of, left: count.unwrap_or(0) })?;
                Ok(Some(Step::Array { field, head, count }))
            }
            Kind::Struct(fields) => {
                self.pass();
                self.take(head)?;
                if length >= 0 {
                    self.levels.push(Level::Fields { fields, next: 0 })?;
                }
                Ok((head > 0).then_some(Step::Presence { field, head, is_there: length >= 0 }))
            }
            _ => {
                self.pass();
                self.sized(Some(field), head, length).map(Some)
            }
        }
    }

    /// Length or count of a value of a kind that has one, negative for null, and how many bytes it is.
    fn length(&self, kind: &Kind, field: &Field, input: &[u8]) -> Result<Option<(i64, usize)>, Malformed> {
        let is_item = matches!(self.levels.last(), Some(Level::Items { .. }));
        let length = match kind {
            Kind::Struct(_)
                if is_item
                    || field
                        .nullable
                        .and(Versions { first: self.version, last: self.version })
                        .is_empty() =>
            {
                Some((0, 0))
            }
            Kind::Struct(_) => match input.first() {
                Some(0xff) => Some((-1, 1)),
                Some(1) => Some((1, 1)),
                Some(_) => return Err(Malformed::Value),
                None => None,
            },
            _ if self.is_flexible => uvarint(input)?.map(|(length, size)| (i64::from(length) - 1, size)),
            Kind::String => {
                input.first_chunk().map(|length| (i64::from(i16::from_be_bytes(*length)), size_of::<i16>()))
            }
            _ => input.first_chunk().map(|length| (i64::from(i32::from_be_bytes(*length)), size_of::<i32>())),
        };
        match length {
            Some((..-1, _)) => Err(Malformed::Length),
            length => Ok(length),
        }
    }

    fn sized(&mut self, field: Option<&'static Field>, head: usize, length: i64) -> Result<Step, Malformed> {
        if length < -1 {
            return Err(Malformed::Length);
        }
        let body = usize::try_from(length).unwrap_or(0);
        self.take(head)?;
        self.take(body).map_err(|_| Malformed::Length)?;
        Ok(Step::Value { field, head, body, is_null: length < 0 })
    }

    fn tag(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        let Some((tag, first)) = uvarint(input)? else { return Ok(Step::More) };
        let Some((size, second)) = uvarint(input.get(first..).unwrap_or_default())? else {
            return Ok(Step::More);
        };
        let Some(Level::Tags { fields, left, last }) = self.levels.last_mut() else {
            return Err(Malformed::Tag);
        };
        if last.is_some_and(|last| last >= tag) {
            return Err(Malformed::Tag);
        }
        (*left, *last) = (*left - 1, Some(tag));
        let version = self.version;
        let known = fields.iter().find(|field| {
            field.tag.is_some_and(|known| u32::from(known) == tag) && field.versions.has(version)
        });
        let head = first + second;
        self.take(head)?;
        let room = self.left - self.beyond;
        let (true, beyond) = (size <= room, self.left.wrapping_sub(size)) else {
            return Err(Malformed::Length);
        };
        let Some(field) = known else {
            self.left = beyond;
            return Ok(Step::TagUnknown { head, body: size as usize });
        };
        self.levels.push(Level::Tagged { outside: self.beyond })?;
        self.levels.push(Level::Content { field })?;
        self.beyond = beyond;
        Ok(Step::TagStart { head, number: first, field })
    }

    fn take(&mut self, bytes: usize) -> Result<(), Malformed> {
        let room = self.left - self.beyond;
        let bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes <= room).ok_or(Malformed::Truncated)?;
        self.left -= bytes;
        Ok(())
    }

    fn announce(&self, count: u32, least: u32) -> Result<(), Malformed> {
        let room = self.left - self.beyond;
        if u64::from(count) * u64::from(least) > u64::from(room) { Err(Malformed::Count) } else { Ok(()) }
    }
}

// === impl Levels ===

impl Levels {
    fn as_slice(&self) -> &[Level] {
        self.all.get(..self.len).unwrap_or_default()
    }

    fn last(&self) -> Option<&Level> {
        self.as_slice().last()
    }

    fn last_mut(&mut self) -> Option<&mut Level> {
        self.all.get_mut(self.len.checked_sub(1)?)
    }

    /// Fails for a message that is deeper than all others only.
    fn push(&mut self, level: Level) -> Result<(), Malformed> {
        *self.all.get_mut(self.len).ok_or(Malformed::Unknown)? = level;
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }
}

/// A walk over bytes that come in pieces.
#[derive(Debug)]
pub struct Feed {
    walk: Walk,
    /// Bytes of a value's body that did not come yet.
    skip: usize,
    /// The beginning of a step that the pieces so far ended within. No step takes more than a UUID.
    held: [u8; 16],
    held_len: usize,
}

impl Feed {
    /// Carries a walk from where it is.
    #[must_use]
    pub fn new(walk: Walk) -> Self {
        Self { walk, skip: 0, held: [0; 16], held_len: 0 }
    }

    /// The walk.
    #[must_use]
    pub fn walk(&self) -> &Walk {
        &self.walk
    }

    /// The walk, to be led elsewhere. Only before the first piece and behind the last one.
    pub fn walk_mut(&mut self) -> &mut Walk {
        (self.skip, self.held_len) = (0, 0);
        &mut self.walk
    }

    /// Whether the next byte of a piece belongs to a step, and not to a body or to the middle of a step.
    #[must_use]
    pub fn is_at_step(&self) -> bool {
        self.skip == 0 && self.held_len == 0
    }

    /// Takes what a piece begins with of the body that it is in. How many bytes that is.
    pub fn skip(&mut self, piece: &[u8]) -> usize {
        let skipped = self.skip.min(piece.len());
        self.skip -= skipped;
        skipped
    }

    /// Bytes of the body that it is in which did not come yet.
    #[must_use]
    pub fn unseen(&self) -> usize {
        self.skip
    }

    /// So many bytes of that body have passed without being shown here.
    pub fn passed(&mut self, bytes: usize) {
        self.skip = self.skip.saturating_sub(bytes);
    }

    /// Takes the next piece and shows every step to `visit`, with the bytes of its head and how many bytes of the piece
    /// were taken with it. Ends early where that says false. How many bytes of the piece were taken.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn push(
        &mut self,
        piece: &[u8],
        mut visit: impl FnMut(&Walk, Step, &[u8]) -> bool,
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            at += self.skip(piece.get(at..).unwrap_or_default());
            if self.skip > 0 {
                return Ok(at);
            }
            let rest = piece.get(at..).unwrap_or_default();
            let step = if self.held_len == 0 {
                match self.walk.step(rest)? {
                    Step::More => {
                        self.hold(rest)?;
                        return Ok(piece.len());
                    }
                    step => step,
                }
            } else {
                let Some(next) = rest.get(..1) else { return Ok(at) };
                self.hold(next)?;
                at += 1;
                match self.walk.step(self.held.get(..self.held_len).unwrap_or_default())? {
                    Step::More => continue,
                    step => step,
                }
            };
            let head = step.head();
            self.skip = step.body();
            let goes_on = if self.held_len == 0 {
                at += head;
                visit(&self.walk, step, rest.get(..head).unwrap_or_default())
            } else {
                let held = self.held.get(..self.held_len).unwrap_or_default();
                self.held_len = 0;
                visit(&self.walk, step, held)
            };
            if !goes_on || matches!(step, Step::Done) {
                return Ok(at);
            }
        }
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let room =
            self.held.get_mut(self.held_len..self.held_len + bytes.len()).ok_or(Malformed::Truncated)?;
        room.copy_from_slice(bytes);
        self.held_len += bytes.len();
        Ok(())
    }
}

// === impl Step ===

impl Step {
    /// Bytes of the input that it took.
    #[must_use]
    pub fn head(&self) -> usize {
        match self {
            Self::Array { head, .. }
            | Self::Presence { head, .. }
            | Self::TagStart { head, .. }
            | Self::TagUnknown { head, .. }
            | Self::Tags { head, .. }
            | Self::Value { head, .. } => *head,
            Self::Done | Self::More | Self::TagEnd => 0,
        }
    }

    /// Bytes behind them that nobody needs to look into.
    #[must_use]
    pub fn body(&self) -> usize {
        match self {
            Self::TagUnknown { body, .. } | Self::Value { body, .. } => *body,
            _ => 0,
        }
    }
}
