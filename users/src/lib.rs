//! Users that are defined in mecha: who a client is, and what it may do.
//!
//! Servers behind mecha know mecha, which shares its connections to them between clients. So where clients are to be told
//! apart, mecha does it: a listener with users has a [`Guard`], which sees every batch first, logs clients in and refuses
//! what their user may not do with the protocol's own error. A listener without users has no guard and pays nothing.
//!
//! Rules are written as Redis's `ACL SETUSER` takes them ([`Rules`]), and hold for every protocol as far as it has what
//! they name: `-flushall` says nothing about Memcached, `+@read` says the same everywhere. They are resolved to a bit for
//! each row of a protocol's command table ([`User`]), so that most calls cost one test of a bit.
//!
//! A guard that does not know what a request touches refuses it. What scripts do inside a server is beyond it.
//!
//! Deliberately absent: users that change at run time (`ACL SETUSER`; the configuration is reloaded instead), and
//! selectors (a second set of rules in parentheses).

mod guard;
mod kafka;
mod memcached;
mod pattern;
mod resp;
mod rules;
mod secret;
mod throttle;
mod token;
mod user;

pub use guard::{Gate, Guard, Guarded, Standing, Who};
pub use kafka::{NoCommands, limiting};
pub use rules::{Complaint, Rules, check};
pub use secret::Secret;
pub use token::{Bearer, Issuer, TokenError};
pub use user::{Definition, User, Users, Vocabulary};
