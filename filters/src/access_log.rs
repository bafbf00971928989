//! A line for each call, or for those that matter.
//!
//! The worker notes a small record per call and hands a batch over when the batch is large enough; a thread formats and
//! writes. A record that finds no room is dropped and counted: a log never slows traffic down.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Call, Cx, Done, OpInfo, Outcome, Peer, Policy};
use serde::Deserialize;

use crate::log_sink::{Line, Queue, Target};
use crate::{BuildCx, Help, PolicyFactory, PolicyKind};

pub(crate) static KIND: PolicyKind = PolicyKind {
    name: "access_log",
    help: Help {
        summary: "Writes a line for each call.",
        options: &[
            FilterOption {
                name: "to",
                takes: Takes::Text,
                without: Without::Default("stdout"),
                about: "stdout, stderr, or a file to append to",
            },
            FilterOption {
                name: "format",
                takes: Takes::Word(&["json", "text"]),
                without: Without::Default("text"),
                about: "how a line looks",
            },
            FilterOption {
                name: "only",
                takes: Takes::Words(&["errors", "refused", "slow"]),
                without: Without::Means("every call"),
                about: "only calls that are one of these",
            },
            FilterOption {
                name: "slow_after",
                takes: Takes::Duration,
                without: Without::Default("10ms"),
                about: "what slow means",
            },
            FilterOption {
                name: "sample",
                takes: Takes::Count(1),
                without: Without::Default("1"),
                about: "one call in so many",
            },
        ],
        docs: "Lines appear within a second; those that find no room are counted in mecha_access_log_dropped_total.",
        example: "- access_log: { to: stderr, format: json, only: [errors, refused, slow], slow_after: 5ms }",
    },
    build: |options, cx| build(options, cx).map(|factory| Box::new(factory) as Box<dyn PolicyFactory>),
};

/// Records that a worker collects before it hands them over.
const BATCH: usize = 64;
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccessLog {
    to: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    only: Vec<Only>,
    slow_after: Option<Period>,
    sample: Option<u32>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    #[default]
    Text,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Only {
    Errors,
    Refused,
    Slow,
}

#[derive(Clone)]
struct AccessLog {
    queue: Queue,
    target: Arc<Target>,
    shape: Arc<Shape>,
    only: Vec<Only>,
    slow_micros: u32,
    sample: u32,
}

struct Shape {
    scope: String,
    format: Format,
    ops: &'static [OpInfo],
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<AccessLog, Vec<ConfigError>> {
    let target_of = |raw: &RawAccessLog| Target::new(raw.to.as_deref().unwrap_or("stdout"));
    let raw: RawAccessLog = options.check(|raw: &RawAccessLog, errors| {
        if raw.sample == Some(0) {
            errors.push(
                options.error("sample", "must be at least 1").hint("1 logs every call, 100 one in a hundred"),
            );
        }
        if let Err(error) = target_of(raw) {
            errors.push(
                options.error("to", error).hint("`stdout`, `stderr`, or a file in a directory that exists"),
            );
        }
    })?;
    let target = target_of(&raw).map_err(|error| {
        vec![options.error("to", error).hint("`stdout`, `stderr`, or a file in a directory that exists")]
    })?;
    let queue = cx
        .log
        .queue()
        .map_err(|error| vec![options.error("", format!("cannot start its thread: {error}"))])?;
    let slow = raw.slow_after.map_or(Duration::from_millis(10), Duration::from);
    Ok(AccessLog {
        queue,
        target: Arc::new(target),
        shape: Arc::new(Shape { scope: cx.scope.into(), format: raw.format, ops: cx.ops }),
        only: raw.only,
        slow_micros: u32::try_from(slow.as_micros()).unwrap_or(u32::MAX),
        sample: raw.sample.unwrap_or(1),
    })
}

impl PolicyFactory for AccessLog {
    fn open(&self) -> Box<dyn Policy> {
        Box::new(Instance { log: self.clone(), records: Vec::with_capacity(BATCH), seen: 0 })
    }
}

#[derive(Clone)]
struct Record {
    unix_micros: u64,
    peer: Peer,
    done: Done,
}

struct Instance {
    log: AccessLog,
    records: Vec<Record>,
    seen: u32,
}

impl AccessLog {
    fn wants(&self, done: &Done) -> bool {
        let is_one = |only: &Only| match only {
            Only::Errors => matches!(done.outcome, Outcome::ClientError | Outcome::ServerError),
            Only::Refused => matches!(done.outcome, Outcome::Refused(_)),
            Only::Slow => done.micros >= self.slow_micros,
        };
        self.only.is_empty() || self.only.iter().any(is_one)
    }
}

impl Policy for Instance {
    fn on_calls(&mut self, _calls: &mut [Call], _cx: &Cx<'_>) {}

    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        let mut unix_micros = 0;
        for done in done.iter().filter(|done| self.log.wants(done)) {
            self.seen = self.seen.wrapping_add(1);
            if !self.seen.is_multiple_of(self.log.sample) {
                continue;
            }
            if unix_micros == 0 {
                // Once per batch.
                unix_micros =
                    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
            }
            self.records.push(Record { unix_micros, peer: cx.peer.clone(), done: *done });
        }
        if self.records.len() >= BATCH {
            self.hand_over();
        }
    }

    fn on_tick(&mut self, _now_micros: u64) {
        self.hand_over();
    }
}

impl Instance {
    fn hand_over(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let records = std::mem::replace(&mut self.records, Vec::with_capacity(BATCH));
        let count = records.len();
        let lines = Records { records, shape: Arc::clone(&self.log.shape) };
        self.log.queue.send(&self.log.target, Box::new(lines), count);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.hand_over();
    }
}

struct Records {
    records: Vec<Record>,
    shape: Arc<Shape>,
}

impl Line for Records {
    fn write(&self, out: &mut Vec<u8>) {
        for record in &self.records {
            // Writing to memory does not fail.
            let _ = self.shape.write(record, out);
        }
    }
}

impl Shape {
    fn write(&self, record: &Record, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Record { unix_micros, peer, done } = record;
        let command = self.ops.get(usize::from(done.op.0)).map_or("unknown", |op| op.name);
        let (identity, user) = (peer.identity.as_deref(), peer.user.as_deref());
        let peer = peer.addr.map_or_else(|| "unix".to_string(), |addr| addr.to_string());
        let reason = match done.outcome {
            Outcome::Refused(why) => why.name(),
            _ => "",
        };
        let (seconds, micros) = (unix_micros / 1_000_000, unix_micros % 1_000_000);
        let (outcome, took, scope) = (done.outcome.name(), done.micros, &self.scope);
        match self.format {
            Format::Json => {
                let mut line = serde_json::json!({
                    "time": *unix_micros as f64 / 1e6, "scope": scope, "peer": peer, "command": command,
                    "outcome": outcome, "reason": reason, "micros": took,
                });
                if let Some(identity) = identity {
                    line["identity"] = serde_json::json!({
                        "subject": identity.subject, "names": identity.names, "sha256": identity.fingerprint,
                    });
                }
                if let Some(user) = user {
                    line["user"] = user.into();
                }
                writeln!(out, "{line}")
            }
            Format::Text => {
                let reason = if reason.is_empty() { String::new() } else { format!(" reason={reason}") };
                write!(
                    out,
                    "{seconds}.{micros:06} {scope} peer={peer} command={command} outcome={outcome}{reason} us={took}"
                )?;
                if let Some(user) = user {
                    write!(out, " user={user}")?;
                }
                // Quoted with escapes: a certificate may say anything.
                match identity {
                    Some(identity) => writeln!(out, " identity={:?}", identity.label()),
                    None => writeln!(out),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::{Refusal, Ticket};
    use mecha_telemetry::Registry;

    use super::*;
    use crate::LogSink;
    use crate::testing::options;

    fn lines(extra: &str, outcomes: &[(Outcome, u32)]) -> Vec<String> {
        lines_of(&crate::testing::PEER, extra, outcomes)
    }

    fn lines_of(peer: &Peer, extra: &str, outcomes: &[(Outcome, u32)]) -> Vec<String> {
        let path = std::env::temp_dir().join(format!(
            "mecha-log-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let _ = std::fs::remove_file(&path);
        let registry = Registry::new();
        let log = LogSink::new(&registry);
        let cx_build = BuildCx {
            registry: &registry,
            scope: "listener:front",
            workers: 1,
            ops: mecha_resp::ops(),
            log: &log,
        };
        let example = format!("- access_log: {{ to: \"{}\"{extra} }}", path.display());
        let mut policy = build(&options(&example), &cx_build).unwrap_or_else(|e| panic!("{e:?}")).open();
        let done = |(outcome, micros): &(Outcome, u32)| Done {
            ticket: Ticket::default(),
            op: mecha_resp::op::GET,
            outcome: *outcome,
            micros: *micros,
        };
        policy.on_done(&outcomes.iter().map(done).collect::<Vec<_>>(), &Cx { now_micros: 1, peer });
        drop(policy);
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        text.lines().map(Into::into).collect()
    }

    #[test]
    fn a_line_tells_who_did_what_and_how_it_ended() {
        let text = lines("", &[(Outcome::Ok, 120), (Outcome::Refused(Refusal::Denied), 0)]);
        assert!(text[0].ends_with("listener:front peer=unix command=get outcome=ok us=120"), "{text:?}");
        assert!(text[1].ends_with("outcome=refused reason=denied us=0"), "{text:?}");
        let json: serde_json::Value =
            serde_json::from_str(&lines(", format: json", &[(Outcome::Ok, 7)])[0]).unwrap();
        assert_eq!((json["command"].as_str(), json["micros"].as_u64()), (Some("get"), Some(7)));
    }

    #[test]
    fn a_client_certificate_is_told_and_cannot_forge_a_line() {
        let identity = mecha_core::Identity {
            subject: "CN=app\n1 listener:x".into(),
            names: vec!["spiffe://mesh/app".into()],
            fingerprint: "ab".repeat(32),
        };
        let peer = Peer { id: 1, addr: None, local: None, identity: Some(Arc::new(identity)), user: None };
        let text = lines_of(&peer, "", &[(Outcome::Ok, 1)]);
        assert_eq!(text.len(), 1, "{text:?}");
        assert!(text[0].ends_with(r#" us=1 identity="CN=app\n1 listener:x""#), "{text:?}");
        let json: serde_json::Value =
            serde_json::from_str(&lines_of(&peer, ", format: json", &[(Outcome::Ok, 7)])[0]).unwrap();
        assert_eq!(json["identity"]["names"][0], "spiffe://mesh/app");
    }

    #[test]
    fn only_what_matters_is_written_if_wanted() {
        let outcomes = [(Outcome::Ok, 1), (Outcome::Ok, 9000), (Outcome::ServerError, 1)];
        assert_eq!(lines(", only: [errors, slow], slow_after: 5ms", &outcomes).len(), 2);
        assert_eq!(lines(", sample: 3", &[(Outcome::Ok, 1); 9]).len(), 3);
    }
}
