//! Messages of DNS (RFC 1035), as far as looking up servers needs them: one question, and A, AAAA, CNAME and SRV records.
//!
//! What comes from a name server is believed only if it repeats the question and its number. Names are followed backwards
//! only, so that no message can lead anybody in circles; what does not fit is an error, and never a guess.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an answer over UDP that is asked for: what passes every network in one piece (RFC 9715).
pub(super) const MAX_UDP: u16 = 1232;

/// Longest name, with a dot behind each label.
const MAX_NAME: usize = 254;

/// Records of one answer.
const MAX_RECORDS: usize = 4096;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// It did not fit: it must be asked for over TCP.
    pub(super) is_cut: bool,
    /// The server's code (RFC 1035, section 4.1.1); 3: there is no such name.
    pub(super) code: u8,
    /// Those of the answer, and those that were added to it.
    pub(super) records: Vec<Record>,
}

/// One record; names are in lower case, with a dot at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) ttl: u32,
    pub(super) data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Address(IpAddr),
    Alias(String),
    /// A server of a service (RFC 2782).
    Server {
        priority: u16,
        weight: u16,
        port: u16,
        host: String,
    },
}

/// An answer that cannot be read, or is for somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It ends before its end.
    Cut,
    /// A name in it is wrong.
    Name,
    /// It has too many records.
    Records,
    /// It answers another question.
    Stranger,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cut => "the answer breaks off",
            Self::Name => "a name in the answer is wrong",
            Self::Records => "the answer has too many records",
            Self::Stranger => "the answer is for another question",
        })
    }
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

/// The question `kind` about `name`, with this number. `None` if it is no name.
pub(super) fn question(number: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(name.len() + 32);
    let put = |message: &mut Vec<u8>, word: u16| message.extend_from_slice(&word.to_be_bytes());
    // The number; recursion is desired; one question, and one record that tells how much may come (RFC 6891).
    for word in [number, 0x0100, 1, 0, 0, 1] {
        put(&mut message, word);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() + 2 > MAX_NAME {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    put(&mut message, kind.code());
    put(&mut message, 1);
    message.push(0);
    for word in [41, MAX_UDP, 0, 0, 0] {
        put(&mut message, word);
    }
    Some(message)
}

/// Reads an answer to the question `kind` about `name` with this number.
///
/// # Errors
/// See [`Broken`].
pub(super) fn answer(message: &[u8], number: u16, name: &str, kind: Kind) -> Result<Answer, Broken> {
    let mut reader = Reader { message, at: 0 };
    let (got, flags) = (reader.word()?, reader.word()?);
    let counts = [reader.word()?, reader.word()?, reader.word()?, reader.word()?];
    let [questions, answers, authorities, more] = counts.map(usize::from);
    let is_answer = flags & 0xf800 == 0x8000;
    if got != number || !is_answer || questions != 1 {
        return Err(Broken::Stranger);
    }
    let (asked, asked_kind, class) = (reader.name()?, reader.word()?, reader.word()?);
    if asked != absolute(name) || asked_kind != kind.code() || class != 1 {
        return Err(Broken::Stranger);
    }
    let (is_cut, code) = (flags & 0x0200 != 0, (flags & 0xf) as u8);
    let mut answer = Answer { is_cut, code, records: Vec::new() };
    // What is left out of one that did not fit is nobody's business.
    if is_cut {
        return Ok(answer);
    }
    let count = answers + authorities + more;
    if count > MAX_RECORDS {
        return Err(Broken::Records);
    }
    for at in 0..count {
        let is_authority = (answers..answers + authorities).contains(&at);
        let record = reader.record()?;
        answer.records.extend(record.filter(|_| !is_authority));
    }
    Ok(answer)
}

/// A name as records have it.
pub(super) fn absolute(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}

struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    fn take(&mut self, count: usize) -> Result<&'m [u8], Broken> {
        let bytes = self.message.get(self.at..).and_then(|rest| rest.get(..count)).ok_or(Broken::Cut)?;
        self.at += count;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u16, Broken> {
        let bytes = self.take(2)?;
        Ok(bytes.iter().fold(0, |word, byte| (word << 8) | u16::from(*byte)))
    }

    /// A name, which may go on at an earlier place (RFC 1035, section 4.1.4).
    fn name(&mut self) -> Result<String, Broken> {
        let mut name = String::new();
        let (mut at, mut earliest, mut end) = (self.at, self.at, None);
        loop {
            let length = usize::from(*self.message.get(at).ok_or(Broken::Cut)?);
            match length {
                0 => break,
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + length).ok_or(Broken::Cut)?;
                    // What a name server calls a host that is none must not reach a log or a certificate check.
                    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                    if !label.iter().all(is_fine) || name.len() + length + 2 > MAX_NAME {
                        return Err(Broken::Name);
                    }
                    name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                    name.push('.');
                    at += 1 + length;
                }
                0xc0.. => {
                    let low = usize::from(*self.message.get(at + 1).ok_or(Broken::Cut)?);
                    let to = ((length & 0x3f) << 8) | low;
                    end.get_or_insert(at + 2);
                    if to >= earliest {
                        return Err(Broken::Name);
                    }
                    (at, earliest) = (to, to);
                }
                _ => return Err(Broken::Name),
            }
        }
        self.at = end.unwrap_or(at + 1);
        Ok(if name.is_empty() { ".".into() } else { name })
    }

    /// A record, if it is of a kind that matters.
    fn record(&mut self) -> Result<Option<Record>, Broken> {
        let start = self.at;
        // Names of other records may be anything.
        let name = match self.name() {
            Err(Broken::Name) => {
                self.at = start;
                self.skip_name()?;
                None
            }
            name => Some(name?),
        };
        let (kind, class) = (self.word()?, self.word()?);
        let ttl = (u32::from(self.word()?) << 16) | u32::from(self.word()?);
        let length = usize::from(self.word()?);
        let end = self.at + length;
        if end > self.message.len() {
            return Err(Broken::Cut);
        }
        let data = match (kind, class, length) {
            (1, 1, 4) => {
                let octets: Result<[u8; 4], _> = self.take(4)?.try_into();
                octets.ok().map(|octets| Data::Address(Ipv4Addr::from(octets).into()))
            }
            (28, 1, 16) => {
                let octets: Result<[u8; 16], _> = self.take(16)?.try_into();
                octets.ok().map(|octets| Data::Address(Ipv6Addr::from(octets).into()))
            }
            (5, 1, _) => Some(Data::Alias(self.name()?)),
            (33, 1, 7..) => {
                let (priority, weight, port) = (self.word()?, self.word()?, self.word()?);
                Some(Data::Server { priority, weight, port, host: self.name()? })
            }
            _ => None,
        };
        if data.is_some() && matches!(kind, 5 | 33) && self.at != end {
            return Err(Broken::Name);
        }
        self.at = end;
        // The highest bit would make it negative, which is nought (RFC 2181, section 8).
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        Ok(name.zip(data).map(|(name, data)| Record { name, ttl, data }))
    }

    fn skip_name(&mut self) -> Result<(), Broken> {
        loop {
            let length = usize::from(*self.take(1)?.first().ok_or(Broken::Cut)?);
            match length {
                0 => return Ok(()),
                1..=63 => drop(self.take(length)?),
                0xc0.. => return self.take(1).map(drop),
                _ => return Err(Broken::Name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An answer with a CNAME, an A and an AAAA record, and what nobody asked for.
    fn sample() -> Vec<u8> {
        let mut message = question(7, "App.example", Kind::A).unwrap();
        // It is an answer; three records, one of an authority, and the one about its size.
        message.splice(2..12, [0x81, 0x80, 0, 1, 0, 3, 0, 1, 0, 1]);
        let end = message.split_off(message.len() - 11);
        message.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x04\x01b\xc0\x10");
        message.extend_from_slice(b"\x01b\xc0\x10\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01");
        message.extend_from_slice(
            b"\x01b\xc0\x10\0\x1c\0\x01\xff\0\0\0\0\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
        );
        message.extend_from_slice(b"\x03a b\0\0\x02\0\x01\0\0\0\x05\0\x01\0");
        message.extend_from_slice(&end);
        message
    }

    #[test]
    fn an_answer_is_read_with_its_aliases_and_the_rest_left_out() {
        let read = answer(&sample(), 7, "APP.example.", Kind::A).unwrap();
        let record = |name: &str, ttl, data| Record { name: name.into(), ttl, data };
        assert_eq!(
            read.records,
            [
                record("app.example.", 30, Data::Alias("b.example.".into())),
                record("b.example.", 5, Data::Address([10, 0, 0, 1].into())),
                record("b.example.", 0, Data::Address("fd00::1".parse().unwrap())),
            ]
        );
        assert_eq!((read.code, read.is_cut), (0, false));
        for (number, name, kind) in
            [(8, "app.example", Kind::A), (7, "b.example", Kind::A), (7, "app.example", Kind::Aaaa)]
        {
            assert_eq!(answer(&sample(), number, name, kind), Err(Broken::Stranger));
        }
        let asked = question(7, "app.example", Kind::A).unwrap();
        assert_eq!(answer(&asked, 7, "app.example", Kind::A), Err(Broken::Stranger));
    }

    #[test]
    fn services_name_hosts_and_ports() {
        let mut message = question(1, "_a._tcp.b", Kind::Srv).unwrap();
        message.splice(2..12, [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.truncate(message.len() - 11);
        message.extend_from_slice(b"\xc0\x0c\0\x21\0\x01\0\0\0\x0a\0\x0a\0\x01\0\x02\x1f\x90\x01c\xc0\x14");
        let read = answer(&message, 1, "_a._tcp.b", Kind::Srv).unwrap();
        let host = "c.b.".to_string();
        assert_eq!(read.records[0].data, Data::Server { priority: 1, weight: 2, port: 8080, host });
    }

    #[test]
    fn names_lead_backwards_only_and_are_bounded() {
        assert_eq!(question(1, &"a.".repeat(200), Kind::A), None);
        assert_eq!(question(1, "a..b", Kind::A), None);
        assert_eq!(question(1, &"a".repeat(64), Kind::A), None);
        let read = |bytes: &[u8]| Reader { message: bytes, at: 2 }.name();
        assert_eq!(read(b"\0\0\xc0\x02"), Err(Broken::Name));
        assert_eq!(read(b"\0\0\x01a\xc0\x02"), Err(Broken::Name));
        assert_eq!(read(b"\0\0\xc0\x09"), Err(Broken::Name));
        assert_eq!(read(b"\0\0\x40a"), Err(Broken::Name));
        assert_eq!(read(b"\0\0\x03a"), Err(Broken::Cut));
        assert_eq!(read(b"\0\0\x02a\n\0"), Err(Broken::Name));
        assert_eq!(read(b"\0\0\0"), Ok(".".into()));
        let mut long = vec![0, 0];
        long.extend(b"\x3f".iter().chain([b'a'; 63].iter()).copied().collect::<Vec<_>>().repeat(4));
        long.push(0);
        assert_eq!(read(&long), Err(Broken::Name));
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200, byte: u8) {
            let _ = answer(&bytes, 7, "app.example", Kind::A);
            let mut changed = sample();
            if let Some(place) = changed.get_mut(at) {
                *place = byte;
            }
            let _ = answer(&changed, 7, "app.example", Kind::A);
            changed.truncate(at);
            let _ = answer(&changed, 7, "app.example", Kind::A);
        }
    }
}
