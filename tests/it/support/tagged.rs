//! A client whose every value says whose it is and which.

use super::{Client, frame};

/// Reads back what it writes, so that a lost or an exchanged reply cannot go unseen. A failure leaves open whether a write
/// has run; nothing else.
pub(crate) struct Tagged {
    door: u16,
    client: Client,
    key: String,
    /// The last number that was sent, and the last that is known to be stored.
    tried: u64,
    stored: u64,
    /// Replies that were right.
    pub(crate) served: u64,
}

/// The server, or mecha in its place, could not answer.
#[derive(Debug)]
pub(crate) struct Failed;

impl Tagged {
    pub(crate) fn new(door: u16, key: &str) -> Self {
        Self { door, client: Client::new(door), key: key.to_string(), tried: 0, stored: 0, served: 0 }
    }

    /// The server has come back without its data.
    pub(crate) fn forget(&mut self) {
        self.stored = 0;
    }

    fn value(&self, number: u64, size: usize) -> String {
        format!("{}={number}={}", self.key, "x".repeat(size))
    }

    /// In one write: sets the key, reads it, and has a word repeated. Values have about `size` bytes.
    ///
    /// # Errors
    /// A call was refused, or the connection ended: it is made anew.
    pub(crate) fn round(&mut self, size: usize) -> Result<(), Failed> {
        self.tried += 1;
        let (key, value) = (self.key.clone(), self.value(self.tried, size));
        let word = format!("{key}?{}", self.tried);
        let wire = [frame(&["SET", &key, &value]), frame(&["GET", &key]), frame(&["ECHO", &word])].concat();
        let is_sent = std::io::Write::write_all(&mut self.client.writer, &wire).is_ok();
        let mut failed = !is_sent;
        for call in 0..3 {
            let Some(reply) = self.client.try_reply() else {
                self.client = Client::new(self.door);
                return Err(Failed);
            };
            if reply.starts_with("-ERR mecha: ") {
                failed = true;
                continue;
            }
            match call {
                0 => {
                    assert_eq!(reply, "+OK\r\n", "{key}");
                    self.stored = self.tried;
                }
                1 => self.check(&reply),
                _ => assert_eq!(reply, format!("${}\r\n{word}\r\n", word.len())),
            }
            self.served += 1;
        }
        if failed { Err(Failed) } else { Ok(()) }
    }

    /// A value that was read must be this client's own, no older than what is stored and no newer than what was sent.
    fn check(&self, reply: &str) {
        if reply == "$-1\r\n" {
            assert_eq!(self.stored, 0, "{}: a stored value is lost", self.key);
            return;
        }
        let mut parts = reply.split("\r\n").nth(1).unwrap_or_default().split('=');
        assert_eq!(parts.next(), Some(self.key.as_str()), "somebody else's value");
        let number = parts.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        assert!(
            (self.stored..=self.tried).contains(&number),
            "{}: {number} of {}..{}",
            self.key,
            self.stored,
            self.tried
        );
        let rest = parts.next().unwrap_or_default();
        let whole = self.value(number, rest.len());
        assert!(
            rest.bytes().all(|byte| byte == b'x') && *reply == format!("${}\r\n{whole}\r\n", whole.len())
        );
    }
}
