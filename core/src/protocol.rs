//! What a protocol must tell mecha about itself.

use std::fmt;

use crate::{
    Affinity, Asked, Batch, Begins, Bridge, Call, ClientFacts, ClientKind, Decode, Errand, Found, Limits,
    OpId, OpInfo, Outcome, ProtocolError, Redirect, Refusal, ScriptRole, Ticket,
};

/// A protocol that clients speak.
pub trait Protocol: Sized + 'static {
    /// Lower-case name: crate suffix, metric label.
    const NAME: &'static str;

    /// Head of one request: offsets for framed protocols.
    type Request: 'static;
    /// Head of one reply.
    type Reply: 'static;

    /// The operation table. Row 0 stands for every operation that the table lacks.
    fn ops() -> &'static [OpInfo];

    /// The name of an operation, also of one that is not in the table but was learned of a server.
    fn op_name(op: OpId) -> &'static str {
        Self::ops().get(usize::from(op.0)).map_or("unknown", |info| info.name)
    }

    /// The neutral view of `request`.
    fn call(request: &Self::Request, ticket: Ticket) -> Call;

    /// What the backend said, as far as policies care.
    fn outcome(reply: &Self::Reply) -> Outcome;

    /// As [`Protocol::outcome`], for a complete reply that was made in this process.
    fn answer_outcome(reply: &[u8]) -> Outcome {
        let _ = reply;
        Outcome::Ok
    }

    /// Appends this protocol's native error for `why`; nothing if the client reads no errors of such a request.
    fn refuse(asked: Asked, why: Refusal, out: &mut Vec<u8>);
}

/// Which request a reply frame belongs to. Framed protocols answer in order on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// The oldest unanswered request, which is now answered.
    Last,
    /// The oldest unanswered request, with more to come (memcached `VALUE` lines).
    Part,
    /// No request: an out-of-band message.
    Push,
}

/// How far the keys of a request are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// All of them were reported; none if the command has none.
    Known,
    /// The table does not tell where the keys are.
    Unknown,
}

/// The part of a profile that is the protocol's: its lowest bit.
#[inline]
#[must_use]
pub const fn kind_of(profile: u8) -> u8 {
    profile & 1
}

/// The part of a profile that says whose login a connection has: the cluster's number of it. 0 is mecha's own.
#[inline]
#[must_use]
pub const fn login_of(profile: u8) -> u8 {
    profile >> 1
}

/// The profile of these parts.
#[must_use]
pub const fn profile_of(kind: u8, login: u8) -> u8 {
    login << 1 | kind & 1
}

/// A protocol whose frames we cut ourselves; the session's pump serves it.
pub trait Framed: Protocol<Request: Copy, Reply: Copy> {
    /// Cuts what clients send.
    type RequestDecoder: Decode<Head = Self::Request>;
    /// Cuts what servers send.
    type ReplyDecoder: Decode<Head = Self::Reply>;
    /// What mecha remembers about one client connection.
    type Session: Session<Self>;

    /// Whether a client that nobody knows speaks this protocol, from the first bytes that it sends. Those of every client of it
    /// must not be [`Begins::No`].
    fn begins(bytes: &[u8]) -> Begins {
        let _ = bytes;
        Begins::No
    }

    /// A decoder for a client's bytes.
    fn request_decoder(limits: Limits) -> Self::RequestDecoder;

    /// A decoder for a server's bytes. `profile` is the one its connection was opened with.
    fn reply_decoder(limits: Limits, profile: u8) -> Self::ReplyDecoder;

    /// A decoder for `answer`, which was made in this process for a client in any state.
    fn answer_decoder(limits: Limits, answer: &[u8]) -> Self::ReplyDecoder {
        let _ = answer;
        // The widest profile: it decodes the frames of all others.
        Self::reply_decoder(limits, 1)
    }

    /// The reply's bytes.
    fn reply_span(reply: &Self::Reply) -> crate::Span;

    /// Replaces the reply's bytes, after a filter rewrote them.
    fn set_reply_span(reply: &mut Self::Reply, span: crate::Span);

    /// Which request this reply belongs to.
    fn matched(reply: &Self::Reply) -> Matched;

    /// The first key of `request`, whose frame is `frame`; `None` if it has none or it is not known.
    fn key<'w>(request: &Self::Request, frame: &'w [u8]) -> Option<&'w [u8]>;

    /// Reports every key of `request`, in order.
    fn keys<'w>(request: &Self::Request, frame: &'w [u8], each: &mut dyn FnMut(&'w [u8])) -> Keys;

    /// The slot of `key`, where servers share the keys by slots; below 16,384.
    fn slot(key: &[u8]) -> u16 {
        let _ = key;
        0
    }

    /// Whether a call that has no key, and needs a connection of its own, belongs where all others of its kind meet
    /// (`SUBSCRIBE`), rather than nowhere in particular.
    fn meets(op: OpId) -> bool {
        let _ = op;
        false
    }

    /// Where the call with this reply belongs, if the reply says that it is not this server. Asked only for replies
    /// whose outcome is an error, and only where servers share the keys.
    fn redirect<'w>(reply: &Self::Reply, wire: &'w [u8]) -> Option<Redirect<'w>> {
        let _ = (reply, wire);
        None
    }

    /// Appends the request that must stand before one that follows [`Redirect::Ask`]. It gets one reply.
    fn asking(out: &mut Vec<u8>) {
        let _ = out;
    }

    /// Takes `elapsed_micros` from the time that a request waits at most, as it is about to be sent to another server.
    /// `false` if it has no such time.
    fn shorten_wait(op: OpId, frame: &mut Vec<u8>, elapsed_micros: u64) -> bool {
        let _ = (op, frame, elapsed_micros);
        false
    }

    /// Whether a call of this operation changes nothing and has a key, so that a replica may answer it.
    fn is_reading(op: OpId) -> bool {
        let _ = op;
        false
    }

    /// Appends what a replica that shares keys by slots must be told on a new connection before it answers reads. Returns
    /// how many replies it gets.
    fn reading(out: &mut Vec<u8>) -> u32 {
        let _ = out;
        0
    }

    /// The reply to a keyless request that wants a dedicated connection, if it can be given before the request is sent:
    /// the first key behind it then chooses the server. The server's own reply is dropped.
    fn deferral(op: OpId) -> Option<&'static [u8]> {
        let _ = op;
        None
    }

    /// A harmless request that servers deny to whoever may not send `frame`. It gets one reply. Empty: the call itself
    /// goes to a server.
    fn permission(op: OpId, frame: &[u8]) -> Vec<u8> {
        let _ = (op, frame);
        Vec::new()
    }

    /// Whether `reply`, a whole frame, denies permission.
    fn is_denial(reply: &[u8]) -> bool {
        let _ = reply;
        false
    }

    /// The request that asks a server for its number of the connection. It gets one reply. Empty if there is none.
    fn whoami() -> &'static [u8] {
        &[]
    }

    /// As [`Framed::permission`], for a request of this kind that lists clients: one whose answer tells what the server knows
    /// of its connections. Empty if there is none.
    fn census(op: OpId) -> &'static [u8] {
        let _ = op;
        &[]
    }

    /// Whether the server's number of the connection may be needed once a call of this kind is under way there.
    fn is_sought(op: OpId) -> bool {
        let _ = op;
        false
    }

    /// The number that `reply`, a whole frame, is.
    fn number(reply: &[u8]) -> Option<u64> {
        let _ = reply;
        None
    }

    /// Appends the request that ends a blocking call on the server's connection `id`. Its reply is 1 if it did.
    fn unblock(id: u64, with_error: bool, out: &mut Vec<u8>) {
        let _ = (id, with_error, out);
    }

    /// Whether the table lacks the operation of request `index`; puts its name, as [`Framed::ask_about`] wants it, in the place
    /// of `name`. May put the request into another form.
    fn unknown(batch: &mut Batch<'_, Self>, index: usize, name: &mut Vec<u8>) -> bool {
        let _ = (batch, index, name);
        false
    }

    /// Appends the request that asks a server what operations with these names are. It gets one reply.
    fn ask_about(names: &[Box<[u8]>], out: &mut Vec<u8>) {
        let _ = (names, out);
    }

    /// What a server has answered to [`Framed::ask_about`]: for each name the operation that it means from now on, or nothing
    /// if there is none.
    fn learn(names: &[Box<[u8]>], answer: &[u8]) -> Vec<Option<OpId>> {
        let _ = answer;
        names.iter().map(|_| None).collect()
    }

    /// Request `index` is of the operation `op`, which was learned.
    fn recognise(batch: &mut Batch<'_, Self>, index: usize, op: OpId) {
        let _ = (batch, index, op);
    }

    /// Whether `reply`, to the first request of a connection's prologue, says that the server lacks the version of the protocol
    /// that the connection is for, so that [`Framed::bridge`] is needed.
    fn lacks_version(reply: &[u8]) -> bool {
        let _ = reply;
        false
    }

    /// Whether `reply`, to a client's call of this operation, says that the server knows of no versions at all.
    fn knows_no_versions(op: OpId, reply: &[u8]) -> bool {
        let _ = (op, reply);
        false
    }

    /// What makes a server that lacks other versions seem to have them, on a connection of this profile.
    fn bridge(profile: u8) -> Option<Box<dyn Bridge>> {
        let _ = profile;
        None
    }

    /// What calls of this operation do with the scripts of their server. Asked for every call.
    #[inline]
    fn script_role(op: OpId) -> ScriptRole {
        let _ = op;
        ScriptRole::None
    }

    /// The script's text in a request that brings one, or its digest, in hex, in one that recalls it.
    fn script(op: OpId, frame: &[u8]) -> Option<&[u8]> {
        let _ = (op, frame);
        None
    }

    /// Whether `reply`, a whole frame, says that the server does not have the script that it was to run. It has not run
    /// then.
    fn lacks_script(reply: &[u8]) -> bool {
        let _ = reply;
        false
    }

    /// Appends `frame`, which recalls a script, with the script's text in the place of its digest. It gets the same reply.
    fn spell_out(op: OpId, frame: &[u8], text: &[u8], out: &mut Vec<u8>) {
        let _ = (op, text);
        out.extend_from_slice(frame);
    }

    /// Appends the request that has a server keep a script. It gets one reply.
    fn load_script(text: &[u8], out: &mut Vec<u8>) {
        let _ = (text, out);
    }

    /// Whether a call with [`crate::ReplyCount::Maybe`] keeps this reply from its client.
    fn silent(op: OpId, reply: &Self::Reply) -> bool {
        let _ = (op, reply);
        false
    }

    /// What takes the place of the first bytes of the reply to an un-quieted request, so that it is the reply to the
    /// request as the client sent it. Empty where nothing differs.
    fn reply_start(op: OpId) -> &'static [u8] {
        let _ = op;
        &[]
    }

    /// Makes the forwarded copy of a quiet request (`ReplyCount::Maybe`) one that the server always answers, without
    /// changing its length. `frame` is the copy.
    fn unquiet(request: &Self::Request, frame: &mut [u8]) {
        let _ = (request, frame);
    }

    /// Appends `frame`, changed so that nothing that it stores lives for longer than `ttl_secs` seconds; as it is where the
    /// protocol knows no expiry. `now_unix_secs` is the time of day, for protocols that tell expiries by it.
    fn shorten(request: &Self::Request, frame: &[u8], ttl_secs: u32, now_unix_secs: u64, out: &mut Vec<u8>) {
        let _ = (request, ttl_secs, now_unix_secs);
        out.extend_from_slice(frame);
    }

    /// Appends what a new upstream connection must send first for `profile` and `login`, and returns how many replies
    /// it gets. Nothing else is sent before they have come. Profile 0 without a login must need nothing.
    fn prologue(profile: u8, login: &Login, out: &mut Vec<u8>) -> u32 {
        let _ = (profile, login, out);
        0
    }

    /// Appends the native answer to bytes that break the protocol; the connection is closed behind it.
    fn protocol_error(error: ProtocolError, out: &mut Vec<u8>);
}

/// How far [`Session::on_requests`] has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The first call that it has not looked at.
    pub next: usize,
    /// The connection is to be closed after the answers to the calls before `next`; the rest is not served (`QUIT`).
    pub is_over: bool,
}

/// Who mecha is to a cluster's servers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// `None`: the server's default user.
    pub username: Option<String>,
    /// `None`: no login. Never shown.
    pub password: Option<String>,
    /// The database that is selected.
    pub database: u32,
    /// How it is proved, where the protocol has several ways: SASL's name of it.
    pub mechanism: Option<String>,
}

impl Login {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.password.is_none() && self.database == 0
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("database", &self.database).finish_non_exhaustive()
    }
}

/// The state of one client connection that the protocol itself defines (transaction, protocol version, name).
///
/// It is consulted only for batches with a call that is not an ordinary shared one.
pub trait Session<P: Framed>: Default {
    /// The client has come.
    fn on_open(&mut self, id: u64) {
        let _ = id;
    }

    /// Whether the server only notes the client's calls, to carry them out later.
    fn is_noted(&self) -> bool {
        false
    }

    /// Whether there may be calls that the client wants no reply to.
    fn is_deaf(&self) -> bool {
        false
    }

    /// Brings requests that have several forms into one, so that everything behind sees one only. For upstreams where
    /// protocol state is their business; elsewhere that is part of [`Session::on_requests`].
    fn straighten(batch: &mut Batch<'_, P>) {
        let _ = batch;
    }

    /// Whether requests of this operation may be errands, also where protocol state is the upstream's business.
    fn is_errand(op: OpId) -> bool {
        let _ = op;
        false
    }

    /// What `frame`, a request about the clients of this process, means. `None`: nothing here, it goes on as others do.
    ///
    /// # Errors
    /// The answer to a request that means nothing.
    fn errand(&self, op: OpId, frame: &[u8]) -> Option<Result<Errand, Vec<u8>>> {
        let _ = (op, frame);
        None
    }

    /// Appends the answer to a request about clients. `frame` is the request.
    fn report(&self, frame: &[u8], errand: &Errand, found: &Found, out: &mut Vec<u8>) {
        let _ = (frame, errand, found, out);
    }

    /// Request `at` needed the server's number of another client's connection, and goes on with it.
    fn on_located(batch: &mut Batch<'_, P>, at: usize, located: Option<u64>) {
        let _ = (batch, at, located);
    }

    /// The client's own upstream connection is known to others by the server's number of it: from now on the client
    /// keeps it.
    fn keep(&mut self) {}

    /// Looks at the whole reply to a call that waited alone ([`Affinity::Attempt`], [`Affinity::Barrier`]). Where mecha
    /// knows better than the server, appends what the client gets instead, and returns `true`. `clients` are those of
    /// its listener, on all workers.
    fn amend(&self, op: OpId, reply: &[u8], clients: usize, out: &mut Vec<u8>) -> bool {
        let _ = (op, reply, clients, out);
        false
    }

    /// Appends the line that tells of this client.
    fn describe(&self, facts: &ClientFacts<'_>, out: &mut Vec<u8>) {
        let _ = (facts, out);
    }

    /// What kind of connection this is.
    fn kind(&self) -> ClientKind {
        ClientKind::Normal
    }

    /// Who the client is, as lists of clients show it.
    fn shown_user(&self) -> &str {
        "default"
    }

    /// Refines affinities and answers calls that concern the connection only, by setting [`crate::Verdict`], from call
    /// `from` on. The state is `batch.session`.
    ///
    /// It stops before and behind every call that changes the state: what was sent before that call must be under way
    /// before the state changes, and whether the call itself is sent at all is not known yet.
    fn on_requests(batch: &mut Batch<'_, P>, from: usize) -> Looked;

    /// `call` was shown to [`Session::on_requests`], but a filter or the lack of an upstream refused it. What it would
    /// have changed is taken back. Returns `true` if the client cannot be served any further: the connection is closed
    /// after the refusal.
    fn on_refused(&mut self, call: &Call) -> bool {
        let _ = call;
        false
    }

    /// Appends what a dedicated connection must be told before this client's first call on it, and returns how many
    /// replies to it are to be swallowed.
    fn introduction(&mut self, out: &mut Vec<u8>) -> u32 {
        let _ = out;
        0
    }

    /// What the server must be told before the client's replies are not counted any more. It gets no reply. Empty if there
    /// is nothing.
    fn hush(&self) -> &'static [u8] {
        &[]
    }

    /// A request to be sent on the dedicated connection right before the client's next call, whose reply nobody gets. Empty
    /// if there is none. It makes the server fail a transaction that had a command refused on its way.
    fn spoiler(&mut self) -> &'static [u8] {
        &[]
    }

    /// Appends what makes the dedicated connection forget this client, before another one gets it, and returns how many
    /// replies to it are to be swallowed.
    fn farewell(&mut self, out: &mut Vec<u8>) -> u32 {
        let _ = out;
        0
    }

    /// Whether the dedicated connection that this client gives back, with nothing in flight, is fit for no other one.
    fn is_spent(&mut self) -> bool {
        false
    }

    /// Called with the outcome of each call of [`Affinity::Attempt`] and [`Affinity::Barrier`]. Returns whether a
    /// dedicated connection that the client has is still needed.
    fn on_barrier_done(&mut self, op: OpId, outcome: Outcome) -> bool {
        let _ = (op, outcome);
        true
    }

    /// The upstream has answered a call that waited alone by itself, with these bytes.
    fn on_answer(&mut self, op: OpId, answer: &[u8]) {
        let _ = (op, answer);
    }

    /// Whether messages may come at any time.
    fn is_listening(&self) -> bool {
        false
    }

    /// The upstream sees to `call` itself, so that no dedicated connection is bound by it.
    fn on_seen_to(&mut self, call: &Call) {
        let _ = call;
    }

    /// The client logs in at servers that share the keys, as the cluster's login with this number, which holds once they agree.
    fn on_login(&mut self, login: u8) {
        let _ = login;
    }

    /// Which kind of upstream connection this client needs: [`kind_of`] (RESP version) and [`login_of`]. 0 is the plain one.
    fn profile(&self) -> u8 {
        0
    }

    /// The state of a client that needs connections of this kind and has said nothing else.
    fn of_profile(profile: u8) -> Self {
        let _ = profile;
        Self::default()
    }

    /// The database that the client has selected, where mecha knows databases; see [`Session::select`].
    fn database(&self) -> u32 {
        0
    }

    /// The client has selected a database that mecha, and not the upstream, gives a meaning to.
    fn select(&mut self, database: u32) {
        let _ = database;
    }

    /// Whether mecha alone holds this state, so that the client's next call may go to another backend.
    fn is_portable(&self) -> bool {
        true
    }

    /// Whether `call` must be shown to [`Session::on_requests`] in this state.
    fn concerns(&self, call: &Call) -> bool {
        call.affinity != Affinity::Shared
    }
}
