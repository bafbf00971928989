//! Requests: command lines and the data blocks behind some of them.
//!
//! Whether a data block follows is decided by the line alone, as in memcached: a storage command with a bad line is
//! answered with an error and what was meant as its data is read as commands. So a line that announces data is either
//! right in all that matters for that decision, or it is a *fault*: a request that the session answers natively and
//! that never leaves mecha. Then mecha and the server can never disagree about where a command starts.

use mecha_core::{Decode, Decoded, Limits, OpId, ProtocolError, Span};
use memchr::memchr;

use crate::line::{Word, Words, number, signed, without_end};
use crate::{binary, ops};

/// Longest key in bytes, in base64 form too.
pub const MAX_KEY: usize = 250;
/// The longest command line that memcached waits for; only lists of keys may be longer.
const MAX_SHORT_LINE: usize = 2048;
/// The longest list of keys in bytes, where memcached has no limit. As it is held whole, less than a value may have.
const MAX_KEYS_LINE: usize = 8 << 20;
/// Largest announced data block.
const MAX_DATA: u64 = i32::MAX as u64 - 2;
/// The most words that a meta command may have.
const MAX_META_WORDS: usize = 19;

/// Why a request is answered here, with Memcached's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The data block does not end where it was announced to.
    BadChunk,
    /// The line cannot be understood.
    BadLine,
    /// An HTTP client; memcached closes the connection without a word, and so do we.
    Http,
    /// Binary: the parts have other lengths than the opcode has; the connection ends.
    Lengths,
    /// Binary: there is no such opcode.
    Opcode,
    /// Binary: the parts are longer than the body; the connection ends.
    Overrun,
    /// The data block is larger than [`Limits::max_frame`].
    TooLarge,
    /// More meta flags than memcached reads.
    TooManyFlags,
    /// More keys than [`Limits::max_args`].
    TooManyKeys,
    /// No such command, or the wrong number of words.
    Unknown,
}

impl Fault {
    /// The status of a reply of the binary protocol.
    pub fn status(self) -> u16 {
        match self {
            Self::Opcode | Self::Overrun => binary::status::UNKNOWN_COMMAND,
            Self::TooLarge => binary::status::TOO_LARGE,
            _ => binary::status::INVALID,
        }
    }

    /// Whether the connection is closed behind it.
    pub fn ends(self) -> bool {
        matches!(self, Self::Http | Self::Lengths | Self::Overrun)
    }

    /// What the client reads in text.
    pub fn message(self) -> &'static [u8] {
        match self {
            Self::BadChunk => b"CLIENT_ERROR bad data chunk\r\n",
            Self::BadLine => b"CLIENT_ERROR bad command line format\r\n",
            Self::Http => b"",
            Self::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Self::TooManyFlags => b"CLIENT_ERROR options flags too long\r\n",
            Self::TooManyKeys => b"CLIENT_ERROR mecha: too many keys\r\n",
            Self::Lengths | Self::Opcode | Self::Overrun | Self::Unknown => b"ERROR\r\n",
        }
    }
}

/// The head of one request. All offsets but the span's are relative to the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(crate) span: Span,
    pub(crate) key: Span,
    pub(crate) value: Span,
    /// Length of the command line with its end.
    pub(crate) line: u32,
    pub(crate) op: OpId,
    pub(crate) fault: Option<Fault>,
    pub(crate) quiet: bool,
    /// The opaque of a binary request.
    pub(crate) echo: u32,
    /// The opcode of a binary request.
    pub(crate) binary: Option<u8>,
}

impl Request {
    /// The frame, in the decoder's buffer.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The first key as it is in the frame (base64 if the `b` flag says so); empty if the command has none.
    pub fn key_span(&self) -> Span {
        self.key
    }

    /// The data block without its end; empty if there is none.
    pub fn value_span(&self) -> Span {
        self.value
    }

    /// Length in bytes of the command line with its end.
    pub fn line_len(&self) -> usize {
        self.line as usize
    }

    /// Where the value is, in the request's frame.
    pub fn value(&self) -> Span {
        self.value
    }

    /// The operation.
    pub fn op(&self) -> OpId {
        self.op
    }

    /// Why it is answered here, if it is.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The opaque of a request of the binary protocol; 0 for text.
    pub fn opaque(&self) -> u32 {
        self.echo
    }

    /// The opcode, if the request is of the binary protocol.
    pub fn opcode(&self) -> Option<u8> {
        self.binary
    }

    /// Whether the client asked for no answer (`noreply`, `q`).
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// Cuts what clients send.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    /// Bytes of the incomplete line that have no newline.
    scanned: usize,
    /// The line that waits for its data block, and the length of the whole frame.
    waiting: Option<(Request, usize)>,
    /// Bytes that are missing from the open frame.
    open: usize,
    /// Whether the connection speaks the binary protocol; its first byte tells.
    is_binary: Option<bool>,
}

impl RequestDecoder {
    /// A decoder for one connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, scanned: 0, waiting: None, open: 0, is_binary: None }
    }

    /// As [`Decode::decode`], for the frames from `at` on.
    fn decode_binary(
        &mut self,
        buf: &[u8],
        tail: usize,
        heads: &mut Vec<Request>,
    ) -> Result<Decoded, ProtocolError> {
        let mut at = tail;
        while at < buf.len() {
            let rest = buf.get(at..).unwrap_or_default();
            let (mut head, total) = match binary::read_request(rest, self.limits.max_frame) {
                binary::RequestFrame::Incomplete => break,
                binary::RequestFrame::Magic => {
                    return Err(ProtocolError::Byte { at, got: rest.first().copied().unwrap_or_default() });
                }
                binary::RequestFrame::Whole(head, total) => (head, total),
            };
            let streams = total > self.limits.stream_above || head.fault == Some(Fault::TooLarge);
            if rest.len() < total && !streams {
                break;
            }
            let seen = total.min(rest.len());
            head.span = Span::wire(at, seen);
            heads.push(head);
            at += seen;
            self.open = total - seen;
        }
        Ok(Decoded { tail, consumed: at, open: self.open > 0 })
    }

    /// Finds the end of the line at the start of `rest`.
    #[inline]
    fn line_len(&mut self, rest: &[u8], at: usize) -> Result<Option<usize>, ProtocolError> {
        let unseen = rest.get(self.scanned..).unwrap_or_default();
        let len = memchr(b'\n', unseen).map(|found| self.scanned + found + 1);
        let seen = len.unwrap_or(rest.len());
        // The end of a line is up to two bytes.
        if seen > MAX_SHORT_LINE + 2
            && !(is_retrieval(rest) && seen <= MAX_KEYS_LINE.min(self.limits.max_frame))
        {
            return Err(ProtocolError::LineTooLong { at });
        }
        self.scanned = if len.is_some() { 0 } else { rest.len() };
        Ok(len)
    }
}

impl Decode for RequestDecoder {
    type Head = Request;

    fn decode(&mut self, buf: &[u8], heads: &mut Vec<Request>) -> Result<Decoded, ProtocolError> {
        let tail = self.open.min(buf.len());
        self.open -= tail;
        let mut at = tail;
        if self.open > 0 {
            return Ok(Decoded { tail, consumed: tail, open: true });
        }
        if let Some(&first) = buf.get(at)
            && *self.is_binary.get_or_insert(first == binary::REQUEST)
        {
            return self.decode_binary(buf, tail, heads);
        }
        while at < buf.len() {
            let rest = buf.get(at..).unwrap_or_default();
            let (mut head, total) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => {
                    let Some(len) = self.line_len(rest, at)? else { break };
                    parse(rest.get(..len).unwrap_or_default(), &self.limits)
                }
            };
            let streams = total > self.limits.stream_above || head.fault == Some(Fault::TooLarge);
            if rest.len() < total && !streams {
                self.waiting = Some((head, total));
                break;
            }
            let seen = total.min(rest.len());
            head.span = Span::wire(at, seen);
            if !streams && !head.ends_well(rest) {
                head.fault = Some(Fault::BadChunk);
                head.quiet &= !ops::is_meta_store(rest);
                head.op = if head.quiet { ops::MALFORMED_NOREPLY } else { ops::MALFORMED };
            }
            heads.push(head);
            at += seen;
            self.open = total - seen;
        }
        Ok(Decoded { tail, consumed: at, open: self.open > 0 })
    }
}

impl Request {
    /// Whether the data block ends with a line end. A request without data block ends well.
    #[inline]
    fn ends_well(&self, frame: &[u8]) -> bool {
        self.fault.is_some()
            || self.value.start() == 0
            || frame.get(self.value.end()..self.value.end() + 2) == Some(b"\r\n")
    }
}

/// Whether the line may be a long list of keys.
fn is_retrieval(line: &[u8]) -> bool {
    let mut words = Words::new(line.get(..line.len().min(128)).unwrap_or_default());
    words.next().is_some_and(|word| matches!(word.bytes, b"get" | b"gets" | b"gat" | b"gats"))
}

/// Reads a line that is complete, with its end. Returns the head and the length of the whole frame.
#[inline]
fn parse(full: &[u8], limits: &Limits) -> (Request, usize) {
    let line = without_end(full);
    let mut words = Words::new(line);
    let mut head = Request {
        span: Span::default(),
        key: Span::default(),
        value: Span::default(),
        line: full.len() as u32,
        op: OpId::UNKNOWN,
        fault: None,
        quiet: false,
        echo: 0,
        binary: None,
    };
    let mut total = full.len();
    let command = words.next().map_or(&[][..], |word| word.bytes);
    let read = match command {
        b"get" => head.retrieve(ops::GET, false, words, limits),
        b"set" => head.store(ops::SET, words, limits, &mut total),
        b"mg" => head.meta_get(words),
        b"ms" => head.meta_store(words, limits, &mut total),
        b"gets" => head.retrieve(ops::GETS, false, words, limits),
        b"gat" => head.retrieve(ops::GAT, true, words, limits),
        b"gats" => head.retrieve(ops::GATS, true, words, limits),
        b"add" => head.store(ops::ADD, words, limits, &mut total),
        b"replace" => head.store(ops::REPLACE, words, limits, &mut total),
        b"append" => head.store(ops::APPEND, words, limits, &mut total),
        b"prepend" => head.store(ops::PREPEND, words, limits, &mut total),
        b"cas" => head.store(ops::CAS, words, limits, &mut total),
        b"incr" => head.change(ops::INCR, words),
        b"decr" => head.change(ops::DECR, words),
        b"delete" => head.delete(words),
        b"touch" => head.change(ops::TOUCH, words),
        b"md" => head.meta(ops::MD, words),
        b"ma" => head.meta(ops::MA, words),
        b"me" => {
            head.op = ops::ME;
            head.set_key(words.next())
        }
        b"mn" => head.plain(ops::MN),
        b"flush_all" => head.server(ops::FLUSH_ALL, 0, words),
        b"verbosity" => head.server(ops::VERBOSITY, 1, words),
        b"stats" => head.plain(ops::STATS),
        b"version" => head.plain(ops::VERSION),
        b"quit" => head.plain(ops::QUIT),
        b"shutdown" => head.plain(ops::SHUTDOWN),
        b"watch" => head.plain(ops::WATCH),
        b"lru" => head.tune(ops::LRU, words),
        b"lru_crawler" => head.plain(ops::LRU_CRAWLER),
        b"slabs" => head.tune(ops::SLABS, words),
        b"cache_memlimit" => head.tune(ops::CACHE_MEMLIMIT, words),
        b"extstore" => head.tune(ops::EXTSTORE, words),
        b"refresh_certs" => head.tune(ops::REFRESH_CERTS, words),
        _ if Words::new(line).last().is_some_and(|word| word.bytes.starts_with(b"HTTP/")) => Err(Fault::Http),
        _ => Err(Fault::Unknown),
    };
    if let Err(fault) = read {
        head.fault = Some(fault);
        head.op = match fault {
            Fault::Unknown => ops::UNKNOWN,
            _ if head.quiet => ops::MALFORMED_NOREPLY,
            _ => ops::MALFORMED,
        };
        if fault != Fault::TooLarge {
            head.value = Span::default();
            total = full.len();
        }
    } else if head.quiet {
        head.op = ops::quiet(head.op);
    }
    (head, total)
}

impl Request {
    fn set_key(&mut self, word: Option<Word<'_>>) -> Result<(), Fault> {
        let word = word.ok_or(Fault::BadLine)?;
        self.key = Span::wire(word.at, word.bytes.len());
        if word.bytes.len() > MAX_KEY { Err(Fault::BadLine) } else { Ok(()) }
    }

    fn plain(&mut self, op: OpId) -> Result<(), Fault> {
        self.op = op;
        Ok(())
    }

    #[inline]
    fn retrieve(
        &mut self,
        op: OpId,
        has_exptime: bool,
        mut words: Words<'_>,
        limits: &Limits,
    ) -> Result<(), Fault> {
        self.op = op;
        if has_exptime {
            words.next().ok_or(Fault::Unknown)?;
        }
        let Some(key) = words.next() else {
            // `gat 0` alone finds nothing in memcached; the server says so.
            return if has_exptime { Ok(()) } else { Err(Fault::Unknown) };
        };
        self.set_key(Some(key))?;
        // Each further key takes two bytes.
        let rest = words.rest();
        if rest.len() / 2 >= limits.max_args && words.count() >= limits.max_args {
            return Err(Fault::TooManyKeys);
        }
        Ok(())
    }

    #[inline]
    fn store(
        &mut self,
        op: OpId,
        mut words: Words<'_>,
        limits: &Limits,
        total: &mut usize,
    ) -> Result<(), Fault> {
        self.op = op;
        // A NUL ends the line for the server.
        if memchr(0, words.rest()).is_some() {
            return Err(Fault::BadLine);
        }
        let (key, flags, exptime, size) = (words.next(), words.next(), words.next(), words.next());
        let mut last = size;
        let unique = if op == ops::CAS {
            last = words.next();
            last
        } else {
            None
        };
        if last.is_none() {
            return Err(Fault::Unknown);
        }
        match words.next() {
            None => self.quiet = last.is_some_and(is_noreply),
            Some(word) => self.quiet = is_noreply(word),
        }
        if words.next().is_some() {
            self.quiet = false;
            return Err(Fault::Unknown);
        }
        self.set_key(key)?;
        let flags = flags.and_then(|word| number(word.bytes)).filter(|&flags| flags <= u64::from(u32::MAX));
        let exptime = exptime.and_then(|word| signed(word.bytes));
        let unique = op != ops::CAS || unique.is_some_and(|word| number(word.bytes).is_some());
        if flags.is_none() || exptime.is_none() || !unique {
            return Err(Fault::BadLine);
        }
        self.data(size, limits, total)
    }

    /// The announced data block.
    #[inline]
    fn data(&mut self, size: Option<Word<'_>>, limits: &Limits, total: &mut usize) -> Result<(), Fault> {
        let size = size.and_then(|word| number(word.bytes)).filter(|&size| size <= MAX_DATA);
        let size = size.ok_or(Fault::BadLine)? as usize;
        self.value = Span::wire(*total, size);
        *total += size + 2;
        if *total > limits.max_frame { Err(Fault::TooLarge) } else { Ok(()) }
    }

    /// A command of a key, one argument and `noreply`.
    fn change(&mut self, op: OpId, mut words: Words<'_>) -> Result<(), Fault> {
        self.op = op;
        let (key, argument) = (words.next(), words.next().ok_or(Fault::Unknown)?);
        let fourth = words.next();
        if words.next().is_some() {
            return Err(Fault::Unknown);
        }
        self.quiet = is_noreply(fourth.unwrap_or(argument));
        // Without its last word this would ask for no answer still.
        if self.quiet && is_noreply(argument) {
            return Err(Fault::BadLine);
        }
        self.set_key(key)
    }

    fn delete(&mut self, mut words: Words<'_>) -> Result<(), Fault> {
        self.op = ops::DELETE;
        let key = words.next().ok_or(Fault::Unknown)?;
        let (third, fourth) = (words.next(), words.next());
        if words.next().is_some() {
            return Err(Fault::Unknown);
        }
        self.quiet = fourth.or(third).is_some_and(is_noreply);
        // As in `change`: `delete k noreply noreply`.
        if fourth.is_some() && third.is_some_and(is_noreply) {
            return Err(Fault::BadLine);
        }
        self.set_key(Some(key))
    }

    /// A command without key, with one argument at most.
    fn server(&mut self, op: OpId, least: usize, mut words: Words<'_>) -> Result<(), Fault> {
        self.op = op;
        let (first, second) = (words.next(), words.next());
        if words.next().is_some() || (least > 0 && first.is_none()) {
            return Err(Fault::Unknown);
        }
        self.quiet = second.or(first).is_some_and(is_noreply);
        if second.is_some() && first.is_some_and(is_noreply) {
            return Err(Fault::BadLine);
        }
        Ok(())
    }

    /// A command about one server's memory, whose words are for the server to understand.
    fn tune(&mut self, op: OpId, words: Words<'_>) -> Result<(), Fault> {
        self.op = op;
        // `slabs reassign` does not read it, and complains.
        let reads_noreply =
            op != ops::SLABS || words.clone().next().is_some_and(|word| word.bytes == b"automove");
        self.quiet = reads_noreply && words.last().is_some_and(is_noreply);
        Ok(())
    }

    fn meta_get(&mut self, words: Words<'_>) -> Result<(), Fault> {
        let updates =
            words.clone().skip(1).any(|word| matches!(word.bytes.first(), Some(b'T' | b'N' | b'R')));
        self.meta(if updates { ops::MG_UPDATE } else { ops::MG }, words)
    }

    fn meta(&mut self, op: OpId, mut words: Words<'_>) -> Result<(), Fault> {
        self.op = op;
        self.set_key(Some(words.next().ok_or(Fault::Unknown)?))?;
        let (count, quiet) = scan_flags(words);
        // The server's complaint about too many flags comes before it reads them.
        self.quiet = quiet && count + 2 <= MAX_META_WORDS;
        Ok(())
    }

    fn meta_store(&mut self, mut words: Words<'_>, limits: &Limits, total: &mut usize) -> Result<(), Fault> {
        self.op = ops::MS;
        if memchr(0, words.rest()).is_some() {
            return Err(Fault::BadLine);
        }
        self.set_key(Some(words.next().ok_or(Fault::Unknown)?))?;
        let size = Some(words.next().ok_or(Fault::BadLine)?);
        let (count, quiet) = scan_flags(words);
        if count + 3 > MAX_META_WORDS {
            return Err(Fault::TooManyFlags);
        }
        self.data(size, limits, total)?;
        self.quiet = quiet;
        Ok(())
    }
}

fn is_noreply(word: Word<'_>) -> bool {
    word.bytes == b"noreply"
}

/// How many flags there are, and whether exactly one of them is `q`; two are an error that must be seen.
fn scan_flags(words: Words<'_>) -> (usize, bool) {
    let (mut count, mut quiet) = (0, 0);
    for word in words {
        count += 1;
        quiet += usize::from(word.bytes.first() == Some(&b'q'));
    }
    (count, quiet == 1)
}

/// Overwrites what asks for no answer, in the copy that is forwarded.
pub(crate) fn unquiet(request: &Request, frame: &mut [u8]) {
    if !request.quiet || request.fault.is_some() {
        return;
    }
    if let Some(opcode) = request.binary {
        if let Some(place) = frame.get_mut(1) {
            *place = binary::audible(opcode);
        }
        return;
    }
    let line = without_end(frame.get(..request.line_len()).unwrap_or_default());
    let mut words = Words::new(line);
    let word = if ops::is_noreply(request.op) {
        words.last()
    } else {
        words.next();
        words.next();
        words.find(|word| word.bytes.first() == Some(&b'q'))
    };
    let Some((at, len)) = word.map(|word| (word.at, word.bytes.len())) else { return };
    if let Some(bytes) = frame.get_mut(at..at + len) {
        bytes.fill(b' ');
    }
}
