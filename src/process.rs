//! The life of the process: start, readiness, signals, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mecha_config::Snapshot;
use mecha_telemetry::Registry;
use mecha_translate::kv::Started;
use mecha_transport::{Address, Bound, Clock, unix_ms};
use tokio::sync::watch;

use crate::assembly::Plan;
use crate::worker::{Message, Worker};
use crate::{acceptor, admin, catalog, cli, worker};

mod describe;
mod screen;

/// Expired keys of embedded stores are looked for this often.
const SWEEP: Duration = Duration::from_millis(100);
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
    let is_demo = arguments.is_demo();
    let snapshot = match arguments.snapshot(&catalog::known()) {
        Ok(snapshot) => snapshot,
        Err(errors) => return fail(&errors),
    };
    let format = match snapshot.log.format {
        mecha_config::LogFormat::Json => mecha_telemetry::LogFormat::Json,
        mecha_config::LogFormat::Text => mecha_telemetry::LogFormat::Text,
    };
    mecha_telemetry::init_logs(format, &snapshot.log.level);
    match run(Arc::new(snapshot), is_demo) {
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
    plan: Arc<Plan>,
    workers: Vec<Worker>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop_accepting: watch::Sender<bool>,
    admin: Option<Arc<admin::AdminState>>,
}

fn run(snapshot: Arc<Snapshot>, is_demo: bool) -> Result<(), String> {
    let clock = Clock::start();
    mecha_transport::raise_open_files_limit();
    let started = Started { unix_seconds: unix_ms() / 1000 };
    let registry = Registry::new();
    let plan = Plan::new(Arc::clone(&snapshot), registry, started).map_err(|errors| screen::all(&errors))?;
    let plan = Arc::new(plan);
    let bound = bind_all(&snapshot)?;
    let addresses: Vec<_> = bound.iter().filter_map(|bound| bound.local_address().ok()).collect();
    let admin_socket = snapshot.admin.map(bind_admin).transpose()?;
    let admin_address = admin_socket.as_ref().and_then(|socket| socket.local_addr().ok());

    let (stop_accepting, is_stopping) = watch::channel(false);
    let mut running = Running {
        plan: Arc::clone(&plan),
        workers: Vec::new(),
        threads: Vec::new(),
        stop_accepting,
        admin: None,
    };
    for index in 0..snapshot.workers.max(1) {
        let (worker, thread) = worker::start(index, Arc::clone(&plan), clock)
            .map_err(|error| format!("cannot start a worker: {error}"))?;
        running.workers.push(worker);
        running.threads.push(thread);
    }
    acceptor::start(bound, running.workers.clone(), is_stopping)
        .map_err(|error| format!("cannot start the acceptor: {error}"))?;
    let (drain_now, drain_asked) = watch::channel(false);
    let _admin = match admin_socket {
        Some(socket) => {
            let state = Arc::new(describe::admin_state(&plan, &running.workers, &addresses, drain_now));
            let handle =
                admin::start(socket, Arc::clone(&state)).map_err(|error| format!("admin server: {error}"))?;
            state.ready.store(true, Ordering::Release);
            running.admin = Some(state);
            Some(handle)
        }
        None => None,
    };
    eprintln!("{}", screen::started(&snapshot, &addresses, admin_address, is_demo, clock.micros()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the control runtime: {error}"))?;
    runtime.block_on(running.until_drained(drain_asked))
}

impl Running {
    /// Waits for a signal, then ends every connection within the configured time.
    async fn until_drained(self, drain_asked: watch::Receiver<bool>) -> Result<(), String> {
        let stores: Vec<_> = self.plan.shared.stores.values().cloned().collect();
        let sweeping = async {
            let mut every = tokio::time::interval(SWEEP);
            loop {
                every.tick().await;
                for store in &stores {
                    store.sweep(unix_ms(), SWEEP_BUDGET);
                }
            }
        };
        let why = tokio::select! {
            signal = signal() => signal.map_err(|error| format!("cannot wait for signals: {error}"))?,
            () = asked(drain_asked) => "the admin server",
            () = sweeping => "nobody",
        };
        tracing::info!(by = why, "draining");
        if let Some(admin) = &self.admin {
            admin.ready.store(false, Ordering::Release);
        }
        // The receiver may be gone already; then nothing is accepted either.
        let _ = self.stop_accepting.send(true);
        for worker in &self.workers {
            let _ = worker.inbox.send(Message::Drain).await;
        }
        let deadline = tokio::time::Instant::now() + self.plan.snapshot.drain_timeout;
        let is_done = || self.threads.iter().all(std::thread::JoinHandle::is_finished);
        while !is_done() && tokio::time::Instant::now() < deadline {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                // A second signal means: now.
                _ = signal() => break,
            }
        }
        let left: usize = self.workers.iter().map(Worker::load).sum();
        self.plan.shared.log.flush();
        if is_done() {
            tracing::info!("drained");
        } else {
            tracing::warn!(connections = left, "drain timeout: connections were cut off");
        }
        Ok(())
    }
}

/// Waits for SIGTERM or SIGINT and returns its name.
async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

async fn asked(mut drain: watch::Receiver<bool>) {
    if drain.wait_for(|is_asked| *is_asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn bind_all(snapshot: &Snapshot) -> Result<Vec<Bound>, String> {
    let mut bound = Vec::new();
    for listener in &snapshot.listeners {
        let address = match &listener.address {
            mecha_config::Address::Tcp(addr) => Address::Tcp(*addr),
            mecha_config::Address::Unix(path) => Address::Unix(path.clone()),
        };
        let socket = mecha_transport::bind(&address).map_err(|error| {
            screen::cannot_bind(&format!("listener `{}`", listener.name), &address, &error)
        })?;
        bound.push(socket);
    }
    Ok(bound)
}

fn bind_admin(addr: std::net::SocketAddr) -> Result<std::net::TcpListener, String> {
    let socket = std::net::TcpListener::bind(addr);
    socket.map_err(|error| screen::cannot_bind("admin server", &Address::Tcp(addr), &error))
}
