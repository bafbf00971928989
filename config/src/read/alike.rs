//! The keys of clusters whose servers are alike, and files that list servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found, set};
use super::sharding::MAX_WEIGHT;
use crate::node::{Kind, Node};
use crate::options::join;
use crate::{Balance, ClusterSpec, Discovery, DnsFamily, ListedSpec, target};

/// The largest priority, as SRV records have it.
const MAX_PRIORITY: u32 = 65_535;

/// Servers that a file may list.
const MAX_SERVERS: usize = 4096;

/// Where name servers listen.
const DNS_PORT: u16 = 53;

/// Protocols whose servers are alike.
pub(super) const ALIKE: [&str; 3] = ["http", "http2", "tcp"];

impl Reader<'_> {
    pub(super) fn alike_keys(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        let names = ["dns", "limits", "prefer_zone", "slow_start", "spill_below", "subset"];
        if !cluster.protocol.is_empty() && !ALIKE.contains(&&*cluster.protocol) {
            self.without(fields, &names, "where servers are not all alike");
            return;
        }
        self.dns(fields.take("dns"), cluster);
        self.subset(fields.take("subset"), cluster);
        let zone = fields.take("prefer_zone");
        set(&mut cluster.alike.prefers_zone, self.word(zone.clone(), &[("false", false), ("true", true)]));
        if let Some((node, path)) = zone.filter(|_| cluster.alike.prefers_zone) {
            let is_hashed =
                !matches!(cluster.balance, Balance::LeastRequest | Balance::Random | Balance::RoundRobin);
            if self.zone.is_none() {
                let hint = "as in `zone: a`, beside `listeners`".to_string();
                self.error(node.place, &path, "which zone? `zone` is missing", Some(hint));
            } else if is_hashed {
                let hint = "`balance: round_robin`, `least_request` or `random`".to_string();
                self.error(node.place, &path, "a hash knows no zones", Some(hint));
            }
        }
        set(&mut cluster.alike.spill_below, self.share(fields.take("spill_below")));
        let slow = fields.take("slow_start");
        cluster.alike.slow_start = self.period(slow, Duration::from_millis(10));
        let limits = fields.take("limits");
        if let Some((node, path)) = limits {
            let mut fields = self.fields(node, &path);
            let most = 10_000_000;
            let limits = &mut cluster.alike.limits;
            limits.connections = self.count(fields.take("connections"), most);
            limits.pending = self.count(fields.take("pending"), most);
            let (requests, retries) = (fields.take("requests"), fields.take("retries"));
            for (node, path) in
                [&requests, &retries].into_iter().flatten().filter(|_| cluster.protocol == "tcp")
            {
                let hint = "`connections` bounds its clients".to_string();
                self.error(node.place, path, "nobody sees requests here", Some(hint));
            }
            limits.requests = self.count(requests, most);
            limits.retries = self.count(retries, most);
            self.finish(fields);
        }
    }

    /// `dns: { min_ttl: 1s, max_ttl: 5m, servers: [10.0.0.2], family: ipv4 }`.
    fn dns(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        if !matches!(cluster.discovery, Discovery::Dns | Discovery::Srv) {
            let hint = "it belongs to `http+dns://`, `http+srv://` and their like".to_string();
            self.error(node.place, &path, "nothing is looked up in DNS here", Some(hint));
        }
        let mut fields = self.fields(node, &path);
        let dns = &mut cluster.alike.dns;
        let least = Duration::from_millis(100);
        set(&mut dns.min_ttl, self.period(fields.take("min_ttl"), least));
        set(&mut dns.max_ttl, self.period(fields.take("max_ttl"), least));
        set(&mut dns.timeout, self.period(fields.take("timeout"), Duration::from_millis(10)));
        let families = [("both", DnsFamily::Both), ("ipv4", DnsFamily::Ipv4), ("ipv6", DnsFamily::Ipv6)];
        set(&mut dns.family, self.word(fields.take("family"), &families));
        for item in self.items(fields.take("servers")) {
            let server = self.parsed(Some(item), |text| {
                let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
                alone.or_else(|_| text.parse()).map_err(|_| {
                    (format!("`{text}` is no address"), Some("as in 10.0.0.2 or 10.0.0.2:53".into()))
                })
            });
            dns.servers.extend(server);
        }
        self.finish(fields);
        if dns.max_ttl < dns.min_ttl {
            let hint = "answers hold for no less than `min_ttl` and no more than `max_ttl`".to_string();
            self.error(node.place, &path, "`max_ttl` must not be shorter than `min_ttl`", Some(hint));
        }
    }

    /// `subset: { version: v2 }`.
    fn subset(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        if !matches!(cluster.discovery, Discovery::File { .. }) {
            let hint = "it belongs to `http+file://` and its like".to_string();
            self.error(node.place, &path, "only servers of a file have labels", Some(hint));
        }
        cluster.alike.subset = self.labels(Some((node, path)));
    }

    fn labels(&mut self, found: Found<'_>) -> Vec<(String, String)> {
        let Some((node, path)) = found else { return Vec::new() };
        let pairs = self.fields(node, &path).pairs;
        let label = |(key, _, node): (&str, _, &Node)| {
            Some((key.to_string(), self.text(Some((node, join(&path, key))))?))
        };
        pairs.into_iter().filter_map(label).collect()
    }

    /// `zone` and `priority` of a server.
    pub(super) fn standing(&mut self, fields: &mut Fields<'_>) -> (Option<String>, Option<u32>) {
        let priority = self.parsed(fields.take("priority"), |text| match text.parse() {
            Ok(priority @ 0..=MAX_PRIORITY) => Ok(priority),
            _ => Err((
                format!("`{text}` is not a number from 0 to {MAX_PRIORITY}"),
                Some("the smallest comes first".into()),
            )),
        });
        (self.text(fields.take("zone")), priority)
    }

    /// A file of servers.
    pub(crate) fn listed(&mut self, root: &Node, port: u16) -> Vec<ListedSpec> {
        let mut all: Vec<ListedSpec> = Vec::new();
        if root.kind == Kind::Null {
            let hint = "`[]` if there is no server; else as in `- 10.0.0.1:8080`".to_string();
            self.error(root.place, "", "the file is empty", Some(hint));
        }
        for (node, path) in self.items(Some((root, String::new()))) {
            let Some(listed) = self.listed_one(node, &path, port) else { continue };
            if all.iter().any(|known| known.endpoint == listed.endpoint) {
                let hint = "once is enough; `weight` gives a server more".to_string();
                self.error(node.place, &path, format!("`{}` is given twice", listed.endpoint), Some(hint));
            }
            all.push(listed);
        }
        if all.len() > MAX_SERVERS {
            let message = format!("there are more than {MAX_SERVERS} servers");
            self.error(root.place, "", message, Some("spread them over several clusters".into()));
        }
        all
    }

    /// `10.0.0.1:8080`, or `{ address: 10.0.0.1:8080, weight: 2, zone: a, priority: 1, labels: { version: v2 } }`.
    fn listed_one(&mut self, node: &Node, path: &str, port: u16) -> Option<ListedSpec> {
        let address = |text: &str| {
            target::endpoint(text, port).ok_or_else(|| {
                (
                    format!("`{text}` is no server's address"),
                    Some("host and port, as in 10.0.0.1:8080".into()),
                )
            })
        };
        let of = |endpoint| ListedSpec {
            endpoint,
            name: None,
            weight: 1,
            zone: None,
            priority: 0,
            labels: Vec::new(),
        };
        if let Kind::Scalar(..) = node.kind {
            return self.parsed(Some((node, path.into())), address).map(of);
        }
        let mut fields = self.fields(node, path);
        let found = fields.take("address");
        if found.is_none() {
            let hint = "as in `address: 10.0.0.1:8080`".to_string();
            self.error(node.place, path, "`address` is missing", Some(hint));
        }
        let endpoint = self.parsed(found, address);
        let (name, weight) = (self.text(fields.take("name")), self.count(fields.take("weight"), MAX_WEIGHT));
        let (zone, priority) = self.standing(&mut fields);
        let labels = self.labels(fields.take("labels"));
        self.finish(fields);
        let listed = of(endpoint?);
        let (weight, priority) = (weight.unwrap_or(1), priority.unwrap_or(0));
        Some(ListedSpec { name, weight, zone, priority, labels, ..listed })
    }
}
