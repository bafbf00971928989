//! Commands about the connection and the server, which no back needs to hear of.

use mecha_core::{OpId, Outcome};
use mecha_resp::reply::Writer;
use mecha_resp::{COMMANDS, CommandInfo, Session, op, op_info};

use super::hash::content::{integer, is};
use super::hash::glob;
use super::unsupported;
use crate::kv::{Plan, PlanCx};

/// The server whose behaviour is kept.
const REDIS_VERSION: &str = "7.0.15";

/// Names of the commands that are answered here.
const ANSWERED: [&str; 20] = [
    "auth", "client|getname", "client|id", "client|info", "client|list", "client|setinfo", "client|setname", "command",
    "command|count", "command|docs", "command|info", "command|list", "config|get", "echo", "hello", "info", "ping", "quit",
    "reset", "select",
];

/// Whether `command` is answered here.
pub(super) fn answers(command: &str) -> bool {
    ANSWERED.contains(&command) || command == "time" || command == "client|no-evict" || command == "client|no-touch"
}

/// Answers a command, or says why not.
pub(super) fn plan(op: OpId, words: &[Vec<u8>], session: &mut Session, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let start = out.len();
    let info = op_info(op);
    if op == OpId::UNKNOWN {
        unknown(words, &mut Writer::new(out, session.proto));
        return Plan::Answered(Outcome::ClientError);
    }
    if !info.accepts(words.len()) {
        let name = info.name;
        Writer::new(out, session.proto).error(&format!("ERR wrong number of arguments for '{name}' command"));
        return Plan::Answered(Outcome::ClientError);
    }
    let arg = |at: usize| words.get(at).map(Vec::as_slice).unwrap_or_default();
    let mut writer = Writer::new(out, session.proto);
    match op {
        op::PING if words.len() > 2 => writer.error("ERR wrong number of arguments for 'ping' command"),
        op::PING if words.len() == 2 => writer.bulk(arg(1)),
        op::PING => writer.simple("PONG"),
        op::ECHO => writer.bulk(arg(1)),
        op::QUIT => {
            writer.ok();
            return Plan::Close;
        }
        op::RESET => {
            writer.simple("RESET");
            *session = Session::default();
        }
        op::SELECT => match integer(arg(1)) {
            Some(0) => writer.ok(),
            Some(_) => writer.error("ERR DB index is out of range"),
            None => writer.error("ERR value is not an integer or out of range"),
        },
        op::AUTH => writer.error(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ),
        op::HELLO => hello(words, session, cx, out),
        op::TIME => {
            let (seconds, millis) = (cx.now_ms / 1000, cx.now_ms % 1000);
            writer.array(2);
            writer.bulk_int(seconds as i64);
            writer.bulk_int(millis as i64 * 1000);
        }
        op::DBSIZE if cx.key_count.is_some() => writer.int(cx.key_count.unwrap_or_default() as i64),
        op::INFO => {
            let text = info_text(words, cx);
            writer.verbatim("txt", text.as_bytes());
        }
        op::CONFIG_GET => config_get(words, &mut writer),
        op::CLIENT_ID => writer.int(cx.client_id as i64),
        op::CLIENT_GETNAME if session.name.is_empty() => writer.null(),
        op::CLIENT_GETNAME => writer.bulk(&session.name),
        op::CLIENT_SETNAME if arg(2).iter().all(|byte| (b'!'..=b'~').contains(byte)) => {
            session.name = arg(2).to_vec();
            writer.ok();
        }
        op::CLIENT_SETNAME => {
            writer.error("ERR Client names cannot contain spaces, newlines or special characters.");
        }
        op::CLIENT_SETINFO if is(arg(2), "lib-name") || is(arg(2), "lib-ver") => {
            let slot = if is(arg(2), "lib-name") { &mut session.lib_name } else { &mut session.lib_version };
            *slot = arg(3).to_vec();
            writer.ok();
        }
        op::CLIENT_SETINFO => writer.error_bytes(&[b"ERR Unrecognized option '", arg(2), b"'"].concat()),
        op::CLIENT_NO_EVICT | op::CLIENT_NO_TOUCH => writer.ok(),
        op::CLIENT_INFO | op::CLIENT_LIST => {
            let addr = cx.client_addr.map_or_else(|| "unix".to_string(), |addr| addr.to_string());
            let name = String::from_utf8_lossy(&session.name);
            let line = format!("id={} addr={addr} name={name} db=0 resp={}\n", cx.client_id, session.proto);
            writer.verbatim("txt", line.as_bytes());
        }
        op::COMMAND_COUNT => writer.int(known().count() as i64),
        op::COMMAND_LIST if words.len() == 2 => {
            writer.array(known().count());
            known().for_each(|info| writer.bulk(info.name.as_bytes()));
        }
        op::COMMAND_DOCS => writer.map(0),
        op::COMMAND => {
            writer.array(known().count());
            known().for_each(|info| describe(info, &mut writer));
        }
        op::COMMAND_INFO => {
            writer.array(words.len() - 2);
            for name in words.iter().skip(2) {
                match known().find(|info| is(name, info.name)) {
                    Some(info) => describe(info, &mut writer),
                    None => writer.null_array(),
                }
            }
        }
        _ => writer.error(&unsupported(op, cx.back)),
    }
    let is_error = out.get(start) == Some(&b'-');
    Plan::Answered(if is_error { Outcome::ClientError } else { Outcome::Ok })
}

fn unknown(words: &[Vec<u8>], writer: &mut Writer<'_>) {
    let shown = |word: &[u8]| String::from_utf8_lossy(word.get(..128).unwrap_or(word)).into_owned();
    let name = words.first().map(|name| shown(name)).unwrap_or_default();
    let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
    for word in words.iter().skip(1) {
        if text.len() > 128 {
            break;
        }
        text.push_str(&format!("'{}' ", shown(word)));
    }
    writer.error(&text);
}

fn hello(words: &[Vec<u8>], session: &mut Session, cx: &PlanCx<'_>, out: &mut Vec<u8>) {
    let mut proto = session.proto;
    let mut options = words.iter().skip(1);
    if let Some(version) = options.next() {
        match integer(version) {
            Some(2) => proto = 2,
            Some(3) => proto = 3,
            Some(_) => return Writer::new(out, session.proto).error("NOPROTO unsupported protocol version"),
            None => {
                return Writer::new(out, session.proto)
                    .error("ERR Protocol version is not an integer or out of range");
            }
        }
    }
    let mut name = None;
    while let Some(option) = options.next() {
        match options.next() {
            Some(value) if is(option, "setname") => name = Some(value.clone()),
            Some(_) if is(option, "auth") => {
                return Writer::new(out, session.proto).error(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                );
            }
            _ => {
                let option = String::from_utf8_lossy(option).into_owned();
                let text = format!("ERR Syntax error in HELLO option '{option}'");
                return Writer::new(out, session.proto).error(&text);
            }
        }
    }
    session.proto = proto;
    if let Some(name) = name {
        session.name = name;
    }
    let mut writer = Writer::new(out, proto);
    writer.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        writer.bulk(field.as_bytes());
        writer.bulk(value.as_bytes());
    }
    writer.bulk(b"proto");
    writer.int(i64::from(proto));
    writer.bulk(b"id");
    writer.int(cx.client_id as i64);
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        writer.bulk(field.as_bytes());
        writer.bulk(value.as_bytes());
    }
    writer.bulk(b"modules");
    writer.array(0);
}

fn info_text(words: &[Vec<u8>], cx: &PlanCx<'_>) -> String {
    let uptime = (cx.now_ms / 1000).saturating_sub(cx.started_at.unix_seconds);
    let keys = cx.key_count.map_or_else(String::new, |keys| format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"));
    let sections = [
        (
            "server",
            format!("redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nmecha_version:{}\r\nmecha_back:{}\r\nuptime_in_seconds:{uptime}\r\n", env!("CARGO_PKG_VERSION"), cx.back),
        ),
        ("persistence", "loading:0\r\n".to_string()),
        ("replication", "role:master\r\nconnected_slaves:0\r\n".to_string()),
        ("keyspace", keys),
    ];
    let wanted: Vec<_> = words.iter().skip(1).collect();
    let is_all = |word: &Vec<u8>| ["all", "default", "everything"].iter().any(|all| is(word, all));
    let mut text = String::new();
    for (name, body) in sections {
        if wanted.is_empty() || wanted.iter().any(|word| is(word, name) || is_all(word)) {
            let title = name.get(..1).unwrap_or_default().to_uppercase() + name.get(1..).unwrap_or_default();
            text.push_str(&format!("# {title}\r\n{body}\r\n"));
        }
    }
    text
}

fn config_get(words: &[Vec<u8>], writer: &mut Writer<'_>) {
    const VALUES: [(&str, &str); 5] =
        [("appendonly", "no"), ("databases", "1"), ("maxmemory-policy", "allkeys-lru"), ("save", ""), ("timeout", "0")];
    let matches = |name: &str| words.iter().skip(2).any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<_> = VALUES.iter().filter(|(name, _)| matches(name)).collect();
    writer.map(found.len());
    for (name, value) in found {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
}

/// Commands that work here; containers stand for their subcommands.
fn known() -> impl Iterator<Item = &'static CommandInfo> {
    let works = |info: &&CommandInfo| {
        super::aggregate::find(info.name.as_bytes()).is_some()
            || answers(info.name)
            || matches!(info.name, "client" | "config" | "flushall" | "flushdb" | "dbsize")
    };
    COMMANDS.iter().skip(1).filter(|info| !info.name.contains('|')).filter(works)
}

/// Name, arity, flags, first key, last key, step.
fn describe(info: &CommandInfo, writer: &mut Writer<'_>) {
    let flags = [(mecha_resp::flag::WRITE, "write"), (mecha_resp::flag::READONLY, "readonly"), (mecha_resp::flag::FAST, "fast")];
    let set: Vec<_> = flags.iter().filter(|(flag, _)| info.has(*flag)).map(|(_, name)| *name).collect();
    let (first, last, step) = info.key_range();
    writer.array(6);
    writer.bulk(info.name.as_bytes());
    writer.int(i64::from(info.arity));
    writer.set(set.len());
    set.iter().for_each(|flag| writer.simple(flag));
    [first, last, step].into_iter().for_each(|number| writer.int(i64::from(number)));
}
