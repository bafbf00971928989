//! What mecha remembers of one client, and which of its commands need an upstream connection of their own.
//!
//! This is the pass-through's view: one server behind, connections to it shared by many clients. A command that leaves
//! state on its connection gets the client a dedicated one, for as long as the state lasts:
//!
//! | commands | connection |
//! |---|---|
//! | `MULTI` to `EXEC` or `DISCARD`; `WATCH` to `UNWATCH` or `EXEC` | dedicated |
//! | blocking commands, `XREAD BLOCK`, `WAIT` | dedicated for that call |
//! | `SELECT` of another database, `AUTH`, `HELLO` with `AUTH`, `CLIENT TRACKING`, `NO-EVICT`, `NO-TOUCH` | dedicated to the end |
//! | `SUBSCRIBE` and its like, `MONITOR`, `CLIENT REPLY`, `SYNC`, `PSYNC` | dedicated to the end, replies not counted |
//! | `HELLO 2`, `HELLO 3` | shared, one kind for each version |
//! | `WAIT`, `WAITAOF` | only on a dedicated one that is there already; refused otherwise |
//!
//! `QUIT`, `RESET`, `SELECT 0`, `CLIENT SETNAME`, `GETNAME`, `SETINFO` and `ID` of a client without such state are
//! answered here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mecha_core::{Affinity, Batch, Call, OpId, Outcome, Span, Verdict};

use crate::ops::{flag, op, op_info};
use crate::reply::Writer;
use crate::{Resp, args, inline_to_array};

/// What a front that plans commands itself knows of a client's `WATCH` and `MULTI`.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// The queued requests.
    pub frames: Vec<Vec<u8>>,
    /// A command could not be queued: `EXEC` will refuse.
    pub broken: bool,
    /// Shared with the plans of `WATCH` and `EXEC`, which run later than they are made.
    pub progress: Rc<Progress>,
}

/// See [`Transaction::progress`].
#[derive(Debug, Default)]
pub struct Progress {
    /// `EXEC` has a plan, which may yet have to be made again.
    pub planned: Cell<bool>,
    /// The plan of `EXEC` has been run.
    pub ran: Cell<bool>,
    /// Watched keys and the tokens that they had; 0 for a key that did not exist.
    pub watched: RefCell<Vec<(Vec<u8>, u64)>>,
}

/// State of one client connection.
#[derive(Clone, Debug)]
pub struct Session {
    /// Version of the protocol: 2 or 3.
    pub proto: u8,
    /// As set by `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// As set by `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// As set by `CLIENT SETINFO LIB-VER`.
    pub lib_version: Vec<u8>,
    /// The selected database.
    pub db: u32,
    /// The client has given credentials.
    pub authenticated: bool,
    /// Between `MULTI` and its end.
    pub multi: bool,
    /// Keys are watched.
    pub watching: bool,
    /// For translating fronts.
    pub transaction: Option<Box<Transaction>>,
    /// The dedicated connection is kept to the client's end.
    held: bool,
    /// A `HELLO` is in flight; the version before it.
    before_hello: Option<u8>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            proto: 2,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            db: 0,
            authenticated: false,
            multi: false,
            watching: false,
            transaction: None,
            held: false,
            before_hello: None,
        }
    }
}

/// What to do with one call.
enum Step {
    /// It goes this way.
    Go(Affinity),
    /// It is answered with what was appended to `local`.
    Answered,
    /// As `Answered`, and then the connection ends.
    Quit,
}

impl Session {
    /// Whether the client has, or is about to have, a dedicated connection.
    fn is_pinned(&self) -> bool {
        self.held || self.multi || self.watching || self.db != 0
    }

    /// Where the end of a transaction or of watching leads.
    fn released(&self) -> Affinity {
        if self.held || self.db != 0 { Affinity::Shared } else { Affinity::Release }
    }

    /// Decides on one call. `out` is where answers go.
    fn step(&mut self, call: &Call, frame: &[u8], out: &mut Vec<u8>) -> Step {
        let is_pinned = self.is_pinned();
        let mut writer = Writer::new(out, self.proto);
        match call.op {
            op::MULTI => {
                self.multi = true;
                Step::Go(Affinity::Pin)
            }
            op::EXEC | op::DISCARD if self.multi => {
                (self.multi, self.watching) = (false, false);
                Step::Go(self.released())
            }
            op::WATCH if !self.multi => {
                self.watching = true;
                Step::Go(Affinity::Pin)
            }
            op::UNWATCH if !self.multi && self.watching => {
                self.watching = false;
                Step::Go(self.released())
            }
            op::SUBSCRIBE
            | op::PSUBSCRIBE
            | op::SSUBSCRIBE
            | op::MONITOR
            | op::CLIENT_REPLY
            | op::SYNC
            | op::PSYNC => {
                self.held = true;
                Step::Go(Affinity::Raw)
            }
            op::AUTH | op::CLIENT_TRACKING | op::CLIENT_NO_EVICT | op::CLIENT_NO_TOUCH if !self.multi => {
                self.authenticated |= call.op == op::AUTH;
                self.held = true;
                Step::Go(Affinity::Pin)
            }
            op::SELECT => self.select(frame, is_pinned, writer),
            op::HELLO => self.hello(frame, is_pinned),
            op::RESET => {
                *self = Self::default();
                if is_pinned {
                    // The server resets the dedicated connection, which is then like new.
                    return Step::Go(Affinity::Release);
                }
                writer.simple("RESET");
                Step::Answered
            }
            op::QUIT => {
                writer.ok();
                Step::Quit
            }
            // It waits for the writes of the connection that it arrives on: on a shared one everybody would wait, on a
            // fresh one it would promise what it has not seen.
            op::WAIT | op::WAITAOF if !is_pinned => {
                writer.error(
                    "ERR WAIT needs a connection of its own: use it after WATCH, or between MULTI and EXEC",
                );
                Step::Answered
            }
            op::CLIENT_SETNAME | op::CLIENT_GETNAME | op::CLIENT_SETINFO | op::CLIENT_ID if !is_pinned => {
                self.client(call, frame, out)
            }
            _ if op_info(call.op).has(flag::BLOCKING) && !self.multi && blocks(call.op, frame) => {
                Step::Go(if is_pinned { Affinity::Shared } else { Affinity::Once })
            }
            _ => Step::Go(Affinity::Shared),
        }
    }

    fn select(&mut self, frame: &[u8], is_pinned: bool, mut writer: Writer<'_>) -> Step {
        let index =
            args(frame).nth(1).and_then(crate::args::decimal).and_then(|index| u32::try_from(index).ok());
        match index {
            Some(0) if !is_pinned && args(frame).count() == 2 => {
                writer.ok();
                Step::Answered
            }
            Some(0) if !self.multi && !self.watching && !self.held => {
                self.db = 0;
                Step::Go(Affinity::Release)
            }
            Some(index) => {
                self.db = index;
                Step::Go(Affinity::Pin)
            }
            None => Step::Go(Affinity::Shared),
        }
    }

    fn hello(&mut self, frame: &[u8], is_pinned: bool) -> Step {
        let mut version = self.proto;
        let mut words = args(frame).skip(1);
        let wanted = words.next().map(crate::args::decimal);
        let mut name = None;
        let mut is_plain = true;
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"AUTH") {
                // Credentials belong to the connection that they were given on.
                self.held = true;
                self.authenticated = true;
                words.nth(1);
            } else if word.eq_ignore_ascii_case(b"SETNAME") {
                name = words.next();
            } else {
                is_plain = false;
            }
        }
        match wanted {
            None => {}
            Some(Some(2)) if is_plain => version = 2,
            Some(Some(3)) if is_plain => version = 3,
            // The server finds the right words for it.
            _ => return Step::Go(Affinity::Shared),
        }
        if let Some(name) = name {
            self.name = name.to_vec();
        }
        if is_pinned || self.held {
            self.proto = version;
            // Its version stays with the connection, so no other client may get it.
            self.held = true;
            return Step::Go(Affinity::Pin);
        }
        self.before_hello = Some(self.proto);
        self.proto = version;
        Step::Go(Affinity::Barrier)
    }

    /// Client commands that concern mecha's own connection.
    fn client(&mut self, call: &Call, frame: &[u8], out: &mut Vec<u8>) -> Step {
        let words: Vec<_> = args(frame).collect();
        if !op_info(call.op).accepts(words.len()) {
            return Step::Go(Affinity::Shared);
        }
        let mut writer = Writer::new(out, self.proto);
        let is_clean = |text: &[u8]| text.iter().all(|byte| (b'!'..=b'~').contains(byte));
        match (call.op, words.get(2..).unwrap_or_default()) {
            (op::CLIENT_GETNAME, _) if self.name.is_empty() => writer.null(),
            (op::CLIENT_GETNAME, _) => writer.bulk(&self.name),
            (op::CLIENT_ID, _) => writer.int(i64::from(call.ticket.conn.index) + 1),
            (op::CLIENT_SETNAME, [name]) if is_clean(name) => {
                self.name = name.to_vec();
                writer.ok();
            }
            (op::CLIENT_SETNAME, _) => {
                writer.error("ERR Client names cannot contain spaces, newlines or special characters.");
            }
            (op::CLIENT_SETINFO, [field, value]) => {
                let slot = match field.to_ascii_lowercase().as_slice() {
                    b"lib-name" => &mut self.lib_name,
                    b"lib-ver" => &mut self.lib_version,
                    _ => {
                        writer.error_bytes(&[b"ERR Unrecognized option '", *field, b"'"].concat());
                        return Step::Answered;
                    }
                };
                if is_clean(value) {
                    *slot = value.to_vec();
                    writer.ok();
                } else {
                    let name = String::from_utf8_lossy(field).to_lowercase();
                    writer
                        .error(&format!("ERR {name} cannot contain spaces, newlines or special characters."));
                }
            }
            _ => return Step::Go(Affinity::Shared),
        }
        Step::Answered
    }
}

/// Whether this call of a command that can block does so.
fn blocks(op: OpId, frame: &[u8]) -> bool {
    if !matches!(op, op::XREAD | op::XREADGROUP) {
        return true;
    }
    // BLOCK stands before STREAMS; behind it a stream may have that name.
    let options = args(frame).skip(1).take_while(|word| !word.eq_ignore_ascii_case(b"STREAMS"));
    options.skip(if op == op::XREADGROUP { 3 } else { 0 }).any(|word| word.eq_ignore_ascii_case(b"BLOCK"))
}

impl mecha_core::Session<Resp> for Session {
    fn on_requests(batch: &mut Batch<'_, Resp>) -> bool {
        for index in 0..batch.calls.len() {
            normalise(batch, index);
            let Some(call) = batch.calls.get(index).copied() else { break };
            let frame = call.span.of(batch.wire, batch.local);
            // Only commands that change the state need their arguments; a copy keeps `local` free for the answer.
            let frame = if call.span.is_local() { &frame.to_vec() } else { call.span.of(batch.wire, &[]) };
            let start = batch.local.len();
            let step = batch.session.step(&call, frame, batch.local);
            let answer = Span::local(start, batch.local.len() - start);
            let Some(call) = batch.calls.get_mut(index) else { break };
            match step {
                Step::Go(affinity) => call.affinity = affinity,
                Step::Answered => call.verdict = Verdict::Answered(answer),
                Step::Quit => {
                    call.verdict = Verdict::Answered(answer);
                    return true;
                }
            }
        }
        false
    }

    fn on_barrier_done(&mut self, op: OpId, outcome: Outcome) {
        if op == op::HELLO
            && let Some(before) = self.before_hello.take()
            && outcome != Outcome::Ok
        {
            self.proto = before;
        }
    }

    fn profile(&self) -> u8 {
        u8::from(self.proto >= 3)
    }

    fn concerns(&self, call: &Call) -> bool {
        call.affinity != Affinity::Shared || self.is_pinned()
    }
}

/// Turns an inline command into an array, so that everything behind sees one form only.
fn normalise(batch: &mut Batch<'_, Resp>, index: usize) {
    let (Some(head), Some(call)) = (batch.heads.get_mut(index), batch.calls.get_mut(index)) else { return };
    if !head.is_inline {
        return;
    }
    let start = batch.local.len();
    if inline_to_array(call.span.of(batch.wire, &[]), batch.local).is_err() {
        return;
    }
    let frame = batch.local.get(start..).unwrap_or_default();
    if let Some(mut fresh) = crate::head_of(frame) {
        fresh.span = Span::local(start, frame.len());
        call.span = fresh.span;
        *head = fresh;
    }
}

#[cfg(test)]
mod tests;
