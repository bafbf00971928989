//! One client, the engine, and one or more upstream connections, by hand.

use std::cell::RefCell;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use mecha::session::{EngineCell, Listener, ListenerLimits};
use mecha_clusters::{
    Balance, Balancer, ByHand, Environment, Node, ReplySink, Sharding, SubmitCx, Submitted, Timers, Upstream,
};
use mecha_core::{Batch, ConnKey, Framed, Limits, Peer, Protocol};
use mecha_resp::Resp;
use mecha_telemetry::Registry;
use mecha_transport::{Accepted, Clock};

/// Connections that share the keys between them.
struct Shards {
    connections: Vec<Rc<ByHand<Resp>>>,
    balancer: Balancer,
}

impl Shards {
    fn of(&self, batch: &Batch<'_, Resp>, index: usize) -> usize {
        let key = batch.heads.get(index).and_then(|head| Resp::key(head, batch.frame(index)));
        key.and_then(|key| self.balancer.by_key(key)).unwrap_or(0)
    }
}

impl Upstream<Resp> for Shards {
    fn submit(&self, batch: &mut Batch<'_, Resp>, range: Range<usize>, cx: SubmitCx<'_, Resp>) -> Submitted {
        let shard = self.of(batch, range.start);
        let end = (range.start + 1..range.end).find(|index| self.of(batch, *index) != shard);
        self.connections[shard].submit(batch, range.start..end.unwrap_or(range.end), cx)
    }
}

/// See the crate.
pub struct Pump {
    engine: Rc<EngineCell<Resp>>,
    sink: Rc<dyn ReplySink<Resp>>,
    conn: ConnKey,
    connections: Vec<Rc<ByHand<Resp>>>,
    clock: Clock,
    requests: Vec<u8>,
    /// Replies of each connection to its part of the requests.
    replies: Vec<Vec<u8>>,
    upstream: Vec<u8>,
    client: Vec<u8>,
    /// Keeps the client's end open.
    _peer: UnixStream,
    /// The client's socket wants one, though nothing is ever read or written through it.
    _runtime: tokio::runtime::Runtime,
}

impl Pump {
    /// A client of `shards` servers, with five policies or none.
    ///
    /// # Panics
    /// The system gives no socket, or one round does not bring the client every answer in order.
    pub fn new(shards: usize, with_policies: bool) -> Self {
        let clock = Clock::start();
        let registry = Registry::new();
        let environment = Environment {
            clock,
            timers: Rc::new(Timers::default()),
            scratch: Rc::new(RefCell::new(Vec::new())),
        };
        let metrics = registry.cluster("back", Resp::NAME);
        let one = |_| Rc::new(ByHand::new(Limits::default(), metrics.clone(), &environment));
        let connections: Vec<_> = (0..shards).map(one).collect();
        let node =
            |index: usize| Node { index: index as u16, name: format!("10.0.0.{index}:6379"), weight: 1 };
        let nodes: Vec<_> = (0..shards).map(node).collect();
        let sharding = Sharding { balance: Balance::Ketama, ..Sharding::default() };
        let upstream: Rc<dyn Upstream<Resp>> = match connections.as_slice() {
            [only] => Rc::clone(only) as _,
            _ => Rc::new(Shards {
                connections: connections.clone(),
                balancer: Balancer::new(sharding, &nodes),
            }),
        };
        let listener = Rc::new(Listener {
            name: "front".into(),
            upstream,
            chain: RefCell::new(if with_policies { crate::five_policies() } else { Default::default() }),
            guard: RefCell::new(None),
            is_private: false,
            rewrites_replies: false,
            rewrites_messages: false,
            places: Default::default(),
            metrics: registry.listener("front", Resp::NAME, Resp::ops()),
            limits: ListenerLimits {
                frames: Limits::default(),
                max_in_flight: 1024,
                max_output: 16 << 20,
                idle_timeout_micros: 0,
            },
            is_retired: Default::default(),
            successor: Default::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (ours, peer) = UnixStream::pair().expect("a socket");
        ours.set_nonblocking(true).expect("a socket");
        let entered = runtime.enter();
        let (_read, write) = Accepted::Unix(ours, None).into_halves().expect("a socket");
        drop(entered);
        let engine = EngineCell::<Resp>::new(clock);
        let peer_info = Peer { id: 1, addr: None, local: None, identity: None, user: None };
        let conn = engine.open(&listener, listener.places.enter(), peer_info, write);
        let mut pump = Self {
            sink: Rc::clone(&engine) as _,
            engine,
            conn,
            replies: vec![Vec::new(); connections.len()],
            connections,
            clock,
            requests: crate::resp_requests(),
            upstream: Vec::new(),
            client: Vec::new(),
            _peer: peer,
            _runtime: runtime,
        };
        pump.learn();
        assert!(pump.round() == crate::resp_replies(), "the client got something else than the answers");
        pump
    }

    /// Sends the requests once to see which connection gets which, and makes the replies.
    fn learn(&mut self) {
        self.engine.receive(self.conn, &self.requests, &self.sink);
        for (connection, replies) in self.connections.iter().zip(&mut self.replies) {
            let mut wire = Vec::new();
            connection.take_output(&mut wire);
            for head in crate::heads::<Resp>(&wire) {
                let is_get = head.span.of(&wire, &[]).starts_with(b"*2");
                let get = format!("$64\r\n{}\r\n", "v".repeat(64));
                replies.extend_from_slice(if is_get { get.as_bytes() } else { b"+OK\r\n" });
            }
            connection.receive(replies, self.clock.micros());
        }
        self.engine.take_output(self.conn, &mut Vec::new());
    }

    /// One batch of [`crate::DEPTH`] commands from the client's bytes to the client's bytes.
    pub fn round(&mut self) -> &[u8] {
        self.client.clear();
        self.engine.receive(self.conn, &self.requests, &self.sink);
        for (connection, replies) in self.connections.iter().zip(&self.replies) {
            self.upstream.clear();
            connection.take_output(&mut self.upstream);
            connection.receive(replies, self.clock.micros());
        }
        self.engine.take_output(self.conn, &mut self.client);
        &self.client
    }
}
