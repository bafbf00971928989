//! The guard of a listener: logs clients in, and lets pass what their user may do.

use std::ops::Range;
use std::sync::Arc;

use mecha_core::{Batch, Call, Cx, Framed, Refusal, Span, Verdict};
use mecha_telemetry::LoginMetrics;

use crate::throttle::Throttle;
use crate::user::{DEFAULT, User, Users, Vocabulary};

/// Who a client is. Nobody, at first, unless the `default` user needs no password.
#[derive(Clone, Debug, Default)]
pub struct Who(Option<Arc<User>>);

impl Who {
    /// The user's name.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.0.as_ref().map(|user| &user.name)
    }

    pub(crate) fn user(&self) -> Option<&Arc<User>> {
        self.0.as_ref()
    }
}

/// How a client that is connected stands with newer users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its user may do other things than before, or is gone: what it has subscribed to may not be its to read any more.
    Changed,
    /// Its user is gone or off.
    Gone,
    /// As before.
    Same,
}

/// The users of one listener, and what all its workers share about them.
pub struct Gate {
    pub(crate) users: Users,
    throttle: Arc<Throttle>,
    metrics: LoginMetrics,
}

impl Gate {
    /// For one listener. What `previous` knows of failed logins goes on.
    pub fn new(users: Users, metrics: LoginMetrics, previous: Option<&Self>) -> Self {
        let throttle = previous.map_or_else(|| Arc::new(Throttle::new()), |gate| Arc::clone(&gate.throttle));
        Self { users, throttle, metrics }
    }

    /// Who a new client is.
    pub fn enter(&self) -> Who {
        Who(self.users.unasked())
    }

    /// Who a client is now that was `who` with older users. `None` for `who`: there were none.
    pub fn follow(&self, who: Option<&Who>) -> (Who, Standing) {
        let before = match who {
            None => return (self.enter(), Standing::Changed),
            Some(Who(None)) => return (self.enter(), Standing::Same),
            Some(Who(Some(before))) => before,
        };
        match self.users.named(before.name.as_bytes()) {
            // It may never have been asked for a password.
            Some(now) if before.has_no_password && !now.has_no_password => (self.enter(), Standing::Changed),
            Some(now) if now.is_on => {
                let standing = if now.may_the_same(before) { Standing::Same } else { Standing::Changed };
                (Who(Some(Arc::clone(now))), standing)
            }
            _ => (Who(None), Standing::Gone),
        }
    }

    /// Whether this client may try to log in, after those from its address have failed.
    #[must_use]
    pub fn may_try(&self, cx: &Cx<'_>) -> bool {
        let may_try = self.throttle.may_try(cx.peer.addr, cx.now_micros);
        if !may_try {
            self.metrics.ended("throttled");
        }
        may_try
    }

    /// A client has proved who it is without showing a password, or has not.
    pub fn tried(&self, is_proved: bool, cx: &Cx<'_>) {
        self.metrics.ended(if is_proved { "ok" } else { "failed" });
        if !is_proved {
            self.throttle.failed(cx.peer.addr, cx.now_micros);
        }
    }

    /// Looks at a name and a password. An error changes nothing.
    ///
    /// # Errors
    /// `TooManyLogins` and `LoginFailed`.
    pub fn login(&self, (name, password): (&[u8], &[u8]), who: &mut Who, cx: &Cx<'_>) -> Result<(), Refusal> {
        if !self.may_try(cx) {
            return Err(Refusal::TooManyLogins);
        }
        match self.users.login(name, password) {
            Some(user) => {
                self.metrics.ended("ok");
                who.0 = Some(user);
                Ok(())
            }
            None => {
                self.metrics.ended("failed");
                self.throttle.failed(cx.peer.addr, cx.now_micros);
                Err(Refusal::LoginFailed)
            }
        }
    }

    /// The client is as new.
    pub(crate) fn reset(&self, who: &mut Who) {
        *who = self.enter();
    }

    /// Whether the `default` user takes any password, so that giving one is a mistake.
    pub(crate) fn is_open(&self) -> bool {
        self.users.named(DEFAULT.as_bytes()).is_some_and(|user| user.has_no_password)
    }
}

/// What a guard must know of a protocol.
pub trait Guarded: Framed + Vocabulary {
    /// Whether the call may change who the client is.
    fn is_login(call: &Call, who: &Who) -> bool;

    /// Logs the client in or out with call `index`, for which [`Guarded::is_login`] is true. What else the request is for is
    /// judged by [`Guarded::judge`] as that of any other call.
    fn login(gate: &Gate, batch: &mut Batch<'_, Self>, index: usize, who: &mut Who, cx: &Cx<'_>);

    /// What the user may not do in call `index`; `None` if it may.
    fn judge(batch: &mut Batch<'_, Self>, index: usize, who: &Who) -> Option<Refusal>;

    /// Answers call `index` in the place of the server, where it is about users. Nothing for most.
    fn answer(gate: &Gate, batch: &mut Batch<'_, Self>, index: usize, who: &Who);
}

/// A guard as a listener of protocol `P` has it.
pub trait Guard<P: Framed>: Send + Sync {
    /// Judges calls of `range`, in order: those that may not pass get their verdict. Stops before a call that may change
    /// who the client is, unless it is the first. Returns the first call that it has not judged.
    fn admit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, who: &mut Who, cx: &Cx<'_>) -> usize;

    /// The users.
    fn gate(&self) -> &Gate;
}

impl<P: Guarded> Guard<P> for Gate {
    fn admit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, who: &mut Who, cx: &Cx<'_>) -> usize {
        for index in range.clone() {
            let Some(call) = batch.calls.get(index) else { break };
            if P::is_login(call, who) {
                if index > range.start {
                    return index;
                }
                P::login(self, batch, index, who, cx);
            }
            if batch.calls.get(index).is_none_or(|call| call.verdict != Verdict::Forward) {
                continue;
            }
            match P::judge(batch, index, who) {
                Some(why) => set(batch, index, Verdict::Refuse(why)),
                None => P::answer(self, batch, index, who),
            }
        }
        range.end
    }

    fn gate(&self) -> &Gate {
        self
    }
}

pub(crate) fn set<P: Framed>(batch: &mut Batch<'_, P>, index: usize, verdict: Verdict) {
    if let Some(call) = batch.calls.get_mut(index) {
        call.verdict = verdict;
    }
}

/// Answers call `index` with what `write` appends.
pub(crate) fn answer<P: Framed>(batch: &mut Batch<'_, P>, index: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let start = batch.local.len();
    write(batch.local);
    let span = Span::local(start, batch.local.len() - start);
    set(batch, index, Verdict::Answered(span));
}
