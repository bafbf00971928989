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

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use mecha_core::{Done, Outcome, Refusal, Ticket};
use mecha_filters::kafka::{Body, KafkaFilter, Refused, Wants};
use mecha_kafka::api_versions;
use mecha_kafka::errors::{Reason, refuse};
use mecha_kafka::frame::{Item, RequestHead, ResponseHead, Scanner, Want};
use mecha_kafka::pending::Acks;
use mecha_kafka::table::ApiKey;
use mecha_telemetry::CloseReason;

use super::conversation::Conversation;
use super::op_of;
use crate::session::opaque::{Between, Goes};

/// Bytes of a request or a response that a filter wants to see.
const MAX_WHOLE: u32 = 64 << 20;

/// Bytes of memory that are kept for bodies.
const KEPT: usize = 16 << 10;

/// The filters of one client.
pub(super) struct Stage {
    filters: Vec<Box<dyn KafkaFilter>>,
    requests: Scanner<RequestHead>,
    responses: Scanner<ResponseHead>,
    /// Bytes that were not taken, of the client and of brokers: less than a head.
    held: [Vec<u8>; 2],
    /// The request that is awaited whole.
    head: Option<RequestHead>,
    /// The answer that is awaited whole.
    coming: Option<(ResponseHead, Asked)>,
    asked: VecDeque<Asked>,
    /// What filters want to know about requests that they have seen: one of each, for each.
    notes: VecDeque<u64>,
    body: Vec<u8>,
    room: Vec<u8>,
    done: Vec<Done>,
}

/// A request that waits for its answer.
struct Asked {
    key: ApiKey,
    version: i16,
    correlation: i32,
    what: What,
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
    pub(super) fn new(filters: Vec<Box<dyn KafkaFilter>>, max_frame: u32) -> Self {
        Self {
            filters,
            requests: Scanner::new(max_frame),
            responses: Scanner::new(i32::MAX as u32),
            held: [Vec::new(), Vec::new()],
            head: None,
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
        self.requests.is_between() && self.responses.is_between() && self.held.iter().all(Vec::is_empty)
    }

    /// Whether a request has begun, and not ended.
    pub(super) fn has_begun(&self) -> bool {
        let [up, _] = &self.held;
        !self.requests.is_between() || !up.is_empty()
    }

    fn wants(&self, key: ApiKey, version: i16) -> Wants {
        let wants = self.filters.iter().map(|filter| filter.wants(key, version)).max();
        wants.unwrap_or(Wants::Nothing)
    }

    /// What the client sent. What goes on is appended to `out`.
    pub(super) fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CloseReason> {
        let [held, _] = &mut self.held;
        let mut joined = std::mem::take(held);
        let input = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let mut requests = std::mem::replace(&mut self.requests, Scanner::new(0));
        let taken = self.requests_in(&mut requests, input, out);
        self.requests = requests;
        let [held, _] = &mut self.held;
        held.extend_from_slice(input.get(taken?..).unwrap_or_default());
        Ok(())
    }

    fn requests_in(
        &mut self,
        requests: &mut Scanner<RequestHead>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, CloseReason> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let (taken, item) = requests.next(rest).map_err(|error| {
                tracing::debug!(?error, "a client does not speak Kafka");
                CloseReason::Protocol
            })?;
            at += taken;
            match item {
                Item::Head(head) => {
                    let RequestHead { key, version, correlation, body } = head;
                    // Whether there will be an answer to one that produces, only its body says.
                    if key != ApiKey::PRODUCE && self.wants(key, version) == Wants::Nothing {
                        head.write(out);
                        self.asked.push_back(Asked { key, version, correlation, what: What::Passes });
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
                    self.head = Some(head);
                }
                Item::Piece { len, .. } => out.extend_from_slice(rest.get(..len).unwrap_or_default()),
                Item::Whole(body) => {
                    let head = self.head.take().ok_or(CloseReason::Bug)?;
                    self.request(head, body, out)?;
                }
                Item::More => return Ok(at),
            }
        }
    }

    /// A request came that is there as a whole.
    fn request(&mut self, head: RequestHead, body: &[u8], out: &mut Vec<u8>) -> Result<(), CloseReason> {
        let RequestHead { key, version, correlation, .. } = head;
        let is_answered = key != ApiKey::PRODUCE || {
            let mut acks = Acks::new(version, head.body).map_err(|_| CloseReason::Protocol)?;
            acks.push(body).map_err(|_| CloseReason::Protocol)?.ok_or(CloseReason::Protocol)? != 0
        };
        self.body.clear();
        self.body.shrink_to(KEPT);
        self.room.shrink_to(KEPT);
        self.body.extend_from_slice(body);
        let before = self.notes.len();
        for filter in &mut self.filters {
            let (bytes, room) = (&mut self.body, &mut self.room);
            let mut request = Body { key, version, bytes, room, note: 0 };
            let judged = match filter.wants(key, version) {
                Wants::Nothing => Ok(()),
                Wants::Request | Wants::Both => filter.on_request(&mut request),
            };
            self.notes.push_back(request.note);
            if let Err(refused) = judged {
                self.notes.truncate(before);
                return self.refuse((head, body), refused, is_answered, out);
            }
        }
        RequestHead { body: self.body.len() as u32, ..head }.write(out);
        out.extend_from_slice(&self.body);
        if is_answered {
            self.asked.push_back(Asked { key, version, correlation, what: What::Seen });
        } else {
            self.notes.truncate(before);
        }
        Ok(())
    }

    /// Something else is asked in its place.
    fn refuse(
        &mut self,
        (head, body): (RequestHead, &[u8]),
        refused: Refused,
        is_answered: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), CloseReason> {
        let RequestHead { key, version, correlation, .. } = head;
        let Refused::With(code, message) = refused else {
            tracing::warn!(api = key.name(), version, "a client sends what is no request");
            return Err(CloseReason::Protocol);
        };
        tracing::debug!(api = key.name(), code = code.0, message, "a request is refused");
        let outcome = Outcome::Refused(Refusal::Denied);
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
        self.asked.push_back(Asked { key, version, correlation, what: What::Refused(answer) });
        Ok(())
    }

    /// What is for the client. What goes on is appended to `out`.
    pub(super) fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CloseReason> {
        let [_, held] = &mut self.held;
        let mut joined = std::mem::take(held);
        let input = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let mut responses = std::mem::replace(&mut self.responses, Scanner::new(0));
        let taken = self.responses_in(&mut responses, input, out);
        self.responses = responses;
        let [_, held] = &mut self.held;
        held.extend_from_slice(input.get(taken?..).unwrap_or_default());
        Ok(())
    }

    fn responses_in(
        &mut self,
        responses: &mut Scanner<ResponseHead>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, CloseReason> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let (taken, item) = responses.next(rest).map_err(|_| CloseReason::UpstreamLost)?;
            at += taken;
            match item {
                Item::Head(head) => {
                    let asked = self.asked.pop_front_if(|asked| asked.correlation == head.correlation);
                    let asked = asked.ok_or(CloseReason::UpstreamLost)?;
                    let is_wanted = match &asked.what {
                        What::Passes => asked.key == ApiKey::API_VERSIONS,
                        What::Refused(_) => true,
                        What::Seen => self.wants(asked.key, asked.version) == Wants::Both,
                    };
                    if !is_wanted {
                        if matches!(asked.what, What::Seen) {
                            self.notes.drain(..self.filters.len().min(self.notes.len()));
                        }
                        head.write(out);
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
                Item::Piece { len, .. } => out.extend_from_slice(rest.get(..len).unwrap_or_default()),
                Item::Whole(body) => {
                    let (head, asked) = self.coming.take().ok_or(CloseReason::Bug)?;
                    self.response(head, asked, body, out)?;
                }
                Item::More => return Ok(at),
            }
        }
    }

    /// An answer came that is there as a whole.
    fn response(
        &mut self,
        head: ResponseHead,
        asked: Asked,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CloseReason> {
        let Asked { key, version, .. } = asked;
        match asked.what {
            What::Refused(answer) => self.body = answer,
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
                let count = self.filters.len();
                for (at, filter) in self.filters.iter_mut().enumerate().rev() {
                    let note = self.notes.get(at).copied().unwrap_or_default();
                    let (bytes, room) = (&mut self.body, &mut self.room);
                    if filter.wants(key, version) == Wants::Both {
                        let seen = filter.on_response(&mut Body { key, version, bytes, room, note });
                        seen.map_err(|_| CloseReason::UpstreamLost)?;
                    }
                }
                self.notes.drain(..count.min(self.notes.len()));
            }
        }
        ResponseHead { body: self.body.len() as u32, ..head }.write(out);
        out.extend_from_slice(&self.body);
        Ok(())
    }

    /// Bytes to come of an answer that nobody wants to see.
    fn unseen_down(&self) -> usize {
        let [_, held] = &self.held;
        if held.is_empty() && self.coming.is_none() { self.responses.unseen() } else { 0 }
    }
}

/// A client and one broker, with filters between them if there are any.
pub struct Staged {
    conversation: Conversation,
    stage: Option<Box<Stage>>,
    /// What has left the one, and goes to the other.
    between: Vec<u8>,
}

impl Staged {
    pub(super) fn new(conversation: Conversation, stage: Option<Box<Stage>>) -> Self {
        Self { conversation, stage, between: Vec::new() }
    }

    /// Requests that were answered since this was last asked.
    pub(super) fn take_done(&mut self, mut take: impl FnMut(&[Done])) {
        if let Some(stage) = &mut self.stage {
            stage.take_done(&mut take);
        }
        self.conversation.take_done(take);
    }
}

impl Between for Staged {
    fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let Some(stage) = &mut self.stage else { return self.conversation.up(bytes, out) };
        self.between.clear();
        self.between.shrink_to(KEPT);
        stage.up(bytes, &mut self.between)?;
        if let Goes::AsIs(len) = self.conversation.up(&self.between, out)? {
            out.extend_from_slice(self.between.get(..len).unwrap_or_default());
        }
        Ok(Goes::Written)
    }

    fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let Some(stage) = &mut self.stage else { return self.conversation.down(bytes, out) };
        self.between.clear();
        self.between.shrink_to(KEPT);
        let came = match self.conversation.down(bytes, &mut self.between)? {
            Goes::AsIs(len) => bytes.get(..len).unwrap_or_default(),
            Goes::Written => &self.between,
        };
        stage.down(came, out)?;
        Ok(Goes::Written)
    }

    fn resumes(&self) -> bool {
        self.conversation.resumes()
    }

    fn takes_more(&self) -> bool {
        // What has begun is awaited whole, and then kept by the conversation if it can take no more.
        self.conversation.takes_more() || self.stage.as_ref().is_some_and(|stage| stage.has_begun())
    }

    fn outlives_client(&self) -> bool {
        self.conversation.outlives_client()
    }

    fn unseen_up(&self) -> usize {
        if self.stage.is_some() { 0 } else { self.conversation.unseen_up() }
    }

    fn passed_up(&mut self, bytes: usize) {
        self.conversation.passed_up(bytes);
    }

    fn unseen_down(&self) -> usize {
        let unseen = self.conversation.unseen_down();
        self.stage.as_ref().map_or(unseen, |stage| unseen.min(stage.unseen_down()))
    }

    fn passed_down(&mut self, bytes: usize) {
        self.conversation.passed_down(bytes);
        if let Some(stage) = &mut self.stage {
            stage.responses.passed(bytes);
        }
    }

    fn drain(&mut self) {
        self.conversation.drain();
    }

    fn is_over(&self) -> bool {
        self.conversation.is_over() && self.stage.as_ref().is_none_or(|stage| stage.is_between())
    }

    fn in_flight(&self) -> usize {
        self.conversation.in_flight()
    }
}
