//! Logs, on standard error.
//!
//! Workers log too, and a terminal or a pipe that nobody reads must not stop them: a thread writes, fed through a
//! bounded queue. A line that finds no room is counted and dropped, and the count is told when there is room again.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// Lines that may wait for the thread.
const QUEUE: usize = 1024;
/// How long the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

static LINES: OnceLock<SyncSender<Entry>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Entry {
    Flush(SyncSender<()>),
    Line(Vec<u8>),
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Starts logging. `level` is `error`, `warn`, `info`, `debug` or `trace`; anything else counts as `info`. A second call
/// changes nothing.
pub fn init_logs(format: LogFormat, level: &str) {
    let (lines, received) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("mecha-log".into()).spawn(move || write_all(&received));
    if thread.is_err() || LINES.set(lines).is_err() {
        return;
    }
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let is_colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Queue::default)
        .with_ansi(is_colored)
        .with_target(false);
    // An error means that logging has been started already.
    let _ = match format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.try_init(),
    };
}

/// Waits until the lines so far are written, a second at most.
pub fn flush_logs() {
    let (done, wait) = sync_channel(1);
    if LINES.get().is_some_and(|lines| lines.try_send(Entry::Flush(done)).is_ok()) {
        // Whoever reads the log may have stopped.
        let _ = wait.recv_timeout(PATIENCE);
    }
}

/// Log lines that found no room since the process started.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Collects one line and hands it over when it is complete.
#[derive(Default)]
struct Queue(Vec<u8>);

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.0);
        if !line.is_empty() && LINES.get().is_none_or(|lines| lines.try_send(Entry::Line(line)).is_err()) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(entries: &Receiver<Entry>) {
    let (mut stderr, mut told) = (std::io::stderr(), 0);
    for entry in entries {
        match entry {
            Entry::Flush(done) => {
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
            Entry::Line(line) => {
                // Without a reader there is nobody to complain to.
                let _ = stderr.write_all(&line);
            }
        }
        let lost = dropped();
        if lost > told {
            tracing::warn!(
                lines = lost - told,
                "log lines were dropped: standard error is not read fast enough"
            );
            told = lost;
        }
    }
}
