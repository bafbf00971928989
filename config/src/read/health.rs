//! The keys `health_check` and `outlier` of a cluster.

use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found, set};
use crate::{ClusterSpec, HealthCheckKind, HealthCheckSpec, OutlierSpec};

impl Reader<'_> {
    pub(super) fn health_keys(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        cluster.health_check = self.health_check(fields.take("health_check"), cluster);
        cluster.outlier = self.outlier(fields.take("outlier"), cluster);
    }

    /// `health_check: { interval: 5s, path: /healthz }`.
    fn health_check(&mut self, found: Found<'_>, cluster: &ClusterSpec) -> Option<HealthCheckSpec> {
        let (node, path) = found?;
        if cluster.is_found() || cluster.protocol == "embedded" {
            let hint = "who is there is asked all the time; leave `health_check` out".to_string();
            self.error(node.place, &path, "these servers are not listed here", Some(hint));
        }
        let mut fields = self.fields(node, &path);
        let is_http = ["http", "http2"].contains(&&*cluster.protocol);
        let (target, service) = (self.text(fields.take("path")), self.text(fields.take("service")));
        let host = self.text(fields.take("host"));
        let expect = self.text(fields.take("expect"));
        let kind = self.text(fields.take("kind"));
        let kind = match (kind.as_deref(), target, service) {
            (Some("tcp"), None, None) => HealthCheckKind::Tcp,
            (None | Some("protocol"), None, None) if cluster.protocol == "tcp" => HealthCheckKind::Tcp,
            (None | Some("protocol"), None, None) if !is_http => HealthCheckKind::Protocol,
            (None, None, None) => HealthCheckKind::Tcp,
            (None | Some("grpc"), None, service) if is_http => {
                HealthCheckKind::Grpc(service.unwrap_or_default())
            }
            (None | Some("http"), target, None) if is_http => {
                let path = target.unwrap_or_else(|| "/".into());
                HealthCheckKind::Http { path, host: host.clone(), expect: (200, 299) }
            }
            _ => {
                let hint = "`path` is for HTTP, `service` for gRPC; `kind: tcp` only connects, and other servers are asked what \
                            their clients ask first";
                self.error(node.place, &path, "these servers cannot be asked so", Some(hint.into()));
                HealthCheckKind::Tcp
            }
        };
        let kind = match (kind, expect.as_deref().map(range)) {
            (HealthCheckKind::Http { path, host, .. }, Some(Some(expect))) => {
                HealthCheckKind::Http { path, host, expect }
            }
            (kind, None) => kind,
            (kind, Some(_)) => {
                let hint = "a status of HTTP or a range of them, as in `200-399`, beside `path`".to_string();
                self.error(node.place, &format!("{path}.expect"), "this is expected of nobody", Some(hint));
                kind
            }
        };
        if let HealthCheckKind::Http { path: target, .. } = &kind
            && (!target.starts_with('/') || target.contains(char::is_whitespace))
        {
            let hint = "as in `/healthz`".to_string();
            self.error(node.place, &format!("{path}.path"), "this is no path", Some(hint));
        }
        if host.is_some() && !matches!(kind, HealthCheckKind::Http { .. }) {
            let hint = "it stands beside `path`".to_string();
            self.error(node.place, &format!("{path}.host"), "nobody is told this host", Some(hint));
        }
        let mut spec = HealthCheckSpec {
            kind,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
            panic_below: 0.5,
        };
        let least = Duration::from_millis(10);
        set(&mut spec.interval, self.period(fields.take("interval"), least));
        set(&mut spec.timeout, self.period(fields.take("timeout"), least));
        set(&mut spec.unhealthy_after, self.count(fields.take("unhealthy_after"), 1000));
        set(&mut spec.healthy_after, self.count(fields.take("healthy_after"), 1000));
        set(&mut spec.panic_below, self.share(fields.take("panic_below")));
        self.finish(fields);
        Some(spec)
    }

    /// `outlier: { failures: 5, eject_for: 30s, max_share: 0.5 }`.
    fn outlier(&mut self, found: Found<'_>, cluster: &ClusterSpec) -> Option<OutlierSpec> {
        let (node, path) = found?;
        if !["http", "http2", "tcp"].contains(&&*cluster.protocol) {
            let hint = "`auto_eject` is for servers that share keys".to_string();
            self.error(node.place, &path, "`outlier` is for servers that are alike", Some(hint));
        }
        let mut fields = self.fields(node, &path);
        let mut spec = OutlierSpec { failures: 5, eject_for: Duration::from_secs(30), max_share: 0.5 };
        set(&mut spec.failures, self.count(fields.take("failures"), 1_000_000));
        set(&mut spec.eject_for, self.period(fields.take("eject_for"), Duration::from_millis(10)));
        set(&mut spec.max_share, self.share(fields.take("max_share")));
        self.finish(fields);
        Some(spec)
    }

    /// A number from 0 to 1.
    pub(super) fn share(&mut self, found: Found<'_>) -> Option<f64> {
        self.parsed(found, |text| match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
            _ => Err((format!("`{text}` is no share"), Some("a number from 0 to 1, as in 0.5".into()))),
        })
    }
}

/// `200` or `200-399`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse().ok().filter(|status| (100..600).contains(status));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some((first, last))
}
