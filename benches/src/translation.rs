//! `SET` and `GET` of Redis clients as steps for a memcached server, without either.

use mecha_core::{Batch, Call, Decode, Framed, Limits, Peer};
use mecha_memcached::Memcached;
use mecha_resp::Resp;
use mecha_translate::kv::{Answers, BackFrames};
use mecha_translate::{Options, Taken, Translator};

/// A translator and the replies to its steps.
pub struct Translation {
    translator: Translator<Resp, Memcached>,
    requests: Vec<u8>,
    heads: Vec<<Resp as mecha_core::Protocol>::Request>,
    calls: Vec<Call>,
    session: <Resp as Framed>::Session,
    local: Vec<u8>,
    frames: BackFrames,
    answers: Answers,
    replies: Vec<u8>,
    reply_heads: Vec<<Memcached as mecha_core::Protocol>::Reply>,
}

impl Default for Translation {
    fn default() -> Self {
        let requests = crate::resp_requests();
        let set = "HD\r\n".to_string();
        let get = format!("VA 64 f0 c7 t-1\r\n{}\r\n", "v".repeat(64));
        let replies = (0..crate::DEPTH).map(|index| if index % 2 == 0 { set.as_str() } else { get.as_str() });
        let replies: Vec<u8> = replies.collect::<String>().into();
        let mut reply_heads = Vec::new();
        let decoded = Memcached::reply_decoder(Limits::default(), 0).decode(&replies, &mut reply_heads);
        assert!(decoded.is_ok() && reply_heads.len() == crate::DEPTH, "our own bytes");
        let mut translation = Self {
            translator: Translator::new(Options::default()),
            heads: crate::heads::<Resp>(&requests),
            requests,
            calls: Vec::new(),
            session: Default::default(),
            local: Vec::new(),
            frames: BackFrames::default(),
            answers: Answers::default(),
            replies,
            reply_heads,
        };
        let answers = translation.round().to_vec();
        let found = String::from_utf8_lossy(&answers);
        assert!(answers == crate::resp_replies(), "the client got something else: {found}");
        translation
    }
}

impl Translation {
    /// One batch of [`crate::DEPTH`] commands from requests to answers.
    pub fn round(&mut self) -> &[u8] {
        crate::calls::<Resp>(&self.heads, 0, &mut self.calls);
        self.local.clear();
        self.frames.wire.clear();
        self.frames.frames.clear();
        self.answers.wire.clear();
        self.answers.list.clear();
        let count = self.calls.len();
        let peer = Peer { id: 1, addr: None, local: None, identity: None, user: None };
        let (heads, calls) = (&mut self.heads[..], &mut self.calls[..]);
        let mut batch =
            Batch { wire: &self.requests, local: &mut self.local, heads, calls, session: &mut self.session };
        let taken = self.translator.requests(&mut batch, 0..count, &peer, 1, &mut self.frames);
        assert!(taken == Taken::Pending(count), "{taken:?}");
        let mut more = BackFrames::default();
        for (frame, head) in self.frames.frames.iter().zip(&self.reply_heads) {
            let reply = Memcached::reply_span(head).of(&self.replies, &[]);
            self.translator.reply(frame.token, head, reply, 1, &mut more, &mut self.answers);
        }
        &self.answers.wire
    }
}
