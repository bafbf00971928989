//! Servers that are asked how they are, and those that fail their clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Fake, Mecha, PATIENCE, eventually, kafka, memcached, redis, signal};

/// The whole answer of the listener to a `GET`.
fn get(mecha: &Mecha, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

/// A server that answers with its name, or with 503 while it is ill, and counts what is asked besides its health.
struct Named {
    fake: Fake,
    is_ill: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    checked: Arc<AtomicUsize>,
}

impl Named {
    fn new(name: &'static str) -> Self {
        let is_ill = Arc::new(AtomicBool::new(false));
        let (served, checked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (ill, serves, checks) = (Arc::clone(&is_ill), Arc::clone(&served), Arc::clone(&checked));
        let fake = Fake::start(move |mut stream, _| {
            let mut heard = Vec::new();
            let mut part = [0; 4096];
            loop {
                while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part) {
                        Ok(count @ 1..) => heard.extend_from_slice(&part[..count]),
                        _ => return,
                    }
                }
                let is_check = heard.starts_with(b"GET /healthz?deep=1 ");
                if is_check {
                    assert!(String::from_utf8_lossy(&heard).contains("host: health.example\r\n"));
                }
                (if is_check { &checks } else { &serves }).fetch_add(1, Ordering::SeqCst);
                heard.clear();
                let status = if ill.load(Ordering::SeqCst) { "503 Ill" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { fake, is_ill, served, checked }
    }

    fn ill(&self, is_ill: bool) {
        self.is_ill.store(is_ill, Ordering::SeqCst);
    }
}

fn before(servers: &[Named], workers: usize, keys: &str) -> Mecha {
    let to: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.fake.port)).collect();
    Mecha::configured(&format!(
        "workers: {workers}\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: app }}\nclusters:\n  app:\n    to: http://{}\n    {keys}\n",
        to.join(",")
    ))
}

fn ill(mecha: &Mecha, cluster: &str) -> f64 {
    mecha.metric(&format!("mecha_health_ill_servers{{scope=\"cluster:{cluster}\"}}"))
}

#[test]
fn whoever_fails_its_checks_gets_nothing_until_it_passes_them_again() {
    let servers = ["a", "b", "c"].map(Named::new);
    let check = "health_check: { path: '/healthz?deep=1', host: health.example, interval: 20ms, unhealthy_after: 2, healthy_after: 2 }";
    let mecha = before(&servers, 2, check);
    eventually("nobody is asked", || servers.iter().all(|server| server.checked.load(Ordering::SeqCst) > 0));
    servers[1].ill(true);
    eventually("nobody is ill", || ill(&mecha, "app") == 1.0);
    let before = servers[1].served.load(Ordering::SeqCst);
    for _ in 0..30 {
        assert!(get(&mecha, "/").starts_with("HTTP/1.1 200 "), "an ill server is asked");
    }
    assert_eq!(servers[1].served.load(Ordering::SeqCst), before);
    assert!(
        mecha.get("/clusters").contains("\"down\":true") || mecha.get("/clusters").contains("\"down\": true")
    );
    // With two of three too few are well: all are asked again, the ill ones too.
    servers[2].ill(true);
    eventually("nobody panics", || mecha.metric("mecha_health_panic{scope=\"cluster:app\"}") == 1.0);
    let answers: Vec<_> = (0..30).map(|_| get(&mecha, "/")).collect();
    assert!(answers.iter().any(|answer| answer.starts_with("HTTP/1.1 503 ")), "{answers:?}");
    servers.iter().for_each(|server| server.ill(false));
    eventually("somebody stays ill", || ill(&mecha, "app") == 0.0);
    let before = servers[1].served.load(Ordering::SeqCst);
    for _ in 0..30 {
        assert!(get(&mecha, "/").starts_with("HTTP/1.1 200 "));
    }
    assert!(servers[1].served.load(Ordering::SeqCst) > before, "it does not come back");
}

#[test]
fn each_protocol_is_asked_in_its_own_words() {
    let (Some((redis, redis_port)), Some((cache, cache_port))) = (redis(), memcached()) else { return };
    let garbage = Fake::start(|mut stream, _| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n");
        let _ = stream.read(&mut [0; 64]);
    });
    let kafka = kafka().map(|kafka| kafka.ports()[0]);
    let check = "interval: 20ms, timeout: 1s, unhealthy_after: 2, healthy_after: 1, panic_below: 0";
    let mut text =
        "workers: 1\nlisteners:\n  - { listen: redis://127.0.0.1:0, to: redis }\nclusters:\n".to_string();
    let mut add = |name: &str, to: &str| {
        text += &format!("  {name}: {{ to: \"{to}\", health_check: {{ {check} }} }}\n")
    };
    add("redis", &format!("redis://127.0.0.1:{redis_port}"));
    add("cache", &format!("memcached://127.0.0.1:{cache_port}"));
    add("no-redis", &format!("redis://127.0.0.1:{}", garbage.port));
    add("no-cache", &format!("memcached://127.0.0.1:{}", garbage.port));
    add("no-kafka", &format!("kafka://127.0.0.1:{}", garbage.port));
    add("bytes", &format!("tcp://127.0.0.1:{}", garbage.port));
    if let Some(port) = kafka {
        add("kafka", &format!("kafka://127.0.0.1:{port}"));
    }
    for (listener, cluster) in [
        ("memcached", "cache"),
        ("redis", "no-redis"),
        ("memcached", "no-cache"),
        ("kafka", "no-kafka"),
        ("tcp", "bytes"),
    ] {
        let line = format!("  - {{ listen: {listener}://127.0.0.1:0, to: {cluster}, name: {cluster} }}\n");
        text = text.replacen("clusters:\n", &format!("{line}clusters:\n"), 1);
    }
    if kafka.is_some() {
        let line = "  - { listen: kafka://127.0.0.1:0, to: kafka, name: kafka }\n";
        text = text.replacen("clusters:\n", &format!("{line}clusters:\n"), 1);
    }
    let mecha = Mecha::configured(&text);
    for cluster in ["no-redis", "no-cache", "no-kafka"] {
        eventually(cluster, || ill(&mecha, cluster) == 1.0);
    }
    for cluster in ["redis", "cache", "bytes"].into_iter().chain(kafka.map(|_| "kafka")) {
        assert!(ill(&mecha, cluster) <= 0.0, "{cluster} is well");
    }
    let mut client = mecha.client();
    assert_eq!(client.call("SET a 1"), "+OK\r\n");
    // It is there, and says nothing: commands get an error at once, and do not wait for it.
    signal(redis.id(), "STOP");
    eventually("a server that hangs", || ill(&mecha, "redis") == 1.0);
    assert!(client.call("GET a").starts_with("-ERR mecha: "), "an ill server is asked");
    signal(redis.id(), "CONT");
    eventually("it stays ill", || ill(&mecha, "redis") == 0.0);
    assert_eq!(client.call("GET a"), "$1\r\n1\r\n");
    drop((cache, garbage));
}

#[test]
fn servers_of_grpc_are_asked_by_their_own_service() {
    use crate::http::client::{Pieces, Version, run, serve};
    let is_serving = Arc::new(AtomicBool::new(true));
    let (serving, (tell, port)) = (Arc::clone(&is_serving), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        run(async move {
            let port = serve(Version::Two, move |request| {
                let mut trailers = hyper::HeaderMap::new();
                trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
                assert_eq!(request.head.uri.path(), "/grpc.health.v1.Health/Check");
                assert_eq!(&request.body[..], b"\0\0\0\0\x06\x0a\x04shop");
                let state = if serving.load(Ordering::SeqCst) { 1 } else { 2 };
                let body = Pieces::of([vec![0, 0, 0, 0, 2, 8, state]]).with_trailers(trailers);
                hyper::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
            })
            .await;
            tell.send(port).unwrap();
            tokio::time::sleep(PATIENCE - Duration::from_secs(2)).await;
        });
    });
    let port = port.recv().unwrap();
    let check = "health_check: { service: shop, interval: 20ms, unhealthy_after: 2, healthy_after: 2, panic_below: 0 }";
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: app }}\nclusters:\n  app: {{ to: \"grpc://127.0.0.1:{port}\", {check} }}\n"
    ));
    std::thread::sleep(Duration::from_millis(200));
    assert!(ill(&mecha, "app") <= 0.0);
    is_serving.store(false, Ordering::SeqCst);
    eventually("it is not serving", || ill(&mecha, "app") == 1.0);
    is_serving.store(true, Ordering::SeqCst);
    eventually("it is serving again", || ill(&mecha, "app") == 0.0);
}

#[test]
fn who_fails_its_clients_is_left_out_for_a_while_and_somebody_always_serves() {
    let servers = ["a", "b"].map(Named::new);
    // Each worker finds out for itself, so one tells most.
    let mecha = before(&servers, 1, "outlier: { failures: 3, eject_for: 1s }");
    servers[0].ill(true);
    let failed = (0..60).filter(|_| !get(&mecha, "/").starts_with("HTTP/1.1 200 ")).count();
    assert_eq!(failed, 3);
    assert_eq!(mecha.metric("mecha_upstream_ejected{cluster=\"app\""), 1.0);
    // The last one is never left out.
    servers[1].ill(true);
    for _ in 0..20 {
        assert!(get(&mecha, "/").starts_with("HTTP/1.1 503 "));
    }
    servers.iter().for_each(|server| server.ill(false));
    let before = servers[0].served.load(Ordering::SeqCst);
    eventually("it is not asked again", || {
        assert!(get(&mecha, "/").starts_with("HTTP/1.1 200 "));
        servers[0].served.load(Ordering::SeqCst) > before
    });
}
