//! Numbers in a server's replies that are the server's own, where a client must read mecha's.
//!
//! To the server a connection of mecha is a client, with a number of its own; what a client is told of itself and of
//! others must be the numbers that `CLIENT LIST` and `KILL` have for them, which are mecha's. So the server is asked, as
//! it has the last word on who may ask, and the number in its reply is exchanged:
//!
//! | command | what is exchanged |
//! |---|---|
//! | `CLIENT ID` | all of it |
//! | `HELLO` | `id` |
//! | `CLIENT GETREDIR`, `CLIENT TRACKINGINFO` | the client that messages are redirected to |
//! | `INFO` | `connected_clients`: the listener's. The server's own is left as `mecha_server_connections` |

use mecha_core::OpId;

use super::{Session, clients};
use crate::Resp;
use crate::ops::op;
use mecha_core::Framed;

/// A client that gets another one's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirected {
    /// The server's number of its connection.
    theirs: u64,
    /// mecha's number of it.
    ours: u64,
}

// === impl Redirected ===

impl Redirected {
    /// As the `CLIENT TRACKING` in `frame` says, whose client is at `located` for the server.
    pub(super) fn of(frame: &[u8], located: Option<u64>) -> Option<Self> {
        let (_, ours) = clients::redirection(frame)?;
        Some(Self { theirs: located?, ours: ours? })
    }
}

// === impl Session ===

impl Session {
    /// See [`mecha_core::Session::amend`]. `None`: nothing is to be exchanged.
    pub(super) fn amended(&self, op: OpId, reply: &[u8], clients: usize, out: &mut Vec<u8>) -> Option<()> {
        match op {
            op::CLIENT_ID => {
                Resp::number(reply)?;
                out.extend_from_slice(format!(":{}\r\n", self.id).as_bytes());
            }
            op::HELLO => {
                let (start, end) = number_behind(reply, b"$2\r\nid\r\n:")?;
                exchange(reply, start, end, self.id, out);
            }
            op::CLIENT_GETREDIR => {
                let redirected = self.redirect.filter(|known| Resp::number(reply) == Some(known.theirs))?;
                out.extend_from_slice(format!(":{}\r\n", redirected.ours).as_bytes());
            }
            op::CLIENT_TRACKINGINFO => {
                let (start, end) = number_behind(reply, b"$8\r\nredirect\r\n:")?;
                let told = reply.get(start..end).and_then(crate::args::decimal)?;
                let redirected = self.redirect.filter(|known| u64::try_from(told) == Ok(known.theirs))?;
                exchange(reply, start, end, redirected.ours, out);
            }
            op::INFO => info(reply, clients, out)?,
            _ => return None,
        }
        Some(())
    }
}

/// Where the digits behind the first `mark` are.
fn number_behind(reply: &[u8], mark: &[u8]) -> Option<(usize, usize)> {
    let start = memchr::memmem::find(reply, mark)? + mark.len();
    let length = memchr::memchr(b'\r', reply.get(start..)?)?;
    Some((start, start + length))
}

/// Appends `bytes` with `number` in the place of what is between `start` and `end`.
fn exchange(bytes: &[u8], start: usize, end: usize, number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(bytes.get(..start).unwrap_or_default());
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(bytes.get(end..).unwrap_or_default());
}

/// Appends the reply to `INFO` with so many clients.
fn info(reply: &[u8], clients: usize, out: &mut Vec<u8>) -> Option<()> {
    let (kind, behind) = reply.split_first().filter(|(kind, _)| matches!(kind, b'$' | b'='))?;
    let head = memchr::memmem::find(behind, b"\r\n")? + 2;
    let text = behind.get(head..)?.strip_suffix(b"\r\n")?;
    let mark = b"\r\nconnected_clients:";
    let (start, end) = number_behind(text, mark)?;
    let mut fresh = Vec::with_capacity(text.len() + 64);
    exchange(text, start, end, clients as u64, &mut fresh);
    let line_end = start + clients.to_string().len();
    let theirs = [b"\r\nmecha_server_connections:", text.get(start..end)?].concat();
    fresh.splice(line_end..line_end, theirs);
    out.push(*kind);
    out.extend_from_slice(format!("{}\r\n", fresh.len()).as_bytes());
    out.extend_from_slice(&fresh);
    out.extend_from_slice(b"\r\n");
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amended(session: &Session, op: OpId, reply: &str) -> Option<String> {
        let mut out = Vec::new();
        let is_amended = session.amended(op, reply.as_bytes(), 42, &mut out);
        is_amended.map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_client_reads_its_own_number() {
        let session = Session { id: 7, ..Session::default() };
        assert_eq!(amended(&session, op::CLIENT_ID, ":123\r\n").unwrap(), ":7\r\n");
        assert_eq!(amended(&session, op::CLIENT_ID, "-NOPERM no\r\n"), None);
        let hello = "*4\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:123\r\n";
        assert_eq!(amended(&session, op::HELLO, hello).unwrap(), hello.replace("123", "7"));
        assert_eq!(amended(&session, op::HELLO, "-NOPROTO unsupported\r\n"), None);
        assert_eq!(amended(&session, op::GET, ":123\r\n"), None);
    }

    #[test]
    fn it_reads_the_number_of_the_client_that_it_redirects_to() {
        let frame = b"*5\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$8\r\nREDIRECT\r\n$1\r\n9\r\n";
        let redirect = Redirected::of(frame, Some(55));
        let session = Session { redirect, ..Session::default() };
        assert_eq!(amended(&session, op::CLIENT_GETREDIR, ":55\r\n").unwrap(), ":9\r\n");
        let info = "*6\r\n$5\r\nflags\r\n*1\r\n$2\r\non\r\n$8\r\nredirect\r\n:55\r\n$8\r\nprefixes\r\n*0\r\n";
        assert_eq!(amended(&session, op::CLIENT_TRACKINGINFO, info).unwrap(), info.replace(":55", ":9"));
        // It does not redirect any more.
        assert_eq!(amended(&session, op::CLIENT_GETREDIR, ":0\r\n"), None);
        assert_eq!(amended(&session, op::CLIENT_GETREDIR, ":-1\r\n"), None);
        assert_eq!(amended(&session, op::CLIENT_TRACKINGINFO, &info.replace(":55", ":-1")), None);
        assert_eq!(Redirected::of(frame, None), None);
    }

    #[test]
    fn the_clients_in_info_are_the_listeners() {
        let session = Session::default();
        let text = "# Clients\r\nconnected_clients:3\r\nmaxclients:9\r\n";
        let fresh = "# Clients\r\nconnected_clients:42\r\nmecha_server_connections:3\r\nmaxclients:9\r\n";
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        assert_eq!(amended(&session, op::INFO, &bulk(text)).unwrap(), bulk(fresh));
        let verbatim = |text: &str| format!("={}\r\ntxt:{text}\r\n", text.len() + 4);
        assert_eq!(amended(&session, op::INFO, &verbatim(text)).unwrap(), verbatim(fresh));
        assert_eq!(amended(&session, op::INFO, &bulk("# CPU\r\nused:1\r\n")), None);
        assert_eq!(amended(&session, op::INFO, "$9\r\nconnected"), None);
    }
}
