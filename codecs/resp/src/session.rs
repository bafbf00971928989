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
//! | `CLIENT LIST`, `INFO`, `KILL`, `UNBLOCK` | none: they are about mecha's clients (the module `clients`) |
//! | `CLIENT ID`, `GETREDIR`, `TRACKINGINFO`, `HELLO`, `INFO` | where the client's others go, alone: the reply is amended (the module `numbers`) |
//! | `SUBSCRIBE` and its like, `MONITOR`, `SYNC`, `PSYNC`, `REPLCONF`, `SCRIPT DEBUG` | dedicated to the end, replies not counted |
//! | the same where the upstream shares subscriptions | none, see [`subscriptions`] |
//! | `CLIENT TRACKING` where the upstream sees to it | none, see [`tracked`] |
//! | `HELLO 2`, `HELLO 3` | shared, one kind for each version |
//! | `WAIT`, `WAITAOF` | dedicated for the call, behind a `PING`: they wait for what was written before that |
//!
//! `QUIT`, `RESET`, `SELECT 0`, `UNSUBSCRIBE`, `CLIENT SETNAME`, `GETNAME` and `SETINFO` of a client without such state
//! are answered here, and `CLIENT REPLY` where replies are counted. The name is told to a dedicated connection before the client's first command there, unless it is
//! for one call, and taken back before the next client gets it. With the wrong number of arguments, nothing changes any
//! state, and the server says so.
//!
//! A state is changed when its command is about to be sent, and changed back if the command is refused on its way
//! ([`mecha_core::Session::on_refused`]). A refusal inside a transaction makes its `EXEC` fail, as the server does it.

mod census;
mod clients;
mod identity;
mod look;
mod numbers;
mod subscriptions;
mod tracked;
mod transaction;

use mecha_core::{
    Affinity, Batch, Call, ClientFacts, ClientKind, Errand, Found, Looked, OpId, Outcome, login_of,
    profile_of,
};

use crate::ops::{flag, op, op_info};
use crate::reply::Writer;
use crate::{Resp, args};
pub(crate) use clients::permission;
use identity::Greeting;
use look::{Seen, Step, is_fence};
pub use look::{normalise, replace};
use numbers::Redirected;
use subscriptions::Subscriptions;
use tracked::Tracked;
pub use transaction::{Progress, Transaction};

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
    /// mecha's number of the client.
    id: u64,
    /// The client that messages about keys are redirected to.
    redirect: Option<Redirected>,
    /// What the client wants to hear.
    hears: Hearing,
    /// It has wanted less than everything at some time.
    was_deaf: bool,
    /// The user of the last login that the server has accepted, and of the one under way.
    login: Option<Box<str>>,
    next_login: Option<Box<str>>,
    /// The cluster's number of the login, where several servers have to be told it; and of one under way.
    upstream_login: u8,
    next_upstream_login: u8,
    /// Commands since `MULTI`.
    queued: u32,
    /// It has subscribed to something.
    is_subscriber: bool,
    /// It watches the server's commands.
    is_monitor: bool,
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
    /// Also by a client that is made like new.
    kept: bool,
    /// The dedicated connection that is given back is not like new.
    is_spent: bool,
    /// Its replies are not counted any more, so nothing may be answered here.
    raw: bool,
    /// It becomes a replica's: the server starts a replication only where nothing else is to be answered.
    is_replica: bool,
    /// A command was refused between `MULTI` and now.
    doomed: bool,
    /// A `WAIT` is about to be sent on a connection of its own. It waits for what the server had written when the
    /// connection's last command ran, so there must be one after all of the client's.
    is_catching_up: bool,
    /// An `EXEC` is about to be sent that must fail.
    is_spoiling: bool,
    /// The dedicated connection may bear the client's name.
    is_named: bool,
    /// It may bear the name and version of the client's library.
    is_described: bool,
    /// A `HELLO` is in flight.
    greeting: Option<Box<Greeting>>,
    /// Those that the client shares with others.
    subscriptions: Subscriptions,
    /// Whether the upstream tells the client of keys that change.
    tracked: Tracked,
    /// What there was before the last command that changes it.
    before: Option<Before>,
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

/// As `CLIENT REPLY` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// Every reply.
    Everything,
    /// No reply.
    Nothing,
    /// Every reply but the next.
    Then,
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
            id: 0,
            redirect: None,
            hears: Hearing::Everything,
            was_deaf: false,
            login: None,
            next_login: None,
            upstream_login: 0,
            next_upstream_login: 0,
            queued: 0,
            is_subscriber: false,
            is_monitor: false,
            authenticated: false,
            multi: false,
            watching: false,
            transaction: None,
            held: false,
            kept: false,
            is_spent: false,
            raw: false,
            is_replica: false,
            doomed: false,
            is_catching_up: false,
            is_spoiling: false,
            is_named: false,
            is_described: false,
            greeting: None,
            subscriptions: Subscriptions::default(),
            tracked: Tracked::default(),
            before: None,
        }
    }
}

impl Session {
    /// Whether replies are not counted any more, so that nothing may be answered in the server's place.
    pub fn is_uncounted(&self) -> bool {
        self.raw
    }

    /// The state of the same client as it was when it came.
    pub fn fresh(&self) -> Self {
        Self {
            id: self.id,
            held: self.kept,
            kept: self.kept,
            // Servers that know of libraries do not forget them.
            lib_name: self.lib_name.clone(),
            lib_version: self.lib_version.clone(),
            ..Self::default()
        }
    }

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

    /// It goes where the client's others go, with nothing else in flight, so that its reply can be amended.
    fn alone(&self) -> Step {
        Step::Go(if self.is_pinned() { Affinity::Attempt } else { Affinity::Barrier })
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
        if self.subscriptions.is_some()
            && let Some(step) = self.step_listening(seen, out)
        {
            return step;
        }
        if self.tracked.is_on()
            && let Some(step) = self.step_tracked(seen, out)
        {
            return step;
        }
        let is_pinned = self.is_pinned();
        self.queued += u32::from(self.multi);
        let mut writer = Writer::new(out, self.proto);
        match seen.op {
            OpId::UNKNOWN if is_http(seen) => Step::Quit,
            op::QUIT => {
                writer.ok();
                Step::Quit
            }
            op::RESET if self.upstream_login > 0 && !is_pinned => Step::Go(Affinity::Aside),
            op::RESET => self.reset(out),
            op::SUBSCRIBE | op::PSUBSCRIBE | op::SSUBSCRIBE | op::MONITOR | op::SCRIPT_DEBUG => {
                self.is_monitor |= seen.op == op::MONITOR;
                self.is_subscriber |= !matches!(seen.op, op::MONITOR | op::SCRIPT_DEBUG);
                self.let_go()
            }
            op::PSYNC | op::REPLCONF | op::SYNC => {
                self.is_replica = true;
                self.let_go()
            }
            op::CLIENT_REPLY if self.multi => self.let_go(),
            op::CLIENT_REPLY => self.reply(seen, writer),
            op::CLIENT_GETREDIR | op::CLIENT_ID | op::CLIENT_TRACKINGINFO | op::INFO
                if !self.multi && !seen.is_open =>
            {
                self.alone()
            }
            op::CLIENT_INFO | op::CLIENT_KILL | op::CLIENT_LIST | op::CLIENT_UNBLOCK
                if !self.multi && !seen.is_open =>
            {
                self.about_clients(seen, writer)
            }
            op::CLIENT_TRACKING
                if !self.multi && !seen.is_open && clients::redirection(seen.frame).is_some() =>
            {
                self.held = true;
                Step::Go(Affinity::Errand)
            }
            op::UNSUBSCRIBE | op::PUNSUBSCRIBE | op::SUNSUBSCRIBE
                if self.held || self.multi || seen.is_open =>
            {
                self.let_go()
            }
            op::UNSUBSCRIBE | op::PUNSUBSCRIBE | op::SUNSUBSCRIBE => {
                subscriptions::unsubscribe(seen, self.proto, out);
                Step::Answered
            }
            op::CLIENT_TRACKING | op::CLIENT_NO_EVICT | op::CLIENT_NO_TOUCH
                if seen.says(2, "OFF") && !is_pinned =>
            {
                self.plain(seen)
            }
            op::AUTH if !self.multi => {
                let user = if seen.argc > 2 { seen.word(1) } else { b"default" };
                self.next_login = Some(String::from_utf8_lossy(user).into());
                self.attempt()
            }
            op::AUTH
            | op::ASKING
            | op::CLIENT_CAPA
            | op::CLIENT_IMPORT_SOURCE
            | op::CLIENT_NO_EVICT
            | op::CLIENT_NO_TOUCH
            | op::CLIENT_TRACKING
            | op::READONLY
            | op::READWRITE => self.hold(),
            op::CLIENT_SETNAME | op::CLIENT_SETINFO if self.held && !self.multi && !seen.is_open => {
                self.rename(seen);
                self.plain(seen)
            }
            // Nobody knows whether a queued one will run.
            op::SELECT | op::CLIENT_SETNAME | op::CLIENT_SETINFO if self.multi || self.held => self.hold(),
            op::HELLO if self.multi => self.hold(),
            op::SELECT => self.select(seen, writer),
            op::HELLO => self.hello(seen, out),
            op::CLIENT_SETNAME | op::CLIENT_SETINFO if seen.is_open => self.hold(),
            op::CLIENT_SETNAME | op::CLIENT_GETNAME | op::CLIENT_SETINFO if !self.held && !self.multi => {
                self.client(seen, writer)
            }
            op::SCRIPT_KILL | op::FUNCTION_KILL | op::SHUTDOWN if !is_pinned => Step::Go(Affinity::Once),
            op::WAIT | op::WAITAOF if !is_pinned => {
                self.is_catching_up = true;
                Step::Go(Affinity::Once)
            }
            op::WAIT | op::WAITAOF if !self.multi => Step::Go(Affinity::Waits),
            op::MULTI | op::EXEC | op::DISCARD | op::WATCH | op::UNWATCH => self.transaction(seen),
            _ if op_info(seen.op).has(flag::BLOCKING) && !self.multi && blocks(seen.op, seen.frame) => {
                Step::Go(if is_pinned { Affinity::Waits } else { Affinity::Once })
            }
            _ => self.plain(seen),
        }
    }

    fn reset(&mut self, out: &mut Vec<u8>) -> Step {
        if !self.is_pinned() {
            Writer::new(out, 2).simple("RESET");
            *self = Self { before: self.before, ..self.fresh() };
            return Step::Answered;
        }
        // The server makes the dedicated connection like new. One that was opened for version 3 is not that any more,
        // and what a held one may keep is not for us to know: nobody else gets it.
        let is_spent = self.held || self.proto != 2;
        *self = Self { is_spent, before: self.before, ..self.fresh() };
        Step::Go(if self.kept { Affinity::Pin } else { Affinity::Release })
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

    fn reply(&mut self, seen: &Seen<'_>, mut writer: Writer<'_>) -> Step {
        self.hears = match self.hears {
            _ if seen.says(2, "ON") => {
                writer.ok();
                Hearing::Everything
            }
            _ if seen.says(2, "OFF") => Hearing::Nothing,
            Hearing::Everything | Hearing::Then if seen.says(2, "SKIP") => Hearing::Then,
            Hearing::Nothing if seen.says(2, "SKIP") => Hearing::Nothing,
            _ => return self.plain(seen),
        };
        self.was_deaf |= self.hears != Hearing::Everything;
        Step::Answered
    }

    /// Whether the client wants no reply to this command.
    fn is_deaf_to(&mut self, op: OpId) -> bool {
        match self.hears {
            Hearing::Everything => false,
            // What it says about replies itself is for the step to decide.
            _ if op == op::CLIENT_REPLY && !self.multi && !self.raw => false,
            // Their answers are messages, which such a client gets all the same.
            Hearing::Nothing => !subscriptions::is_about(op),
            Hearing::Then => {
                self.hears = Hearing::Everything;
                !subscriptions::is_about(op)
            }
        }
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

impl mecha_core::Session<Resp> for Session {
    fn on_requests(batch: &mut Batch<'_, Resp>, from: usize) -> Looked {
        look::look(batch, from)
    }

    fn on_open(&mut self, id: u64) {
        self.id = id;
    }

    fn is_noted(&self) -> bool {
        self.multi
    }

    fn is_deaf(&self) -> bool {
        self.was_deaf
    }

    fn straighten(batch: &mut Batch<'_, Resp>) {
        for index in 0..batch.heads.len() {
            normalise(batch, index);
        }
    }

    fn is_errand(op: OpId) -> bool {
        matches!(op, op::CLIENT_INFO | op::CLIENT_KILL | op::CLIENT_LIST | op::CLIENT_UNBLOCK)
    }

    fn errand(&self, op: OpId, frame: &[u8]) -> Option<Result<Errand, Vec<u8>>> {
        // A transaction in this process is over once it has been planned, which its next command finds out.
        let is_over = self.transaction.as_ref().is_some_and(|open| open.progress.planned.get());
        if self.multi && !is_over || self.raw || !op_info(op).accepts(args(frame).count()) {
            return None;
        }
        Some(clients::parse(op, frame, self.id).map_err(|words| {
            let mut answer = Vec::new();
            Writer::new(&mut answer, self.proto).error(&words);
            answer
        }))
    }

    fn report(&self, frame: &[u8], errand: &Errand, found: &Found, out: &mut Vec<u8>) {
        self.tell(frame, errand, found, out);
    }

    fn keep(&mut self) {
        (self.held, self.kept) = (true, true);
        // What has been sent may fail, and brings the rest back.
        self.before.iter_mut().for_each(|before| before.held = true);
    }

    fn amend(&self, op: OpId, reply: &[u8], clients: usize, out: &mut Vec<u8>) -> bool {
        self.amended(op, reply, clients, out).is_some()
    }

    fn on_located(batch: &mut Batch<'_, Resp>, at: usize, located: Option<u64>) {
        let frame = batch.frame(at).to_vec();
        batch.session.redirect = Redirected::of(&frame, located);
        look::rewrite(batch, at, |out| clients::redirected(&frame, located, out));
        if let Some(call) = batch.calls.get_mut(at) {
            call.affinity = Affinity::Pin;
        }
    }

    fn describe(&self, facts: &ClientFacts<'_>, out: &mut Vec<u8>) {
        self.line(facts, out);
    }

    fn kind(&self) -> ClientKind {
        match (self.is_replica, self.is_subscriber) {
            (true, _) => ClientKind::Replica,
            (_, true) => ClientKind::PubSub,
            _ => ClientKind::Normal,
        }
    }

    fn shown_user(&self) -> &str {
        self.login.as_deref().unwrap_or("default")
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
        self.is_replica &= self.raw;
        self.doomed |= self.multi;
        // Where replies are not counted, the place of a refusal among them is not known.
        is_fatal || self.raw
    }

    fn on_barrier_done(&mut self, op: OpId, outcome: Outcome) -> bool {
        let greeting = self.greeting.take().filter(|_| op == op::HELLO);
        if let Some(user) = self.next_login.take().filter(|_| outcome == Outcome::Ok) {
            self.login = Some(user);
        }
        match (outcome, greeting) {
            (Outcome::Ok, Some(greeting)) => {
                self.proto = greeting.proto;
                self.name = greeting.name.unwrap_or(std::mem::take(&mut self.name))
            }
            (Outcome::Ok, None) => {}
            (_, greeting) => {
                if let Some(before) = self.before.take() {
                    self.restore(before);
                }
                self.proto = greeting.map_or(self.proto, |greeting| greeting.proto_before);
            }
        }
        self.is_pinned()
    }

    fn introduction(&mut self, out: &mut Vec<u8>) -> u32 {
        let replies = self.introduce(out);
        let is_catching_up = std::mem::take(&mut self.is_catching_up);
        if is_catching_up {
            out.extend_from_slice(crate::CATCH_UP);
        }
        replies + u32::from(is_catching_up)
    }

    fn hush(&self) -> &'static [u8] {
        match self.hears {
            Hearing::Nothing if !self.multi => b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
            _ => &[],
        }
    }

    fn spoiler(&mut self) -> &'static [u8] {
        // The server does not accept it, and so discards the transaction in its own words.
        if std::mem::take(&mut self.is_spoiling) { b"*1\r\n$3\r\nGET\r\n" } else { &[] }
    }

    fn farewell(&mut self, out: &mut Vec<u8>) -> u32 {
        self.take_back(out)
    }

    fn is_spent(&mut self) -> bool {
        std::mem::take(&mut self.is_spent)
    }

    fn is_portable(&self) -> bool {
        // Credentials, transactions and databases belong to the backend that they were given to.
        let has_transaction = self.transaction.is_some() || self.doomed || self.greeting.is_some();
        let is_free = !self.is_pinned()
            && self.upstream_login == 0
            && !self.subscriptions.is_some()
            && !self.tracked.is_on();
        is_free && !self.authenticated && !has_transaction
    }

    fn on_answer(&mut self, op: OpId, answer: &[u8]) {
        if op == op::RESET {
            *self = self.fresh();
        } else {
            self.subscriptions.answered(op, answer);
            self.tracked.answered(op, answer);
        }
        let next = std::mem::take(&mut self.next_upstream_login);
        if next > 0 && matches!(op, op::AUTH | op::HELLO) && !answer.starts_with(b"-") {
            self.upstream_login = next;
        }
    }

    fn is_listening(&self) -> bool {
        self.subscriptions.is_some() || self.tracked.is_on()
    }

    fn on_login(&mut self, login: u8) {
        self.next_upstream_login = login;
    }

    fn on_seen_to(&mut self, call: &Call) {
        if matches!(call.op, op::AUTH | op::HELLO) {
            // It is said on other connections than one of the client's own.
            self.held = self.before.is_some_and(|before| before.held);
            return;
        }
        if subscriptions::is_about(call.op) {
            // They are shared, and nothing of the client's own is needed for them.
            self.before.take().into_iter().for_each(|before| self.restore(before));
            return;
        }
        if call.op == op::CLIENT_TRACKING {
            self.before.take().into_iter().for_each(|before| self.restore(before));
            self.tracked.begin();
            return;
        }
        if matches!(call.op, op::ASKING | op::READONLY | op::READWRITE) {
            self.held = false;
        }
    }

    fn profile(&self) -> u8 {
        profile_of(u8::from(self.proto >= 3), self.upstream_login)
    }

    fn of_profile(profile: u8) -> Self {
        Self { proto: crate::version_of(profile), upstream_login: login_of(profile), ..Self::default() }
    }

    fn database(&self) -> u32 {
        self.chosen
    }

    fn select(&mut self, database: u32) {
        (self.chosen, self.db) = (database, 0);
    }

    fn concerns(&self, call: &Call) -> bool {
        let is_limited = self.proto < 3 && self.subscriptions.is_some();
        call.affinity != Affinity::Shared
            || self.is_pinned()
            || is_limited
            || self.hears != Hearing::Everything
    }
}

/// A browser that was tricked into talking to a server: it takes these as its enemy's commands, and closes.
fn is_http(seen: &Seen<'_>) -> bool {
    seen.says(0, "POST") || seen.says(0, "HOST:")
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

#[cfg(test)]
mod tests;
