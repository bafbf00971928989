//! What servers tell about a cluster: its shards, and where a call should have gone.
//!
//! A server names others by IP address, host name, or not at all: an empty or unknown host is that of the server that
//! was asked. Everything here is wire input; what cannot be right is left out or refused as a whole.

use mecha_core::Redirect;

use crate::value::Value;

/// Slots of a cluster.
const SLOTS: u16 = 16_384;
/// Nodes and ranges that an answer may have.
const MAX_ITEMS: usize = 65_536;

/// One server, as another one tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Host name or IP address.
    pub host: String,
    /// Port for clients.
    pub port: u16,
    /// Whether it follows another one.
    pub is_replica: bool,
    /// Whether the server that was asked thinks that it is well.
    pub is_well: bool,
    /// Its availability zone, where the server has such a thing.
    pub zone: Option<String>,
}

/// Servers that hold the same slots. There is a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterShard {
    /// The one that takes writes.
    pub primary: ClusterNode,
    /// Those that follow it.
    pub replicas: Vec<ClusterNode>,
    /// First and last of each range.
    pub slots: Vec<(u16, u16)>,
}

/// How a server was asked: what its answer leaves out is understood from that.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// By which host.
    pub host: &'a str,
    /// Whether by TLS, so that the servers' TLS ports are wanted.
    pub is_tls: bool,
}

/// The host of a server: as it wants to be called, else its address, else where the one that was asked is. A server
/// that has no name where names are preferred calls itself `?`; one that does not say is where the asked one is.
fn host(named: Option<&str>, ip: Option<&str>, asked: &str) -> String {
    match (named, ip) {
        (Some("?"), Some(ip)) if !matches!(ip, "" | "?") => ip.into(),
        (None | Some("" | "?"), _) => asked.into(),
        (Some(host), _) => host.into(),
    }
}

fn port(value: Option<&Value>) -> Option<u16> {
    value.and_then(Value::int).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

fn range(first: &Value, last: &Value) -> Option<(u16, u16)> {
    let slot =
        |value: &Value| value.int().and_then(|slot| u16::try_from(slot).ok()).filter(|slot| *slot < SLOTS);
    let (first, last) = (slot(first)?, slot(last)?);
    (first <= last).then_some((first, last))
}

/// Makes shards of nodes; those without slots hold nothing, and those without a primary nobody can use.
fn shard(mut nodes: Vec<ClusterNode>, slots: Vec<(u16, u16)>) -> Option<ClusterShard> {
    if slots.is_empty() {
        return None;
    }
    // During a failover a shard can have two that call themselves primary; one of them is gone.
    let at = nodes
        .iter()
        .position(|node| !node.is_replica && node.is_well)
        .or_else(|| nodes.iter().position(|node| !node.is_replica))?;
    let primary = nodes.remove(at);
    nodes.retain(|node| node.is_replica);
    Some(ClusterShard { primary, replicas: nodes, slots })
}

/// Understands the answer to `CLUSTER SHARDS`. `None` if it is none.
pub fn cluster_shards(reply: &[u8], asked: &Context<'_>) -> Option<Vec<ClusterShard>> {
    let Value::Array(shards) = Value::parse(reply)? else { return None };
    if shards.len() > MAX_ITEMS {
        return None;
    }
    let node = |value: &Value| {
        let ip = value.field("ip");
        let named = value.field("endpoint").or(ip).and_then(Value::text);
        let (plain, tls) = (port(value.field("port")), port(value.field("tls-port")));
        Some(ClusterNode {
            host: host(named, ip.and_then(Value::text), asked.host),
            port: if asked.is_tls { tls.or(plain) } else { plain.or(tls) }?,
            is_replica: value.field("role")?.text()? != "master",
            is_well: value.field("health").and_then(Value::text) == Some("online"),
            zone: value
                .field("availability-zone")
                .and_then(Value::text)
                .filter(|z| !z.is_empty())
                .map(Into::into),
        })
    };
    let of = |value: &Value| {
        let nodes = value.field("nodes")?.items().iter().filter_map(node).collect();
        let slots = value.field("slots")?.items().chunks_exact(2);
        let slots = slots.filter_map(|pair| range(pair.first()?, pair.get(1)?)).collect();
        shard(nodes, slots)
    };
    Some(shards.iter().filter_map(of).collect())
}

/// As [`cluster_shards`], for `CLUSTER SLOTS`.
pub fn cluster_slots(reply: &[u8], asked: &Context<'_>) -> Option<Vec<ClusterShard>> {
    let Value::Array(ranges) = Value::parse(reply)? else { return None };
    if ranges.len() > MAX_ITEMS {
        return None;
    }
    let mut shards: Vec<ClusterShard> = Vec::new();
    for entry in &ranges {
        let [first, last, nodes @ ..] = entry.items() else { continue };
        let Some(range) = range(first, last) else { continue };
        let node = |(index, value): (usize, &Value)| {
            Some(ClusterNode {
                // What it is called besides stands behind its id.
                host: host(
                    value.items().first().and_then(Value::text),
                    value.items().get(3).and_then(|more| more.field("ip")).and_then(Value::text),
                    asked.host,
                ),
                port: port(value.items().get(1))?,
                is_replica: index > 0,
                is_well: true,
                zone: None,
            })
        };
        let Some(found) = shard(nodes.iter().enumerate().filter_map(node).collect(), vec![range]) else {
            continue;
        };
        match shards.iter_mut().find(|known| known.primary == found.primary) {
            Some(known) => known.slots.push(range),
            None => shards.push(found),
        }
    }
    Some(shards)
}

/// One line of `CLUSTER NODES`.
struct Line<'a> {
    id: &'a str,
    /// Id of the primary that it follows.
    primary: &'a str,
    node: ClusterNode,
    slots: Vec<(u16, u16)>,
}

/// As [`cluster_shards`], for `CLUSTER NODES`, which servers of every age answer.
pub fn cluster_nodes(reply: &[u8], asked: &Context<'_>) -> Option<Vec<ClusterShard>> {
    let value = Value::parse(reply)?;
    let text = value.text()?;
    let mut nodes: Vec<Line<'_>> = Vec::new();
    for line in text.lines().take(MAX_ITEMS) {
        let words: Vec<_> = line.split(' ').collect();
        let [id, address, flags, primary, _, _, _, link, slots @ ..] = words.as_slice() else { continue };
        let has = |flag: &str| flags.split(',').any(|known| known == flag);
        if has("noaddr") || has("handshake") {
            continue;
        }
        // ip:port@cport[,hostname[,shard-id=..]]
        let (address, names) = address.split_once(',').unwrap_or((address, ""));
        let address = address.split('@').next().unwrap_or_default();
        let Some((ip, port)) = address.rsplit_once(':') else { continue };
        let name = names.split(',').next().filter(|name| !name.is_empty() && !name.contains('='));
        let Ok(port) = port.parse() else { continue };
        let node = ClusterNode {
            host: host(name.or(Some(ip)), Some(ip), asked.host),
            port,
            is_replica: has("slave") || has("replica"),
            is_well: !has("fail") && !has("fail?") && (*link == "connected" || has("myself")),
            zone: None,
        };
        let slot = |word: &str| word.parse::<u16>().ok().filter(|slot| *slot < SLOTS);
        // Slots that are on their way stand in brackets.
        let ranges = slots.iter().filter_map(|word| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((slot(first)?, slot(last)?)).filter(|(first, last)| first <= last)
        });
        nodes.push(Line { id, primary, node, slots: ranges.collect() });
    }
    let replicas = |of: &str| {
        let mine = nodes.iter().filter(|line| line.node.is_replica && line.primary == of);
        mine.map(|line| line.node.clone()).collect()
    };
    let shards = nodes.iter().filter(|line| !line.node.is_replica && !line.slots.is_empty());
    let shard = |line: &Line<'_>| ClusterShard {
        primary: line.node.clone(),
        replicas: replicas(line.id),
        slots: line.slots.clone(),
    };
    Some(shards.map(shard).collect())
}

/// Splits `host:port`; the host may be empty, or an IPv6 address without brackets.
pub fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok().filter(|port| *port > 0)?))
}

/// Where the call with this error should have gone, if the error says so. In each case the call was not carried out.
pub fn redirect(error: &[u8]) -> Option<Redirect<'_>> {
    let text = error.strip_prefix(b"-")?;
    let mut words = text.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    let code = words.next()?;
    match code {
        b"ASK" | b"MOVED" => {
            let slot = std::str::from_utf8(words.next()?).ok()?.parse().ok().filter(|slot| *slot < SLOTS)?;
            let (host, port) = host_and_port(std::str::from_utf8(words.next()?).ok()?)?;
            if host == "?" {
                // It has no name where names are preferred: the next topology knows its address.
                return Some(Redirect::Later);
            }
            Some(if code == b"ASK" {
                Redirect::Ask { slot, host, port }
            } else {
                Redirect::Moved { slot, host, port }
            })
        }
        b"CLUSTERDOWN" | b"LOADING" | b"MASTERDOWN" | b"READONLY" | b"TRYAGAIN" => Some(Redirect::Later),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
