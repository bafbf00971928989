//! `COMMAND`, about what works on this back.

use mecha_core::{Framed, Keys, OpId};
use mecha_resp::reply::Writer;
use mecha_resp::{
    Begin, COMMANDS, CommandInfo, Find, KeySpec, Resp, flag, head_of, op, op_info, write_request,
};

use super::super::hash::content::is;
use super::super::support::{Support, resp_support};
use super::super::{unsupported, with_article};
use crate::kv::PlanCx;
use mecha_resp::glob;

const HELP: &[&str] = &[
    "(no subcommand)",
    "    Return details about all commands that work here.",
    "COUNT",
    "    Return the number of commands that work here.",
    "DOCS [<command-name> [...]]",
    "    Return how far commands work here.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "LIST [FILTERBY (MODULE <module-name>|PATTERN <pattern>)]",
    "    Return the names of the commands that work here.",
    "HELP",
    "    Print this help.",
];

const FLAGS: [(u16, &str); 9] = [
    (flag::WRITE, "write"),
    (flag::READONLY, "readonly"),
    (flag::ADMIN, "admin"),
    (flag::PUBSUB, "pubsub"),
    (flag::NOSCRIPT, "noscript"),
    (flag::BLOCKING, "blocking"),
    (flag::FAST, "fast"),
    (flag::NO_AUTH, "no_auth"),
    (flag::MOVABLEKEYS, "movablekeys"),
];

/// Commands that work on this back, without subcommands.
fn known(back: &str) -> impl Iterator<Item = &'static CommandInfo> {
    named(back).filter(|info| !info.name.contains('|'))
}

/// Commands and subcommands that work on this back.
fn named(back: &str) -> impl Iterator<Item = &'static CommandInfo> {
    let works = move |info: &&CommandInfo| resp_support(info.name, back) != Support::Refused;
    COMMANDS.iter().skip(1).filter(works)
}

/// Whether it was one of these commands.
pub(super) fn answer(op: OpId, words: &[Vec<u8>], proto: u8, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> bool {
    let mut writer = Writer::new(out, proto);
    let named = words.get(2..).unwrap_or_default();
    let find = |name: &Vec<u8>| known(cx.back).find(|info| is(name, info.name));
    match op {
        op::COMMAND => {
            writer.array(known(cx.back).count());
            known(cx.back).for_each(|info| describe(info, &mut writer));
        }
        op::COMMAND_COUNT => writer.int(known(cx.back).count() as i64),
        op::COMMAND_DOCS => {
            let found: Vec<_> = match named {
                [] => known(cx.back).collect(),
                named => named.iter().filter_map(find).collect(),
            };
            writer.map(found.len());
            for info in found {
                let degree = match resp_support(info.name, cx.back) {
                    Support::Emulated => "emulated",
                    Support::Exact => "as in Redis",
                    Support::Refused => "refused",
                };
                writer.bulk(info.name.as_bytes());
                writer.map(1);
                writer.bulk(b"summary");
                writer.bulk(format!("{degree} on {} backend", with_article(cx.back)).as_bytes());
            }
        }
        op::COMMAND_GETKEYS => get_keys(named, &mut writer),
        op::COMMAND_HELP => super::help("COMMAND", HELP, &mut writer),
        op::COMMAND_INFO => {
            let found: Vec<_> = match named {
                [] => known(cx.back).map(Some).collect(),
                named => named.iter().map(find).collect(),
            };
            writer.array(found.len());
            for info in found {
                match info {
                    Some(info) => describe(info, &mut writer),
                    None => writer.null(),
                }
            }
        }
        op::COMMAND_LIST => list(named, op, cx, &mut writer),
        _ => return false,
    }
    true
}

fn list(filter: &[Vec<u8>], op: OpId, cx: &PlanCx<'_>, writer: &mut Writer<'_>) {
    let names: Vec<_> = match filter {
        [] => named(cx.back).collect(),
        [word, kind, pattern] if is(word, "filterby") && is(kind, "pattern") => {
            let pattern = pattern.to_ascii_lowercase();
            named(cx.back).filter(|info| glob::matches(&pattern, info.name.as_bytes())).collect()
        }
        // There are no modules.
        [word, kind, _] if is(word, "filterby") && is(kind, "module") => Vec::new(),
        [word, kind, _] if is(word, "filterby") && is(kind, "aclcat") => {
            return writer.error(&unsupported(op, cx.back));
        }
        _ => return writer.error("ERR syntax error"),
    };
    writer.array(names.len());
    names.iter().for_each(|info| writer.bulk(info.name.as_bytes()));
}

fn get_keys(words: &[Vec<u8>], writer: &mut Writer<'_>) {
    let mut frame = Vec::new();
    write_request(words.iter().map(Vec::as_slice), &mut frame);
    let Some(head) = head_of(&frame).filter(|head| head.op != OpId::UNKNOWN) else {
        return writer.error("ERR Invalid command specified");
    };
    let info = op_info(head.op);
    if info.keys.is_empty() && !info.has(flag::MOVABLEKEYS) {
        return writer.error("ERR The command has no key arguments");
    }
    if !info.accepts(words.len()) {
        return writer.error("ERR Invalid number of arguments specified for command");
    }
    let mut keys = Vec::new();
    if Resp::keys(&head, &frame, &mut |key| keys.push(key)) == Keys::Unknown {
        return writer.error("ERR Invalid arguments specified for command");
    }
    writer.array(keys.len());
    keys.into_iter().for_each(|key| writer.bulk(key));
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands.
fn describe(info: &CommandInfo, writer: &mut Writer<'_>) {
    let set = || FLAGS.iter().filter(|(flag, _)| info.has(*flag)).map(|(_, name)| *name);
    let (first, last, step) = info.key_range();
    writer.array(10);
    writer.bulk(info.name.as_bytes());
    writer.int(i64::from(info.arity));
    writer.set(set().count());
    set().for_each(|flag| writer.simple(flag));
    [first, last, step].into_iter().for_each(|number| writer.int(i64::from(number)));
    writer.set(0);
    writer.array(0);
    writer.array(info.keys.len());
    info.keys.iter().for_each(|spec| describe_keys(spec, writer));
    writer.array(0);
}

/// One key specification, without flags.
fn describe_keys(spec: &KeySpec, writer: &mut Writer<'_>) {
    let part = |writer: &mut Writer<'_>, name: &str, kind: &str, numbers: &[(&str, i16)]| {
        writer.bulk(name.as_bytes());
        writer.map(2);
        writer.bulk(b"type");
        writer.bulk(kind.as_bytes());
        writer.bulk(b"spec");
        writer.map(numbers.len());
        for (name, number) in numbers {
            writer.bulk(name.as_bytes());
            writer.int(i64::from(*number));
        }
    };
    writer.map(3);
    writer.bulk(b"flags");
    writer.set(0);
    match spec.begin {
        // An argument 0 stands for keys that cannot be told from the arguments.
        Begin::Index(0) => part(writer, "begin_search", "unknown", &[]),
        Begin::Index(index) => part(writer, "begin_search", "index", &[("index", index)]),
        Begin::Keyword(word, from) => {
            writer.bulk(b"begin_search");
            writer.map(2);
            writer.bulk(b"type");
            writer.bulk(b"keyword");
            writer.bulk(b"spec");
            writer.map(2);
            writer.bulk(b"keyword");
            writer.bulk(word.as_bytes());
            writer.bulk(b"startfrom");
            writer.int(i64::from(from));
        }
    }
    match (spec.begin, spec.find) {
        (Begin::Index(0), _) => part(writer, "find_keys", "unknown", &[]),
        (_, Find::Number { at, first, step }) => {
            let numbers = [("keynumidx", at), ("firstkey", first), ("keystep", step)];
            part(writer, "find_keys", "keynum", &numbers);
        }
        (_, Find::Range { last, step, limit }) => {
            let numbers = [("lastkey", last), ("keystep", step), ("limit", limit)];
            part(writer, "find_keys", "range", &numbers);
        }
    }
}
