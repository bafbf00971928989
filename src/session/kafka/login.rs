//! Who mecha is to brokers, where they want to know.
//!
//! A connection is logged in before its client may use it, in mecha's name and not the client's. Brokers may believe a login for a
//! while only (KIP-368): then it is renewed on the connection itself, between two requests of the client, who does not notice. That is
//! begun with the first request after most of the time is over. Until then a broker does not mind, and a connection
//! that nobody uses is nothing to renew.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use mecha_clusters::{CurrentLogin, Stream};
use mecha_core::Refusal;
use mecha_kafka::frame::{Head, RequestHead, ResponseHead};
use mecha_kafka::guard;
use mecha_kafka::messages::{ApiVersionsRequest, api_versions_response::ApiVersion};
use mecha_kafka::sasl::{Failed, Login, Mechanism, Progress, Recall};
use mecha_kafka::schema::Versions;
use mecha_kafka::table::ApiKey;
use mecha_transport::{Clock, ReadHalf, WriteHalf};
use tokio::io::AsyncReadExt;

use super::Rows;

/// How long a login may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The correlation id of logins. Clients count from 0.
const CORRELATION: i32 = i32::MIN;

/// What mecha tells the brokers of one cluster, on one worker.
#[derive(Default)]
pub struct Credentials {
    current: CurrentLogin,
    recall: Recall,
    /// The last login has failed, which was said.
    is_failing: Cell<bool>,
}

/// A connection to a broker that may be used.
pub struct Opened {
    pub(super) stream: Stream,
    pub(super) renewal: Option<Renewal>,
}

/// A login that has to be renewed some time.
pub(super) struct Renewal {
    credentials: Rc<Credentials>,
    due_micros: u64,
    going: Option<Login>,
    /// The next request of it.
    request: Vec<u8>,
}

/// Why nobody is logged in.
enum Why {
    Failed(Failed),
    Io(io::Error),
}

// === impl Credentials ===

impl Credentials {
    /// What `current` says.
    #[must_use]
    pub fn new(current: CurrentLogin) -> Self {
        Self { current, ..Self::default() }
    }

    /// Whether brokers are told who mecha is.
    pub(super) fn is_some(&self) -> bool {
        self.current.with(|login| login.password.is_some())
    }

    /// The first request of a login; `None` if there is nothing to say.
    fn begin(&self, out: &mut Vec<u8>) -> Option<Login> {
        self.current.with(|login| {
            let mechanism = Mechanism::named(login.mechanism.as_deref()?)?;
            let words = (login.username.as_deref().unwrap_or_default(), login.password.as_deref()?);
            Some(Login::begin(mechanism, words, &self.recall, CORRELATION, out))
        })
    }

    /// Logs in on a connection on which nothing was said yet.
    ///
    /// # Errors
    /// `UpstreamDenied` if the broker does not believe it, else `UpstreamUnreachable`.
    pub(super) async fn log_in(
        self: &Rc<Self>,
        mut stream: Stream,
        clock: &Clock,
    ) -> Result<Opened, Refusal> {
        let logging_in = self.say(&mut stream.read, &stream.write);
        let ended = tokio::time::timeout(PATIENCE, logging_in).await;
        let why = match ended.unwrap_or_else(|_| Err(Why::Io(io::ErrorKind::TimedOut.into()))) {
            Ok(lifetime) => {
                self.is_failing.set(false);
                let renewal = lifetime.map(|millis| Renewal {
                    credentials: Rc::clone(self),
                    due_micros: due(clock.micros(), millis),
                    going: None,
                    request: Vec::new(),
                });
                return Ok(Opened { stream, renewal });
            }
            Err(why) => why,
        };
        let is_said = self.is_failing.replace(true);
        match why {
            Why::Failed(failed) => {
                if !is_said {
                    tracing::error!(%failed, "mecha cannot log in at a broker");
                }
                Err(Refusal::UpstreamDenied)
            }
            Why::Io(error) => {
                if !is_said {
                    tracing::warn!(%error, "a broker does not answer to a login");
                }
                Err(Refusal::UpstreamUnreachable)
            }
        }
    }

    /// Says who mecha is; for how many milliseconds that holds, if not for ever.
    async fn say(&self, read: &mut ReadHalf, write: &WriteHalf) -> Result<Option<u64>, Why> {
        let mut request = Vec::new();
        let Some(mut login) = self.begin(&mut request) else { return Ok(None) };
        loop {
            send(read, write, &request).await.map_err(Why::Io)?;
            let mut head = [0; ResponseHead::SIZE];
            read.read_exact(&mut head).await.map_err(Why::Io)?;
            let size = Login::body(&head, CORRELATION).ok_or(Why::Failed(Failed::Unsound))?;
            let mut body = vec![0; size];
            read.read_exact(&mut body).await.map_err(Why::Io)?;
            request.clear();
            match login.answered(&body, CORRELATION, &mut request).map_err(Why::Failed)? {
                Progress::Done(millis) => return Ok((millis > 0).then_some(millis)),
                Progress::Goes => {}
            }
        }
    }
}

/// Logs in on a connection of the control side.
///
/// # Errors
/// Those of the connection; `PermissionDenied` if the broker does not believe it.
pub(crate) async fn log_in(
    credentials: &Credentials,
    read: &mut ReadHalf,
    write: &WriteHalf,
) -> io::Result<()> {
    credentials.say(read, write).await.map(drop).map_err(|why| match why {
        Why::Failed(failed) => io::Error::new(io::ErrorKind::PermissionDenied, failed.to_string()),
        Why::Io(error) => error,
    })
}

pub(super) async fn send(read: &ReadHalf, write: &WriteHalf, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        std::future::poll_fn(|cx| read.poll_write_ready(cx)).await?;
        match write.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Asks a broker which versions it knows.
///
/// # Errors
/// Those of the connection; `InvalidData` for what is no answer.
pub(super) async fn offers(mut stream: Stream) -> io::Result<Rows> {
    let mut request = Vec::new();
    RequestHead { key: ApiKey::API_VERSIONS, version: 0, correlation: CORRELATION, body: 2 }
        .write(&mut request);
    request.extend_from_slice(&[0xff, 0xff]);
    send(&stream.read, &stream.write, &request).await?;
    let mut head = [0; ResponseHead::SIZE];
    stream.read.read_exact(&mut head).await?;
    let size = Login::body(&head, CORRELATION).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; size];
    stream.read.read_exact(&mut body).await?;
    let response = guard::response::<ApiVersionsRequest>(0, body.into());
    let response = response.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let row =
        |row: &ApiVersion| (ApiKey(row.api_key), Versions { first: row.min_version, last: row.max_version });
    Ok(Rc::new(response.api_keys.iter().map(row).collect()))
}

/// When a login that holds for so long has to be renewed: before it ends, as clients do it.
fn due(now_micros: u64, millis: u64) -> u64 {
    now_micros.saturating_add(millis.saturating_mul(850))
}

// === impl Renewal ===

impl Renewal {
    /// Whether it should begin.
    pub(super) fn is_due(&self, now_micros: u64) -> bool {
        self.going.is_none() && now_micros >= self.due_micros
    }

    /// Whether it has begun and not ended.
    pub(super) fn is_going(&self) -> bool {
        self.going.is_some()
    }

    /// Whether there is a request to be sent.
    pub(super) fn has_request(&self) -> bool {
        !self.request.is_empty()
    }

    /// Begins.
    pub(super) fn begin(&mut self) {
        self.request.clear();
        self.going = self.credentials.begin(&mut self.request);
        if self.going.is_none() {
            // There is nothing to say any more; the broker ends what it does not believe.
            self.due_micros = u64::MAX;
        }
    }

    /// Appends the request; the correlation id of its answer.
    pub(super) fn take_request(&mut self, out: &mut Vec<u8>) -> i32 {
        out.append(&mut self.request);
        CORRELATION
    }

    /// The broker has answered.
    ///
    /// # Errors
    /// See [`Failed`].
    pub(super) fn answered(&mut self, body: &[u8], now_micros: u64) -> Result<(), Failed> {
        let login = self.going.as_mut().ok_or(Failed::Unsound)?;
        if let Progress::Done(millis) = login.answered(body, CORRELATION, &mut self.request)? {
            self.going = None;
            self.due_micros = if millis > 0 { due(now_micros, millis) } else { u64::MAX };
        }
        Ok(())
    }
}
