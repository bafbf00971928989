//! Servers that are looked up in DNS and in files, who comes first among them, and how much they may do.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::{Fake, Mecha, Names, PATIENCE, Record, eventually};

/// Lets those pass who wait at it once it is open.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(open, PATIENCE, |is_open| !*is_open).unwrap();
        assert!(!waited.1.timed_out(), "the gate stays shut");
    }
}

/// A server of HTTP/1 that answers with its name; `/slow` when its gate is open, anything with 503 while it is ill.
struct Named {
    fake: Fake,
    gate: Gate,
    /// Requests that have come to the gate.
    slow: Arc<AtomicUsize>,
    is_ill: Arc<AtomicBool>,
}

impl Named {
    fn on(ip: &str, port: u16, name: &'static str) -> Option<Self> {
        let (gate, is_ill) = (Gate::default(), Arc::new(AtomicBool::new(false)));
        let slow = Arc::new(AtomicUsize::new(0));
        let (own, ill, comes) = (gate.clone(), Arc::clone(&is_ill), Arc::clone(&slow));
        let serve = move |mut stream: TcpStream, _| {
            let mut heard = Vec::new();
            let mut part = [0; 4096];
            loop {
                while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part) {
                        Ok(count @ 1..) => heard.extend_from_slice(&part[..count]),
                        _ => return,
                    }
                }
                if heard.starts_with(b"GET /slow ") {
                    comes.fetch_add(1, Ordering::SeqCst);
                    own.pass();
                }
                heard.clear();
                let status = if ill.load(Ordering::SeqCst) { "503 Ill" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        };
        let ip: IpAddr = ip.parse().unwrap();
        Some(Self { fake: Fake::at((ip, port).into(), serve)?, gate, slow, is_ill })
    }

    fn new(name: &'static str) -> Self {
        Self::on("127.0.0.1", 0, name).unwrap()
    }

    fn port(&self) -> u16 {
        self.fake.port
    }

    /// One server on each address, all on one port.
    fn alike<const N: usize>(all: [(&str, &'static str); N]) -> [Self; N] {
        for _ in 0..100 {
            let first = Self::on(all[0].0, 0, all[0].1).unwrap();
            let port = first.port();
            let rest = all[1..].iter().map_while(|(ip, name)| Self::on(ip, port, name));
            let servers: Vec<_> = [first].into_iter().chain(rest).collect();
            if let Ok(servers) = servers.try_into() {
                return servers;
            }
        }
        panic!("no port is free on all addresses");
    }
}

/// The status and the body of the answer to a `GET`, on a connection of its own.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut heard = String::new();
    let _ = stream.read_to_string(&mut heard);
    let status = heard.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, heard.rsplit("\r\n").next().unwrap_or_default().to_string())
}

/// Who answers how many of so many requests.
fn spread(mecha: &Mecha, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let (status, body) = get(mecha.port, "/");
        let who = if status == 200 { body } else { status.to_string() };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

/// Whether exactly these answer.
fn is_served_by(mecha: &Mecha, names: &[&str]) -> bool {
    let counts = spread(mecha, 4 * names.len().max(1));
    counts.keys().map(String::as_str).eq(names.iter().copied())
}

fn mecha(top: &str, door: &str, cluster: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 2\n{top}\nlisteners:\n  - {{ listen: '{door}://127.0.0.1:0', to: app }}\nclusters:\n  app:\n    {cluster}\n"
    ))
}

/// One worker, whose turns and weights are all there are.
fn alone(top: &str, cluster: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 1\n{top}\nlisteners:\n  - {{ listen: 'http://127.0.0.1:0', to: app }}\nclusters:\n  app:\n    {cluster}\n"
    ))
}

/// A file of servers, which is replaced as a whole.
struct Listing(PathBuf);

impl Listing {
    fn new(text: &str) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mecha-it-servers-{}-{count}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn replace(&self, text: &str) {
        let next = self.0.with_extension("new");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &self.0).unwrap();
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn dns(names: &Names) -> String {
    format!("dns: {{ servers: ['127.0.0.1:{}'], min_ttl: 100ms, timeout: 300ms }}", names.port)
}

#[test]
fn addresses_of_a_name_are_followed_and_who_has_left_finishes_what_it_has_begun() {
    let [a, b] = Named::alike([("127.0.0.2", "a"), ("127.0.0.3", "b")]);
    let names = Names::start();
    names.set("app.example", 0, &[Record::Alias("real.example")]);
    names.addresses("real.example", 0, &["127.0.0.2"]);
    let cluster = format!("to: http+dns://app.example:{}\n    {}", a.port(), dns(&names));
    let mecha = mecha("", "http", &cluster);
    // Who comes first waits for the first answer.
    assert_eq!(get(mecha.port, "/"), (200, "a".into()));
    let port = mecha.port;
    let slow = std::thread::spawn(move || get(port, "/slow"));
    eventually("the slow request does not come", || a.slow.load(Ordering::SeqCst) > 0);
    names.addresses("real.example", 0, &["127.0.0.3"]);
    eventually("the other address is not found", || is_served_by(&mecha, &["b"]));
    a.gate.open();
    assert_eq!(slow.join().unwrap(), (200, "a".into()));
    names.addresses("real.example", 0, &["127.0.0.2", "127.0.0.3"]);
    eventually("both are not used", || is_served_by(&mecha, &["a", "b"]));
    assert!(mecha.metric("mecha_lookup_servers{scope=\"cluster:app\"}") == 2.0);
    eventually("a server that has left is shown", || {
        let text = mecha.get("/clusters");
        text.contains(&format!("127.0.0.2:{}", a.port())) && text.contains(&format!("127.0.0.3:{}", b.port()))
    });
}

#[test]
fn a_name_server_that_fails_changes_nothing() {
    let server = Named::new("a");
    let names = Names::start();
    names.addresses("app.example", 0, &["127.0.0.1"]);
    let cluster = format!("to: http+dns://app.example:{}\n    {}", server.port(), dns(&names));
    let mecha = mecha("", "http", &cluster);
    assert_eq!(get(mecha.port, "/"), (200, "a".into()));
    let failures = || mecha.metric("mecha_lookup_failures_total{scope=\"cluster:app\"}");
    let fails = |what: &str| {
        let before = failures();
        eventually(what, || failures() > before);
        assert_eq!(get(mecha.port, "/"), (200, "a".into()), "{what}");
    };
    names.fails(2);
    fails("it has failed");
    // A name without addresses is no reason to have no servers.
    names.fails(3);
    fails("nobody has the name");
    names.fails(0);
    names.is_silent(true);
    fails("it is silent");
    names.is_silent(false);
    let before = names.asked();
    eventually("it is not asked again", || names.asked() > before + 2);
}

#[test]
fn nobody_waits_for_a_name_server_that_has_never_answered() {
    let names = Names::start();
    names.fails(2);
    let cluster = format!("to: http+dns://app.example:1\n    connect_timeout: 10s\n    {}", dns(&names));
    let mecha = mecha("", "http", &cluster);
    eventually("it does not fail", || mecha.metric("mecha_lookup_failures_total{") > 0.0);
    assert_eq!(get(mecha.port, "/").0, 503);
}

#[test]
fn an_answer_holds_for_as_long_as_it_says() {
    let server = Named::new("a");
    let names = Names::start();
    names.addresses("app.example", 3600, &["127.0.0.1"]);
    let cluster = format!("to: http+dns://app.example:{}\n    {}", server.port(), dns(&names));
    let mecha = mecha("", "http", &cluster);
    assert_eq!(get(mecha.port, "/"), (200, "a".into()));
    // A and AAAA.
    assert_eq!(names.asked(), 2);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(names.asked(), 2);
}

#[test]
fn services_tell_of_hosts_ports_priorities_and_weights_and_long_answers_come_over_tcp() {
    let (a, b, c) = (Named::new("a"), Named::new("b"), Named::new("c"));
    let names = Names::start();
    names.is_cut();
    for host in ["one.example", "two.example"] {
        names.addresses(host, 0, &["127.0.0.1"]);
    }
    let service = "_http._tcp.app.example";
    let records = [
        Record::Server(10, 1, a.port(), "one.example"),
        Record::Server(10, 9, b.port(), "two.example"),
        Record::Server(20, 1, c.port(), "two.example"),
    ];
    names.set(service, 0, &records);
    let mecha = alone("", &format!("to: http+srv://{service}\n    {}", dns(&names)));
    let counts = spread(&mecha, 40);
    assert_eq!(counts.get("a").copied(), Some(4), "{counts:?}");
    assert_eq!(counts.get("b").copied(), Some(36), "{counts:?}");
    names.set(service, 0, &records[2..]);
    eventually("the other priority is not used", || is_served_by(&mecha, &["c"]));
}

#[test]
fn certificates_are_held_against_the_name_and_not_the_address() {
    let folder = crate::tls::Folder::new("lookup");
    let server = Named::new("a");
    let inner = folder.mecha("https", "", &format!("http://127.0.0.1:{}", server.port()));
    let names = Names::start();
    for name in ["localhost", "other.example"] {
        names.addresses(name, 3600, &["127.0.0.1"]);
    }
    for (name, status) in [("localhost.", 200), ("other.example", 503)] {
        let cluster = format!(
            "to: https+dns://{name}:{}\n    tls: {{ ca: {} }}\n    {}",
            inner.port,
            folder.file("ca.pem"),
            dns(&names)
        );
        assert_eq!(get(mecha("", "http", &cluster).port, "/").0, status, "{name}");
    }
}

#[test]
fn clients_of_bytes_are_led_to_servers_that_are_looked_up() {
    let greet =
        |name: &'static str| Fake::start(move |mut stream, _| drop(stream.write_all(name.as_bytes())));
    let (a, b) = (greet("a"), greet("b"));
    let list = Listing::new(&format!("- 127.0.0.1:{}\n", a.port));
    let mecha = mecha("", "tcp", &format!("to: tcp+file://{}", list.0.display()));
    let greeting = || {
        let mut heard = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.read_to_string(&mut heard);
        heard
    };
    assert_eq!(greeting(), "a");
    list.replace(&format!("[ {{ \"address\": \"127.0.0.1:{}\" }} ]", b.port));
    eventually("the file is not read again", || greeting() == "b");
}

#[test]
fn a_file_of_servers_is_followed_and_one_that_is_wrong_changes_nothing() {
    let (a, b, c) = (Named::new("a"), Named::new("b"), Named::new("c"));
    let text = |weight: u32| {
        format!(
            "- {{ address: 127.0.0.1:{}, labels: {{ version: v1 }} }}\n- {{ address: 127.0.0.1:{}, weight: {weight}, labels: {{ version: v2 }} }}\n- {{ address: 127.0.0.1:{}, labels: {{ version: v2, tier: gold }} }}\n",
            a.port(),
            b.port(),
            c.port()
        )
    };
    let list = Listing::new(&text(3));
    let path = list.0.display();
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: all\n  - {{ listen: http://127.0.0.1:0, to: new }}\nclusters:\n  all: {{ to: 'http+file://{path}' }}\n  new: {{ to: 'http+file://{path}', subset: {{ version: v2 }} }}\n"
    ));
    let of = |port: u16, count: usize| {
        let mut counts = BTreeMap::<String, usize>::new();
        (0..count).for_each(|_| *counts.entry(get(port, "/").1).or_default() += 1);
        counts.into_iter().map(|(name, count)| format!("{name}{count}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(mecha.ports[0], 20), "a4 b12 c4");
    assert_eq!(of(mecha.ports[1], 20), "b15 c5");
    list.replace("- { address: 127.0.0.1:1, wieght: 2 }\n");
    eventually("an error is not counted", || {
        mecha.metric("mecha_lookup_failures_total{scope=\"cluster:new\"}") > 0.0
    });
    assert_eq!(of(mecha.ports[1], 20), "b15 c5");
    std::fs::remove_file(&list.0).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(of(mecha.ports[1], 20), "b15 c5");
    list.replace(&text(1));
    eventually("the file is not read again", || of(mecha.ports[1], 20) == "b10 c10");
}

#[test]
fn servers_that_are_found_are_checked_and_the_next_priority_takes_over() {
    let (a, b, c) = (Named::new("a"), Named::new("b"), Named::new("c"));
    let list = Listing::new(&format!(
        "- 127.0.0.1:{}\n- {{ address: 127.0.0.1:{}, priority: 1 }}\n",
        a.port(),
        b.port()
    ));
    let check = "health_check: { path: /, interval: 20ms, unhealthy_after: 2, healthy_after: 2 }";
    let mecha = mecha("", "http", &format!("to: http+file://{}\n    {check}", list.0.display()));
    assert!(is_served_by(&mecha, &["a"]));
    a.is_ill.store(true, Ordering::SeqCst);
    eventually("nobody takes over", || is_served_by(&mecha, &["b"]));
    assert_eq!(mecha.metric("mecha_health_ill_servers{scope=\"cluster:app\"}"), 1.0);
    // One that comes later is checked as well, and one that leaves is not ill any more.
    c.is_ill.store(true, Ordering::SeqCst);
    list.replace(&format!(
        "- 127.0.0.1:{}\n- {{ address: 127.0.0.1:{}, priority: 1 }}\n",
        c.port(),
        b.port()
    ));
    eventually("the new one is not checked", || c.fake.accepted() > 1 && is_served_by(&mecha, &["b"]));
    c.is_ill.store(false, Ordering::SeqCst);
    eventually("the first priority is not used again", || is_served_by(&mecha, &["c"]));
    assert_eq!(mecha.metric("mecha_health_ill_servers{scope=\"cluster:app\"}"), 0.0);
}

#[test]
fn the_own_zone_comes_first_and_the_others_when_it_fails() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let cluster = format!(
        "to: 'http://127.0.0.1:{0},127.0.0.1:{1}'\n    servers: {{ '127.0.0.1:{0}': {{ zone: east }}, '127.0.0.1:{1}': {{ zone: west }} }}\n    prefer_zone: true\n    health_check: {{ path: /, interval: 20ms, unhealthy_after: 2, healthy_after: 2 }}",
        a.port(),
        b.port()
    );
    let mecha = mecha("zone: west", "http", &cluster);
    assert!(is_served_by(&mecha, &["b"]));
    b.is_ill.store(true, Ordering::SeqCst);
    eventually("the other zone is not used", || is_served_by(&mecha, &["a"]));
    b.is_ill.store(false, Ordering::SeqCst);
    eventually("the own zone is not used again", || is_served_by(&mecha, &["b"]));
}

#[test]
fn weights_of_listed_servers_count_for_requests() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let cluster = format!(
        "to: 'http://127.0.0.1:{},127.0.0.1:{1}'\n    servers: {{ '127.0.0.1:{1}': {{ weight: 3 }} }}",
        a.port(),
        b.port()
    );
    let counts = spread(&alone("", &cluster), 40);
    assert_eq!((counts["a"], counts["b"]), (10, 30));
}

#[test]
fn a_server_that_comes_later_starts_slowly() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let list = Listing::new(&format!("- 127.0.0.1:{}\n", a.port()));
    let mecha = alone("", &format!("to: http+file://{}\n    slow_start: 1h", list.0.display()));
    assert_eq!(spread(&mecha, 20)["a"], 20);
    list.replace(&format!("- 127.0.0.1:{}\n- 127.0.0.1:{}\n", a.port(), b.port()));
    eventually("it is not found", || mecha.metric("mecha_lookup_servers{") == 2.0);
    eventually("it is not used", || spread(&mecha, 1).contains_key("b"));
    let counts = spread(&mecha, 110);
    // A tenth of a weight beside a whole one.
    assert!((8..=12).contains(&counts["b"]), "{counts:?}");
}

#[test]
fn what_is_above_a_limit_is_refused_and_counted() {
    let server = Named::new("a");
    let to = format!("to: http://127.0.0.1:{}", server.port());
    for (limit, name) in [("connections", "connections"), ("requests", "requests")] {
        let mecha = mecha("", "http", &format!("{to}\n    limits: {{ {limit}: 1 }}"));
        let before = server.slow.load(Ordering::SeqCst);
        let port = mecha.port;
        let slow = std::thread::spawn(move || get(port, "/slow"));
        eventually("the slow request does not come", || server.slow.load(Ordering::SeqCst) > before);
        eventually("nothing is refused", || get(mecha.port, "/").0 == 503);
        let figure = format!("mecha_limited_{name}_total{{scope=\"cluster:app\"}}");
        assert!(mecha.metric(&figure) >= 1.0, "{figure}");
        assert!(mecha.metric("mecha_refusals_total{listener=\"http\",reason=\"overloaded\"") >= 1.0);
        server.gate.open();
        assert_eq!(slow.join().unwrap(), (200, "a".into()));
        *server.gate.0.0.lock().unwrap() = false;
        // Another worker has no connection that is kept, and may not make one.
        if limit == "requests" {
            eventually("a place is not given back", || get(mecha.port, "/").0 == 200);
        }
    }
}

#[test]
fn whoever_waits_for_a_connection_is_bounded_too() {
    // A server whose queue of connections is full answers nobody who wants to connect.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        fillers.push(stream);
        assert!(fillers.len() < 10_000, "the queue has no end");
    }
    let cluster = format!("to: tcp://{addr}\n    connect_timeout: 5s\n    limits: {{ pending: 2 }}");
    let mecha = mecha("", "tcp", &cluster);
    let mut clients: Vec<_> =
        (0..4).map(|_| TcpStream::connect(("127.0.0.1", mecha.port)).unwrap()).collect();
    let limited = || mecha.metric("mecha_limited_pending_total{scope=\"cluster:app\"}");
    eventually("nobody is refused", || limited() == 2.0);
    let is_ended = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let read = stream.read(&mut [0; 1]);
        !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert_eq!(clients.iter_mut().filter_map(|stream| is_ended(stream).then_some(())).count(), 2);
}

#[test]
fn requests_that_are_sent_again_have_a_limit_of_their_own() {
    let server = Named::new("a");
    server.is_ill.store(true, Ordering::SeqCst);
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: app\n    routes: [ {{ prefix: /, to: app, retry: {{ attempts: 1, on: gateway, backoff: 400ms, budget: 100 }} }} ]\nclusters:\n  app: {{ to: 'http://127.0.0.1:{}', limits: {{ retries: 1 }} }}\n",
        server.port()
    ));
    let port = mecha.port;
    let clients: Vec<_> = (0..6).map(|_| std::thread::spawn(move || get(port, "/").0)).collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap() == 503));
    let limited = mecha.metric("mecha_limited_retries_total{scope=\"cluster:app\"}");
    assert!((1.0..6.0).contains(&limited), "{limited}");
}

#[test]
fn a_change_of_something_else_leaves_nobody_without_servers() {
    let server = Named::new("a");
    let names = Names::start();
    names.addresses("app.example", 0, &["127.0.0.1"]);
    let text = |keys: &str| {
        format!(
            "workers: 1\nlisteners:\n  - {{ listen: 'http://127.0.0.1:0', to: app }}\nclusters:\n  app:\n    to: http+dns://app.example:{}\n    {}\n{keys}",
            server.port(),
            dns(&names)
        )
    };
    let file = Listing::new(&text(""));
    let mecha = Mecha::from_file(&file.0);
    assert_eq!(get(mecha.port, "/"), (200, "a".into()));
    names.fails(2);
    let applied = || mecha.metric("mecha_config_applied_total");
    let before = applied();
    file.replace(&text("    limits: { requests: 100 }\n"));
    eventually("the change does not come", || applied() > before);
    for _ in 0..20 {
        assert_eq!(get(mecha.port, "/"), (200, "a".into()));
    }
}
