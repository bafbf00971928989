//! Scripts that servers keep by their digests, and may lose.

/// What a request does with the scripts of its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScriptRole {
    /// Has the server forget all of them.
    Flushes,
    /// Has the server keep one for as long as it runs (`SCRIPT LOAD`).
    Loads,
    /// Makes the connection somebody else's, who may have other rights.
    LogsIn,
    /// Nothing.
    #[default]
    None,
    /// Runs one by its digest.
    Recalls,
    /// Runs one whose text it brings, which the server may keep.
    Spells,
}
