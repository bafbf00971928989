//! One connection to a broker, of a client that has several.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use mecha_clusters::{Stream, StreamSeat};
use mecha_core::Refusal;
use mecha_kafka::frame::{Head, Item, ResponseHead, Scanner};
use mecha_telemetry::CloseReason;
use mecha_transport::{Outbox, ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, ReadBuf};

use super::answers::MAX_GATHERED;
use crate::session::kafka::{Conversation, Opened};
use crate::session::opaque::{Between, Goes};

/// What connecting comes to.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<(Opened, Option<i32>), Refusal>>>>;

/// One connection to a broker.
pub(super) struct Link {
    /// The broker's number; `None` while any will do.
    pub(super) broker: Option<i32>,
    state: State,
    conversation: Conversation,
    /// For the broker.
    out: Outbox,
    frames: Scanner<ResponseHead>,
    /// Answers whose turn has not come.
    held: Vec<u8>,
    /// The part of an answer that is coming, and whether that is all of it.
    gathering: (Vec<u8>, bool),
    /// The broker knows that nothing more will come.
    is_told: bool,
    /// The requests that it was asked, by their numbers.
    pub(super) asked: VecDeque<u64>,
}

enum State {
    Open { read: ReadHalf, write: WriteHalf, _seat: StreamSeat },
    Opening(Opening),
}

/// Bytes of answers: what they are and whether an answer ends with them.
pub(super) struct Piece {
    /// How many of the bytes that were there were taken.
    pub(super) taken: usize,
    /// What goes on of them.
    pub(super) goes: Goes,
    pub(super) is_last: bool,
}

/// What reading came to.
pub(super) enum Came {
    /// So many bytes.
    Bytes(usize),
    End,
    Nothing,
}

impl Link {
    pub(super) fn new(opening: Opening, broker: Option<i32>, conversation: Conversation) -> Self {
        Self {
            broker,
            state: State::Opening(opening),
            conversation,
            out: Outbox::default(),
            frames: Scanner::new(i32::MAX as u32),
            held: Vec::new(),
            gathering: (Vec::new(), false),
            is_told: false,
            asked: VecDeque::new(),
        }
    }

    /// With a connection that is there.
    pub(super) fn opened(opened: Opened, broker: Option<i32>, conversation: Conversation) -> Self {
        let never: Opening = Box::pin(std::future::pending());
        let mut link = Self::new(never, broker, conversation);
        link.open(opened);
        link
    }

    fn open(&mut self, opened: Opened) {
        // A login that ends is not renewed here: the broker ends the connection, and the client comes again.
        self.conversation.connected(self.broker);
        let Stream { read, write, seat } = opened.stream;
        self.state = State::Open { read, write, _seat: seat };
    }

    /// Goes on connecting. Whether it is connected.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Result<bool, Refusal> {
        let State::Opening(opening) = &mut self.state else { return Ok(true) };
        match opening.as_mut().poll(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(opened) => {
                let (opened, broker) = opened?;
                self.broker = broker.or(self.broker);
                self.open(opened);
                Ok(true)
            }
        }
    }

    /// Takes a piece of a request, which begins with its head. Whether an answer will come is known when the beginning was
    /// taken.
    pub(super) fn send(&mut self, piece: &[u8]) -> Result<(), CloseReason> {
        match self.conversation.up(piece, self.out.buffer())? {
            Goes::AsIs(len) => self.out.extend(piece.get(..len).unwrap_or_default()),
            Goes::Written => {}
        }
        Ok(())
    }

    /// Requests without an answer, as the broker has them.
    pub(super) fn in_flight(&self) -> usize {
        self.conversation.in_flight()
    }

    pub(super) fn conversation(&mut self) -> &mut Conversation {
        &mut self.conversation
    }

    /// Bytes for the broker that it has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Writes what it takes. How many bytes that was.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let State::Open { read, write, .. } = &self.state else { return Ok(0) };
        let mut sent = 0;
        while !self.out.is_empty() {
            if read.poll_write_ready(cx)?.is_pending() {
                break;
            }
            sent += self.out.write_to(write)?;
        }
        Ok(sent)
    }

    /// Reads into `buffer`.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> io::Result<Came> {
        let State::Open { read, .. } = &mut self.state else { return Ok(Came::Nothing) };
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(read).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(Came::Nothing),
            Poll::Ready(read) => {
                read?;
                let len = buffer.filled().len();
                Ok(if len == 0 { Came::End } else { Came::Bytes(len) })
            }
        }
    }

    /// Answers that came and were not taken.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Keeps answers until their turn has come.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes what `bytes` begin with of one answer, and shows it to the conversation, which may write what goes on to `out`.
    /// `None` if that is less than a head.
    pub(super) fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Piece>, CloseReason> {
        let mut taken = 0;
        let mut is_last = false;
        while !is_last {
            let rest = bytes.get(taken..).unwrap_or_default();
            let (more, item) = self.frames.next(rest).map_err(|_| CloseReason::UpstreamLost)?;
            match item {
                Item::Piece { is_last: last, .. } => is_last = last,
                Item::Head(_) => {}
                Item::More | Item::Whole(_) => break,
            }
            taken += more;
        }
        if taken == 0 && !is_last {
            return Ok(None);
        }
        let goes = self.conversation.down(bytes.get(..taken).unwrap_or_default(), out)?;
        Ok(Some(Piece { taken, goes, is_last }))
    }

    /// As [`Link::piece`], of an answer that is a part of one. How many bytes were taken.
    pub(super) fn gather(&mut self, bytes: &[u8]) -> Result<Option<usize>, CloseReason> {
        let mut gathered = std::mem::take(&mut self.gathering.0);
        let Some(Piece { taken, goes, is_last }) = self.piece(bytes, &mut gathered)? else {
            self.gathering.0 = gathered;
            return Ok(None);
        };
        if let Goes::AsIs(len) = goes {
            gathered.extend_from_slice(bytes.get(..len).unwrap_or_default());
        }
        if gathered.len() > MAX_GATHERED {
            tracing::error!(limit = MAX_GATHERED, "an answer is too large to be gathered");
            return Err(CloseReason::UpstreamLost);
        }
        self.gathering = (gathered, is_last);
        Ok(Some(taken))
    }

    /// The body of what was gathered, if that is all of it.
    pub(super) fn take_gathered(&mut self) -> Option<Vec<u8>> {
        if !self.gathering.1 {
            return None;
        }
        let (gathered, _) = std::mem::take(&mut self.gathering);
        Some(gathered.get(ResponseHead::SIZE..).unwrap_or_default().to_vec())
    }

    /// Whether it stands between two answers.
    pub(super) fn is_between(&self) -> bool {
        self.frames.is_between()
    }

    /// Goes on for a client that is gone: writes what is for the broker, tells it that this is the end, and reads what
    /// nobody wants until it ends too, since it would lose what it has not read otherwise. Whether it goes on.
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> bool {
        if self.flush(cx).is_err() {
            return false;
        }
        if self.out.is_empty()
            && !std::mem::replace(&mut self.is_told, true)
            && let State::Open { write, .. } = &self.state
        {
            write.finish();
        }
        loop {
            match self.read(cx, scratch) {
                Ok(Came::Bytes(_)) => {}
                Ok(Came::Nothing) => return true,
                Ok(Came::End) | Err(_) => return false,
            }
        }
    }

    /// The broker learns that this is not an orderly end.
    pub(super) fn abort(self) {
        if let State::Open { write, .. } = self.state {
            write.abort();
        }
    }
}
