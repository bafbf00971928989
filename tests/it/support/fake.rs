//! A server that answers as a test says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Listens, and gives each connection to `serve` on a thread of its own. The threads end with their connections.
pub(crate) struct Fake {
    pub(crate) port: u16,
    /// Connections so far.
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Fake {
    pub(crate) fn start(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, accepted) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (count, serve) = (Arc::clone(&accepted), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (number, serve) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&serve));
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Self { port, accepted }
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
}
