//! Asking sentinels who the primary is.
//!
//! A sentinel's word is checked: the server that it names must itself say that it is a primary, so that a sentinel that
//! has not heard of a failover yet does not send writes to a replica. If no sentinel answers, or none names a server
//! that agrees, the last known primary stays in force.

use std::time::Duration;

use mecha_clusters::news::{Cause, Publisher};
use mecha_clusters::topology::{FoundShard, Freshness, Node};
use mecha_resp::Value;
use mecha_transport::Address;

use super::query::{Manners, Query};
use super::{Asked, are_too_many, host_of, named};

/// How long to wait before a sentinel's announcements are listened to again.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn find(
    asked: &mut Asked,
    sentinels: &[Address],
    name: &str,
    timeout: Duration,
    (sentinels_manners, servers_manners): (&Manners, &Manners),
) -> Result<Vec<FoundShard>, &'static str> {
    let mut candidates: Vec<_> = asked.first.iter().cloned().collect();
    candidates.extend(sentinels.iter().filter(|address| asked.first.as_ref() != Some(address)).cloned());
    let mut why = "no sentinel answers";
    for sentinel in &candidates {
        match ask(sentinel, name, timeout, (sentinels_manners, servers_manners)).await {
            Ok(shard) if !are_too_many(std::slice::from_ref(&shard)) => {
                asked.first = Some(sentinel.clone());
                return Ok(vec![shard]);
            }
            Ok(_) => {}
            Err(Some(reason)) => why = reason,
            Err(None) => {}
        }
    }
    asked.first = None;
    Err(why)
}

/// The shard that `sentinel` tells of, or why not, if it answers at all.
async fn ask(
    sentinel: &Address,
    name: &str,
    timeout: Duration,
    (own, servers): (&Manners, &Manners),
) -> Result<FoundShard, Option<&'static str>> {
    let mut query = Query::to(sentinel, timeout, own).await.map_err(|_| None)?;
    let mut tell = async |words: &[&str]| {
        let reply = query.ask(words, timeout).await.map_err(|_| None)?;
        Value::parse(&reply).ok_or(None)
    };
    let address = tell(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await?;
    let [host, port] = address.items() else {
        return Err(Some("the sentinels know no primary of this name"));
    };
    let asked = host_of(sentinel);
    let primary = address_of(host, port, &asked).ok_or(None)?;
    // Older sentinels know only the older word.
    let replicas = match tell(&["SENTINEL", "REPLICAS", name]).await? {
        Value::Error(_) => tell(&["SENTINEL", "SLAVES", name]).await?,
        replicas => replicas,
    };
    if !is_primary(&primary, timeout, servers).await {
        return Err(Some("the server that the sentinels name is no primary"));
    }
    let node = |address, is_replica, is_well| Node {
        address,
        is_replica,
        is_well,
        zone: None,
        fresh: Freshness::default(),
    };
    let replica = |value: &Value| {
        let flags = value.field("flags").and_then(Value::text).unwrap_or_default();
        let is_down = flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
        let is_linked = value.field("master-link-status").and_then(Value::text) == Some("ok");
        let address = address_of(value.field("ip")?, value.field("port")?, &asked)?;
        Some(node(address, true, is_linked && !is_down))
    };
    let replicas = replicas.items().iter().filter_map(replica);
    let replicas = replicas.filter(|node| node.address != primary).collect();
    Ok(FoundShard { primary: node(primary, false, true), replicas, slots: Vec::new() })
}

fn address_of(host: &Value, port: &Value, asked: &str) -> Option<Address> {
    let host = host.text()?;
    let port = u16::try_from(port.int()?).ok().filter(|port| *port > 0)?;
    Some(named(if host.is_empty() { asked } else { host }, port))
}

async fn is_primary(address: &Address, timeout: Duration, manners: &Manners) -> bool {
    let Ok(mut query) = Query::to(address, timeout, manners).await else { return false };
    let Ok(reply) = query.ask(&["ROLE"], timeout).await else { return false };
    let role = Value::parse(&reply);
    role.as_ref().and_then(|role| role.items().first()).and_then(Value::text) == Some("master")
}

/// Listens to the announcements of one sentinel after the other, and wishes for a refresh at each. Never ends.
pub(super) async fn listen(
    sentinels: Vec<Address>,
    publisher: Publisher,
    timeout: Duration,
    manners: Manners,
) {
    for sentinel in sentinels.iter().cycle() {
        if let Ok(mut query) = Query::to(sentinel, timeout, &manners).await
            && query.ask(&["SUBSCRIBE", "+switch-master", "+slave", "-sdown"], timeout).await.is_ok()
        {
            // What a sentinel announced before it was listened to, nobody heard.
            publisher.want(Cause::Switch);
            while query.frame().await.is_ok() {
                publisher.want(Cause::Switch);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
