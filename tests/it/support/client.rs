//! A client that sees every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::PATIENCE;

/// The request of these words.
pub(crate) fn frame<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.as_ref().len()).as_bytes());
        out.extend_from_slice(word.as_ref());
        out.extend_from_slice(b"\r\n");
    }
    out
}

pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    pub(crate) writer: TcpStream,
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        Self::try_new(port).expect("nobody listens")
    }

    pub(crate) fn try_new(port: u16) -> Option<Self> {
        let writer = TcpStream::connect(("127.0.0.1", port)).ok()?;
        writer.set_read_timeout(Some(PATIENCE)).unwrap();
        writer.set_write_timeout(Some(PATIENCE)).unwrap();
        writer.set_nodelay(true).unwrap();
        Some(Self { reader: BufReader::new(writer.try_clone().unwrap()), writer })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// A line with its end; empty if the connection has ended.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let _ = self.reader.read_until(b'\n', &mut line);
        String::from_utf8_lossy(&line).into_owned()
    }

    /// So many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// One RESP reply, of either version, as sent. Ends short where the connection ends.
    pub(crate) fn reply(&mut self) -> String {
        self.try_reply().unwrap_or_default()
    }

    /// As [`Client::reply`]; `None` if the connection ended or nothing came in time.
    pub(crate) fn try_reply(&mut self) -> Option<String> {
        let line = self.line();
        if !line.ends_with('\n') {
            return None;
        }
        let count = line.get(1..).and_then(|count| count.trim_end().parse::<i64>().ok()).unwrap_or(0).max(-1);
        let items = match line.as_bytes().first()? {
            b'$' | b'=' | b'!' if count >= 0 => {
                let mut bytes = vec![0; count as usize + 2];
                self.reader.read_exact(&mut bytes).ok()?;
                return Some(line + &String::from_utf8_lossy(&bytes));
            }
            b'*' | b'~' | b'>' => count,
            b'%' => count * 2,
            // An attribute is part of the reply that follows it.
            b'|' => count * 2 + 1,
            _ => 0,
        };
        let mut text = line;
        for _ in 0..items {
            text += &self.try_reply()?;
        }
        Some(text)
    }

    pub(crate) fn call(&mut self, words: &str) -> String {
        self.send(&frame(&words.split(' ').collect::<Vec<_>>()));
        self.reply()
    }

    /// Everything that comes until nothing has come for `quiet`, or the connection has ended; the flag says which.
    pub(crate) fn drain(&mut self, quiet: Duration) -> (Vec<u8>, bool) {
        self.writer.set_read_timeout(Some(quiet)).unwrap();
        let mut all = Vec::new();
        let is_over = loop {
            match self.reader.fill_buf() {
                Ok([]) => break true,
                Ok(bytes) => {
                    all.extend_from_slice(bytes);
                    let count = bytes.len();
                    self.reader.consume(count);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    break false;
                }
                Err(_) => break true,
            }
        };
        self.writer.set_read_timeout(Some(PATIENCE)).unwrap();
        (all, is_over)
    }

    /// Whether the other side has ended the connection, within the patience; what came before is dropped.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
