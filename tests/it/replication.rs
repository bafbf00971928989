//! Servers and tools that read the replication stream through mecha. It is no RESP: a snapshot stands in it without an
//! end mark, and what follows is never asked for.

use std::path::PathBuf;
use std::time::Duration;

use super::support::{Client, Mecha, Process, eventually, redis_with};

/// A server that may write its snapshot to a folder of its own.
struct Server {
    _process: Process,
    port: u16,
    folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn server(test: &str) -> Option<Server> {
    let folder = std::env::temp_dir().join(format!("mecha-replication-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (process, port) =
        redis_with(&["--dir", folder.to_str().unwrap(), "--repl-diskless-sync-delay", "0"])?;
    Some(Server { _process: process, port, folder })
}

#[test]
fn the_replication_stream_passes_as_it_is() {
    let Some(server) = server("stream") else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{}", server.port));
    let mut writer = mecha.client();
    for number in 0..200 {
        assert_eq!(writer.call(&format!("SET before-{number} {}", "v".repeat(number))), "+OK\r\n");
    }
    // With and without a name, which the dedicated connection is told first.
    for hello in ["", "CLIENT SETNAME reader"] {
        let mut reader = mecha.client();
        if !hello.is_empty() {
            assert_eq!(reader.call(hello), "+OK\r\n");
        }
        reader.send(b"SYNC\r\n");
        // The server says with empty lines that it is still there.
        let mut line = reader.line();
        while line.trim().is_empty() && !line.is_empty() {
            line = reader.line();
        }
        let size: usize = line.trim_start_matches('$').trim().parse().unwrap_or_else(|_| panic!("{line:?}"));
        let snapshot = reader.exactly(size);
        assert_eq!(&snapshot[..5], b"REDIS");
        assert_eq!(writer.call("SET after sync"), "+OK\r\n");
        let mut seen = String::new();
        while !(seen.contains("after") && seen.contains("sync")) {
            seen += &reader.try_reply().unwrap_or_else(|| panic!("the stream ended after {seen:?}"));
        }
    }
    drop(writer);
    mecha.settles();
}

#[test]
fn a_replica_follows_its_primary_through_mecha() {
    let Some((primary, replica)) = server("primary").zip(server("replica")) else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{}", primary.port));
    let (mut writer, mut reader) = (mecha.client(), Client::new(replica.port));
    assert_eq!(writer.call("SET early 1"), "+OK\r\n");
    assert_eq!(reader.call(&format!("REPLICAOF 127.0.0.1 {}", mecha.port)), "+OK\r\n");
    eventually("the replica does not get the snapshot", || reader.call("GET early") == "$1\r\n1\r\n");
    for number in 0..100 {
        writer.call(&format!("SET late-{number} {number}"));
    }
    eventually("the replica does not follow", || reader.call("GET late-99") == "$2\r\n99\r\n");
    let info = reader.call("INFO replication");
    assert!(info.contains("master_link_status:up"), "{info}");
    assert!(info.contains(&format!("master_port:{}\r\n", mecha.port)), "{info}");
    assert_eq!(reader.call("REPLICAOF NO ONE"), "+OK\r\n");
    let (_, is_over) = writer.drain(Duration::from_millis(20));
    assert!(!is_over);
}
