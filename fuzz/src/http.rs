//! HTTP/1 framing.

use mecha_http::{Guard, Phase};

/// Requests to start from.
pub(crate) const SEEDS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
];

/// Pieces change nothing; what passes has no line that ends in anything but CRLF, and says its length once.
pub(crate) fn framing(bytes: &[u8]) {
    let mut whole = Guard::default();
    let passed = whole.look(bytes).err().unwrap_or(bytes.len());
    let mut single = Guard::default();
    for byte in bytes {
        if single.look(std::slice::from_ref(byte)).is_err() {
            break;
        }
    }
    assert_eq!(whole.violation(), single.violation());
    assert_eq!(whole.heads(), single.heads());
    let text = bytes.get(..passed).unwrap_or_default();
    if whole.violation().is_none() && whole.phase() == Phase::Idle && whole.heads() == 1 {
        let head = text.windows(4).position(|four| four == b"\r\n\r\n").map_or(text, |end| &text[..end]);
        let lower = head.to_ascii_lowercase();
        let count = |name: &[u8]| lower.windows(name.len()).filter(|window| *window == name).count();
        assert!(count(b"\r\ncontent-length:") + count(b"\r\ntransfer-encoding:") <= 1);
        assert!(count(b"\n") == count(b"\r\n") && count(b"\r") == count(b"\r\n"));
    }
}
