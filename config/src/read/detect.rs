//! Listeners that lead their clients to others.

use std::time::Duration;

use super::Reader;
use super::fields::{Found, set};
use crate::error::suggestion;
use crate::node::Node;
use crate::{DetectSpec, ListenerSpec};

impl Reader<'_> {
    /// `detect: { to: [ cache, web ], ports: { 6379: cache }, sni: { "*.a.example": tls }, wait: 100ms }`.
    pub(super) fn detect(&mut self, found: Found<'_>, listener: &ListenerSpec) -> Option<DetectSpec> {
        let Some((node, path)) = found else { return listener.detect.clone() };
        if listener.protocol != "tcp" {
            let hint = "`detect` belongs to `auto://` and `tcp://` listeners, which lead clients to others"
                .to_string();
            self.error(node.place, &path, "clients of this listener speak its protocol", Some(hint));
            return None;
        }
        let mut spec = DetectSpec::default();
        let mut fields = self.fields(node, &path);
        set(&mut spec.wait, self.period(fields.take("wait"), Duration::from_millis(1)));
        for (node, path) in self.items(fields.take("to")) {
            spec.to.extend(self.text(Some((node, path))));
        }
        for (port, path, node) in self.leads(fields.take("ports"), "6379: cache") {
            let name = self.text(Some((node, path.clone())));
            match port.parse::<u16>().ok().filter(|port| *port > 0) {
                Some(port) => spec.ports.extend(name.map(|name| (port, name))),
                None => self.error(
                    node.place,
                    &path,
                    format!("`{port}` is no port"),
                    Some("as in `6379: cache`".into()),
                ),
            }
        }
        for (host, path, node) in self.leads(fields.take("sni"), "\"*.a.example\": web") {
            let name = self.text(Some((node, path.clone())));
            let is_part = |part: &str| {
                !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
            };
            if host.strip_prefix("*.").unwrap_or(host).split('.').all(is_part) {
                spec.names.extend(name.map(|name| (host.to_ascii_lowercase(), name)));
            } else {
                let hint = "a host, as in `a.example`, or `*.a.example` for all below it".to_string();
                self.error(node.place, &path, format!("`{host}` is no name of a host"), Some(hint));
            }
        }
        self.finish(fields);
        Some(spec)
    }

    /// The pairs of a map from something to the names of listeners, each with its path.
    fn leads<'n>(&mut self, found: Found<'n>, example: &str) -> Vec<(&'n str, String, &'n Node)> {
        let Some((node, path)) = found else { return Vec::new() };
        let crate::node::Kind::Map(pairs) = &node.kind else {
            self.error(
                node.place,
                &path,
                "these are no listeners by name",
                Some(format!("as in `{{ {example} }}`")),
            );
            return Vec::new();
        };
        pairs.iter().map(|(key, _, node)| (key.as_str(), format!("{path}.{key}"), node)).collect()
    }

    /// Whether the listeners are there that one leads its clients to.
    pub(super) fn detected(
        &mut self,
        listener: &ListenerSpec,
        all: &[ListenerSpec],
        (node, path): (&Node, &str),
    ) {
        let Some(detect) = &listener.detect else { return };
        let names: Vec<_> =
            all.iter().filter(|other| other.detect.is_none()).map(|other| other.name.as_str()).collect();
        for name in detect.listeners().filter(|name| !names.contains(name)) {
            let message = format!("there is no listener `{name}` to lead clients to");
            self.error(node.place, &format!("{path}.detect"), message, Some(suggestion(name, &names)));
        }
        let mut spoken = Vec::new();
        for other in all.iter().filter(|other| detect.to.contains(&other.name)) {
            let what = (other.protocol.as_str(), other.tls.is_some());
            if spoken.contains(&what) {
                let message = format!("two of these listeners speak {}", other.protocol);
                let hint =
                    "nothing tells their clients apart but the port: `ports: { 6379: NAME }`".to_string();
                self.error(node.place, &format!("{path}.detect"), message, Some(hint));
            }
            spoken.push(what);
        }
    }
}
