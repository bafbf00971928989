//! Upstreams: which endpoint a call goes to, and the connections that carry it there.
//!
//! Many clients share few connections. A [`Connection`] is a byte outbox, a queue of *runs* (which client waits for the
//! next so many replies) and one task. **Only that task touches the socket**, and it is woken at most once per
//! event-loop turn: the clients that became ready in one turn append to the outbox, and all of it leaves in one write
//! at the end of the turn. That single rule is what makes a depth-1 workload cheap.
//!
//! Replies go to a [`ReplySink`]: the session's engine, or a translator. A sink is only called while nothing here is
//! borrowed, so it may submit again at once.
//!
//! Deliberately absent: retries (a call that a server may have carried out is never sent again; one that it has sent away
//! is) and any knowledge of a protocol's bytes
//! beyond [`mecha_core::Framed`].

mod answers;
mod backoff;
mod balance;
mod brokers;
mod by_hand;
mod cluster;
mod connection;
mod detour;
mod endpoint;
mod health;
pub mod http;
mod links;
pub mod listing;
mod login;
mod logins;
pub mod moves;
pub mod news;
mod pubsub;
mod quotas;
mod reads;
mod router;
mod routes;
mod runs;
mod scatter;
mod scripts;
mod server;
mod sink;
mod streams;
#[cfg(test)]
mod testing;
mod timers;
pub mod topology;
mod tracking;
mod uncounted;

pub use backoff::{Backoff, RateGate};
pub use balance::{Balance, Balancer, HashTag, KeyHash, Node, Sharding};
pub use brokers::{Broker, Brokers, Door, Knock};
pub use by_hand::ByHand;
pub use cluster::{Cluster, ClusterOptions, EjectOptions, Environment, Frame, Gutter, Servers};
pub use connection::{Connection, ConnectionOptions, State};
pub use health::Health;
pub use listing::{Listed, Listing};
pub use login::{CurrentLogin, LoginSource};
pub use pubsub::Census;
pub use quotas::{Quota, Quotas, Share};
pub use reads::{ReadFrom, ReadPolicy};
pub use routes::{
    Conditions, Copies, Junction, Leg, Migrating, MigratingOptions, Migration, MigrationState, Mirror,
    MirrorOptions, Routed, RoutedLeg, Stage, Watch,
};
pub use scatter::{
    Announced, Announcement, Bond, Entrance, Gathered, Itself, Plan, Rules, Scan, ScanStep, Scattered, Way,
};
pub use scripts::ScriptStore;
pub use sink::{Delivery, Lane, ReplySink, Slip, SubmitCx, Submitted, Upstream, Wish};
pub use streams::{Choice, OutlierOptions, Stream, StreamOptions, StreamSeat, Streams};
pub use timers::Timers;
pub use uncounted::{NoFrame, Uncounted};
