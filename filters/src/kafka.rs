//! Typed filters of Kafka.
//!
//! A filter sees the bodies that it wants, whole, and is one connection's own: what it must remember of a request comes
//! back to it with the response. Requests are refused in their own responses, with Kafka's errors, in their turn.
//!
//! Where names of topics matter, so do the identities that newer versions name them by: those are told only with the
//! name, and so only to who may know it.

mod access;
mod audit_log;
mod headers;
mod produce_limit;
mod quota;
mod topic_prefix;
mod topic_rename;

use mecha_core::Peer;
use mecha_kafka::errors::Code;
use mecha_kafka::names;
use mecha_kafka::schema::Versions;
use mecha_kafka::table::ApiKey;

use crate::{Build, Help};

/// Every filter of this protocol, in alphabetical order.
pub const FILTERS: &[&KafkaKind] = &[
    &access::ALLOW,
    &audit_log::KIND,
    &access::DENY,
    &headers::KIND,
    &produce_limit::KIND,
    &quota::KIND,
    &topic_prefix::KIND,
    &topic_rename::KIND,
];

/// A filter of Kafka that can be configured.
pub struct KafkaKind {
    /// As the configuration spells it.
    pub name: &'static str,
    /// For people.
    pub help: Help,
    /// Understands the options.
    pub build: Build<dyn KafkaFactory>,
}

/// Makes one filter for each connection.
pub trait KafkaFactory: Send + Sync {
    /// Called once for each client, who is known by then.
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter>;
}

/// What a filter wants to see of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wants {
    /// Nothing.
    Nothing,
    /// Of a request to produce, its beginning: the client's and the transactional id, and the acknowledgements. Another filter may
    /// want more, and then it sees all of it. It cannot be refused: whoever refuses has to see it as a whole.
    Beginning,
    /// The request.
    Request,
    /// The request and the response.
    Both,
}

/// A request or a response, the rest of its header included.
#[derive(Debug)]
pub struct Body<'b> {
    /// The API.
    pub key: ApiKey,
    /// Its version.
    pub version: i16,
    /// The bytes behind the correlation id, which may be changed; or the first of them, of a request to produce.
    pub bytes: &'b mut Vec<u8>,
    /// How many bytes there are behind the correlation id, in all, as they came.
    pub size: u32,
    /// Room to write them anew; what is in there is of no account.
    pub room: &'b mut Vec<u8>,
    /// Of a request: what the filter will want to know about it when the response comes. Of a response: that.
    pub note: u64,
    /// The time, in microseconds.
    pub now_micros: u64,
    /// For how long the client is to send nothing more, in microseconds; 0 before a filter says something else.
    pub wait_micros: u64,
}

/// An answer that begins, to a request that filters let pass.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The API.
    pub key: ApiKey,
    /// Its version.
    pub version: i16,
    /// Bytes behind the correlation id.
    pub bytes: u32,
    /// The time, in microseconds.
    pub now_micros: u64,
}

/// A request that is refused, for those who write that down.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'r> {
    /// The API.
    pub key: ApiKey,
    /// Its version.
    pub version: i16,
    /// As the client has sent it, the bytes behind the correlation id.
    pub bytes: &'r [u8],
    /// What the client is told.
    pub code: Code,
    /// What is said about it.
    pub message: &'r str,
    /// The kind of refusal, as metrics name it.
    pub reason: &'static str,
    /// Whether the filter had seen the request, and let it pass.
    pub was_seen: bool,
}

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no request: the connection ends.
    Malformed,
    /// The client is told so.
    With(Code, &'static str),
}

/// A response cannot be passed on, nor can anything behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A filter, for one connection.
pub trait KafkaFilter {
    /// Versions of an API that clients may be told of, of these.
    fn serves(&self, key: ApiKey, versions: Versions) -> Versions {
        let _ = key;
        versions
    }

    /// What it has to see.
    fn wants(&self, key: ApiKey, version: i16) -> Wants;

    /// Looks at a request.
    ///
    /// # Errors
    /// It is not passed on.
    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused>;

    /// Whether it counts answers of this API, so that no request may pass before the answer to the last one has come.
    fn meters(&self, key: ApiKey) -> bool {
        let _ = key;
        false
    }

    /// For how long no request of this API may pass, in microseconds.
    fn owes(&self, key: ApiKey, now_micros: u64) -> u64 {
        let _ = (key, now_micros);
        0
    }

    /// An answer begins, whether it is looked at or not: for how long its client is to send nothing more, in microseconds.
    fn on_answer(&mut self, answer: &Answer) -> u64 {
        let _ = answer;
        0
    }

    /// A request that it let pass, with this note, will have no answer.
    fn on_unanswered(&mut self, note: u64) {
        let _ = note;
    }

    /// A request is refused, by another filter or by a policy.
    fn on_rejected(&mut self, rejection: &Rejection<'_>) {
        let _ = rejection;
    }

    /// Looks at the response to a request that it let pass.
    ///
    /// # Errors
    /// It cannot be passed on.
    fn on_response(&mut self, response: &mut Body<'_>) -> Result<(), Broken> {
        let _ = response;
        Ok(())
    }
}

/// What a client is called: its user, or the first name in its certificate, or the common name of that.
fn who(peer: &Peer) -> Option<&str> {
    peer.user.as_deref().or_else(|| {
        let identity = peer.identity.as_deref()?;
        let common = || identity.subject.split(',').find_map(|part| part.trim().strip_prefix("CN="));
        identity.names.first().map(String::as_str).or_else(common)
    })
}

/// Whether responses name nothing that a name belongs to, and may be large.
fn is_nameless(key: ApiKey) -> bool {
    [ApiKey::SHARE_FETCH, ApiKey::SHARE_ACKNOWLEDGE].contains(&key)
}

/// Goes over all names of an exchange, and replaces them.
#[derive(Debug, Default)]
struct Names {
    /// Of the last request, for the next one.
    note: names::Note,
}

impl Names {
    fn wants(key: ApiKey, version: i16) -> Wants {
        match key {
            ApiKey::API_VERSIONS => Wants::Nothing,
            ApiKey::PRODUCE if version >= names::NAMELESS_PRODUCE => Wants::Beginning,
            // From here on they name topics by their identities.
            ApiKey::FETCH if version >= 13 => Wants::Nothing,
            _ if is_nameless(key) => Wants::Request,
            _ => Wants::Both,
        }
    }

    fn request(&mut self, request: &mut Body<'_>, map: &mut names::Map<'_>) -> Result<(), names::Failure> {
        request.room.clear();
        let (key, version) = (request.key, request.version);
        if Self::wants(key, version) == Wants::Beginning {
            // Whatever follows is as it was.
            names::beginning(version, request.bytes, map, request.room)?;
        } else {
            names::request(key, version, request.bytes, &mut self.note, map, request.room)?;
        }
        request.note = self.note.bits();
        std::mem::swap(request.bytes, request.room);
        Ok(())
    }

    fn response(&mut self, response: &mut Body<'_>, map: &mut names::Map<'_>) -> Result<(), Broken> {
        response.room.clear();
        let mut note = names::Note::of_bits(response.note);
        let (key, version) = (response.key, response.version);
        names::response(key, version, response.bytes, &mut note, map, response.room).map_err(|failure| {
            tracing::error!(api = key.name(), version, ?failure, "names in a response cannot be replaced");
            Broken
        })?;
        std::mem::swap(response.bytes, response.room);
        Ok(())
    }
}

/// How a client is told that there is no such name for it.
fn refused(failure: names::Failure, of: fn(names::Name) -> (Code, &'static str)) -> Refused {
    match failure {
        names::Failure::Foreign(name) => {
            let (code, message) = of(name);
            Refused::With(code, message)
        }
        names::Failure::Malformed(_) => Refused::Malformed,
        names::Failure::NotUnderstood => {
            Refused::With(Code::UNSUPPORTED_VERSION, "nobody here knows where all names are in this request")
        }
    }
}

#[cfg(test)]
mod testing {
    //! What the tests of these filters share.

    use mecha_kafka::guard;
    use mecha_kafka::protocol::Request;

    use super::*;
    use crate::testing::{PEER, options, with_cx};

    pub(super) fn open(kind: &KafkaKind, example: &str) -> Box<dyn KafkaFilter> {
        open_for(kind, example, &PEER)
    }

    pub(super) fn open_for(kind: &KafkaKind, example: &str, peer: &Peer) -> Box<dyn KafkaFilter> {
        let built = with_cx(&mecha_telemetry::Registry::new(), |cx| (kind.build)(&options(example), cx));
        built.unwrap_or_else(|errors| panic!("{errors:?}")).open(peer)
    }

    /// The filters of some clients, of one factory.
    pub(super) fn open_all(kind: &KafkaKind, example: &str, peers: &[Peer]) -> Vec<Box<dyn KafkaFilter>> {
        let built = with_cx(&mecha_telemetry::Registry::new(), |cx| (kind.build)(&options(example), cx));
        let factory = built.unwrap_or_else(|errors| panic!("{errors:?}"));
        peers.iter().map(|peer| factory.open(peer)).collect()
    }

    /// What a kind says against an example.
    pub(super) fn wrong(kind: &KafkaKind, example: &str) -> String {
        let built = with_cx(&mecha_telemetry::Registry::new(), |cx| (kind.build)(&options(example), cx));
        let errors = built.err().expect("options are wrong");
        errors.iter().map(|error| format!("{}: {}\n", error.path, error.message)).collect()
    }

    /// Sends a request past a filter: what comes out, with the note.
    pub(super) fn ask<R: Request>(
        filter: &mut dyn KafkaFilter,
        version: i16,
        request: &R,
    ) -> Result<(R, u64), Refused> {
        let mut body = bytes::BytesMut::new();
        guard::encode_request(Some("test"), request, version, &mut body).unwrap();
        let (mut bytes, mut room) = (body.to_vec(), vec![1, 2, 3]);
        let key = ApiKey(R::KEY);
        let mut body = Body {
            key,
            version,
            size: bytes.len() as u32,
            bytes: &mut bytes,
            room: &mut room,
            note: 0,
            now_micros: 0,
            wait_micros: 0,
        };
        filter.on_request(&mut body)?;
        let note = body.note;
        let (client, request) = guard::request::<R>(version, bytes.into()).unwrap();
        assert_eq!(client.as_deref(), Some("test"));
        Ok((request, note))
    }

    /// Sends a response past a filter.
    pub(super) fn answer<R: Request>(
        filter: &mut dyn KafkaFilter,
        version: i16,
        (response, note): (&R::Response, u64),
    ) -> R::Response {
        let mut body = bytes::BytesMut::new();
        guard::encode_response::<R>(response, version, &mut body).unwrap();
        let (mut bytes, mut room) = (body.to_vec(), Vec::new());
        let key = ApiKey(R::KEY);
        let (bytes_of, room) = (&mut bytes, &mut room);
        let size = bytes_of.len() as u32;
        let mut body =
            Body { key, version, bytes: bytes_of, size, room, note, now_micros: 0, wait_micros: 0 };
        filter.on_response(&mut body).unwrap();
        guard::response::<R>(version, bytes.into()).unwrap()
    }
}
