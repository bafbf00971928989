//! Codecs: no bytes panic, any chunking gives the same frames, and the frames put together are the input.

use mecha_core::{Decode, Framed, Limits};
use mecha_memcached::{Command, Memcached, parse, write};
use mecha_resp::Resp;

pub(crate) const RESP_REQUESTS: &[&str] = &[
    "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    "*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n1\r\n$2\r\nPX\r\n$4\r\n1000\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n",
    "PING\r\nset k \"a b\\x00\" ex 10\r\nget 'k'\r\n",
    "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$4\r\nEXEC\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
    "*4\r\n$4\r\nHSET\r\n$1\r\nh\r\n$1\r\nf\r\n$1\r\nv\r\n*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n",
    "*4\r\n$4\r\nZADD\r\n$1\r\nz\r\n$3\r\n1.5\r\n$1\r\nm\r\n*5\r\n$6\r\nZRANGE\r\n$1\r\nz\r\n$1\r\n0\r\n$2\r\n-1\r\n$10\r\nWITHSCORES\r\n",
    "*4\r\n$6\r\nSETBIT\r\n$1\r\nb\r\n$1\r\n7\r\n$1\r\n1\r\n*6\r\n$8\r\nBITFIELD\r\n$1\r\nb\r\n$3\r\nGET\r\n$2\r\nu8\r\n$1\r\n0\r\n",
    "lpush l a b c\r\nlrange l 0 -1\r\nsort l alpha\r\nsetrange s 3 x\r\nscan 0 match * count 5\r\nlcs s l\r\n",
];

pub(crate) const RESP_REPLIES: &[&str] = &[
    "+OK\r\n-ERR no\r\n:-12\r\n$3\r\nabc\r\n$-1\r\n*-1\r\n*2\r\n:1\r\n*0\r\n",
    "%1\r\n+a\r\n:1\r\n~1\r\n#t\r\n,1.5e3\r\n(12345678901234567890\r\n=7\r\ntxt:abc\r\n_\r\n",
    ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n|1\r\n+k\r\n+v\r\n:1\r\n!5\r\nERR x\r\n",
    "$?\r\n;3\r\nabc\r\n;0\r\n*?\r\n:1\r\n.\r\n",
    "*2\r\n$21\r\n\u{1}\u{2}mc\u{1}0000tokentokvalue\r\n:-1\r\n",
];

pub(crate) const MEMCACHED_REQUESTS: &[&str] = &[
    "set k 1 0 5\r\nvalue\r\nget k no\r\ngets k\r\n",
    "add k 0 0 1 noreply\r\nx\r\ncas k 0 0 1 7\r\ny\r\nincr n 5\r\ndecr n 1\r\ndelete k\r\n",
    "mg k v f t c k s Oabc q\r\nms k 5 T30 F1 I\r\nvalue\r\nmd k I T9\r\nma n N0 J1 D2 MD v\r\nmn\r\nme k\r\n",
    "mg Zm9v b v k\r\ngat 10 k\r\ntouch k -1\r\nflush_all 5\r\nstats items\r\nversion\r\nverbosity 1\r\nquit\r\n",
];

pub(crate) const MEMCACHED_REPLIES: &[&str] = &[
    "STORED\r\nVALUE k 1 5\r\nvalue\r\nEND\r\nNOT_FOUND\r\n12\r\nDELETED\r\n",
    "VA 5 f1 t-1 c7\r\nvalue\r\nHD\r\nEN\r\nNS\r\nEX\r\nNF\r\nMN\r\nME k exp=-1 la=0\r\n",
    "ERROR\r\nCLIENT_ERROR bad\r\nSERVER_ERROR out\r\nSTAT pid 1\r\nEND\r\nVERSION 1.6\r\nOK\r\nTOUCHED\r\n",
];

/// Without the first byte, which is no text.
pub(crate) const MEMCACHED_BINARY: &[&str] = &[
    "1\0\0\u{1}\0\0\0\0\0\0\0\u{1}opaq\0\0\0\0\0\0\0\0k",
    "2\u{1}\0\u{1}\u{8}\0\0\0\0\0\0\u{e}opaq\0\0\0\0\0\0\0\0flagtimekvalue",
    "3\u{5}\0\u{1}\u{14}\0\0\0\0\0\0\u{15}opaq\0\0\0\0\0\0\0\0deltadelinitinittimek",
    "4\u{10}\0\0\0\0\0\0\0\0\0\0opaq\0\0\0\0\0\0\0\0",
    "5\u{1d}\0\u{1}\u{4}\0\0\0\0\0\0\u{5}opaq\0\0\0\0\0\0\0\0timek",
];

/// Limits under which no frame is handed on in pieces.
pub fn whole_frames() -> Limits {
    Limits { stream_above: 1 << 20, max_frame: 1 << 20, ..Limits::default() }
}

/// Frames as one decoder sees them when `bytes` come in pieces of `step`, and how much of the bytes they are. A frame
/// that is handed on in pieces is put together again; `None` in the place of one whose end proved wrong, since how much
/// of it was handed out depends on the pieces.
fn cut<D: Decode>(
    mut decoder: D,
    bytes: &[u8],
    step: usize,
    span: fn(&D::Head) -> mecha_core::Span,
) -> (Vec<Vec<u8>>, bool) {
    let (mut held, mut frames, mut heads) = (Vec::new(), Vec::<Vec<u8>>::new(), Vec::new());
    let mut is_open = false;
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        heads.clear();
        let decoded = decoder.decode(&held, &mut heads);
        if let (Ok(decoded), Some(last)) = (&decoded, frames.last_mut()) {
            last.extend_from_slice(&held[..decoded.tail]);
        }
        if decoded.is_err() && is_open {
            frames.pop();
        }
        frames.extend(heads.iter().map(|head| span(head).of(&held, &[]).to_vec()));
        match decoded {
            Ok(decoded) => {
                assert!(decoded.tail <= decoded.consumed && decoded.consumed <= held.len());
                is_open = decoded.open;
                held.drain(..decoded.consumed);
            }
            Err(_) => return (frames, false),
        }
    }
    (frames, true)
}

/// Everything that must hold for one side of a codec.
fn check<D: Decode>(data: &[u8], decoder: impl Fn(Limits) -> D, span: fn(&D::Head) -> mecha_core::Span) {
    let Some((&step, bytes)) = data.split_first() else { return };
    let step = usize::from(step).max(1);
    let whole = cut(decoder(whole_frames()), bytes, usize::MAX, span);
    let pieces = cut(decoder(whole_frames()), bytes, step, span);
    assert_eq!(whole, pieces, "in pieces of {step}");
    if whole.1 {
        let together: Vec<u8> = whole.0.concat();
        assert!(skip_nothing(&together, bytes), "the frames are not the input");
    }
    // Handed on in pieces, the frames are still the same, as long as nothing is wrong.
    let streaming = Limits { stream_above: 64, max_frame: 1 << 20, ..Limits::default() };
    let streamed = cut(decoder(streaming), bytes, step, span);
    if whole.1 && streamed.1 {
        let common = whole.0.len().min(streamed.0.len());
        assert_eq!(whole.0[..common], streamed.0[..common], "streamed in pieces of {step}");
    }
}

/// Whether `frames` is the beginning of `bytes`, but for what is no request: blank lines and `*0`, `*-1`.
fn skip_nothing(frames: &[u8], bytes: &[u8]) -> bool {
    let mut rest = bytes.iter();
    frames.iter().all(|byte| {
        loop {
            match rest.next() {
                Some(next) if next == byte => return true,
                Some(0 | b'\t'..=b'\r' | b' ' | b'*' | b'-' | b'+' | b'0'..=b'9') => {}
                _ => return false,
            }
        }
    })
}

pub(crate) fn resp_request(data: &[u8]) {
    check(data, Resp::request_decoder, |head| head.span);
}

pub(crate) fn resp_reply(data: &[u8]) {
    check(data, |limits| Resp::reply_decoder(limits, 1), Resp::reply_span);
}

pub(crate) fn memcached_request(data: &[u8]) {
    check(data, Memcached::request_decoder, mecha_memcached::Request::span);
    let mut heads = Vec::new();
    let _ = Memcached::request_decoder(whole_frames()).decode(data, &mut heads);
    for head in &heads {
        let mut frame = head.span().of(data, &[]).to_vec();
        let _ = parse(head, &frame);
        Memcached::keys(head, &frame, &mut |_| {});
        Memcached::unquiet(head, &mut frame);
    }
}

pub(crate) fn memcached_reply(data: &[u8]) {
    check(data, |limits| Memcached::reply_decoder(limits, 0), Memcached::reply_span);
}

/// Both sides of the binary protocol, and its commands on the embedded store.
pub(crate) fn memcached_binary(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else { return };
    let asked = [&[step, 0x80], bytes].concat();
    check(&asked, Memcached::request_decoder, mecha_memcached::Request::span);
    memcached_request(asked.get(1..).unwrap_or_default());
    let answered = [&[step, 0x81], bytes].concat();
    check(&answered, |limits| Memcached::reply_decoder(limits, 1), Memcached::reply_span);
    crate::translation::memcached(asked.get(1..).unwrap_or_default());
}

/// A storage command that is written is read as it was written.
pub(crate) fn memcached_roundtrip(data: &[u8]) {
    let Some((numbers, data)) = data.split_first_chunk::<16>() else { return };
    let wide = u128::from_be_bytes(*numbers);
    let (flags, time, unique) = (wide as u32, (wide >> 32) as i32, (wide >> 64) as u64);
    let mut bytes = format!("cas key {flags} {time} {} {unique}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    let mut heads = Vec::new();
    let decoded = Memcached::request_decoder(Limits::default()).decode(&bytes, &mut heads);
    assert!(decoded.is_ok_and(|decoded| decoded.consumed == bytes.len()));
    let Some(Ok(Command::Store { key, flags: read, exptime, unique: compared, value, .. })) =
        heads.first().map(|head| parse(head, &bytes))
    else {
        panic!("not a storage command");
    };
    assert_eq!((key, read, exptime, compared, value), (b"key".as_slice(), flags, time, unique, data));
    let (mut reply, mut replies) = (Vec::new(), Vec::new());
    write::value(key, flags, Some(unique), data, &mut reply);
    let decoded = Memcached::reply_decoder(Limits::default(), 0).decode(&reply, &mut replies);
    assert!(decoded.is_ok_and(|decoded| decoded.consumed == reply.len()));
    assert_eq!(replies.len(), 1);
}
