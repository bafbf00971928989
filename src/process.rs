//! The life of the process: start, readiness, signals, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mecha_config::{ListenerSpec, Snapshot, Transparent};
use mecha_telemetry::Registry;
use mecha_translate::kv::Started;
use mecha_transport::{
    Address, Bound, Clock, limit_free_memory, release_free_memory, resident_bytes, unix_ms,
};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::memory::Memory;
use self::reload::{InForce, Outcomes, Prepared, Sockets, Watch, socket_of, sockets_of, tell_bound};
use self::signals::{Hangup, Stop};
use crate::acceptor::Orders;
use crate::assembly::Plan;
use crate::intercept::OWN_MARK;
use crate::mesh::Wiring;
use crate::worker::{Message, Worker};
use crate::{acceptor, admin, catalog, cli, worker};

mod describe;
mod memory;
mod reload;
mod screen;
mod signals;

/// Expired keys of embedded stores are looked for this often.
const SWEEP: Duration = Duration::from_millis(100);
/// How often certificate files are looked at.
const CERTIFICATES: Duration = Duration::from_secs(2);
/// Keys looked at in one sweep, so that a sweep is short however many keys there are.
const SWEEP_BUDGET: usize = 10_000;

/// Runs the command line. The process' exit code is 0 after a clean drain, 1 after an error, 2 for a wrong command
/// line.
pub fn main() -> ExitCode {
    match cli::parse() {
        cli::Command::Run(arguments) => run_command(&arguments),
        cli::Command::Tell(what) => cli::tell(&what, &catalog::known(), &catalog::help()),
    }
}

fn run_command(arguments: &cli::RunArgs) -> ExitCode {
    limit_free_memory();
    // Before anything that takes time: who has the configuration read again must not end a process that is starting.
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let control = control.and_then(|runtime| {
        let hangup = runtime.block_on(async { Hangup::new() })?;
        Ok((runtime, hangup))
    });
    let control = match control {
        Ok(control) => control,
        Err(error) => return fail(&format!("cannot start the control runtime: {error}")),
    };
    let is_demo = arguments.is_demo();
    // Looked at before it is read: a change that comes while the process starts must not be missed.
    let file = Watch::new(arguments.file().map(Into::into));
    let snapshot = match arguments.snapshot(&catalog::known()) {
        Ok(snapshot) => snapshot,
        Err(errors) => return fail(&errors),
    };
    let mut file = file;
    file.look_at(&snapshot.secret_files);
    let format = match snapshot.log.format {
        mecha_config::LogFormat::Json => mecha_telemetry::LogFormat::Json,
        mecha_config::LogFormat::Text => mecha_telemetry::LogFormat::Text,
    };
    mecha_telemetry::init_logs(format, &snapshot.log.level);
    let ended = run(Arc::new(snapshot), arguments, file, is_demo, control);
    mecha_telemetry::flush_logs();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("mecha: {message}");
    ExitCode::FAILURE
}

/// Everything that must exist before the first client is served.
struct Running {
    arguments: cli::RunArgs,
    in_force: Arc<InForce>,
    outcomes: Outcomes,
    workers: Vec<Worker>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// `None` once the process drains.
    orders: Option<Orders>,
    admin: Option<Arc<admin::AdminState>>,
}

fn run(
    snapshot: Arc<Snapshot>,
    arguments: &cli::RunArgs,
    file: Watch,
    is_demo: bool,
    (runtime, hangup): (Runtime, Hangup),
) -> Result<(), String> {
    let clock = Clock::start();
    mecha_transport::raise_open_files_limit();
    let started = Started { unix_seconds: unix_ms() / 1000 };
    let registry = Registry::new();
    let plan =
        Plan::new(Arc::clone(&snapshot), registry, started, None).map_err(|errors| screen::all(&errors))?;
    let plan = Arc::new(plan);
    // From here on there is something to drain.
    let stop = runtime.block_on(async { Stop::new() });
    let stop = stop.map_err(|error| format!("cannot wait for signals: {error}"))?;
    mark_outgoing(&snapshot);
    let (mut bound, mut sockets) = (Vec::new(), Sockets::new());
    for listener in &snapshot.listeners {
        for (socket, address) in sockets_of(listener) {
            let fresh = bind(listener, &address)?;
            sockets.extend(fresh.local_address().ok().map(|address| (socket.clone(), address)));
            bound.push((socket, fresh));
        }
    }
    let addresses: Vec<_> =
        snapshot.listeners.iter().filter_map(|listener| sockets.get(&socket_of(listener)).cloned()).collect();
    tell_bound(&plan, &sockets)?;
    let admin_socket = snapshot.admin.map(bind_admin).transpose()?;
    let admin_address = admin_socket.as_ref().and_then(|socket| socket.local_addr().ok());

    let in_force = InForce::new(Arc::clone(&plan), sockets);
    let mut running = Running {
        arguments: arguments.clone(),
        in_force: Arc::clone(&in_force),
        outcomes: Outcomes::new(&plan.shared.registry),
        workers: Vec::new(),
        threads: Vec::new(),
        orders: None,
        admin: None,
    };
    plan.shared.watch().map_err(|error| format!("cannot start looking at servers: {error}"))?;
    let wiring = Wiring::default();
    for index in 0..snapshot.workers.max(1) {
        let (worker, thread) = worker::start(index, clock, wiring.clone())
            .map_err(|error| format!("cannot start a worker: {error}"))?;
        running.workers.push(worker);
        running.threads.push(thread);
    }
    wiring.join(&running.workers);
    let (orders, _) = acceptor::start(running.workers.clone())
        .map_err(|error| format!("cannot start the acceptor: {error}"))?;
    running.orders = Some(orders);
    let (drain_now, drain_asked) = watch::channel(false);
    let _admin = match admin_socket {
        Some(socket) => {
            let state = Arc::new(describe::admin_state(in_force, &running.workers, drain_now));
            let handle =
                admin::start(socket, Arc::clone(&state)).map_err(|error| format!("admin server: {error}"))?;
            running.admin = Some(state);
            Some(handle)
        }
        None => None,
    };
    runtime.block_on(async move {
        let opening = Prepared { plan: Arc::clone(&plan), bound, sockets: running.in_force.get().1 };
        running.put_in_force(opening).await;
        if let Some(admin) = &running.admin {
            admin.ready.store(true, Ordering::Release);
        }
        eprintln!("{}", screen::started(&snapshot, &addresses, admin_address, is_demo, clock.micros()));
        running.until_drained(drain_asked, file, (hangup, stop), clock).await
    })
}

impl Running {
    /// Waits for a signal, then ends every connection within the configured time.
    async fn until_drained(
        mut self,
        drain_asked: watch::Receiver<bool>,
        mut file: Watch,
        (mut hangup, mut stop): (Hangup, Stop),
        clock: Clock,
    ) -> Result<(), String> {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut certificates = tokio::time::interval(CERTIFICATES);
        let mut look = tokio::time::interval(memory::LOOK);
        let mut memory = Memory::new(resident_bytes(), clock.micros());
        let mut asked = std::pin::pin!(asked(drain_asked));
        let changed = file.changed();
        let mut changed = Box::pin(changed);
        let why = loop {
            let because = tokio::select! {
                signal = stop.next() => break signal,
                () = &mut asked => break "the admin server",
                _ = sweep.tick() => {
                    for store in self.in_force.get().0.shared.stores.values() {
                        store.sweep(unix_ms(), SWEEP_BUDGET);
                    }
                    continue;
                }
                _ = certificates.tick() => {
                    self.in_force.get().0.reload_certificates();
                    continue;
                }
                _ = look.tick() => {
                    let (resident, clients) = (resident_bytes(), self.workers.iter().map(Worker::load).sum());
                    if memory.is_due(resident, clients, clock.micros()) {
                        release_free_memory();
                        memory.tried(resident, resident_bytes(), clock.micros());
                    }
                    continue;
                }
                () = hangup.next() => "SIGHUP",
                () = &mut changed => "a change of the file",
            };
            self.reload(because).await;
            drop(changed);
            file.look_at(&self.in_force.get().0.snapshot.secret_files);
            changed = Box::pin(file.changed());
        };
        tracing::info!(by = why, "draining");
        if let Some(admin) = &self.admin {
            admin.ready.store(false, Ordering::Release);
        }
        // The acceptor ends and closes its sockets.
        self.orders = None;
        for worker in &self.workers {
            let _ = worker.inbox.send(Message::Drain).await;
        }
        let plan = self.in_force.get().0;
        let deadline = tokio::time::Instant::now() + plan.snapshot.drain_timeout;
        let is_done = || self.threads.iter().all(std::thread::JoinHandle::is_finished);
        while !is_done() && tokio::time::Instant::now() < deadline {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                // A second signal means: now.
                _ = stop.next() => break,
            }
        }
        let left: usize = self.workers.iter().map(Worker::load).sum();
        plan.shared.log.flush();
        if is_done() {
            tracing::info!("drained");
        } else {
            tracing::warn!(connections = left, "drain timeout: connections were cut off");
        }
        Ok(())
    }
}

async fn asked(mut drain: watch::Receiver<bool>) {
    if drain.wait_for(|is_asked| *is_asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn bind(listener: &ListenerSpec, address: &mecha_config::Address) -> Result<Bound, String> {
    let is_own = *address == listener.address;
    let address = match address {
        mecha_config::Address::Tcp(addr) => Address::Tcp(*addr),
        mecha_config::Address::Unix(path) => Address::Unix(path.clone()),
    };
    let bound = match listener.transparent {
        Transparent::Tproxy => mecha_transport::bind_transparent(&address),
        Transparent::None | Transparent::Redirect => mecha_transport::bind(&address),
    };
    bound.map_err(|error| {
        let what = format!("listener `{}`", listener.name);
        match &listener.brokers {
            Some(brokers) if !is_own => screen::cannot_reach_brokers(&what, &address, &error, brokers.count),
            _ => screen::cannot_bind(&what, &address, &error),
        }
    })
}

/// Marks what this process sends, where it stands among the connections that are led to it.
fn mark_outgoing(snapshot: &Snapshot) {
    let is_transparent = |listener: &ListenerSpec| listener.transparent != Transparent::None;
    let keeper = snapshot.clusters.iter().find(|cluster| cluster.keeps_source);
    if let Some(cluster) = keeper
        && let Err(error) = mecha_transport::may_keep_source()
    {
        tracing::error!(cluster = cluster.name, %error, "clients' addresses cannot be kept (`keep_source`): it takes CAP_NET_ADMIN");
    }
    if (keeper.is_some() || snapshot.listeners.iter().any(is_transparent))
        && let Err(error) = mecha_transport::mark_outgoing(OWN_MARK)
    {
        tracing::warn!(%error, "own connections cannot be marked: rules must exclude this process' user (--exclude-uid)");
    }
}

fn bind_admin(addr: std::net::SocketAddr) -> Result<std::net::TcpListener, String> {
    let socket = std::net::TcpListener::bind(addr);
    socket.map_err(|error| screen::cannot_bind("admin server", &Address::Tcp(addr), &error))
}
