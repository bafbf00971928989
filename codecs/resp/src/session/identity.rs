//! Who the client says that it is: its name, its library, the version of the protocol that it speaks.
//!
//! All of it belongs to the client and not to an upstream connection that others use too, so it is kept here, told to a
//! dedicated connection, and taken back from it.

use mecha_core::Affinity;

use super::Session;
use super::look::{Seen, Step};
use crate::ops::op;
use crate::reply::Writer;
use crate::{args, write_request};

/// A `HELLO` on its way: what holds if it fails, and the version and the name that it gives if it succeeds.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) proto_before: u8,
    pub(super) proto: u8,
    pub(super) name: Option<Vec<u8>>,
}

// === impl Session ===

impl Session {
    pub(super) fn hello(&mut self, seen: &Seen<'_>, out: &mut Vec<u8>) -> Step {
        let mut words = args(seen.frame).skip(1);
        let version = match words.next().map(crate::args::decimal) {
            Some(Some(2)) => 2,
            Some(Some(3)) => 3,
            None => return self.alone(),
            // The server finds the right words for it.
            Some(_) => return self.plain(seen),
        };
        let (mut name, mut user) = (None, None);
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"AUTH") {
                user = words.next();
                words.next();
                continue;
            }
            name = words.next().filter(|name| word.eq_ignore_ascii_case(b"SETNAME") && is_clean(name));
            if name.is_none() {
                return self.plain(seen);
            }
        }
        if seen.is_open {
            return self.hold();
        }
        let name = name.map(<[u8]>::to_vec);
        self.greeting = Some(Box::new(Greeting { proto_before: self.proto, proto: version, name }));
        if user.is_some() || self.is_pinned() {
            // Credentials belong to the connection that they were given on, and so does the version.
            self.next_login = user.map(|user| String::from_utf8_lossy(user).into());
            return self.attempt();
        }
        self.proto = version;
        // The name is not the shared connection's.
        let version: &[u8] = if version == 3 { b"3" } else { b"2" };
        write_request([b"HELLO".as_slice(), version].into_iter(), out);
        Step::Rewritten(Affinity::Barrier)
    }

    /// Notes what the server is told as well.
    pub(super) fn rename(&mut self, seen: &Seen<'_>) {
        let slot = match seen.op {
            op::CLIENT_SETNAME => &mut self.name,
            _ if seen.says(2, "lib-name") => &mut self.lib_name,
            _ if seen.says(2, "lib-ver") => &mut self.lib_version,
            _ => return,
        };
        let value = seen.word(if seen.op == op::CLIENT_SETNAME { 2 } else { 3 });
        if is_clean(value) {
            *slot = value.to_vec();
        }
    }

    /// Client commands that concern mecha's own connection.
    pub(super) fn client(&mut self, seen: &Seen<'_>, mut writer: Writer<'_>) -> Step {
        let value = seen.word(if seen.op == op::CLIENT_SETINFO { 3 } else { 2 });
        match seen.op {
            op::CLIENT_GETNAME if self.name.is_empty() => writer.null(),
            op::CLIENT_GETNAME => writer.bulk(&self.name),
            op::CLIENT_SETNAME if is_clean(value) => {
                self.name = value.to_vec();
                if self.is_pinned() {
                    self.is_named = true;
                    return self.plain(seen);
                }
                writer.ok();
            }
            op::CLIENT_SETNAME => {
                writer.error("ERR Client names cannot contain spaces, newlines or special characters.");
            }
            _ => {
                let field = seen.word(2);
                let (slot, name) = match field.to_ascii_lowercase().as_slice() {
                    b"lib-name" => (&mut self.lib_name, "lib-name"),
                    b"lib-ver" => (&mut self.lib_version, "lib-ver"),
                    _ => {
                        writer.error_bytes(&[b"ERR Unrecognized option '", field, b"'"].concat());
                        return Step::Answered;
                    }
                };
                if is_clean(value) {
                    *slot = value.to_vec();
                    writer.ok();
                } else {
                    writer
                        .error(&format!("ERR {name} cannot contain spaces, newlines or special characters."));
                }
            }
        }
        Step::Answered
    }

    /// See [`mecha_core::Session::introduction`].
    pub(super) fn introduce(&mut self, out: &mut Vec<u8>) -> u32 {
        if !self.is_pinned() || self.is_replica {
            return 0;
        }
        let mut count = 0;
        let mut write = |words: &[&[u8]]| {
            write_request(words.iter().copied(), out);
            count += 1;
        };
        let known: [(&[&[u8]], &[u8]); 3] = [
            (&[b"CLIENT", b"SETNAME"], &self.name),
            (&[b"CLIENT", b"SETINFO", b"lib-name"], &self.lib_name),
            (&[b"CLIENT", b"SETINFO", b"lib-ver"], &self.lib_version),
        ];
        // What its library is called is seen in lists only, of those who stay.
        let known = known.into_iter().take(if self.held { 3 } else { 1 });
        for (words, value) in known.filter(|(_, value)| !value.is_empty()) {
            write(&[words, &[value]].concat());
        }
        (self.is_named, self.is_described) = (!self.name.is_empty(), self.held);
        count
    }

    /// See [`mecha_core::Session::farewell`].
    pub(super) fn take_back(&mut self, out: &mut Vec<u8>) -> u32 {
        let mut count = 0;
        let mut write = |words: &[&[u8]]| {
            write_request(words.iter().copied(), out);
            count += 1;
        };
        if std::mem::take(&mut self.is_named) {
            write(&[b"CLIENT", b"SETNAME", b""]);
        }
        let is_described = std::mem::take(&mut self.is_described);
        if is_described && !self.lib_name.is_empty() {
            write(&[b"CLIENT", b"SETINFO", b"lib-name", b""]);
        }
        if is_described && !self.lib_version.is_empty() {
            write(&[b"CLIENT", b"SETINFO", b"lib-ver", b""]);
        }
        count
    }
}

/// Names and the like must not break the lines of `CLIENT LIST`.
fn is_clean(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
