//! The admin server: what operators and dashboards ask the process.
//!
//! It has a thread and a runtime of its own, so that a slow scrape or a stuck browser cannot touch a worker. Everything it
//! tells comes from counters that workers write anyway, or from questions that workers answer between two batches.

mod dashboard;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mecha_telemetry::Registry;
use serde_json::Value;
use tokio::sync::watch;

/// Admin connections at one time; more are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// Time for a client to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Life of one admin connection, however it is used: dashboards connect anew.
const LIFETIME: Duration = Duration::from_secs(60);
/// Bytes of headers that are read.
const MAX_HEADERS: usize = 16 << 10;
/// Connections listed by `/connections` unless asked for more.
const DEFAULT_LIMIT: usize = 1000;
/// Keys of one filter that `/hot_keys` tells.
const MAX_HOT_KEYS: usize = 50;
/// Connections listed by `/connections` whatever is asked for: some megabytes.
const MAX_LIMIT: usize = 10_000;

/// Paths, for the index of errors.
const PATHS: &str = "/ /live /ready /metrics /config /clusters /connections /hot_keys /drain (POST)";

/// What the admin server knows of the process.
pub struct AdminState {
    /// Counters.
    pub registry: Registry,
    /// All listeners accept, and the process is not draining.
    pub ready: AtomicBool,
    /// The configuration in force.
    pub config: Box<dyn Fn() -> Value + Send + Sync>,
    /// State of the clusters' endpoints.
    pub clusters: Box<dyn Fn() -> Value + Send + Sync>,
    /// Client connections, at most so many.
    pub connections: Box<dyn Fn(usize) -> Value + Send + Sync>,
    /// Asks the process to drain.
    pub drain: watch::Sender<bool>,
}

/// Keeps the server's thread known.
pub struct AdminHandle {
    _thread: std::thread::JoinHandle<()>,
}

/// Serves `listener` on a thread of its own.
///
/// # Errors
/// The system gives no thread, or the socket cannot be used.
pub fn start(listener: std::net::TcpListener, state: Arc<AdminState>) -> io::Result<AdminHandle> {
    listener.set_nonblocking(true)?;
    let main = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(accept_all(listener, state)),
            Err(error) => tracing::error!(%error, "admin server has no runtime"),
        }
    };
    let thread = std::thread::Builder::new().name("mecha-admin".into()).spawn(main)?;
    Ok(AdminHandle { _thread: thread })
}

async fn accept_all(listener: std::net::TcpListener, state: Arc<AdminState>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "admin socket cannot be used"),
    };
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (state, open) = (Arc::clone(&state), Arc::clone(&open));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(&request, &state)) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADERS);
            // A client that breaks off is its own business; one that reads slowly, or not at all, must not keep a place.
            let served = server.serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(LIFETIME, served).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn answer(request: &Request<Incoming>, state: &AdminState) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let wanted = if path == "/drain" { Method::POST } else { Method::GET };
    let is_known = PATHS.split(' ').any(|known| known == path);
    if is_known && request.method() != wanted && !(wanted == Method::GET && request.method() == Method::HEAD)
    {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {wanted} {path}\n"));
        if let Ok(value) = wanted.as_str().parse() {
            response.headers_mut().insert(ALLOW, value);
        }
        return response;
    }
    match path {
        "/" => body(StatusCode::OK, "text/html; charset=utf-8", dashboard::PAGE.into()),
        "/live" => text(StatusCode::OK, "live\n".into()),
        "/ready" if state.ready.load(Ordering::Acquire) => text(StatusCode::OK, "ready\n".into()),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n".into()),
        "/metrics" => {
            body(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", state.registry.render())
        }
        "/config" => json(&(state.config)()),
        "/clusters" => json(&(state.clusters)()),
        "/hot_keys" => json(&hot_keys(&state.registry, limit(request.uri().query()))),
        "/connections" => json(&(state.connections)(limit(request.uri().query()))),
        "/drain" => {
            // Nobody listens once the drain has begun, which is what was asked for.
            let _ = state.drain.send(true);
            text(StatusCode::ACCEPTED, "draining\n".into())
        }
        _ => text(StatusCode::NOT_FOUND, format!("nothing at {path}; there is {PATHS}\n")),
    }
}

/// The keys that are used most, by what their filter is configured on.
fn hot_keys(registry: &Registry, most: usize) -> Value {
    let keys = |keys: &mecha_telemetry::HotKeys| -> Vec<Value> {
        let row = |key: mecha_telemetry::HotKey| {
            let text = String::from_utf8_lossy(&key.key).into_owned();
            serde_json::json!({ "key": text, "length": key.length, "share": key.share })
        };
        keys.top(most.min(MAX_HOT_KEYS)).into_iter().map(row).collect()
    };
    let all = registry.all_hot_keys();
    let scopes = all.iter().map(|(scope, all)| (scope.clone(), keys(all).into()));
    Value::Object(scopes.collect())
}

/// `limit=N` of a query.
fn limit(query: Option<&str>) -> usize {
    let value = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("limit="));
    value.and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
}

fn json(value: &Value) -> Response<Full<Bytes>> {
    body(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    body(status, "text/plain; charset=utf-8", text)
}

fn body(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn server() -> (std::net::SocketAddr, Arc<AdminState>, watch::Receiver<bool>, AdminHandle) {
        let (drain, drained) = watch::channel(false);
        let state = Arc::new(AdminState {
            registry: Registry::new(),
            ready: AtomicBool::new(false),
            config: Box::new(|| serde_json::json!({ "workers": 1 })),
            clusters: Box::new(|| serde_json::json!([])),
            connections: Box::new(|limit| serde_json::json!({ "limit": limit })),
            drain,
        });
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let handle = start(socket, Arc::clone(&state)).unwrap();
        (addr, state, drained, handle)
    }

    fn ask(addr: std::net::SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn every_path_answers_and_others_say_what_there_is() {
        let (addr, state, drained, _handle) = server();
        assert!(ask(addr, "GET /live").starts_with("HTTP/1.1 200"));
        assert!(ask(addr, "GET /ready").starts_with("HTTP/1.1 503"));
        state.ready.store(true, Ordering::Release);
        assert!(ask(addr, "GET /ready").starts_with("HTTP/1.1 200"));
        assert!(ask(addr, "GET /metrics").contains("mecha_build_info"));
        assert!(ask(addr, "GET /config").contains("\"workers\": 1"));
        assert!(ask(addr, "GET /connections?limit=7").contains("\"limit\": 7"));
        assert!(ask(addr, "GET /connections?limit=99999999").contains("\"limit\": 10000"));
        assert!(ask(addr, "GET /").contains("<title>"));
        assert!(ask(addr, "GET /nosuch").contains("/metrics"));
        assert!(ask(addr, "POST /metrics").starts_with("HTTP/1.1 405"));
        assert!(ask(addr, "GET /drain").starts_with("HTTP/1.1 405") && !*drained.borrow());
        assert!(ask(addr, "POST /drain").starts_with("HTTP/1.1 202") && *drained.borrow());
    }

    #[test]
    fn bytes_that_are_no_request_close_the_connection() {
        let (addr, ..) = server();
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.write_all(&[0xff; 100]).unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        assert!(ask(addr, "GET /live").starts_with("HTTP/1.1 200"));
    }
}
