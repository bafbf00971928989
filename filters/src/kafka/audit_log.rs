//! A line for each request that changes something, and for each that is refused, whoever refuses it.
//!
//! What a request names is noted when it comes, and the line is written when its answer is known. Refusals of mecha are known
//! at once; those of brokers are looked for in the answers to all requests but fetches, whose clients have asked about
//! their topics before.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::errors::{Code, codes};
use mecha_kafka::guard;
use mecha_kafka::names::{Mention, mentioned, topic_id};
use mecha_kafka::table::ApiKey;
use mecha_kafka::tally::topics;
use serde::Deserialize;
use serde_json::json;

use super::access::{api, complain};
use super::{Body, Broken, KafkaFactory, KafkaFilter, KafkaKind, Refused, Rejection, Wants};
use crate::log_sink::{Line, Queue, Target};
use crate::{BuildCx, Help};

pub(super) static KIND: KafkaKind = KafkaKind {
    name: "audit_log",
    help: Help {
        summary: "Writes a line for each request that changes something or is refused.",
        options: &[
            FilterOption {
                name: "to",
                takes: Takes::Text,
                without: Without::Default("stdout"),
                about: "stdout, stderr, or a file to append to",
            },
            FilterOption {
                name: "apis",
                takes: Takes::Texts,
                without: Without::Means("all that change something"),
                about: "only these, as Kafka names them: CreateTopics, DeleteGroups",
            },
            FilterOption {
                name: "except",
                takes: Takes::Texts,
                without: Without::Means("none"),
                about: "all that change something but these: Produce, OffsetCommit",
            },
        ],
        docs: "A line is JSON: time, scope, peer, user, identity, client_id, api, version, what it names (topics, groups, transactional_ids,\n\
               others), outcome (ok, error, refused, unanswered), errors as Kafka names them, and why mecha refused. Refused requests have a\n\
               line whatever `apis` says. Names are those that the filters before this one have left: put it first for those of clients.\n\
               Lines that find no room are counted in mecha_access_log_dropped_total.",
        example: "- audit_log: { to: stderr, except: [Produce, OffsetCommit] }",
    },
    build: |options, cx| build(options, cx).map(|log| Box::new(log) as Box<dyn KafkaFactory>),
};

/// What changes something: records, offsets, transactions, and whatever administrators do. Joining a group does not.
#[rustfmt::skip]
const CHANGES: &[i16] = &[
    0, 8, 19, 20, 21, 22, 24, 25, 26, 28, 30, 31, 33, 34, 37, 38, 39, 40, 42, 43, 44, 45, 47, 49, 51, 57, 64, 80, 81,
    91, 92,
];

/// Errors by which brokers refuse.
const REFUSALS: [Code; 6] = [
    Code::TOPIC_AUTHORIZATION_FAILED,
    Code::GROUP_AUTHORIZATION_FAILED,
    Code::CLUSTER_AUTHORIZATION_FAILED,
    Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    Code::DELEGATION_TOKEN_AUTHORIZATION_FAILED,
    Code::POLICY_VIOLATION,
];

/// Names of each kind in a line; how many more there are is told.
const MAX_NAMES: usize = 100;
/// Errors in a line.
const MAX_ERRORS: usize = 10;
/// Topics whose identities are remembered.
const MAX_TOPICS: usize = 10_000;
/// Requests whose answers are awaited, on one connection.
const MAX_WAITING: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    to: Option<String>,
    apis: Option<Vec<String>>,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Clone)]
struct Audit(Arc<Shared>);

struct Shared {
    queue: Queue,
    target: Arc<Target>,
    scope: String,
    apis: Vec<ApiKey>,
    /// Names of topics by their identities, as answers have told them.
    topics: Mutex<HashMap<[u8; 16], Arc<str>>>,
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<Audit, Vec<ConfigError>> {
    let hint = "`stdout`, `stderr`, or a file in a directory that exists";
    let target_of = |raw: &RawAudit| Target::new(raw.to.as_deref().unwrap_or("stdout"));
    let raw: RawAudit = options.check(|raw: &RawAudit, errors| {
        complain(options, "apis", raw.apis.iter().flatten(), errors);
        complain(options, "except", &raw.except, errors);
        if let Err(error) = target_of(raw) {
            errors.push(options.error("to", error).hint(hint));
        }
    })?;
    let target = target_of(&raw).map_err(|error| vec![options.error("to", error).hint(hint)])?;
    let queue = cx
        .log
        .queue()
        .map_err(|error| vec![options.error("", format!("cannot start its thread: {error}"))])?;
    let keys = |names: &[String]| names.iter().filter_map(|name| api(name)).collect::<Vec<_>>();
    let except = keys(&raw.except);
    let all = || CHANGES.iter().map(|key| ApiKey(*key)).collect();
    let mut apis = raw.apis.as_deref().map_or_else(all, keys);
    apis.retain(|key| !except.contains(key));
    Ok(Audit(Arc::new(Shared {
        queue,
        target: Arc::new(target),
        scope: cx.scope.into(),
        apis,
        topics: Mutex::default(),
    })))
}

impl KafkaFactory for Audit {
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter> {
        Box::new(Auditor {
            shared: Arc::clone(&self.0),
            peer: peer.clone(),
            waiting: VecDeque::new(),
            last: 0,
        })
    }
}

struct Auditor {
    shared: Arc<Shared>,
    peer: Peer,
    /// Requests that wait for their answers, by their notes.
    waiting: VecDeque<(u64, Entry)>,
    last: u64,
}

/// One line, until it is written.
struct Entry {
    shared: Arc<Shared>,
    peer: Peer,
    unix_micros: u64,
    key: ApiKey,
    version: i16,
    client: Option<String>,
    /// Topics, groups, transactional ids, others; and how many more there are.
    names: [(Vec<Box<str>>, usize); 4],
    outcome: &'static str,
    errors: Vec<Code>,
    /// Why mecha refused.
    reason: Option<(&'static str, String)>,
}

const KINDS: [&str; 4] = ["topics", "groups", "transactional_ids", "others"];

impl Auditor {
    fn entry(&self, key: ApiKey, version: i16, body: &[u8]) -> Entry {
        let unix_micros =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let is_flexible = key.request().is_some_and(|request| request.is_flexible(version));
        let client = guard::header(body, is_flexible).ok().and_then(|(client, _)| client);
        let mut names: [(Vec<Box<str>>, usize); 4] = Default::default();
        // What is not sound has the names that came before, and the brokers' or another filter's answer.
        let _ = mentioned(key, version, body, &mut |mention| {
            let (kind, name) = match mention {
                Mention::Topic(name) => (0, String::from_utf8_lossy(name).into()),
                Mention::TopicId(id) => (0, self.shared.topic(id)),
                Mention::Group(name) => (1, String::from_utf8_lossy(name).into()),
                Mention::TransactionalId(name) => (2, String::from_utf8_lossy(name).into()),
                Mention::Other(name) => (3, String::from_utf8_lossy(name).into()),
            };
            let Some((known, more)) = names.get_mut::<usize>(kind) else { return };
            let name: Box<str> = name;
            if known.len() >= MAX_NAMES {
                *more += 1;
            } else if known.last() != Some(&name) {
                known.push(name);
            }
        });
        Entry {
            shared: Arc::clone(&self.shared),
            peer: self.peer.clone(),
            unix_micros,
            key,
            version,
            client: client.map(Into::into),
            names,
            outcome: "ok",
            errors: Vec::new(),
            reason: None,
        }
    }

    /// The request with this note, if it is one of those that wait.
    fn take(&mut self, note: u64) -> Option<Entry> {
        while let Some((at, entry)) = self.waiting.pop_front_if(|(at, _)| *at <= note) {
            if at == note {
                return Some(entry);
            }
        }
        None
    }

    fn is_named(&self, key: ApiKey) -> bool {
        self.shared.apis.contains(&key)
    }
}

impl Shared {
    /// A topic's name if it is known, or else its identity.
    fn topic(&self, id: [u8; 16]) -> Box<str> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.get(&id).map_or_else(|| topic_id(id).into(), |name| (**name).into())
    }

    fn learn(&self, version: i16, body: &[u8]) {
        let mut known = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = topics(version, body, &mut |name, id| {
            let Ok(name) = std::str::from_utf8(name) else { return };
            if known.get(&id).is_none_or(|known| **known != *name) {
                if known.len() >= MAX_TOPICS {
                    known.clear();
                }
                known.insert(id, name.into());
            }
        });
    }
}

impl KafkaFilter for Auditor {
    fn wants(&self, key: ApiKey, _version: i16) -> Wants {
        match key {
            ApiKey::API_VERSIONS | ApiKey::SASL_HANDSHAKE | ApiKey::SASL_AUTHENTICATE => Wants::Nothing,
            ApiKey::FETCH | ApiKey::SHARE_FETCH => Wants::Nothing,
            _ => Wants::Both,
        }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        self.last += 1;
        request.note = self.last;
        if self.waiting.len() < MAX_WAITING {
            let entry = self.entry(request.key, request.version, request.bytes);
            self.waiting.push_back((self.last, entry));
        }
        Ok(())
    }

    fn on_response(&mut self, response: &mut Body<'_>) -> Result<(), Broken> {
        let (key, version) = (response.key, response.version);
        if key == ApiKey::METADATA {
            self.shared.learn(version, response.bytes);
        }
        let Some(mut entry) = self.take(response.note) else { return Ok(()) };
        // What is no answer is the client's to find out.
        let _ = codes(key, version, response.bytes, &mut |code| {
            let is_new = code != Code::NONE && !entry.errors.contains(&code);
            if is_new && entry.errors.len() < MAX_ERRORS {
                entry.errors.push(code);
            }
        });
        let is_refused = entry.errors.iter().any(|code| REFUSALS.contains(code));
        if is_refused || self.is_named(key) {
            entry.outcome = match (is_refused, entry.errors.is_empty()) {
                (true, _) => "refused",
                (false, true) => "ok",
                (false, false) => "error",
            };
            entry.send();
        }
        Ok(())
    }

    fn on_unanswered(&mut self, note: u64) {
        if let Some(mut entry) = self.take(note).filter(|entry| self.is_named(entry.key)) {
            entry.outcome = "unanswered";
            entry.send();
        }
    }

    fn on_rejected(&mut self, rejection: &Rejection<'_>) {
        if rejection.was_seen {
            let last = self.last;
            self.waiting.pop_back_if(|(at, _)| *at == last);
        }
        let mut entry = self.entry(rejection.key, rejection.version, rejection.bytes);
        (entry.outcome, entry.errors) = ("refused", vec![rejection.code]);
        entry.reason = Some((rejection.reason, rejection.message.into()));
        entry.send();
    }
}

impl Entry {
    fn send(self) {
        let shared = Arc::clone(&self.shared);
        shared.queue.send(&shared.target, Box::new(self), 1);
    }
}

impl Line for Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = json!({
            "time": self.unix_micros as f64 / 1e6,
            "scope": self.shared.scope,
            "peer": self.peer.addr.map_or_else(|| "unix".to_string(), |addr| addr.to_string()),
            "api": self.key.name(),
            "version": self.version,
            "outcome": self.outcome,
        });
        let mut put = |name: &str, value: serde_json::Value| line[name] = value;
        if let Some(user) = self.peer.user.as_deref() {
            put("user", user.into());
        }
        if let Some(identity) = self.peer.identity.as_deref() {
            put(
                "identity",
                json!({
                    "subject": identity.subject, "names": identity.names, "sha256": identity.fingerprint,
                }),
            );
        }
        if let Some(client) = &self.client {
            put("client_id", client.as_str().into());
        }
        for (kind, (names, more)) in KINDS.iter().zip(&self.names) {
            if !names.is_empty() {
                put(kind, json!(names));
            }
            if *more > 0 {
                put(&format!("more_{kind}"), (*more).into());
            }
        }
        if !self.errors.is_empty() {
            put("errors", self.errors.iter().map(|code| code.name()).collect::<Vec<_>>().into());
        }
        if let Some((reason, message)) = &self.reason {
            put("reason", (*reason).into());
            if !message.is_empty() {
                put("message", message.as_str().into());
            }
        }
        // Writing to memory does not fail.
        let _ = writeln!(out, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use mecha_kafka::messages::create_topics_request::CreatableTopic;
    use mecha_kafka::messages::create_topics_response::CreatableTopicResult;
    use mecha_kafka::messages::{
        CreateTopicsRequest, CreateTopicsResponse, ListGroupsRequest, ListGroupsResponse, TopicName,
    };
    use mecha_kafka::protocol::StrBytes;
    use mecha_kafka::table::{Class, apis};
    use mecha_telemetry::Registry;

    use super::super::testing::{answer, ask, wrong};
    use super::*;
    use crate::LogSink;
    use crate::testing::{PEER, options};

    /// The lines that come of this.
    fn lines(extra: &str, run: impl FnOnce(&mut dyn KafkaFilter)) -> Vec<serde_json::Value> {
        let id = (std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(format!("mecha-audit-{id:?}"));
        let _ = std::fs::remove_file(&path);
        let registry = Registry::new();
        let log = LogSink::new(&registry);
        let cx = BuildCx { registry: &registry, scope: "listener:k", workers: 1, ops: &[], log: &log };
        let example = format!("- audit_log: {{ to: '{}'{extra} }}", path.display());
        let peer = Peer { user: Some("eve".into()), ..PEER.clone() };
        let mut filter = build(&options(&example), &cx).unwrap_or_else(|e| panic!("{e:?}")).open(&peer);
        run(&mut *filter);
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn creating(filter: &mut dyn KafkaFilter, error: i16) {
        let name = || TopicName(StrBytes::from_static_str("orders"));
        let topic = CreatableTopic::default().with_name(name());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let (_, note) = ask(filter, 7, &request).unwrap();
        let result = CreatableTopicResult::default().with_name(name()).with_error_code(error);
        let response = CreateTopicsResponse::default().with_topics(vec![result]);
        answer::<CreateTopicsRequest>(filter, 7, (&response, note));
    }

    fn listing(filter: &mut dyn KafkaFilter, error: i16) {
        let (_, note) = ask(filter, 4, &ListGroupsRequest::default()).unwrap();
        let response = ListGroupsResponse::default().with_error_code(error);
        answer::<ListGroupsRequest>(filter, 4, (&response, note));
    }

    #[test]
    fn what_changes_something_or_is_refused_has_a_line() {
        let lines = lines("", |filter| {
            listing(filter, 0);
            creating(filter, 0);
            creating(filter, 36);
            listing(filter, 31);
        });
        let brief: Vec<_> = lines
            .iter()
            .map(|line| {
                (line["api"].as_str().unwrap(), line["outcome"].as_str().unwrap(), &line["errors"][0])
            })
            .collect();
        let null = serde_json::Value::Null;
        let expected = [
            ("CreateTopics", "ok", &null),
            ("CreateTopics", "error", &json!("TOPIC_ALREADY_EXISTS")),
            ("ListGroups", "refused", &json!("CLUSTER_AUTHORIZATION_FAILED")),
        ];
        assert_eq!(brief, expected);
        let first = &lines[0];
        assert_eq!((&first["user"], &first["client_id"]), (&json!("eve"), &json!("test")));
        assert_eq!((&first["topics"], &first["scope"]), (&json!(["orders"]), &json!("listener:k")));
    }

    #[test]
    fn what_others_refuse_has_one_line_and_what_has_no_answer_too() {
        let body = {
            let mut body = BytesMut::new();
            guard::encode_request(Some("c"), &ListGroupsRequest::default(), 4, &mut body).unwrap();
            body.to_vec()
        };
        let lines = lines(", except: [CreateTopics]", |filter| {
            let (_, _) = ask(filter, 4, &ListGroupsRequest::default()).unwrap();
            for was_seen in [true, false] {
                let (key, code) = (ApiKey(16), Code::THROTTLING_QUOTA_EXCEEDED);
                let (bytes, message, reason) = (&body[..], "too many", "rate_limited");
                filter.on_rejected(&Rejection { key, version: 4, bytes, code, message, reason, was_seen });
            }
            creating(filter, 0);
            // The notes of those before it are nobody's.
            listing(filter, 29);
            let (_, note) = ask(filter, 2, &mecha_kafka::messages::ListGroupsRequest::default()).unwrap();
            filter.on_unanswered(note);
        });
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!((&lines[0]["reason"], &lines[0]["message"]), (&json!("rate_limited"), &json!("too many")));
        assert_eq!(lines[2]["errors"], json!(["TOPIC_AUTHORIZATION_FAILED"]));
    }

    #[test]
    fn all_that_administrators_change_is_known() {
        for api in apis().filter(|api| api.class == Class::Admin) {
            let name = api.key.name();
            let is_read = name.starts_with("Describe") || name.starts_with("List");
            // Names of groups' metrics.
            assert!(is_read || CHANGES.contains(&api.key.0), "{name} ({}) is not audited", api.key.0);
        }
        let text = wrong(&KIND, "- audit_log: { apis: [Produse], except: [Fech], to: /nowhere/at/all }");
        assert!(text.contains("Produse") && text.contains("Fech") && text.contains("directory"), "{text}");
    }
}
