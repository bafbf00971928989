//! What the system and its operator ask the process.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP: read the configuration again. From the moment that this is made; before it, the signal ends the process. One that
/// comes while nobody waits is kept.
pub(super) struct Hangup(Signal);

/// SIGTERM and SIGINT: drain; the second time, end. As [`Hangup`].
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Hangup {
    /// To be called in a runtime.
    ///
    /// # Errors
    /// The system does not let signals be handled.
    pub(super) fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one; loses none when it is dropped.
    pub(super) async fn next(&mut self) {
        self.0.recv().await;
    }
}

impl Stop {
    /// As [`Hangup::new`].
    ///
    /// # Errors
    /// The system does not let signals be handled.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and returns its name; loses none when it is dropped.
    pub(super) async fn next(&mut self) -> &'static str {
        poll_fn(|cx| match (self.terminate.poll_recv(cx), self.interrupt.poll_recv(cx)) {
            (Poll::Ready(_), _) => Poll::Ready("SIGTERM"),
            (_, Poll::Ready(_)) => Poll::Ready("SIGINT"),
            _ => Poll::Pending,
        })
        .await
    }
}
