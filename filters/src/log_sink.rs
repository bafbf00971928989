//! Where access logs are written: one thread, fed through a bounded queue.
//!
//! A worker hands over a batch of records at a time and never waits: when the queue is full the records are counted as
//! dropped. The thread formats and writes.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mecha_telemetry::Registry;
use mecha_telemetry::prometheus::IntCounter;

/// Batches that may wait for the thread.
const QUEUE: usize = 1024;
/// Lines do not stay in a buffer for longer.
const FLUSH: Duration = Duration::from_secs(1);

/// One line still to be formatted.
pub(crate) trait Line: Send {
    /// Appends the text with its line end.
    fn write(&self, out: &mut Vec<u8>);
}

enum Entry {
    Lines(Arc<Target>, Box<dyn Line>),
    Flush(SyncSender<()>),
    Reopen,
}

/// A file or a standard stream. Only the thread touches it: opening and writing may block.
pub(crate) struct Target {
    path: Option<PathBuf>,
    out: Mutex<Option<Box<dyn Write + Send>>>,
}

impl Target {
    /// `stdout`, `stderr`, or a path to append to, which is opened for the first line.
    ///
    /// # Errors
    /// No file can be at that path.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
        let (path, out): (_, Option<Box<dyn Write + Send>>) = match name {
            "stdout" => (None, Some(Box::new(std::io::stdout()))),
            "stderr" => (None, Some(Box::new(std::io::stderr()))),
            path => (Some(PathBuf::from(path)), None),
        };
        if let Some(path) = &path {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if folder.is_some_and(|folder| !folder.is_dir()) {
                return Err(format!("the directory of `{name}` does not exist"));
            }
            if path.is_dir() || path.file_name().is_none() {
                return Err(format!("`{name}` is a directory"));
            }
        }
        Ok(Self { path, out: Mutex::new(out) })
    }

    fn with(&self, act: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.is_none()
            && let Some(path) = &self.path
        {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            *out = Some(Box::new(BufWriter::new(file)));
        }
        out.as_mut().map_or(Ok(()), |out| act(&mut **out))
    }

    /// Lets go of a file, so that the next line opens whatever is at its path then.
    fn reopen(&self) {
        if self.path.is_some() {
            *self.out.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
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

    /// Waits until everything handed over so far is written, a second at most: whoever reads the log may have stopped.
    pub fn flush(&self) {
        let sender = self.inner.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, wait) = sync_channel(1);
        if let Some(sender) = sender
            && sender.try_send(Entry::Flush(done)).is_ok()
        {
            // An error means that the thread is gone or stuck: there is nothing left to wait for.
            let _ = wait.recv_timeout(FLUSH);
        }
    }

    /// Opens files anew, after somebody has moved them away.
    pub fn reopen(&self) {
        let sender = self.inner.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            // A thread that is stuck keeps its files.
            let _ = sender.try_send(Entry::Reopen);
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
    let mut targets: Vec<Weak<Target>> = Vec::new();
    let mut is_failing = false;
    let flush = |targets: &[Weak<Target>]| {
        for target in targets.iter().filter_map(Weak::upgrade) {
            // The next line finds out whether that is lasting.
            let _ = target.with(|out| out.flush());
        }
    };
    loop {
        let entry = match entries.recv_timeout(FLUSH) {
            Ok(entry) => entry,
            Err(RecvTimeoutError::Timeout) => {
                flush(&targets);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return flush(&targets),
        };
        match entry {
            Entry::Lines(target, lines) => {
                text.clear();
                lines.write(&mut text);
                let written = target.with(|out| out.write_all(&text));
                if let (Err(error), false) = (&written, is_failing) {
                    tracing::error!(%error, "access log cannot be written");
                }
                is_failing = written.is_err();
                targets.retain(|known| known.strong_count() > 0);
                if !targets.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&target))) {
                    targets.push(Arc::downgrade(&target));
                }
            }
            Entry::Flush(done) => {
                flush(&targets);
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
            Entry::Reopen => {
                flush(&targets);
                targets.iter().filter_map(Weak::upgrade).for_each(|target| target.reopen());
            }
        }
    }
}
