//! Where access logs are written: one thread, fed through a bounded queue.
//!
//! A worker hands over a batch of records at a time and never waits: when the queue is full the records are counted as
//! dropped. The thread formats and writes.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use mecha_telemetry::Registry;
use mecha_telemetry::prometheus::IntCounter;

/// Batches that may wait for the thread.
const QUEUE: usize = 1024;

/// One line still to be formatted.
pub(crate) trait Line: Send {
    /// Appends the text with its line end.
    fn write(&self, out: &mut Vec<u8>);
}

enum Entry {
    Lines(Arc<Target>, Box<dyn Line>),
    Flush(SyncSender<()>),
}

/// A file or a standard stream.
pub(crate) struct Target(Mutex<Box<dyn Write + Send>>);

impl Target {
    /// `stdout`, `stderr`, or a path to append to.
    pub(crate) fn open(name: &str) -> std::io::Result<Self> {
        let out: Box<dyn Write + Send> = match name {
            "stdout" => Box::new(std::io::stdout()),
            "stderr" => Box::new(std::io::stderr()),
            path => Box::new(BufWriter::new(OpenOptions::new().create(true).append(true).open(path)?)),
        };
        Ok(Self(Mutex::new(out)))
    }

    fn with(&self, act: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> bool {
        act(&mut **self.0.lock().unwrap_or_else(PoisonError::into_inner)).is_ok()
    }
}

/// The process' access log thread. Starts with the first target.
#[derive(Clone)]
pub struct LogSink {
    inner: Arc<Inner>,
}

struct Inner {
    sender: Mutex<Option<SyncSender<Entry>>>,
    dropped: Option<IntCounter>,
}

impl LogSink {
    /// Nothing is started yet.
    pub fn new(registry: &Registry) -> Self {
        let dropped =
            IntCounter::new("mecha_access_log_dropped_total", "Access log records that found no room.").ok();
        if let Some(dropped) = &dropped {
            // Taken only in tests that share a registry.
            let _ = registry.prometheus().register(Box::new(dropped.clone()));
        }
        Self { inner: Arc::new(Inner { sender: Mutex::new(None), dropped }) }
    }

    /// A queue to the thread, which is started if it is not running.
    pub(crate) fn queue(&self) -> std::io::Result<Queue> {
        let mut sender = self.inner.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &*sender {
            Some(sender) => sender.clone(),
            None => {
                let (fresh, entries) = sync_channel(QUEUE);
                std::thread::Builder::new()
                    .name("mecha-access-log".into())
                    .spawn(move || write_all(&entries))?;
                sender.insert(fresh).clone()
            }
        };
        Ok(Queue { sender, dropped: self.inner.dropped.clone() })
    }

    /// Waits until everything handed over so far is written.
    pub fn flush(&self) {
        let sender = self.inner.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, wait) = sync_channel(1);
        if sender.is_some_and(|sender| sender.send(Entry::Flush(done)).is_ok()) {
            // An error means that the thread is gone, and nothing is left to wait for.
            let _ = wait.recv();
        }
    }
}

/// A worker's way to the thread.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: SyncSender<Entry>,
    dropped: Option<IntCounter>,
}

impl Queue {
    /// Hands `lines` over, or counts `count` records as dropped.
    pub(crate) fn send(&self, target: &Arc<Target>, lines: Box<dyn Line>, count: usize) {
        let sent = self.sender.try_send(Entry::Lines(Arc::clone(target), lines));
        if let (Err(TrySendError::Full(_) | TrySendError::Disconnected(_)), Some(dropped)) =
            (sent, &self.dropped)
        {
            dropped.inc_by(count as u64);
        }
    }
}

fn write_all(entries: &Receiver<Entry>) {
    let mut text = Vec::new();
    let mut targets: Vec<Arc<Target>> = Vec::new();
    let mut is_failing = false;
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Lines(target, lines) => {
                text.clear();
                lines.write(&mut text);
                let is_written = target.with(|out| out.write_all(&text));
                if !is_written && !is_failing {
                    tracing::error!("access log cannot be written");
                }
                is_failing = !is_written;
                if !targets.iter().any(|known| Arc::ptr_eq(known, &target)) {
                    targets.push(target);
                }
            }
            Entry::Flush(done) => {
                targets.iter().for_each(|target| {
                    target.with(|out| out.flush());
                });
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
        }
    }
}
