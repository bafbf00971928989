//! Routes of HTTP listeners: the keys of one entry of `routes`.

use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found};
use super::routes::{Clusters, MAX_ROUTES};
use crate::http::{
    HttpActionSpec, HttpEditSpec, HttpForwardSpec, HttpRedirectSpec, HttpRetrySpec, HttpRouteSpec, Reachable,
    TunnelSpec,
};
use crate::node::{Kind, Node};
use crate::{ClusterSpec, ListenerSpec, target};

/// The largest body that is held to be sent again.
const MAX_RETRIED_BODY: u64 = 16 << 20;
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

impl Reader<'_> {
    pub(super) fn http_routes(
        &mut self,
        found: Found<'_>,
        listener: &ListenerSpec,
        clusters: &mut Clusters,
    ) -> Vec<HttpRouteSpec> {
        let mut routes: Vec<HttpRouteSpec> = Vec::new();
        for (node, path) in self.items(found) {
            if routes.len() == MAX_ROUTES {
                let hint = "one route can have several paths".to_string();
                self.error(node.place, &path, format!("more than {MAX_ROUTES} routes"), Some(hint));
                break;
            }
            let Some(mut route) = self.http_route(node, &path, listener, clusters) else { continue };
            let is_taken = |name: &str| name == "default" || routes.iter().any(|other| other.name == name);
            if is_taken(&route.name) {
                let free = (2..).map(|n| format!("{}-{n}", route.name)).find(|name| !is_taken(name));
                route.name = free.unwrap_or_default();
            }
            routes.push(route);
        }
        routes
    }

    fn http_route(
        &mut self,
        node: &Node,
        path: &str,
        listener: &ListenerSpec,
        clusters: &mut Vec<(ClusterSpec, bool)>,
    ) -> Option<HttpRouteSpec> {
        let mut fields = self.fields(node, path);
        let name = self.text(fields.take("name"));
        let mut route = HttpRouteSpec {
            hosts: self.words(fields.take("host")),
            paths: self.words(fields.take("path")),
            prefixes: self.words(fields.take("prefix")),
            regexes: self.words(fields.take("regex")),
            grpc: self.words(fields.take("grpc")),
            methods: self.words(fields.take("method")),
            headers: self.pairs(fields.take("headers")),
            query: self.pairs(fields.take("query")),
            ..HttpRouteSpec::default()
        };
        let lists =
            [&route.paths, &route.prefixes, &route.regexes, &route.grpc, &route.hosts, &route.methods];
        let first = lists.iter().find_map(|list| list.first().cloned());
        let first = first.or(route.headers.first().map(|(name, _)| name.clone()));
        route.name = name.or(first).unwrap_or_else(|| "all".into());
        let forward = self.http_forward(&mut fields, listener, clusters);
        let redirect = self.http_redirect(fields.take("redirect"));
        let respond = self.http_respond(fields.take("respond"));
        route.action = match (forward, redirect, respond) {
            (Some(forward), None, None) => HttpActionSpec::Forward(forward),
            (None, Some(redirect), None) => HttpActionSpec::Redirect(redirect),
            (None, None, Some((status, body))) => HttpActionSpec::Respond { status, body },
            _ => {
                let hint = "say one of `to`, `split`, `redirect` and `respond`".to_string();
                self.error(node.place, path, "it is not clear what becomes of these requests", Some(hint));
                HttpActionSpec::default()
            }
        };
        route.filters = self.filters(fields.take("filters"), Some(&listener.protocol));
        route.request = self.http_edit(fields.take("request"));
        route.response = self.http_edit(fields.take("response"));
        self.finish(fields);
        for (key, message, hint) in (self.known.check_http_route)(&route) {
            let key = if key.is_empty() { path.to_string() } else { format!("{path}.{key}") };
            self.error(node.place, &key, message, hint);
        }
        Some(route)
    }

    /// `to` or `split`, and what belongs to them.
    fn http_forward(
        &mut self,
        fields: &mut Fields<'_>,
        listener: &ListenerSpec,
        clusters: &mut Vec<(ClusterSpec, bool)>,
    ) -> Option<HttpForwardSpec> {
        let to = fields.take("to");
        let split = fields.take("split");
        let is_there = to.is_some() || split.is_some();
        let mut forward = HttpForwardSpec::default();
        if let Some(to) = to {
            let target = self.target(to, &listener.name, clusters, &listener.protocol);
            forward.targets.extend(target.map(|target| (target, 1)));
        }
        for (node, path) in self.items(split) {
            let mut part = self.fields(node, &path);
            let weight = self.count(part.take("weight"), 1_000_000).unwrap_or(1);
            match part.take("to") {
                Some(to) => {
                    let target = self.target(to, &listener.name, clusters, &listener.protocol);
                    forward.targets.extend(target.map(|target| (target, weight)));
                }
                None => self.error(
                    node.place,
                    &path,
                    "`to` is missing",
                    Some("as in `{ to: blue, weight: 9 }`".into()),
                ),
            }
            self.finish(part);
        }
        if let Some((node, path)) = fields.take("rewrite") {
            let mut rewrite = self.fields(node, &path);
            forward.prefix = self.text(rewrite.take("prefix"));
            forward.path = self.text(rewrite.take("path"));
            forward.host = self.text(rewrite.take("host"));
            self.finish(rewrite);
        }
        forward.timeout = self.period(fields.take("timeout"), Duration::from_millis(1));
        forward.max_duration = self.period(fields.take("max_duration"), Duration::from_millis(1));
        forward.retry = self.http_retry(fields.take("retry"));
        is_there.then_some(forward)
    }

    fn http_retry(&mut self, found: Found<'_>) -> Option<HttpRetrySpec> {
        let (node, path) = found?;
        let mut fields = self.fields(node, &path);
        let attempts = self.count(fields.take("attempts"), 10).unwrap_or(1);
        let on = self.words(fields.take("on"));
        let on = if on.is_empty() { vec!["connect".into(), "gateway".into(), "reset".into()] } else { on };
        let per_try = self.period(fields.take("per_try_timeout"), Duration::from_millis(1));
        let hedge_after = self.period(fields.take("hedge_after"), Duration::from_millis(1));
        let backoff =
            self.period(fields.take("backoff"), Duration::ZERO).unwrap_or(Duration::from_millis(25));
        let max_body = self.size(fields.take("max_body"), 0).unwrap_or(64 << 10);
        if max_body > MAX_RETRIED_BODY {
            let hint = "bodies are held in memory until the request has succeeded".to_string();
            self.error(node.place, &format!("{path}.max_body"), "at most 16MiB", Some(hint));
        }
        let budget = self.count(fields.take("budget"), 100).unwrap_or(20);
        self.finish(fields);
        Some(HttpRetrySpec { attempts, on, per_try, hedge_after, backoff, max_body, budget })
    }

    /// `connect: [ { allow: "*.example.com:443" }, { allow: db.example:5432, to: database } ]`.
    pub(super) fn tunnels(
        &mut self,
        found: Found<'_>,
        listener: &ListenerSpec,
        clusters: &mut Clusters,
    ) -> Vec<TunnelSpec> {
        let mut tunnels = Vec::new();
        for (node, path) in self.items(found) {
            let mut fields = self.fields(node, &path);
            let allow = fields.take("allow");
            let words = self.words(allow.clone());
            let mut reachable = Vec::new();
            for word in &words {
                match Reachable::parse(word) {
                    Some(one) => reachable.push(one),
                    None => {
                        let hint =
                            "host and port, as in `db.example:5432`, `*.example.com:443`, `10.0.0.0/8:*`";
                        let (place, path) =
                            allow.as_ref().map_or((node.place, &path), |(node, path)| (node.place, path));
                        self.error(place, path, format!("`{word}` is nowhere to go"), Some(hint.into()));
                    }
                }
            }
            if words.is_empty() {
                let hint = "as in `allow: \"*.example.com:443\"`".to_string();
                self.error(node.place, &path, "`allow` is missing", Some(hint));
            }
            let to = fields.take("to");
            let place = to.clone();
            let cluster = match to {
                Some(to) => self.target(to, &listener.name, clusters, ""),
                None => self.inline(target::ORIGINAL_TARGET, (node, &path), &listener.name, clusters),
            };
            let protocol =
                cluster.and_then(|at| clusters.get(at)).map(|(cluster, _)| cluster.protocol.clone());
            if let Some(protocol) =
                protocol.filter(|protocol| !["tcp", target::ORIGINAL].contains(&&**protocol))
            {
                let hint =
                    "`tcp://` or `tls://` servers, or nothing, for whomever the client names".to_string();
                let (place, path) =
                    place.map_or((node.place, path.clone()), |(node, path)| (node.place, path));
                self.error(place, &path, format!("a tunnel cannot lead to {protocol}"), Some(hint));
            }
            self.finish(fields);
            tunnels.extend(cluster.map(|cluster| TunnelSpec { allow: reachable, cluster }));
        }
        tunnels
    }

    fn http_redirect(&mut self, found: Found<'_>) -> Option<HttpRedirectSpec> {
        let (node, path) = found?;
        let mut fields = self.fields(node, &path);
        let status = self.count(fields.take("status"), 999).map_or(308, |status| status as u16);
        if !REDIRECTS.contains(&status) {
            let hint = "301, 302, 303, 307 or 308".to_string();
            self.error(node.place, &format!("{path}.status"), format!("{status} is no redirect"), Some(hint));
        }
        let scheme = self.word(fields.take("scheme"), &[("http", "http"), ("https", "https")]);
        let redirect = HttpRedirectSpec {
            status,
            scheme: scheme.map(Into::into),
            host: self.text(fields.take("host")),
            path: self.text(fields.take("path")),
            prefix: self.text(fields.take("prefix")),
        };
        self.finish(fields);
        if redirect == (HttpRedirectSpec { status, ..HttpRedirectSpec::default() }) {
            let hint = "say `scheme`, `host`, `path` or `prefix`".to_string();
            self.error(node.place, &path, "this sends the client to where it is", Some(hint));
        }
        Some(redirect)
    }

    fn http_respond(&mut self, found: Found<'_>) -> Option<(u16, String)> {
        let (node, path) = found?;
        let mut fields = self.fields(node, &path);
        let status = self.count(fields.take("status"), 599).map_or(200, |status| status as u16);
        if status < 200 {
            let message = format!("{status} ends no request");
            self.error(node.place, &format!("{path}.status"), message, Some("200 to 599".into()));
        }
        let body = self.text(fields.take("body")).unwrap_or_default();
        self.finish(fields);
        Some((status, body))
    }

    fn http_edit(&mut self, found: Found<'_>) -> HttpEditSpec {
        let Some((node, path)) = found else { return HttpEditSpec::default() };
        let mut fields = self.fields(node, &path);
        let edit = HttpEditSpec {
            set: self.pairs(fields.take("set")),
            add: self.pairs(fields.take("add")),
            remove: self.words(fields.take("remove")),
        };
        self.finish(fields);
        edit
    }

    /// A map of texts, in its order.
    fn pairs(&mut self, found: Found<'_>) -> Vec<(String, String)> {
        let Some((node, path)) = found else { return Vec::new() };
        let fields = self.fields(node, &path);
        let text = |(key, place, node): (&str, _, &Node)| match &node.kind {
            Kind::Scalar(text, _) => Some((key.to_string(), text.clone())),
            _ => {
                self.error(
                    place,
                    &format!("{path}.{key}"),
                    format!("expected text, got {}", node.describe()),
                    None,
                );
                None
            }
        };
        fields.pairs.into_iter().filter_map(text).collect()
    }
}
