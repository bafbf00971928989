//! Clusters: the keys of one entry of `clusters`, and their defaults.

use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found, set};
use crate::node::{Kind, Node};
use crate::options::join;
use crate::target::{self, Target};
use crate::tls::MECHANISMS;
use crate::{
    AlikeSpec, Backoff, Balance, ClusterSpec, Discovery, HashOn, HashTag, HeaderCase, KeyHash, LoginSpec,
    Member, ProxyProtocol, ReadsSpec, SentinelsSpec, Subscriptions,
};

/// What a cluster has unless the file says otherwise; flags have nothing else.
pub(crate) fn default_cluster(name: String, target: Target) -> ClusterSpec {
    let Target { protocol, endpoints, discovery, is_tls, is_opaque, is_streamed } = target;
    // Where nobody sees keys, servers are taken to be alike.
    let is_keyed = endpoints.len() > 1 && !is_opaque && !is_streamed;
    let balance = if is_keyed { Balance::Ketama } else { Balance::RoundRobin };
    ClusterSpec {
        name,
        protocol: protocol.into(),
        members: endpoints.iter().map(Member::of).collect(),
        endpoints,
        discovery,
        refresh: Duration::from_secs(10),
        park: Duration::from_secs(5),
        balance,
        hash: KeyHash::default(),
        hash_tag: HashTag::default(),
        hash_on: HashOn::default(),
        eject: None,
        header_case: HeaderCase::default(),
        alike: AlikeSpec::default(),
        health_check: None,
        outlier: None,
        connections: 1,
        connect_timeout: Duration::from_secs(1),
        backoff: Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(5) },
        connect_rate: 100,
        is_private: false,
        subscriptions: Subscriptions::default(),
        max_pins: 1024,
        max_pending: 16_384,
        max_memory: 256 << 20,
        max_value: (1 << 20) - 512,
        filters: Vec::new(),
        tls: None,
        proxy_protocol: None,
        keeps_source: false,
        login: LoginSpec::default(),
        sentinels: SentinelsSpec { is_tls, ..SentinelsSpec::default() },
        reads: ReadsSpec::default(),
        database: 0,
    }
}

/// Keys that concern calls, of which there are none where bytes are passed on as they are.
const OF_CALLS: [&str; 9] = [
    "connect_rate",
    "connections",
    "hash_tag",
    "max_memory",
    "max_pending",
    "max_pins",
    "max_value",
    "park",
    "refresh",
];

/// The protocol whose servers name each other, though nobody looks for them by keys.
const KAFKA: &str = "kafka";

/// Keys that have no meaning where requests pass as they come.
const OF_KEYS: [&str; 7] =
    ["connect_rate", "hash_tag", "max_memory", "max_pending", "max_value", "park", "refresh"];

impl Reader<'_> {
    /// Clusters with whether any listener leads to them.
    pub(super) fn clusters(&mut self, found: Found<'_>) -> Vec<(ClusterSpec, bool)> {
        let Some((node, path)) = found else { return Vec::new() };
        let fields = self.fields(node, &path);
        let mut clusters = Vec::new();
        for (name, _, node) in fields.pairs {
            match self.cluster(name, node, &join(&path, name)) {
                Some(cluster) => clusters.push((cluster, false)),
                None => self.broken.push(name.into()),
            }
        }
        clusters
    }

    fn cluster(&mut self, name: &str, node: &Node, path: &str) -> Option<ClusterSpec> {
        // `cache: redis://...` is short for `cache: { to: redis://... }`.
        if let Kind::Scalar(..) = node.kind {
            let target =
                self.parsed(Some((node, path.into())), |text| target::back(text, self.known.backs))?;
            let is_tls = target.is_tls;
            let mut cluster = default_cluster(name.into(), target);
            cluster.tls = self.client_tls(None, (node, path), is_tls);
            return Some(cluster);
        }
        let backs = self.known.backs;
        let mut fields = self.fields(node, path);
        let to = fields.take("to");
        if to.is_none() {
            self.error(
                node.place,
                path,
                "`to` is missing",
                Some("as in `to: redis://127.0.0.1:6379`".into()),
            );
        }
        let target = self.parsed(to, |text| target::back(text, backs));
        let mut cluster = default_cluster(name.into(), target.clone().unwrap_or_default());
        let proxy = fields.take("proxy_protocol");
        let source = fields.take("keep_source");
        if target.as_ref().is_some_and(|target| target.is_streamed) {
            self.without(&mut fields, &OF_KEYS, "where requests pass as they come");
        }
        if target.as_ref().is_some_and(|target| target.is_opaque) {
            let is_found = target.as_ref().is_some_and(|target| target.protocol == KAFKA);
            let names: Vec<_> = OF_CALLS.into_iter().filter(|name| !is_found || *name != "refresh").collect();
            self.without_calls(&mut fields, &names);
            let words = [("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
            cluster.proxy_protocol = self.word(proxy, &words);
            set(&mut cluster.keeps_source, self.word(source, &[("false", false), ("true", true)]));
        } else {
            let both = [("proxy_protocol", proxy), ("keep_source", source)];
            for (name, (node, path)) in both.into_iter().filter_map(|(name, found)| Some((name, found?))) {
                let message =
                    "many clients share the connections to these servers, so none stands for one client";
                self.error(
                    node.place,
                    &path,
                    message,
                    Some(format!("`{name}` belongs to `tcp://` clusters")),
                );
            }
        }
        let is_tls = target.as_ref().is_some_and(|target| target.is_tls);
        self.is_tls = is_tls;
        self.cluster_keys(&mut fields, &mut cluster);
        cluster.tls = self.client_tls(fields.take("tls"), (node, path), is_tls);
        self.sentinels(fields.take("sentinels"), &mut cluster);
        self.finish(fields);
        target.map(|_| cluster)
    }

    /// Every key but `to`. A new one is added here.
    fn cluster_keys(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        self.sharding_keys(fields, cluster);
        self.reads_keys(fields, cluster);
        self.health_keys(fields, cluster);
        self.alike_keys(fields, cluster);
        set(&mut cluster.refresh, self.period(fields.take("refresh"), Duration::from_millis(100)));
        set(&mut cluster.park, self.period(fields.take("park"), Duration::ZERO));
        set(&mut cluster.connections, self.count(fields.take("connections"), 1024));
        set(
            &mut cluster.connect_timeout,
            self.period(fields.take("connect_timeout"), Duration::from_millis(1)),
        );
        if let Some((node, path)) = fields.take("backoff") {
            let mut fields = self.fields(node, &path);
            let least = Duration::from_millis(1);
            set(&mut cluster.backoff.initial, self.period(fields.take("initial"), least));
            set(&mut cluster.backoff.max, self.period(fields.take("max"), least));
            self.finish(fields);
            if cluster.backoff.max < cluster.backoff.initial {
                self.error(
                    node.place,
                    &path,
                    "`max` must not be shorter than `initial`",
                    Some("it is where the doubling of `initial` ends".into()),
                );
            }
        }
        let case = fields.take("header_case");
        if let Some((node, path)) = case.clone().filter(|_| !["", "http"].contains(&&*cluster.protocol)) {
            let hint = "it belongs to `http://` and `https://`".to_string();
            self.error(node.place, &path, "these servers do not speak HTTP/1", Some(hint));
        }
        set(&mut cluster.header_case, self.word(case, &HeaderCase::ALL));
        set(&mut cluster.connect_rate, self.count(fields.take("connect_rate"), 1_000_000));
        let subscriptions = self.parsed(fields.take("subscriptions"), |text| match text {
            "dedicated" => Ok(Subscriptions::Dedicated),
            "shared" => Ok(Subscriptions::Shared),
            _ => {
                let hint = "`dedicated`: each client that subscribes has a connection of its own".to_string();
                Err((format!("`{text}` is neither `dedicated` nor `shared`"), Some(hint)))
            }
        });
        set(&mut cluster.subscriptions, subscriptions);
        self.privacy(fields, cluster);
        set(&mut cluster.max_pins, self.count(fields.take("max_pins"), 1_000_000));
        set(&mut cluster.max_pending, self.count(fields.take("max_pending"), 10_000_000));
        set(&mut cluster.max_memory, self.size(fields.take("max_memory"), 1 << 20));
        set(&mut cluster.max_value, self.size(fields.take("max_value"), 1024));
        cluster.filters = self.filters(fields.take("filters"), None);
        let auth = fields.take("auth");
        let db = fields.take("db");
        for (node, path) in db.iter().filter(|_| !["", "resp"].contains(&&*cluster.protocol)) {
            let hint = "`db` belongs to clusters of Redis".to_string();
            let message = format!("servers of {} have no databases", cluster.protocol);
            self.error(node.place, path, message, Some(hint));
        }
        for (node, path) in
            auth.iter().filter(|_| !["", "kafka", "memcached", "resp"].contains(&&*cluster.protocol))
        {
            let hint = "`auth` belongs to clusters of Redis, Memcached and Kafka".to_string();
            let message = format!("servers of {} know no login", cluster.protocol);
            self.error(node.place, path, message, Some(hint));
        }
        let place = auth.clone();
        cluster.login = self.login(auth);
        self.mechanism(place.as_ref(), cluster);
        if let (Some((node, path)), "memcached", None) = (place, &*cluster.protocol, &cluster.login.username)
        {
            let hint = Some("servers of memcached have no default user".to_string());
            self.error(node.place, &path, "`username` is missing", hint);
        }
        let number = self.parsed(db, |text| {
            text.parse()
                .map_err(|_| (format!("`{text}` is no number of a database"), Some("as in `db: 3`".into())))
        });
        set(&mut cluster.database, number);
    }

    /// `auth: { mechanism: SCRAM-SHA-512, username: mecha, password_file: secret }` of brokers.
    fn mechanism(&mut self, found: Option<&(&Node, String)>, cluster: &ClusterSpec) {
        let Some((node, path)) = found else { return };
        let login = &cluster.login;
        let wrong = match (&*cluster.protocol, login.mechanism.as_deref()) {
            ("kafka", None) => {
                let hint = format!("as the brokers have enabled it: one of {}", MECHANISMS.join(", "));
                Some(("`mechanism` is missing", hint))
            }
            ("kafka", Some("OAUTHBEARER")) if login.username.is_some() => Some((
                "OAUTHBEARER knows no `username`",
                "the token says who it is for; give it as `password_file`".into(),
            )),
            ("kafka", Some("OAUTHBEARER")) => None,
            ("kafka", Some(_)) if login.username.is_none() => {
                Some(("`username` is missing", "brokers of Kafka have no default user".into()))
            }
            ("" | "kafka", _) | (_, None) => None,
            _ => Some(("`mechanism` belongs to clusters of Kafka", "remove it".into())),
        };
        if let Some((what, hint)) = wrong {
            self.error(node.place, path, what, Some(hint));
        }
    }

    /// `clients: dedicated`.
    fn privacy(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        let clients = fields.take("clients");
        let place = clients.as_ref().map(|(node, path)| (node.place, path.clone()));
        set(&mut cluster.is_private, self.word(clients, &[("dedicated", true), ("shared", false)]));
        let Some((place, path)) = place.filter(|_| cluster.is_private) else { return };
        let is_one = match cluster.discovery {
            Discovery::Cluster | Discovery::Dns | Discovery::File { .. } | Discovery::Srv => false,
            Discovery::Listed => cluster.endpoints.len() == 1 && cluster.reads.replicas.is_empty(),
            Discovery::Sentinel(_) => true,
        };
        if !matches!(cluster.protocol.as_str(), "memcached" | "resp") {
            let hint = "leave `clients` out".to_string();
            let what = "only clients of Redis and Memcached have connections of their own";
            self.error(place, &path, what, Some(hint));
        } else if !is_one {
            let hint = "a client's connection leads to one server".to_string();
            self.error(place, &path, "there are several servers", Some(hint));
        }
    }

    /// `sentinels: { auth: { password: x }, tls: false }`.
    fn sentinels(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        cluster.sentinels.is_tls = cluster.tls.is_some();
        let Some((node, path)) = found else { return };
        if !matches!(cluster.discovery, Discovery::Sentinel(_)) {
            let hint = "it belongs to `redis-sentinel://`".to_string();
            self.error(node.place, &path, "there are no sentinels", Some(hint));
        }
        let mut fields = self.fields(node, &path);
        cluster.sentinels.login = self.login(fields.take("auth"));
        let tls = fields.take("tls");
        let place = tls.as_ref().map(|(node, path)| (node.place, path.clone()));
        set(&mut cluster.sentinels.is_tls, self.word(tls, &[("false", false), ("true", true)]));
        if let Some((place, path)) = place.filter(|_| cluster.sentinels.is_tls && cluster.tls.is_none()) {
            let hint = "use `rediss-sentinel://`, or give the cluster a `tls` block".to_string();
            self.error(
                place,
                &path,
                "sentinels are trusted as the servers are, which speak no TLS",
                Some(hint),
            );
        }
        self.finish(fields);
    }
}
