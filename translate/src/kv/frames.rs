//! What a translator hands to the engine: frames for the back, and answers for clients.

use mecha_core::{OpId, Outcome, Span};

/// Frames that a translator wants sent, gathered over a batch.
#[derive(Debug, Default)]
pub struct BackFrames {
    /// Their bytes, one after the other.
    pub wire: Vec<u8>,
    /// One for each.
    pub frames: Vec<BackFrame>,
}

/// One frame for a back.
#[derive(Clone, Copy, Debug)]
pub struct BackFrame {
    /// Its bytes in `wire`.
    pub span: Span,
    /// The key as encoded in `wire`: hash input for choosing an endpoint.
    pub key: Span,
    /// Set when the frame is for one certain endpoint (flush goes to each).
    pub endpoint: Option<u16>,
    /// Given back with the reply. Frames made in a row have tokens in a row, wrapping, so that they are one run.
    pub token: u32,
    /// For the back's metrics.
    pub op: OpId,
    /// As the call's.
    pub timeout_ms: u32,
}

/// Replies that a translator has ready for clients.
#[derive(Debug, Default)]
pub struct Answers {
    /// Their bytes.
    pub wire: Vec<u8>,
    /// One for each.
    pub list: Vec<Answer>,
}

/// One reply for a client.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// For whom.
    pub ticket: mecha_core::Ticket,
    /// Its bytes in `wire`.
    pub span: Span,
    /// The client's operation.
    pub op: OpId,
    /// How it ended.
    pub outcome: Outcome,
}
