//! A call whose keys take different routes: its parts are errands, and their replies become one.
//!
//! The protocol's [`Rules`] make the parts and put the replies together, as they do for the shards of one cluster.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use mecha_core::{Asked, ConnKey, Decode, Limits, OpId, Outcome, Refusal, ReplyCount, Ticket};

use super::junction::{Ended, Junction};
use crate::scatter::{Entrance, Gathered, Rules, Scan};
use crate::{Delivery, Slip};

/// See the module.
pub(super) struct Split<P: Rules> {
    junction: Weak<Junction<P>>,
    ticket: Ticket,
    slip: Slip,
    profile: u8,
    frame: Vec<u8>,
    /// The part of each key.
    places: Vec<u32>,
    sent_micros: u64,
    progress: RefCell<Progress>,
}

struct Progress {
    replies: Vec<Vec<u8>>,
    missing: usize,
    /// Why parts got no reply, and how many.
    failed: Option<(Refusal, usize)>,
    /// The engine is in the middle of this client's batch, and must not be called.
    is_submitting: bool,
}

/// What the client is told.
pub(super) enum Verdict {
    Answer(Vec<u8>),
    Error(Vec<u8>, Refusal),
}

// === impl Split ===

impl<P: Rules> Split<P> {
    #[expect(clippy::too_many_arguments, reason = "a call taken apart")]
    pub(super) fn new(
        junction: &Rc<Junction<P>>,
        ticket: Ticket,
        slip: Slip,
        profile: u8,
        frame: &[u8],
        places: Vec<u32>,
        parts: usize,
        sent_micros: u64,
    ) -> Rc<Self> {
        let progress =
            Progress { replies: vec![Vec::new(); parts], missing: parts, failed: None, is_submitting: true };
        Rc::new(Self {
            junction: Rc::downgrade(junction),
            ticket,
            slip,
            profile,
            frame: frame.to_vec(),
            places,
            sent_micros,
            progress: RefCell::new(progress),
        })
    }

    /// Part `index` is over.
    pub(super) fn ended(&self, index: usize, ended: Ended) {
        {
            let mut progress = self.progress.borrow_mut();
            match ended {
                Ended::Replied(bytes, ..) => {
                    if let Some(reply) = progress.replies.get_mut(index) {
                        *reply = bytes;
                    }
                }
                Ended::Failed(why) => {
                    let count = progress.failed.map_or(0, |(_, count)| count);
                    progress.failed = Some((why, count + 1));
                }
            }
            progress.missing -= 1;
            if progress.missing > 0 || progress.is_submitting {
                return;
            }
        }
        self.answer();
    }

    /// All parts are under way. What to tell the client, if they are over already.
    pub(super) fn submitted(&self) -> Option<Verdict> {
        let mut progress = self.progress.borrow_mut();
        progress.is_submitting = false;
        let is_over = progress.missing == 0;
        drop(progress);
        is_over.then(|| self.verdict())
    }

    fn verdict(&self) -> Verdict {
        let progress = self.progress.borrow();
        let asked = Asked { op: self.slip.op, echo: self.slip.echo };
        let mut bytes = Vec::new();
        if let Some((why, count)) = progress.failed {
            P::broken(asked, why, count, progress.replies.len(), &mut bytes);
            return Verdict::Error(bytes, why);
        }
        let gathered = Gathered {
            op: self.slip.op,
            frame: &self.frame,
            replies: &progress.replies,
            places: &self.places,
            scan: Scan::default(),
            entrance: Entrance::default(),
            census: None,
        };
        if P::merge(&gathered, self.profile, &mut bytes) {
            return Verdict::Answer(bytes);
        }
        bytes.clear();
        P::refuse(asked, Refusal::UpstreamConfused, &mut bytes);
        Verdict::Error(bytes, Refusal::UpstreamConfused)
    }

    fn answer(&self) {
        let Some(junction) = self.junction.upgrade() else { return };
        let now_micros = junction.now_micros();
        let micros = u32::try_from(now_micros.saturating_sub(self.sent_micros)).unwrap_or(u32::MAX);
        junction.barrier_over(self.ticket.conn);
        match self.verdict() {
            Verdict::Answer(bytes) => {
                deliver(&junction, self.ticket, self.slip, self.profile, &bytes, micros);
            }
            Verdict::Error(bytes, why) => {
                let (op, outcome) = (self.slip.op, Outcome::Refused(why));
                junction.clients().answered(self.ticket, op, &bytes, outcome, now_micros);
            }
        }
    }
}

/// Hands a client a reply as a server would have sent it.
pub(super) fn deliver<P: Rules>(
    junction: &Junction<P>,
    ticket: Ticket,
    slip: Slip,
    profile: u8,
    bytes: &[u8],
    micros: u32,
) {
    let mut heads = Vec::new();
    let limits = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
    let decoded = P::reply_decoder(limits, profile).decode(bytes, &mut heads);
    if decoded.is_err() || heads.is_empty() {
        return junction.clients().fail(ticket.conn, ticket.seq, &[slip], Refusal::UpstreamConfused, false);
    }
    let delivery = Delivery {
        first: ticket.seq,
        wire: bytes,
        heads: &mut heads,
        slips: &[slip],
        open: false,
        parts_open: None,
        micros,
        now_micros: junction.now_micros(),
    };
    junction.clients().deliver(ticket.conn, delivery);
}

/// A slip of a call that is answered once.
pub(super) fn slip(op: OpId, echo: u32, replies: ReplyCount) -> Slip {
    Slip { op, echo, replies }
}

impl<P: Rules> Junction<P> {
    /// A call of this client that was a barrier is over.
    pub(super) fn barrier_over(&self, conn: ConnKey) {
        if let Some(guest) = self.guests.borrow_mut().get(conn) {
            guest.barriers = guest.barriers.saturating_sub(1);
        }
    }
}
