//! Typed filters of Memcached.

use mecha_memcached::Memcached;

use crate::{FilterKind, deny_commands};

/// Every filter of this protocol, in alphabetical order.
pub const FILTERS: &[&FilterKind<Memcached>] = &[&DENY_COMMANDS];

const DENY_COMMANDS: FilterKind<Memcached> = deny_commands::kind::<Memcached>();
