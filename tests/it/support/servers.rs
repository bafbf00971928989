//! Real processes: mecha, redis-server, memcached.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::{Client, PATIENCE, eventually};

/// A child that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// The exit status, within `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

/// Sends a signal by its name, as `kill -NAME` does.
pub(crate) fn signal(id: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status();
    assert!(status.unwrap().success(), "kill -{name} {id}");
}

/// A port that nobody listens on, and that no outgoing connection gets.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset =
            (std::process::id() as u16).wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + offset % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Starts a server on a free port and waits until it, and no other, answers there. `None`, with a note, where it is not
/// installed and not demanded.
fn server(program: &str, args: &[&str], is_up: fn(u16, u32) -> bool) -> Option<(Process, u16)> {
    for _ in 0..20 {
        let port = free_port();
        let mut command = Command::new(program);
        command.args(args).arg(if program == "memcached" { "-p" } else { "--port" }).arg(port.to_string());
        match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => {
                let mut process = Process(child);
                let start = Instant::now();
                while start.elapsed() < PATIENCE && process.0.try_wait().unwrap().is_none() {
                    if is_up(port, process.id()) {
                        return Some((process, port));
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Err(_) if std::env::var_os("MECHA_REQUIRE_SERVERS").is_none() => {
                eprintln!("skipped: no {program}");
                return None;
            }
            Err(error) => panic!("{program}: {error}"),
        }
    }
    panic!("{program} does not start");
}

pub(crate) fn redis() -> Option<(Process, u16)> {
    redis_with(&[])
}

/// A redis-server with more options.
pub(crate) fn redis_with(more: &[&str]) -> Option<(Process, u16)> {
    let args = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--enable-debug-command", "yes"];
    server("redis-server", &[&args, more].concat(), |port, id| {
        Client::try_new(port).is_some_and(|mut client| {
            client.send(b"INFO server\r\n");
            client.try_reply().is_some_and(|info| info.contains(&format!("process_id:{id}\r\n")))
        })
    })
}

/// A redis-server on that very port, as it was there before.
pub(crate) fn redis_on(port: u16) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
    let process = Process(command.stdout(Stdio::null()).spawn().unwrap());
    eventually("the server does not come back", || Client::try_new(port).is_some());
    process
}

pub(crate) fn memcached() -> Option<(Process, u16)> {
    memcached_with(&[])
}

/// A door with two workers on each back that has no clients of its own who wait or listen, and what is behind it.
pub(crate) fn translated_doors() -> Vec<(Option<Process>, Mecha)> {
    let door = |to: &str| {
        Mecha::configured(&format!(
            "workers: 2\nclusters:\n  back: {{ to: \"{to}\" }}\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: back }}\n"
        ))
    };
    let mut doors = vec![(None, door("embedded://"))];
    if let Some((process, port)) = memcached() {
        doors.push((Some(process), door(&format!("memcached://127.0.0.1:{port}"))));
    }
    doors
}

/// A memcached with more options.
pub(crate) fn memcached_with(more: &[&str]) -> Option<(Process, u16)> {
    let is_up = |port, id| {
        Client::try_new(port).is_some_and(|mut client| {
            client.send(b"stats\r\n");
            let line = client.line();
            // One that asks for a login tells nobody who it is, and only such a one says this.
            line.contains(&format!("STAT pid {id}")) || line.contains("unauthenticated")
        })
    };
    let args = ["-U", "0", "-u", "root", "-l", "127.0.0.1", "-c", "4096"];
    server("memcached", &[&args, more].concat(), is_up)
}

/// A memcached on that very port, as it was there before.
pub(crate) fn memcached_on(port: u16) -> Process {
    let mut command = Command::new("memcached");
    command.args(["-U", "0", "-u", "root", "-l", "127.0.0.1", "-c", "4096", "-p", &port.to_string()]);
    let process = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the server does not come back", || Client::try_new(port).is_some());
    process
}

/// The process under test.
pub(crate) struct Mecha {
    pub(crate) process: Process,
    /// Where the first listener is.
    pub(crate) port: u16,
    /// Where each listener is, in order.
    pub(crate) ports: Vec<u16>,
    /// Where the admin server is.
    pub(crate) admin: u16,
    /// From exec to the word that it is ready.
    pub(crate) started_after: Duration,
}

impl Mecha {
    /// One listener, one cluster, two workers.
    pub(crate) fn start(door: &str, to: &str) -> Self {
        Self::with(&["--listen", &format!("{door}://127.0.0.1:0"), "--to", to, "--workers", "2"])
    }

    /// As configured by `yaml`, whose listeners listen on port 0.
    pub(crate) fn configured(yaml: &str) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mecha-it-{}-{count}.yaml", std::process::id()));
        std::fs::write(&path, yaml).unwrap();
        let mecha = Self::with(&["--config", path.to_str().unwrap()]);
        let _ = std::fs::remove_file(path);
        mecha
    }

    /// As configured by a file that stays.
    pub(crate) fn from_file(path: &std::path::Path) -> Self {
        Self::with(&["--config", path.to_str().unwrap()])
    }

    fn with(args: &[&str]) -> Self {
        let start = Instant::now();
        let built = env!("CARGO_BIN_EXE_mecha").into();
        let child = Command::new(std::env::var_os("MECHA_BINARY").unwrap_or(built))
            .args(args)
            .args(["--admin", "127.0.0.1:0", "--log-level", "error"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let mut screen = BufReader::new(process.0.stderr.take().unwrap());
        let mut text = String::new();
        let (mut ports, mut admin, mut started_after) = (Vec::new(), None, Duration::ZERO);
        while admin.is_none() {
            let mut line = String::new();
            assert!(screen.read_line(&mut line).unwrap() > 0, "mecha does not start: {text}");
            if text.is_empty() {
                started_after = start.elapsed();
            }
            text.push_str(&line);
            let host = ["127.0.0.1:", "0.0.0.0:", "[::]:"].into_iter().find(|host| line.contains(host));
            let address = host.and_then(|host| line.split_once(host)).map(|(_, rest)| rest);
            let number =
                address.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
            if line.contains("http://") {
                admin = number;
            } else {
                ports.extend(number);
            }
        }
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut screen, &mut std::io::stderr()));
        let port = *ports.first().expect(&text);
        let mecha = Self { process, port, ports, admin: admin.expect(&text), started_after };
        eventually("mecha is not ready", || mecha.get("/ready").starts_with("HTTP/1.1 200"));
        mecha
    }

    /// What the admin server answers.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// The sum of all series that start so.
    pub(crate) fn metric(&self, start: &str) -> f64 {
        let text = self.get("/metrics");
        let values = text.lines().filter(|line| line.starts_with(start));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        self.metric("process_resident_memory_bytes") / (1024.0 * 1024.0)
    }

    /// Waits until no client, and no dedicated connection, is left.
    #[track_caller]
    pub(crate) fn settles(&self) {
        eventually("a dedicated connection is leaked", || self.metric("mecha_upstream_pins{") == 0.0);
        eventually("a client connection is leaked", || self.metric("mecha_client_connections{") == 0.0);
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Ends it as an orchestrator would, and returns whether that went well.
    pub(crate) fn stop(mut self) -> bool {
        signal(self.process.id(), "TERM");
        self.process.wait(PATIENCE).is_some_and(|status| status.success())
    }
}
