//! What a server is asked, and what it has to answer.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE};
use hyper::{Method, Request};
use mecha_clusters::http::{Failure, FieldCase, HttpOptions, HttpServers, HttpVersion, Outbound};
use mecha_clusters::{Choice, Environment, Listed, Listing, StreamOptions, Streams, Timers};
use mecha_config::{ClusterSpec, HealthCheckKind, HealthCheckSpec};
use mecha_telemetry::Registry;
use mecha_transport::tls::ClientTls;
use mecha_transport::{Address, Clock};

use crate::assembly::http_version;
use crate::discovery::{Manners, Query};

/// Bytes of an answer that somebody looks at.
const MAX_ANSWER: usize = 64 << 10;

/// How the servers of one cluster are asked.
pub(super) struct Probe {
    kind: HealthCheckKind,
    protocol: String,
    version: HttpVersion,
    manners: Manners,
    timeout: Duration,
}

impl Probe {
    pub(super) fn new(spec: &ClusterSpec, check: &HealthCheckSpec, tls: Option<Arc<ClientTls>>) -> Self {
        Self {
            kind: check.kind.clone(),
            protocol: spec.protocol.clone(),
            version: http_version(spec),
            manners: Manners { tls, ..Manners::default() },
            timeout: check.timeout,
        }
    }

    /// Asks a server. The error says what is wrong with it, for people.
    pub(super) async fn ask(&self, server: &Address) -> Result<(), String> {
        match &self.kind {
            HealthCheckKind::Grpc(service) => self.grpc(server, service).await,
            HealthCheckKind::Http { path, host, expect } => {
                self.http(server, path, host.as_deref(), *expect).await
            }
            HealthCheckKind::Protocol => self.protocol(server).await,
            HealthCheckKind::Tcp => self.connect(server).await.map(drop),
        }
    }

    async fn connect(&self, server: &Address) -> Result<Query, String> {
        Query::to(server, self.timeout, &self.manners).await.map_err(|error| error.to_string())
    }

    /// What clients of the protocol ask first.
    async fn protocol(&self, server: &Address) -> Result<(), String> {
        let mut query = self.connect(server).await?;
        let text = |error: std::io::Error| error.to_string();
        match &*self.protocol {
            "resp" => {
                let answer = query.ask(&["PING"], self.timeout).await.map_err(text)?;
                // One that wants a login is there.
                let is_well =
                    [&b"+PONG"[..], b"-NOAUTH", b"-NOPERM"].iter().any(|start| answer.starts_with(start));
                if is_well { Ok(()) } else { Err(String::from_utf8_lossy(&answer).trim_end().into()) }
            }
            "memcached" => {
                query.send(b"version\r\n").await.map_err(text)?;
                let mut answer = [0; 8];
                query.fill(&mut answer).await.map_err(text)?;
                let is_well = answer.starts_with(b"VERSION") || answer.starts_with(b"CLIENT_E");
                if is_well { Ok(()) } else { Err("it does not speak Memcached".into()) }
            }
            "kafka" => {
                // Version 0 of ApiVersions, of a client without a name.
                let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
                query.send(&request).await.map_err(text)?;
                let mut answer = [0; 10];
                query.fill(&mut answer).await.map_err(text)?;
                let [_, _, _, _, rest @ ..] = answer;
                if rest == [0, 0, 0, 7, 0, 0] { Ok(()) } else { Err("it does not speak Kafka".into()) }
            }
            _ => Ok(()),
        }
    }

    /// A connection for one request.
    fn servers(&self, server: &Address) -> Rc<HttpServers> {
        let clock = Clock::start();
        let environment = Environment {
            clock,
            timers: Rc::new(Timers::default()),
            scratch: Rc::new(RefCell::new(Vec::new())),
        };
        // Nobody counts these.
        let metrics = Registry::new().cluster("health", "http");
        let options = StreamOptions {
            name: "health".into(),
            servers: Listing::Fixed(vec![Listed::at(server.clone())]),
            choice: Choice::default(),
            connect_timeout: self.timeout,
            backoff: (self.timeout, self.timeout),
            tls: self.manners.tls.clone(),
            proxy: None,
            keeps_source: false,
            health: None,
            outlier: None,
            quotas: Arc::default(),
        };
        let streams = Streams::new(options, Arc::clone(&metrics), &environment);
        let options = HttpOptions {
            version: self.version,
            max_connections: 1,
            shared: 1,
            idle_micros: 0,
            case: FieldCase::Lower,
        };
        HttpServers::new(streams, options, metrics, clock)
    }

    async fn http(
        &self,
        server: &Address,
        path: &str,
        host: Option<&str>,
        (first, last): (u16, u16),
    ) -> Result<(), String> {
        let mut request = Request::builder().uri(path);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let request = request.body(Outbound::Empty).map_err(|error| error.to_string())?;
        let answer = self.servers(server).send(request, b"", true).await.map_err(why)?;
        let status = answer.response.status().as_u16();
        if (first..=last).contains(&status) { Ok(()) } else { Err(format!("it answers {status}")) }
    }

    /// `grpc.health.v1.Health/Check` (gRPC Health Checking Protocol).
    async fn grpc(&self, server: &Address, service: &str) -> Result<(), String> {
        let name = service.as_bytes().get(..127).unwrap_or(service.as_bytes());
        let mut message = Vec::new();
        if !name.is_empty() {
            // Field 1, a text.
            message.extend_from_slice(&[0x0a, name.len() as u8]);
            message.extend_from_slice(name);
        }
        let mut frame = vec![0, 0, 0, 0, message.len() as u8];
        frame.extend_from_slice(&message);
        let mut request = Request::new(Outbound::Whole(Bytes::from(frame)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = hyper::Uri::from_static("/grpc.health.v1.Health/Check");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let answer = self.servers(server).send(request, b"", true).await.map_err(why)?;
        let (head, body) = answer.response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let status = HeaderName::from_static("grpc-status");
        let said =
            body.trailers().and_then(|trailers| trailers.get(&status)).or(head.headers.get(&status)).cloned();
        let said =
            said.map_or_else(|| "none".to_string(), |said| String::from_utf8_lossy(said.as_bytes()).into());
        if said != "0" {
            return Err(format!("it answers with gRPC's status {said}"));
        }
        // Field 1 is 1: it is serving.
        match body.to_bytes().as_ref() {
            [0, 0, 0, 0, 2, 0x08, 1, ..] => Ok(()),
            _ => Err("it says that it is not serving".into()),
        }
    }
}

fn why(failure: Failure) -> String {
    match failure {
        Failure::Request => "the request was broken off".into(),
        Failure::Server(why) => why.reason().into(),
    }
}
