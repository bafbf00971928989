//! Typed filters of Memcached.

use mecha_memcached::Memcached;

use crate::{FilterKind, deny_commands, hot_keys};

/// Every filter of this protocol, in alphabetical order.
pub const FILTERS: &[&FilterKind<Memcached>] = &[&DENY_COMMANDS, &HOT_KEYS];

const DENY_COMMANDS: FilterKind<Memcached> = deny_commands::kind::<Memcached>();
const HOT_KEYS: FilterKind<Memcached> = hot_keys::kind::<Memcached>();
