//! Commands about the connection and the server, which no back needs to hear of.

mod client;
mod command;
pub(super) mod info;
mod object;
mod operations;

use mecha_core::{OpId, Outcome};
use mecha_resp::reply::Writer;
use mecha_resp::{Session, op};

use super::aggregate::write_error;
use super::hash::content::{integer, is};
use super::keys::database;
use super::unsupported;
use crate::kv::{Plan, PlanCx};

/// The server whose behaviour is kept.
const REDIS_VERSION: &str = "7.0.15";

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Answers a command that this back has, with a number of arguments that it takes.
pub(super) fn plan(
    op: OpId,
    words: &[Vec<u8>],
    session: &mut Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> Plan {
    let start = out.len();
    if let Some(plan) = object::plan(op, words, session.proto, out) {
        return plan;
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
            super::pubsub::leave_all(session, cx);
            *session = session.fresh();
        }
        op::SELECT => match database(arg(1)) {
            Ok(()) => writer.ok(),
            Err(error) => drop(write_error(&error, "select", &mut writer)),
        },
        op::AUTH => match words {
            [_, _] => writer.error(NO_PASSWORD),
            [_, user, _] if user == b"default" => writer.ok(),
            [_, _, _] => writer.error(WRONG_PASSWORD),
            _ => writer.error("ERR syntax error"),
        },
        op::HELLO => match hello(words, session) {
            Ok(()) => {
                super::pubsub::speaks(session, cx);
                greet(session.proto, cx, out);
            }
            Err(text) => writer.error(&text),
        },
        op::TIME => {
            writer.array(2);
            writer.bulk_int((cx.now_ms / 1000) as i64);
            writer.bulk_int((cx.now_ms % 1000) as i64 * 1000);
        }
        op::DBSIZE => writer.int(cx.key_count.unwrap_or_default() as i64),
        op::INFO => info::Info::new(words, session.proto, cx).answer(None, cx.max_value, out),
        op::CONFIG_GET => info::config_get(words, &mut writer),
        op::CONFIG_SET => info::config_set(words, &mut writer),
        // What is in memory was never saved: the time is that of the start, as a server has it until then.
        op::LASTSAVE => writer.int(cx.started_at.unix_seconds as i64),
        op::MOVE => match database(arg(2)) {
            Ok(()) => writer.error("ERR source and destination objects are the same"),
            Err(error) => drop(write_error(&error, "move", &mut writer)),
        },
        op::SWAPDB => match (swapped(arg(1)), swapped(arg(2))) {
            (None, _) => writer.error("ERR invalid first DB index"),
            (_, None) => writer.error("ERR invalid second DB index"),
            (Some(0), Some(0)) => writer.ok(),
            _ => writer.error("ERR DB index is out of range"),
        },
        _ if client::answer(op, words, session, cx, out)
            || command::answer(op, words, session.proto, cx, out)
            || operations::answer(op, words, session.proto, out) => {}
        _ => Writer::new(out, session.proto).error(&unsupported(op, cx.back)),
    }
    let is_error = out.get(start) == Some(&b'-');
    Plan::Answered(if is_error { Outcome::ClientError } else { Outcome::Ok })
}

/// The index of a database, whether there is such a one or not.
fn swapped(index: &[u8]) -> Option<i32> {
    integer(index).and_then(|index| i32::try_from(index).ok())
}

/// What C prints of a word with a precision.
fn shown(word: &[u8], most: usize) -> &[u8] {
    let word = word.get(..most).unwrap_or(word);
    word.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The answer to a command that Redis does not know either.
pub(super) fn unknown_command(words: &[Vec<u8>], writer: &mut Writer<'_>) {
    let name = words.first().map(Vec::as_slice).unwrap_or_default();
    let mut args = Vec::new();
    for word in words.iter().skip(1) {
        if args.len() >= 128 {
            break;
        }
        let room = 128 - args.len();
        args.extend_from_slice(&[b"'", shown(word, room), b"' "].concat());
    }
    let text = [b"ERR unknown command '", shown(name, 128), b"', with args beginning with: ", &args].concat();
    writer.error_bytes(&text);
}

/// The answer to a subcommand that Redis does not know either.
pub(super) fn unknown_subcommand(container: &str, words: &[Vec<u8>], writer: &mut Writer<'_>) {
    let word = words.get(1).map(Vec::as_slice).unwrap_or_default();
    let container = container.to_uppercase();
    let text =
        [b"ERR unknown subcommand '", shown(word, 128), b"'. Try ", container.as_bytes(), b" HELP."].concat();
    writer.error_bytes(&text);
}

/// A list of what can be said, as `HELP` answers it.
pub(super) fn help(command: &str, lines: &[&str], writer: &mut Writer<'_>) {
    let head = format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    writer.array(lines.len() + 1);
    writer.simple(&head);
    lines.iter().for_each(|line| writer.simple(line));
}

fn hello(words: &[Vec<u8>], session: &mut Session) -> Result<(), String> {
    let mut proto = session.proto;
    if let Some(version) = words.get(1) {
        proto = match integer(version) {
            Some(2) => 2,
            Some(3) => 3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        };
    }
    let (mut name, mut user) = (None, None);
    let mut options = words.get(2..).unwrap_or_default();
    loop {
        options = match options {
            [] => break,
            [option, given, _, rest @ ..] if is(option, "auth") => {
                user = Some(given);
                rest
            }
            [option, given, rest @ ..] if is(option, "setname") => {
                client::check_name(given)?;
                name = Some(given.clone());
                rest
            }
            [option, ..] => {
                let option = String::from_utf8_lossy(option);
                return Err(format!("ERR Syntax error in HELLO option '{option}'"));
            }
        };
    }
    if user.is_some_and(|user| user != b"default") {
        return Err(WRONG_PASSWORD.into());
    }
    session.proto = proto;
    if let Some(name) = name {
        session.name = name;
    }
    Ok(())
}

fn greet(proto: u8, cx: &PlanCx<'_>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, proto);
    let texts = |writer: &mut Writer<'_>, pairs: [(&str, &str); 2]| {
        for (field, value) in pairs {
            writer.bulk(field.as_bytes());
            writer.bulk(value.as_bytes());
        }
    };
    writer.map(7);
    texts(&mut writer, [("server", "redis"), ("version", REDIS_VERSION)]);
    writer.bulk(b"proto");
    writer.int(i64::from(proto));
    writer.bulk(b"id");
    writer.int(cx.client_id as i64);
    texts(&mut writer, [("mode", "standalone"), ("role", "master")]);
    writer.bulk(b"modules");
    writer.array(0);
}
