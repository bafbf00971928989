//! Whatever a client sends, in whatever pieces.
#![no_main]

mod resp_pieces;

use libfuzzer_sys::fuzz_target;
use mecha_resp::RequestDecoder;

fuzz_target!(|data: &[u8]| resp_pieces::check(data, RequestDecoder::new, |head| head.span));
