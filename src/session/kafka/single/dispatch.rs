//! Which broker each request of a client goes to.

use std::rc::Rc;

use mecha_core::{Done, Peer};
use mecha_kafka::errors::{Code, Reason, refuse};
use mecha_kafka::frame::{RequestHead, ResponseHead, Want};
use mecha_kafka::route::{Key, Plan, Serves, first_partition, is_continued, serves, without_rack};
use mecha_kafka::table::{ApiKey, Judgement, judge};
use mecha_telemetry::CloseReason;
use slab::Slab;

use super::answers::{Answers, Asked, How, sought};
use super::link::Link;
use super::{Opened, SingleAddress, offered};

/// Requests of one client without an answer. Fewer than a conversation takes.
const MAX_ASKED: usize = 512;

/// Requests that name what decides where they go are awaited whole up to this many bytes; requests to produce go to whoever
/// leads the first partition if they have more.
const MAX_WHOLE: u32 = 1 << 20;

/// Bytes of a large request to produce within which the first partition has to be named.
const MAX_BEGINNING: usize = 64 << 10;

/// Bytes for brokers above which nothing more is taken from the client.
const MAX_UNSENT: usize = 256 << 10;

/// The brokers that a client has asked for something, and what for.
pub(super) struct Dispatch {
    at: Rc<SingleAddress>,
    peer: Peer,
    going: Going,
    pub(super) links: Slab<Link>,
    pub(super) answers: Answers,
    plan: Plan,
    /// Where a request is written anew.
    anew: Vec<u8>,
    /// Who has the client's session of fetching, and of sharing.
    sessions: [Option<i32>; 2],
}

/// Where the body goes that comes in pieces.
enum Going {
    /// To where its beginning says.
    Beginning(Vec<u8>, RequestHead),
    Nowhere,
    To(usize),
}

impl Dispatch {
    pub(super) fn new(at: Rc<SingleAddress>, peer: Peer) -> Self {
        Self {
            at,
            peer,
            going: Going::Nowhere,
            links: Slab::new(),
            answers: Answers::default(),
            plan: Plan::default(),
            anew: Vec::new(),
            sessions: [None; 2],
        }
    }

    /// A broker was reached before anything was asked.
    pub(super) fn opened(&mut self, opened: Opened, broker: Option<i32>) {
        let conversation = self.at.cluster.conversation(&self.peer, offered);
        self.links.insert(Link::opened(opened, broker, conversation));
    }

    /// Whether another request may be taken.
    pub(super) fn takes_more(&self) -> bool {
        self.answers.len() < MAX_ASKED && self.unsent() < MAX_UNSENT
    }

    /// Bytes for brokers that they have not taken.
    pub(super) fn unsent(&self) -> usize {
        self.links.iter().map(|(_, link)| link.unsent()).sum()
    }

    /// Appends the answers whose turn it is and that are there. Whether there were any.
    pub(super) fn leave(&mut self, out: &mut Vec<u8>) -> Result<bool, CloseReason> {
        self.answers.leave(&self.at.placement, out)
    }

    /// Requests that were answered since this was last asked.
    pub(super) fn take_done(&mut self, mut take: impl FnMut(&[Done])) {
        self.links.iter_mut().for_each(|(_, link)| link.conversation().take_done(&mut take));
    }

    /// The connection to a broker; to any if nobody in particular is wanted.
    fn link_to(&mut self, broker: Option<i32>) -> usize {
        let is_it = |link: &Link| broker.is_none_or(|broker| link.broker == Some(broker));
        if let Some((at, _)) = self.links.iter().find(|(_, link)| is_it(link)) {
            return at;
        }
        let (at, peer) = (Rc::clone(&self.at), self.peer.clone());
        let wanted = broker.or_else(|| at.anyone());
        let conversation = at.cluster.conversation(&peer, offered);
        let opening = Box::pin(async move { at.reach(wanted, &peer).await });
        self.links.insert(Link::new(opening, wanted, conversation))
    }

    /// A request begins. Says what is to be done with its body.
    pub(super) fn begin(&mut self, head: RequestHead) -> Result<Want, CloseReason> {
        let is_known = judge(head.key, head.version) == Judgement::Known;
        let is_read = is_known
            && (serves(head.key) != Serves::Any
                || matches!(head.key, ApiKey::FIND_COORDINATOR | ApiKey::METADATA));
        if !is_read {
            let link = self.link_to(None);
            self.pass(link, head, &[])?;
            return Ok(Want::Pass);
        }
        if head.body <= MAX_WHOLE {
            return Ok(Want::Whole);
        }
        if head.key != ApiKey::PRODUCE {
            let bytes = head.body;
            tracing::warn!(
                api = head.key.name(),
                bytes,
                limit = MAX_WHOLE,
                "a request is too large to be led anywhere"
            );
            return Err(CloseReason::Protocol);
        }
        self.going = Going::Beginning(Vec::new(), head);
        Ok(Want::Pass)
    }

    /// Sends the beginning of a request that goes on in pieces.
    fn pass(&mut self, link: usize, head: RequestHead, beginning: &[u8]) -> Result<(), CloseReason> {
        self.anew.clear();
        head.write(&mut self.anew);
        self.anew.extend_from_slice(beginning);
        self.going = Going::To(link);
        self.send(link, head, How::Passes)
    }

    /// Sends what was written anew, the head of a request at least; its answer is awaited, if there will be one.
    fn send(&mut self, at: usize, head: RequestHead, how: How) -> Result<(), CloseReason> {
        let number = self.answers.next();
        if self.send_part(at, number)? {
            self.answers.push(Asked { head, how });
        }
        Ok(())
    }

    /// As [`Dispatch::send`], for the request with this number. Whether there will be an answer.
    fn send_part(&mut self, at: usize, number: u64) -> Result<bool, CloseReason> {
        let link = self.links.get_mut(at).ok_or(CloseReason::Bug)?;
        let before = link.in_flight();
        link.send(&self.anew)?;
        let is_answered = link.in_flight() > before;
        if is_answered {
            link.asked.push_back(number);
        }
        Ok(is_answered)
    }

    /// A piece of a request comes.
    pub(super) fn piece(&mut self, piece: &[u8], is_last: bool) -> Result<(), CloseReason> {
        match std::mem::replace(&mut self.going, Going::Nowhere) {
            Going::To(link) => {
                self.links.get_mut(link).ok_or(CloseReason::Bug)?.send(piece)?;
                if !is_last {
                    self.going = Going::To(link);
                }
                Ok(())
            }
            Going::Beginning(mut beginning, head) => {
                beginning.extend_from_slice(piece);
                let found = first_partition(head.version, &beginning).map_err(|_| CloseReason::Protocol)?;
                if found.is_none() && beginning.len() < MAX_BEGINNING && !is_last {
                    self.going = Going::Beginning(beginning, head);
                    return Ok(());
                }
                let leader =
                    found.and_then(|(topic, index)| self.at.placement.of(Key::Partition(topic, index)));
                let link = self.link_to(leader);
                self.pass(link, head, &beginning)?;
                if is_last {
                    self.going = Going::Nowhere;
                }
                Ok(())
            }
            Going::Nowhere => Err(CloseReason::Bug),
        }
    }

    /// A request came that is there as a whole.
    pub(super) fn whole(&mut self, head: RequestHead, body: &[u8]) -> Result<(), CloseReason> {
        let RequestHead { key, version, .. } = head;
        match serves(key) {
            Serves::Nobody => return self.refuse(head, body),
            Serves::Everybody => {
                let all: Vec<i32> =
                    self.at.cluster.brokers.all().iter().map(|(broker, _)| broker.id).collect();
                return self.scatter(head, &all, |_, _, _, out| out.extend_from_slice(body));
            }
            Serves::Any => {
                let is_sought = key == ApiKey::FIND_COORDINATOR;
                let sought = if is_sought { sought(&head, body) } else { Vec::new() };
                let how = How::Gathered { missing: 1, bodies: Vec::new(), sought };
                let link = self.link_to(None);
                self.write(head, body);
                return self.send(link, head, how);
            }
            Serves::Group | Serves::Leader | Serves::Node | Serves::Transaction => {}
        }
        let placement = &self.at.placement;
        let read = self.plan.read(key, version, body, &mut |key| placement.of(key));
        if let Err(error) = read {
            tracing::warn!(api = key.name(), version, %error, "a client sends what is no request");
            return Err(CloseReason::Protocol);
        }
        let brokers: Vec<i32> = self.plan.brokers().collect();
        if brokers.len() > 1 && self.plan.is_split() {
            return self.scatter(head, &brokers, |plan, broker, is_first, out| {
                plan.write(body, broker, is_first, out)
            });
        }
        let first = brokers.first().copied();
        let broker = match key {
            ApiKey::FETCH => self.in_session(0, head, body, first)?,
            ApiKey::SHARE_FETCH | ApiKey::SHARE_ACKNOWLEDGE => self.in_session(1, head, body, first)?,
            _ => first,
        };
        let link = self.link_to(broker);
        self.anew.clear();
        let mut rackless = Vec::new();
        if key == ApiKey::FETCH && without_rack(version, body, &mut rackless) == Ok(true) {
            self.write(head, &rackless);
        } else {
            self.write(head, body);
        }
        self.send(link, head, How::Passes)
    }

    /// Who is asked to fetch: a session stays with the broker that has it.
    fn in_session(
        &mut self,
        which: usize,
        head: RequestHead,
        body: &[u8],
        first: Option<i32>,
    ) -> Result<Option<i32>, CloseReason> {
        let is_continued = is_continued(head.key, head.version, body).map_err(|_| CloseReason::Protocol)?;
        let session = self.sessions.get_mut(which).ok_or(CloseReason::Bug)?;
        if !is_continued || session.is_none() {
            *session = first;
        }
        Ok(*session)
    }

    /// Writes a request with another body.
    fn write(&mut self, head: RequestHead, body: &[u8]) {
        self.anew.clear();
        RequestHead { body: body.len() as u32, ..head }.write(&mut self.anew);
        self.anew.extend_from_slice(body);
    }

    /// Sends parts of a request to several brokers.
    fn scatter(
        &mut self,
        head: RequestHead,
        brokers: &[i32],
        part: impl Fn(&Plan, i32, bool, &mut Vec<u8>),
    ) -> Result<(), CloseReason> {
        let number = self.answers.next();
        let mut missing = 0;
        let mut body = Vec::new();
        // Nobody has told who is there.
        let anyone = [-1];
        let brokers = if brokers.is_empty() { &anyone } else { brokers };
        for (at, broker) in brokers.iter().enumerate() {
            body.clear();
            part(&self.plan, *broker, at == 0, &mut body);
            let link = self.link_to(Some(*broker).filter(|broker| *broker >= 0));
            self.write(head, &body);
            missing += usize::from(self.send_part(link, number)?);
        }
        if missing > 0 {
            self.answers
                .push(Asked { head, how: How::Gathered { missing, bodies: Vec::new(), sought: Vec::new() } });
        }
        Ok(())
    }

    /// Answers what one address for all cannot serve.
    fn refuse(&mut self, head: RequestHead, body: &[u8]) -> Result<(), CloseReason> {
        let message = "one address for all brokers cannot serve this: which one is meant?";
        let reason = Reason { code: Code::UNSUPPORTED_VERSION, message: Some(message), throttle_millis: 0 };
        let mut answer = Vec::new();
        let is_said = refuse(head.key, head.version, body, reason, &mut answer);
        tracing::warn!(
            api = head.key.name(),
            "a client asks for what one address for all brokers cannot serve"
        );
        if is_said != Ok(true) {
            return Err(CloseReason::Protocol);
        }
        let mut frame = Vec::new();
        ResponseHead { correlation: head.correlation, body: answer.len() as u32 }.write(&mut frame);
        frame.extend_from_slice(&answer);
        self.answers.push(Asked { head, how: How::Ready(frame) });
        Ok(())
    }
}
