//! Translation: any request is answered by the store with frames of its own protocol, and any reply of a back is
//! understood or called a failure.

use std::sync::{Arc, Mutex};

use mecha_core::{Batch, ConnKey, Decode, Peer, Protocol, Ticket, Verdict};
use mecha_memcached::Memcached;
use mecha_resp::Resp;
use mecha_translate::kv::{GaveUp, Started, StepKind, Want};
use mecha_translate::{Desk, KvBack, KvFront, Late, Post, Store, Taken, rdb, serve};

/// Milliseconds of a day in 2026.
const NOW_MS: u64 = 1_795_500_000_000;

pub(crate) fn resp(data: &[u8]) {
    on_store::<Resp>(data);
}

pub(crate) fn memcached(data: &[u8]) {
    on_store::<Memcached>(data);
}

fn on_store<A: KvFront>(data: &[u8]) {
    let mut heads = Vec::new();
    let _ = A::request_decoder(crate::whole_frames()).decode(data, &mut heads);
    let conn = ConnKey::default();
    let mut calls: Vec<_> =
        heads.iter().zip(0..).map(|(head, seq)| A::call(head, Ticket { conn, seq })).collect();
    let (store, peer) =
        (Store::new(1 << 20), Peer { id: 1, addr: None, local: None, identity: None, user: None });
    let (mut session, mut local) = (A::Session::default(), Vec::new());
    let count = calls.len();
    let mut batch: Batch<'_, A> =
        Batch { wire: data, local: &mut local, heads: &mut heads, calls: &mut calls, session: &mut session };
    let mut at = 0;
    let letters = Arc::new(Mutex::new(Vec::<Late>::new()));
    let post: Arc<dyn Post> = Arc::clone(&letters) as _;
    while at < count {
        let started = Started { unix_seconds: NOW_MS / 1000 };
        let desk = Desk { now_ms: NOW_MS, started, random: at as u64, post: &post, door: None };
        match serve(&store, &mut batch, at..count, &peer, &desk) {
            Taken::Answered(0) | Taken::Close(_) => break,
            Taken::Answered(more) => at += more,
            Taken::Pending(1) => {
                // There is nobody else that it could wait for.
                assert!(store.give_up(peer.id, GaveUp::TimeUp), "nobody waits");
                at += 1;
            }
            other => panic!("the store said {other:?}"),
        }
    }
    let late = letters.lock().map(|letters| letters.clone()).unwrap_or_default();
    for call in calls.iter().take(at) {
        let by_post = late.iter().find(|late| late.ticket == call.ticket);
        let reply = match (call.verdict, by_post) {
            (Verdict::Answered(span), None) => span.of(data, &local),
            (Verdict::Forward, Some(late)) => late.bytes.as_slice(),
            _ => panic!("{:?} is not answered", call.op),
        };
        let mut replies = Vec::new();
        let decoded = A::answer_decoder(crate::whole_frames(), reply).decode(reply, &mut replies);
        let is_sound = decoded.is_ok_and(|decoded| decoded.consumed == reply.len() && !decoded.open);
        assert!(is_sound, "{} answered {:?}", name::<A>(call.op), String::from_utf8_lossy(reply));
    }
}

fn name<P: Protocol>(op: mecha_core::OpId) -> &'static str {
    P::ops().get(usize::from(op.0)).map_or("?", |info| info.name)
}

/// Types of values and what follows them.
pub(crate) const PAYLOADS: &[&str] = &[
    "\0\x01v",
    "\x01\x02\x01a\x01b",
    "\x02\x02\x01a\x01b",
    "\x03\x01\x01a\x031.5",
    "\x04\x01\x01f\x01v",
    "\x05\x01\x01a\0\0\0\0\0\0\0\x40",
    "\x0b\x02\0\0\0\x02\0\0\0\x01\0\x02\0",
    "\x10----\x02\0\x01\x01\x02\x01",
    "\x12\x01\x01\x05plain",
];

/// Whatever stands in a payload, it is refused, or becomes a value that fits and that a payload can hold.
pub(crate) fn payload(data: &[u8]) {
    const ROOM: usize = 64 << 10;
    let Some((&first, body)) = data.split_first() else { return };
    let mut payload = body.to_vec();
    if let (true, [kind, packed @ ..]) = (first & 1 == 1, body) {
        // A string with a total and an end that fit: what compact encodings begin and end with.
        let len = packed.len() as u32 + 1;
        payload = [&[*kind, 0x80][..], &len.to_be_bytes(), packed, b"\xff"].concat();
        if let Some(total) = payload.get_mut(6..10) {
            total.copy_from_slice(&len.to_le_bytes());
        }
    }
    rdb::seal(0, &mut payload);
    if let Ok(value) = rdb::restore(&payload, ROOM) {
        let mut again = Vec::new();
        rdb::dump(&value, &mut again);
        assert!(again.len() <= ROOM + payload.len(), "{} bytes of {}", again.len(), payload.len());
        assert_eq!(rdb::restore(&again, 2 * ROOM).as_ref(), Ok(&value));
    }
}

pub(crate) fn of_memcached(data: &[u8]) {
    replies::<Memcached>(data);
}

pub(crate) fn of_redis(data: &[u8]) {
    replies::<Resp>(data);
}

fn replies<B: KvBack>(data: &[u8]) {
    let mut heads = Vec::new();
    let _ = B::reply_decoder(crate::whole_frames(), 0).decode(data, &mut heads);
    for head in &heads {
        let frame = B::reply_span(head).of(data, &[]);
        let kinds = [
            StepKind::Delete,
            StepKind::Flush,
            StepKind::Get(Want::Everything),
            StepKind::Get(Want::Header),
            StepKind::Put,
        ];
        for kind in kinds {
            let _ = B::decode(kind, b"key", frame, NOW_MS);
        }
    }
}
