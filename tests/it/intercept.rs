//! Unmodified programs in a network namespace of their own, whose connections are led to mecha by real rules.

mod inbound;
mod programs;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::support::{Mecha, PATIENCE, Process, eventually, signal};

/// Where the servers are: addresses that only the namespace has.
const V4: &str = "10.99.0.9";
const V6: &str = "fd99::9";

/// A network namespace that ends with the test.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs `test` on a thread that is in a network namespace of its own, and everything that it starts. Where that is not allowed, a note
/// says so, unless it is demanded.
fn alone(test: fn()) {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let name = format!("mecha-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let is_made = made.as_ref().is_ok_and(|made| made.status.success());
    let has_rules = ["nft", "iptables", "ip6tables"]
        .iter()
        .all(|name| Command::new(name).arg("--version").output().is_ok());
    if !is_made || !has_rules {
        let why = "no network namespaces or no packet filter here: run as root, with iproute2, nftables and iptables";
        assert!(std::env::var_os("MECHA_REQUIRE_NAMESPACES").is_none(), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let namespace = Namespace(name);
    let place = std::fs::File::open(format!("/run/netns/{}", namespace.0)).unwrap();
    let inside = std::thread::spawn(move || {
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["addr", "add", &format!("{V4}/32"), "dev", "lo"]);
        run("ip", &["-6", "addr", "add", &format!("{V6}/128"), "dev", "lo", "nodad"]);
        test();
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program to its end, which must be a good one, and returns what it printed.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{said}{errors}", output.status);
    said.into_owned()
}

#[track_caller]
fn intercept(args: &[&str]) -> String {
    run(env!("CARGO_BIN_EXE_mecha"), &[&["intercept"][..], args].concat())
}

/// What redis-cli prints, which dials the usual port of a server.
fn redis_cli(host: &str, words: &[&str]) -> String {
    // A packet that nobody takes may be dropped without a word.
    let output = Command::new("timeout").args(["5", "redis-cli", "-h", host]).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// The servers: Redis and Memcached at their usual ports, and one that repeats what it is told.
fn servers() -> Option<[Process; 2]> {
    let quiet =
        |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(Process);
    let redis =
        quiet(Command::new("redis-server").args(["--bind", V4, V6, "--save", "", "--protected-mode", "no"]));
    let memcached = quiet(Command::new("memcached").args(["-u", "root", "-l", &format!("{V4},{V6}")]));
    let both = redis.zip(memcached);
    if both.is_none() {
        assert!(std::env::var_os("MECHA_REQUIRE_SERVERS").is_none(), "no servers");
        eprintln!("skipped: no redis-server or no memcached");
    }
    for address in [V4, V6] {
        let listener = TcpListener::bind((address, 7000)).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut back);
                });
            }
        });
    }
    let (redis, memcached) = both?;
    for (address, port) in [(V4, 6379), (V6, 6379), (V4, 11211), (V6, 11211)] {
        eventually("a server does not start", || TcpStream::connect((address, port)).is_ok());
    }
    Some([redis, memcached])
}

/// mecha as it stands among them: Redis and Memcached through chains, everything else to where it was going.
fn mecha(transparent: &str) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n\
         - {{ name: cache, listen: \"redis://[::]:16379\", transparent: {transparent}, to: \"redis://{V4}:6379\",\n    \
              filters: [ {{ deny_commands: {{ commands: [FLUSHALL] }} }} ] }}\n\
         - {{ name: memory, listen: \"memcached://[::]:21211\", transparent: {transparent}, to: \"memcached://{V4}:11211\" }}\n\
         - {{ name: rest, listen: \"auto://[::]:15001\", transparent: {transparent}, to: \"original://\",\n    \
              detect: {{ to: [cache] }} }}\n\
         workers: 1\n"
    ))
}

const LEADS: [&str; 6] = ["--port", "6379=16379", "--port", "11211=21211", "--rest", "15001"];

/// Calls that a listener has had.
fn calls(mecha: &Mecha, listener: &str) -> f64 {
    mecha.metric(&format!("mecha_calls_total{{listener=\"{listener}\""))
}

/// Programs dial what they always dial, in both families, and cross mecha.
fn served(mecha: &Mecha) {
    for (address, key) in [(V4, "four"), (V6, "six")] {
        let before = [calls(mecha, "cache"), calls(mecha, "memory"), calls(mecha, "rest")];
        assert_eq!(redis_cli(address, &["SET", key, "there"]), "OK");
        assert_eq!(redis_cli(address, &["GET", key]), "there");
        assert!(redis_cli(address, &["FLUSHALL"]).contains("NOPERM"), "no filter has acted");
        let mut stream = TcpStream::connect((address, 11211)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"set k 0 0 2\r\nhi\r\n").unwrap();
        let mut line = [0; 8];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"STORED\r\n");
        let mut stream = TcpStream::connect((address, 7000)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"anything").unwrap();
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"anything");
        // What speaks Redis is served as such at any port.
        let mut stream = TcpStream::connect((address, 7000)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        stream.read_exact(&mut line[..7]).unwrap();
        assert_eq!(&line[..7], b"+PONG\r\n");
        drop(stream);
        eventually("a connection did not cross mecha", || {
            let now = [calls(mecha, "cache"), calls(mecha, "memory"), calls(mecha, "rest")];
            now[0] >= before[0] + 4.0 && now[1] >= before[1] + 1.0 && now[2] >= before[2] + 1.0
        });
    }
}

fn a_whole_life(rules: &str, mode: &str) {
    let Some(_servers) = servers() else { return };
    let args = [&["apply", "--rules", rules, "--mode", mode][..], &LEADS].concat();
    let planned = intercept(&[&["plan", "--rules", rules, "--mode", mode][..], &LEADS].concat());
    assert!(planned.contains("6379"), "{planned}");
    assert!(intercept(&["status"]).contains("no connection"), "planning has done something");
    let mut mecha = mecha(mode);
    // Twice is once.
    assert_eq!(intercept(&args), planned);
    intercept(&args);
    assert!(intercept(&["status"]).contains("16379"), "{}", intercept(&["status"]));
    served(&mecha);

    // Killed, nobody is served; started again, everybody is.
    signal(mecha.process.id(), "KILL");
    mecha.process.wait(PATIENCE);
    assert_eq!(redis_cli(V4, &["GET", "four"]), "", "somebody is served past mecha");
    mecha = self::mecha(mode);
    served(&mecha);

    // Who dials a port of mecha's means it, and to go on to where it was going would be a circle.
    let mut stream = TcpStream::connect(("127.0.0.1", 15001)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(b"x");
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "a circle was served");

    intercept(&["remove"]);
    assert!(intercept(&["status"]).contains("no connection"));
    let before = calls(&mecha, "cache");
    assert_eq!(redis_cli(V4, &["GET", "four"]), "there");
    assert!((calls(&mecha, "cache") - before).abs() < 0.5, "removed rules still lead here");
    // What is not there can be removed.
    intercept(&["remove"]);
}

#[test]
fn nftables_redirects_what_programs_dial() {
    alone(|| a_whole_life("nft", "redirect"));
}

#[test]
fn iptables_redirects_what_programs_dial() {
    alone(|| a_whole_life("iptables", "redirect"));
}

#[test]
fn nftables_leads_connections_here_as_they_are() {
    alone(|| a_whole_life("nft", "tproxy"));
}

#[test]
fn iptables_leads_connections_here_as_they_are() {
    alone(|| a_whole_life("iptables", "tproxy"));
}

#[test]
fn users_and_addresses_that_are_excluded_go_their_own_way() {
    alone(|| {
        let Some(_servers) = servers() else { return };
        let mecha = mecha("redirect");
        for rules in ["nft", "iptables"] {
            // These programs run as root, which is user 0.
            for excluded in
                [["--exclude-uid", "0"], ["--exclude-address", "10.99.0.0/16"], ["--exclude-port", "6379"]]
            {
                intercept(&[&["apply", "--rules", rules][..], &LEADS, &excluded].concat());
                let before = calls(&mecha, "cache");
                assert_eq!(redis_cli(V4, &["PING"]), "PONG");
                assert!((calls(&mecha, "cache") - before).abs() < 0.5, "{rules} {excluded:?}");
            }
            intercept(&[&["apply", "--rules", rules, "--exclude-uid", "12345"][..], &LEADS].concat());
            let before = calls(&mecha, "cache");
            assert_eq!(redis_cli(V4, &["PING"]), "PONG");
            eventually("nothing is led here", || calls(&mecha, "cache") > before);
        }
    });
}

#[test]
fn the_example_runs_to_its_end() {
    alone(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/intercept/run.sh");
        for rules in ["nft", "iptables"] {
            // It makes its own.
            run("ip", &["addr", "del", &format!("{V4}/32"), "dev", "lo"]);
            let output = Command::new("bash")
                .args([script, rules])
                .env("MECHA", env!("CARGO_BIN_EXE_mecha"))
                .env("INSIDE", "1")
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success() && said.contains("== done"), "{said}");
        }
    });
}

#[test]
fn nothing_is_led_anywhere_without_a_rule_or_a_mode() {
    let output = Command::new(env!("CARGO_BIN_EXE_mecha")).args(["intercept", "apply"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("hint"), "{said}");
    let args = ["--listen", "tcp://127.0.0.1:0", "--to", "original://"];
    let output = Command::new(env!("CARGO_BIN_EXE_mecha")).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("transparent=redirect"), "{said}");
}
