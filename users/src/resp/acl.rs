//! `ACL`, as far as it tells: whom there is, who one is, and what a command would come to.

use mecha_core::{OpId, Protocol};
use mecha_resp::reply::Writer;
use mecha_resp::{CATEGORIES, Resp, access, op, op_info, write_request};

use super::{judge_arguments, op_of};
use crate::guard::{Gate, Who};
use crate::user::Vocabulary;

const HELP: &[&str] = &[
    "ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CAT [<category>]",
    "    List all commands that belong to <category>, or all command categories",
    "    when no category is specified.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Returns whether the user can execute the given command without executing the command.",
    "GETUSER <username>",
    "    Get the user's details, without its passwords.",
    "GENPASS [<bits>]",
    "    Generate a secure 256-bit user password.",
    "LIST",
    "    Show users details in config file format, without their passwords.",
    "USERS",
    "    List all the registered usernames.",
    "WHOAMI",
    "    Return the current connection username.",
    "HELP",
    "    Print this help.",
];

/// Answers a request with a number of arguments that it takes.
pub(super) fn answer(op: OpId, words: &[Vec<u8>], gate: &Gate, who: &Who, proto: u8, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, proto);
    let word = |at: usize| words.get(at).map(Vec::as_slice).unwrap_or_default();
    let lines = |writer: &mut Writer<'_>, lines: Vec<String>| {
        writer.array(lines.len());
        lines.iter().for_each(|line| writer.bulk(line.as_bytes()));
    };
    match op {
        op::ACL_WHOAMI => writer.bulk(who.name().map_or(b"".as_slice(), |name| name.as_bytes())),
        op::ACL_USERS => {
            lines(&mut writer, gate.users.sorted().iter().map(|user| user.name.to_string()).collect());
        }
        op::ACL_LIST => lines(&mut writer, gate.users.sorted().iter().map(|user| user.line()).collect()),
        op::ACL_GETUSER => get_user(word(2), gate, &mut writer),
        op::ACL_CAT => categories(words.get(2), &mut writer),
        op::ACL_DRYRUN => dry_run(words, gate, &mut writer),
        op::ACL_HELP => {
            writer.array(HELP.len());
            HELP.iter().for_each(|line| writer.simple(line));
        }
        op::ACL_DELUSER | op::ACL_LOAD | op::ACL_SAVE | op::ACL_SETUSER => {
            writer.error(
                "ERR mecha: users are defined in mecha's configuration; change it there and it is reloaded",
            );
        }
        op::ACL_LOG => {
            writer.error("ERR mecha: what is refused is counted in metrics and told by the access log")
        }
        _ => {
            let text = [b"ERR unknown subcommand '", word(1), b"'. Try ACL HELP."].concat();
            writer.error_bytes(&text);
        }
    }
}

fn get_user(name: &[u8], gate: &Gate, writer: &mut Writer<'_>) {
    let Some(user) = gate.users.named(name) else { return writer.null() };
    writer.map(6);
    writer.bulk(b"flags");
    let mut flags = vec![if user.is_on { "on" } else { "off" }];
    flags.extend(user.has_no_password.then_some("nopass"));
    writer.set(flags.len());
    flags.iter().for_each(|flag| writer.simple(flag));
    writer.bulk(b"passwords");
    writer.array(0);
    for (field, text) in [
        ("commands", user.command_words.clone()),
        ("keys", user.keys.words().join(" ")),
        ("channels", user.channels.words().join(" ")),
    ] {
        writer.bulk(field.as_bytes());
        writer.bulk(text.as_bytes());
    }
    writer.bulk(b"selectors");
    writer.array(0);
}

fn categories(wanted: Option<&Vec<u8>>, writer: &mut Writer<'_>) {
    let Some(wanted) = wanted else {
        writer.array(CATEGORIES.len());
        return CATEGORIES.iter().for_each(|name| writer.simple(name));
    };
    let lower = wanted.to_ascii_lowercase();
    let Some(bit) = CATEGORIES.iter().position(|name| name.as_bytes() == lower) else {
        return writer.error_bytes(&[b"ERR Unknown category '", wanted.as_slice(), b"'"].concat());
    };
    let rows = Resp::names().into_iter().enumerate().skip(1);
    let names: Vec<_> = rows
        .filter(|(row, _)| access(OpId(*row as u16)).categories >> bit & 1 == 1)
        .map(|(_, name)| name)
        .collect();
    writer.array(names.len());
    names.iter().for_each(|name| writer.bulk(name.as_bytes()));
}

/// What a user would be told.
fn dry_run(words: &[Vec<u8>], gate: &Gate, writer: &mut Writer<'_>) {
    let name = words.get(2).map(Vec::as_slice).unwrap_or_default();
    let Some(user) = gate.users.named(name) else {
        return writer.error_bytes(&[b"ERR User '", name, b"' not found"].concat());
    };
    let command = words.get(3..).unwrap_or_default();
    let op = op_of(command);
    if op == OpId::UNKNOWN {
        let name = command.first().map(Vec::as_slice).unwrap_or_default();
        return writer.error_bytes(&[b"ERR Command '", name, b"' not found"].concat());
    }
    let info = op_info(op);
    if !info.accepts(command.len()) {
        return writer.error(&format!("ERR wrong number of arguments for '{}' command", info.name));
    }
    let mut frame = Vec::new();
    write_request(command.iter().map(Vec::as_slice), &mut frame);
    let refused = if user.may_run(op) {
        judge_arguments(op, &frame, false, user)
    } else {
        Some(mecha_core::Refusal::NoCommand)
    };
    match refused {
        None => writer.ok(),
        Some(why) => {
            let mut error = Vec::new();
            Resp::refuse(mecha_core::Asked { op, echo: 0 }, why, &mut error);
            let text = error.strip_prefix(b"-NOPERM ").unwrap_or(&error);
            writer.bulk(text.strip_suffix(b"\r\n").unwrap_or(text));
        }
    }
}
