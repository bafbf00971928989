//! Connections that come from elsewhere, between two machines: three network namespaces, of which the one in the middle has mecha.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Namespace, alone, calls, intercept, run};
use crate::support::{Mecha, PATIENCE, Process, eventually, signal};

/// The machine whose programs dial, by the addresses of both families, and the one that they dial.
const CLIENT: [&str; 2] = ["10.88.1.2", "fd88:1::2"];
const SERVER: [&str; 2] = ["10.88.2.2", "fd88:2::2"];
/// The one between, as the client sees it.
const MIDDLE: [&str; 2] = ["10.88.1.1", "fd88:1::1"];

/// The machines at both ends; this thread is in the middle.
struct Ends {
    client: Namespace,
    server: Namespace,
}

impl Ends {
    fn make() -> Self {
        let make = |side: &str, net: u8| {
            let name = format!("mecha-it-{side}-{}-{}", std::process::id(), number());
            run("ip", &["netns", "add", &name]);
            let namespace = Namespace(name.clone());
            run(
                "ip",
                &[
                    "link",
                    "add",
                    &format!("to{side}"),
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    &name,
                ],
            );
            for (family, own, other, gateway) in [
                ("-4", format!("10.88.{net}.1/24"), format!("10.88.{net}.2/24"), format!("10.88.{net}.1")),
                ("-6", format!("fd88:{net}::1/64"), format!("fd88:{net}::2/64"), format!("fd88:{net}::1")),
            ] {
                let nodad: &[&str] = if family == "-6" { &["nodad"] } else { &[] };
                let link = format!("to{side}");
                run("ip", &[&[family, "addr", "add", &own, "dev", &link], nodad].concat());
                run("ip", &["link", "set", &link, "up"]);
                run("ip", &[&["-n", &name, family, "addr", "add", &other, "dev", "eth0"], nodad].concat());
                run("ip", &["-n", &name, "link", "set", "lo", "up"]);
                run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
                run("ip", &["-n", &name, family, "route", "add", "default", "via", &gateway]);
            }
            namespace
        };
        for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
            std::fs::write(path, "1").unwrap();
        }
        Self { client: make("c", 1), server: make("s", 2) }
    }
}

impl Ends {
    /// Waits until neighbours have found each other, which takes new links a while.
    fn are_linked(&self) {
        for family in [0, 1] {
            let is_seen = || seen(self, SERVER[family], 7000) == CLIENT[family];
            eventually("the machines are not linked", is_seen);
        }
    }
}

fn number() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Runs something on a thread that is there.
fn inside<T: Send + 'static>(place: &Namespace, what: impl FnOnce() -> T + Send + 'static) -> T {
    let place = std::fs::File::open(format!("/run/netns/{}", place.0)).unwrap();
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        what()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A server on this thread's machine that tells each client its address, in HTTP if it is asked so.
fn mirror(port: u16) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let peer =
                    stream.peer_addr().map(|addr| addr.ip().to_canonical().to_string()).unwrap_or_default();
                let mut heard = [0; 1024];
                let Ok(count) = stream.read(&mut heard) else { return };
                let answer = if heard[..count].starts_with(b"GET ") {
                    format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{peer}",
                        peer.len()
                    )
                } else {
                    peer
                };
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
}

/// Who the server at `port` sees when somebody on the client's machine dials it; nothing if nobody answers.
fn seen(ends: &Ends, address: &'static str, port: u16) -> String {
    inside(&ends.client, move || {
        let addr = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        let Ok(mut stream) = TcpStream::connect_timeout(&addr, PATIENCE / 4) else { return String::new() };
        stream.set_read_timeout(Some(PATIENCE / 4)).unwrap();
        let mut text = String::new();
        let _ = stream.write_all(b"who?");
        let _ = stream.read_to_string(&mut text);
        text
    })
}

/// What a program on the client's machine prints.
fn there(ends: &Ends, words: &[&str]) -> String {
    let all = [&["netns", "exec", &ends.client.0, "timeout", "10"], words].concat();
    let output = Command::new("ip").args(all).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

fn redis(ends: &Ends) -> Option<Process> {
    let words = ["netns", "exec", &ends.server.0, "redis-server", "--bind", "0.0.0.0", "::", "--save", ""];
    let mut command = Command::new("ip");
    command.args(words).args(["--protected-mode", "no"]).stdout(Stdio::null()).stderr(Stdio::null());
    if Command::new("redis-server").arg("--version").output().is_err() {
        assert!(std::env::var_os("MECHA_REQUIRE_SERVERS").is_none(), "no redis-server");
        eprintln!("skipped: no redis-server");
        return None;
    }
    let process = Process(command.spawn().unwrap());
    eventually("Redis does not start", || there(ends, &["redis-cli", "-h", SERVER[0], "PING"]) == "PONG");
    Some(process)
}

fn mecha(mode: &str) -> Mecha {
    let (v4, _) = (SERVER[0], SERVER[1]);
    Mecha::configured(&format!(
        "workers: 1\nlisteners:\n\
         - {{ name: cache, listen: \"redis://[::]:16379\", transparent: {mode}, to: \"redis://{v4}:6379\",\n    \
              filters: [ {{ deny_commands: {{ commands: [FLUSHALL] }} }} ] }}\n\
         - {{ name: web, listen: \"http://[::]:18080\", transparent: {mode}, to: \"http://{v4}:8000\",\n    \
              routes: [ {{ prefix: /, to: \"http://{v4}:8000\", response: {{ set: {{ x-way: mecha }} }} }} ] }}\n\
         - {{ name: rest, listen: \"tcp://[::]:15001\", transparent: {mode}, to: onward }}\n\
         clusters: {{ onward: {{ to: \"original://\", keep_source: true }} }}\n"
    ))
}

const LEADS: [&str; 9] = [
    "--port",
    "6379=16379",
    "--port",
    "8000=18080",
    "--rest",
    "15001",
    "--direction",
    "inbound",
    "--keep-source",
];

/// Programs elsewhere dial what they always dial; the servers see who they are, where that is wanted.
fn served(ends: &Ends, mecha: &Mecha) {
    for family in [0, 1] {
        let (server, client) = (SERVER[family], CLIENT[family]);
        let before = [calls(mecha, "cache"), calls(mecha, "web"), calls(mecha, "rest")];
        assert_eq!(there(ends, &["redis-cli", "-h", server, "SET", "k", "v"]), "OK");
        let refused = there(ends, &["redis-cli", "-h", server, "FLUSHALL"]);
        assert!(refused.contains("NOPERM"), "no filter has acted: {refused}");
        let host = if family == 0 { server.to_string() } else { format!("[{server}]") };
        let page = there(ends, &["curl", "-s", "-i", "-g", &format!("http://{host}:8000/")]);
        assert!(page.contains("x-way: mecha") && !page.ends_with(client), "{page}");
        assert_eq!(seen(ends, server, 7000), client);
        // A server beside mecha sees it too, and its answers find their way.
        assert_eq!(seen(ends, MIDDLE[family], 7001), client);
        eventually("a connection did not cross mecha", || {
            let now = [calls(mecha, "cache"), calls(mecha, "web"), calls(mecha, "rest")];
            now[0] >= before[0] + 2.0 && now[1] >= before[1] + 1.0 && now[2] >= before[2] + 2.0
        });
    }
}

fn a_whole_life(rules: &str, mode: &str) {
    let ends = Ends::make();
    let Some(_redis) = redis(&ends) else { return };
    inside(&ends.server, || {
        mirror(7000);
        mirror(8000);
    });
    mirror(7001);
    ends.are_linked();
    let mut mecha = mecha(mode);
    let args = [&["apply", "--rules", rules, "--mode", mode][..], &LEADS].concat();
    intercept(&args);
    // Twice is once.
    intercept(&args);
    served(&ends, &mecha);
    // Killed, nobody is served; started again, everybody is.
    signal(mecha.process.id(), "KILL");
    mecha.process.wait(PATIENCE);
    assert_eq!(seen(&ends, SERVER[0], 7000), "", "somebody is served past mecha");
    mecha = self::mecha(mode);
    served(&ends, &mecha);
    intercept(&["remove"]);
    assert!(intercept(&["status"]).contains("no connection"));
    for (program, words) in [("ip", &["rule"][..]), ("ip", &["-6", "rule"]), ("nft", &["list", "ruleset"])] {
        let left = run(program, words);
        assert!(!left.contains("0x6d6") && !left.contains("mecha") && !left.contains("MECHA"), "{left}");
    }
    let before = calls(&mecha, "rest");
    assert_eq!(seen(&ends, SERVER[0], 7000), CLIENT[0]);
    assert!((calls(&mecha, "rest") - before).abs() < 0.5, "removed rules still lead here");
}

#[test]
fn nftables_redirects_what_comes_from_elsewhere() {
    alone(|| a_whole_life("nft", "redirect"));
}

#[test]
fn iptables_redirects_what_comes_from_elsewhere() {
    alone(|| a_whole_life("iptables", "redirect"));
}

#[test]
fn nftables_leads_what_comes_from_elsewhere_as_it_is() {
    alone(|| a_whole_life("nft", "tproxy"));
}

#[test]
fn iptables_leads_what_comes_from_elsewhere_as_it_is() {
    alone(|| a_whole_life("iptables", "tproxy"));
}

#[test]
fn servers_see_mecha_where_nothing_else_is_asked() {
    alone(|| {
        let ends = Ends::make();
        inside(&ends.server, || mirror(7000));
        ends.are_linked();
        let _mecha = Mecha::configured(
            "workers: 1\nlisteners:\n  - { listen: \"tcp://[::]:15001\", transparent: redirect, to: \"original://\" }\n",
        );
        intercept(&["apply", "--rules", "nft", "--direction", "inbound", "--rest", "15001"]);
        assert_eq!(seen(&ends, SERVER[0], 7000), "10.88.2.1");
        assert_eq!(seen(&ends, SERVER[1], 7000), "fd88:2::1");
    });
}
