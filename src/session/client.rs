//! The task of one client.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mecha_clusters::ReplySink;
use mecha_core::{ConnKey, Framed, Peer};
use mecha_telemetry::{CloseReason, ListenerMetrics};
use mecha_transport::{Clock, Intake, ReadHalf, WriteHalf};

use tokio::io::{AsyncRead, ReadBuf};

use super::Place;
use super::connection::{Client, Listener, OpenRequest};
use super::engine::EngineCell;

/// Reads in a row before other clients get their turn.
const READS_PER_POLL: usize = 4;

/// What a client's task borrows from its worker.
pub struct ClientTask<P: Framed> {
    /// The engine.
    pub engine: Rc<EngineCell<P>>,
    /// All clients of a worker read into this buffer, one at a time.
    pub scratch: Rc<RefCell<Vec<u8>>>,
    /// The worker's clock.
    pub clock: Clock,
}

/// How long, and for how many bytes, a client whose connection is ended may go on sending.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 4 << 20;

/// Bytes that are read from a client while an earlier batch of it waits, only to notice its end.
const READ_AHEAD: usize = 64 << 10;

/// The reading side of one client.
struct Reading {
    half: ReadHalf,
    intake: Intake,
    /// What is held was read ahead, and nobody has looked at it.
    is_ahead: bool,
    /// The client has ended its side.
    is_ended: bool,
}

/// Serves one client to its end.
pub async fn serve<P: Framed>(
    task: ClientTask<P>,
    listener: Rc<Listener<P>>,
    place: Place,
    peer: Peer,
    (read, write): (ReadHalf, WriteHalf),
) {
    let conn = task.engine.open(&listener, place, peer, write);
    let mut leaving = Leaving { engine: Rc::clone(&task.engine), conn, why: CloseReason::Bug };
    let sink: Rc<dyn ReplySink<P>> = Rc::clone(&task.engine) as _;
    let mut reading = Reading { half: read, intake: Intake::default(), is_ahead: false, is_ended: false };
    // Not the listener itself: its client may follow a newer one, and then nothing may keep the old one's upstreams.
    let metrics = Arc::clone(&listener.metrics);
    drop(listener);
    leaving.why = std::future::poll_fn(|cx| task.poll(cx, conn, &sink, &metrics, &mut reading)).await;
    if matches!(
        leaving.why,
        CloseReason::Drained | CloseReason::Protocol | CloseReason::Quit | CloseReason::Refused
    ) {
        task.engine.finish(conn);
        // Whoever keeps sending is not waited for.
        let _ = tokio::time::timeout(LINGER, linger(&task.scratch, &mut reading.half)).await;
    }
}

/// Tells a client why it cannot stay.
pub async fn turn_away(
    scratch: Rc<RefCell<Vec<u8>>>,
    (mut read, write): (ReadHalf, WriteHalf),
    why: Vec<u8>,
) {
    let told = async {
        // A socket that was just accepted does not know yet that it can be written to. A client that is gone needs no reason.
        let is_ready = std::future::poll_fn(|cx| read.poll_write_ready(cx)).await.is_ok();
        if is_ready && write.try_write(&why).is_ok() {
            write.finish();
            linger(&scratch, &mut read).await;
        }
    };
    let _ = tokio::time::timeout(LINGER, told).await;
}

/// Reads to the client's end and drops it all: a socket that is closed with unread bytes in it takes the answers that
/// the client has not received yet with it.
async fn linger(scratch: &RefCell<Vec<u8>>, half: &mut ReadHalf) {
    let mut left = LINGER_BYTES;
    std::future::poll_fn(|cx| {
        while left > 0 {
            let mut scratch = scratch.borrow_mut();
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *half).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    left = left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// Removes the client however its task ends: a panic costs one connection, not the worker.
struct Leaving<P: Framed> {
    engine: Rc<EngineCell<P>>,
    conn: ConnKey,
    why: CloseReason,
}

impl<P: Framed> Drop for Leaving<P> {
    fn drop(&mut self) {
        self.engine.close(self.conn, self.why);
    }
}

impl<P: Framed> ClientTask<P> {
    fn poll(
        &self,
        cx: &mut Context<'_>,
        conn: ConnKey,
        sink: &Rc<dyn ReplySink<P>>,
        metrics: &ListenerMetrics,
        reading: &mut Reading,
    ) -> Poll<CloseReason> {
        for _ in 0..READS_PER_POLL {
            if self.write_on(cx, conn, &reading.half).is_err() {
                return Poll::Ready(CloseReason::WriteFailed);
            }
            let received = |bytes: &[u8]| self.engine.0.borrow_mut().received(conn, bytes, sink);
            match self.engine.prepare(cx, conn, sink) {
                Turn::End(why) => return Poll::Ready(why),
                Turn::Wait => return self.read_ahead(cx, conn, metrics, reading),
                Turn::Read if reading.is_ahead => {
                    reading.is_ahead = false;
                    reading.intake.process_held(received);
                }
                Turn::Read if self.engine.leaves(conn) => continue,
                Turn::Read if reading.is_ended => match self.engine.ended(conn) {
                    Some(why) => return Poll::Ready(why),
                    None => continue,
                },
                Turn::Read => {
                    let polled = {
                        let mut scratch = self.scratch.borrow_mut();
                        reading.intake.poll_read(&mut reading.half, cx, &mut scratch, received)
                    };
                    match polled {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(0)) => reading.is_ended = true,
                        Poll::Ready(Ok(bytes)) => metrics.read_bytes(bytes),
                        Poll::Ready(Err(_)) => return Poll::Ready(CloseReason::ReadFailed),
                    }
                }
            }
            // Answers that need no upstream leave now; the others leave when they arrive.
            self.engine.0.borrow_mut().flush(self.clock.micros());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Goes on writing where the socket was full.
    fn write_on(&self, cx: &mut Context<'_>, conn: ConnKey, read: &ReadHalf) -> std::io::Result<()> {
        while self.engine.wants_write(conn) {
            if read.poll_write_ready(cx)?.is_pending() {
                break;
            }
            self.engine.write_on(conn);
        }
        Ok(())
    }

    /// While nothing is served, a little is read all the same: a client that has gone must not keep its blocking
    /// command, its dedicated connection and its memory.
    fn read_ahead(
        &self,
        cx: &mut Context<'_>,
        conn: ConnKey,
        metrics: &ListenerMetrics,
        reading: &mut Reading,
    ) -> Poll<CloseReason> {
        // A client that sends without end must not keep a process that wants to end.
        while !reading.is_ended && reading.intake.held() < READ_AHEAD && !self.engine.is_draining(conn) {
            let mut scratch = self.scratch.borrow_mut();
            match reading.intake.poll_read(&mut reading.half, cx, &mut scratch, |_| 0) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    reading.is_ended = true;
                    if self.engine.is_abandoned(conn) {
                        return Poll::Ready(CloseReason::ClientLeft);
                    }
                }
                Poll::Ready(Ok(bytes)) => {
                    reading.is_ahead = true;
                    metrics.read_bytes(bytes);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(CloseReason::ReadFailed),
            }
        }
        Poll::Pending
    }
}

/// What a client's task does next.
pub(super) enum Turn {
    End(CloseReason),
    Read,
    Wait,
}

impl<P: Framed> EngineCell<P> {
    /// Moves on what was waiting, and tells the task what to do.
    fn prepare(&self, cx: &Context<'_>, conn: ConnKey, sink: &Rc<dyn ReplySink<P>>) -> Turn {
        let mut engine = self.0.borrow_mut();
        let Some(client) = engine.client(conn) else { return Turn::End(CloseReason::ClientLeft) };
        match &mut client.state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if client.state.stalled.is_some() {
            let is_stalled = engine.retry(conn, sink);
            let now = engine.clock_micros();
            engine.flush(now);
            if is_stalled {
                return match engine.client(conn) {
                    Some(client) if client.state.is_broken => Turn::End(CloseReason::ClientLeft),
                    _ => Turn::Wait,
                };
            }
        }
        let Some(client) = engine.client(conn) else { return Turn::End(CloseReason::ClientLeft) };
        let Client { session, state, .. } = client;
        state.release_if_due(session);
        if state.is_over() {
            return Turn::End(state.closing.unwrap_or(CloseReason::ClientLeft));
        }
        state.is_paused = !state.may_read();
        if state.closing.is_some() || state.is_paused { Turn::Wait } else { Turn::Read }
    }

    /// The client has ended its side. Its answers still go out; `Some` if there are none.
    fn ended(&self, conn: ConnKey) -> Option<CloseReason> {
        if self.is_abandoned(conn) {
            return Some(CloseReason::ClientLeft);
        }
        let mut engine = self.0.borrow_mut();
        let state = &mut engine.client(conn)?.state;
        state.close(CloseReason::ClientLeft);
        state.is_over().then_some(CloseReason::ClientLeft)
    }

    /// Whether the end of the client's side ends everything: nobody reads a blocked or subscribed client's answers
    /// after it, and the server must learn of it.
    fn is_abandoned(&self, conn: ConnKey) -> bool {
        self.0.borrow_mut().client(conn).is_none_or(|client| {
            client.state.is_raw() || client.state.is_releasing() || client.state.is_blocked()
        })
    }

    /// Whether the process drains and nothing more is read from this client, which ends when it has its answers. One
    /// that waits for messages, not answers, stays until the time is up; the rest of a request that is under way
    /// already is waited for.
    fn leaves(&self, conn: ConnKey) -> bool {
        let mut engine = self.0.borrow_mut();
        let Some(client) = engine.client(conn) else { return false };
        let state = &mut client.state;
        let leaves =
            state.is_draining && !state.waits_for_messages() && state.open_request == OpenRequest::None;
        if leaves {
            state.close(CloseReason::Drained);
        }
        leaves
    }

    fn is_draining(&self, conn: ConnKey) -> bool {
        self.0.borrow_mut().client(conn).is_none_or(|client| client.state.is_draining)
    }

    /// Ends the connection towards the client.
    fn finish(&self, conn: ConnKey) {
        let mut engine = self.0.borrow_mut();
        if let Some(client) = engine.client(conn) {
            client.state.socket.finish();
            client.state.drop_pin();
        }
    }

    fn wants_write(&self, conn: ConnKey) -> bool {
        self.0
            .borrow_mut()
            .client(conn)
            .is_some_and(|client| client.state.wants_write && !client.state.is_broken)
    }

    fn write_on(&self, conn: ConnKey) {
        if let Some(client) = self.0.borrow_mut().client(conn) {
            client.state.wants_write = false;
            client.state.write();
        }
    }
}
