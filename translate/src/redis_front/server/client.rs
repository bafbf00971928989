//! `CLIENT`.

use mecha_core::OpId;
use mecha_resp::reply::Writer;
use mecha_resp::{Session, op};

use super::super::hash::content::{integer, is};
use super::super::{unsupported, unsupported_in_transaction};
use crate::kv::PlanCx;

const HELP: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current connection.",
    "KILL <ip:port> | <option> ...",
    "    Kill connections to the same listener.",
    "LIST [TYPE <type> | ID <id> [<id> ...]]",
    "    Return information about connections to the same listener.",
    "NO-EVICT (ON|OFF)",
    "    Has no effect.",
    "REPLY ON",
    "    Has no effect.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Tell which library is used.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "TRACKING OFF",
    "    Has no effect.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock a connection to the same listener.",
    "HELP",
    "    Print this help.",
];

/// Names and the like must not break the lines of `CLIENT LIST`.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Whether a connection may be called so.
pub(super) fn check_name(name: &[u8]) -> Result<(), String> {
    if is_plain(name) {
        Ok(())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.".into())
    }
}

/// Whether it was one of these commands.
pub(super) fn answer(
    op: OpId,
    words: &[Vec<u8>],
    session: &mut Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let arg = |at: usize| words.get(at).map(Vec::as_slice).unwrap_or_default();
    let mut writer = Writer::new(out, session.proto);
    match op {
        op::CLIENT_GETNAME if session.name.is_empty() => writer.null(),
        op::CLIENT_GETNAME => writer.bulk(&session.name),
        op::CLIENT_HELP => super::help("CLIENT", HELP, &mut writer),
        op::CLIENT_ID => writer.int(cx.client_id as i64),
        op::CLIENT_INFO => {
            let text = line(session, cx);
            writer.verbatim("txt", &text);
        }
        op::CLIENT_LIST => match selects(words, cx) {
            Ok(selects) => {
                let text = if selects { line(session, cx) } else { Vec::new() };
                writer.verbatim("txt", &text);
            }
            Err(text) => writer.error(&text),
        },
        // Elsewhere these are about more than this client, and seen to by whoever has the others.
        op::CLIENT_KILL | op::CLIENT_UNBLOCK => writer.error(&unsupported_in_transaction(op, cx.back)),
        op::CLIENT_NO_EVICT | op::CLIENT_NO_TOUCH if is(arg(2), "on") || is(arg(2), "off") => writer.ok(),
        op::CLIENT_REPLY if is(arg(2), "on") => writer.ok(),
        op::CLIENT_REPLY if is(arg(2), "off") || is(arg(2), "skip") => {
            writer.error(&unsupported(op, cx.back));
        }
        op::CLIENT_NO_EVICT | op::CLIENT_NO_TOUCH | op::CLIENT_REPLY => writer.error("ERR syntax error"),
        op::CLIENT_SETNAME => match check_name(arg(2)) {
            Ok(()) => {
                session.name = arg(2).to_vec();
                writer.ok();
            }
            Err(text) => writer.error(&text),
        },
        op::CLIENT_SETINFO => {
            let (field, name) = match () {
                () if is(arg(2), "lib-name") => (&mut session.lib_name, "lib-name"),
                () if is(arg(2), "lib-ver") => (&mut session.lib_version, "lib-ver"),
                () => {
                    writer.error_bytes(&[b"ERR Unrecognized option '", arg(2), b"'"].concat());
                    return true;
                }
            };
            if is_plain(arg(3)) {
                *field = arg(3).to_vec();
                writer.ok();
            } else {
                writer.error(&format!("ERR {name} cannot contain spaces, newlines or special characters."));
            }
        }
        op::CLIENT_TRACKING if is(arg(2), "off") => writer.ok(),
        op::CLIENT_TRACKING if is(arg(2), "on") => writer.error(&unsupported(op, cx.back)),
        op::CLIENT_TRACKING => writer.error("ERR syntax error"),
        _ => return false,
    }
    true
}

/// Whether the arguments of `CLIENT LIST` select this client.
fn selects(words: &[Vec<u8>], cx: &PlanCx<'_>) -> Result<bool, String> {
    match words.get(2..).unwrap_or_default() {
        [] => Ok(true),
        [option, kind] if is(option, "type") => match () {
            () if is(kind, "normal") => Ok(true),
            () if ["master", "pubsub", "replica", "slave"].iter().any(|known| is(kind, known)) => Ok(false),
            () => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind))),
        },
        [option, ids @ ..] if is(option, "id") && !ids.is_empty() => {
            let mut found = false;
            for id in ids {
                let id = integer(id).filter(|id| *id > 0).ok_or("ERR Invalid client ID")?;
                found |= u64::try_from(id) == Ok(cx.client_id);
            }
            Ok(found)
        }
        _ => Err("ERR syntax error".into()),
    }
}

fn line(session: &Session, cx: &PlanCx<'_>) -> Vec<u8> {
    let addr = cx.client_addr.map_or_else(|| "unix".to_owned(), |addr| addr.to_string());
    let transaction = session.transaction.as_ref();
    let queued = transaction.filter(|_| session.multi).map_or(-1, |open| open.frames.len() as i64);
    let mut line = format!("id={} addr={addr} name=", cx.client_id).into_bytes();
    line.extend_from_slice(&session.name);
    let rest = format!(" db=0 sub=0 psub=0 multi={queued} user=default resp={} lib-name=", session.proto);
    line.extend_from_slice(rest.as_bytes());
    line.extend_from_slice(&session.lib_name);
    line.extend_from_slice(b" lib-ver=");
    line.extend_from_slice(&session.lib_version);
    line.push(b'\n');
    line
}
