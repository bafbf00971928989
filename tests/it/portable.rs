//! The real process between real clients and real servers, on free ports of this machine.
#![expect(clippy::disallowed_methods, reason = "a test measures by the wall clock")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A child that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(port: u16) {
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("nothing listens on {port}");
}

/// A real server on a free port; `None`, with a note, where it is not installed and not demanded.
fn server(program: &str, args: &[&str]) -> Option<(Process, u16)> {
    let port = free_port();
    let child = Command::new(program)
        .args(args)
        .args(["-p", "--port"].iter().filter(|flag| (**flag == "-p") == (program == "memcached")))
        .arg(port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => {
            let process = Process(child);
            wait_for(port);
            Some((process, port))
        }
        Err(_) if std::env::var_os("MECHA_REQUIRE_SERVERS").is_none() => {
            eprintln!("skipped: no {program}");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn redis() -> Option<(Process, u16)> {
    server("redis-server", &["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
}

fn memcached() -> Option<(Process, u16)> {
    server("memcached", &["-U", "0", "-u", "root", "-l", "127.0.0.1"])
}

struct Mecha {
    process: Process,
    port: u16,
    admin: u16,
}

impl Mecha {
    fn start(door: &str, to: &str) -> Self {
        let (port, admin) = (free_port(), free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_mecha"))
            .args(["--listen", &format!("{door}://127.0.0.1:{port}"), "--to", to, "--workers", "2"])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mecha = Self { process: Process(child), port, admin };
        wait_for(admin);
        for _ in 0..200 {
            if mecha.get("/ready").starts_with("HTTP/1.1 200") {
                return mecha;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("mecha is not ready");
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// The sum of all series that start so.
    fn metric(&self, start: &str) -> f64 {
        let text = self.get("/metrics");
        let values = text.lines().filter(|line| line.starts_with(start));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Ends it as an orchestrator would, and returns whether that went well.
    fn stop(mut self) -> bool {
        let _ = Command::new("kill").arg(self.process.0.id().to_string()).status();
        self.process.0.wait().is_ok_and(|status| status.success())
    }
}

struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Client {
    fn new(port: u16) -> Self {
        let writer = TcpStream::connect(("127.0.0.1", port)).unwrap();
        writer.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { reader: BufReader::new(writer.try_clone().unwrap()), writer }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    /// One RESP reply, as sent.
    fn reply(&mut self) -> String {
        let line = self.line();
        let count = line.get(1..).and_then(|count| count.trim_end().parse::<i64>().ok()).unwrap_or(0);
        match line.as_bytes().first() {
            Some(b'$') if count >= 0 => {
                let mut bytes = vec![0; count as usize + 2];
                self.reader.read_exact(&mut bytes).unwrap();
                line + &String::from_utf8_lossy(&bytes)
            }
            Some(b'*') => line + &(0..count.max(0)).map(|_| self.reply()).collect::<String>(),
            _ => line,
        }
    }

    fn call(&mut self, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let frame: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.send(format!("*{}\r\n{frame}", words.len()).as_bytes());
        self.reply()
    }
}

/// The same conversation on any back.
fn portable(mecha: &Mecha) {
    let mut client = mecha.client();
    for (call, expected) in [
        ("SET a 1", "+OK\r\n"),
        ("INCRBY a 41", ":42\r\n"),
        ("GET a", "$2\r\n42\r\n"),
        ("SET b 1 PX 100000", "+OK\r\n"),
        ("DEL b nosuch", ":1\r\n"),
        ("HSET h f v g w", ":2\r\n"),
        ("HGET h g", "$1\r\nw\r\n"),
        ("GET h", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        ("RPUSH l x y z", ":3\r\n"),
        ("LRANGE l 0 -1", "*3\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nz\r\n"),
        ("ZADD z 2 b 1 a", ":2\r\n"),
        ("ZRANGE z 0 -1", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("SADD s m", ":1\r\n"),
        ("SREM s m", ":1\r\n"),
        ("EXISTS s", ":0\r\n"),
        ("NOSUCH x", "-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n"),
        ("MGET a nosuch", "*2\r\n$2\r\n42\r\n$-1\r\n"),
    ] {
        assert_eq!(client.call(call), expected, "{call}");
    }
    assert!(mecha.metric("mecha_calls_total") >= 17.0, "traffic did not cross mecha");
}

#[test]
fn a_redis_program_runs_on_redis_on_memcached_and_on_the_store() {
    let Some(((_redis, redis), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    for to in [
        format!("redis://127.0.0.1:{redis}"),
        format!("memcached://127.0.0.1:{memcached}"),
        "embedded://".into(),
    ] {
        let mecha = Mecha::start("redis", &to);
        portable(&mecha);
        assert!(mecha.stop(), "{to}");
    }
}

#[test]
fn a_memcached_program_runs_on_memcached_on_redis_and_on_the_store() {
    let Some(((_redis, redis), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    for to in [
        format!("memcached://127.0.0.1:{memcached}"),
        format!("redis://127.0.0.1:{redis}"),
        "embedded://".into(),
    ] {
        let mecha = Mecha::start("memcached", &to);
        let mut client = mecha.client();
        client.send(b"set a 7 0 1 noreply\r\nx\r\nset n 0 0 2\r\n10\r\nget a nosuch n\r\nincr n 5\r\nmg a v q\r\nmg no v q\r\nmn\r\nbogus\r\n");
        let expected =
            ["STORED", "VALUE a 7 1", "x", "VALUE n 0 2", "10", "END", "15", "VA 1", "x", "MN", "ERROR"];
        for expected in expected {
            assert_eq!(client.line().trim_end(), expected, "{to}");
        }
        assert!(mecha.metric("mecha_calls_total") >= 7.0);
    }
}

#[test]
fn transactions_are_honest_on_every_back() {
    let Some((_memcached, memcached)) = memcached() else { return };
    for (to, both) in [
        ("embedded://".to_string(), "*2\r\n+OK\r\n+OK\r\n"),
        (format!("memcached://127.0.0.1:{memcached}"), "-EXECABORT"),
    ] {
        let mecha = Mecha::start("redis", &to);
        let mut client = mecha.client();
        assert_eq!(
            [client.call("MULTI"), client.call("SET a 1"), client.call("INCR a")].concat(),
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n"
        );
        assert_eq!(client.call("EXEC"), "*2\r\n+OK\r\n:2\r\n", "{to}");
        assert_eq!(
            [client.call("MULTI"), client.call("SET x 1"), client.call("SET y 1")].concat(),
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n"
        );
        assert!(client.call("EXEC").starts_with(both), "{to}");
        assert_eq!(client.call("EXEC"), "-ERR EXEC without MULTI\r\n");
    }
}

#[test]
fn stateful_commands_work_on_redis() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let (mut one, mut other) = (mecha.client(), mecha.client());
    assert_eq!(
        [one.call("MULTI"), one.call("SET k 1"), other.call("GET k")],
        ["+OK\r\n", "+QUEUED\r\n", "$-1\r\n"]
    );
    assert_eq!(one.call("EXEC"), "*1\r\n+OK\r\n");
    one.send(b"BLPOP list 5\r\n");
    assert_eq!(other.call("RPUSH list v"), ":1\r\n");
    assert_eq!(one.reply(), "*2\r\n$4\r\nlist\r\n$1\r\nv\r\n");
    assert_eq!(one.call("SUBSCRIBE ch"), "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    assert_eq!(other.call("PUBLISH ch hi"), ":1\r\n");
    assert_eq!(one.reply(), "*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n");
    drop((one, other));
    for _ in 0..100 {
        if mecha.metric("mecha_upstream_pins{") == 0.0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("a dedicated connection is leaked");
}

#[test]
fn large_values_pass_and_every_client_gets_its_own() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let port = mecha.port;
    let clients: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::new(port);
                for round in 0..20 {
                    let value = format!("{number}-{round}-").repeat(1 + round * round * 200);
                    assert_eq!(client.call(&format!("SET key:{number} {value}")), "+OK\r\n");
                    assert_eq!(
                        client.call(&format!("GET key:{number}")),
                        format!("${}\r\n{value}\r\n", value.len())
                    );
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_lost_backend_is_a_clear_error_and_its_return_is_noticed() {
    let Some((redis, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let mut client = mecha.client();
    assert_eq!(client.call("PING"), "+PONG\r\n");
    drop(redis);
    assert!(client.call("SET a 1").starts_with("-ERR mecha: backend"));
    let mut again = Command::new("redis-server");
    again.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]).stdout(Stdio::null());
    let _redis = Process(again.spawn().unwrap());
    wait_for(port);
    for _ in 0..200 {
        if client.call("PING") == "+PONG\r\n" {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("the backend's return was not noticed");
}

#[test]
fn a_client_that_never_reads_harms_nobody() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let mut client = mecha.client();
    assert_eq!(client.call(&format!("SET big {}", "x".repeat(200_000))), "+OK\r\n");
    let mut deaf = mecha.client();
    // 60 MB of answers that nobody reads.
    deaf.send("GET big\r\n".repeat(300).as_bytes());
    let before = Instant::now();
    for _ in 0..200 {
        assert_eq!(client.call("PING"), "+PONG\r\n");
    }
    assert!(before.elapsed() < Duration::from_secs(5), "others had to wait");
    assert!(mecha.metric("process_resident_memory_bytes") < 60e6);
}

#[test]
fn the_command_line_explains_itself() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mecha")).args(args).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    assert!(run(&["--help"]).1.contains("Examples:"));
    assert!(run(&["filters", "rate_limit"]).1.contains("permits"));
    assert!(run(&["schema"]).1.contains("\"listeners\""));
    let (is_fine, text) = run(&["--listen", "redis://127.0.0.1:1", "--to", "memcach://x"]);
    assert!(!is_fine && text.contains("did you mean `memcached`?"), "{text}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("redis://{}", taken.local_addr().unwrap());
    let (is_fine, text) = run(&["--listen", &listen, "--to", "embedded://"]);
    assert!(!is_fine && text.contains("fix:"), "{text}");
}
