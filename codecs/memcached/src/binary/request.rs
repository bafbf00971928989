//! Requests of the binary protocol.

use mecha_core::{OpId, Span};

use super::{HEADER, audible, op};
use crate::ops;
use crate::request::{Fault, MAX_KEY, Request};

/// What the first bytes of a frame say.
pub(crate) enum Frame {
    /// They are too few.
    Incomplete,
    /// The first byte is not that of a request.
    Magic,
    /// Its head, and its length. Where extras and key are not there yet, only the length counts.
    Whole(Request, usize),
}

/// The parts that an opcode has: extras in bytes, whether a key, whether a value.
struct Shape {
    extras: &'static [u8],
    key: Option<bool>,
    value: bool,
}

const fn shape(extras: &'static [u8], key: Option<bool>, value: bool) -> Shape {
    Shape { extras, key, value }
}

fn shape_of(op: OpId) -> Shape {
    match op {
        ops::BIN_GET
        | ops::BIN_GETQ
        | ops::BIN_GETK
        | ops::BIN_GETKQ
        | ops::BIN_DELETE
        | ops::BIN_DELETEQ => shape(&[0], Some(true), false),
        ops::BIN_SET
        | ops::BIN_SETQ
        | ops::BIN_ADD
        | ops::BIN_ADDQ
        | ops::BIN_REPLACE
        | ops::BIN_REPLACEQ => shape(&[8], Some(true), true),
        ops::BIN_APPEND | ops::BIN_APPENDQ | ops::BIN_PREPEND | ops::BIN_PREPENDQ => {
            shape(&[0], Some(true), true)
        }
        ops::BIN_INCREMENT | ops::BIN_INCREMENTQ | ops::BIN_DECREMENT | ops::BIN_DECREMENTQ => {
            shape(&[20], Some(true), false)
        }
        ops::BIN_TOUCH | ops::BIN_GAT | ops::BIN_GATQ | ops::BIN_GATK | ops::BIN_GATKQ => {
            shape(&[4], Some(true), false)
        }
        ops::BIN_FLUSH | ops::BIN_FLUSHQ => shape(&[0, 4], Some(false), false),
        ops::BIN_STAT => shape(&[0], None, false),
        ops::BIN_SASL_AUTH | ops::BIN_SASL_STEP => shape(&[0], Some(true), true),
        // Quit, no-op, version, list of mechanisms.
        _ => shape(&[0], Some(false), false),
    }
}

/// Reads the start of `rest`.
pub(crate) fn read(rest: &[u8], max_frame: usize) -> Frame {
    match rest.first() {
        Some(&super::REQUEST) => {}
        Some(_) => return Frame::Magic,
        None => return Frame::Incomplete,
    }
    let Some(header) = rest.first_chunk::<HEADER>() else { return Frame::Incomplete };
    let [_, opcode, k0, k1, extras, _, _, _, b0, b1, b2, b3, o0, o1, o2, o3, ..] = *header;
    let key = usize::from(u16::from_be_bytes([k0, k1]));
    let body = u32::from_be_bytes([b0, b1, b2, b3]) as usize;
    let parts = usize::from(extras) + key;
    let total = HEADER + body;
    let known = op(opcode);
    let mut head = Request {
        span: Span::default(),
        key: Span::wire(HEADER + usize::from(extras), key),
        value: Span::wire(HEADER + parts, body.saturating_sub(parts)),
        line: (HEADER + parts) as u32,
        op: known.unwrap_or(ops::BIN_UNKNOWN),
        fault: None,
        quiet: audible(opcode) != opcode,
        echo: u32::from_be_bytes([o0, o1, o2, o3]),
        binary: Some(opcode),
    };
    let shape = shape_of(head.op);
    let fits = shape.extras.contains(&extras)
        && shape.key.is_none_or(|has_key| has_key == (key > 0))
        && (shape.value || body == parts);
    let fault = if parts > body {
        Some(Fault::Overrun)
    } else if known.is_none() || head.op == ops::BIN_VERBOSITY {
        Some(Fault::Opcode)
    } else if !fits || key > MAX_KEY {
        Some(Fault::Lengths)
    } else if total > max_frame {
        Some(Fault::TooLarge)
    } else {
        None
    };
    if fault.is_some() {
        head.fault = fault;
        head.op = if fault == Some(Fault::Opcode) { ops::BIN_UNKNOWN } else { ops::BIN_MALFORMED };
        // Errors of quiet requests are seen.
        head.quiet = false;
        (head.key, head.value) = (Span::default(), Span::default());
        // The connection ends behind it, so the rest of the body need not be awaited.
        if matches!(fault, Some(Fault::Lengths | Fault::Overrun)) {
            return Frame::Whole(head, HEADER);
        }
        return Frame::Whole(head, total);
    }
    if rest.len() < HEADER + parts { Frame::Incomplete } else { Frame::Whole(head, total) }
}
