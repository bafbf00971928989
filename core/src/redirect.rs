//! A server's word that a call belongs elsewhere.

/// Where a call should have gone, or when. In every case the server has not carried it out, so it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect<'w> {
    /// This once, to another server.
    Ask {
        /// The slot that is on its way.
        slot: u16,
        /// Host name or IP address; empty for the one that answered.
        host: &'w str,
        /// Port.
        port: u16,
    },
    /// Not now: the server, or the whole cluster, is in the middle of a change.
    Later,
    /// From now on, to another server.
    Moved {
        /// The slot that has moved.
        slot: u16,
        /// Host name or IP address; empty for the one that answered.
        host: &'w str,
        /// Port.
        port: u16,
    },
}
