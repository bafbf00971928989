//! A storm of TLS handshakes beside clients that are there: full and resumed ones, some that stop in the middle, some
//! that are garbage. Those that are there feel it little, everybody who means it is served, and memory comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::support::{Mecha, eventually};
use super::tls::{Folder, TlsClient};

/// Clients that are there.
const ESTABLISHED: usize = 50;
/// Between two calls of one of them.
const PACE: Duration = Duration::from_millis(20);
/// Threads that the storm comes from.
const THREADS: usize = 8;
/// How long anything of the storm may take: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// Clients of one storm; `MECHA_STORM_CLIENTS=2000` is the whole thing.
fn count() -> usize {
    std::env::var("MECHA_STORM_CLIENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(400)
}

/// A client of the storm, whose first bytes are sent.
enum Comer {
    /// It goes on.
    Good(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// It never does, and holds its connection.
    Stuck { _socket: TcpStream },
    /// What it sends is no handshake.
    Garbage(TcpStream),
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    socket
}

fn greeted(config: &Arc<ClientConfig>, port: u16) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut socket = connect(port);
    while client.wants_write() {
        client.write_tls(&mut socket).unwrap();
    }
    StreamOwned::new(client, socket)
}

/// The configurations of full handshakes, and of those that resume: version 1.2, whose tickets serve more than once.
fn configurations(folder: &Folder) -> [Arc<ClientConfig>; 2] {
    let mut full = (*folder.config(None)).clone();
    full.resumption = Resumption::disabled();
    [Arc::new(full), folder.config_of(&[&TLS12], None)]
}

/// One thread's part: everybody says its first words before anybody goes on.
fn come(folder: &Folder, number: usize, port: u16, all_there: &Barrier) -> Vec<Comer> {
    let [full, resumed] = configurations(folder);
    // This session is what the others resume.
    let mut first = greeted(&resumed, port);
    first.write_all(b"PING\r\n").unwrap();
    first.read_exact(&mut [0; 7]).unwrap();
    all_there.wait();
    let mut comers: Vec<_> = (0..count() / THREADS)
        .map(|at| match at % 8 {
            0 => {
                let mut socket = connect(port);
                // The header of a record that never comes whole.
                socket.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
                Comer::Stuck { _socket: socket }
            }
            1 => {
                let mut socket = connect(port);
                let garbage: &[u8] = if number.is_multiple_of(2) { &[0x16; 3000] } else { &[0x80; 700] };
                // It may be closed already.
                let _ = socket.write_all(garbage);
                Comer::Garbage(socket)
            }
            2 | 3 => Comer::Good(Box::new(greeted(&resumed, port))),
            _ => Comer::Good(Box::new(greeted(&full, port))),
        })
        .collect();
    for comer in &mut comers {
        match comer {
            Comer::Good(client) => {
                client.write_all(b"PING\r\n").unwrap();
                let mut answer = [0; 7];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"+PONG\r\n");
            }
            Comer::Garbage(socket) => {
                // The end, or a reset where not everything was read; not the silence that the time limit ends.
                let start = Instant::now();
                let _ = socket.read_to_end(&mut Vec::new());
                assert!(start.elapsed() < LIMIT, "garbage is not answered");
            }
            Comer::Stuck { .. } => {}
        }
    }
    comers
}

/// The established clients' latencies since the last time they were asked for.
#[derive(Default)]
struct Seen(Mutex<Vec<Duration>>);

impl Seen {
    /// What comes next is told apart from what was seen so far.
    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    fn p99(&self) -> Duration {
        let mut times = std::mem::take(&mut *self.0.lock().unwrap());
        assert!(times.len() > ESTABLISHED, "hardly anybody was served: {}", times.len());
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }
}

fn resident_settles(mecha: &Mecha) -> f64 {
    mecha.settles();
    eventually("handshakes that are over keep their places", || {
        mecha.metric("mecha_tls_handshakes_under_way{") == 0.0
    });
    mecha.resident_mib()
}

#[test]
fn clients_that_are_there_do_not_feel_a_storm_of_handshakes() {
    let folder = Arc::new(Folder::new("handshakes"));
    let mecha = folder.mecha("rediss", ", handshake_timeout: 60s", "embedded://");
    let port = mecha.port;
    let (is_over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let config = folder.config(None);
    let established: Vec<_> = (0..ESTABLISHED)
        .map(|number| {
            let mut client = TlsClient::new(&config, port);
            let (is_over, seen) = (Arc::clone(&is_over), Arc::clone(&seen));
            std::thread::spawn(move || {
                let mut round = 0;
                while !is_over.load(Ordering::Relaxed) {
                    round += 1;
                    let word = format!("{number:02}-{round:06}");
                    let sent = Instant::now();
                    // Any error, and any answer but its own, ends the test.
                    client
                        .call(format!("ECHO {word}\r\n").as_bytes(), format!("$9\r\n{word}\r\n").as_bytes());
                    seen.0.lock().unwrap().push(sent.elapsed());
                    std::thread::sleep(PACE);
                }
            })
        })
        .collect();
    // The first calls are the handshakes themselves.
    eventually("the established are served", || seen.0.lock().unwrap().len() > 5 * ESTABLISHED);
    seen.forget();
    std::thread::sleep(Duration::from_millis(1500));
    let before = seen.p99();
    let mut levels = Vec::new();
    for _ in 0..3 {
        let all_there = Arc::new(Barrier::new(THREADS));
        let start = Instant::now();
        let storm: Vec<_> = (0..THREADS)
            .map(|number| {
                let (folder, all_there) = (Arc::clone(&folder), Arc::clone(&all_there));
                std::thread::spawn(move || come(&folder, number, port, &all_there))
            })
            .collect();
        let comers: Vec<_> = storm.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let during = seen.p99();
        eprintln!(
            "{} came in {:?}: p99 {before:?} before, {during:?} meanwhile",
            comers.len(),
            start.elapsed()
        );
        assert!(
            during < before * 10 + Duration::from_millis(250),
            "p99 {before:?} before, {during:?} meanwhile"
        );
        assert!(established.iter().all(|client| !client.is_finished()), "an established client has failed");
        // Those who stop in the middle hold their places, and nobody else's.
        let stuck = comers.iter().filter(|comer| matches!(comer, Comer::Stuck { .. })).count();
        eventually("not only those who are stuck are under way", || {
            mecha.metric("mecha_tls_handshakes_under_way{") == stuck as f64
        });
        drop(comers);
        eventually("the storm is not over", || {
            mecha.metric("mecha_client_connections{") == ESTABLISHED as f64
                && mecha.metric("mecha_tls_handshakes_under_way{") == 0.0
        });
        levels.push(mecha.resident_mib());
        seen.forget();
    }
    is_over.store(true, Ordering::Relaxed);
    established.into_iter().for_each(|client| client.join().unwrap());
    let resident = resident_settles(&mecha);
    eprintln!("resident after each storm {levels:?}, at the end {resident} MiB");
    // What the first storm made the allocator keep is enough for every other.
    assert!(levels[2] < levels[0] + 4.0 && resident < levels[0] + 4.0, "{levels:?}, then {resident} MiB");
    let good = count() / THREADS / 8 * 2 * THREADS * 3;
    let resumed = mecha.metric("mecha_tls_sessions_total{listener=\"resp\",resumed=\"true\"");
    assert!(resumed >= good as f64, "{resumed} sessions were resumed");
    let invalid = mecha.metric("mecha_tls_handshakes_total{listener=\"resp\",result=\"invalid\"}");
    assert!(invalid > 0.0, "garbage is not counted");
}
