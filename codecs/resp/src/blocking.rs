//! How long a request that blocks may still wait when it is sent a second time, to a server that its keys have moved to.

use mecha_core::OpId;

use crate::op;
use crate::{args, write_request};

/// The shortest time that ends: 0 waits for ever.
const LEAST_MICROS: u64 = 1000;

/// Takes `elapsed_micros` from the time that the request in `frame` waits at most. `false` if it has no such time, or waits
/// for ever.
pub(crate) fn shorten(op: OpId, frame: &mut Vec<u8>, elapsed_micros: u64) -> bool {
    let mut words: Vec<Vec<u8>> = args(frame).map(<[u8]>::to_vec).collect();
    let is_millis = matches!(op, op::XREAD | op::XREADGROUP);
    let at = match op {
        op::BLMOVE | op::BLPOP | op::BRPOP | op::BRPOPLPUSH | op::BZPOPMAX | op::BZPOPMIN => {
            words.len().checked_sub(1)
        }
        op::BLMPOP | op::BZMPOP => Some(1),
        // Behind `STREAMS` such a word is a key.
        op::XREAD | op::XREADGROUP => {
            let options = words.iter().take_while(|word| !word.eq_ignore_ascii_case(b"streams"));
            options.enumerate().find(|(_, word)| word.eq_ignore_ascii_case(b"block")).map(|(at, _)| at + 1)
        }
        _ => None,
    };
    let Some(word) = at.and_then(|at| words.get_mut(at)) else { return false };
    let unit = if is_millis { 1e3 } else { 1e6 };
    let time = std::str::from_utf8(word).ok().and_then(|text| text.parse::<f64>().ok());
    let Some(micros) = time.map(|time| time * unit).filter(|micros| micros.is_finite() && *micros > 0.0)
    else {
        return false;
    };
    let left = (micros as u64).saturating_sub(elapsed_micros).max(LEAST_MICROS);
    *word = if is_millis {
        left.div_ceil(1000).to_string().into_bytes()
    } else {
        format!("{}.{:06}", left / 1_000_000, left % 1_000_000).into_bytes()
    };
    frame.clear();
    write_request(words.iter().map(Vec::as_slice), frame);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of `line` after 1.5 seconds.
    fn after(op: OpId, line: &str) -> Option<String> {
        let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = Vec::new();
        write_request(words.iter().copied(), &mut frame);
        let is_shorter = shorten(op, &mut frame, 1_500_000);
        let words: Vec<_> = args(&frame).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        is_shorter.then(|| words.join(" "))
    }

    #[test]
    fn what_is_left_of_the_time_is_what_the_second_server_waits() {
        for (op, line, left) in [
            (op::BLPOP, "BLPOP a b 3", Some("BLPOP a b 1.500000")),
            (op::BRPOP, "brpop a 1.6", Some("brpop a 0.100000")),
            (op::BLMOVE, "BLMOVE a b LEFT LEFT 1", Some("BLMOVE a b LEFT LEFT 0.001000")),
            (op::BZMPOP, "BZMPOP 2.5 1 a MIN", Some("BZMPOP 1.000000 1 a MIN")),
            (
                op::XREAD,
                "XREAD COUNT 1 BLOCK 2000 STREAMS block $",
                Some("XREAD COUNT 1 BLOCK 500 STREAMS block $"),
            ),
            (op::XREAD, "XREAD STREAMS block 2000", None),
            (op::BLPOP, "BLPOP a 0", None),
            (op::BLPOP, "BLPOP a inf", None),
            (op::BLPOP, "BLPOP a -1", None),
            (op::BLPOP, "BLPOP", None),
            (op::GET, "GET 5", None),
        ] {
            assert_eq!(after(op, line).as_deref(), left, "{line}");
        }
    }
}
