//! The vocabulary of mecha.
//!
//! A *call* is one request of one client, whatever protocol carries it. Calls travel in *batches*: what one read of a
//! client socket returned. A chain of filters looks at a batch and gives each call a [`Verdict`]; the session forwards
//! what is left to an upstream, and every call ends in exactly one [`Done`].
//!
//! Protocols are types that implement [`Protocol`] (and [`Framed`], when we cut their frames ourselves). Nothing here
//! lists them: adding one touches no file of this crate.
//!
//! Deliberately absent: sockets, tasks, clocks, logs, configuration and any protocol's name. Time is always an
//! argument. That keeps every codec, filter and translation testable without a runtime.

mod begins;
mod bridge;
mod call;
mod chain;
mod errand;
mod frame;
mod protocol;
mod redirect;
mod script;

pub use begins::Begins;
pub use bridge::Bridge;
pub use call::{
    Affinity, Asked, Call, ConnKey, Done, OpClass, OpId, OpInfo, Outcome, Refusal, ReplyCount, Ticket,
    Verdict,
};
pub use chain::{Batch, Chain, Cx, Filter, Identity, Passage, Peer, Policy, Replies};
pub use errand::{Act, ClientFacts, ClientKind, Errand, Found, Line, Selection, shown};
pub use frame::{Decode, Decoded, Limits, ProtocolError, Span};
pub use protocol::{Framed, Keys, Login, Looked, Matched, Protocol, Session, kind_of, login_of, profile_of};
pub use redirect::Redirect;
pub use script::ScriptRole;
