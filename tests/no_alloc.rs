//! Nothing is allocated for a command once the buffers have grown to their sizes.
//!
//! The data plane runs in this process as it does in `mecha`: the plan of a configuration, the worker's thread, the
//! acceptor, real sockets, and a real server of its own process behind them. A counting allocator sees every thread of
//! this process, so the clients here take care to allocate nothing either. Traffic is counted in windows; buffers may
//! still grow in the first ones, and then windows in a row must be free of any allocation.
//!
//! Values are small, so that no frame is cut in two by the end of a read: what is left of such a one is copied aside,
//! once for each read, into memory that an idle connection does not keep.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::time::Duration;

use mecha::acceptor::{Entrance, Orders, Prelude};
use mecha::assembly::Plan;
use mecha::mesh::Wiring;
use mecha::worker::Message;
use mecha::{acceptor, catalog, worker};
use mecha_telemetry::Registry;
use mecha_translate::kv::Started;
use mecha_transport::{Address, Clock};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time, as all of them share the counters.
static TURN: Mutex<()> = Mutex::new(());

const CLIENTS: usize = 4;
/// Rounds of every client in one window.
const ROUNDS: usize = 200;
/// Windows in a row that must be free of allocations.
const CLEAN: usize = 3;
/// Windows until then, at most.
const WINDOWS: usize = 40;

/// Five policies, as every measurement of the chain uses them.
const POLICIES: &str = "
      - access_log: { to: stderr, only: [errors, refused] }
      - circuit_breaker: { failures: 10 }
      - rate_limit: { permits: 1_000_000_000, per: 1s }
      - rate_limit: { permits: 900_000_000, per: 1s }
      - timeout: { after: 30s }";

/// A child that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// `None`, with a note, where it is not installed and not demanded.
    fn start(program: &str, args: &[&str], port_flag: &str) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(args).arg(port_flag).arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(_) if std::env::var_os("MECHA_REQUIRE_SERVERS").is_none() => {
                eprintln!("skipped: no {program}");
                return None;
            }
            Err(error) => panic!("{program}: {error}"),
        };
        let server = Self { child, port };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("{program} does not listen");
    }

    fn redis() -> Option<Self> {
        Self::start("redis-server", &["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], "--port")
    }

    fn memcached() -> Option<Self> {
        Self::start("memcached", &["-U", "0", "-u", "root", "-l", "127.0.0.1"], "-p")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data plane in this process.
struct Plane {
    address: std::net::SocketAddr,
    worker: worker::Worker,
    threads: Vec<std::thread::JoinHandle<()>>,
    orders: Orders,
}

impl Plane {
    fn start(door: &str, to: &str) -> Self {
        let text = format!(
            "listeners:\n  - name: front\n    listen: {door}://127.0.0.1:0\n    to: back\n    filters:{POLICIES}\n\
             clusters:\n  back:\n    to: {to}\nworkers: 1\n"
        );
        let snapshot = mecha_config::load(&text, "no_alloc.yaml", &catalog::known()).unwrap();
        let plan = Plan::new(Arc::new(snapshot), Registry::new(), Started { unix_seconds: 0 }, None);
        let plan = Arc::new(plan.unwrap());
        let (worker, thread) = worker::start(0, Clock::start(), Wiring::default()).unwrap();
        let bound = mecha_transport::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Address::Tcp(address) = bound.local_address().unwrap() else { panic!("not TCP") };
        let (opened, is_opened) = tokio::sync::oneshot::channel();
        worker.inbox.blocking_send(Message::Open(Arc::clone(&plan), opened)).unwrap();
        is_opened.blocking_recv().unwrap();
        let (orders, acceptor) = acceptor::start(vec![worker.clone()]).unwrap();
        let entrance = Entrance {
            socket: "front".into(),
            door: plan.doors[0].id,
            bound: Some(bound),
            prelude: Prelude::default(),
        };
        let (done, is_done) = tokio::sync::oneshot::channel();
        orders.blocking_send((vec![entrance], done)).unwrap();
        is_done.blocking_recv().unwrap();
        Self { address, worker, threads: vec![thread, acceptor], orders }
    }

    fn stop(self) {
        drop(self.orders);
        self.worker.inbox.blocking_send(Message::Drain).unwrap();
        drop(self.worker);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// What every client says in one round, and how many bytes it hears.
struct Round {
    request: Vec<u8>,
    reply: Vec<u8>,
    commands: usize,
}

impl Round {
    /// `depth` pairs of a request that stores and one that reads, each with the reply that a server gives.
    fn of(depth: usize, store: (&str, &str), read: (&str, &str)) -> Self {
        let (mut request, mut reply) = (String::new(), String::new());
        for index in 0..depth {
            let (say, hear) = if index % 2 == 0 { store } else { read };
            request.push_str(say);
            reply.push_str(hear);
        }
        Self { request: request.into(), reply: reply.into(), commands: depth }
    }

    fn resp(depth: usize, size: usize) -> Self {
        let value = "v".repeat(size);
        Self::of(
            depth,
            (&format!("*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n${size}\r\n{value}\r\n"), "+OK\r\n"),
            ("*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n", &format!("${size}\r\n{value}\r\n")),
        )
    }

    fn memcached(depth: usize, size: usize) -> Self {
        let value = "v".repeat(size);
        Self::of(
            depth,
            (&format!("set key:1 0 0 {size}\r\n{value}\r\n"), "STORED\r\n"),
            ("get key:1\r\n", &format!("VALUE key:1 0 {size}\r\n{value}\r\nEND\r\n")),
        )
    }
}

/// A client's socket and what it hears.
struct Client {
    socket: TcpStream,
    heard: Vec<u8>,
}

impl Client {
    fn connect(plane: &Plane, rounds: &[Round]) -> Self {
        let socket = TcpStream::connect(plane.address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let longest = rounds.iter().map(|round| round.reply.len()).max().unwrap_or(0);
        Self { socket, heard: vec![0; longest] }
    }

    /// One window's traffic. Whether every answer was the right one.
    fn talk(&mut self, rounds: &[Round]) -> bool {
        (0..ROUNDS).all(|_| {
            rounds.iter().all(|round| {
                let heard = &mut self.heard[..round.reply.len()];
                self.socket.write_all(&round.request).is_ok()
                    && self.socket.read_exact(heard).is_ok()
                    && heard == round.reply
            })
        })
    }
}

/// Runs windows until [`CLEAN`] of them in a row had at most `allowed` allocations per command. Panics with the count
/// of the last if that never happens.
fn assert_allocations(allowed: usize, name: &str, plane: &Plane, rounds: &[Round]) {
    let (start, end) = (Barrier::new(CLIENTS + 1), Barrier::new(CLIENTS + 1));
    let (is_over, is_wrong) = (AtomicBool::new(false), AtomicBool::new(false));
    let commands: usize = rounds.iter().map(|round| round.commands).sum::<usize>() * CLIENTS * ROUNDS;
    let (mut clean, mut last) = (0, 0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect(plane, rounds);
                loop {
                    start.wait();
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    if !client.talk(rounds) {
                        is_wrong.store(true, Ordering::Relaxed);
                    }
                    end.wait();
                }
            });
        }
        for _ in 0..WINDOWS {
            let region = Region::new(ALLOCATOR);
            start.wait();
            end.wait();
            let change = region.change();
            last = change.allocations + change.reallocations;
            clean = if last <= allowed * commands { clean + 1 } else { 0 };
            if clean == CLEAN || is_wrong.load(Ordering::Relaxed) {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        start.wait();
    });
    assert!(!is_wrong.into_inner(), "{name}: an answer was not the server's");
    assert!(clean == CLEAN, "{name}: {last} allocations in the last {commands} commands");
}

fn alone() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn check(allowed: usize, name: &str, door: &str, to: &str, round: fn(usize, usize) -> Round) {
    let plane = Plane::start(door, to);
    let both = [round(1, 64), read_only(round)];
    assert_allocations(allowed, &format!("{name} at depth 1"), &plane, &both);
    assert_allocations(allowed, &format!("{name} at depth 16"), &plane, &[round(16, 64)]);
    plane.stop();
}

/// The second of a pair alone.
fn read_only(round: fn(usize, usize) -> Round) -> Round {
    let (one, two) = (round(1, 64), round(2, 64));
    Round {
        request: two.request[one.request.len()..].to_vec(),
        reply: two.reply[one.reply.len()..].to_vec(),
        commands: 1,
    }
}

#[test]
fn the_count_sees_an_allocation_of_another_thread() {
    let _turn = alone();
    let region = Region::new(ALLOCATOR);
    std::thread::scope(|scope| {
        scope.spawn(|| std::hint::black_box(Box::new(1)));
    });
    assert!(region.change().allocations > 0);
}

#[test]
fn redis_clients_of_a_redis_cost_no_allocation_per_command() {
    let _turn = alone();
    let Some(redis) = Server::redis() else { return };
    check(0, "redis to redis", "redis", &format!("redis://127.0.0.1:{}", redis.port), Round::resp);
}

#[test]
fn memcached_clients_of_a_memcached_cost_no_allocation_per_command() {
    let _turn = alone();
    let Some(memcached) = Server::memcached() else { return };
    let to = format!("memcached://127.0.0.1:{}", memcached.port);
    check(0, "memcached to memcached", "memcached", &to, Round::memcached);
}

#[test]
fn redis_clients_of_a_memcached_cost_no_allocation_per_command() {
    let _turn = alone();
    let Some(memcached) = Server::memcached() else { return };
    let to = format!("memcached://127.0.0.1:{}", memcached.port);
    check(0, "redis to memcached", "redis", &to, Round::resp);
}

#[test]
fn memcached_clients_of_a_redis_cost_no_allocation_per_command() {
    let _turn = alone();
    let Some(redis) = Server::redis() else { return };
    check(
        0,
        "memcached to redis",
        "memcached",
        &format!("redis://127.0.0.1:{}", redis.port),
        Round::memcached,
    );
}

#[test]
fn redis_clients_of_the_store_cost_no_allocation_per_command() {
    let _turn = alone();
    check(0, "redis to the store", "redis", "embedded://", Round::resp);
}
