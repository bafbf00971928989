//! A server that answers as a test says.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Listens, and gives each connection to `serve` on a thread of its own. The threads end with their connections.
pub(crate) struct Fake {
    pub(crate) port: u16,
    /// Connections so far.
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Fake {
    pub(crate) fn start(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), serve).unwrap()
    }

    /// As [`Fake::start`], there; `None` if somebody else listens there.
    pub(crate) fn at(
        addr: SocketAddr,
        serve: impl Fn(TcpStream, usize) + Send + Sync + 'static,
    ) -> Option<Self> {
        let listener = TcpListener::bind(addr).ok()?;
        let (port, accepted) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (count, serve) = (Arc::clone(&accepted), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (number, serve) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&serve));
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Some(Self { port, accepted })
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Calls `each` with what every read returns, and writes its answer; ends with the connection or an `Err`.
    pub(crate) fn talk(mut stream: TcpStream, mut each: impl FnMut(&[u8]) -> Result<Vec<u8>, ()>) {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(count) = stream.read(&mut buffer) {
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return };
            let Ok(answer) = each(read) else { return };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }

    /// A server with `SET`, `GET` and `ECHO`, whose every reply goes through `reply`: the stream, the reply, and how many
    /// there have been on this connection. An `Err` ends the connection.
    pub(crate) fn store(
        reply: impl Fn(&mut TcpStream, &[u8], usize) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let values = Mutex::new(HashMap::<String, String>::new());
        Self::start(move |mut stream, _| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for count in 0.. {
                let Some(words) = request(&mut reader) else { return };
                let answer = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["SET", key, value] => {
                        values.lock().unwrap().insert(key.to_string(), value.to_string());
                        "+OK\r\n".to_string()
                    }
                    ["GET", key] => match values.lock().unwrap().get(key) {
                        Some(value) => format!("${}\r\n{value}\r\n", value.len()),
                        None => "$-1\r\n".to_string(),
                    },
                    ["ECHO", word] => format!("${}\r\n{word}\r\n", word.len()),
                    _ => "-ERR unknown command\r\n".to_string(),
                };
                if reply(&mut stream, answer.as_bytes(), count).is_err() {
                    // What was written before the end still arrives, whatever is unread here.
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    return;
                }
            }
        })
    }
}

/// The words of one request; `None` at the end.
fn request(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |reader: &mut dyn BufRead| -> Option<usize> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.get(1..)?.trim_end().parse().ok()
    };
    let count = number(reader)?;
    let word = |_| {
        let mut bytes = vec![0; number(reader)? + 2];
        reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        String::from_utf8(bytes).ok()
    };
    (0..count).map(word).collect()
}
