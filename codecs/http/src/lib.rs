//! HTTP without sockets: what a proxy must know that its engine does not.
//!
//! Messages are parsed and written by hyper; this crate holds what mecha adds to it.
//!
//! - [`Guard`] looks at the bytes of an HTTP/1 connection before hyper does, and lets nothing pass that two parsers might
//!   read in two ways.
//! - [`fields`]: which header fields end at a proxy, and what they say.
//! - [`ops`]: requests as policies see them.
//! - [`routes`] and [`edit`]: which requests a route takes, and what it changes in them.
//! - [`answer`]: what a client reads when mecha answers in the backend's place, HTTP and gRPC.
//!
//! The chain's types depend on no engine (docs/decisions/0010-http-engine.md).

pub mod answer;
mod begins;
pub mod edit;
pub mod fields;
mod guard;
pub mod ops;
pub mod routes;

pub use begins::begins;
pub use guard::{Guard, Phase, Violation};
pub use ops::Http;
