//! What filters do between a client and whatever leads its requests.
//!
//! ```text
//! client ──► requests: seen by filters ──► Conversation, or Router ──► brokers
//! client ◄── answers: seen by filters  ◄───────────────────────────◄──
//! ```
//!
//! Bodies that a filter wants are awaited whole, which is bounded; others pass. A request that is refused must be answered in its
//! turn, behind whatever is under way, which only the brokers know: so a question that every broker answers at once goes
//! in its place, and its answer is exchanged.

mod beginning;
mod pause;
mod staged;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Context;

use bytes::{Bytes, BytesMut};
use mecha_core::{Call, Cx, Done, OpClass, Outcome, Peer, Refusal, Ticket, Verdict};
use mecha_filters::kafka::{Answer, Body, KafkaFilter, Refused, Rejection, Wants};
use mecha_kafka::api_versions;
use mecha_kafka::errors::{Code, Reason, codes, refuse};
use mecha_kafka::frame::{Head, Item, RequestHead, ResponseHead, Scanner, Want};
use mecha_kafka::pending::Acks;
use mecha_kafka::table::ApiKey;
use mecha_kafka::throttle;
use mecha_telemetry::{ApiMetrics, CloseReason};
use mecha_transport::Clock;

use self::beginning::Beginning;
use self::pause::{Opening, Pause};
pub(super) use self::staged::Staged;
use super::conversation::{Direction, Passing};
use super::reception::reason;
use super::{OPS, op_of};
use crate::session::opaque::{Goes, Judges};

/// Bytes of a request or a response that a filter wants to see.
const MAX_WHOLE: u32 = 64 << 20;

/// Bytes of memory that are kept for bodies.
const KEPT: usize = 16 << 10;

/// The filters and policies of one client.
pub(super) struct Stage {
    filters: Vec<Box<dyn KafkaFilter>>,
    policies: Option<Policies>,
    apis: Arc<ApiMetrics>,
    clock: Clock,
    /// The client is to send nothing more for a while.
    pause: Pause,
    /// The answer has to be counted before anything else may pass.
    is_metering: bool,
    /// There is more from the client than may pass before that is over.
    is_stalled: bool,
    /// The beginning of the answer that passes, if it says that the client is to wait.
    opening: Option<Opening>,
    requests: Direction<RequestHead>,
    responses: Direction<ResponseHead>,
    /// The request that is awaited whole, since when, and why policies refuse it.
    head: Option<(RequestHead, u64, Option<Refusal>)>,
    /// The request to produce of which the beginning is awaited.
    beginning: Option<Beginning>,
    /// The answer that is awaited whole.
    coming: Option<(ResponseHead, Asked)>,
    asked: VecDeque<Asked>,
    /// What filters want to know about requests that they have seen: one of each, for each.
    notes: VecDeque<u64>,
    body: Vec<u8>,
    room: Vec<u8>,
    done: Vec<Done>,
}

/// What is asked about each request, and by whom.
type Policies = (Judges, Peer);

/// Bytes of an answer that is looked at for errors.
const MAX_JUDGED: u32 = 64 << 10;

/// A request that waits for its answer.
struct Asked {
    key: ApiKey,
    version: i16,
    correlation: i32,
    what: What,
    /// 0 if no policy was asked.
    since_micros: u64,
}

enum What {
    /// Nobody wants to see it.
    Passes,
    /// Filters have seen the request.
    Seen,
    /// It was refused, and this is its answer.
    Refused(Vec<u8>),
}

impl Stage {
    /// At the beginning of a connection.
    pub(super) fn new(
        filters: Vec<Box<dyn KafkaFilter>>,
        policies: Option<Policies>,
        (max_frame, clock): (u32, Clock),
        apis: Arc<ApiMetrics>,
    ) -> Self {
        Self {
            filters,
            policies,
            apis,
            clock,
            pause: Pause::default(),
            is_metering: false,
            is_stalled: false,
            opening: None,
            requests: Direction::new(max_frame),
            responses: Direction::new(i32::MAX as u32),
            head: None,
            beginning: None,
            coming: None,
            asked: VecDeque::new(),
            notes: VecDeque::new(),
            body: Vec::new(),
            room: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Requests that were refused since this was last asked.
    pub(super) fn take_done(&mut self, take: &mut dyn FnMut(&[Done])) {
        if !self.done.is_empty() {
            take(&self.done);
            self.done.clear();
        }
    }

    /// Whether nothing has begun that has not ended.
    pub(super) fn is_between(&self) -> bool {
        !self.has_begun() && self.responses.scanner.is_between() && self.responses.held.is_empty()
    }

    /// Whether a request has begun, and not ended.
    pub(super) fn has_begun(&self) -> bool {
        !self.requests.scanner.is_between() || !self.requests.held.is_empty() && !self.is_stalled
    }

    /// Whether nothing may be read from the client now.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_on() || self.is_metering
    }

    /// Looks at the head of the next request, which may have to wait for what others have taken.
    fn owe(&mut self, input: &[u8]) {
        let head = input.get(..RequestHead::SIZE).and_then(RequestHead::read);
        let Some(key) = head.map(|head| head.key).filter(|key| is_metered(*key)) else { return };
        if !self.filters.is_empty() {
            let now_micros = self.clock.micros();
            let owed = self.filters.iter().map(|filter| filter.owes(key, now_micros)).max();
            self.pause.extend(owed.unwrap_or(0), now_micros);
        }
    }

    /// Whether it kept bytes of the client that it can go on with when it may.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Whether the client may go on, who might not before. The task is woken when it may.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> bool {
        self.pause.poll(cx, self.clock)
    }

    /// The connection is about to end, and nobody has to wait.
    pub(super) fn drain(&mut self) {
        self.pause.drain();
    }

    fn wants(&self, key: ApiKey, version: i16) -> Wants {
        let wants = self.filters.iter().map(|filter| filter.wants(key, version)).max();
        wants.unwrap_or(Wants::Nothing)
    }

    /// What the client sent. What goes on that is not as it came is appended to `out`.
    pub(super) fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        self.is_stalled = false;
        let mut requests = std::mem::replace(&mut self.requests, Direction::new(0));
        let joined = requests.joined(bytes);
        let input = joined.as_deref().unwrap_or(bytes);
        let mut passing = Passing { bytes: input, as_is: 0, is_written: joined.is_some(), out };
        let taken = self.requests_in(&mut requests.scanner, input, &mut passing);
        if let Some(begun) = &mut self.beginning {
            begun.is_apart();
        }
        let goes = passing.goes();
        self.requests = requests;
        self.requests.held.extend_from_slice(input.get(taken?..).unwrap_or_default());
        Ok(goes)
    }

    fn requests_in(
        &mut self,
        requests: &mut Scanner<RequestHead>,
        input: &[u8],
        passing: &mut Passing<'_>,
    ) -> Result<usize, CloseReason> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            if requests.is_between() {
                self.owe(rest);
                if self.is_paused() {
                    self.is_stalled = !rest.is_empty();
                    return Ok(at);
                }
            }
            let (taken, item) = requests.next(rest).map_err(|error| {
                tracing::debug!(?error, "a client does not speak Kafka");
                CloseReason::Protocol
            })?;
            let from = at;
            at += taken;
            match item {
                Item::Head(head) => {
                    let RequestHead { key, version, correlation, body } = head;
                    let (since_micros, refusal) = self.judge(key);
                    let wants = self.wants(key, version);
                    if key == ApiKey::PRODUCE && wants <= Wants::Beginning && refusal.is_none() {
                        // Whether there will be an answer, only its body says.
                        self.beginning = Some(Beginning::new(head, since_micros, from));
                        continue;
                    }
                    if wants == Wants::Nothing && refusal.is_none() {
                        self.meter(key);
                        passing.pass(from, taken);
                        let what = What::Passes;
                        self.asked.push_back(Asked { key, version, correlation, what, since_micros });
                        continue;
                    }
                    if body > MAX_WHOLE {
                        tracing::warn!(
                            api = key.name(),
                            bytes = body,
                            limit = MAX_WHOLE,
                            "a request is too large for filters"
                        );
                        return Err(CloseReason::Protocol);
                    }
                    requests.want(Want::Whole);
                    self.head = Some((head, since_micros, refusal));
                }
                Item::Piece { len, is_last } => match self.beginning.take() {
                    Some(begun) => {
                        let piece = rest.get(..len).unwrap_or_default();
                        self.begin(begun, (from, piece), is_last, passing)?;
                    }
                    None => passing.pass(from, len),
                },
                Item::Whole(body) => {
                    let (head, since_micros, refusal) = self.head.take().ok_or(CloseReason::Bug)?;
                    self.request((head, since_micros), refusal, body, passing.write())?;
                }
                Item::More => return Ok(at),
            }
        }
    }

    /// A request passes.
    fn meter(&mut self, key: ApiKey) {
        self.is_metering |= is_metered(key) && self.filters.iter().any(|filter| filter.meters(key));
    }

    /// Asks policies about a request that begins: when that was, and why it may not pass.
    fn judge(&self, key: ApiKey) -> (u64, Option<Refusal>) {
        let Some((judges, peer)) = &self.policies else { return (0, None) };
        let (op, now_micros) = (op_of(key), self.clock.micros());
        let class = OPS.get(usize::from(op.0)).map_or(OpClass::Session, |info| info.class);
        // Without them nobody could even be told.
        if key == ApiKey::API_VERSIONS || class == OpClass::Session {
            return (0, None);
        }
        let mut calls = [Call { op, class, ..Call::default() }];
        let cx = Cx { now_micros, peer };
        judges.borrow_mut().iter_mut().for_each(|policy| policy.on_calls(&mut calls, &cx));
        let [call] = calls;
        let refusal = match call.verdict {
            Verdict::Refuse(why) => Some(why),
            Verdict::Answered(_) | Verdict::Forward => None,
        };
        (now_micros.max(1), refusal)
    }

    /// Tells policies how a request ended that they were asked about.
    fn ended(&self, key: ApiKey, since_micros: u64, outcome: Outcome) {
        let Some((judges, peer)) = self.policies.as_ref().filter(|_| since_micros > 0) else { return };
        let now_micros = self.clock.micros();
        let micros = u32::try_from(now_micros.saturating_sub(since_micros)).unwrap_or(u32::MAX);
        let done = [Done { ticket: Ticket::default(), op: op_of(key), outcome, micros }];
        let cx = Cx { now_micros, peer };
        judges.borrow_mut().iter_mut().rev().for_each(|policy| policy.on_done(&done, &cx));
    }

    /// A request came that is there as a whole.
    fn request(
        &mut self,
        (head, since_micros): (RequestHead, u64),
        refusal: Option<Refusal>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CloseReason> {
        let RequestHead { key, version, correlation, .. } = head;
        let is_answered = key != ApiKey::PRODUCE || {
            let mut acks = Acks::new(version, head.body).map_err(|_| CloseReason::Protocol)?;
            acks.push(body).map_err(|_| CloseReason::Protocol)?.ok_or(CloseReason::Protocol)? != 0
        };
        if let Some(why) = refusal {
            self.ended(key, since_micros, Outcome::Refused(why));
            let Reason { code, message, .. } = reason(why, key);
            let refused = Refused::With(code, message.unwrap_or_default());
            return self.refuse((head, body), (refused, why, 0), is_answered, out);
        }
        self.body.clear();
        self.body.shrink_to(KEPT);
        self.room.shrink_to(KEPT);
        self.body.extend_from_slice(body);
        let before = self.notes.len();
        let (now_micros, mut wait) = (self.clock.micros(), 0);
        for (at, filter) in self.filters.iter_mut().enumerate() {
            let (bytes, room) = (&mut self.body, &mut self.room);
            let size = head.body;
            let mut request = Body { key, version, bytes, size, room, note: 0, now_micros, wait_micros: 0 };
            let judged = match filter.wants(key, version) {
                Wants::Nothing => Ok(()),
                Wants::Beginning | Wants::Request | Wants::Both => filter.on_request(&mut request),
            };
            self.notes.push_back(request.note);
            wait = wait.max(request.wait_micros);
            if let Err(refused) = judged {
                self.notes.truncate(before);
                self.ended(key, since_micros, Outcome::Refused(Refusal::Denied));
                return self.refuse((head, body), (refused, Refusal::Denied, at), is_answered, out);
            }
        }
        self.pause.extend(wait, now_micros);
        RequestHead { body: self.body.len() as u32, ..head }.write(out);
        out.extend_from_slice(&self.body);
        self.meter(key);
        if is_answered {
            let what = What::Seen;
            self.asked.push_back(Asked { key, version, correlation, what, since_micros });
        } else {
            self.unanswered((key, version), before);
            self.ended(key, since_micros, Outcome::Ok);
        }
        Ok(())
    }

    /// Tells filters that the last request, whose notes are from here on, will have no answer.
    fn unanswered(&mut self, (key, version): (ApiKey, i16), before: usize) {
        for (filter, note) in self.filters.iter_mut().zip(self.notes.drain(before..)) {
            if filter.wants(key, version) != Wants::Nothing {
                filter.on_unanswered(note);
            }
        }
    }

    /// Something else is asked in its place. So many filters have let it pass.
    fn refuse(
        &mut self,
        (head, body): (RequestHead, &[u8]),
        (refused, why, passed): (Refused, Refusal, usize),
        is_answered: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), CloseReason> {
        let RequestHead { key, version, correlation, .. } = head;
        let Refused::With(code, message) = refused else {
            tracing::warn!(api = key.name(), version, "a client sends what is no request");
            return Err(CloseReason::Protocol);
        };
        tracing::debug!(api = key.name(), code = code.0, message, "a request is refused");
        for (at, filter) in self.filters.iter_mut().enumerate() {
            let was_seen = at < passed && filter.wants(key, version) != Wants::Nothing;
            let (bytes, reason) = (body, why.name());
            filter.on_rejected(&Rejection { key, version, bytes, code, message, reason, was_seen });
        }
        self.apis.answered(op_of(key), version, code.index());
        let outcome = Outcome::Refused(why);
        self.done.push(Done { ticket: Ticket::default(), op: op_of(key), outcome, micros: 0 });
        let reason = Reason { code, message: Some(message), throttle_millis: 0 };
        let mut answer = Vec::new();
        // Whoever wants no answer can only be told by the end of its connection, as by brokers.
        if !is_answered || refuse(key, version, body, reason, &mut answer) != Ok(true) {
            return Err(CloseReason::Refused);
        }
        // Of a client without a name, in the version that everybody has.
        const ANYBODY: [u8; 2] = (-1i16).to_be_bytes();
        RequestHead { key: ApiKey::API_VERSIONS, version: 0, correlation, body: ANYBODY.len() as u32 }
            .write(out);
        out.extend_from_slice(&ANYBODY);
        let what = What::Refused(answer);
        self.asked.push_back(Asked { key, version, correlation, what, since_micros: 0 });
        Ok(())
    }

    /// What is for the client. What goes on that is not as it came is appended to `out`.
    pub(super) fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let mut responses = std::mem::replace(&mut self.responses, Direction::new(0));
        let joined = responses.joined(bytes);
        let input = joined.as_deref().unwrap_or(bytes);
        let mut passing = Passing { bytes: input, as_is: 0, is_written: joined.is_some(), out };
        let taken = self.responses_in(&mut responses.scanner, input, &mut passing);
        let goes = passing.goes();
        self.responses = responses;
        self.responses.held.extend_from_slice(input.get(taken?..).unwrap_or_default());
        Ok(goes)
    }

    fn responses_in(
        &mut self,
        responses: &mut Scanner<ResponseHead>,
        input: &[u8],
        passing: &mut Passing<'_>,
    ) -> Result<usize, CloseReason> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let (taken, item) = responses.next(rest).map_err(|_| CloseReason::UpstreamLost)?;
            let from = at;
            at += taken;
            match item {
                Item::Head(head) => {
                    let asked = self.asked.pop_front_if(|asked| asked.correlation == head.correlation);
                    let asked = asked.ok_or(CloseReason::UpstreamLost)?;
                    let millis = self.wait_after(&asked, head.body);
                    let is_wanted = match &asked.what {
                        What::Passes if asked.key == ApiKey::API_VERSIONS => true,
                        What::Refused(_) => true,
                        // The time to wait is at its end.
                        What::Passes | What::Seen if asked.key == ApiKey::PRODUCE && millis > 0 => true,
                        What::Passes => false,
                        What::Seen => self.wants(asked.key, asked.version) == Wants::Both,
                    };
                    // Errors of brokers matter to policies, but not so much as to hold records up.
                    let is_judged = asked.since_micros > 0 && head.body <= MAX_JUDGED;
                    if !is_wanted && !is_judged {
                        if matches!(asked.what, What::Seen) {
                            self.notes.drain(..self.filters.len().min(self.notes.len()));
                        }
                        self.ended(asked.key, asked.since_micros, Outcome::Ok);
                        self.is_metering &= !is_metered(asked.key);
                        if millis > 0 {
                            self.opening = Opening::new(asked.key, asked.version, millis);
                        }
                        passing.pass(from, taken);
                        continue;
                    }
                    if head.body > MAX_WHOLE {
                        let (api, bytes) = (asked.key.name(), head.body);
                        tracing::error!(api, bytes, limit = MAX_WHOLE, "an answer is too large for filters");
                        return Err(CloseReason::UpstreamLost);
                    }
                    responses.want(Want::Whole);
                    self.coming = Some((head, asked));
                }
                Item::Piece { len, is_last } => {
                    let mut before = 0;
                    if let Some(opening) = &mut self.opening {
                        let piece = rest.get(..len).unwrap_or_default();
                        let (taken, is_over) = opening.take(piece, is_last, passing.write());
                        before = taken;
                        if is_over {
                            self.opening = None;
                        }
                    }
                    passing.pass(from + before, len - before);
                }
                Item::Whole(body) => {
                    let (head, asked) = self.coming.take().ok_or(CloseReason::Bug)?;
                    self.response(head, asked, body, passing.write())?;
                }
                Item::More => return Ok(at),
            }
        }
    }

    /// An answer begins: how many milliseconds its client is told to wait.
    fn wait_after(&mut self, asked: &Asked, bytes: u32) -> i32 {
        let (key, version) = (asked.key, asked.version);
        if !is_metered(key) || self.filters.is_empty() || matches!(asked.what, What::Refused(_)) {
            return 0;
        }
        let now_micros = self.clock.micros();
        let answer = Answer { key, version, bytes, now_micros };
        let wait = self.filters.iter_mut().map(|filter| filter.on_answer(&answer)).max();
        self.pause.extend(wait.unwrap_or(0), now_micros);
        self.pause.millis(now_micros)
    }

    /// An answer came that is there as a whole.
    fn response(
        &mut self,
        head: ResponseHead,
        asked: Asked,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CloseReason> {
        let Asked { key, version, since_micros, .. } = asked;
        if since_micros > 0 {
            self.ended(key, since_micros, outcome(key, version, body));
        }
        match asked.what {
            What::Refused(answer) => self.body = answer,
            What::Passes if key != ApiKey::API_VERSIONS => {
                self.body.clear();
                self.body.extend_from_slice(body);
            }
            What::Passes => {
                let mut narrowed = BytesMut::new();
                let mut limit = |key: ApiKey, versions| {
                    self.filters.iter().fold(versions, |versions, filter| filter.serves(key, versions))
                };
                api_versions::narrow(version, Bytes::copy_from_slice(body), &mut limit, &mut narrowed)
                    .map_err(|_| CloseReason::UpstreamLost)?;
                self.body.clear();
                self.body.extend_from_slice(&narrowed);
            }
            What::Seen => {
                self.body.clear();
                self.body.shrink_to(KEPT);
                self.room.shrink_to(KEPT);
                self.body.extend_from_slice(body);
                let (count, now_micros) = (self.filters.len(), self.clock.micros());
                for (at, filter) in self.filters.iter_mut().enumerate().rev() {
                    let note = self.notes.get(at).copied().unwrap_or_default();
                    let (bytes, room) = (&mut self.body, &mut self.room);
                    if filter.wants(key, version) == Wants::Both {
                        let size = head.body;
                        let mut body =
                            Body { key, version, bytes, size, room, note, now_micros, wait_micros: 0 };
                        filter.on_response(&mut body).map_err(|_| CloseReason::UpstreamLost)?;
                        self.pause.extend(body.wait_micros, now_micros);
                    }
                }
                self.notes.drain(..count.min(self.notes.len()));
            }
        }
        self.is_metering &= !is_metered(key);
        if is_metered(key) && self.pause.is_on() {
            let millis = self.pause.millis(self.clock.micros());
            throttle::set(key, version, &mut self.body, millis).map_err(|_| CloseReason::UpstreamLost)?;
        }
        ResponseHead { body: self.body.len() as u32, ..head }.write(out);
        out.extend_from_slice(&self.body);
        Ok(())
    }

    /// So many bytes have passed of the client, of those that nobody wants to see.
    fn passed_up(&mut self, bytes: usize) {
        self.requests.scanner.passed(bytes);
    }

    /// Bytes to come of a request that nobody wants to see.
    fn unseen_up(&self) -> usize {
        let is_seen = !self.requests.held.is_empty() || self.head.is_some() || self.beginning.is_some();
        if is_seen { 0 } else { self.requests.scanner.unseen() }
    }

    /// So many bytes have passed, of those that nobody wants to see.
    fn passed_down(&mut self, bytes: usize) {
        self.responses.scanner.passed(bytes);
    }

    /// Bytes to come of an answer that nobody wants to see.
    fn unseen_down(&self) -> usize {
        let is_seen = !self.responses.held.is_empty() || self.coming.is_some() || self.opening.is_some();
        if is_seen { 0 } else { self.responses.scanner.unseen() }
    }
}

/// Whether clients are told by its answers how long they are to wait.
fn is_metered(key: ApiKey) -> bool {
    [ApiKey::PRODUCE, ApiKey::FETCH, ApiKey::SHARE_FETCH].contains(&key)
}

/// What an answer has come to: what brokers say of themselves is an error of theirs, anything else of the client's.
fn outcome(key: ApiKey, version: i16, body: &[u8]) -> Outcome {
    let mut outcome = Outcome::Ok;
    let read = codes(key, version, body, &mut |code| {
        outcome = match code {
            Code::NONE => return,
            code if code.is_of_broker() => Outcome::ServerError,
            _ if outcome == Outcome::Ok => Outcome::ClientError,
            _ => return,
        };
    });
    read.map_or(Outcome::Ok, |()| outcome)
}
