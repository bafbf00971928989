//! Whatever a server sends, in whatever pieces.
#![no_main]

mod resp_pieces;

use libfuzzer_sys::fuzz_target;
use mecha_resp::ReplyDecoder;

fuzz_target!(|data: &[u8]| resp_pieces::check(data, ReplyDecoder::new, |head| head.span));
