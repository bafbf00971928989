//! The keys of a cluster that say from where it is read.

use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found, set};
use crate::options::join;
use crate::reads::{Place, ReadFrom};
use crate::target::{self, Target};
use crate::{ClusterSpec, Discovery};

impl Reader<'_> {
    pub(super) fn reads_keys(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        cluster.reads.zone.clone_from(&self.zone);
        self.replicas(fields.take("replicas"), cluster);
        let from = fields.take("read_from");
        let staleness = fields.take("max_staleness");
        let zones = fields.take("zones");
        let has_replicas = cluster.discovery != Discovery::Listed || !cluster.reads.replicas.is_empty();
        // Where servers are looked up, it says in which zone each stands.
        let of_replicas = zones.as_ref().filter(|_| !cluster.is_looked_up());
        let has_replicas = has_replicas && !cluster.is_looked_up();
        for (node, path) in
            [from.as_ref(), staleness.as_ref(), of_replicas].into_iter().flatten().filter(|_| !has_replicas)
        {
            let hint = "use `redis-cluster://` or `redis-sentinel://`, or name its `replicas`".to_string();
            self.error(node.place, path, "this cluster has no replicas", Some(hint));
        }
        set(&mut cluster.reads.from, self.word(from.clone(), &ReadFrom::ALL));
        set(&mut cluster.reads.max_staleness, self.period(staleness, Duration::from_millis(100)));
        self.zones(zones, cluster);
        if let Some((node, path)) = from.filter(|_| cluster.reads.from == ReadFrom::Nearest)
            && cluster.reads.zone.is_none()
        {
            let hint = "as in `zone: a`, beside `listeners`".to_string();
            self.error(node.place, &path, "`nearest` to what? `zone` is missing", Some(hint));
        }
    }

    /// `replicas: "redis://b:6379,c:6379"`.
    fn replicas(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        if cluster.discovery != Discovery::Listed
            || cluster.endpoints.len() != 1
            || cluster.protocol != "resp"
        {
            let hint = "`to: redis://primary` and its `replicas`".to_string();
            let what = "replicas are named where `to` is one Redis server";
            self.error(node.place, &path, what, Some(hint));
            return;
        }
        let backs = self.known.backs;
        let (protocol, is_tls) = (cluster.protocol.clone(), self.is_tls);
        let target: Option<Target> = self.parsed(Some((node, path)), |text| {
            let target = target::back(text, backs)?;
            let is_alike = target.protocol == protocol && target.is_tls == is_tls;
            if is_alike && target.discovery == Discovery::Listed && !target.endpoints.is_empty() {
                return Ok(target);
            }
            let hint = "the same scheme as in `to`".to_string();
            Err((format!("`{text}` are no replicas of this server"), Some(hint)))
        });
        cluster.reads.replicas = target.unwrap_or_default().endpoints;
    }

    /// `zones: { a: [10.1.0.0/16], b: [cache-b.internal] }`.
    fn zones(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        for (zone, _, node) in self.fields(node, &path).pairs {
            for item in self.items(Some((node, join(&path, zone)))) {
                let place = self.parsed(Some(item), |text| {
                    let hint = "a host, `host:port` or a network as in 10.1.0.0/16".to_string();
                    Place::parse(text).ok_or((format!("`{text}` is no server"), Some(hint)))
                });
                cluster.reads.zones.extend(place.map(|place| (place, zone.to_string())));
            }
        }
    }
}
