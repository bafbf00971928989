//! Bytes that are passed on as they are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::support::{Client, Fake, Mecha, PATIENCE, eventually, free_port, redis, signal};

const KIB: usize = 1024;

/// Bytes that are at no place like those at another.
fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).flat_map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes()).take(count).collect()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A server that first says which it is, and then repeats what it hears to the end, and says goodbye.
fn echo(name: &'static str) -> Fake {
    Fake::start(move |mut stream, _| {
        let _ = stream.write_all(name.as_bytes());
        let mut copy = stream.try_clone().unwrap();
        if std::io::copy(&mut stream, &mut copy).is_ok() {
            let _ = copy.write_all(b"bye");
        }
    })
}

fn greeting(stream: &mut TcpStream) -> String {
    let mut name = [0; 1];
    match stream.read(&mut name) {
        Ok(count) => String::from_utf8_lossy(&name[..count]).into_owned(),
        Err(error) => error.kind().to_string(),
    }
}

fn door(fake: &Fake) -> Mecha {
    Mecha::start("tcp", &format!("tcp://127.0.0.1:{}", fake.port))
}

#[test]
fn every_byte_arrives_and_an_end_leaves_the_other_direction_open() {
    let server = echo("a");
    let mecha = door(&server);
    let mut stream = connect(mecha.port);
    // The server speaks first.
    assert_eq!(greeting(&mut stream), "a");
    let sent = pattern(8 << 20);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // In pieces of every size.
        let (mut rest, mut size) = (sent.as_slice(), 1);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(size.min(rest.len()));
            writer.write_all(piece).unwrap();
            (rest, size) = (more, size * 3 % 70_001 + 1);
        }
        // The client has said everything, and still listens.
        writer.shutdown(Shutdown::Write).unwrap();
        sent
    });
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    let mut expected = writing.join().unwrap();
    expected.extend_from_slice(b"bye");
    assert!(heard == expected, "{} of {} bytes, or others", heard.len(), expected.len());
    let passed = expected.len() as f64;
    assert_eq!(mecha.metric("mecha_client_bytes_total{listener=\"tcp\",direction=\"out\""), passed + 1.0);
    assert_eq!(mecha.metric("mecha_client_bytes_total{listener=\"tcp\",direction=\"in\""), passed - 3.0);
    assert_eq!(
        mecha
            .metric("mecha_calls_total{listener=\"tcp\",protocol=\"tcp\",command=\"connect\",outcome=\"ok\""),
        1.0
    );
    mecha.settles();
    eventually("a server's connection is leaked", || mecha.metric("mecha_upstream_connections{") == 0.0);
}

#[test]
fn a_redis_client_is_served_through_bytes_alone() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("tcp", &format!("tcp://127.0.0.1:{redis}"));
    let mut client = mecha.client();
    assert_eq!(client.call("SET crossed bytes"), "+OK\r\n");
    assert_eq!(Client::new(redis).call("GET crossed"), "$5\r\nbytes\r\n");
    assert_eq!(client.call("MULTI"), "+OK\r\n");
    assert_eq!(client.call("GET crossed"), "+QUEUED\r\n");
    assert_eq!(client.call("EXEC"), "*1\r\n$5\r\nbytes\r\n");
    assert!(mecha.metric("mecha_upstream_bytes_total{") > 0.0, "it went another way");
}

#[test]
fn a_reset_stays_a_reset_in_both_directions() {
    let server = Fake::start(|mut stream, number| {
        let _ = stream.write_all(b"x");
        let mut heard = [0; 1];
        if number == 0 {
            // Unread bytes make the end of this socket a reset.
            let _ = stream.peek(&mut heard);
            return;
        }
        let end = stream.read(&mut heard);
        assert!(end.is_err(), "the client's reset arrived as {end:?}");
    });
    let mecha = door(&server);
    let mut stream = connect(mecha.port);
    assert_eq!(greeting(&mut stream), "x");
    stream.write_all(b"never read").unwrap();
    assert_eq!(greeting(&mut stream), "connection reset");

    let mut stream = connect(mecha.port);
    stream.write_all(b"").unwrap();
    // The greeting is left unread.
    eventually("the second client is not connected", || server.accepted() == 2);
    eventually("the greeting does not arrive", || stream.peek(&mut [0; 1]).is_ok());
    drop(stream);
    mecha.settles();
    let resets =
        |reason| mecha.metric(&format!("mecha_client_closed_total{{listener=\"tcp\",reason=\"{reason}\""));
    assert_eq!((resets("upstream_lost"), resets("read_failed")), (1.0, 1.0));
}

#[test]
fn who_does_not_read_holds_his_sender_back_and_no_memory() {
    let server = Fake::start(|mut stream, _| {
        let chunk = pattern(64 * KIB);
        while stream.write_all(&chunk).is_ok() {}
    });
    let mecha = door(&server);
    let lazy: Vec<_> = (0..50).map(|_| connect(mecha.port)).collect();
    eventually("not all are connected", || server.accepted() == 50);
    let sent = || mecha.metric("mecha_client_bytes_total{listener=\"tcp\",direction=\"out\"");
    let mut before = -1.0;
    eventually("the senders are never held back", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = sent();
        std::mem::replace(&mut before, now) == now
    });
    let held = mecha.resident_mib();
    assert!(held < 40.0, "{held} MiB");
    // Others are served meanwhile, and a lazy one that begins to read gets everything in order.
    let (mut one, mut heard) = (lazy[0].try_clone().unwrap(), vec![0; 64 * KIB]);
    let expected = pattern(64 * KIB);
    for chunk in 0..100 {
        one.read_exact(&mut heard).unwrap();
        assert!(heard == expected, "chunk {chunk}");
    }
    drop((one, lazy));
    mecha.settles();
}

#[test]
fn servers_take_turns_and_one_that_is_gone_is_passed_over() {
    let (one, two, gone) = (echo("a"), echo("b"), free_port());
    let to = format!("tcp://127.0.0.1:{},127.0.0.1:{gone},127.0.0.1:{}", one.port, two.port);
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: \"{to}\" }}\nworkers: 1\n"
    ));
    let mut streams: Vec<_> = (0..30).map(|_| connect(mecha.port)).collect();
    let names: String = streams.iter_mut().map(greeting).collect();
    let count = |name| names.matches(name).count();
    assert_eq!(count("a") + count("b"), 30, "{names}");
    assert!(count("a") >= 8 && count("b") >= 8, "{names}");
    assert!(mecha.metric("mecha_upstream_connect_failures_total{") >= 1.0);
    assert!(mecha.get("/clusters").contains(&gone.to_string()));
    drop(streams);
    mecha.settles();
}

#[test]
fn with_a_hash_all_connections_of_a_client_meet_one_server() {
    let servers = [echo("a"), echo("b"), echo("c")];
    let to = servers.each_ref().map(|server| format!("127.0.0.1:{}", server.port)).join(",");
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: back }}\nclusters:\n  back: {{ to: \"tcp://{to}\", balance: maglev }}\nworkers: 2\n"
    ));
    let names: Vec<_> = (0..12).map(|_| greeting(&mut connect(mecha.port))).collect();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
}

#[test]
fn policies_bound_connections_and_a_refused_client_is_reset() {
    let server = echo("a");
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - listen: tcp://127.0.0.1:0\n    to: tcp://127.0.0.1:{}\n    filters: [{{ rate_limit: {{ permits: 3, per: 1h }} }}]\nworkers: 1\n",
        server.port
    ));
    let mut streams: Vec<_> = (0..5).map(|_| connect(mecha.port)).collect();
    let served: Vec<_> = streams.iter_mut().map(greeting).collect();
    assert_eq!(served, ["a", "a", "a", "connection reset", "connection reset"]);
    assert_eq!(mecha.metric("mecha_refusals_total{listener=\"tcp\",reason=\"rate_limited\""), 2.0);
    assert_eq!(server.accepted(), 3);
}

#[test]
fn a_server_that_takes_nobody_costs_a_client_the_timeout_at_most() {
    // An address that nobody answers for: a listener whose queue is full.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = full.local_addr().unwrap().port();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&full.local_addr().unwrap(), Duration::from_millis(200))
    {
        queue.push(stream);
        assert!(queue.len() < 10_000);
    }
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - listen: tcp://127.0.0.1:0\n    to: back\n    filters: [{{ timeout: {{ after: 200ms }} }}]\nclusters:\n  back: {{ to: \"tcp://127.0.0.1:{port}\", connect_timeout: 30s }}\nworkers: 1\n"
    ));
    let start = Instant::now();
    assert_eq!(greeting(&mut connect(mecha.port)), "connection reset");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(mecha.metric("mecha_refusals_total{listener=\"tcp\",reason=\"timed_out\""), 1.0);
}

#[test]
fn silence_ends_a_connection_and_traffic_keeps_it() {
    let server = echo("a");
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: \"tcp://127.0.0.1:{}\", idle_timeout: 1s }}\nworkers: 1\n",
        server.port
    ));
    let (mut silent, mut busy) = (connect(mecha.port), connect(mecha.port));
    assert_eq!((greeting(&mut silent), greeting(&mut busy)), ("a".into(), "a".into()));
    let start = Instant::now();
    silent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut is_over = false;
    while !is_over {
        assert!(start.elapsed() < PATIENCE, "it is never closed");
        busy.write_all(b"z").unwrap();
        assert_eq!(greeting(&mut busy), "z");
        let end = silent.read(&mut [0; 1]);
        is_over = !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    }
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(mecha.metric("mecha_client_closed_total{listener=\"tcp\",reason=\"idle\""), 1.0);
}

#[test]
fn a_newer_configuration_moves_new_clients_and_lets_old_ones_finish() {
    let (one, two) = (echo("a"), echo("b"));
    let path = std::env::temp_dir().join(format!("mecha-it-tcp-{}.yaml", std::process::id()));
    let write = |port| {
        let text = format!(
            "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: \"tcp://127.0.0.1:{port}\" }}\nworkers: 1\ndrain_timeout: 6s\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write(one.port);
    let mecha = Mecha::from_file(&path);
    let mut old = connect(mecha.port);
    assert_eq!(greeting(&mut old), "a");
    write(two.port);
    eventually("new clients do not move", || greeting(&mut connect(mecha.port)) == "b");
    old.write_all(b"y").unwrap();
    assert_eq!(greeting(&mut old), "y", "the old client was disturbed");
    // It has as long as a drain may take.
    assert_eq!(greeting(&mut old), "connection reset");
    let _ = std::fs::remove_file(path);
    mecha.settles();
}

#[test]
fn a_drain_waits_for_connections_that_end_and_no_longer_than_it_may() {
    let server = echo("a");
    for (is_ended, at_most) in [(true, 4), (false, 8)] {
        let mut mecha = Mecha::configured(&format!(
            "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: \"tcp://127.0.0.1:{}\" }}\nworkers: 1\ndrain_timeout: 5s\n",
            server.port
        ));
        let mut stream = connect(mecha.port);
        assert_eq!(greeting(&mut stream), "a");
        let start = Instant::now();
        signal(mecha.process.id(), "TERM");
        stream.write_all(b"q").unwrap();
        assert_eq!(greeting(&mut stream), "q", "a draining process forgets its clients");
        if is_ended {
            drop(stream);
        }
        let status = mecha.process.wait(Duration::from_secs(at_most)).expect("it does not end");
        assert!(status.success());
        assert_eq!(start.elapsed() >= Duration::from_secs(4), !is_ended, "{:?}", start.elapsed());
    }
}

#[test]
fn unix_sockets_stand_on_both_sides() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let folder = std::env::temp_dir().join(format!("mecha-it-tcp-unix-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (front, back) = (folder.join("front"), folder.join("back"));
    let listener = UnixListener::bind(&back).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut copy = stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream, &mut copy));
        }
    });
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: back }}\n  - {{ listen: \"tcp+unix://{}\", to: back }}\nclusters:\n  back: \"tcp+unix://{}\"\nworkers: 1\n",
        front.display(),
        back.display()
    ));
    let sent = pattern(300 * KIB);
    let repeats = |mut reader: Box<dyn Read>, mut writer: Box<dyn Write + Send>, end: &dyn Fn()| {
        let copy = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(&copy));
        let mut heard = vec![0; sent.len()];
        reader.read_exact(&mut heard).unwrap();
        writing.join().unwrap().unwrap();
        assert!(heard == sent);
        end();
        assert_eq!(reader.read(&mut heard).unwrap(), 0, "the end does not arrive");
    };
    let tcp = connect(mecha.port);
    let unix = UnixStream::connect(&front).unwrap();
    unix.set_read_timeout(Some(PATIENCE)).unwrap();
    repeats(Box::new(tcp.try_clone().unwrap()), Box::new(tcp.try_clone().unwrap()), &|| {
        tcp.shutdown(Shutdown::Write).unwrap();
    });
    repeats(Box::new(unix.try_clone().unwrap()), Box::new(unix.try_clone().unwrap()), &|| {
        unix.shutdown(Shutdown::Write).unwrap();
    });
    drop((tcp, unix));
    mecha.settles();
    let _ = std::fs::remove_dir_all(folder);
}
