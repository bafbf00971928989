//! `clients: dedicated`: every client has a connection of its own from its first call on, so that nothing that one client
//! makes its connection wait for holds up another one, and the server can tell them apart.

use std::time::Duration;

use super::state::Twins;
use super::support::{Client, Mecha, eventually, frame, redis};

fn configured(port: u16, more: &str) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n  - listen: redis://127.0.0.1:0\n    to: back\nclusters:\n  back:\n    \
         to: redis://127.0.0.1:{port}\n    clients: dedicated\n{more}workers: 2\n"
    ))
}

/// The clients of which the server says that they are blocked.
fn blocked(seen: &mut Client) -> String {
    let info = seen.call("INFO clients");
    info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).unwrap().to_owned()
}

#[test]
fn everything_is_as_it_is_for_clients_that_share() {
    let Some(twins) = Twins::with("clients: dedicated") else { return };
    for script in [
        "a: SET k 1
         a: GET k
         b: GET k
         a: HELLO 3
         a: HGETALL h
         a: HELLO 2
         a# INCR n | INCR n | GET n
         a: RESET
         a: GET n",
        "a: MULTI
         a: INCR n
         b: INCR n
         a: EXEC
         a: WATCH n
         b: INCR n
         a: MULTI
         a: GET n
         a: EXEC
         a: GET n",
        "a: SELECT 3
         a: SET k three
         b: GET k
         a: SELECT 0
         a: GET k
         a: CLIENT SETNAME me
         a: CLIENT GETNAME
         b: CLIENT GETNAME
         a: AUTH nobody wrong
         a: GET k",
        "a> BLPOP l 0
         b: RPUSH l x
         a?
         a: GET k
         a: SUBSCRIBE news
         b: PUBLISH news hi
         a?
         a: UNSUBSCRIBE news
         a: GET k
         a: QUIT
         a.",
        "a: CLIENT TRACKING ON BCAST
         a: CLIENT GETREDIR
         a> CLIENT REPLY OFF
         a> GET k
         a> CLIENT REPLY ON
         a?
         a: GET k",
    ] {
        twins.same(script);
    }
}

#[test]
fn a_pause_of_writes_holds_up_nobody_who_reads() {
    let Some((_server, port)) = redis() else { return };
    let mecha = configured(port, "");
    let (mut admin, mut writers) = (mecha.client(), [mecha.client(), mecha.client(), mecha.client()]);
    let mut readers = [mecha.client(), mecha.client(), mecha.client()];
    assert_eq!(admin.call("CLIENT PAUSE 60000 WRITE"), "+OK\r\n");
    writers.iter_mut().for_each(|writer| writer.send(b"SET k v\r\n"));
    eventually("not every write waits", || blocked(&mut admin) == "3");
    for reader in &mut readers {
        assert_eq!(reader.call("GET k"), "$-1\r\n");
    }
    assert_eq!(admin.call("CLIENT UNPAUSE"), "+OK\r\n");
    writers.iter_mut().for_each(|writer| assert_eq!(writer.reply(), "+OK\r\n"));
    drop((admin, writers, readers));
    mecha.settles();
}

#[test]
fn a_script_that_does_not_end_is_told_to_others_and_can_be_killed() {
    let Some((_server, port)) = redis() else { return };
    let mecha = configured(port, "");
    let (mut one, mut other) = (mecha.client(), mecha.client());
    assert_eq!(other.call("CONFIG SET lua-time-limit 10"), "+OK\r\n");
    one.send(&frame(&["EVAL", "while true do end", "0"]));
    eventually("the script is not busy", || {
        std::thread::sleep(Duration::from_millis(20));
        other.call("GET k").starts_with("-BUSY")
    });
    assert_eq!(other.call("SCRIPT KILL"), "+OK\r\n");
    assert!(one.reply().contains("Script killed"));
    assert_eq!(other.call("GET k"), "$-1\r\n");
}

#[test]
fn the_server_knows_its_clients_by_their_names() {
    let Some((_server, port)) = redis() else { return };
    let mecha = configured(port, "");
    let mut client = mecha.client();
    client.call("CLIENT SETNAME someone");
    client.call("CONFIG SET slowlog-log-slower-than 0");
    client.call("GET k");
    let log = client.call("SLOWLOG GET 1");
    assert!(log.contains("someone"), "{log}");
}

#[test]
fn there_are_no_more_clients_than_connections() {
    let Some((_server, port)) = redis() else { return };
    let mecha = configured(port, "    max_pins: 1\n");
    // One for each worker.
    let mut clients: Vec<Client> = (0..2).map(|_| mecha.client()).collect();
    let answers: Vec<String> = clients.iter_mut().map(|client| client.call("PING")).collect();
    assert!(answers.iter().any(|answer| answer == "+PONG\r\n"), "{answers:?}");
    let mut more: Vec<Client> = (0..4).map(|_| mecha.client()).collect();
    let answers: Vec<String> = more.iter_mut().map(|client| client.call("PING")).collect();
    let refused = answers.iter().filter(|answer| answer.starts_with("-ERR mecha:")).count();
    assert!(refused >= 3, "{answers:?}");
    drop((clients, more));
    mecha.settles();
    assert_eq!(mecha.client().call("PING"), "+PONG\r\n");
}
