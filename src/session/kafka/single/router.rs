//! A client's socket, and those to its brokers: what comes from each goes where it belongs.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use mecha_core::{Done, Peer};
use mecha_kafka::frame::{Item, RequestHead, Scanner, Want};
use mecha_telemetry::CloseReason;
use mecha_transport::{Outbox, ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, ReadBuf};

use super::Opened;
use super::SingleAddress;
use super::dispatch::Dispatch;
use super::link::{Came, Link};
use crate::session::kafka::stage::Stage;
use crate::session::opaque::{Goes, Passage, Passed};

/// Bytes that the client has not read above which no more answers are taken.
const MAX_UNREAD: usize = 256 << 10;

/// Turns in a row before other clients get theirs.
const TURNS: usize = 4;

/// A client, and the brokers that it has asked for something.
pub struct Router {
    client: (ReadHalf, WriteHalf),
    /// For the client.
    out: Outbox,
    requests: Scanner<RequestHead>,
    /// The request whose body is awaited whole.
    head: Option<RequestHead>,
    /// Bytes of the client that were not taken.
    held: Vec<u8>,
    /// Filters, if there are any, and what has not passed them, of the client and for it.
    stage: Option<Box<Stage>>,
    staged: [Vec<u8>; 2],
    dispatch: Dispatch,
    passed: Passed,
    is_ended: bool,
    /// The client is gone, and cares for no answer. What it has sent is still delivered: some of it wants none.
    is_gone: bool,
    is_draining: bool,
}

impl Router {
    pub(super) fn new(
        at: Rc<SingleAddress>,
        peer: Peer,
        client: (ReadHalf, WriteHalf),
        stage: Option<Box<Stage>>,
    ) -> Self {
        Self {
            client,
            out: Outbox::default(),
            requests: Scanner::new(at.cluster.max_frame),
            head: None,
            held: Vec::new(),
            stage,
            staged: [Vec::new(), Vec::new()],
            dispatch: Dispatch::new(at, peer),
            passed: Passed::default(),
            is_ended: false,
            is_gone: false,
            is_draining: false,
        }
    }

    /// A broker was reached before anything was asked.
    pub(super) fn opened(&mut self, opened: Opened, broker: Option<i32>) {
        self.dispatch.opened(opened, broker);
    }

    /// Requests that were answered since this was last asked.
    pub(super) fn take_done(&mut self, mut take: impl FnMut(&[Done])) {
        if let Some(stage) = &mut self.stage {
            stage.take_done(&mut take);
        }
        self.dispatch.take_done(take);
    }

    fn takes_more(&self) -> bool {
        !self.requests.is_between() || self.dispatch.takes_more() && !self.is_draining
    }

    /// Takes what the client sent, past filters if there are any.
    fn came(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        let Some(stage) = &mut self.stage else { return self.take(bytes) };
        let [mut up, down] = std::mem::take(&mut self.staged);
        up.clear();
        let taken = match stage.up(bytes, &mut up)? {
            Goes::AsIs(len) => self.take(bytes.get(..len).unwrap_or_default()),
            Goes::Written => self.take(&up),
        };
        self.staged = [up, down];
        taken
    }

    /// Shows filters what is for the client.
    fn show(&mut self) -> Result<(), CloseReason> {
        let (Some(stage), [_, down]) = (&mut self.stage, &mut self.staged) else { return Ok(()) };
        if down.is_empty() {
            return Ok(());
        }
        if let Goes::AsIs(len) = stage.down(down, self.out.buffer())? {
            self.out.extend(down.get(..len).unwrap_or_default());
        }
        down.clear();
        Ok(())
    }

    /// Appends the answers whose turn it is and that are there. Whether there were any.
    fn leave(&mut self) -> Result<bool, CloseReason> {
        let [_, down] = &mut self.staged;
        let to = if self.stage.is_some() { down } else { self.out.buffer() };
        let has_left = self.dispatch.leave(to)?;
        self.show()?;
        Ok(has_left)
    }

    /// Takes requests from what the client sent; what cannot be taken now is held.
    fn take(&mut self, came: &[u8]) -> Result<(), CloseReason> {
        let mut held = std::mem::take(&mut self.held);
        let input = if held.is_empty() {
            came
        } else {
            held.extend_from_slice(came);
            &held
        };
        let mut at = 0;
        while self.takes_more() {
            let rest = input.get(at..).unwrap_or_default();
            let (taken, item) = self.requests.next(rest).map_err(|error| {
                tracing::debug!(?error, "a client does not speak Kafka");
                CloseReason::Protocol
            })?;
            at += taken;
            match item {
                Item::Head(head) => {
                    let want = self.dispatch.begin(head)?;
                    self.head = (want == Want::Whole).then_some(head);
                    self.requests.want(want);
                }
                Item::Piece { len, is_last } => {
                    self.dispatch.piece(rest.get(..len).unwrap_or_default(), is_last)?;
                }
                Item::Whole(body) => {
                    let head = self.head.take().ok_or(CloseReason::Bug)?;
                    self.dispatch.whole(head, body)?;
                }
                Item::More => break,
            }
        }
        self.held = input.get(at..).unwrap_or_default().to_vec();
        Ok(())
    }

    /// Reads from the client. Whether anything came.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, CloseReason> {
        // What has passed filters goes on, whoever has to wait.
        if self.takes_more() && self.has_held_request() {
            self.take(&[])?;
            return Ok(true);
        }
        if let Some(stage) = &mut self.stage {
            let _ = stage.poll_pause(cx);
            if stage.is_paused() {
                return Ok(false);
            }
            if stage.is_stalled() {
                self.came(&[])?;
                return Ok(true);
            }
        }
        // What has begun before filters is awaited whole.
        let has_begun = self.stage.as_ref().is_some_and(|stage| stage.has_begun());
        if !self.takes_more() && !has_begun {
            return Ok(false);
        }
        if self.is_ended {
            return Ok(false);
        }
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(&mut self.client.0).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => {
                self.gone();
                Ok(true)
            }
            Poll::Ready(Ok(())) => {
                self.is_ended = buffer.filled().is_empty();
                if !self.is_ended {
                    self.came(buffer.filled())?;
                }
                Ok(true)
            }
        }
    }

    fn gone(&mut self) {
        (self.is_ended, self.is_gone) = (true, true);
        self.out.clear();
    }

    /// Delivers what a client that is gone has sent. Whether anything has happened; over when no broker is left.
    fn deliver(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> bool {
        let mut has_happened = false;
        self.dispatch.links.retain(|_, link| {
            let is_left = link.poll_open(cx).is_ok_and(|is_open| !is_open) || link.deliver(cx, scratch);
            has_happened |= !is_left;
            is_left
        });
        has_happened
    }

    /// Whether a request is held that could be taken now: less than a head cannot.
    fn has_held_request(&self) -> bool {
        self.held.len() >= <RequestHead as mecha_kafka::frame::Head>::SIZE
    }

    /// Reads what a broker says. Whether anything came.
    fn hear(&mut self, at: usize, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, CloseReason> {
        let Some(link) = self.dispatch.links.get_mut(at) else { return Ok(false) };
        let has_turn = link.asked.front().is_none_or(|number| self.dispatch.answers.may_come(*number));
        if !has_turn || self.out.len() > MAX_UNREAD {
            return Ok(false);
        }
        if link.is_holding() {
            let held = link.take_held();
            self.answers(at, &held)?;
            return self.show().map(|()| true);
        }
        match link.read(cx, scratch) {
            Ok(Came::Nothing) => Ok(false),
            Ok(Came::Bytes(len)) => {
                let came = scratch.get(..len).unwrap_or_default();
                self.answers(at, came)?;
                self.show().map(|()| true)
            }
            // One that owes nothing may leave.
            Ok(Came::End) | Err(_) if link.asked.is_empty() && link.is_between() && link.unsent() == 0 => {
                self.dispatch.links.remove(at);
                Ok(true)
            }
            Ok(Came::End) | Err(_) => Err(CloseReason::UpstreamLost),
        }
    }

    /// Takes answers of a broker as far as their turn has come.
    fn answers(&mut self, at: usize, came: &[u8]) -> Result<(), CloseReason> {
        let mut rest = came;
        loop {
            let Self { client, out, dispatch, passed, stage, staged: [_, down], .. } = self;
            let to = if stage.is_some() { &mut *down } else { out.buffer() };
            let Some(link) = dispatch.links.get_mut(at) else { return Err(CloseReason::Bug) };
            let Some(number) = link.asked.front().copied() else {
                if rest.is_empty() {
                    return Ok(());
                }
                tracing::error!("a broker answers what was not asked");
                return Err(CloseReason::UpstreamLost);
            };
            if rest.is_empty() || !dispatch.answers.may_come(number) {
                link.hold(rest);
                return Ok(());
            }
            if dispatch.answers.is_gathered(number) {
                let Some(taken) = link.gather(rest)? else {
                    link.hold(rest);
                    return Ok(());
                };
                rest = rest.get(taken..).unwrap_or_default();
                if let Some(body) = link.take_gathered() {
                    link.asked.pop_front();
                    dispatch.answers.gathered(number, body);
                    dispatch.leave(to)?;
                }
                continue;
            }
            let Some(piece) = link.piece(rest, to)? else {
                link.hold(rest);
                return Ok(());
            };
            if let Goes::AsIs(len) = piece.goes {
                let bytes = rest.get(..len).unwrap_or_default();
                if stage.is_some() {
                    down.extend_from_slice(bytes);
                } else {
                    let written = if out.is_empty() { client.1.try_write(bytes).unwrap_or(0) } else { 0 };
                    passed.down += written;
                    out.extend(bytes.get(written..).unwrap_or_default());
                }
            }
            rest = rest.get(piece.taken..).unwrap_or_default();
            if piece.is_last {
                link.asked.pop_front();
                dispatch.answers.passed();
                dispatch.leave(if stage.is_some() { &mut *down } else { out.buffer() })?;
            }
        }
    }

    /// Writes what the client takes.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while !self.out.is_empty() {
            match self.client.0.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => match ready.and_then(|()| self.out.write_to(&self.client.1)) {
                    Ok(written) => self.passed.down += written,
                    Err(_) => self.gone(),
                },
            }
        }
    }

    /// One turn of everybody. Whether anything has happened.
    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, CloseReason> {
        self.flush(cx);
        if self.is_gone {
            return Ok(self.deliver(cx, scratch));
        }
        let mut has_happened = self.leave()?;
        let links: Vec<usize> = self.dispatch.links.iter().map(|(at, _)| at).collect();
        for at in links {
            let Some(link) = self.dispatch.links.get_mut(at) else { continue };
            match link.poll_open(cx) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return Err(CloseReason::UpstreamLost),
            }
            has_happened |= self.hear(at, cx, scratch)?;
        }
        has_happened |= self.read(cx, scratch)?;
        for (_, link) in &mut self.dispatch.links {
            self.passed.up += link.flush(cx).map_err(|_| CloseReason::UpstreamLost)?;
        }
        self.flush(cx);
        Ok(has_happened)
    }

    /// Whether nobody misses anything if it ends now.
    fn is_over(&self) -> bool {
        if self.is_gone {
            return self.dispatch.links.is_empty();
        }
        let is_stalled = self.stage.as_ref().is_some_and(|stage| stage.is_stalled());
        let is_idle = self.dispatch.answers.is_empty()
            && self.out.is_empty()
            && self.dispatch.unsent() == 0
            && !is_stalled;
        let is_between =
            || self.requests.is_between() && self.stage.as_ref().is_none_or(|stage| stage.is_between());
        is_idle && (self.is_ended || self.is_draining && is_between())
    }
}

impl Passage for Router {
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<CloseReason> {
        for _ in 0..TURNS {
            match self.turn(cx, scratch) {
                Err(why) => return Poll::Ready(why),
                Ok(_) if self.is_over() => {
                    let is_drained = !self.is_ended;
                    return Poll::Ready(if is_drained {
                        CloseReason::Drained
                    } else {
                        CloseReason::ClientLeft
                    });
                }
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    fn unread(&self) -> usize {
        self.out.len() + self.dispatch.unsent()
    }

    fn in_flight(&self) -> usize {
        self.dispatch.answers.len()
    }

    fn drain(&mut self) {
        self.is_draining = true;
        if let Some(stage) = &mut self.stage {
            stage.drain();
        }
    }

    fn abort(self) {
        self.client.1.abort();
        self.dispatch.links.into_iter().for_each(|(_, link)| Link::abort(link));
    }
}
