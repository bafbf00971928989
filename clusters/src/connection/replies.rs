//! Who gets which reply.

use std::rc::{Rc, Weak};

use mecha_core::{Asked, Decode, Framed, Matched, Outcome, Redirect, Refusal, kind_of};

use super::task::Reading;
use super::{Connection, Inner, OpenReply};
use crate::detour::{Detour, is_followed};
use crate::{Delivery, ReplySink};

impl<P: Framed> Connection<P> {
    /// Hands out what one read returned. Returns how much of it is done with, and whether the peer kept its protocol.
    pub(crate) fn received(
        self: &Rc<Self>,
        bytes: &[u8],
        reading: &mut Reading<P>,
        now: u64,
    ) -> (usize, bool) {
        if self.is_passing_through() {
            self.pass_through(bytes, &mut reading.touched);
            return (bytes.len(), true);
        }
        reading.heads.clear();
        let (decoded, is_sound) = match reading.decoder.decode(bytes, &mut reading.heads) {
            Ok(decoded) => (decoded, true),
            Err(_) => Default::default(),
        };
        if decoded.tail > 0 {
            let is_done = !(decoded.open && reading.heads.is_empty());
            self.continue_open(
                bytes.get(..decoded.tail).unwrap_or_default(),
                is_done,
                now,
                &mut reading.touched,
            );
        }
        let mut heads = std::mem::take(&mut reading.heads);
        let mut at = 0;
        let mut is_expected = true;
        while at < heads.len() {
            match self.hand_out(bytes, &mut heads, at, decoded.open, now, reading) {
                // The last reply to what the connection was told aside.
                Some(next) if self.is_passing_through() => {
                    let end = heads.get(next.wrapping_sub(1)).map_or(0, |head| P::reply_span(head).end());
                    self.pass_through(bytes.get(end..).unwrap_or_default(), &mut reading.touched);
                    reading.heads = heads;
                    return (bytes.len(), true);
                }
                Some(next) => at = next,
                None => {
                    is_expected = false;
                    break;
                }
            }
        }
        reading.heads = heads;
        (decoded.consumed, is_sound && is_expected)
    }

    /// Whether what comes is nobody's to cut: replies are not counted any more, and after `SYNC` they are no replies.
    fn is_passing_through(&self) -> bool {
        let inner = self.inner.borrow();
        inner.is_raw && inner.swallow == 0 && inner.unwelcomed == 0
    }

    fn pass_through(&self, bytes: &[u8], touched: &mut Vec<Rc<dyn ReplySink<P>>>) {
        let owner = self.inner.borrow().owner.clone();
        if let Some((sink, conn)) = owner.filter(|_| !bytes.is_empty()) {
            sink.push(conn, bytes);
            touch(touched, &sink);
        }
    }

    fn continue_open(&self, bytes: &[u8], is_done: bool, now: u64, touched: &mut Vec<Rc<dyn ReplySink<P>>>) {
        let mut inner = self.inner.borrow_mut();
        if inner.open.is_none() {
            drop(inner);
            self.pass_through(bytes, touched);
            return;
        }
        let Some(open) = &inner.open else { return };
        let (client, is_part) = (open.client.clone(), open.is_part);
        let done = (open.slip, open.outcome, elapsed(open.sent_micros, now));
        if is_done {
            inner.open = None;
        }
        drop(inner);
        if let Some((sink, conn, seq)) = client {
            sink.more(conn, seq, bytes, (is_done && !is_part).then_some(done));
            touch(touched, &sink);
        }
    }

    /// Gives `heads[at..]` to whoever waits for the first of them, as many as belong to it. Returns the next position,
    /// `None` if nobody asked for this reply.
    fn hand_out(
        self: &Rc<Self>,
        wire: &[u8],
        heads: &mut [P::Reply],
        at: usize,
        is_open_last: bool,
        now: u64,
        reading: &mut Reading<P>,
    ) -> Option<usize> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_closing && self.is_dedicated {
            return Some(heads.len());
        }
        let first = heads.get(at)?;
        if inner.unwelcomed > 0 && P::matched(first) != Matched::Push {
            inner.unwelcomed -= u32::from(P::matched(first) == Matched::Last);
            if inner.forgiven > 0 {
                inner.forgiven -= u32::from(P::matched(first) == Matched::Last);
                return Some(at + 1);
            }
            if kind_of(self.profile) > 0
                && inner.bridged.is_none()
                && P::outcome(first) != Outcome::Ok
                && P::lacks_version(P::reply_span(first).of(wire, &[]))
            {
                self.build_bridge(&mut inner);
                return Some(at + 1);
            }
            // Without a login it is about the version only, and the client learns of that by itself.
            if P::outcome(first) != Outcome::Ok && !self.login(mecha_core::Login::is_empty) {
                let words = String::from_utf8_lossy(P::reply_span(first).of(wire, &[])).into_owned();
                let words = words.trim_end().chars().filter(|c| !c.is_control()).take(200);
                inner.denied.get_or_insert(words.collect());
                // What was submitted stays unsent.
                inner.unwelcomed = inner.unwelcomed.max(1);
            }
            return Some(at + 1);
        }
        if inner.swallow > 0 && P::matched(first) != Matched::Push {
            if P::matched(first) == Matched::Last {
                inner.swallowed(P::reply_span(first).of(wire, &[]));
            }
            inner.tenancy.is_spoiled |= P::outcome(first) != Outcome::Ok
                && self.follower.is_some()
                && P::redirect(first, wire).is_some();
            return Some(at + 1);
        }
        if inner.is_raw || P::matched(first) == Matched::Push {
            drop(inner);
            match self.hidden(first, wire) {
                Some(error) => self.pass_through(&error, &mut reading.touched),
                None => self.pass_through(P::reply_span(first).of(wire, &[]), &mut reading.touched),
            }
            return Some(at + 1);
        }
        let run = inner.runs.front()?;
        let (sink, conn, first_seq) = (Rc::clone(&run.sink), run.conn, run.first);
        let (is_abandoned, sent, deadline, count) =
            (run.is_abandoned, run.sent_micros, run.deadline_micros, run.count as usize);
        let (hops, is_begun) = (run.hops, run.is_begun);
        // A client one of whose calls waits: each answer to one behind it is looked at.
        let is_held = !inner.held.is_empty() && inner.is_held(&sink, conn);
        let count = if is_held { 1 } else { count };
        let (mut end, mut complete, mut parts_open) = (at, 0, false);
        let (mut is_redirected, mut is_lacking) = (false, false);
        while complete < count
            && let Some(head) = heads.get(end)
        {
            match P::matched(head) {
                Matched::Last if P::outcome(head) != Outcome::Ok => {
                    let reply = P::reply_span(head).of(wire, &[]);
                    let op = inner.runs.slip_at(complete).map(|slip| slip.op);
                    if op.is_some_and(|op| P::knows_no_versions(op, reply)) {
                        // Connections that are made from now on have a bridge.
                        self.endpoint.lacks_version.set(true);
                    }
                    is_lacking = !is_held && self.is_to_be_spelled(&inner, complete, reply);
                    is_redirected = self.is_redirect(head, wire, sent, now, &inner);
                    if is_lacking || is_redirected {
                        break;
                    }
                    (complete, parts_open) = (complete + 1, false);
                }
                Matched::Last => (complete, parts_open) = (complete + 1, false),
                Matched::Part => parts_open = true,
                Matched::Push => break,
            }
            end += 1;
        }
        if is_lacking && end == at {
            if self.spell(&mut inner, &mut reading.slips) {
                self.wake_after_submit(&mut inner);
                return Some(at + 1);
            }
            if !is_redirected {
                // What nobody can tell the server again is the client's to know.
                (complete, end) = (1, at + 1);
            }
        }
        if is_redirected && end == at {
            let slip = inner.runs.slip_at(0)?;
            let frame = inner.kept.front().to_vec();
            inner.runs.answer(1, &mut reading.slips);
            inner.kept.answered(1);
            // What cannot be taken along stays in flight, and the call does not move.
            let behind = if self.is_dedicated { inner.take_behind().unwrap_or_default() } else { Vec::new() };
            let is_later = P::redirect(heads.get(at)?, wire) == Some(Redirect::Later);
            if is_later && !self.is_dedicated && !is_held && !is_abandoned {
                inner.hold(&sink, conn);
            }
            drop(inner);
            if !is_abandoned {
                let call = Detour {
                    sink,
                    conn,
                    seq: first_seq,
                    slip,
                    frame,
                    behind,
                    hops,
                    sent_micros: sent,
                    deadline_micros: deadline,
                };
                self.redirected(call, wire, heads.get(at)?, is_held, now, &mut reading.touched);
            }
            return Some(at + 1);
        }
        let is_open = is_open_last && end == heads.len();
        reading.slips.clear();
        if is_held && complete == 1 && !is_abandoned {
            let call = Detour {
                sink: Rc::clone(&sink),
                conn,
                seq: first_seq,
                slip: inner.runs.slip_at(0)?,
                frame: inner.kept.front().to_vec(),
                behind: Vec::new(),
                hops,
                sent_micros: sent,
                deadline_micros: deadline,
            };
            let is_whole = end == at + 1 && !is_open && !is_begun;
            drop(inner);
            let follower = self.follower.as_ref().and_then(Weak::upgrade);
            let is_taken = follower.is_some_and(|follower| follower.overtakes(self, call, is_whole));
            inner = self.inner.borrow_mut();
            if is_taken {
                inner.runs.answer(1, &mut reading.slips);
                inner.kept.answered(1);
                return Some(end);
            }
        }
        let parts_slip = parts_open.then(|| inner.runs.slip_at(complete)).flatten();
        inner.runs.answer(complete as u32, &mut reading.slips);
        if self.follower.is_some() {
            if self.is_dedicated {
                inner.note(complete, is_abandoned);
            }
            inner.kept.answered(complete);
        }
        if parts_open && let Some(run) = inner.runs.front_mut() {
            run.is_begun = true;
        }
        // A part that goes on (a large memcached VALUE) belongs to the call that is still unanswered.
        if is_open {
            let slip = parts_slip.or_else(|| reading.slips.last().copied())?;
            let seq =
                first_seq.wrapping_add(if parts_open { complete } else { complete.saturating_sub(1) } as u32);
            let outcome = heads.get(end.wrapping_sub(1)).map_or(Outcome::Ok, P::outcome);
            inner.open = Some(OpenReply {
                client: (!is_abandoned).then(|| (Rc::clone(&sink), conn, seq)),
                slip,
                outcome,
                is_part: parts_open,
                sent_micros: sent,
                deadline_micros: if is_abandoned || parts_open { u64::MAX } else { deadline },
            });
        }
        drop(inner);
        self.endpoint.metrics.replied(complete);
        self.endpoint.answered();
        if !is_abandoned {
            let heads = heads.get_mut(at..end).unwrap_or_default();
            let slips = &reading.slips[..];
            let micros = elapsed(sent, now);
            let delivery = Delivery {
                first: first_seq,
                wire,
                heads,
                slips,
                open: is_open && !parts_open,
                parts_open: parts_slip,
                micros,
                now_micros: now,
            };
            sink.deliver(conn, delivery);
            touch(&mut reading.touched, &sink);
        }
        Some(end)
    }

    /// Whether a reply, which is an error, says that its call belongs elsewhere, and is to be believed.
    fn is_redirect(&self, head: &P::Reply, wire: &[u8], sent: u64, now: u64, inner: &Inner<P>) -> bool {
        if self.follower.is_none() {
            return false;
        }
        let redirect = match P::redirect(head, wire) {
            _ if inner.tenancy.is_spoiled => Redirect::Later,
            Some(redirect) => redirect,
            // The primary may have what the replica lacks.
            None if self.is_reading() && P::lacks_script(P::reply_span(head).of(wire, &[])) => {
                Redirect::Later
            }
            None => return false,
        };
        is_followed(
            redirect,
            self.is_dedicated && inner.is_bound(),
            now.saturating_sub(sent),
            self.endpoint.options.patience_micros,
        )
    }

    /// What a client gets whose replies are not counted, in the place of an error that names another server.
    fn hidden(&self, head: &P::Reply, wire: &[u8]) -> Option<Vec<u8>> {
        if self.follower.is_none() || P::outcome(head) == Outcome::Ok {
            return None;
        }
        let Some(Redirect::Ask { .. } | Redirect::Moved { .. }) = P::redirect(head, wire) else {
            return None;
        };
        if let Some(news) = &self.endpoint.news {
            news.want(crate::news::Cause::Redirect);
        }
        let mut error = Vec::new();
        P::refuse(Asked::default(), Refusal::Moved, &mut error);
        Some(error)
    }

    /// Sends a call where it belongs, or tells its client why not. The server's own words would name an address that
    /// is none of the client's business.
    fn redirected(
        self: &Rc<Self>,
        call: Detour<P>,
        wire: &[u8],
        head: &P::Reply,
        is_held: bool,
        now: u64,
        touched: &mut Vec<Rc<dyn ReplySink<P>>>,
    ) {
        let sink = Rc::clone(&call.sink);
        let lost: Vec<_> =
            std::iter::once(&call).chain(&call.behind).map(|call| (call.conn, call.seq, call.slip)).collect();
        let is_spoiled = self.inner.borrow().tenancy.is_spoiled;
        // One that is behind a call that waits, waits too.
        let is_lacking = self.is_reading() && P::lacks_script(P::reply_span(head).of(wire, &[]));
        let is_later = is_spoiled || is_held || is_lacking;
        let redirect = if is_later { Some(Redirect::Later) } else { P::redirect(head, wire) };
        let follower = self.follower.as_ref().and_then(Weak::upgrade);
        let followed = match (follower, redirect) {
            (Some(follower), Some(redirect)) => follower.follow(self, call, redirect, now),
            _ => Err(Refusal::Moved),
        };
        if let Err(why) = followed {
            lost.iter().for_each(|(conn, seq, slip)| sink.fail(*conn, *seq, &[*slip], why, false));
            touch(touched, &sink);
        }
    }
}

fn touch<P: Framed>(touched: &mut Vec<Rc<dyn ReplySink<P>>>, sink: &Rc<dyn ReplySink<P>>) {
    if !touched.iter().any(|known| Rc::ptr_eq(known, sink)) {
        touched.push(Rc::clone(sink));
    }
}

fn elapsed(sent_micros: u64, now_micros: u64) -> u32 {
    u32::try_from(now_micros.saturating_sub(sent_micros)).unwrap_or(u32::MAX)
}
