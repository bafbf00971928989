//! `PUBSUB` over several servers, on which mecha's links listen for clients: what is told is of the clients.

use std::collections::BTreeSet;

use mecha_core::OpId;
use mecha_resp::reply::Writer;
use mecha_resp::{TopicKind, args, glob, op};

use super::{bulk, element, header, integer};
use crate::pubsub::Asked;
use crate::scatter::Gathered;

/// What a question is about.
pub(super) fn kind_of(op: OpId) -> Option<TopicKind> {
    Some(match op {
        op::PUBSUB_CHANNELS | op::PUBSUB_NUMSUB => TopicKind::Channel,
        op::PUBSUB_NUMPAT => TopicKind::Pattern,
        op::PUBSUB_SHARDCHANNELS | op::PUBSUB_SHARDNUMSUB => TopicKind::Shard,
        _ => return None,
    })
}

pub(super) fn merge(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> Option<()> {
    let asked = gathered.census.as_ref();
    let kind = kind_of(gathered.op)?;
    match gathered.op {
        op::PUBSUB_NUMSUB | op::PUBSUB_SHARDNUMSUB => counts(gathered.replies, kind, asked, writer),
        op::PUBSUB_NUMPAT => patterns(gathered.replies, asked, writer),
        _ => names(gathered, kind, asked, writer),
    }
}

/// Names and their subscribers.
fn counts(
    replies: &[Vec<u8>],
    kind: TopicKind,
    asked: Option<&Asked<'_>>,
    writer: &mut Writer<'_>,
) -> Option<()> {
    let mut sums: Vec<(&[u8], i64)> = Vec::new();
    for (turn, reply) in replies.iter().enumerate() {
        let (_, _, mut rest) = header(reply)?;
        let mut at = 0;
        while !rest.is_empty() {
            let (name, more) = rest.split_at_checked(element(rest)?)?;
            let (number, more) = more.split_at_checked(element(more)?)?;
            rest = more;
            match sums.get_mut(at) {
                Some(sum) => sum.1 += integer(number)?,
                None if turn == 0 => sums.push((bulk(name)?, integer(number)?)),
                None => return None,
            }
            at += 1;
        }
    }
    writer.array(sums.len() * 2);
    for (name, sum) in sums {
        writer.bulk(name);
        writer.int(asked.map_or(sum, |asked| asked.corrected(kind, name, sum)));
    }
    Some(())
}

/// How many patterns there are: servers tell the number of different ones.
fn patterns(replies: &[Vec<u8>], asked: Option<&Asked<'_>>, writer: &mut Writer<'_>) -> Option<()> {
    let mut most = 0;
    for (part, reply) in replies.iter().enumerate() {
        let linked = asked.map_or(0, |asked| asked.linked(TopicKind::Pattern, part));
        most = most.max(integer(reply)? - linked as i64);
    }
    let listened = asked.map_or(0, |asked| asked.listened(TopicKind::Pattern).len());
    writer.int(most + listened as i64);
    Some(())
}

/// The names that somebody listens to.
fn names(
    gathered: &Gathered<'_>,
    kind: TopicKind,
    asked: Option<&Asked<'_>>,
    writer: &mut Writer<'_>,
) -> Option<()> {
    let mut all = BTreeSet::<Box<[u8]>>::new();
    for (part, reply) in gathered.replies.iter().enumerate() {
        let (_, _, mut rest) = header(reply)?;
        while !rest.is_empty() {
            let (name, more) = rest.split_at_checked(element(rest)?)?;
            let name = bulk(name)?;
            if !asked.is_some_and(|asked| asked.is_linked(kind, name, part)) {
                all.insert(name.into());
            }
            rest = more;
        }
    }
    let pattern = args(gathered.frame).nth(2);
    let is_meant = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
    let listened = asked.map(|asked| asked.listened(kind)).unwrap_or_default();
    all.extend(listened.into_iter().filter(|name| is_meant(name)));
    writer.array(all.len());
    all.iter().for_each(|name| writer.bulk(name));
    Some(())
}
