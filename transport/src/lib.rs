//! Sockets and nothing else: addresses, listening, connecting, and streams cut in a reading and a writing half.
//!
//! The halves are what the data plane is built around: one task owns the reading half and polls it, while whoever has
//! bytes for the peer writes them through the writing half without asking that task. TLS ([`tls`]) is a further
//! kind of stream, here and nowhere else.

mod address;
mod clock;
mod intake;
mod limits;
mod listen;
mod mark;
mod outbox;
mod pipe;
mod proxy;
mod stream;
mod sys;
pub mod tls;

pub use address::Address;
pub use clock::{Clock, unix_ms};
pub use intake::Intake;
pub use limits::{open_files_limit, raise_open_files_limit};
pub use listen::{Bound, Listener, bind, bind_transparent};
pub use mark::{mark_outgoing, may_keep_source};
pub use outbox::Outbox;
pub use pipe::{PIPE_SIZE, Pipe};
pub use proxy::{ProxyVersion, proxy_header};
pub use stream::{Accepted, ReadHalf, WriteHalf, connect, connect_with};
pub use sys::{limit_free_memory, release_free_memory, resident_bytes};
