//! `CLIENT LIST`, `INFO`, `KILL` and `UNBLOCK`: what a client asks about mecha's clients, and how it is told.
//!
//! The lines are Redis's, field by field, with what mecha does not have (memory of one client, events) as zero. Words that
//! are wrong get the server's own errors.

use mecha_core::{Act, Affinity, ClientFacts, ClientKind, Errand, Found, OpId, Selection, shown};

use super::look::{Seen, Step};
use super::{Session, census};
use crate::ops::{op, op_info};
use crate::reply::Writer;
use crate::{Resp, args, write_request};

/// A redirection that leads nowhere: no server gives this number to a client.
const NOBODY: u64 = i64::MAX as u64;

/// Why a request is no errand.
pub(super) type Words = String;

// === impl Session ===

impl Session {
    /// What becomes of a command about clients.
    pub(super) fn about_clients(&self, seen: &Seen<'_>, mut writer: Writer<'_>) -> Step {
        match parse(seen.op, seen.frame, self.id) {
            Ok(_) => Step::Go(Affinity::Errand),
            Err(words) => {
                writer.error(&words);
                Step::Answered
            }
        }
    }

    /// See [`mecha_core::Session::describe`].
    pub(super) fn line(&self, facts: &ClientFacts<'_>, out: &mut Vec<u8>) {
        let info = op_info(facts.last);
        let name = if facts.last == OpId::UNKNOWN { "NULL" } else { info.name };
        let text = String::from_utf8_lossy;
        let multi = if self.multi { self.queued.to_string() } else { "-1".into() };
        let line = format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={multi} \
             qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll=0 omem={} tot-mem={} events=r cmd={name} \
             user={} redir=-1 resp={} lib-name={} lib-ver={}\n",
            facts.peer.id,
            shown(facts.peer.addr),
            shown(facts.peer.local),
            text(&self.name),
            facts.age_secs,
            facts.idle_secs,
            self.flags(facts),
            self.db,
            facts.waiting_bytes,
            facts.unread_bytes,
            facts.unread_bytes,
            facts.unread_bytes,
            facts.peer.user.as_deref().unwrap_or(mecha_core::Session::<Resp>::shown_user(self)),
            self.proto,
            text(&self.lib_name),
            text(&self.lib_version),
        );
        out.extend_from_slice(line.as_bytes());
    }

    /// Letters for what the client is and does, as the server has them.
    fn flags(&self, facts: &ClientFacts<'_>) -> String {
        let marks = [
            (self.is_replica, 'S'),
            (self.is_monitor, 'O'),
            (self.is_subscriber, 'P'),
            (self.multi, 'x'),
            (facts.is_blocked, 'b'),
            (facts.peer.addr.is_none(), 'U'),
        ];
        let flags: String =
            marks.into_iter().filter(|(is_set, _)| *is_set).map(|(_, letter)| letter).collect();
        if flags.is_empty() { "N".into() } else { flags }
    }

    /// See [`mecha_core::Session::report`].
    pub(super) fn tell(&self, frame: &[u8], errand: &Errand, found: &Found, out: &mut Vec<u8>) {
        // The old form of `CLIENT KILL` names an address and nothing else.
        let is_old = args(frame).count() == 3;
        if let Some(words) = &found.denial {
            out.extend_from_slice(words);
            return;
        }
        let mut writer = Writer::new(out, self.proto);
        if found.is_partial {
            writer.error("ERR mecha: not every worker has answered in time");
            return;
        }
        match errand.act {
            Act::End if is_old && found.count == 0 => writer.error("ERR No such client"),
            Act::End if is_old => writer.ok(),
            Act::End => writer.int(found.count as i64),
            Act::List | Act::Locate => {
                let mut lines: Vec<_> = found.lines.iter().collect();
                lines.sort_unstable_by_key(|line| line.id);
                let known = census::by_address(&found.census);
                let mut text = Vec::new();
                for line in lines {
                    let theirs = line.own.and_then(|own| known.get(&own.to_string().into_bytes()[..]));
                    match theirs {
                        Some(theirs) => {
                            census::complete(&line.text, theirs, line.id == errand.from, &mut text);
                        }
                        None => text.extend_from_slice(&line.text),
                    }
                }
                writer.verbatim("txt", &text);
            }
            Act::Unblock { .. } => writer.int((found.count > 0).into()),
        }
    }
}

/// What a request means.
///
/// # Errors
/// What the server says to it.
pub(super) fn parse(op: OpId, frame: &[u8], me: u64) -> Result<Errand, Words> {
    let words: Vec<&[u8]> = args(frame).skip(2).collect();
    let mut whom = Selection::default();
    let act = match op {
        op::CLIENT_INFO => {
            whom.ids.push(me);
            Act::List
        }
        op::CLIENT_LIST => {
            listed(&words, &mut whom)?;
            Act::List
        }
        op::CLIENT_KILL => {
            killed(&words, &mut whom, me)?;
            Act::End
        }
        op::CLIENT_UNBLOCK => {
            let with_error = match words.get(1) {
                None => false,
                Some(word) if word.eq_ignore_ascii_case(b"TIMEOUT") => false,
                Some(word) if word.eq_ignore_ascii_case(b"ERROR") => true,
                Some(_) => return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into()),
            };
            let id = words.first().and_then(|word| crate::args::decimal(word));
            let id = id.ok_or("ERR value is not an integer or out of range")?;
            // Numbers that are none of a client's are no error, only nobody.
            whom.ids.push(u64::try_from(id).unwrap_or(NOBODY));
            Act::Unblock { with_error }
        }
        _ => {
            let id = redirection(frame).and_then(|(_, id)| id).ok_or("ERR syntax error")?;
            whom.ids.push(id);
            Act::Locate
        }
    };
    Ok(Errand { from: me, act, whom })
}

/// See [`mecha_core::Framed::permission`]. None of these requests names a client: the server has an error for it, or
/// nobody.
pub(crate) fn permission(op: OpId, frame: &[u8]) -> Vec<u8> {
    let mut words: Vec<&[u8]> = match op {
        op::CLIENT_INFO => vec![b"CLIENT", b"INFO"],
        op::CLIENT_KILL => vec![b"CLIENT", b"KILL"],
        op::CLIENT_LIST => vec![b"CLIENT", b"LIST", b"ID", b"0"],
        op::CLIENT_UNBLOCK => vec![b"CLIENT", b"UNBLOCK", b"0"],
        _ => return Vec::new(),
    };
    if op == op::CLIENT_KILL {
        // Which users there are, only the server knows.
        let options: Vec<&[u8]> = args(frame).skip(2).collect();
        let named = options.chunks_exact(2).filter(|pair| is_user(pair));
        named.for_each(|pair| words.extend_from_slice(pair));
        words.extend_from_slice(&[b"ID", b"0"]);
    }
    let mut request = Vec::new();
    write_request(words.into_iter(), &mut request);
    request
}

fn is_user(pair: &[&[u8]]) -> bool {
    pair.first().is_some_and(|word| word.eq_ignore_ascii_case(b"USER"))
}

fn listed(words: &[&[u8]], whom: &mut Selection) -> Result<(), Words> {
    match words {
        [] => Ok(()),
        [word, kind] if word.eq_ignore_ascii_case(b"TYPE") => {
            whom.kind = Some(kind_of(kind)?);
            Ok(())
        }
        [word, ids @ ..] if word.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
            for id in ids {
                let id = crate::args::decimal(id).ok_or("ERR Invalid client ID")?;
                whom.ids.push(u64::try_from(id).unwrap_or(NOBODY));
            }
            Ok(())
        }
        _ => Err("ERR syntax error".into()),
    }
}

fn killed(words: &[&[u8]], whom: &mut Selection, me: u64) -> Result<(), Words> {
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    if let [addr] = words {
        whom.addr = Some(text(addr));
        return Ok(());
    }
    let mut skips_me = true;
    for pair in words.chunks(2) {
        let [word, value] = pair else { return Err("ERR syntax error".into()) };
        match word.to_ascii_uppercase().as_slice() {
            b"ID" => {
                let id = crate::args::decimal(value).and_then(|id| u64::try_from(id).ok());
                let id = id.filter(|id| *id > 0).ok_or("ERR client-id should be greater than 0")?;
                whom.ids = vec![id];
            }
            b"ADDR" => whom.addr = Some(text(value)),
            b"LADDR" => whom.local = Some(text(value)),
            b"MAXAGE" => {
                let age =
                    crate::args::decimal(value).ok_or("ERR maxage is not an integer or out of range")?;
                let age = u64::try_from(age).ok().filter(|age| *age > 0);
                // 0 would be everybody.
                let age = age.ok_or("ERR maxage should be greater than 0")?;
                whom.min_age_secs = Some(age);
            }
            b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => skips_me = true,
            b"SKIPME" if value.eq_ignore_ascii_case(b"no") => skips_me = false,
            b"TYPE" => whom.kind = Some(kind_of(value)?),
            b"USER" => whom.user = Some(text(value)),
            _ => return Err("ERR syntax error".into()),
        }
    }
    whom.but = skips_me.then_some(me);
    Ok(())
}

fn kind_of(word: &[u8]) -> Result<ClientKind, Words> {
    Ok(match word.to_ascii_lowercase().as_slice() {
        b"normal" => ClientKind::Normal,
        b"master" => ClientKind::Primary,
        b"pubsub" => ClientKind::PubSub,
        b"replica" | b"slave" => ClientKind::Replica,
        _ => return Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(word))),
    })
}

/// Where a `CLIENT TRACKING` names the client that gets its messages, and which one; `None` in it is no number.
pub(super) fn redirection(frame: &[u8]) -> Option<(usize, Option<u64>)> {
    let at = args(frame).position(|word| word.eq_ignore_ascii_case(b"REDIRECT"))?;
    let id = args(frame).nth(at + 1)?;
    Some((at + 1, crate::args::decimal(id).and_then(|id| u64::try_from(id).ok())))
}

/// Appends `frame` with the server's number of the client that is to get the messages.
pub(super) fn redirected(frame: &[u8], located: Option<u64>, out: &mut Vec<u8>) {
    let Some((at, _)) = redirection(frame) else { return };
    let id = located.unwrap_or(NOBODY).to_string();
    let words: Vec<&[u8]> =
        args(frame).enumerate().map(|(index, word)| if index == at { id.as_bytes() } else { word }).collect();
    write_request(words.into_iter(), out);
}
