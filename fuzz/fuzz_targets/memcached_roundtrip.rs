//! A storage command that is written is read as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mecha_core::{Decode, Limits};
use mecha_memcached::{Command, RequestDecoder, parse, write};

fuzz_target!(|input: (u32, i32, u64, &[u8])| {
    let (flags, time, unique, data) = input;
    let mut bytes = format!("cas key {flags} {time} {} {unique}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    let mut heads = Vec::new();
    let decoded =
        RequestDecoder::new(Limits::default()).decode(&bytes, &mut heads).expect("the request is right");
    assert_eq!(decoded.consumed, bytes.len());
    let Some(Ok(Command::Store { key, flags: read, exptime, unique: compared, value, .. })) =
        heads.first().map(|head| parse(head, &bytes))
    else {
        panic!("not a storage command");
    };
    assert_eq!((key, read, exptime, compared, value), (b"key".as_slice(), flags, time, unique, data));
    let mut reply = Vec::new();
    write::value(key, flags, Some(unique), data, &mut reply);
    let mut replies = Vec::new();
    let mut decoder = mecha_memcached::ReplyDecoder::new(Limits::default());
    assert!(decoder.decode(&reply, &mut replies).is_ok_and(|decoded| decoded.consumed == reply.len()));
    assert_eq!(replies.len(), 1);
});
