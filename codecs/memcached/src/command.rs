//! The typed view of a request, for those that run commands themselves.
//!
//! What memcached says about a wrong argument is the `Err` of [`parse`]: a whole line, without its end.

use mecha_core::OpId;

use crate::line::{Words, number, signed, without_end};
use crate::{Request, base64, ops};

/// Arguments of one request. Keys are as the frame has them; see [`Meta::key`] for base64.
#[derive(Clone, Debug)]
pub enum Command<'w> {
    /// `incr`, `decr`.
    Arithmetic {
        /// The key.
        key: &'w [u8],
        /// How much.
        delta: u64,
        /// Whether it is subtracted.
        is_decrement: bool,
    },
    /// `delete`.
    Delete {
        /// The key.
        key: &'w [u8],
    },
    /// `flush_all`.
    FlushAll {
        /// As the client gave it: seconds from now, or Unix time if larger than 30 days.
        delay: i32,
    },
    /// `get`, `gets`, `gat`, `gats`.
    Get {
        /// The keys.
        keys: KeyWords<'w>,
        /// Whether the reply has cas uniques.
        with_unique: bool,
        /// The new expiry, as the client gave it.
        exptime: Option<i32>,
    },
    /// `mg`, `ms`, `md`, `ma`.
    Meta(Meta<'w>),
    /// `me`.
    MetaDebug {
        /// The key.
        key: &'w [u8],
        /// Whether it is in base64.
        is_base64: bool,
    },
    /// `stats`.
    Stats {
        /// The first argument.
        what: Option<&'w [u8]>,
    },
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store {
        /// How.
        mode: StoreMode,
        /// The key.
        key: &'w [u8],
        /// Client flags.
        flags: u32,
        /// As the client gave it.
        exptime: i32,
        /// For [`StoreMode::Cas`].
        unique: u64,
        /// The data block.
        value: &'w [u8],
    },
    /// `touch`.
    Touch {
        /// The key.
        key: &'w [u8],
        /// As the client gave it.
        exptime: i32,
    },
    /// `verbosity`.
    Verbosity,
    /// `version`.
    Version,
}

/// How a storage command stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// If absent.
    Add,
    /// At the end of what is there.
    Append,
    /// If unchanged.
    Cas,
    /// In front of what is there.
    Prepend,
    /// If present.
    Replace,
    /// Always.
    Set,
}

/// The keys of a retrieval.
#[derive(Clone, Debug)]
pub struct KeyWords<'w>(Words<'w>);

impl<'w> Iterator for KeyWords<'w> {
    type Item = &'w [u8];

    fn next(&mut self) -> Option<&'w [u8]> {
        self.0.next().map(|word| word.bytes)
    }
}

/// Which meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVerb {
    /// `ma`.
    Arithmetic,
    /// `md`.
    Delete,
    /// `mg`.
    Get,
    /// `ms`.
    Set,
}

/// A meta command with its flags.
#[derive(Clone, Debug)]
pub struct Meta<'w> {
    /// Which.
    pub verb: MetaVerb,
    /// The key as the frame has it.
    pub raw_key: &'w [u8],
    /// The data block of `ms`.
    pub value: &'w [u8],
    /// Bit for each ASCII letter that is a flag: see [`Meta::has`].
    seen: u128,
    /// `C`.
    pub compare: u64,
    /// `D`.
    pub delta: u64,
    /// `F`.
    pub client_flags: u32,
    /// `J`.
    pub initial: u64,
    /// `M`.
    pub mode: Option<u8>,
    /// `N`, as the client gave it.
    pub vivify: i32,
    /// `R`, as the client gave it.
    pub recache: i32,
    /// `T`, as the client gave it.
    pub exptime: i32,
    words: Words<'w>,
    /// The whole line: see [`MetaWords`].
    pub line: &'w [u8],
}

const BAD_LINE: &str = "CLIENT_ERROR bad command line format";
const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
/// The most bytes of an opaque, with its letter.
const MAX_OPAQUE: usize = 32;

impl<'w> Meta<'w> {
    /// Whether the flag is there.
    pub fn has(&self, flag: u8) -> bool {
        flag < 128 && self.seen >> flag & 1 == 1
    }

    /// The flags with their tokens, in the client's order.
    pub fn flags(&self) -> impl Iterator<Item = (u8, &'w [u8])> + use<'w> {
        self.words.clone().filter_map(|word| word.bytes.split_first().map(|(&flag, token)| (flag, token)))
    }

    /// The key itself. `None` if it is not the base64 that the `b` flag promises.
    pub fn key(&self) -> Option<std::borrow::Cow<'w, [u8]>> {
        key(self.raw_key, self.has(b'b'))
    }

    fn read(
        verb: MetaVerb,
        raw_key: &'w [u8],
        value: &'w [u8],
        words: Words<'w>,
        line: &'w [u8],
    ) -> Result<Self, &'static str> {
        let mut meta = Self {
            verb,
            raw_key,
            value,
            seen: 0,
            compare: 0,
            delta: 1,
            client_flags: 0,
            initial: 0,
            mode: None,
            vivify: 0,
            recache: 0,
            exptime: 0,
            words,
            line,
        };
        // memcached reads all flags and complains about the last one that is wrong, except for these two.
        let mut wrong = None;
        for (flag, token) in meta.flags() {
            if flag >= 127 || meta.has(flag) {
                return Err("CLIENT_ERROR duplicate flag");
            }
            meta.seen |= 1 << flag;
            if let Err(error) = meta.flag(flag, token)? {
                wrong = Some(error);
            }
        }
        wrong.map_or(Ok(meta), Err)
    }

    /// The outer error is one behind which memcached reads no more.
    fn flag(&mut self, flag: u8, token: &[u8]) -> Result<Result<(), &'static str>, &'static str> {
        let read = match flag {
            b'b' if self.key().is_none() => Err("CLIENT_ERROR error decoding key"),
            b'N' => signed(token).map(|at| self.vivify = at).ok_or(BAD_TOKEN),
            b'T' => signed(token).map(|at| self.exptime = at).ok_or(BAD_TOKEN),
            b'R' => signed(token).map(|at| self.recache = at).ok_or(BAD_TOKEN),
            b'F' => number(token)
                .and_then(|flags| u32::try_from(flags).ok())
                .map(|flags| self.client_flags = flags)
                .ok_or(BAD_LINE),
            b'C' => number(token).map(|unique| self.compare = unique).ok_or(BAD_TOKEN),
            b'J' => number(token)
                .map(|number| self.initial = number)
                .ok_or("CLIENT_ERROR invalid numeric initial value"),
            b'D' => number(token)
                .map(|number| self.delta = number)
                .ok_or("CLIENT_ERROR invalid numeric delta value"),
            b'M' => match token {
                &[mode] => {
                    self.mode = Some(mode);
                    Ok(())
                }
                _ => Err("CLIENT_ERROR incorrect length for M token"),
            },
            b'O' if token.len() >= MAX_OPAQUE => Err("CLIENT_ERROR opaque token too long"),
            b'I' | b'L' | b'O' | b'P' | b'b' | b'c' | b'f' | b'h' | b'k' | b'l' | b'q' | b's' | b't'
            | b'u' | b'v' => Ok(()),
            _ => return Err("CLIENT_ERROR invalid flag"),
        };
        Ok(read)
    }
}

/// A meta command's line, for those who answer it.
#[derive(Clone, Debug)]
pub struct MetaWords<'w> {
    /// As the frame has it.
    pub key: &'w [u8],
    /// Whether the key is in base64.
    pub is_base64: bool,
    words: Words<'w>,
}

impl<'w> MetaWords<'w> {
    /// Reads a line that was understood before.
    pub fn of(line: &'w [u8]) -> Self {
        let mut words = Words::new(without_end(line));
        let has_size = words.next().is_some_and(|verb| verb.bytes == b"ms");
        let key = words.next().map_or(&[][..], |word| word.bytes);
        if has_size {
            words.next();
        }
        let is_base64 = words.clone().any(|word| word.bytes.first() == Some(&b'b'));
        Self { key, is_base64, words }
    }

    /// The flags with their tokens, in the client's order.
    pub fn flags(&self) -> impl Iterator<Item = (u8, &'w [u8])> + use<'w> {
        self.words.clone().filter_map(|word| word.bytes.split_first().map(|(&flag, token)| (flag, token)))
    }
}

/// A key, decoded if need be.
pub fn key(raw: &[u8], is_base64: bool) -> Option<std::borrow::Cow<'_, [u8]>> {
    if !is_base64 {
        return Some(raw.into());
    }
    let mut key = Vec::with_capacity(raw.len());
    base64::decode(raw, &mut key)?;
    Some(key.into())
}

/// Reads the arguments of a request without fault that is no session command.
///
/// # Errors
/// What memcached says.
pub fn parse<'w>(request: &Request, frame: &'w [u8]) -> Result<Command<'w>, &'static str> {
    if let Some(fault) = request.fault() {
        let message = fault.message();
        return Err(std::str::from_utf8(without_end(message)).unwrap_or(BAD_LINE));
    }
    let line = without_end(frame.get(..request.line_len()).unwrap_or_default());
    let mut words = Words::new(line);
    words.next();
    let op = ops::spoken(request.op());
    let key = request.key_span().of(frame, &[]);
    let value = request.value_span().of(frame, &[]);
    let mut next = || words.next().map_or(&[][..], |word| word.bytes);
    match op {
        ops::GET | ops::GETS | ops::GAT | ops::GATS => {
            let exptime = match op {
                ops::GAT | ops::GATS => Some(signed(next()).ok_or("CLIENT_ERROR invalid exptime argument")?),
                _ => None,
            };
            let keys = KeyWords(words);
            if keys.clone().any(|key| key.len() > crate::MAX_KEY) {
                return Err(BAD_LINE);
            }
            Ok(Command::Get { keys, with_unique: op == ops::GETS || op == ops::GATS, exptime })
        }
        ops::SET | ops::ADD | ops::REPLACE | ops::APPEND | ops::PREPEND | ops::CAS => {
            next();
            let flags = number(next()).and_then(|flags| u32::try_from(flags).ok()).ok_or(BAD_LINE)?;
            let exptime = signed(next()).ok_or(BAD_LINE)?;
            next();
            let unique = if op == ops::CAS { number(next()).ok_or(BAD_LINE)? } else { 0 };
            Ok(Command::Store { mode: store_mode(op), key, flags, exptime, unique, value })
        }
        ops::INCR | ops::DECR => {
            next();
            let delta = number(next()).ok_or("CLIENT_ERROR invalid numeric delta argument")?;
            Ok(Command::Arithmetic { key, delta, is_decrement: op == ops::DECR })
        }
        ops::TOUCH => {
            next();
            let exptime = signed(next()).ok_or("CLIENT_ERROR invalid exptime argument")?;
            Ok(Command::Touch { key, exptime })
        }
        ops::DELETE => {
            next();
            match (next(), next()) {
                (b"" | b"0" | b"noreply", b"") | (b"0", b"noreply") => Ok(Command::Delete { key }),
                _ => Err("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"),
            }
        }
        ops::FLUSH_ALL => match next() {
            b"" => Ok(Command::FlushAll { delay: 0 }),
            b"noreply" if request.is_quiet() => Ok(Command::FlushAll { delay: 0 }),
            word => match signed(word) {
                Some(delay) => Ok(Command::FlushAll { delay }),
                None => Err("CLIENT_ERROR invalid exptime argument"),
            },
        },
        ops::VERBOSITY => number(next()).map(|_| Command::Verbosity).ok_or(BAD_LINE),
        ops::STATS => Ok(Command::Stats { what: words.next().map(|word| word.bytes) }),
        ops::VERSION => Ok(Command::Version),
        ops::ME => {
            next();
            Ok(Command::MetaDebug { key, is_base64: next() == b"b" })
        }
        ops::MG | ops::MS | ops::MD | ops::MA => {
            next();
            let verb = match op {
                ops::MG => MetaVerb::Get,
                ops::MS => {
                    next();
                    MetaVerb::Set
                }
                ops::MD => MetaVerb::Delete,
                _ => MetaVerb::Arithmetic,
            };
            // These two have one message for all.
            let hides = matches!(verb, MetaVerb::Delete | MetaVerb::Arithmetic);
            if words.clone().count() + 2 > 19 {
                return Err(match verb {
                    MetaVerb::Get => "CLIENT_ERROR options flags are too long",
                    _ => "CLIENT_ERROR options flags too long",
                });
            }
            match Meta::read(verb, key, value, words, line) {
                Ok(meta) => Ok(Command::Meta(meta)),
                Err("CLIENT_ERROR opaque token too long") => Err("CLIENT_ERROR opaque token too long"),
                Err(_) if hides => Err("CLIENT_ERROR invalid or duplicate flag"),
                Err(error) => Err(error),
            }
        }
        _ => Err("ERROR"),
    }
}

fn store_mode(op: OpId) -> StoreMode {
    match op {
        ops::ADD => StoreMode::Add,
        ops::APPEND => StoreMode::Append,
        ops::CAS => StoreMode::Cas,
        ops::PREPEND => StoreMode::Prepend,
        ops::REPLACE => StoreMode::Replace,
        _ => StoreMode::Set,
    }
}
