//! What is said to a client before it is led to a broker, or instead of that.
//!
//! ```text
//! client ── ApiVersions ─────────► as the brokers have it, narrowed
//! client ── SaslHandshake ───────► the mechanisms that there are
//! client ── SaslAuthenticate ────► believed: it is led to a broker │ not: told so, and the connection ends
//! ```
//!
//! Where mecha has users, a client is one of them before it has a connection to a broker: who nobody knows costs the brokers
//! nothing. A client that cannot be led anywhere is told so in the answer to its first request, where that has a place for an error; what
//! has none (an old `Metadata`, a produce request without acknowledgement) ends with the connection, as at a
//! broker that is gone.
//!
//! Requests are taken one at a time and whole, which bounds what a stranger can make mecha hold, and for a bounded time.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mecha_core::Refusal;
use mecha_kafka::api_versions;
use mecha_kafka::errors::{self, Code, Reason};
use mecha_kafka::frame::{Head, RequestHead, ResponseHead};
use mecha_kafka::guard;
use mecha_kafka::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use mecha_kafka::pending::Acks;
use mecha_kafka::protocol::StrBytes;
use mecha_kafka::sasl::{Accounts, Mechanism, Step, Trial};
use mecha_kafka::schema::Versions;
use mecha_kafka::table::{ApiKey, Class};
use mecha_telemetry::CloseReason;
use mecha_transport::{ReadHalf, WriteHalf};
use tokio::io::AsyncReadExt;

use super::login::send;

/// How long a client may take until it is known, and how long one is listened to that is led nowhere.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the largest request of a client that is not known.
const MAX_BODY: u32 = 64 << 10;

/// Bytes of the largest request that is answered with an error.
const MAX_REFUSED: u32 = 1 << 20;

/// What a version of an API comes to when it is offered.
pub(super) type Limit<'l> = &'l mut dyn FnMut(ApiKey, Versions) -> Versions;

/// A client to which mecha speaks itself.
pub(super) struct Reception<'h> {
    read: &'h mut ReadHalf,
    write: &'h WriteHalf,
}

impl<'h> Reception<'h> {
    pub(super) fn new((read, write): &'h mut (ReadHalf, WriteHalf)) -> Self {
        Self { read, write }
    }

    /// The next request.
    async fn request(&mut self, max_body: u32) -> io::Result<(RequestHead, Bytes)> {
        let mut head = [0; RequestHead::SIZE];
        self.read.read_exact(&mut head).await?;
        let head = RequestHead::read(&head).filter(|head| head.body <= max_body);
        let head = head.ok_or(io::ErrorKind::InvalidData)?;
        // No more is reserved than what comes: a head is only a claim.
        let mut body = BytesMut::new();
        let left = (&mut *self.read).take(u64::from(head.body));
        tokio::pin!(left);
        while body.len() < head.body as usize {
            if left.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((head, body.freeze()))
    }

    async fn answer(&mut self, head: RequestHead, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(ResponseHead::SIZE + body.len());
        ResponseHead { correlation: head.correlation, body: body.len() as u32 }.write(&mut frame);
        frame.extend_from_slice(body);
        send(self.read, self.write, &frame).await
    }

    /// Answers what versions there are.
    async fn versions(&mut self, head: RequestHead, limit: Limit<'_>) -> io::Result<()> {
        let mut body = BytesMut::new();
        api_versions::answer(head.version, limit, &mut body).map_err(|_| io::ErrorKind::InvalidData)?;
        self.answer(head, &body).await
    }

    /// Answers with an error. False if that cannot be.
    async fn refuse(&mut self, head: RequestHead, body: &[u8], reason: Reason<'_>) -> io::Result<bool> {
        if head.key == ApiKey::PRODUCE && !is_answered(head, body) {
            return Ok(false);
        }
        let mut answer = Vec::new();
        match errors::refuse(head.key, head.version, body, reason, &mut answer) {
            Ok(true) => self.answer(head, &answer).await.map(|()| true),
            Ok(false) | Err(_) => Ok(false),
        }
    }

    /// Nothing more will be said. What the client still says is read, since it might lose what it was told otherwise.
    async fn leave(&mut self) {
        self.write.finish();
        let mut buffer = [0; 512];
        let reading = async { while self.read.read(&mut buffer).await.is_ok_and(|len| len > 0) {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
    }

    /// Lets the client prove who it is: the name of its user.
    ///
    /// # Errors
    /// Why the connection ends. The client was told, where it can be told.
    pub(super) async fn log_in(
        &mut self,
        mechanisms: &[Mechanism],
        accounts: &mut dyn Accounts,
        limit: Limit<'_>,
    ) -> Result<String, CloseReason> {
        let mut trial = None;
        loop {
            let (head, body) = self.request(MAX_BODY).await.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => CloseReason::Protocol,
                io::ErrorKind::UnexpectedEof => CloseReason::ClientLeft,
                _ => CloseReason::ReadFailed,
            })?;
            let said = match head.key {
                ApiKey::API_VERSIONS => self.versions(head, limit).await,
                ApiKey::SASL_HANDSHAKE => self.mechanism(head, body, mechanisms, &mut trial).await,
                ApiKey::SASL_AUTHENTICATE => match self.token(head, body, &mut trial, accounts).await {
                    Ok(Step::Done(name)) => return Ok(name),
                    Ok(Step::Denied) => {
                        self.leave().await;
                        return Err(CloseReason::Refused);
                    }
                    Ok(Step::Goes) => Ok(()),
                    Err(error) => Err(error),
                },
                _ => {
                    let message = Some("log in first: mecha knows its clients by SASL");
                    let reason = Reason { code: Code::ILLEGAL_SASL_STATE, message, throttle_millis: 0 };
                    if self.refuse(head, &body, reason).await.is_ok_and(|is_said| is_said) {
                        self.leave().await;
                    }
                    return Err(CloseReason::Refused);
                }
            };
            said.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => CloseReason::Protocol,
                _ => CloseReason::WriteFailed,
            })?;
        }
    }

    /// The client has named a mechanism.
    async fn mechanism(
        &mut self,
        head: RequestHead,
        body: Bytes,
        mechanisms: &[Mechanism],
        trial: &mut Option<Trial>,
    ) -> io::Result<()> {
        // Version 0 is followed by bytes without frames.
        if head.version < 1 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (_, request) = guard::request::<SaslHandshakeRequest>(head.version, body)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let named = Mechanism::named(&request.mechanism).filter(|named| mechanisms.contains(named));
        *trial = named.map(Trial::of);
        let code = if trial.is_some() { Code::NONE } else { Code::UNSUPPORTED_SASL_MECHANISM };
        let known = mechanisms.iter();
        let response = SaslHandshakeResponse::default()
            .with_error_code(code.0)
            .with_mechanisms(known.map(|mechanism| StrBytes::from_static_str(mechanism.name())).collect());
        let mut answer = BytesMut::new();
        guard::encode_response::<SaslHandshakeRequest>(&response, head.version, &mut answer)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        self.answer(head, &answer).await
    }

    /// The client has sent a token.
    async fn token(
        &mut self,
        head: RequestHead,
        body: Bytes,
        trial: &mut Option<Trial>,
        accounts: &mut dyn Accounts,
    ) -> io::Result<Step> {
        let (_, request) = guard::request::<SaslAuthenticateRequest>(head.version, body)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mut token = Vec::new();
        let (step, code, message) = match trial {
            Some(trial) => match trial.token(&request.auth_bytes, accounts, &mut token) {
                Step::Denied => {
                    let message = "nobody is known by what was shown";
                    (Step::Denied, Code::SASL_AUTHENTICATION_FAILED, Some(message))
                }
                step => (step, Code::NONE, None),
            },
            None => (Step::Denied, Code::ILLEGAL_SASL_STATE, Some("name a mechanism first")),
        };
        let response = SaslAuthenticateResponse::default()
            .with_error_code(code.0)
            .with_error_message(message.map(StrBytes::from_static_str))
            .with_auth_bytes(token.into());
        let mut answer = BytesMut::new();
        guard::encode_response::<SaslAuthenticateRequest>(&response, head.version, &mut answer)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        self.answer(head, &answer).await?;
        Ok(step)
    }

    /// Tells the client why it is led nowhere, in the answer to its first request. Whether that could be said.
    pub(super) async fn turn_away(&mut self, why: Refusal) -> bool {
        loop {
            let Ok((head, body)) = self.request(MAX_REFUSED).await else { return false };
            let is_login = matches!(head.key, ApiKey::SASL_HANDSHAKE | ApiKey::SASL_AUTHENTICATE);
            if is_login {
                // Clients take any error here for a wrong password, and do not come again.
                return false;
            }
            if head.key == ApiKey::API_VERSIONS {
                if self.versions(head, &mut |_, versions| versions).await.is_err() {
                    return false;
                }
                continue;
            }
            let reason = reason(why, head.key);
            if !self.refuse(head, &body, reason).await.is_ok_and(|is_said| is_said) {
                return false;
            }
            self.leave().await;
            return true;
        }
    }
}

/// Whether a request to produce wants an answer.
fn is_answered(head: RequestHead, body: &[u8]) -> bool {
    let acks = Acks::new(head.version, head.body).and_then(|mut acks| acks.push(body));
    acks.is_ok_and(|acks| acks.is_some_and(|acks| acks != 0))
}

/// How a client of Kafka is told why it is led nowhere: so that it comes again where that helps.
pub(super) fn reason(why: Refusal, key: ApiKey) -> Reason<'static> {
    let (code, message) = match why {
        Refusal::RateLimited | Refusal::TooManyClients => {
            (Code::THROTTLING_QUOTA_EXCEEDED, "too many: try again later")
        }
        Refusal::Denied | Refusal::Filtered => (Code::denied(key), "a rule of mecha forbids it"),
        _ => {
            let code = match key.api().map(|api| api.class) {
                Some(Class::Fetch | Class::Produce) => Code::NOT_LEADER_OR_FOLLOWER,
                Some(Class::Group | Class::Transaction) => Code::COORDINATOR_NOT_AVAILABLE,
                _ => match key {
                    ApiKey::METADATA => Code::LEADER_NOT_AVAILABLE,
                    ApiKey::FIND_COORDINATOR => Code::COORDINATOR_NOT_AVAILABLE,
                    _ => Code::REQUEST_TIMED_OUT,
                },
            };
            (code, "the broker cannot be reached")
        }
    };
    Reason { code, message: Some(message), throttle_millis: 0 }
}
