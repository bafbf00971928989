//! Typed filters of RESP.

mod channels;
mod key_prefix;
mod replies;

use mecha_resp::Resp;

use crate::{FilterKind, deny_commands, hot_keys};

/// Every filter of this protocol, in alphabetical order.
pub const FILTERS: &[&FilterKind<Resp>] = &[&DENY_COMMANDS, &HOT_KEYS, &key_prefix::KIND];

const DENY_COMMANDS: FilterKind<Resp> = deny_commands::kind::<Resp>();
const HOT_KEYS: FilterKind<Resp> = hot_keys::kind::<Resp>();
