//! Listeners: the keys of one entry of `listeners`, and their defaults.

use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found, set};
use crate::brokers::{BROKER_ID, BrokersSpec, MAX_COUNT};
use crate::error::suggestion;
use crate::node::Node;
use crate::target;
use crate::{Address, ClusterSpec, DetectSpec, HeaderCase, ListenerSpec, Transparent, UserSpec};

use super::cluster::default_cluster;

/// The protocol whose listeners have a port for each server.
const KAFKA: &str = "kafka";

/// Addresses that a listener may announce.
const MAX_ANNOUNCED: usize = 1000;

/// Keys that concern calls whose replies mecha puts in order.
const OF_CALLS: [&str; 3] = ["max_frame", "max_in_flight", "max_output"];

/// Keys that concern requests with a head and a body.
const OF_HEADS: [&str; 6] =
    ["body_timeout", "connect", "early_hints", "header_case", "header_timeout", "max_duration"];

/// What a listener has unless the file says otherwise; flags have nothing else.
pub(crate) fn default_listener(
    name: String,
    protocol: &str,
    address: Address,
    cluster: usize,
) -> ListenerSpec {
    ListenerSpec {
        name,
        protocol: protocol.into(),
        address,
        cluster,
        routes: Vec::new(),
        http_routes: Vec::new(),
        mirror: None,
        migrate: None,
        filters: Vec::new(),
        max_connections: 65_536,
        max_in_flight: 1024,
        max_output: 8 << 20,
        // Kafka's brokers have the same limit by default.
        max_frame: if protocol == KAFKA { 100 << 20 } else { 512 << 20 },
        idle_timeout: None,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(60),
        max_duration: None,
        has_early_hints: false,
        header_case: HeaderCase::default(),
        tunnels: Vec::new(),
        announce: None,
        tls: None,
        proxy_protocol: false,
        detect: None,
        transparent: Transparent::None,
        users: None,
        oauth: None,
        brokers: (protocol == KAFKA).then(BrokersSpec::default),
    }
}

impl Reader<'_> {
    pub(super) fn listeners(
        &mut self,
        found: Found<'_>,
        clusters: &mut Vec<(ClusterSpec, bool)>,
        users: Option<&[UserSpec]>,
    ) -> Vec<ListenerSpec> {
        let (mut listeners, mut places) = (Vec::<ListenerSpec>::new(), Vec::new());
        for (node, path) in self.items(found) {
            let Some(listener) = self.listener(node, &path, clusters, users, listeners.len()) else {
                continue;
            };
            if listeners.iter().any(|other| other.name == listener.name) {
                self.error(
                    node.place,
                    &path,
                    format!("there are two listeners `{}`", listener.name),
                    Some("give one a `name`".into()),
                );
            }
            let is_fixed = !matches!(&listener.address, Address::Tcp(addr) if addr.port() == 0);
            if is_fixed && listeners.iter().any(|other| other.address == listener.address) {
                let hint = "choose another port; one listener leads to one cluster".to_string();
                self.error(node.place, &path, "another listener has this address", Some(hint));
            }
            listeners.push(listener);
            places.push((node, path));
        }
        for (listener, (node, path)) in listeners.iter().zip(places) {
            self.detected(listener, &listeners, (node, &path));
        }
        listeners
    }

    fn listener(
        &mut self,
        node: &Node,
        path: &str,
        clusters: &mut Vec<(ClusterSpec, bool)>,
        users: Option<&[UserSpec]>,
        index: usize,
    ) -> Option<ListenerSpec> {
        let mut fields = self.fields(node, path);
        let doors = self.known.doors;
        let listen = fields.take("listen");
        if listen.is_none() {
            self.error(
                node.place,
                path,
                "`listen` is missing",
                Some("as in `listen: redis://127.0.0.1:6379`".into()),
            );
        }
        let listen_text = listen.as_ref().and_then(|(node, _)| match &node.kind {
            crate::node::Kind::Scalar(text, _) => Some(text.as_str()),
            _ => None,
        });
        let is_tls = listen_text.is_some_and(|text| target::is_tls(text, doors));
        let door = self.parsed(listen, |text| target::door(text, doors));
        let protocol = door.as_ref().map_or("", |(protocol, _)| *protocol);
        let to = fields.take("to");
        if to.is_none() {
            let hint =
                "a cluster's name or a target, as in `to: redis://127.0.0.1:6380` or `to: embedded://`";
            self.error(node.place, path, "`to` is missing", Some(hint.into()));
        }
        let name = self.text(fields.take("name"));
        let name = name.unwrap_or_else(|| {
            if index == 0 { protocol.to_string() } else { format!("{protocol}-{}", index + 1) }
        });
        let cluster = to.and_then(|to| self.target(to, &name, clusters, protocol));
        let address = door.as_ref().map(|(_, address)| address.clone());
        let unknown = Address::Unix(std::path::PathBuf::new());
        let mut listener = default_listener(name, protocol, address.unwrap_or(unknown), cluster.unwrap_or(0));
        let is_opaque = listen_text.is_some_and(|text| target::is_opaque(text, doors));
        if listen_text.is_some_and(|text| text.starts_with(target::AUTO)) {
            listener.detect = Some(DetectSpec::default());
        }
        let is_streamed = listen_text.is_some_and(|text| target::is_streamed(text, doors));
        if protocol == KAFKA {
            self.without(
                &mut fields,
                &["max_in_flight", "max_output"],
                "where clients have a connection to a broker each",
            );
        } else if is_opaque {
            self.without_calls(&mut fields, &OF_CALLS);
        } else if is_streamed {
            self.without(&mut fields, &OF_CALLS, "where requests pass as they come");
        }
        if !is_streamed {
            self.without(&mut fields, &OF_HEADS, "but on `http://` and `https://` listeners");
        }
        self.listener_keys(&mut fields, &mut listener);
        listener.users = self.users_of(fields.take("users"), users);
        listener.oauth = self.oauth(fields.take("oauth"), listener.protocol == KAFKA);
        if (is_opaque && listener.protocol != KAFKA || is_streamed) && listener.users.is_some() {
            let message = "this listener passes on what comes and cannot ask who its clients are";
            self.error(node.place, path, message, Some("`users: none` lets everybody in".into()));
        }
        if let (Some(_), Address::Unix(_)) = (&listener.brokers, &listener.address) {
            let hint = "brokers, and so clients, name hosts and ports".to_string();
            self.error(node.place, path, "Kafka is not spoken on Unix sockets", Some(hint));
        }
        let is_original =
            |at: usize| clusters.get(at).is_some_and(|(cluster, _)| cluster.protocol == target::ORIGINAL);
        if listener.transparent == Transparent::None && cluster.is_some_and(is_original) {
            let (message, hint) = target::not_transparent();
            self.error(node.place, path, message, hint);
        }
        if is_streamed {
            listener.tunnels = self.tunnels(fields.take("connect"), &listener, clusters);
            listener.http_routes = self.http_routes(fields.take("routes"), &listener, clusters);
        } else {
            listener.routes = self.routes(fields.take("routes"), &listener, clusters);
        }
        listener.mirror = self.mirror(fields.take("mirror"), &listener, clusters);
        listener.migrate = self.migrate(fields.take("migrate"), &listener, cluster, clusters);
        let tls = fields.take("tls");
        if let (Some((node, path)), Address::Unix(_)) = (&tls, &listener.address)
            && door.is_some()
        {
            let hint = "what it protects from cannot happen there".to_string();
            self.error(node.place, path, "TLS is not spoken on Unix sockets", Some(hint));
        }
        listener.tls = self.server_tls(tls, is_tls, (node, path));
        let is_by_name = listener.brokers.as_ref().is_some_and(|brokers| brokers.is_by_name);
        if is_by_name && listener.tls.as_ref().is_none_or(|tls| tls.is_optional) {
            let hint = "use `kafkas://` with a `tls` block that is not `optional`".to_string();
            let what =
                "names of brokers are seen in the TLS handshake alone, which not every client makes here";
            self.error(node.place, path, what, Some(hint));
        }
        self.finish(fields);
        (door.is_some() && cluster.is_some()).then_some(listener)
    }

    /// Every key but `listen`, `to` and `name`. A new one is added here.
    fn listener_keys(&mut self, fields: &mut Fields<'_>, listener: &mut ListenerSpec) {
        let protocol = (!listener.protocol.is_empty()).then(|| listener.protocol.clone());
        listener.filters = self.filters(fields.take("filters"), protocol.as_deref());
        set(&mut listener.max_connections, self.count(fields.take("max_connections"), 10_000_000));
        set(&mut listener.max_in_flight, self.count(fields.take("max_in_flight"), 1_000_000));
        set(&mut listener.max_output, self.size(fields.take("max_output"), 64 << 10));
        set(&mut listener.max_frame, self.size(fields.take("max_frame"), 1 << 10));
        let words = [("required", true), ("none", false)];
        set(&mut listener.proxy_protocol, self.word(fields.take("proxy_protocol"), &words));
        let transparent = fields.take("transparent");
        if let (Some((node, path)), Address::Unix(_)) = (&transparent, &listener.address) {
            let hint = "remove it".to_string();
            self.error(node.place, path, "nobody is led to a Unix socket", Some(hint));
        }
        listener.detect = self.detect(fields.take("detect"), listener);
        set(&mut listener.transparent, self.word(transparent, &target::TRANSPARENT));
        self.brokers(fields.take("brokers"), listener);
        listener.announce = self.announce(fields.take("announce"), listener);
        set(
            &mut listener.header_timeout,
            self.period(fields.take("header_timeout"), Duration::from_millis(100)),
        );
        listener.max_duration = self.period(fields.take("max_duration"), Duration::from_millis(1));
        let words = [("false", false), ("true", true)];
        set(&mut listener.has_early_hints, self.word(fields.take("early_hints"), &words));
        set(&mut listener.header_case, self.word(fields.take("header_case"), &HeaderCase::ALL));
        set(&mut listener.body_timeout, self.period(fields.take("body_timeout"), Duration::from_millis(100)));
        listener.idle_timeout = self.period(fields.take("idle_timeout"), Duration::from_secs(1));
    }

    /// `brokers: { ports: 9093-9099, host: kafka.example }`, `ports: sni`, or `ports: none`.
    fn brokers(&mut self, found: Found<'_>, listener: &mut ListenerSpec) {
        let (Some(brokers), Address::Tcp(own)) = (&mut listener.brokers, &listener.address) else {
            if let Some((node, path)) = found {
                self.error(
                    node.place,
                    &path,
                    "only clients of Kafka go to single brokers",
                    Some("remove it".into()),
                );
            }
            return;
        };
        let Some((node, path)) = found else { return };
        let mut fields = self.fields(node, &path);
        let ports = self.parsed(fields.take("ports"), |text| {
            if matches!(text, "none" | "sni") {
                return Ok((None, 0, text == "sni"));
            }
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = (first.trim().parse::<u16>(), last.trim().parse::<u16>());
            match range {
                (Ok(first), Ok(last)) if 0 < first && first <= last && last - first < MAX_COUNT => {
                    Ok((Some(first), last - first + 1, false))
                }
                _ => {
                    let hint = format!(
                        "as in `9093-9099`, {MAX_COUNT} ports at most; `sni` for a name for each; `none` for one address for all brokers"
                    );
                    Err((format!("`{text}` is no range of ports"), Some(hint)))
                }
            }
        });
        if let Some((first, count, is_by_name)) = ports {
            (brokers.first, brokers.count, brokers.is_by_name) = (first, count, is_by_name);
            let is_own = first.is_some_and(|first| own.port() >= first && own.port() - first < count);
            if is_own {
                self.error(
                    node.place,
                    &path,
                    "the listener's own port is among them",
                    Some("it leads to any broker".into()),
                );
            }
        }
        let host = self.parsed(fields.take("host"), |text| {
            let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
            let fixed = text.replacen(BROKER_ID, "", 1);
            let is_one = !text.is_empty() && text.len() < 256 && fixed.chars().all(is_host);
            let hint = "a name or an address as clients reach it, without a port; `$(id)` stands for the broker's number";
            let hint = hint.to_string();
            if is_one { Ok(text.to_string()) } else { Err((format!("`{text}` is no host"), Some(hint))) }
        });
        brokers.host = host;
        let is_named = brokers.host.as_ref().is_some_and(|host| host.contains(BROKER_ID));
        if brokers.is_by_name && !is_named {
            let hint =
                "as in `host: \"broker-$(id).kafka.example\"`, with names that all lead here".to_string();
            self.error(node.place, &path, "`host` must have a name for each broker", Some(hint));
        }
        if !brokers.fits(*own) {
            let hint = format!(
                "{} ports follow the listener's own unless `ports` says where they are",
                brokers.count
            );
            self.error(node.place, &path, "there are not so many ports", Some(hint));
        }
        self.finish(fields);
    }

    /// `announce: self`, or `announce: [ "a:6379", "b:6379" ]`.
    fn announce(&mut self, found: Found<'_>, listener: &ListenerSpec) -> Option<Vec<(String, u16)>> {
        let (node, path) = found?;
        if !matches!(listener.protocol.as_str(), "" | "resp") {
            let hint = "`announce` belongs to `redis://` listeners".to_string();
            self.error(node.place, &path, "only clients of Redis know of clusters", Some(hint));
        }
        if let crate::node::Kind::Scalar(text, _) = &node.kind {
            if text != "self" {
                let hint = "`self`, or a list as in `[ \"mecha-1:6379\", \"mecha-2:6379\" ]`".to_string();
                self.error(node.place, &path, format!("`{text}` is no list of addresses"), Some(hint));
            }
            return Some(Vec::new());
        }
        let mut nodes = Vec::new();
        for (node, path) in self.items(Some((node, path.clone()))) {
            let item =
                self.parsed(Some((node, path.clone())), |text| match crate::reads::Place::parse(text) {
                    Some(crate::reads::Place::HostPort(host, port)) if port > 0 => Ok((host, port)),
                    _ => {
                        let hint =
                            "a host and a port, as clients reach it: `mecha-1.example:6379`".to_string();
                        Err((format!("`{text}` is no address"), Some(hint)))
                    }
                });
            if item.as_ref().is_some_and(|item| nodes.contains(item)) {
                let hint = "once is enough".to_string();
                self.error(node.place, &path, "this address is given twice", Some(hint));
            }
            nodes.extend(item);
        }
        if nodes.is_empty() || nodes.len() > MAX_ANNOUNCED {
            let hint = format!("one to {MAX_ANNOUNCED} addresses, or `self`");
            self.error(node.place, &path, "there is no use in that", Some(hint));
        }
        Some(nodes)
    }

    /// The index of the cluster that `text` describes, which may be a new one.
    pub(super) fn inline(
        &mut self,
        text: &str,
        (node, path): (&Node, &str),
        listener: &str,
        clusters: &mut Vec<(ClusterSpec, bool)>,
    ) -> Option<usize> {
        let target = match target::back(text, self.known.backs) {
            Ok(target) => target,
            Err(complaint) => {
                self.complain(node, path, complaint);
                return None;
            }
        };
        // Listeners that lead to the same target share it, as two doors of one embedded store must.
        let same = clusters.iter().position(|(cluster, is_inline)| *is_inline && target.is_of(cluster));
        Some(same.unwrap_or_else(|| {
            let base = if target.endpoints.is_empty() {
                target.protocol.to_string()
            } else {
                format!("{listener}-upstream")
            };
            let is_taken = |name: &str| clusters.iter().any(|(cluster, _)| cluster.name == name);
            let name = (2..).map(|n| format!("{base}-{n}")).find(|name| !is_taken(name));
            let name = if is_taken(&base) { name.unwrap_or_default() } else { base };
            let is_tls = target.is_tls;
            let mut cluster = default_cluster(name, target);
            cluster.tls = self.client_tls(None, (node, path), is_tls);
            clusters.push((cluster, true));
            clusters.len() - 1
        }))
    }

    /// The index of the cluster that `to` names, or of a new one that it describes.
    pub(super) fn target(
        &mut self,
        to: (&Node, String),
        listener: &str,
        clusters: &mut Vec<(ClusterSpec, bool)>,
        door: &str,
    ) -> Option<usize> {
        let (node, path) = (to.0, to.1.clone());
        let text = self.text(Some(to))?;
        let index = if text.contains("://") {
            self.inline(&text, (node, &path), listener, clusters)?
        } else {
            let names: Vec<_> = clusters.iter().map(|(cluster, _)| cluster.name.as_str()).collect();
            match names.iter().position(|name| *name == text) {
                Some(index) => index,
                None if self.broken.contains(&text) => return None,
                None => {
                    let hint = if names.is_empty() {
                        "name one under `clusters`, or give a target, as in `redis://127.0.0.1:6380`".into()
                    } else {
                        suggestion(&text, &names)
                    };
                    self.error(
                        node.place,
                        &path,
                        format!("there is no cluster `{}`", target::shown(&text)),
                        Some(hint),
                    );
                    return None;
                }
            }
        };
        let back = clusters.get(index).map_or("", |(cluster, _)| cluster.protocol.as_str());
        if !door.is_empty() && !(self.known.pairs)(door, back) {
            let possible: Vec<_> =
                self.known.backs.iter().filter(|back| (self.known.pairs)(door, back.protocol)).collect();
            let possible: Vec<_> = possible.iter().map(|back| format!("{}://", back.scheme)).collect();
            let hint = format!("it can lead to {}", possible.join(", "));
            self.error(node.place, &path, format!("a {door} listener cannot lead to {back}"), Some(hint));
        }
        Some(index)
    }
}
