//! A stream of version 2 becomes one of version 3, whatever pieces it arrives in.

use std::collections::VecDeque;

use super::shapes::{self, Shape, field};
use crate::reply::write_int;

/// Longest text that is held back to be written otherwise.
const MAX_HELD: usize = 128;
/// Longest answer to `INFO` that is looked at.
const MAX_INFO: usize = 256 << 10;
/// Longest header of a value; a longer one is passed on unseen.
const MAX_LINE: usize = 64 << 10;
/// A text is shorter than this.
const MAX_BULK: i64 = 1 << 40;
/// Deepest nesting.
const MAX_DEPTH: usize = 32;

/// What a reply is the reply to.
#[derive(Debug)]
pub(super) enum Expected {
    /// Ends the noting of a transaction.
    Discard,
    /// The replies to everything that was noted.
    Exec,
    /// Whatever it is, the client gets these bytes.
    Fixed(Vec<u8>),
    /// `INFO`, in the place of a `HELLO` for this version.
    Greeting(Option<u8>),
    /// A login ahead of a greeting: an error is the greeting's.
    Login,
    /// Begins a transaction.
    Multi,
    /// Nobody's.
    Nothing,
    /// Messages that tell of a subscription, and no reply in version 3.
    Subscription {
        /// One has come.
        is_confirmed: bool,
    },
    /// A value of this shape.
    Value(&'static Shape),
}

impl Expected {
    pub(super) fn subscription() -> Self {
        Self::Subscription { is_confirmed: false }
    }
}

/// The values that are left of an aggregate.
#[derive(Debug)]
struct Level {
    left: usize,
    index: usize,
    of: Of,
}

/// What they are.
#[derive(Debug)]
enum Of {
    All(&'static Shape),
    Alternating(&'static Shape, &'static Shape),
    /// Of a message that tells of a subscription: the last number is how many there are.
    Confirmation {
        is_shard: bool,
    },
    Fields(&'static [(&'static str, &'static Shape)], &'static Shape),
    InPairs(&'static Shape, &'static Shape),
    InTurn(&'static [&'static Shape]),
    Noted(Vec<&'static Shape>),
}

/// What the next bytes are.
#[derive(Debug, Default)]
enum Stage {
    /// The rest of a text, which is passed on.
    Body(usize),
    /// The rest of a text, which nobody gets.
    Dropped(usize),
    /// A text that is held back as a whole.
    Held(usize, Hold),
    /// A header.
    #[default]
    Header,
}

/// Why a text is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Double,
    /// What kind of message an array of so many is.
    Kind(usize),
    Info(Option<u8>),
    Name,
    /// What follows `pong`.
    Pong,
}

#[derive(Debug)]
pub(super) struct Converter {
    version: u8,
    queue: VecDeque<Expected>,
    stack: Vec<Level>,
    stage: Stage,
    /// An incomplete header, or what is held back.
    held: Vec<u8>,
    /// Number of elements of an array that may be a message.
    message: Option<usize>,
    /// The text that follows is that of a `pong`.
    is_pong: bool,
    /// Shapes of what a transaction has noted.
    noted: Option<Vec<&'static Shape>>,
    /// Subscriptions, and those of shard channels.
    subscribed: [bool; 2],
    /// The login failed: nobody gets the greeting.
    is_refused: bool,
    /// Nothing that comes is understood any more.
    is_lost: bool,
}

// === impl Converter ===

impl Converter {
    pub(super) fn new(version: u8) -> Self {
        Self {
            version,
            queue: VecDeque::new(),
            stack: Vec::new(),
            stage: Stage::Header,
            held: Vec::new(),
            message: None,
            is_pong: false,
            noted: None,
            subscribed: [false; 2],
            is_refused: false,
            is_lost: false,
        }
    }

    pub(super) fn expect(&mut self, expected: Expected) {
        self.queue.push_back(expected);
    }

    /// What comes from now on is passed on as it is.
    pub(super) fn forget(&mut self) {
        self.is_lost = true;
    }

    pub(super) fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_lost {
            rest = match &mut self.stage {
                Stage::Body(left) => {
                    let (here, more) = rest.split_at((*left).min(rest.len()));
                    out.extend_from_slice(here);
                    *left -= here.len();
                    if *left == 0 {
                        self.ended();
                    }
                    more
                }
                Stage::Dropped(left) => {
                    let (here, more) = rest.split_at((*left).min(rest.len()));
                    *left -= here.len();
                    if *left == 0 {
                        self.ended();
                    }
                    more
                }
                Stage::Held(length, hold) => {
                    let (here, more) = rest.split_at((*length - self.held.len()).min(rest.len()));
                    self.held.extend_from_slice(here);
                    if self.held.len() == *length {
                        let hold = *hold;
                        self.release(hold, out);
                    }
                    more
                }
                Stage::Header => self.header(rest, out),
            };
        }
        if self.is_lost {
            out.append(&mut self.held);
            out.extend_from_slice(rest);
        }
    }

    /// Takes a header, or the beginning of one. Returns what is behind it.
    fn header<'w>(&mut self, bytes: &'w [u8], out: &mut Vec<u8>) -> &'w [u8] {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.held.extend_from_slice(bytes);
            self.is_lost = self.held.len() > MAX_LINE;
            return &[];
        };
        let (here, more) = bytes.split_at(end + 1);
        if self.held.is_empty() {
            self.value(here, out);
        } else {
            let mut line = std::mem::take(&mut self.held);
            line.extend_from_slice(here);
            self.value(&line, out);
            // Its memory is for what comes next, unless that is held back already.
            if self.held.is_empty() {
                line.clear();
                self.held = line;
            }
        }
        more
    }

    /// The value with this header begins.
    fn value(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some((kind, text)) = line.split_first() else { return };
        let number = text.strip_suffix(b"\r\n").and_then(crate::args::decimal);
        if let Some(elements) = self.message.take() {
            return self.kind_of_message(elements, line, *kind, number, out);
        }
        if std::mem::take(&mut self.is_pong) {
            return self.pong(line, number, out);
        }
        if self.stack.is_empty() {
            self.reply(line, *kind, number, out);
        } else {
            let shape = self.shape(out);
            self.shaped(shape, line, *kind, number, out);
        }
    }

    /// A reply, or a message, begins.
    fn reply(&mut self, line: &[u8], kind: u8, number: Option<i64>, out: &mut Vec<u8>) {
        let may_be_message = self.subscribed != [false; 2]
            || matches!(self.queue.front(), Some(Expected::Subscription { .. }));
        if kind == b'*' && matches!(number, Some(2..=4)) && may_be_message {
            self.message = number.and_then(|number| usize::try_from(number).ok());
            return;
        }
        let is_error = kind == b'-';
        let expected = self.next(is_error);
        match expected {
            Some(Expected::Value(shape)) => {
                if let Some(noted) = self.noted.as_mut().filter(|_| line == b"+QUEUED\r\n") {
                    noted.push(shape);
                }
                self.shaped(shape, line, kind, number, out);
            }
            Some(Expected::Multi) => {
                if !is_error {
                    self.noted = Some(Vec::new());
                }
                self.shaped(shapes::keep(), line, kind, number, out);
            }
            Some(Expected::Discard) => {
                self.noted = None;
                self.shaped(shapes::keep(), line, kind, number, out);
            }
            Some(Expected::Exec) => {
                let noted = self.noted.take().unwrap_or_default();
                match number {
                    Some(count @ 1..) if kind == b'*' => {
                        out.extend_from_slice(line);
                        self.push(count, Of::Noted(noted));
                    }
                    _ => self.shaped(shapes::keep(), line, kind, number, out),
                }
            }
            Some(Expected::Login) => {
                if is_error {
                    self.is_refused = true;
                    out.extend_from_slice(line);
                }
            }
            Some(Expected::Nothing) => self.drop_value(kind, number),
            Some(Expected::Fixed(bytes)) => {
                out.extend_from_slice(&bytes);
                self.drop_value(kind, number);
            }
            Some(Expected::Greeting(version)) => {
                match number.and_then(|length| usize::try_from(length).ok()) {
                    Some(length) if kind == b'$' && length <= MAX_INFO => {
                        self.hold(length + 2, Hold::Info(version))
                    }
                    _ => {
                        self.greet(version, b"", out);
                        self.drop_value(kind, number);
                    }
                }
            }
            Some(Expected::Subscription { .. }) | None => {
                self.shaped(shapes::keep(), line, kind, number, out);
            }
        }
    }

    /// What this reply answers. Subscriptions before it have been confirmed by then, unless it is the error that says why not.
    fn next(&mut self, is_error: bool) -> Option<Expected> {
        while let Some(expected) = self.queue.pop_front() {
            match expected {
                Expected::Subscription { is_confirmed } if is_confirmed || !is_error => {}
                expected => return Some(expected),
            }
        }
        None
    }

    /// The first element of what may be a message.
    fn kind_of_message(
        &mut self,
        elements: usize,
        line: &[u8],
        kind: u8,
        number: Option<i64>,
        out: &mut Vec<u8>,
    ) {
        match number {
            Some(length @ 4..=12) if kind == b'$' => self.hold(length as usize + 2, Hold::Kind(elements)),
            _ => {
                // It is a reply like any other.
                self.begin_array(elements, out);
                let shape = self.shape(out);
                self.shaped(shape, line, kind, number, out);
            }
        }
    }

    /// A reply that is an array, and no message, begins after all.
    fn begin_array(&mut self, elements: usize, out: &mut Vec<u8>) {
        let mut line = b"*".to_vec();
        write_int(elements as i64, &mut line);
        line.extend_from_slice(b"\r\n");
        let (subscribed, queued) = (std::mem::take(&mut self.subscribed), self.next(false));
        if let Some(expected) = queued {
            self.queue.push_front(expected);
        }
        self.reply(&line, b'*', Some(elements as i64), out);
        self.subscribed = subscribed;
    }

    fn pong(&mut self, line: &[u8], number: Option<i64>, out: &mut Vec<u8>) {
        match number {
            Some(0) => self.hold(2, Hold::Pong),
            Some(length @ 1..MAX_BULK) => {
                out.extend_from_slice(line);
                self.stage = Stage::Body(length as usize + 2);
            }
            _ => out.extend_from_slice(line),
        }
    }

    /// What is held back is whole.
    fn release(&mut self, hold: Hold, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        let text = held.strip_suffix(b"\r\n").unwrap_or(&held);
        self.stage = Stage::Header;
        match hold {
            Hold::Double => {
                out.push(b',');
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
                self.ended();
            }
            Hold::Name => {
                write_bulk(text, out);
                if let Some(Level { of: Of::Fields(fields, next), .. }) = self.stack.last_mut() {
                    *next = field(fields, text);
                }
                self.ended();
            }
            Hold::Pong => {
                out.extend_from_slice(b"+PONG\r\n");
                self.ended();
            }
            Hold::Info(version) => {
                self.greet(version, text, out);
                self.ended();
            }
            Hold::Kind(elements) => self.message_of(elements, text, out),
        }
    }

    fn message_of(&mut self, elements: usize, name: &[u8], out: &mut Vec<u8>) {
        let is_shard = matches!(name, b"ssubscribe" | b"sunsubscribe");
        let of = match name {
            b"message" | b"pmessage" | b"smessage" => Of::All(shapes::keep()),
            b"subscribe" | b"psubscribe" | b"unsubscribe" | b"punsubscribe" | b"ssubscribe"
            | b"sunsubscribe" => {
                self.confirmed();
                Of::Confirmation { is_shard }
            }
            b"pong" if elements == 2 => {
                self.next(false);
                self.is_pong = true;
                return;
            }
            _ => {
                self.begin_array(elements, out);
                let shape = self.shape(out);
                let length = name.len() as i64;
                let mut line = b"$".to_vec();
                write_int(length, &mut line);
                line.extend_from_slice(b"\r\n");
                self.shaped(shape, &line, b'$', Some(length), out);
                let text = [name, b"\r\n"].concat();
                self.take(&text, out);
                return;
            }
        };
        out.push(if self.version == 3 { b'>' } else { b'*' });
        write_int(elements as i64, out);
        out.extend_from_slice(b"\r\n");
        write_bulk(name, out);
        self.push(elements as i64, of);
        self.ended();
    }

    /// The subscription that has been waited for longest has been confirmed, or one more of its names.
    fn confirmed(&mut self) {
        if let Some(Expected::Subscription { is_confirmed }) = self.queue.front_mut() {
            *is_confirmed = true;
        }
    }

    /// The shape of the next value of the innermost aggregate.
    fn shape(&mut self, out: &mut Vec<u8>) -> &'static Shape {
        let Some(level) = self.stack.last() else { return shapes::keep() };
        let is_first = level.index.is_multiple_of(2);
        match &level.of {
            Of::All(shape) => shape,
            Of::Alternating(first, _) if is_first => first,
            Of::Alternating(_, second) => second,
            Of::Confirmation { .. } => shapes::keep(),
            Of::Fields(_, next) => next,
            Of::InPairs(first, second) => {
                if is_first && self.version == 3 {
                    out.extend_from_slice(b"*2\r\n");
                    first
                } else if is_first {
                    first
                } else {
                    second
                }
            }
            Of::InTurn(shapes) => shapes.get(level.index).copied().unwrap_or_else(|| shapes::keep()),
            Of::Noted(shapes) => shapes.get(level.index).copied().unwrap_or_else(|| shapes::keep()),
        }
    }

    /// A value of this shape begins.
    fn shaped(
        &mut self,
        shape: &'static Shape,
        line: &[u8],
        kind: u8,
        number: Option<i64>,
        out: &mut Vec<u8>,
    ) {
        let is_three = self.version == 3;
        match (kind, number) {
            (b'$' | b'*', Some(..0)) => {
                out.extend_from_slice(if is_three { b"_\r\n" } else { line });
                self.ended();
            }
            // No server sends such a text; the decoder behind will say so.
            (b'$', Some(MAX_BULK..)) => {
                out.extend_from_slice(line);
                self.is_lost = true;
            }
            (b'$', Some(length)) => {
                let length = length as usize;
                let is_name = matches!(self.stack.last(), Some(Level { of: Of::Fields(..), index, .. }) if index.is_multiple_of(2));
                match shape {
                    _ if is_name && length <= MAX_HELD => self.hold(length + 2, Hold::Name),
                    Shape::Double if is_three && length <= MAX_HELD => self.hold(length + 2, Hold::Double),
                    Shape::Verbatim if is_three => {
                        out.push(b'=');
                        write_int(length as i64 + 4, out);
                        out.extend_from_slice(b"\r\ntxt:");
                        self.stage = Stage::Body(length + 2);
                    }
                    _ => {
                        out.extend_from_slice(line);
                        self.stage = Stage::Body(length + 2);
                    }
                }
            }
            (b'*', Some(count)) => self.aggregate(shape, line, count, out),
            (b':', Some(count)) => {
                if let Some(Level { of: Of::Confirmation { is_shard }, .. }) = self.stack.last() {
                    self.subscribed[usize::from(*is_shard)] = count > 0;
                }
                out.extend_from_slice(line);
                self.ended();
            }
            _ => {
                out.extend_from_slice(line);
                self.ended();
            }
        }
    }

    fn aggregate(&mut self, shape: &'static Shape, line: &[u8], count: i64, out: &mut Vec<u8>) {
        if matches!(shape, Shape::Entry) && count == 2 && self.version == 3 {
            // Its two values are the map's.
            self.push(count, Of::All(shapes::keep()));
            return;
        }
        let is_even = count % 2 == 0;
        let (sign, written, of) = match shape {
            Shape::Array(each) => (b'*', count, Of::All(each)),
            Shape::Branches(each) => (if count == 0 { b'~' } else { b'*' }, count, Of::All(each)),
            Shape::Entries => (b'%', count, Of::All(shapes::entry())),
            Shape::Set(each) => (b'~', count, Of::All(each)),
            Shape::Flat(first, second) => (b'*', count, Of::Alternating(first, second)),
            Shape::Map(key, value) if is_even => (b'%', count / 2, Of::Alternating(key, value)),
            Shape::Pairs(first, second) if is_even => (b'*', count / 2, Of::InPairs(first, second)),
            Shape::Record(fields) if is_even => (b'%', count / 2, Of::Fields(fields, shapes::keep())),
            Shape::Tuple(shapes) => (b'*', count, Of::InTurn(shapes)),
            _ => (b'*', count, Of::All(shapes::keep())),
        };
        if self.version == 3 {
            out.push(sign);
            write_int(written, out);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(line);
        }
        if count == 0 {
            self.ended();
        } else {
            self.push(count, of);
        }
    }

    fn push(&mut self, count: i64, of: Of) {
        self.is_lost |= self.stack.len() == MAX_DEPTH;
        self.stack.push(Level { left: usize::try_from(count).unwrap_or_default(), index: 0, of });
    }

    /// A value has ended, and with it perhaps what it is the last of.
    fn ended(&mut self) {
        self.stage = Stage::Header;
        while let Some(level) = self.stack.last_mut() {
            level.left = level.left.saturating_sub(1);
            level.index += 1;
            if level.left > 0 {
                break;
            }
            self.stack.pop();
        }
    }

    fn hold(&mut self, length: usize, hold: Hold) {
        self.held.clear();
        self.stage = Stage::Held(length, hold);
    }

    /// A reply that nobody gets begins: a line or a text, never an aggregate.
    fn drop_value(&mut self, kind: u8, number: Option<i64>) {
        if let Some(length @ 0..MAX_BULK) = number.filter(|_| kind == b'$') {
            self.stage = Stage::Dropped(length as usize + 2);
        }
    }

    /// Answers a `HELLO` with what the server says of itself.
    fn greet(&mut self, version: Option<u8>, info: &[u8], out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_refused) {
            return;
        }
        self.version = version.unwrap_or(self.version);
        let info = String::from_utf8_lossy(info);
        let field = |name: &str, default: &str| -> String {
            let value = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(default);
            value.trim().to_string()
        };
        let role = if field("role:", "master") == "slave" { "replica" } else { "master" };
        let texts = [
            ("server", "redis".to_string()),
            ("version", field("redis_version:", "5.0.0")),
            ("mode", field("redis_mode:", "standalone")),
            ("role", role.to_string()),
        ];
        let is_three = self.version == 3;
        out.extend_from_slice(if is_three { b"%7\r\n" } else { b"*14\r\n" });
        for (name, text) in texts.iter().take(2) {
            write_bulk(name.as_bytes(), out);
            write_bulk(text.as_bytes(), out);
        }
        for (name, number) in [("proto", i64::from(self.version)), ("id", 0)] {
            write_bulk(name.as_bytes(), out);
            out.push(b':');
            write_int(number, out);
            out.extend_from_slice(b"\r\n");
        }
        for (name, text) in texts.iter().skip(2) {
            write_bulk(name.as_bytes(), out);
            write_bulk(text.as_bytes(), out);
        }
        write_bulk(b"modules", out);
        out.extend_from_slice(b"*0\r\n");
    }
}

fn write_bulk(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    write_int(text.len() as i64, out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}
