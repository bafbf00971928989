//! Finding out what a client speaks, before anybody serves it.
//!
//! Its first bytes are looked at where they are, in the socket (`MSG_PEEK`): whoever serves the client reads them as if nobody
//! had. A port that was dialled can say it at once. Who says nothing in time, or nothing that is known, stays with the door that
//! it came to: servers that speak first, and protocols that are none of ours.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use mecha_telemetry::prometheus::IntCounter;
use mecha_transport::Accepted;
use mecha_transport::tls::{Hello, hello};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Prelude;

/// First bytes that are looked at; more than any protocol needs.
const LOOKED_AT: usize = 16 << 10;

/// How long to wait for more bytes than there are: the socket only tells that there are some.
const STEP: Duration = Duration::from_millis(2);

/// What first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Nothing that is known, whatever follows.
    Nothing,
    /// This protocol.
    Protocol(&'static str),
    /// More bytes will tell.
    Unclear,
}

/// Another door, for those who speak its protocol.
#[derive(Clone)]
pub struct Lead {
    /// Its number.
    pub door: u64,
    /// What comes before its protocol.
    pub prelude: Prelude,
    /// The protocol.
    pub protocol: String,
}

/// How the clients of one door are led to others.
pub struct DetectDoor {
    /// Time for a client to say what it speaks.
    pub wait: Duration,
    /// Ports that were dialled, which say enough.
    pub ports: Vec<(u16, Lead)>,
    /// Doors by the name that a client asks for in its TLS handshake: a host, or `*.` and what it ends with.
    pub names: Vec<(String, Lead)>,
    /// Doors by what they speak.
    pub leads: Vec<Lead>,
    /// What bytes say.
    pub speaks: fn(&[u8]) -> Speaks,
    /// Clients, by what they said.
    pub counters: HashMap<String, IntCounter>,
}

impl DetectDoor {
    fn count(&self, what: &str) {
        if let Some(counter) = self.counters.get(what) {
            counter.inc();
        }
    }

    /// Where this client goes; `None` where it came to.
    pub(super) async fn lead(&self, stream: Accepted) -> io::Result<(Accepted, Option<&Lead>)> {
        let dialled = stream.redirected_from().or_else(|| stream.local());
        let by_port = |addr: std::net::SocketAddr| self.ports.iter().find(|(port, _)| *port == addr.port());
        if let Some((_, lead)) = dialled.and_then(by_port) {
            self.count("port");
            return Ok((stream, Some(lead)));
        }
        let Accepted::Tcp(stream, addr) = stream else { return Ok((stream, None)) };
        let stream = TcpStream::from_std(stream)?;
        let said = self.listen(&stream).await?;
        let lead = match said {
            Said::Protocol(name) => {
                self.count(name);
                self.leads.iter().find(|lead| lead.protocol == name && lead.prelude.tls.is_none())
            }
            Said::Tls(name) => {
                self.count("tls");
                // What it speaks inside is between it and whoever has the certificate: one door can be meant, or none.
                let mut with_tls = self.leads.iter().filter(|lead| lead.prelude.tls.is_some());
                let only = with_tls.next().filter(|_| with_tls.next().is_none());
                name.and_then(|name| self.named(&name)).or(only)
            }
            Said::Unknown => {
                self.count("unknown");
                None
            }
            Said::Nothing => {
                self.count("silent");
                None
            }
        };
        Ok((Accepted::Tcp(stream.into_std()?, addr), lead))
    }

    /// The door for a name: that of the very name, or else of the longest end of it.
    fn named(&self, name: &str) -> Option<&Lead> {
        let ends = |known: &str| {
            let end = known.strip_prefix('*')?;
            (name.len() > end.len() && name.ends_with(end)).then_some(end.len())
        };
        let weight = |known: &str| if known == name { Some(usize::MAX) } else { ends(known) };
        let fitting = self.names.iter().filter_map(|(known, lead)| Some((weight(known)?, lead)));
        fitting.max_by_key(|(weight, _)| *weight).map(|(_, lead)| lead)
    }

    async fn listen(&self, stream: &TcpStream) -> io::Result<Said> {
        let deadline = Instant::now() + self.wait;
        let mut bytes = vec![0; 64];
        let mut seen = 0;
        loop {
            let Ok(peeked) = tokio::time::timeout_at(deadline, stream.peek(&mut bytes)).await else {
                return Ok(if seen == 0 { Said::Nothing } else { Said::Unknown });
            };
            let count = peeked?;
            // A client that has ended has said all that it will.
            let is_over = count == 0 || count == seen && Instant::now() >= deadline;
            let first = bytes.get(..count).unwrap_or_default();
            let may_be_tls = match hello(first) {
                Hello::Whole { name, .. } => return Ok(Said::Tls(name)),
                // A handshake that never comes to its end is somebody else's to refuse.
                Hello::Incomplete if is_over && !first.is_empty() => return Ok(Said::Tls(None)),
                Hello::Incomplete => true,
                Hello::None => false,
            };
            match (self.speaks)(first) {
                Speaks::Protocol(name) => return Ok(Said::Protocol(name)),
                Speaks::Nothing if !may_be_tls => return Ok(Said::Unknown),
                Speaks::Nothing | Speaks::Unclear if is_over => return Ok(Said::Unknown),
                Speaks::Nothing | Speaks::Unclear => {}
            }
            if count == bytes.len() && count < LOOKED_AT {
                bytes.resize(LOOKED_AT, 0);
                continue;
            }
            seen = count;
            tokio::time::sleep_until(deadline.min(Instant::now() + STEP)).await;
        }
    }
}

enum Said {
    Nothing,
    Protocol(&'static str),
    /// TLS, and whom it asks for.
    Tls(Option<String>),
    Unknown,
}
