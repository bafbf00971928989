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

impl Between for Staged {
    fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let Some(stage) = &mut self.stage else { return self.conversation.up(bytes, out) };
        self.between.clear();
        self.between.shrink_to(KEPT);
        stage.up(bytes, &mut self.between)?;
        if let Goes::AsIs(len) = self.conversation.up(&self.between, out)? {
            out.extend_from_slice(self.between.get(..len).unwrap_or_default());
        }
        Ok(Goes::Written)
    }

    fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        let Some(stage) = &mut self.stage else { return self.conversation.down(bytes, out) };
        self.between.clear();
        self.between.shrink_to(KEPT);
        let came = match self.conversation.down(bytes, &mut self.between)? {
            Goes::AsIs(len) => bytes.get(..len).unwrap_or_default(),
            Goes::Written => &self.between,
        };
        stage.down(came, out)?;
        Ok(Goes::Written)
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
        if self.stage.is_some() { 0 } else { self.conversation.unseen_up() }
    }

    fn passed_up(&mut self, bytes: usize) {
        self.conversation.passed_up(bytes);
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
