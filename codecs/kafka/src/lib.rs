//! Kafka protocol: frames, schemas of messages, addresses in responses.
//!
//! ```text
//! client ── length key version correlation │ client-id [tags] │ request … ──►  broker
//! client ◄─ length correlation             │ [tags]           │ response … ──  broker
//!           └─ head: frame::Scanner ───────┘└─ body: looked into only where it must be ─┘
//! ```
//!
//! A broker answers the requests of a connection in their order, whatever they ask, and a connection is between one
//! client and one broker. So bytes pass as they come, and this crate is asked about heads ([`frame`]), about what is
//! in flight ([`pending`]), about what an API is ([`table`]) and about the few bodies that matter. What is called
//! *body* in this crate is all that follows the correlation id, the rest of Kafka's header included.
//!
//! # For a frame that came from a client
//!
//! [`frame::Scanner<frame::RequestHead>`] gives its head. [`table::judge`] says whether it may pass. A `Produce` is asked
//! for its acknowledgements while it passes ([`pending::Acks`]), since with none there is no response; everything else
//! is [`pending::Pending::sent`]. What may not pass is answered by [`errors::refuse`], or the connection is closed.
//!
//! # For a frame that came from a broker
//!
//! Its head has a correlation id, and [`pending::Pending::answered`] says what it answers. If that
//! [`has_addresses`](table::ApiKey::has_addresses), its body is wanted whole for [`addresses::rewrite`], or, if it is
//! large and [`addresses::Rewriter::can`], passes through one. An answer to `ApiVersions` is narrowed ([`api_versions::narrow`]). Everything else passes.
//!
//! # For what filters do
//!
//! [`batch`] reads and writes records. [`names`] replaces names of topics, groups and transactional ids. [`throttle`] lets clients
//! wait.
//!
//! # For figures
//!
//! [`tally`] reads errors, and how far topics and groups have come, from what passes.
//!
//! # For logins
//!
//! [`sasl`] has both sides of them: mecha's own at brokers, and those of clients at mecha.
//!
//! # What is believed
//!
//! Nothing. [`walk`] compares every count and length with the bytes that are there, and kafka-protocol's codecs, which
//! do not, decode only what [`guard`] has walked through.
//!
//! Deliberately absent: sockets, clusters, and what the versions before Kafka 4.0 had that 4.0 removed.

pub mod addresses;
pub mod api_versions;
pub mod batch;
mod begins;
pub mod errors;
pub mod frame;
pub mod guard;
pub mod names;
pub mod pending;
pub mod route;
pub mod sasl;
pub mod schema;
pub mod table;
pub mod tally;
pub mod throttle;
mod tree;
pub mod walk;
pub mod wire;

pub use begins::begins;

/// Messages as types, for those few bodies that are taken apart ([`guard`] decodes them).
pub use kafka_protocol::{messages, protocol};
