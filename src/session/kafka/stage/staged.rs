//! The filters of a client that has a connection to one broker: a step before the conversation of the two.

use std::task::Context;

use mecha_core::Done;
use mecha_telemetry::CloseReason;

use super::{KEPT, Stage};
use crate::session::kafka::conversation::Conversation;
use crate::session::opaque::{Between, Goes};

/// A client and one broker, with filters between them if there are any.
pub struct Staged {
    conversation: Conversation,
    stage: Option<Box<Stage>>,
    /// What has left the one, and goes to the other.
    between: Vec<u8>,
}

impl Staged {
    pub(in crate::session::kafka) fn new(conversation: Conversation, stage: Option<Box<Stage>>) -> Self {
        Self { conversation, stage, between: Vec::new() }
    }

    /// Requests that were answered since this was last asked.
    pub(in crate::session::kafka) fn take_done(&mut self, mut take: impl FnMut(&[Done])) {
        if let Some(stage) = &mut self.stage {
            stage.take_done(&mut take);
        }
        self.conversation.take_done(take);
    }
}

/// The first bytes of what is between the two go on, without a copy if nothing waits before them.
fn hand_over(between: &mut Vec<u8>, len: usize, out: &mut Vec<u8>) {
    if out.is_empty() {
        between.truncate(len);
        std::mem::swap(between, out);
    } else {
        out.extend_from_slice(between.get(..len).unwrap_or_default());
    }
}

impl Between for Staged {
    fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let Some(stage) = &mut self.stage else { return self.conversation.up(bytes, out) };
        self.between.clear();
        self.between.shrink_to(KEPT);
        match stage.up(bytes, &mut self.between)? {
            Goes::AsIs(len) => self.conversation.up(bytes.get(..len).unwrap_or_default(), out),
            Goes::Written => {
                if let Goes::AsIs(len) = self.conversation.up(&self.between, out)? {
                    hand_over(&mut self.between, len, out);
                }
                Ok(Goes::Written)
            }
        }
    }

    fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let Some(stage) = &mut self.stage else { return self.conversation.down(bytes, out) };
        self.between.clear();
        self.between.shrink_to(KEPT);
        match self.conversation.down(bytes, &mut self.between)? {
            Goes::AsIs(len) => stage.down(bytes.get(..len).unwrap_or_default(), out),
            Goes::Written => {
                if let Goes::AsIs(len) = stage.down(&self.between, out)? {
                    hand_over(&mut self.between, len, out);
                }
                Ok(Goes::Written)
            }
        }
    }

    fn resumes(&self) -> bool {
        let goes_on = |stage: &Stage| stage.is_stalled() && !stage.is_paused();
        self.conversation.resumes() || self.stage.as_deref().is_some_and(goes_on)
    }

    fn takes_more(&self) -> bool {
        if self.stage.as_ref().is_some_and(|stage| stage.is_paused()) {
            // What has passed the filters goes on all the same.
            return self.conversation.resumes();
        }
        // What has begun is awaited whole, and then kept by the conversation if it can take no more.
        let is_owed = |stage: &Stage| stage.has_begun() || stage.is_stalled();
        self.conversation.takes_more() || self.stage.as_deref().is_some_and(is_owed)
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> bool {
        self.stage.as_mut().is_some_and(|stage| stage.poll_pause(cx))
    }

    fn outlives_client(&self) -> bool {
        self.conversation.outlives_client()
    }

    fn unseen_up(&self) -> usize {
        let unseen = self.conversation.unseen_up();
        self.stage.as_ref().map_or(unseen, |stage| unseen.min(stage.unseen_up()))
    }

    fn passed_up(&mut self, bytes: usize) {
        self.conversation.passed_up(bytes);
        if let Some(stage) = &mut self.stage {
            stage.passed_up(bytes);
        }
    }

    fn unseen_down(&self) -> usize {
        let unseen = self.conversation.unseen_down();
        self.stage.as_ref().map_or(unseen, |stage| unseen.min(stage.unseen_down()))
    }

    fn passed_down(&mut self, bytes: usize) {
        self.conversation.passed_down(bytes);
        if let Some(stage) = &mut self.stage {
            stage.passed_down(bytes);
        }
    }

    fn drain(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.drain();
        }
        self.conversation.drain();
    }

    fn is_over(&self) -> bool {
        self.conversation.is_over() && self.stage.as_ref().is_none_or(|stage| stage.is_between())
    }

    fn in_flight(&self) -> usize {
        self.conversation.in_flight()
    }
}
