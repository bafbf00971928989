//! What a client and a broker say to each other, and what of it must be changed.
//!
//! ```text
//! client ──► heads: may it pass? what will its answer be? ───► broker
//! client ◄── as it is │ addresses, versions: rewritten ◄────── broker
//! ```
//!
//! Requests pass as they come: of each, the head is read, and remembered until its answer has come. Answers that say
//! where brokers are wait until they are whole, which is bounded, and are written anew; those to fetches, which may be large and
//! say it last, pass through a [`Rewriter`]. A request whose answer nobody could see through is not passed: the
//! connection ends, as a broker ends it that does not have the version. Clients do not ask so, since mecha says which
//! versions there are.
//!
//! A head that comes in two reads is held until the rest of it has come; nothing else is.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mecha_clusters::{Broker, Brokers};
use mecha_core::{Done, Outcome, Ticket};
use mecha_kafka::addresses::{self, Rewriter, Rewritten};
use mecha_kafka::api_versions;
use mecha_kafka::errors::Code;
use mecha_kafka::frame::{Head, Item, RequestHead, ResponseHead, Scanner, Want};
use mecha_kafka::pending::{Acks, InFlight, Pending};
use mecha_kafka::sasl::Login;
use mecha_kafka::schema::Versions;
use mecha_kafka::table::{ApiKey, Judgement, judge};
use mecha_telemetry::CloseReason;
use mecha_transport::{Address, Clock};

use super::figures::Figures;
use super::login::Renewal;
use super::{Host, op_of};
use crate::session::opaque::{Between, Goes};

/// Requests of one client without an answer. Clients have five by default, and a broker takes one at a time.
const MAX_IN_FLIGHT: usize = 1024;

/// Bytes of an answer that is rewritten as a whole: metadata of some hundred thousand partitions.
const MAX_WHOLE: u32 = 32 << 20;

/// Answers that say where brokers are at their end pass in pieces if they have more bytes than this.
const STREAM_ABOVE: u32 = 16 << 10;

/// Bytes of memory that are kept to write answers anew.
const KEPT: usize = 4 << 10;

/// What is remembered of a request besides what its answer must repeat.
#[derive(Clone, Copy, Debug)]
struct Note {
    since_micros: u64,
    /// Its messages are described.
    is_known: bool,
    /// mecha has sent it, and not the client.
    is_own: bool,
}

/// One client and one broker.
pub struct Conversation {
    brokers: Arc<Brokers>,
    /// The hosts that the client is told.
    host: Host,
    clock: Clock,
    /// The versions of each API that the client may know of, of those that there are.
    offered: fn(ApiKey, Versions) -> Versions,
    requests: Direction<RequestHead>,
    responses: Direction<ResponseHead>,
    pending: Pending<Note>,
    /// Finds out whether the request that is passing will be answered.
    acks: Option<Acks>,
    /// There is more from the client than may wait for answers.
    is_stalled: bool,
    coming: Coming,
    /// The request whose answer is passing, and how long that took to begin, in microseconds.
    answering: Option<(InFlight<Note>, u32)>,
    figures: Figures,
    /// Kept for the next answer that needs it.
    rewriter: Option<Rewriter>,
    /// Where answers are written anew.
    whole: Vec<u8>,
    done: Vec<Done>,
    is_draining: bool,
    /// The broker knows who mecha is.
    is_logged_in: bool,
    renewal: Option<Renewal>,
}

/// The answer that is coming.
enum Coming {
    /// One to mecha itself.
    Own,
    /// None, or one that passes.
    Passes,
    /// One that passes through the rewriter.
    Streamed(InFlight<Note>),
    /// One that is awaited whole.
    Whole(ResponseHead, InFlight<Note>),
}

/// One direction of bytes.
pub(super) struct Direction<H> {
    pub(super) scanner: Scanner<H>,
    /// Bytes that were given and not taken: less than a head, or all that came when no more requests may wait.
    pub(super) held: Vec<u8>,
}

/// Collects what goes on: nothing is copied as long as it is what came.
pub(super) struct Passing<'a> {
    pub(super) bytes: &'a [u8],
    /// The first so many bytes go on as they are.
    pub(super) as_is: usize,
    /// From here on `out` is what goes on.
    pub(super) is_written: bool,
    pub(super) out: &'a mut Vec<u8>,
}

impl Passing<'_> {
    /// These bytes of what was given go on as they are.
    pub(super) fn pass(&mut self, from: usize, len: usize) {
        if self.is_written {
            self.out.extend_from_slice(self.bytes.get(from..from + len).unwrap_or_default());
        } else if self.as_is == from {
            self.as_is = from + len;
        } else {
            // Something before them does not go on.
            self.write();
            self.pass(from, len);
        }
    }

    /// From now on what goes on is written.
    pub(super) fn write(&mut self) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.is_written, true) {
            self.out.extend_from_slice(self.bytes.get(..self.as_is).unwrap_or_default());
        }
        self.out
    }

    pub(super) fn goes(&self) -> Goes {
        if self.is_written { Goes::Written } else { Goes::AsIs(self.as_is) }
    }
}

// === impl Direction ===

impl<H> Direction<H> {
    pub(super) fn new(max_frame: u32) -> Self
    where
        H: Head,
    {
        Self { scanner: Scanner::new(max_frame), held: Vec::new() }
    }

    /// What was held and what came, if anything was held.
    pub(super) fn joined(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut held = std::mem::take(&mut self.held);
        (!held.is_empty()).then(|| {
            held.extend_from_slice(bytes);
            held
        })
    }
}

// === impl Conversation ===

impl Conversation {
    /// Nothing was said yet.
    pub(super) fn new(
        brokers: Arc<Brokers>,
        host: Host,
        (max_frame, clock): (u32, Clock),
        offered: fn(ApiKey, Versions) -> Versions,
        figures: Figures,
    ) -> Self {
        Self {
            brokers,
            host,
            clock,
            offered,
            requests: Direction::new(max_frame),
            // A broker is believed to know how large its answers are; they are not kept.
            responses: Direction::new(i32::MAX as u32),
            pending: Pending::new(MAX_IN_FLIGHT),
            acks: None,
            is_stalled: false,
            coming: Coming::Passes,
            answering: None,
            figures,
            rewriter: None,
            whole: Vec::new(),
            done: Vec::new(),
            is_draining: false,
            is_logged_in: false,
            renewal: None,
        }
    }

    /// The broker is told who mecha is, if `is_logged_in`. Then it must not be told anything else.
    pub(super) fn logged_in(self, is_logged_in: bool) -> Self {
        Self { is_logged_in, ..self }
    }

    /// This is the broker; `None` where nobody knows.
    pub(super) fn connected(&mut self, broker: Option<i32>) {
        self.figures.connected(broker);
    }

    /// The login has to be renewed some time.
    pub(super) fn renewing(mut self, renewal: Option<Renewal>) -> Self {
        self.renewal = renewal;
        self
    }

    /// Between two requests: goes on with the renewal of the login, if it is time. Whether the client has to wait for it.
    fn renew(&mut self, now: u64, passing: &mut Passing<'_>) -> Result<bool, CloseReason> {
        let Some(renewal) = &mut self.renewal else { return Ok(false) };
        if renewal.is_due(now) && !self.pending.is_full() {
            renewal.begin();
        }
        if renewal.has_request() {
            let correlation = renewal.take_request(passing.write());
            let note = Note { since_micros: now, is_known: true, is_own: true };
            let request = InFlight { key: ApiKey::SASL_AUTHENTICATE, version: 1, correlation, note };
            self.pending.sent(request).map_err(|_| CloseReason::Bug)?;
        }
        Ok(renewal.is_going())
    }

    /// Requests that were answered since this was last asked.
    pub(super) fn take_done(&mut self, mut take: impl FnMut(&[Done])) {
        if !self.done.is_empty() {
            take(&self.done);
            self.done.clear();
        }
    }

    /// A request begins.
    fn request(&mut self, head: RequestHead, now: u64) -> Result<(), CloseReason> {
        let judgement = judge(head.key, head.version);
        if judgement == Judgement::Refuse {
            let (api, version) = (head.key.0, head.version);
            tracing::warn!(api, version, "a client asks for what was not offered to it");
            return Err(CloseReason::Protocol);
        }
        if self.is_logged_in && matches!(head.key, ApiKey::SASL_HANDSHAKE | ApiKey::SASL_AUTHENTICATE) {
            tracing::warn!("a client wants to log in at a broker where mecha has logged in");
            return Err(CloseReason::Protocol);
        }
        let note = Note { since_micros: now, is_known: judgement == Judgement::Known, is_own: false };
        let RequestHead { key, version, correlation, body } = head;
        // There is room: nothing is read without.
        self.pending.sent(InFlight { key, version, correlation, note }).map_err(|_| CloseReason::Bug)?;
        if note.is_known {
            self.figures.request(&head);
        }
        if key == ApiKey::PRODUCE {
            self.acks = Some(Acks::new(version, body).map_err(|_| CloseReason::Protocol)?);
        }
        Ok(())
    }

    /// A piece of a request passes.
    fn piece(&mut self, piece: &[u8], is_last: bool, now: u64) -> Result<(), CloseReason> {
        self.figures.request_piece(piece, is_last);
        let Some(acks) = &mut self.acks else { return Ok(()) };
        match acks.push(piece).map_err(|_| CloseReason::Protocol)? {
            Some(0) => {
                // Passed is all that will ever be known of it.
                if let Some(request) = self.pending.forget_last() {
                    let micros = took(&request, now);
                    self.answered(&request, micros, Some(Code::NONE));
                }
            }
            Some(_) => {}
            // A request that ends without saying so is none.
            None if is_last => return Err(CloseReason::Protocol),
            None => return Ok(()),
        }
        self.acks = None;
        Ok(())
    }

    /// A request was answered, with this error if that is known.
    fn answered(&mut self, request: &InFlight<Note>, micros: u32, code: Option<Code>) {
        let InFlight { key, version, correlation, .. } = *request;
        let (ticket, op) = (Ticket::default(), op_of(key));
        let outcome = match code {
            None | Some(Code::NONE) => Outcome::Ok,
            Some(code) if code.is_of_broker() => Outcome::ServerError,
            Some(_) => Outcome::ClientError,
        };
        self.done.push(Done { ticket, op, outcome, micros });
        self.figures.answered(key, version, correlation, code);
    }

    /// The answer that was passing has come to its end.
    fn passed(&mut self) {
        let code = self.figures.end();
        if let Some((request, micros)) = self.answering.take() {
            self.answered(&request, micros, code);
        }
    }

    /// An answer begins. What is sent instead of its head, if it is not passed.
    fn response(&mut self, head: ResponseHead, now: u64) -> Result<Option<ResponseHead>, CloseReason> {
        let Ok(request) = self.pending.answered(head.correlation) else {
            tracing::error!(got = head.correlation, "a broker answers what was not asked");
            return Err(CloseReason::UpstreamLost);
        };
        let InFlight { key, version, note, .. } = request;
        if note.is_own {
            if head.body > Login::MAX_ANSWER {
                return Err(CloseReason::UpstreamLost);
            }
            self.responses.scanner.want(Want::Whole);
            self.coming = Coming::Own;
            return Ok(None);
        }
        let is_changed = key == ApiKey::API_VERSIONS || note.is_known && key.has_addresses(version);
        if !is_changed {
            self.coming = Coming::Passes;
            self.begins(request, head, now);
            return Ok(None);
        }
        if head.body > STREAM_ABOVE && Rewriter::can(key, version) {
            let instead = match &mut self.rewriter {
                Some(rewriter) => rewriter.restart(key, version, head),
                None => Rewriter::new(key, version, head).map(|(rewriter, head)| {
                    self.rewriter = Some(rewriter);
                    head
                }),
            };
            let instead = instead.map_err(|error| broken(key, version, error))?;
            self.coming = Coming::Streamed(request);
            self.begins(request, head, now);
            return Ok(Some(instead));
        }
        if head.body > MAX_WHOLE {
            let bytes = head.body;
            tracing::error!(
                api = key.name(),
                bytes,
                limit = MAX_WHOLE,
                "an answer is too large to be rewritten"
            );
            return Err(CloseReason::UpstreamLost);
        }
        self.responses.scanner.want(Want::Whole);
        self.coming = Coming::Whole(head, request);
        Ok(None)
    }

    /// An answer begins that passes.
    fn begins(&mut self, request: InFlight<Note>, head: ResponseHead, now: u64) {
        let micros = took(&request, now);
        self.answering = Some((request, micros));
        if request.note.is_known {
            self.figures.begin(request.key, request.version, head.body);
        }
    }

    /// A piece of an answer comes, at a place of what was given.
    fn answer_piece(
        &mut self,
        (at, piece): (usize, &[u8]),
        is_last: bool,
        passing: &mut Passing<'_>,
    ) -> Result<(), CloseReason> {
        self.figures.piece(piece);
        let Coming::Streamed(request) = &self.coming else {
            passing.pass(at, piece.len());
            if is_last {
                self.passed();
            }
            return Ok(());
        };
        let request = *request;
        let (key, version) = (request.key, request.version);
        let rewriter = self.rewriter.as_mut().ok_or(CloseReason::Bug)?;
        let passed = rewriter.push(piece).map_err(|error| broken(key, version, error))?;
        passing.pass(at, passed);
        if is_last {
            let mut hidden = Hidden::new(&self.brokers, &self.host, key);
            let finished = rewriter.finish(&mut |node| hidden.hide(&node), passing.write());
            finished.map_err(|error| broken(key, version, error))?;
            self.coming = Coming::Passes;
            self.passed();
        }
        Ok(())
    }
}

impl Between for Conversation {
    fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let now = self.clock.micros();
        let joined = self.requests.joined(bytes);
        let input = joined.as_deref().unwrap_or(bytes);
        let mut passing = Passing { bytes: input, as_is: 0, is_written: joined.is_some(), out };
        let mut at = 0;
        self.is_stalled = false;
        loop {
            if self.requests.scanner.is_between()
                && (self.renew(now, &mut passing)? || self.pending.is_full())
            {
                self.is_stalled = at < input.len();
                break;
            }
            let rest = input.get(at..).unwrap_or_default();
            let (taken, item) = self.requests.scanner.next(rest).map_err(|error| {
                tracing::debug!(?error, "a client does not speak Kafka");
                CloseReason::Protocol
            })?;
            match item {
                Item::Head(head) => self.request(head, now)?,
                Item::Piece { len, is_last } => {
                    self.piece(rest.get(..len).unwrap_or_default(), is_last, now)?;
                }
                Item::More | Item::Whole(_) => break,
            }
            passing.pass(at, taken);
            at += taken;
        }
        let goes = passing.goes();
        self.requests.held.extend_from_slice(input.get(at..).unwrap_or_default());
        Ok(goes)
    }

    fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let now = self.clock.micros();
        let joined = self.responses.joined(bytes);
        let input = joined.as_deref().unwrap_or(bytes);
        let mut passing = Passing { bytes: input, as_is: 0, is_written: joined.is_some(), out };
        let mut at = 0;
        // Where the answer begins that is awaited whole, if it has begun in here.
        let mut began = None;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let (taken, item) = self.responses.scanner.next(rest).map_err(|error| {
                tracing::error!(?error, "a broker does not speak Kafka");
                CloseReason::UpstreamLost
            })?;
            match item {
                Item::More => {
                    at += taken;
                    break;
                }
                Item::Head(head) => match self.response(head, now)? {
                    Some(instead) => instead.write(passing.write()),
                    None if matches!(self.coming, Coming::Passes) => passing.pass(at, taken),
                    None => began = Some(at),
                },
                Item::Piece { len, is_last } => {
                    let piece = rest.get(..len).unwrap_or_default();
                    self.answer_piece((at, piece), is_last, &mut passing)?;
                }
                Item::Whole(body) => {
                    if matches!(self.coming, Coming::Own) {
                        began = None;
                        self.coming = Coming::Passes;
                        renewed(self.renewal.as_mut(), body, now)?;
                        at += taken;
                        continue;
                    }
                    let coming = std::mem::replace(&mut self.coming, Coming::Passes);
                    let Coming::Whole(head, request) = coming else { return Err(CloseReason::Bug) };
                    let mut hidden = Hidden::new(&self.brokers, &self.host, request.key);
                    let written =
                        rewritten(head, &request, body, &mut hidden, self.offered, &mut self.whole)?;
                    match (written, began.take()) {
                        // All of it is in what was given, one behind the other.
                        (Rewritten::Unchanged, Some(from)) => passing.pass(from, at + taken - from),
                        (Rewritten::Unchanged, None) => {
                            head.write(passing.write());
                            passing.write().extend_from_slice(body);
                        }
                        (Rewritten::Changed, _) => passing.write().extend_from_slice(&self.whole),
                    }
                    hidden.told_all();
                    let (key, version) = (request.key, request.version);
                    let is_known = request.note.is_known || key == ApiKey::API_VERSIONS;
                    let code = if is_known { self.figures.whole(key, version, body) } else { None };
                    let micros = took(&request, now);
                    self.answered(&request, micros, code);
                }
            }
            at += taken;
        }
        let goes = passing.goes();
        self.responses.held.extend_from_slice(input.get(at..).unwrap_or_default());
        Ok(goes)
    }

    fn resumes(&self) -> bool {
        match &self.renewal {
            Some(renewal) if renewal.is_going() => renewal.has_request(),
            _ => self.is_stalled && !self.pending.is_full(),
        }
    }

    fn takes_more(&self) -> bool {
        let is_between = self.requests.scanner.is_between();
        if let Some(renewal) = self.renewal.as_ref().filter(|renewal| renewal.is_going()) {
            return renewal.has_request();
        }
        let is_begun = !self.requests.held.is_empty() && !self.is_stalled;
        !is_between || !self.pending.is_full() && (!self.is_draining || is_begun)
    }

    fn outlives_client(&self) -> bool {
        true
    }

    fn unseen_up(&self) -> usize {
        let is_looked_at =
            self.acks.is_some() || self.figures.sees_request() || !self.requests.held.is_empty();
        if is_looked_at { 0 } else { self.requests.scanner.unseen() }
    }

    fn passed_up(&mut self, bytes: usize) {
        self.requests.scanner.passed(bytes);
    }

    fn unseen_down(&self) -> usize {
        let passing = self.responses.scanner.unseen().min(self.figures.unseen());
        match (&self.coming, &self.rewriter) {
            _ if !self.responses.held.is_empty() => 0,
            (Coming::Passes, _) => passing,
            (Coming::Streamed(_), Some(rewriter)) => passing.min(rewriter.unseen()),
            _ => 0,
        }
    }

    fn passed_down(&mut self, bytes: usize) {
        self.responses.scanner.passed(bytes);
        self.figures.passed(bytes);
        if let (Coming::Streamed(_), Some(rewriter)) = (&self.coming, &mut self.rewriter) {
            rewriter.passed(bytes);
        }
    }

    fn drain(&mut self) {
        self.is_draining = true;
    }

    fn is_over(&self) -> bool {
        self.is_draining
            && self.pending.is_empty()
            && self.requests.scanner.is_between()
            && self.requests.held.is_empty()
            && self.responses.scanner.is_between()
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

/// Microseconds that a request has taken by now.
fn took(request: &InFlight<Note>, now: u64) -> u32 {
    u32::try_from(now.saturating_sub(request.note.since_micros)).unwrap_or(u32::MAX)
}

/// A broker has answered to mecha.
fn renewed(renewal: Option<&mut Renewal>, body: &[u8], now: u64) -> Result<(), CloseReason> {
    renewal.ok_or(CloseReason::Bug)?.answered(body, now).map_err(|failed| {
        tracing::error!(%failed, "mecha cannot renew its login at a broker");
        CloseReason::UpstreamLost
    })
}

/// Writes an answer anew, with its head, into `out`.
fn rewritten(
    head: ResponseHead,
    request: &InFlight<Note>,
    body: &[u8],
    hidden: &mut Hidden<'_>,
    offered: fn(ApiKey, Versions) -> Versions,
    out: &mut Vec<u8>,
) -> Result<Rewritten, CloseReason> {
    let (key, version) = (request.key, request.version);
    out.clear();
    out.shrink_to(KEPT);
    head.write(out);
    let rewritten = if key == ApiKey::API_VERSIONS {
        // Once for each connection.
        let mut narrowed = BytesMut::new();
        let narrow =
            api_versions::narrow(version, Bytes::copy_from_slice(body), &mut { offered }, &mut narrowed);
        out.extend_from_slice(&narrowed);
        narrow.map(|()| Rewritten::Changed)
    } else {
        addresses::rewrite(key, version, body, &mut |node| hidden.hide(&node), out)
    };
    let rewritten = rewritten.map_err(|error| broken(key, version, error))?;
    let body = u32::try_from(out.len() - ResponseHead::SIZE).map_err(|_| CloseReason::UpstreamLost)?;
    let mut anew = Vec::with_capacity(ResponseHead::SIZE);
    ResponseHead { body, ..head }.write(&mut anew);
    out.splice(..ResponseHead::SIZE, anew);
    Ok(rewritten)
}

/// What clients are told instead of where brokers are.
struct Hidden<'a> {
    brokers: &'a Brokers,
    host: &'a Host,
    /// Whether these are addresses for clients: controllers, for one, have others.
    is_for_clients: bool,
    /// Whether the message names all brokers that there are.
    is_all: bool,
    named: Vec<Broker>,
}

impl<'a> Hidden<'a> {
    fn new(brokers: &'a Brokers, host: &'a Host, key: ApiKey) -> Self {
        let others = [
            ApiKey::FIND_COORDINATOR,
            ApiKey::PRODUCE,
            ApiKey::FETCH,
            ApiKey::SHARE_FETCH,
            ApiKey::SHARE_ACKNOWLEDGE,
        ];
        let is_all = key == ApiKey::METADATA;
        Self { brokers, host, is_for_clients: is_all || others.contains(&key), is_all, named: Vec::new() }
    }

    /// What to say instead; what is said is remembered.
    fn hide(&mut self, node: &addresses::Node<'_>) -> addresses::Address<'a> {
        if self.is_for_clients
            && let Some(broker) = broker(node)
        {
            self.brokers.learn([broker.clone()], false);
            self.named.push(broker);
        }
        addresses::Address { host: self.host.of(node.id), port: self.brokers.port_of(node.id) }
    }

    /// The message has named everybody.
    fn told_all(self) {
        if self.is_all {
            self.brokers.learn(self.named, true);
        }
    }
}

/// An answer that cannot be understood cannot be passed either.
fn broken(key: ApiKey, version: i16, error: impl std::fmt::Debug) -> CloseReason {
    tracing::error!(api = key.name(), version, ?error, "an answer cannot be understood");
    CloseReason::UpstreamLost
}

/// A broker as a message names it; `None` if that leads nowhere.
pub(crate) fn broker(node: &addresses::Node<'_>) -> Option<Broker> {
    let host = std::str::from_utf8(node.host).ok().filter(|host| !host.is_empty())?;
    let port = u16::try_from(node.port).ok().filter(|port| *port > 0)?;
    let address = match host.parse() {
        Ok(ip) => Address::Tcp(std::net::SocketAddr::new(ip, port)),
        Err(_) => Address::Host(host.into(), port),
    };
    (node.id >= 0).then_some(Broker { id: node.id, address })
}
