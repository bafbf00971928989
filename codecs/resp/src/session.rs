//! What mecha remembers of one client, and which of its commands need an upstream connection of their own.
//!
//! This is the pass-through's view: one server behind, connections to it shared by many clients. A command that leaves
//! state on its connection gets the client a dedicated one, for as long as the state lasts. A command whose replies
//! cannot be counted would give everybody else on its connection the wrong replies, so it gets one too:
//!
//! | commands | connection |
//! |---|---|
//! | `MULTI` to `EXEC` or `DISCARD`; `WATCH` to `UNWATCH` or `EXEC` | dedicated |
//! | `SELECT` of another database to `SELECT 0` | dedicated, if the server accepts it |
//! | blocking commands, `XREAD BLOCK` | dedicated for that call |
//! | `SCRIPT KILL`, `FUNCTION KILL`, `SHUTDOWN`: a busy connection would not read them | dedicated for that call |
//! | `AUTH`, `HELLO` with `AUTH` | dedicated to the end, if the server accepts it |
//! | `CLIENT TRACKING`, `NO-EVICT`, `NO-TOUCH`, `READONLY`, `ASKING` | dedicated to the end |
//! | `CLIENT ID`, `CLIENT INFO`: what they tell must be, and stay, true | dedicated to the end |
//! | `SUBSCRIBE` and its like, `MONITOR`, `CLIENT REPLY`, `SYNC`, `PSYNC`, `REPLCONF`, `SCRIPT DEBUG` | dedicated to the end, replies not counted |
//! | `HELLO 2`, `HELLO 3` | shared, one kind for each version |
//! | `WAIT`, `WAITAOF` | only on a dedicated one that is there already; refused otherwise |
//!
//! `QUIT`, `RESET`, `SELECT 0`, `UNSUBSCRIBE`, `CLIENT SETNAME`, `GETNAME` and `SETINFO` of a client without such state
//! are answered here. The name is told to a dedicated connection before the client's first command there, unless it is
//! for one call, and taken back before the next client gets it. With the wrong number of arguments, nothing changes any
//! state, and the server says so.
//!
//! A state is changed when its command is about to be sent, and changed back if the command is refused on its way
//! ([`mecha_core::Session::on_refused`]). A refusal inside a transaction makes its `EXEC` fail, as the server does it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mecha_core::{Affinity, Batch, Call, Looked, OpId, Outcome, Span, Verdict};

use crate::ops::{self, flag, op, op_info};
use crate::reply::Writer;
use crate::{Resp, args, inline_to_array, write_request};

/// What a front that plans commands itself knows of a client's `WATCH` and `MULTI`.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// The queued requests.
    pub frames: Vec<Vec<u8>>,
    /// What they take, in bytes.
    pub bytes: usize,
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
    /// The plan of `EXEC` has been taken up: it will not be made again.
    pub begun: Cell<bool>,
    /// A watched key had changed, so `EXEC` did nothing.
    pub aborted: Cell<bool>,
    /// Watched keys and the versions that they had.
    pub watched: RefCell<Vec<(Vec<u8>, u64)>>,
    /// What the queued commands make of the session.
    pub after: RefCell<Option<Box<Session>>>,
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
    /// The database that mecha, and not a server, gives a meaning to.
    chosen: u32,
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
    /// Its replies are not counted any more, so nothing may be answered here.
    raw: bool,
    /// A command was refused between `MULTI` and now.
    doomed: bool,
    /// An `EXEC` is about to be sent that must fail.
    is_spoiling: bool,
    /// The dedicated connection may bear the client's name.
    is_named: bool,
    /// It may bear the name and version of the client's library.
    is_described: bool,
    /// A `HELLO` is in flight.
    greeting: Option<Box<Greeting>>,
    /// What there was before the last command that changes it.
    before: Option<Before>,
}

/// A `HELLO` on its way: what holds if it fails, and the name that it gives if it succeeds.
#[derive(Clone, Debug)]
struct Greeting {
    proto_before: u8,
    name: Option<Vec<u8>>,
}

/// State that a refusal brings back.
#[derive(Clone, Copy, Debug)]
struct Before {
    proto: u8,
    db: u32,
    multi: bool,
    watching: bool,
    held: bool,
    raw: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            proto: 2,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            db: 0,
            chosen: 0,
            authenticated: false,
            multi: false,
            watching: false,
            transaction: None,
            held: false,
            raw: false,
            doomed: false,
            is_spoiling: false,
            is_named: false,
            is_described: false,
            greeting: None,
            before: None,
        }
    }
}

/// What to do with one call.
enum Step {
    /// It is answered with what was appended to `local`.
    Answered,
    /// It goes this way.
    Go(Affinity),
    /// As `Answered`, and then the connection ends.
    Quit,
    /// What was appended to `local` goes in its place.
    Rewritten(Affinity),
}

/// One call, as [`Session::step`] sees it.
struct Seen<'a> {
    op: OpId,
    argc: usize,
    /// Only the beginning of `frame` is here.
    is_open: bool,
    frame: &'a [u8],
}

impl Seen<'_> {
    fn word(&self, index: usize) -> &[u8] {
        args(self.frame).nth(index).unwrap_or_default()
    }

    fn says(&self, index: usize, word: &str) -> bool {
        self.word(index).eq_ignore_ascii_case(word.as_bytes())
    }
}

/// Whether the command may change what a session remembers.
fn is_fence(op: OpId) -> bool {
    let info = op_info(op);
    op != OpId::UNKNOWN && ops::is_special(op) && !info.has(flag::BLOCKING)
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

    /// From now on, the client keeps its dedicated connection.
    fn hold(&mut self) -> Step {
        self.held = true;
        Step::Go(Affinity::Pin)
    }

    /// As [`Session::hold`], unless the server refuses.
    fn attempt(&mut self) -> Step {
        self.held = true;
        Step::Go(Affinity::Attempt)
    }

    /// As [`Session::hold`], and its replies are not counted.
    fn let_go(&mut self) -> Step {
        (self.held, self.raw) = (true, true);
        Step::Go(Affinity::Raw)
    }

    /// The way of a call that means nothing here.
    fn plain(&self, seen: &Seen<'_>) -> Step {
        // A shared connection must not wait for the rest of one client's request.
        Step::Go(if seen.is_open && !self.is_pinned() { Affinity::Once } else { Affinity::Shared })
    }

    /// Decides on one call. `out` is where answers go.
    fn step(&mut self, seen: &Seen<'_>, out: &mut Vec<u8>) -> Step {
        if self.raw || !op_info(seen.op).accepts(seen.argc) {
            return self.plain(seen);
        }
        let is_pinned = self.is_pinned();
        let mut writer = Writer::new(out, self.proto);
        match seen.op {
            OpId::UNKNOWN if is_http(seen) => Step::Quit,
            op::QUIT => {
                writer.ok();
                Step::Quit
            }
            op::RESET => self.reset(out),
            op::SUBSCRIBE
            | op::PSUBSCRIBE
            | op::SSUBSCRIBE
            | op::MONITOR
            | op::REPLCONF
            | op::SCRIPT_DEBUG
            | op::SYNC
            | op::PSYNC => self.let_go(),
            // It promises nothing for later.
            op::CLIENT_REPLY if seen.says(2, "ON") => self.plain(seen),
            op::CLIENT_REPLY => self.let_go(),
            op::UNSUBSCRIBE | op::PUNSUBSCRIBE | op::SUNSUBSCRIBE
                if self.held || self.multi || seen.is_open =>
            {
                self.let_go()
            }
            op::UNSUBSCRIBE | op::PUNSUBSCRIBE | op::SUNSUBSCRIBE => {
                unsubscribe(seen, self.proto, out);
                Step::Answered
            }
            op::CLIENT_TRACKING | op::CLIENT_NO_EVICT | op::CLIENT_NO_TOUCH
                if seen.says(2, "OFF") && !is_pinned =>
            {
                self.plain(seen)
            }
            op::AUTH if !self.multi && !self.held => self.attempt(),
            op::AUTH
            | op::ASKING
            | op::CLIENT_CAPA
            | op::CLIENT_ID
            | op::CLIENT_IMPORT_SOURCE
            | op::CLIENT_INFO
            | op::CLIENT_NO_EVICT
            | op::CLIENT_NO_TOUCH
            | op::CLIENT_TRACKING
            | op::READONLY
            | op::READWRITE => self.hold(),
            // Nobody knows whether a queued one will run.
            op::SELECT | op::HELLO | op::CLIENT_SETNAME | op::CLIENT_SETINFO if self.multi || self.held => {
                self.hold()
            }
            op::SELECT => self.select(seen, writer),
            op::HELLO => self.hello(seen, out),
            op::CLIENT_SETNAME | op::CLIENT_SETINFO if seen.is_open => self.hold(),
            op::CLIENT_SETNAME | op::CLIENT_GETNAME | op::CLIENT_SETINFO if !self.held && !self.multi => {
                self.client(seen, writer)
            }
            op::SCRIPT_KILL | op::FUNCTION_KILL | op::SHUTDOWN if !is_pinned => Step::Go(Affinity::Once),
            // It waits for the writes of the connection that it arrives on: on a shared one everybody would wait, on a
            // fresh one it would promise what it has not seen.
            op::WAIT | op::WAITAOF if !is_pinned => {
                writer.error(
                    "ERR WAIT needs a connection of its own: use it after WATCH, or between MULTI and EXEC",
                );
                Step::Answered
            }
            op::WAIT | op::WAITAOF if !self.multi => Step::Go(Affinity::Waits),
            op::MULTI | op::EXEC | op::DISCARD | op::WATCH | op::UNWATCH => self.transaction(seen),
            _ if op_info(seen.op).has(flag::BLOCKING) && !self.multi && blocks(seen.op, seen.frame) => {
                Step::Go(if is_pinned { Affinity::Waits } else { Affinity::Once })
            }
            _ => self.plain(seen),
        }
    }

    fn transaction(&mut self, seen: &Seen<'_>) -> Step {
        match (seen.op, self.multi) {
            (op::MULTI, false) => {
                (self.multi, self.doomed) = (true, false);
                Step::Go(Affinity::Pin)
            }
            (op::EXEC, true) if self.doomed => {
                (self.multi, self.watching, self.doomed) = (false, false, false);
                self.is_spoiling = true;
                Step::Go(self.released())
            }
            (op::EXEC | op::DISCARD, true) => {
                (self.multi, self.watching) = (false, false);
                Step::Go(self.released())
            }
            (op::WATCH, false) => {
                self.watching = true;
                Step::Go(Affinity::Pin)
            }
            (op::UNWATCH, false) if self.watching => {
                self.watching = false;
                Step::Go(self.released())
            }
            _ => self.plain(seen),
        }
    }

    fn reset(&mut self, out: &mut Vec<u8>) -> Step {
        if !self.is_pinned() {
            Writer::new(out, 2).simple("RESET");
            *self = Self { before: self.before, ..Self::default() };
            return Step::Answered;
        }
        // The server makes the dedicated connection like new. One that was opened for version 3 is not that any more,
        // and what a held one may keep is not for us to know.
        let is_like_new = !self.held && self.proto == 2;
        *self = Self { held: !is_like_new, before: self.before, ..Self::default() };
        Step::Go(if is_like_new { Affinity::Release } else { Affinity::Pin })
    }

    fn select(&mut self, seen: &Seen<'_>, mut writer: Writer<'_>) -> Step {
        let index = crate::args::decimal(seen.word(1)).and_then(|index| u32::try_from(index).ok());
        match index {
            // Whoever has given databases a meaning sees to it.
            Some(0) if self.chosen != 0 && !self.is_pinned() => Step::Go(Affinity::Attempt),
            Some(0) if !self.is_pinned() => {
                writer.ok();
                Step::Answered
            }
            Some(0) if self.db != 0 => {
                self.db = 0;
                Step::Go(Affinity::Attempt)
            }
            Some(index) if index != 0 => {
                self.db = index;
                Step::Go(Affinity::Attempt)
            }
            _ => self.plain(seen),
        }
    }

    fn hello(&mut self, seen: &Seen<'_>, out: &mut Vec<u8>) -> Step {
        let mut words = args(seen.frame).skip(1);
        let version = match words.next().map(crate::args::decimal) {
            Some(Some(2)) => 2,
            Some(Some(3)) => 3,
            // The server finds the right words for it.
            _ => return self.plain(seen),
        };
        let mut name = None;
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"AUTH") {
                // Credentials belong to the connection that they were given on, and so does the version.
                return self.attempt();
            }
            name = words.next().filter(|name| word.eq_ignore_ascii_case(b"SETNAME") && is_clean(name));
            if name.is_none() {
                return self.plain(seen);
            }
        }
        if self.is_pinned() || seen.is_open {
            return self.hold();
        }
        self.greeting = Some(Box::new(Greeting { proto_before: self.proto, name: name.map(<[u8]>::to_vec) }));
        self.proto = version;
        // The name is not the shared connection's.
        let version: &[u8] = if version == 3 { b"3" } else { b"2" };
        write_request([b"HELLO".as_slice(), version].into_iter(), out);
        Step::Rewritten(Affinity::Barrier)
    }

    /// Client commands that concern mecha's own connection.
    fn client(&mut self, seen: &Seen<'_>, mut writer: Writer<'_>) -> Step {
        let value = seen.word(if seen.op == op::CLIENT_SETINFO { 3 } else { 2 });
        match seen.op {
            op::CLIENT_GETNAME if self.name.is_empty() => writer.null(),
            op::CLIENT_GETNAME => writer.bulk(&self.name),
            op::CLIENT_SETNAME if is_clean(value) => {
                self.name = value.to_vec();
                if self.is_pinned() {
                    self.is_named = true;
                    return self.plain(seen);
                }
                writer.ok();
            }
            op::CLIENT_SETNAME => {
                writer.error("ERR Client names cannot contain spaces, newlines or special characters.");
            }
            _ => {
                let field = seen.word(2);
                let (slot, name) = match field.to_ascii_lowercase().as_slice() {
                    b"lib-name" => (&mut self.lib_name, "lib-name"),
                    b"lib-ver" => (&mut self.lib_version, "lib-ver"),
                    _ => {
                        writer.error_bytes(&[b"ERR Unrecognized option '", field, b"'"].concat());
                        return Step::Answered;
                    }
                };
                if is_clean(value) {
                    *slot = value.to_vec();
                    writer.ok();
                } else {
                    writer
                        .error(&format!("ERR {name} cannot contain spaces, newlines or special characters."));
                }
            }
        }
        Step::Answered
    }

    fn restore(&mut self, before: Before) {
        let Before { proto, db, multi, watching, held, raw } = before;
        (self.proto, self.db, self.multi, self.watching) = (proto, db, multi, watching);
        (self.held, self.raw) = (held, raw);
    }

    fn note_before(&mut self) {
        let Self { proto, db, multi, watching, held, raw, .. } = *self;
        self.before = Some(Before { proto, db, multi, watching, held, raw });
    }
}

/// Names and the like must not break the lines of `CLIENT LIST`.
fn is_clean(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// A browser that was tricked into talking to a server: it takes these as its enemy's commands, and closes.
fn is_http(seen: &Seen<'_>) -> bool {
    seen.says(0, "POST") || seen.says(0, "HOST:")
}

/// The answers to a client that has no subscription: one for each channel, or one without.
fn unsubscribe(seen: &Seen<'_>, proto: u8, out: &mut Vec<u8>) {
    let mut one = |channel: Option<&[u8]>| {
        out.extend_from_slice(if proto >= 3 { b">3\r\n" } else { b"*3\r\n" });
        let mut writer = Writer::new(out, proto);
        writer.bulk(op_info(seen.op).name.as_bytes());
        match channel {
            Some(channel) => writer.bulk(channel),
            None => writer.null(),
        }
        writer.int(0);
    };
    if seen.argc == 1 {
        one(None);
    }
    args(seen.frame).skip(1).for_each(|channel| one(Some(channel)));
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
    fn on_requests(batch: &mut Batch<'_, Resp>, from: usize) -> Looked {
        for index in from..batch.calls.len() {
            normalise(batch, index);
            let (Some(call), Some(head)) = (batch.calls.get(index).copied(), batch.heads.get(index)) else {
                break;
            };
            let is_fence = is_fence(call.op);
            if is_fence && index > from {
                return Looked { next: index, is_over: false };
            }
            let frame = call.span.of(batch.wire, batch.local);
            // Only commands that change the state need their arguments; a copy keeps `local` free for the answer.
            let frame = if call.span.is_local() { &frame.to_vec() } else { call.span.of(batch.wire, &[]) };
            let seen = Seen { op: call.op, argc: head.argc as usize, is_open: head.is_open, frame };
            if is_fence {
                batch.session.note_before();
            }
            let start = batch.local.len();
            let step = batch.session.step(&seen, batch.local);
            let written = Span::local(start, batch.local.len() - start);
            let Some(call) = batch.calls.get_mut(index) else { break };
            match step {
                Step::Answered => call.verdict = Verdict::Answered(written),
                Step::Go(affinity) => call.affinity = affinity,
                Step::Quit => {
                    call.verdict = Verdict::Answered(written);
                    return Looked { next: index + 1, is_over: true };
                }
                Step::Rewritten(affinity) => {
                    call.affinity = affinity;
                    replace(batch, index, written);
                }
            }
            if is_fence {
                return Looked { next: index + 1, is_over: false };
            }
        }
        Looked { next: batch.calls.len(), is_over: false }
    }

    fn on_refused(&mut self, call: &Call) -> bool {
        let mut is_fatal = false;
        if let Some(transaction) = self.transaction.as_mut().filter(|_| self.multi) {
            transaction.broken = true;
        }
        if is_fence(call.op)
            && let Some(before) = self.before.take()
        {
            // The client takes its transaction for ended, and the server does not know.
            is_fatal |= before.multi && !self.multi;
            self.restore(before);
            self.greeting = None;
        }
        self.doomed |= self.multi;
        // Where replies are not counted, the place of a refusal among them is not known.
        is_fatal || self.raw
    }

    fn on_barrier_done(&mut self, op: OpId, outcome: Outcome) -> bool {
        let greeting = self.greeting.take().filter(|_| op == op::HELLO);
        match (outcome, greeting) {
            (Outcome::Ok, Some(greeting)) => {
                self.name = greeting.name.unwrap_or(std::mem::take(&mut self.name))
            }
            (Outcome::Ok, None) => {}
            (_, Some(greeting)) => self.proto = greeting.proto_before,
            (_, None) => {
                if let Some(before) = self.before.take() {
                    self.restore(before);
                }
            }
        }
        self.is_pinned()
    }

    fn introduction(&mut self, out: &mut Vec<u8>) -> u32 {
        if !self.is_pinned() {
            return 0;
        }
        let mut count = 0;
        let mut write = |words: &[&[u8]]| {
            write_request(words.iter().copied(), out);
            count += 1;
        };
        let known: [(&[&[u8]], &[u8]); 3] = [
            (&[b"CLIENT", b"SETNAME"], &self.name),
            (&[b"CLIENT", b"SETINFO", b"lib-name"], &self.lib_name),
            (&[b"CLIENT", b"SETINFO", b"lib-ver"], &self.lib_version),
        ];
        // What its library is called is seen in lists only, of those who stay.
        let known = known.into_iter().take(if self.held { 3 } else { 1 });
        for (words, value) in known.filter(|(_, value)| !value.is_empty()) {
            write(&[words, &[value]].concat());
        }
        (self.is_named, self.is_described) = (!self.name.is_empty(), self.held);
        count
    }

    fn spoiler(&mut self) -> &'static [u8] {
        // The server does not accept it, and so discards the transaction in its own words.
        if std::mem::take(&mut self.is_spoiling) { b"*1\r\n$3\r\nGET\r\n" } else { &[] }
    }

    fn farewell(&mut self, out: &mut Vec<u8>) -> u32 {
        let mut count = 0;
        let mut write = |words: &[&[u8]]| {
            write_request(words.iter().copied(), out);
            count += 1;
        };
        if std::mem::take(&mut self.is_named) {
            write(&[b"CLIENT", b"SETNAME", b""]);
        }
        let is_described = std::mem::take(&mut self.is_described);
        if is_described && !self.lib_name.is_empty() {
            write(&[b"CLIENT", b"SETINFO", b"lib-name", b""]);
        }
        if is_described && !self.lib_version.is_empty() {
            write(&[b"CLIENT", b"SETINFO", b"lib-ver", b""]);
        }
        count
    }

    fn is_portable(&self) -> bool {
        // Credentials, transactions and databases belong to the backend that they were given to.
        let has_transaction = self.transaction.is_some() || self.doomed || self.greeting.is_some();
        !self.is_pinned() && !self.authenticated && !has_transaction
    }

    fn on_seen_to(&mut self, call: &Call) {
        if matches!(call.op, op::ASKING | op::READONLY | op::READWRITE) {
            self.held = false;
        }
    }

    fn profile(&self) -> u8 {
        u8::from(self.proto >= 3)
    }

    fn of_profile(profile: u8) -> Self {
        Self { proto: if profile == 0 { 2 } else { 3 }, ..Self::default() }
    }

    fn database(&self) -> u32 {
        self.chosen
    }

    fn select(&mut self, database: u32) {
        (self.chosen, self.db) = (database, 0);
    }

    fn concerns(&self, call: &Call) -> bool {
        call.affinity != Affinity::Shared || self.is_pinned()
    }
}

/// Puts the frame at `written` in the place of request `index`.
fn replace(batch: &mut Batch<'_, Resp>, index: usize, written: Span) {
    let (Some(head), Some(call)) = (batch.heads.get_mut(index), batch.calls.get_mut(index)) else { return };
    if let Some(mut fresh) = crate::head_of(written.of(&[], batch.local)) {
        fresh.span = written;
        call.span = written;
        *head = fresh;
    }
}

/// Turns an inline command into an array, so that everything behind sees one form only.
fn normalise(batch: &mut Batch<'_, Resp>, index: usize) {
    let (Some(head), Some(call)) = (batch.heads.get(index), batch.calls.get(index)) else { return };
    if !head.is_inline {
        return;
    }
    let start = batch.local.len();
    if inline_to_array(call.span.of(batch.wire, &[]), batch.local).is_err() {
        return;
    }
    let written = Span::local(start, batch.local.len() - start);
    replace(batch, index, written);
}

#[cfg(test)]
mod tests;
