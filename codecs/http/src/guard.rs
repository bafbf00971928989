//! A strict look at the bytes of an HTTP/1 connection, before its parser sees them.
//!
//! Two programs that do not agree where a request ends can be made to take one client's bytes for another's (request
//! smuggling). So nothing passes that might be read in two ways: lengths that contradict each other, that repeat or that
//! are spelt oddly, line ends that are not CRLF, folded lines, blanks before colons, control bytes, more than one host. RFC
//! 9112 lets a server be lenient in several of these, and lets it answer 400 in all of them.
//!
//! The guard follows the framing of every message through its body to the beginning of the next. It copies nothing but
//! lines that come in several pieces, and it stops for good at the first violation: the parser is then given a byte
//! that no message may have, so that it answers 400 behind the answers to what came before, and closes.

use memchr::memchr;

/// Bytes of extensions of one chunk. They mean nothing to anybody, and have been used to make servers read for ever.
const MAX_CHUNK_LINE: usize = 256;
/// Bytes of a line that is held because its end has not come. Longer heads are refused by the parser, which has a limit too.
const MAX_LINE: usize = 256 << 10;

/// Why nothing more passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A line does not end in CR and LF, or CR stands elsewhere (RFC 9112, section 2.2).
    BareLineEnd,
    /// A chunk's size is no plain hexadecimal number, or is followed by too much (RFC 9112, section 7.1).
    Chunk,
    /// A byte below 0x20, or 0x7F.
    Control,
    /// A line of a field begins with a blank (RFC 9112, section 5.2).
    Folded,
    /// No host, several, or one that cannot be (RFC 9112, section 3.2).
    Host,
    /// `Content-Length` is no plain decimal number, or is there more than once (RFC 9112, section 6.3).
    Length,
    /// Longer than any line may be.
    Long,
    /// A field without a colon, or with bytes in its name that no name may have (RFC 9110, section 5.1).
    Name,
    /// The request line is not `METHOD target HTTP/1.x` with single blanks (RFC 9112, section 3).
    RequestLine,
    /// `Transfer-Encoding` is not just `chunked`, stands beside `Content-Length`, or comes with HTTP/1.0 (RFC 9112,
    /// section 6.1).
    TransferCoding,
}

/// Where a connection stands, for timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Inside of a body.
    Body,
    /// Inside of a head.
    Head,
    /// Between two requests.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line.
    Start,
    /// Behind the request line.
    Fields,
    /// So many bytes of a body are to come.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// The CRLF behind a chunk.
    ChunkEnd,
    /// Behind the last chunk.
    Trailers,
    /// Behind the head of a `CONNECT`: what follows is for whoever the tunnel leads to.
    Tunnel,
}

/// What the fields of one head have said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    length: Option<u64>,
    is_chunked: bool,
    hosts: u32,
    is_1_0: bool,
    is_connect: bool,
}

/// Follows one connection's requests. See the module.
#[derive(Debug)]
pub struct Guard {
    state: State,
    seen: Seen,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    violation: Option<Violation>,
    heads: u32,
    has_tunnels: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            state: State::Start,
            seen: Seen::default(),
            line: Vec::new(),
            violation: None,
            heads: 0,
            has_tunnels: false,
        }
    }
}

// === impl Guard ===

impl Guard {
    /// What stands behind the head of a `CONNECT` is nobody's request from now on. Whoever refuses one must end the
    /// connection.
    pub fn let_tunnels(&mut self) {
        self.has_tunnels = true;
    }

    /// Looks at the next bytes of the connection.
    ///
    /// # Errors
    /// How many of them may pass before a byte is put in that breaks the message. Nothing may pass after that.
    pub fn look(&mut self, bytes: &[u8]) -> Result<(), usize> {
        if self.violation.is_some() {
            return Err(0);
        }
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.step(rest) {
                Ok(taken) => at += taken,
                Err(violation) => {
                    self.violation = Some(violation);
                    // Of a line that is refused nothing has passed that could end a head.
                    return Err(at);
                }
            }
        }
        Ok(())
    }

    /// Why nothing passes any more.
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// Heads that have come to their end; wraps.
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Start if self.line.is_empty() => Phase::Idle,
            State::Tunnel => Phase::Idle,
            State::Start | State::Fields => Phase::Head,
            _ => Phase::Body,
        }
    }

    /// Takes what it can from the front of `rest`, which is not empty, and says how much.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        match self.state {
            State::Body(left) => {
                let taken = left.min(rest.len() as u64);
                self.state = if taken == left { State::Start } else { State::Body(left - taken) };
                Ok(taken as usize)
            }
            State::Chunk(left) => {
                let taken = left.min(rest.len() as u64);
                self.state = if taken == left { State::ChunkEnd } else { State::Chunk(left - taken) };
                Ok(taken as usize)
            }
            State::Tunnel => Ok(rest.len()),
            State::Start | State::Fields | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                self.line(rest)
            }
        }
    }

    fn line(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let Some(end) = memchr(b'\n', rest) else {
            if self.line.len() + rest.len() > self.longest() {
                return Err(if self.is_chunk_line() { Violation::Chunk } else { Violation::Long });
            }
            self.line.extend_from_slice(rest);
            return Ok(rest.len());
        };
        let fresh = rest.get(..end).unwrap_or_default();
        if self.line.is_empty() {
            self.complete(fresh)?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(fresh);
            let complete = self.complete(&line);
            line.clear();
            self.line = line;
            complete?;
        }
        Ok(end + 1)
    }

    fn is_chunk_line(&self) -> bool {
        matches!(self.state, State::ChunkSize | State::ChunkEnd)
    }

    fn longest(&self) -> usize {
        if self.is_chunk_line() { MAX_CHUNK_LINE } else { MAX_LINE }
    }

    /// Takes a line without its LF.
    fn complete(&mut self, line: &[u8]) -> Result<(), Violation> {
        let line = line.strip_suffix(b"\r").ok_or(Violation::BareLineEnd)?;
        match self.state {
            // One empty line before a request is forgiven (RFC 9112, section 2.2), and so are more.
            State::Start if line.is_empty() => {}
            State::Start => {
                let is_connect = line.starts_with(b"CONNECT ") && self.has_tunnels;
                self.seen = Seen { is_1_0: request_line(line)?, is_connect, ..Seen::default() };
                self.state = State::Fields;
            }
            State::Fields if line.is_empty() => {
                self.state = self.seen.body()?;
                self.heads = self.heads.wrapping_add(1);
            }
            State::Fields => self.seen.field(line)?,
            State::ChunkSize => {
                let size = chunk_size(line)?;
                self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(Violation::Chunk),
            State::Trailers if line.is_empty() => self.state = State::Start,
            State::Trailers => drop(cut(line)?),
            State::Body(_) | State::Chunk(_) | State::Tunnel => {}
        }
        Ok(())
    }
}

impl Seen {
    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = cut(line)?;
        // Few names have these lengths, and only these matter.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 || !is_host(value) {
                    return Err(Violation::Host);
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Violation::Length);
                }
                self.length = Some(decimal(value).ok_or(Violation::Length)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferCoding);
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// What follows the head.
    fn body(self) -> Result<State, Violation> {
        if self.hosts == 0 && !self.is_1_0 {
            return Err(Violation::Host);
        }
        if self.is_connect {
            // Its body would have no meaning (RFC 9110, section 9.3.6), and be taken for the tunnel's first bytes by some.
            return match (self.is_chunked, self.length) {
                (true, _) => Err(Violation::TransferCoding),
                (false, Some(_)) => Err(Violation::Length),
                (false, None) => Ok(State::Tunnel),
            };
        }
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err(Violation::TransferCoding),
            (true, None) if self.is_1_0 => Err(Violation::TransferCoding),
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::Start),
            (false, Some(length)) => Ok(State::Body(length)),
        }
    }
}

/// Returns whether the version is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Violation> {
    if line.iter().any(|byte| *byte < b' ' || *byte == 0x7F) {
        return Err(if line.contains(&b'\r') { Violation::BareLineEnd } else { Violation::Control });
    }
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::RequestLine);
    };
    if method.is_empty() || !method.iter().copied().all(is_token) || target.is_empty() {
        return Err(Violation::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err(Violation::RequestLine),
    }
}

/// Cuts a field into its name and its value without the blanks around it.
fn cut(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Folded);
    }
    let colon = memchr(b':', line).ok_or(Violation::Name)?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(Violation::Name);
    }
    let value = value.get(1..).unwrap_or_default();
    if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F) {
        return Err(if value.contains(&b'\r') { Violation::BareLineEnd } else { Violation::Control });
    }
    Ok((name, value.trim_ascii()))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A number of digits alone.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The size in a line of the chunked coding, which may have extensions.
fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    if line.len() > MAX_CHUNK_LINE
        || line.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F)
    {
        return Err(Violation::Chunk);
    }
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    let is_fine =
        (1..=15).contains(&size.len()) && matches!(extension.trim_ascii_start().first(), None | Some(b';'));
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    size.filter(|_| is_fine).ok_or(Violation::Chunk)
}

/// A host and maybe a port (RFC 3986, section 3.2): nothing that ends a host, or begins something else.
fn is_host(value: &[u8]) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(&byte);
    value.iter().copied().all(is_fine)
}

#[cfg(test)]
mod tests;
