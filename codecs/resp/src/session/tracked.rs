//! A client that the upstream tells of keys that change (`CLIENT TRACKING` over several servers).
//!
//! No server can do that for such a client, whose calls go to all of them on connections that others use too. So the
//! upstream sees to what it says of it, and the client needs no dedicated connection.

use mecha_core::{Affinity, OpId};

use super::Session;
use super::look::{Seen, Step};
use crate::ops::{op, op_info};
use crate::reply::Writer;

/// Whether a client is told of keys that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tracked {
    /// It is not.
    #[default]
    Off,
    /// It is, once the upstream says so.
    Beginning,
    /// It is.
    On,
    /// It is, unless the upstream says so no more.
    Ending,
}

// === impl Tracked ===

impl Tracked {
    pub(super) fn is_on(self) -> bool {
        matches!(self, Self::On | Self::Ending)
    }

    /// The upstream sees to the request with which it begins.
    pub(super) fn begin(&mut self) {
        if *self == Self::Off {
            *self = Self::Beginning;
        }
    }

    pub(super) fn answered(&mut self, op: OpId, answer: &[u8]) {
        if op != op::CLIENT_TRACKING {
            return;
        }
        *self = match *self {
            Self::Beginning if answer.starts_with(b"+OK") => Self::On,
            Self::Beginning => Self::Off,
            Self::Ending if answer.starts_with(b"+OK") => Self::Off,
            // Options may be added to what there is.
            known => known,
        };
    }
}

// === impl Session ===

impl Session {
    /// Decides on one call of a client that is tracked; `None` if that makes no difference.
    pub(super) fn step_tracked(&mut self, seen: &Seen<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let mut writer = Writer::new(out, self.proto);
        match seen.op {
            op::CLIENT_CACHING | op::CLIENT_GETREDIR | op::CLIENT_TRACKING | op::CLIENT_TRACKINGINFO
                if !self.multi && !seen.is_open =>
            {
                if seen.op == op::CLIENT_TRACKING {
                    self.tracked = if seen.says(2, "OFF") { Tracked::Ending } else { Tracked::On };
                }
                Some(Step::Go(Affinity::Aside))
            }
            op::RESET if !self.is_pinned() => Some(Step::Go(Affinity::Aside)),
            // What they get could not be told from messages, and what is queued is for one server.
            op::CLIENT_CACHING
            | op::CLIENT_TRACKING
            | op::MONITOR
            | op::PSYNC
            | op::REPLCONF
            | op::SCRIPT_DEBUG
            | op::SYNC => {
                let name = op_info(seen.op).name.replace('|', " ").to_ascii_uppercase();
                writer.error(&format!(
                    "ERR mecha: {name} is not possible here: this client is told of keys that change; use another connection"
                ));
                Some(Step::Answered)
            }
            _ => None,
        }
    }
}
