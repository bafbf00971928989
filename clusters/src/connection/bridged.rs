//! A connection whose server lacks the version of the protocol that it is for: its bytes are changed on their way, right at the
//! socket, so that everybody else sees a server that has it.

use mecha_core::{Bridge, Framed};
use mecha_transport::Outbox;

use super::task::Reading;
use super::{Connection, Inner, OUTBOX_HIGH};

/// The bridge of one socket.
pub(super) struct Bridged {
    bridge: Box<dyn Bridge>,
    /// What the server gets.
    pub(super) outbox: Outbox,
    /// What has come and is not handed out so far.
    arrived: Vec<u8>,
}

impl Bridged {
    pub(super) fn of<P: Framed>(profile: u8) -> Option<Self> {
        let bridge = P::bridge(profile)?;
        Some(Self { bridge, outbox: Outbox::default(), arrived: Vec::new() })
    }
}

impl<P: Framed> Connection<P> {
    /// As [`Connection::received`], through the bridge if there is one.
    pub(super) fn arrived(
        self: &std::rc::Rc<Self>,
        bytes: &[u8],
        reading: &mut Reading<P>,
        now: u64,
    ) -> (usize, bool) {
        // Whoever is told of a reply may submit here.
        let Some(mut bridged) = self.inner.borrow_mut().bridged.take() else {
            return self.received(bytes, reading, now);
        };
        bridged.bridge.received(bytes, &mut bridged.arrived);
        let mut arrived = std::mem::take(&mut bridged.arrived);
        self.inner.borrow_mut().bridged = Some(bridged);
        let (consumed, is_sound) = self.received(&arrived, reading, now);
        arrived.drain(..consumed.min(arrived.len()));
        if let Some(bridged) = &mut self.inner.borrow_mut().bridged {
            bridged.arrived = arrived;
        }
        (bytes.len(), is_sound)
    }

    /// The server lacks the version that the connection is for: it gets another prologue, and a bridge.
    pub(super) fn build_bridge(&self, inner: &mut Inner<P>) {
        self.endpoint.lacks_version.set(true);
        inner.bridged = Bridged::of::<P>(self.profile);
        // What followed the refused version was not meant for a client without a login.
        inner.forgiven = inner.unwelcomed;
        let greeting = inner.greeting.buffer();
        let mut replies = self.login(|login| P::prologue(0, login, greeting));
        if self.kind == (super::Kind::Reading { is_told: true }) {
            replies += P::reading(greeting);
        }
        inner.unwelcomed += replies;
    }
}

impl<P: Framed> Inner<P> {
    /// What is to be written next, and goes over the bridge if there is one.
    pub(super) fn outgoing(&mut self) -> &mut Outbox {
        let Some(bridged) = &mut self.bridged else { return &mut self.outbox };
        if bridged.outbox.len() < OUTBOX_HIGH && !self.outbox.is_empty() {
            bridged.bridge.sent(self.outbox.buffer(), bridged.outbox.buffer());
            self.outbox.buffer().clear();
        }
        &mut bridged.outbox
    }
}
