//! A connection whose bytes somebody carries by hand: no socket, no task. For measurements and simulations, which see
//! the same submission, matching and delivery as the real one's clients do.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{Batch, Framed, Limits};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::Address;

use crate::CurrentLogin;
use crate::connection::Kind;
use crate::connection::Reading;
use crate::endpoint::Endpoint;
use crate::{Backoff, Connection, ConnectionOptions, Environment, RateGate, SubmitCx, Submitted, Upstream};

/// The connection and what it keeps between reads.
pub struct ByHand<P: Framed> {
    connection: Rc<Connection<P>>,
    reading: RefCell<Reading<P>>,
}

impl<P: Framed> ByHand<P> {
    /// A connection that is never opened.
    pub fn new(limits: Limits, metrics: Arc<ClusterMetrics>, environment: &Environment) -> Self {
        let options = ConnectionOptions {
            connect_timeout: Duration::from_secs(1),
            max_pending: 1 << 14,
            max_abandoned: 1 << 12,
            patience_micros: 0,
            limits,
            tls: None,
            login: CurrentLogin::default(),
            guests: crate::logins::Guests::default(),
            scripts: crate::scripts::Scripts::default(),
        };
        let endpoint = Endpoint {
            cluster: "by hand".into(),
            address: Address::Host("nowhere.invalid".into(), 1),
            options: Rc::new(options),
            metrics,
            clock: environment.clock,
            timers: Rc::clone(&environment.timers),
            scratch: Rc::clone(&environment.scratch),
            backoff: RefCell::new(Backoff::new(Duration::from_secs(1), Duration::from_secs(1))),
            gate: RefCell::new(RateGate::new(1)),
            pulse: None,
            down_until_micros: Cell::new(0),
            lost_since_micros: Cell::new(0),
            news: None,
            is_denied: Cell::new(false),
            failures: Cell::new(0),
            eject: OnceCell::new(),
            max_ttl_secs: Cell::new(0),
            lacks_version: Cell::new(false),
        };
        let connection = Connection::new(Rc::new(endpoint), 0, Some(0), Kind::Shared, None);
        let reading = RefCell::new(Reading::new(P::reply_decoder(limits, 0)));
        Self { connection, reading }
    }

    /// Moves the bytes that wait for the server to the end of `out`.
    pub fn take_output(&self, out: &mut Vec<u8>) {
        self.connection.take_output(out);
    }

    /// Hands out replies: `bytes` is everything unprocessed. Returns how much of it is done with. Sinks are not told to
    /// write.
    pub fn receive(&self, bytes: &[u8], now_micros: u64) -> usize {
        let mut reading = self.reading.borrow_mut();
        let (consumed, _) = self.connection.received(bytes, &mut reading, now_micros);
        reading.touched.clear();
        consumed
    }
}

impl<P: Framed> Upstream<P> for ByHand<P> {
    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted {
        let count = range.len();
        self.connection.submit(batch, range, cx.sink, cx.now_micros);
        Submitted::Pending(count)
    }
}
