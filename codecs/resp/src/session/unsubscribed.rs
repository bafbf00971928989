//! Subscriptions of a client that has none.

use crate::args;
use crate::ops::op_info;
use crate::reply::Writer;

use super::look::Seen;

/// The answers to a client that has no subscription: one for each channel, or one without.
pub(super) fn unsubscribe(seen: &Seen<'_>, proto: u8, out: &mut Vec<u8>) {
    let mut one = |channel: Option<&[u8]>| {
        out.extend_from_slice(if proto >= 3 { b">3\r\n" } else { b"*3\r\n" });
        let mut writer = Writer::new(out, proto);
        writer.bulk(op_info(seen.op).name.as_bytes());
        match channel {
            Some(channel) => writer.bulk(channel),
            None => writer.null(),
        }
        writer.int(0);
    };
    if seen.argc == 1 {
        one(None);
    }
    args(seen.frame).skip(1).for_each(|channel| one(Some(channel)));
}
