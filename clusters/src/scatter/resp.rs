//! Redis over several servers: which commands are split, which are said to all, and how their replies become one.
//!
//! | commands | what happens |
//! |---|---|
//! | `MGET` `MSET` `DEL` `UNLINK` `EXISTS` `TOUCH` | split by key; values in order, `OK`, or the sum |
//! | other commands of several keys | as they are if one server has all keys, else `CROSSSLOT` |
//! | `KEYS` `DBSIZE` `RANDOMKEY` `FLUSHALL` `SLOWLOG` `SCRIPT` `FUNCTION LOAD` … | said to all, see [`Merge`] |
//! | `SCAN` | one server after another, see [`scan`] |
//! | `PUBLISH` `SUBSCRIBE` `PUBSUB` | the first server, where all publishers and subscribers meet |
//! | what concerns one server's life (`SHUTDOWN`, `REPLICAOF`, `DEBUG`, `MIGRATE` …) | refused |

mod info;
mod itself;
mod listeners;
mod reports;
mod scan;
mod slowlog;

use std::rc::Rc;

use mecha_core::{Asked, OpId, Refusal};
use mecha_resp::version_of;
use mecha_resp::{Request, Resp, args, op, op_info, reply::Writer, write_request};

use super::{Announcement, Bond, Gathered, Itself, Rules, ScanStep, Way};
use crate::logins::Logins;
use crate::moves::Moves;
use crate::pubsub::PubSub;
use crate::tracking::Tracking;
use crate::{Cluster, Upstream};

/// How the replies of all servers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    /// `1` where all say `1`.
    AllTrue,
    /// The first that says something.
    AnyValue,
    /// All elements of all arrays.
    Concat,
    /// `LATENCY HISTOGRAM`.
    Histogram,
    /// `LATENCY HISTORY`.
    History,
    /// Numbers of the report added up where that makes sense.
    Info,
    /// The newest entries of all logs.
    Latest,
    /// `LATENCY LATEST`.
    LatestEvents,
    /// The smallest number.
    Least,
    /// `MEMORY STATS`.
    Memory,
    /// Who listens to what, see [`listeners`].
    Listeners,
    /// They say the same: the first.
    Same,
    /// Settings that are the same everywhere.
    Settings,
    /// What succeeded anywhere.
    Success,
    /// The sum of numbers.
    Sum,
    /// Texts, one behind the other.
    Texts,
}

/// What is said to all servers.
fn merge_of(op: OpId) -> Option<Merge> {
    Some(match op {
        op::KEYS => Merge::Concat,
        op::CONFIG_GET => Merge::Settings,
        op::LATENCY_HISTOGRAM => Merge::Histogram,
        op::LATENCY_HISTORY => Merge::History,
        op::LATENCY_LATEST => Merge::LatestEvents,
        op::LATENCY_DOCTOR | op::LATENCY_GRAPH | op::MEMORY_DOCTOR | op::MEMORY_MALLOC_STATS => Merge::Texts,
        op::MEMORY_STATS => Merge::Memory,
        op::SLOWLOG_GET => Merge::Latest,
        op if listeners::kind_of(op).is_some() => Merge::Listeners,
        op::DBSIZE | op::LATENCY_RESET | op::SLOWLOG_LEN => Merge::Sum,
        op::RANDOMKEY => Merge::AnyValue,
        op::SCRIPT_EXISTS => Merge::AllTrue,
        op::SCRIPT_KILL | op::FUNCTION_KILL => Merge::Success,
        op::INFO => Merge::Info,
        op::WAIT => Merge::Least,
        op::ACL_DELUSER
        | op::ACL_LOAD
        | op::ACL_SAVE
        | op::ACL_SETUSER
        | op::BGREWRITEAOF
        | op::BGSAVE
        | op::CLIENT_PAUSE
        | op::CLIENT_UNPAUSE
        | op::CONFIG_RESETSTAT
        | op::CONFIG_REWRITE
        | op::CONFIG_SET
        | op::FLUSHALL
        | op::FLUSHDB
        | op::FUNCTION_DELETE
        | op::FUNCTION_FLUSH
        | op::FUNCTION_LOAD
        | op::FUNCTION_RESTORE
        | op::MEMORY_PURGE
        | op::SAVE
        | op::SCRIPT_FLUSH
        | op::SCRIPT_LOAD
        | op::SLOWLOG_RESET
        | op::SWAPDB => Merge::Same,
        _ => return None,
    })
}

impl Rules for Resp {
    fn way(request: &Request) -> Way {
        match request.op {
            op::DEL | op::EXISTS | op::MGET | op::TOUCH | op::UNLINK if request.argc > 2 => Way::Spread,
            op::MSET if request.argc > 3 && request.argc % 2 == 1 => Way::Spread,
            op::SCAN if request.argc > 1 => Way::Scan,
            op::PUBLISH | op::PUBSUB => Way::First,
            op::ASKING | op::READONLY | op::READWRITE => Way::Itself,
            OpId(number) if (op::CLUSTER.0..=op::CLUSTER_SYNCSLOTS.0).contains(&number) => Way::Itself,
            op::DEBUG
            | op::FAILOVER
            | op::MIGRATE
            | op::MODULE_LOAD
            | op::MODULE_LOADEX
            | op::MODULE_UNLOAD
            | op::PSYNC
            | op::REPLCONF
            | op::REPLICAOF
            | op::ROLE
            | op::SCRIPT_DEBUG
            | op::SHUTDOWN
            | op::SLAVEOF
            | op::SYNC
            | op::WAITAOF => Way::Refused,
            op::FUNCTION_KILL | op::SCRIPT_KILL | op::WAIT => Way::EveryAside,
            op if merge_of(op).is_some() => Way::Every,
            _ => Way::Keyed,
        }
    }

    fn in_front(
        upstream: Rc<dyn Upstream<Self>>,
        cluster: Rc<Cluster<Self>>,
        shares_subscriptions: bool,
        is_sharded: bool,
    ) -> Rc<dyn Upstream<Self>> {
        let behind = Rc::clone(&cluster);
        let stack = move |login| -> Rc<dyn Upstream<Self>> {
            if !shares_subscriptions {
                return Rc::clone(&upstream);
            }
            let pubsub = PubSub::new(Rc::clone(&upstream), Rc::clone(&behind), login);
            Tracking::new(pubsub, Rc::clone(&behind), login)
        };
        if is_sharded { Logins::new(Box::new(stack), cluster) } else { stack(0) }
    }

    fn ahead(op: OpId) -> &'static [u8] {
        if op == op::WAIT { mecha_resp::CATCH_UP } else { &[] }
    }

    fn asks_of_cluster(request: &Request) -> bool {
        request.op == op::ROLE || Self::way(request) == Way::Itself
    }

    fn itself(
        request: &Request,
        frame: &[u8],
        announcement: &Announcement<'_>,
        profile: u8,
        out: &mut Vec<u8>,
    ) -> Itself {
        itself::answer(request.op, frame, announcement, version_of(profile), out)
    }

    fn part(request: &Request, frame: &[u8], keys: &[u32], out: &mut Vec<u8>) {
        let words: Vec<_> = args(frame).collect();
        let width = if request.op == op::MSET { 2 } else { 1 };
        let mut own: Vec<&[u8]> = Vec::with_capacity(1 + keys.len() * width);
        own.extend(words.first());
        for key in keys {
            let start = 1 + *key as usize * width;
            own.extend(words.get(start..start + width).unwrap_or_default());
        }
        write_request(own.into_iter(), out);
    }

    fn scan(
        frame: &[u8],
        shards: (&[usize], &[usize]),
        moves: Option<&Moves>,
        out: &mut Vec<u8>,
    ) -> Option<ScanStep> {
        scan::ask(frame, shards, moves, out)
    }

    fn counts_listeners(op: OpId) -> bool {
        merge_of(op) == Some(Merge::Listeners)
    }

    fn merge(gathered: &Gathered<'_>, profile: u8, out: &mut Vec<u8>) -> bool {
        let proto = version_of(profile);
        let merge = merge_of(gathered.op);
        let (failed, total) = (errors(gathered.replies).count(), gathered.replies.len());
        if merge == Some(Merge::Success) && failed < total {
            let success = gathered.replies.iter().find(|reply| !reply.starts_with(b"-"));
            return success.map(|reply| out.extend_from_slice(reply)).is_some();
        }
        let error = match gathered.op {
            op::SCAN => scan::error(gathered),
            _ => errors(gathered.replies).next().map(Vec::as_slice),
        };
        if let Some(error) = error {
            // The others have done their part, and the client must know.
            let is_partial = failed < total && op_info(gathered.op).class == mecha_core::OpClass::Write;
            let text = error.trim_ascii_end();
            out.extend_from_slice(text);
            if is_partial {
                out.extend_from_slice(
                    format!(" (mecha: {failed} of {total} shards failed, the others have done their part)")
                        .as_bytes(),
                );
            }
            out.extend_from_slice(b"\r\n");
            return true;
        }
        let mut writer = Writer::new(out, proto);
        match (gathered.op, merge) {
            (op::MGET, _) => values(gathered, &mut writer).is_some(),
            (op::SCAN, _) => scan::answer(gathered, &mut writer).is_some(),
            (op::MSET, _) | (_, Some(Merge::Same | Merge::Success)) => first(gathered, &mut writer),
            (op::DEL | op::EXISTS | op::TOUCH | op::UNLINK, _) | (_, Some(Merge::Sum)) => {
                let numbers: Option<Vec<_>> = gathered.replies.iter().map(|reply| integer(reply)).collect();
                numbers.map(|numbers| writer.int(numbers.into_iter().fold(0, i64::saturating_add))).is_some()
            }
            (_, Some(Merge::AllTrue)) => all_true(gathered, &mut writer).is_some(),
            (_, Some(Merge::AnyValue)) => any_value(gathered, &mut writer),
            (_, Some(Merge::Concat)) => concat(gathered, &mut writer).is_some(),
            (_, Some(Merge::Histogram)) => reports::histogram(gathered.replies, &mut writer).is_some(),
            (_, Some(Merge::History)) => reports::history(gathered.replies, &mut writer).is_some(),
            (_, Some(Merge::LatestEvents)) => reports::latest(gathered.replies, &mut writer).is_some(),
            (_, Some(Merge::Memory)) => reports::memory(gathered.replies, &mut writer).is_some(),
            (_, Some(Merge::Settings)) => reports::settings(gathered.replies, &mut writer).is_some(),
            (_, Some(Merge::Texts)) => reports::texts(gathered.replies, &mut writer).is_some(),
            (_, Some(Merge::Info)) => info::merge(gathered.replies, gathered.entrance, &mut writer).is_some(),
            (_, Some(Merge::Latest)) => {
                slowlog::merge(gathered.frame, gathered.replies, &mut writer).is_some()
            }
            (_, Some(Merge::Least)) => {
                let least = gathered.replies.iter().map(|reply| integer(reply)).min().flatten();
                least.map(|least| writer.int(least)).is_some()
            }
            (_, Some(Merge::Listeners)) => listeners::merge(gathered, &mut writer).is_some(),
            (_, None) => first(gathered, &mut writer),
        }
    }

    fn database(request: &Request, frame: &[u8]) -> Option<u32> {
        if request.op != op::SELECT || request.argc != 2 {
            return None;
        }
        std::str::from_utf8(args(frame).nth(1)?).ok()?.parse().ok()
    }

    fn selected(is_there: bool, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, 2);
        if is_there { writer.ok() } else { writer.error("ERR DB index is out of range") }
    }

    fn bond(request: &Request) -> Bond {
        let is_whole = op_info(request.op).accepts(request.argc as usize);
        match request.op {
            op::DISCARD | op::EXEC if is_whole => Bond::Ends,
            op::MULTI if is_whole => Bond::Queues,
            op::RESET if is_whole => Bond::Resets,
            op::UNWATCH if is_whole => Bond::Unwatches,
            op::WATCH if is_whole => Bond::Watches,
            _ => Bond::None,
        }
    }

    fn broken(asked: Asked, why: Refusal, failed: usize, total: usize, out: &mut Vec<u8>) {
        let op = asked.op;
        let rest = if op_info(op).class == mecha_core::OpClass::Read || failed == total {
            String::new()
        } else {
            ", the others have done their part".to_string()
        };
        let name = op_info(op).name;
        let text = format!("ERR mecha: {} ({name}: {failed} of {total} shards{rest})", why.reason());
        Writer::new(out, 2).error(&text);
    }
}

fn errors(replies: &[Vec<u8>]) -> impl Iterator<Item = &Vec<u8>> {
    replies.iter().filter(|reply| matches!(reply.first(), Some(b'-' | b'!')))
}

fn first(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> bool {
    gathered.replies.first().map(|reply| writer.out.extend_from_slice(reply)).is_some()
}

/// Values in the order of the request's keys.
fn values(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> Option<()> {
    let mut rests = Vec::with_capacity(gathered.replies.len());
    for reply in gathered.replies {
        rests.push(header(reply)?.2);
    }
    writer.array(gathered.places.len());
    for place in gathered.places {
        let rest = rests.get_mut(*place as usize)?;
        let (value, more) = rest.split_at_checked(element(rest)?)?;
        writer.out.extend_from_slice(value);
        *rest = more;
    }
    rests.iter().all(|rest| rest.is_empty()).then_some(())
}

fn concat(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> Option<()> {
    let mut count = 0;
    let mut kind = b'*';
    let mut bodies = Vec::with_capacity(gathered.replies.len());
    for reply in gathered.replies {
        let (of, elements, body) = header(reply)?;
        (kind, count) = (of, count + elements);
        bodies.push(body);
    }
    writer.out.push(kind);
    mecha_resp::reply::write_int(count as i64, writer.out);
    writer.out.extend_from_slice(b"\r\n");
    bodies.into_iter().for_each(|body| writer.out.extend_from_slice(body));
    Some(())
}

fn all_true(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> Option<()> {
    let rows: Option<Vec<Vec<i64>>> = gathered.replies.iter().map(|reply| integers(reply)).collect();
    let rows = rows?;
    let width = rows.first()?.len();
    writer.array(width);
    for column in 0..width {
        writer.int(rows.iter().map(|row| row.get(column).copied().unwrap_or(0)).min()?);
    }
    Some(())
}

/// One of the replies that are not null, from a random one on.
fn any_value(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> bool {
    let count = gathered.replies.len();
    let start = fastrand::usize(..count.max(1));
    let from_start = gathered.replies.iter().cycle().skip(start).take(count);
    // A filter may have made another question of it, to which no element is the answer of a server without keys.
    let is_null = |reply: &Vec<u8>| [&b"$-1"[..], b"_", b"*0"].iter().any(|null| reply.starts_with(null));
    let chosen = from_start.clone().find(|reply| !is_null(reply)).or_else(|| gathered.replies.first());
    chosen.map(|reply| writer.out.extend_from_slice(reply)).is_some()
}

// === reading replies ===

/// The type, the number and what is behind the line of the element that `bytes` starts with.
fn line(bytes: &[u8]) -> Option<(u8, i64, &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let text = bytes.get(1..end)?.strip_suffix(b"\r")?;
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some((*bytes.first()?, number, bytes.get(end + 1..)?))
}

/// Type, number of elements and body of an aggregate.
fn header(reply: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (kind, count, body) = line(reply)?;
    if !matches!(kind, b'*' | b'~' | b'%') {
        return None;
    }
    Some((kind, usize::try_from(count).ok()?, body))
}

/// Length of the whole element that `bytes` starts with.
fn element(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0usize, 1u64);
    while left > 0 {
        left -= 1;
        let rest = bytes.get(at..)?;
        let end = at + memchr::memchr(b'\n', rest)? + 1;
        at = match rest.first()? {
            b'*' | b'~' | b'>' | b'%' | b'|' | b'$' | b'=' | b'!' => {
                let (kind, count, _) = line(rest)?;
                let count = u64::try_from(count).unwrap_or(0);
                let is_null = line(rest)?.1 < 0;
                match kind {
                    b'$' | b'=' | b'!' if is_null => end,
                    b'$' | b'=' | b'!' => end.checked_add(usize::try_from(count).ok()?)?.checked_add(2)?,
                    b'%' => {
                        left = left.checked_add(count.checked_mul(2)?)?;
                        end
                    }
                    // Attributes belong to the element behind them.
                    b'|' => {
                        left = left.checked_add(count.checked_mul(2)?)?.checked_add(1)?;
                        end
                    }
                    _ => {
                        left = left.checked_add(count)?;
                        end
                    }
                }
            }
            _ => end,
        };
    }
    (at <= bytes.len()).then_some(at)
}

fn bulk(element: &[u8]) -> Option<&[u8]> {
    let (kind, length, rest) = line(element)?;
    (kind == b'$').then(|| rest.get(..usize::try_from(length).ok()?))?
}

fn integer(reply: &[u8]) -> Option<i64> {
    line(reply).filter(|(kind, ..)| *kind == b':').map(|(_, number, _)| number)
}

fn integers(reply: &[u8]) -> Option<Vec<i64>> {
    let (_, count, mut rest) = header(reply)?;
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(integer(rest)?);
        rest = rest.get(element(rest)?..)?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests;
