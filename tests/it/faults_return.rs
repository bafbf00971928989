//! After a fault everything is as it was before it: connections, files, memory; and no reply was lost or given to another.
//!
//! Each test warms the process up, notes what it holds, does harm while clients work whose values say whose they are and
//! which, waits until they are served again, and compares.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::support::{Client, Fake, Mecha, PATIENCE, Tagged, eventually, frame, redis, redis_on, signal};

/// Two workers before one server, which is waited for.
fn before(port: u16) -> Mecha {
    with_filters(port, "")
}

/// Two workers before one server, which is given up on after 200 ms.
fn impatient(port: u16) -> Mecha {
    with_filters(port, "    filters:\n      - timeout: { after: 200ms }\n")
}

fn with_filters(port: u16, filters: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 2
clusters:
  back: {{ to: \"redis://127.0.0.1:{port}\", backoff: {{ initial: 1ms, max: 20ms }}, connect_rate: 10_000 }}
listeners:
  - listen: redis://127.0.0.1:0
    to: back
{filters}"
    ))
}

/// Clients that work while somebody does harm.
struct Work {
    threads: Vec<std::thread::JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
    is_empty: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Work {
    fn start(mecha: &Mecha, size: usize) -> Self {
        let (is_over, is_empty) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (served, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let threads = (0..6).map(|number| {
            let mut client = Tagged::new(mecha.port, &format!("client:{number}"));
            let (is_over, is_empty) = (Arc::clone(&is_over), Arc::clone(&is_empty));
            let (served, failed) = (Arc::clone(&served), Arc::clone(&failed));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    if is_empty.load(Ordering::SeqCst) {
                        client.forget();
                    }
                    let before = client.served;
                    if client.round(size).is_err() {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                    // Some thousand calls a second, so that the machine has time for the fault.
                    std::thread::sleep(Duration::from_millis(4));
                    served.fetch_add(client.served - before, Ordering::SeqCst);
                }
            })
        });
        let threads = threads.collect();
        Self { threads, is_over, is_empty, served, failed }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    /// Waits until `count` more calls are served.
    #[track_caller]
    fn goes_on(&self, count: u64) {
        let before = self.served();
        eventually("nothing is served", || self.served() >= before + count);
    }

    /// Waits until `count` more rounds have failed.
    #[track_caller]
    fn suffers(&self, count: u64) {
        let before = self.failed();
        eventually("nobody is told", || self.failed() >= before + count);
    }

    /// The clients leave; panics if one has seen what it must not.
    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Clients are served before and after a time at which the server is bad, of which `harm` sees enough; then everything is
/// as it was.
#[track_caller]
fn survives(mecha: &Mecha, size: usize, is_bad: &AtomicBool, harm: impl FnOnce(&Work)) {
    let levels = mecha.warmed_up();
    let work = Work::start(mecha, size);
    work.goes_on(300);
    is_bad.store(true, Ordering::SeqCst);
    harm(&work);
    is_bad.store(false, Ordering::SeqCst);
    work.goes_on(300);
    work.end();
    mecha.returns_to(levels);
}

#[test]
fn everything_returns_after_a_server_was_killed() {
    let Some((mut server, port)) = redis() else { return };
    let mecha = before(port);
    let levels = mecha.warmed_up();
    let work = Work::start(&mecha, 20_000);
    work.goes_on(300);
    // From here on nobody relies on what was stored.
    work.is_empty.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        drop(server);
        work.suffers(20);
        server = redis_on(port);
        work.goes_on(300);
    }
    work.end();
    mecha.returns_to(levels);
}

#[test]
fn everything_returns_after_a_server_was_stopped() {
    let Some((server, port)) = redis() else { return };
    let mecha = impatient(port);
    let levels = mecha.warmed_up();
    let work = Work::start(&mecha, 20_000);
    for _ in 0..3 {
        work.goes_on(300);
        signal(server.id(), "STOP");
        work.suffers(12);
        signal(server.id(), "CONT");
    }
    work.goes_on(300);
    work.end();
    mecha.returns_to(levels);
}

#[test]
fn everything_returns_after_a_server_dribbled_byte_by_byte() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let fake = Fake::store(move |stream, reply, _| {
        if !slow.load(Ordering::SeqCst) {
            return stream.write_all(reply);
        }
        for byte in reply {
            stream.write_all(&[*byte])?;
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    });
    survives(&before(fake.port), 100, &is_slow, |work| work.goes_on(200));
}

#[test]
fn everything_returns_after_a_server_answered_too_late() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let fake = Fake::store(move |stream, reply, count| {
        // Longer than anybody waits; then a while of answers that nobody waits for any more.
        if slow.load(Ordering::SeqCst) && count % 40 == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        stream.write_all(reply)
    });
    let mecha = impatient(fake.port);
    survives(&mecha, 5_000, &is_slow, |work| {
        work.suffers(20);
        work.goes_on(50);
    });
    assert!(mecha.metric("mecha_upstream_abandoned_total{") > 0.0, "no answer came too late");
}

#[test]
fn everything_returns_after_a_server_closed_in_the_middle_of_replies() {
    let is_bad = Arc::new(AtomicBool::new(false));
    let bad = Arc::clone(&is_bad);
    let fake = Fake::store(move |stream, reply, count| {
        if bad.load(Ordering::SeqCst) && count > 20 && count % 7 == 0 {
            stream.write_all(&reply[..count % reply.len()])?;
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        stream.write_all(reply)
    });
    survives(&before(fake.port), 50_000, &is_bad, |work| work.suffers(40));
}

#[test]
fn everything_returns_after_a_server_sent_garbage() {
    const GARBAGE: [&[u8]; 5] = [
        b"\x00\xff\x13\x37\r\n",
        b"$-7\r\n",
        b"*999999999999\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$5\r\nabcdefg\r\n",
    ];
    let is_bad = Arc::new(AtomicBool::new(false));
    let bad = Arc::clone(&is_bad);
    let fake = Fake::store(move |stream, reply, count| {
        if bad.load(Ordering::SeqCst) && count > 20 && count % 5 == 0 {
            stream.write_all(GARBAGE[count / 5 % GARBAGE.len()])?;
        }
        stream.write_all(reply)
    });
    survives(&before(fake.port), 5_000, &is_bad, |work| work.suffers(40));
}

#[test]
fn everything_returns_after_clients_vanished_in_the_middle_of_requests() {
    let Some((_redis, port)) = redis() else { return };
    let mecha = before(port);
    assert_eq!(mecha.client().call(&format!("SET large {}", "x".repeat(1_000_000))), "+OK\r\n");
    // Dedicated connections that are given back clean are kept, a few for each worker: fill their places.
    let mut pinned: Vec<_> = (0..80).map(|_| mecha.client()).collect();
    pinned.iter_mut().for_each(|client| assert_eq!(client.call("MULTI"), "+OK\r\n"));
    pinned.iter_mut().for_each(|client| assert_eq!(client.call("EXEC"), "*0\r\n"));
    drop(pinned);
    let levels = mecha.warmed_up();
    assert_eq!(levels.upstreams, 2 + 2 * 16);
    let work = Work::start(&mecha, 1000);
    let large = frame(&["SET".to_string(), "part".to_string(), "y".repeat(400_000)]);
    for round in 0..40 {
        let mut clients: Vec<_> = (0..8).map(|_| mecha.client()).collect();
        // Each time they get a little further.
        clients[0].send(&frame(&["SET", "k", "0123456789"])[..round % 30 + 1]);
        clients[1].send(&frame(&["GET", "large"]).repeat(3));
        clients[2].send(&large[..10_000 * (round + 1) - 1]);
        clients[3].send(&frame(&["BLPOP", "nothing", "0"]));
        clients[4].send(&[frame(&["MULTI"]), frame(&["SET", "k", "1"])].concat());
        clients[5].send(&frame(&["SUBSCRIBE", "ch"]));
        clients[6].send(b"SELECT 3\r\nWATCH k\r\n");
        clients[7].send(b"GE");
        drop(clients);
    }
    work.goes_on(300);
    assert_eq!(work.failed(), 0, "others suffered");
    work.end();
    assert_eq!(mecha.client().call("EXISTS part k"), ":0\r\n", "half a request was run");
    mecha.returns_to(levels);
}

#[test]
fn everything_returns_after_ten_thousand_clients() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: usize = files.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(1024);
    let count = 10_000.min(limit.saturating_sub(limit / 4));
    let Some((_redis, port)) = redis() else { return };
    let mecha = before(port);
    assert_eq!(mecha.client().call(&format!("SET some {}", "x".repeat(4_000))), "+OK\r\n");
    let levels = mecha.warmed_up();
    let work = Work::start(&mecha, 1000);
    // Half a request makes a connection hold a buffer, an answer another.
    let wire = [frame(&["GET", "some"]), b"*2\r\n$3\r\nGET\r\n$4\r\nso".to_vec()].concat();
    let mut crowd: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&wire).unwrap();
            stream
        })
        .collect();
    for stream in &mut crowd {
        let mut answer = [0; 4_009];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"$4000\r\nxxx") && answer.ends_with(b"x\r\n"));
    }
    let most = mecha.levels();
    assert!(most.clients >= count as u64 && most.files >= levels.files + count, "{most:?}");
    work.goes_on(300);
    assert_eq!(work.failed(), 0, "others suffered");
    drop(crowd);
    work.end();
    mecha.returns_to(levels);
}

#[test]
fn everything_returns_after_clients_that_never_read() {
    let Some((_redis, port)) = redis() else { return };
    let mecha = before(port);
    assert_eq!(mecha.client().call(&format!("SET large {}", "x".repeat(100_000))), "+OK\r\n");
    let levels = mecha.warmed_up();
    let work = Work::start(&mecha, 1000);
    let wire = frame(&["GET", "large"]).repeat(300);
    let mut deaf: Vec<Client> = (0..6).map(|_| mecha.client()).collect();
    deaf.iter_mut().for_each(|client| client.send(&wire));
    work.goes_on(300);
    let most = mecha.levels();
    assert!(most.resident < levels.resident + (80 << 20), "{most:?}");
    assert_eq!(work.failed(), 0, "others suffered");
    work.end();
    drop(deaf);
    mecha.returns_to(levels);
}
