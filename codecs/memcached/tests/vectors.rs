//! Conversations with a real server, and frames of any size: both directions, in pieces of any size.
//!
//! `cargo xtask vectors` records `vectors/*.txt`.

#[path = "../../vectors.rs"]
mod shared;

use mecha_core::{Framed, Limits, Matched, Protocol, ReplyCount, Ticket};
use mecha_memcached::{Memcached, Request};

use shared::{cut, exchanges};

#[test]
fn recorded_conversations_are_cut_where_the_server_cut_them() {
    let files = [
        ("text", 0, include_str!("vectors/text.txt")),
        ("meta", 0, include_str!("vectors/meta.txt")),
        ("binary", 1, include_str!("vectors/binary.txt")),
    ];
    for (name, profile, file) in files {
        let exchanges = exchanges(file);
        assert!(exchanges.len() > 35, "{name}");
        for (request, answer) in &exchanges {
            let what = format!("{name}: {}", request.escape_ascii());
            let asked = || Memcached::request_decoder(Limits::default());
            let requests = cut(asked(), request, usize::MAX, Request::span);
            assert_eq!(&requests.0.concat(), request, "{what}");
            let decoder = || Memcached::reply_decoder(Limits::default(), profile);
            let (frames, heads, _) = cut(decoder(), answer, usize::MAX, Memcached::reply_span);
            assert_eq!(&frames.concat(), answer, "{what}");
            let answers = heads.iter().filter(|head| Memcached::matched(head) == Matched::Last).count();
            // Quiet requests are answered now and then; `quit` and bad data have answers of their own number.
            let is_counted = requests
                .1
                .iter()
                .all(|head| Memcached::call(head, Ticket::default()).replies == ReplyCount::One);
            let is_sound =
                !frames.iter().any(|frame| frame.starts_with(b"CLIENT_ERROR") || frame.starts_with(b"ERROR"));
            let is_end = answer.is_empty();
            assert!(
                !is_counted || !is_sound || is_end || answers == requests.0.len(),
                "{what}: {answers} answers"
            );
            for size in [1, 2, 3, 5, 7, 11] {
                assert_eq!(
                    cut(asked(), request, size, Request::span).0,
                    requests.0,
                    "{what} in pieces of {size}"
                );
                let pieces = cut(decoder(), answer, size, Memcached::reply_span);
                assert_eq!(pieces.0, frames, "{what} in pieces of {size}");
            }
        }
    }
}

#[test]
fn a_frame_over_the_streaming_threshold_is_never_held_whole() {
    let limits = Limits::default();
    let value = vec![b'v'; 3 << 20];
    let with = |start: &[u8], end: &[u8]| [start, &value, end].concat();
    // Binary: opcode, key of one byte, eight of extras in a request and four in a reply, the length of all that follows.
    let header = |magic: u8, extras: u8, opcode: u8, body: u32| {
        let mut header = vec![magic, opcode, 0, 1, extras, 0, 0, 0];
        header.extend_from_slice(&body.to_be_bytes());
        header.extend_from_slice(&[0; 12]);
        header
    };
    let length = value.len() as u32;
    let noop = |magic: u8| [vec![magic, 0x0a], vec![0; 22]].concat();
    let requests = [
        with(format!("set k 0 0 {length}\r\n").as_bytes(), b"\r\nmn\r\n"),
        with(format!("ms k {length}\r\n").as_bytes(), b"\r\nmn\r\n"),
        with(&[header(0x80, 8, 1, length + 9), vec![0; 8], vec![b'k']].concat(), &noop(0x80)),
    ];
    let replies = [
        (0, with(format!("VALUE k 0 {length}\r\n").as_bytes(), b"\r\nEND\r\n")),
        (0, with(format!("VA {length}\r\n").as_bytes(), b"\r\nMN\r\n")),
        (1, with(&[header(0x81, 4, 0, length + 5), vec![0; 4], vec![b'k']].concat(), &noop(0x81))),
    ];
    for size in [1000, 16 << 10, 64 << 10] {
        let most = limits.stream_above + size;
        for request in &requests {
            let start = request[..12].escape_ascii();
            let (frames, _, held) = cut(Memcached::request_decoder(limits), request, size, Request::span);
            assert!(frames.len() == 2 && frames.concat() == *request, "{start}");
            assert!(held <= most, "{start}: {held} held with pieces of {size}");
        }
        for (profile, reply) in &replies {
            let start = reply[..12].escape_ascii();
            let decoder = Memcached::reply_decoder(limits, *profile);
            let (frames, _, held) = cut(decoder, reply, size, Memcached::reply_span);
            assert!(frames.len() == 2 && frames.concat() == *reply, "{start}");
            assert!(held <= most, "{start}: {held} held with pieces of {size}");
        }
    }
}
