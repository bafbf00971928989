//! The keys of a cluster that say how keys are spread over its servers.

use std::time::Duration;

use super::Reader;
use super::alike::ALIKE;
use super::fields::{Fields, Found, set};
use crate::error::suggestion;
use crate::options::join;
use crate::target;
use crate::{Balance, ClusterSpec, Discovery, EjectSpec, HashOn, HashTag, KeyHash, Member};

/// The largest weight of a server.
pub(super) const MAX_WEIGHT: u32 = 10_000;

impl Reader<'_> {
    pub(super) fn sharding_keys(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        set(&mut cluster.balance, self.word(fields.take("balance"), &Balance::ALL));
        let hash = fields.take("hash");
        if let Some((node, path)) = hash.clone().filter(|_| !cluster.balance.has_key_hash()) {
            let hint = "it belongs to `balance: ketama`, `ketama_unweighted`, `maglev` or `modulo`";
            self.error(node.place, &path, "`hash` has no effect with this `balance`", Some(hint.into()));
        }
        set(&mut cluster.hash, self.word(hash, &KeyHash::ALL));
        let tag = self.parsed(fields.take("hash_tag"), |text| match text.as_bytes() {
            b"none" => Ok(HashTag::None),
            [open, close] => Ok(HashTag::Between(*open, *close)),
            _ => {
                let hint = "as in `hash_tag: \"{}\"`, or `none` to hash whole keys";
                Err((format!("`{text}` is not two characters"), Some(hint.to_string())))
            }
        });
        set(&mut cluster.hash_tag, tag);
        self.hash_on(fields.take("hash_on"), cluster);
        self.members(fields.take("servers"), cluster);
        self.eject(fields.take("auto_eject"), cluster);
    }

    /// `hash_on: { header: x-user }`, or `{ cookie: route, ttl: 1h }`.
    fn hash_on(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        if !["http", "http2"].contains(&&*cluster.protocol) || !cluster.balance.has_key_hash() {
            let hint = "it belongs to clusters of HTTP with `balance: maglev` or `ketama`".to_string();
            self.error(node.place, &path, "`hash_on` has no effect here", Some(hint));
        }
        let mut fields = self.fields(node, &path);
        let (header, cookie) = (self.text(fields.take("header")), self.text(fields.take("cookie")));
        let ttl = self.period(fields.take("ttl"), Duration::from_secs(1));
        self.finish(fields);
        let is_name = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        cluster.hash_on = match (header, cookie) {
            (Some(name), None) if is_name(&name) && ttl.is_none() => HashOn::Header(name),
            (None, Some(name)) if is_name(&name) => {
                HashOn::Cookie(name, ttl.map_or(3600, |ttl| ttl.as_secs()))
            }
            _ => {
                let hint = "as in `{ header: x-user }`, or `{ cookie: route, ttl: 1h }`".to_string();
                self.error(node.place, &path, "it is not clear what is hashed", Some(hint));
                HashOn::Source
            }
        };
    }

    /// `auto_eject: { failures: 2, retry_after: 30s, gutter: memcached://a:11211, gutter_ttl: 10s }`.
    fn eject(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        let mut fields = self.fields(node, &path);
        let mut eject = EjectSpec {
            failures: 2,
            retry_after: Duration::from_secs(30),
            gutter: Vec::new(),
            gutter_members: Vec::new(),
            gutter_ttl_secs: 10,
        };
        set(&mut eject.failures, self.count(fields.take("failures"), 1_000_000));
        set(&mut eject.retry_after, self.period(fields.take("retry_after"), Duration::from_millis(10)));
        let (gutter, ttl) = (fields.take("gutter"), fields.take("gutter_ttl"));
        if let (Some((node, path)), None) = (&ttl, &gutter) {
            let hint = "as in `gutter: memcached://10.0.0.9:11211`".to_string();
            self.error(node.place, path, "`gutter_ttl` has no effect without `gutter`", Some(hint));
        }
        let second = Duration::from_secs(1);
        if let Some(length) = self.period(ttl.clone(), second)
            && let Some((node, path)) = ttl
        {
            eject.gutter_ttl_secs = u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
            if eject.gutter_ttl_secs > 60 * 60 * 24 * 30 {
                let hint = "what is stored in a gutter is to be forgotten soon: seconds".to_string();
                self.error(node.place, &path, "must be 30 days at most", Some(hint));
            }
        }
        let backs = self.known.backs;
        if let Some(target) = self.parsed(gutter.clone(), |text| target::back(text, backs))
            && let Some((node, path)) = gutter
        {
            let is_like = target.protocol == cluster.protocol && target.discovery == Discovery::Listed;
            if !is_like || cluster.protocol != "memcached" {
                let hint = "only what is stored in Memcached can be made to live for a short time";
                self.error(
                    node.place,
                    &path,
                    "a gutter is a list of memcached:// servers",
                    Some(hint.into()),
                );
            }
            eject.gutter_members = target.endpoints.iter().map(Member::of).collect();
            eject.gutter = target.endpoints;
        }
        self.finish(fields);
        let is_keyed =
            !matches!(cluster.balance, Balance::LeastRequest | Balance::Random | Balance::RoundRobin);
        let is_many = cluster.endpoints.len() > 1 || !eject.gutter.is_empty();
        if cluster.discovery != Discovery::Listed || !is_keyed || !is_many {
            let hint = "it needs several servers in `to`, and a `balance` by key";
            self.error(node.place, &path, "`auto_eject` has no effect here", Some(hint.into()));
        }
        cluster.eject = Some(eject);
    }

    /// `servers: { "a:6379": { name: one, weight: 2 } }`.
    fn members(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        let addresses: Vec<_> = cluster.endpoints.iter().map(ToString::to_string).collect();
        let protocol = cluster.protocol.clone();
        if cluster.is_looked_up() {
            let hint = "a file of servers can say the same: docs/clusters.md".to_string();
            self.error(node.place, &path, "these servers are not listed here", Some(hint));
            return;
        }
        for (address, place, node) in self.fields(node, &path).pairs {
            let path = join(&path, address);
            let known = addresses.iter().position(|known| known == address);
            let Some(member) = known.and_then(|at| cluster.members.get_mut(at)) else {
                let names: Vec<_> = addresses.iter().map(String::as_str).collect();
                self.error(
                    place,
                    &path,
                    format!("`to` has no server `{address}`"),
                    Some(suggestion(address, &names)),
                );
                continue;
            };
            let mut fields = self.fields(node, &path);
            set(&mut member.name, self.text(fields.take("name")));
            set(&mut member.weight, self.count(fields.take("weight"), MAX_WEIGHT));
            let is_alike = ALIKE.contains(&&*protocol);
            if is_alike {
                let (zone, priority) = self.standing(&mut fields);
                member.zone = zone;
                set(&mut member.priority, priority);
            } else {
                self.without(&mut fields, &["priority", "zone"], "where servers are not all alike");
            }
            self.finish(fields);
        }
        let mut names: Vec<_> = cluster.members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            let hint = "the ring tells servers apart by their names".to_string();
            self.error(node.place, &path, "two servers have the same name", Some(hint));
        }
    }
}
