//! Conversations with a real server, and frames of any size: both directions, in pieces of any size.
//!
//! `cargo xtask vectors` records `vectors/*.txt`.

#[path = "../../vectors.rs"]
mod shared;

use mecha_core::{Framed, Limits, Matched};
use mecha_resp::Resp;

use shared::{cut, exchanges};

#[test]
fn recorded_conversations_are_cut_where_the_server_cut_them() {
    let files = [("resp2", include_str!("vectors/resp2.txt")), ("resp3", include_str!("vectors/resp3.txt"))];
    for (name, file) in files {
        let exchanges = exchanges(file);
        assert!(exchanges.len() > 60, "{name}");
        for (request, answer) in &exchanges {
            let what = format!("{name}: {}", request.escape_ascii());
            let requests =
                cut(Resp::request_decoder(Limits::default()), request, usize::MAX, |head| head.span);
            assert_eq!(&requests.0.concat(), request, "{what}");
            let decoder = || Resp::reply_decoder(Limits::default(), 1);
            let (frames, heads, _) = cut(decoder(), answer, usize::MAX, Resp::reply_span);
            assert_eq!(&frames.concat(), answer, "{what}");
            // A subscription to two channels has two answers, which RESP3 sends as pushes; so it sends messages.
            let answers = heads.iter().filter(|head| Resp::matched(head) == Matched::Last).count();
            let is_pushed = frames.iter().any(|frame| frame.starts_with(b">"));
            let is_subscription = request.windows(9).any(|word| word == b"SUBSCRIBE");
            assert!(is_pushed || is_subscription || answers == requests.0.len(), "{what}: {answers} answers");
            for size in [1, 2, 3, 5, 7, 11] {
                let pieces = cut(Resp::request_decoder(Limits::default()), request, size, |head| head.span);
                assert_eq!(pieces.0, requests.0, "{what} in pieces of {size}");
                assert_eq!(
                    cut(decoder(), answer, size, Resp::reply_span).0,
                    frames,
                    "{what} in pieces of {size}"
                );
            }
        }
    }
}

#[test]
fn a_frame_over_the_streaming_threshold_is_never_held_whole() {
    let limits = Limits::default();
    let value = "v".repeat(3 << 20);
    let request =
        format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n*1\r\n$4\r\nPING\r\n", value.len());
    let replies = [
        format!("${}\r\n{value}\r\n+PONG\r\n", value.len()),
        format!("={}\r\ntxt:{value}\r\n+PONG\r\n", value.len() + 4),
        format!("*2\r\n:1\r\n${}\r\n{value}\r\n+PONG\r\n", value.len()),
        format!("*{}\r\n{}+PONG\r\n", 1 << 19, ":12345\r\n".repeat(1 << 19)),
        format!("$?\r\n{};0\r\n+PONG\r\n", ";4096\r\n".to_string() + &"v".repeat(4096) + "\r\n"),
    ];
    for size in [1000, 16 << 10, 64 << 10] {
        let most = limits.stream_above + size;
        let (frames, _, held) =
            cut(Resp::request_decoder(limits), request.as_bytes(), size, |head| head.span);
        assert!(frames.len() == 2 && frames.concat() == request.as_bytes() && held <= most, "{held} held");
        for reply in &replies {
            let (frames, _, held) =
                cut(Resp::reply_decoder(limits, 1), reply.as_bytes(), size, Resp::reply_span);
            let start = reply.get(..10).unwrap_or_default().escape_debug();
            assert!(frames.len() == 2 && frames.concat() == reply.as_bytes(), "{start}");
            assert!(held <= most, "{start}: {held} held with pieces of {size}");
        }
    }
}
