//! A newer configuration while clients are served.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::support::{Client, Mecha, Process, eventually, memcached, redis, signal};

/// A configuration file that goes away with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let file =
            Self(std::env::temp_dir().join(format!("mecha-reload-{}-{name}.yaml", std::process::id())));
        file.write(text);
        file
    }

    /// Replaces the file in one step, as editors and orchestrators do.
    fn write(&self, text: &str) {
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &self.0).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn one(to: &str) -> String {
    format!("listeners:\n  - listen: redis://127.0.0.1:0\n    to: {to}\nworkers: 2\ndrain_timeout: 1s\n")
}

#[test]
fn one_edited_line_swaps_the_product_behind_a_connected_client() {
    let (Some((_redis, redis)), Some((_memcached, memcached))) = (redis(), memcached()) else { return };
    let file = File::new("swap", &one(&format!("redis://127.0.0.1:{redis}")));
    let mecha = Mecha::from_file(&file.0);
    let (mut idle, mut watching) = (mecha.client(), mecha.client());
    assert_eq!(idle.call("SET where redis"), "+OK\r\n");
    assert_eq!(watching.call("WATCH where"), "+OK\r\n");

    file.write(&one(&format!("memcached://127.0.0.1:{memcached}")));
    eventually("the client does not move", || idle.call("GET where") == "$-1\r\n");
    assert_eq!(idle.call("SET where memcached"), "+OK\r\n");
    assert_eq!(mecha.client().call("GET where"), "$9\r\nmemcached\r\n");
    assert_eq!(Client::new(redis).call("GET where"), "$5\r\nredis\r\n");
    // What the other client watches is on Redis: it stays until it has let go.
    assert_eq!(watching.call("GET where"), "$5\r\nredis\r\n");
    assert_eq!(watching.call("UNWATCH"), "+OK\r\n");
    eventually("the other client does not move", || watching.call("GET where") == "$9\r\nmemcached\r\n");
    eventually("the old connections stay", || {
        mecha.metric("mecha_upstream_connections{cluster=\"resp-upstream\",protocol=\"resp\"}") == 0.0
    });
    assert!(mecha.metric("mecha_calls_total{") >= 8.0, "figures are lost");
    assert_eq!(mecha.metric("mecha_config_applied_total"), 1.0);
    drop((idle, watching));
    mecha.settles();
    assert!(mecha.stop());
}

#[test]
fn a_client_with_state_is_not_kept_for_longer_than_a_drain_takes() {
    let Some((_redis, redis)) = redis() else { return };
    let file = File::new("late", &one(&format!("redis://127.0.0.1:{redis}")));
    let mecha = Mecha::from_file(&file.0);
    let (mut subscribed, mut selected) = (mecha.client(), mecha.client());
    assert!(subscribed.call("SUBSCRIBE news").contains("subscribe"));
    assert_eq!(selected.call("SELECT 3"), "+OK\r\n");
    file.write(&one("embedded://"));
    assert!(subscribed.is_closed() && selected.is_closed());
    mecha.settles();
}

#[test]
fn a_broken_file_changes_nothing_and_is_counted() {
    let file = File::new("broken", &one("embedded://"));
    let mecha = Mecha::from_file(&file.0);
    let mut client = mecha.client();
    assert_eq!(client.call("SET a 1"), "+OK\r\n");
    for (count, text) in ["", "listeners: [", &one("embeded://"), "listeners: {}\n"].iter().enumerate() {
        file.write(text);
        let rejected = (count + 1) as f64;
        eventually("it is not looked at", || mecha.metric("mecha_config_rejected_total") >= rejected);
        assert_eq!(client.call("GET a"), "$1\r\n1\r\n");
        assert_eq!(mecha.client().call("GET a"), "$1\r\n1\r\n");
    }
    // A port that is taken is found out before anything changes.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("  - listen: redis://{}\n    to: embedded://\nworkers", taken.local_addr().unwrap());
    file.write(&one("embedded://").replace("workers", &more));
    eventually("it is not looked at", || mecha.metric("mecha_config_rejected_total") >= 5.0);
    assert_eq!(mecha.metric("mecha_config_applied_total"), 0.0);
    assert!(mecha.get("/config").matches("\"protocol\": \"embedded\"").count() == 1);
}

#[test]
fn listeners_come_and_go_and_the_store_keeps_its_data() {
    let text = one("embedded://");
    let file = File::new("doors", &text);
    let mecha = Mecha::from_file(&file.0);
    let mut client = mecha.client();
    assert_eq!(client.call("SET a 1"), "+OK\r\n");
    file.write(&text.replace(
        "workers",
        "  - { name: mc, listen: \"memcached://127.0.0.1:0\", to: \"embedded://\" }\nworkers",
    ));
    eventually("no second listener", || mecha.get("/config").contains("\"mc\""));
    let config = mecha.get("/config");
    let ports: Vec<u16> = config
        .split("127.0.0.1:")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect();
    let other = *ports.iter().find(|port| **port != mecha.port).expect(&config);
    let mut memcached = Client::new(other);
    memcached.send(b"get a\r\n");
    assert_eq!(memcached.line(), "VALUE a 0 1\r\n");
    assert_eq!((memcached.line().as_str(), memcached.line().as_str()), ("1\r\n", "END\r\n"));

    file.write(&text);
    signal(mecha.process.id(), "HUP");
    assert!(memcached.is_closed());
    eventually("the socket stays", || Client::try_new(other).is_none());
    assert_eq!(client.call("GET a"), "$1\r\n1\r\n");
}

#[test]
fn a_changed_filter_holds_for_connected_clients_and_an_unchanged_one_keeps_its_state() {
    let text = "listeners:
  - listen: redis://127.0.0.1:0
    to: embedded://
    filters:
      - rate_limit: { permits: 3, per: 1h }
workers: 1
";
    let file = File::new("filters", text);
    let mecha = Mecha::from_file(&file.0);
    let mut client = mecha.client();
    assert_eq!(client.call("SET a 1"), "+OK\r\n");
    assert_eq!(client.call("SET a 2"), "+OK\r\n");
    file.write(&text.replace("workers", "      - deny_commands: { commands: [set] }\nworkers"));
    eventually("it is not applied", || mecha.metric("mecha_config_applied_total") == 1.0);
    std::thread::sleep(Duration::from_millis(1));
    assert!(client.call("SET a 3").contains("denied"));
    // The third permit is used up, and the bucket is the same.
    assert!(client.call("GET a").contains("rate limit"));
}

#[test]
fn a_hangup_while_the_process_starts_is_kept() {
    let file = File::new("early", &one("embedded://"));
    let pipe = file.0.with_extension("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = Process(
        std::process::Command::new(env!("CARGO_BIN_EXE_mecha"))
            .args(["--config", pipe.to_str().unwrap(), "--log-level", "info"])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // This waits until the process reads its configuration, and the process waits until that has an end.
    let mut text = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    signal(child.id(), "HUP");
    text.write_all(one("embedded://").as_bytes()).unwrap();
    std::fs::rename(&file.0, &pipe).unwrap();
    drop(text);
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("SIGHUP") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it has ended");
    }
    drop(child);
    std::fs::remove_file(pipe).unwrap();
}
