//! Questions to servers, one connection each: the control side asks seldom, and a fresh connection tells the truth about
//! whether the server can be reached.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mecha_config::LoginSpec;
use mecha_core::{Decode, Framed, Limits};
use mecha_resp::Resp;
use mecha_transport::tls::ClientTls;
use mecha_transport::{Address, ReadHalf, WriteHalf};
use tokio::io::AsyncReadExt;

/// The largest answer: far above that of a cluster whose every slot is a range of its own.
pub(crate) const MAX_ANSWER: usize = 16 << 20;

/// How whoever is asked wants to be talked to.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// Whom to trust; `None` without TLS.
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// Who mecha is to them.
    pub(crate) login: LoginSpec,
}

/// A connection for questions.
pub(crate) struct Query {
    read: ReadHalf,
    write: WriteHalf,
    unread: Vec<u8>,
}

impl Query {
    /// Connects within `timeout`, and says who it is.
    pub(crate) async fn to(address: &Address, timeout: Duration, manners: &Manners) -> io::Result<Self> {
        let (read, write) = mecha_transport::connect(address, timeout, manners.tls.as_deref()).await?;
        let mut query = Self { read, write, unread: Vec::new() };
        let login = &manners.login;
        if let Some(password) = &login.password {
            let words: Vec<&str> =
                ["AUTH"].into_iter().chain(login.username.as_deref()).chain([password.0.as_str()]).collect();
            if query.ask(&words, timeout).await?.starts_with(b"-") {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
        Ok(query)
    }

    /// Its two halves.
    pub(crate) fn halves(&mut self) -> (&mut ReadHalf, &WriteHalf) {
        (&mut self.read, &self.write)
    }

    /// Asks, and returns the answer's frame.
    pub(crate) async fn ask(&mut self, words: &[&str], timeout: Duration) -> io::Result<Vec<u8>> {
        let mut request = Vec::new();
        mecha_resp::write_request(words.iter().map(|word| word.as_bytes()), &mut request);
        let asking = async {
            self.send(&request).await?;
            self.frame().await
        };
        tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends all of `bytes`, however long that takes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            std::future::poll_fn(|cx| self.read.poll_write_ready(cx)).await?;
            match self.write.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills `bytes` with what the server sends, however long that takes.
    pub(crate) async fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.read.read_exact(bytes).await.map(drop)
    }

    /// The next frame that the server sends, however long that takes.
    pub(crate) async fn frame(&mut self) -> io::Result<Vec<u8>> {
        let limits = Limits { stream_above: MAX_ANSWER, max_frame: MAX_ANSWER, ..Limits::default() };
        let mut decoder = Resp::reply_decoder(limits, 0);
        let mut heads = Vec::new();
        loop {
            let decoded = decoder.decode(&self.unread, &mut heads);
            let decoded = decoded.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if let Some(head) = heads.first() {
                let frame = Resp::reply_span(head).of(&self.unread, &[]).to_vec();
                let end = Resp::reply_span(head).end();
                self.unread.drain(..end.max(decoded.tail));
                return Ok(frame);
            }
            if self.read.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
