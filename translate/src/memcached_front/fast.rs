//! The plans that dominate real traffic: one step, and not a single allocation.
//!
//! What a reply repeats of its request (a key, a meta command's flags) is the piece of the frame that
//! [`Fast::keep`](crate::kv::Fast::keep) points to: the key for retrievals, the whole line for meta commands.

use mecha_core::{Outcome, Span};
use mecha_memcached::command::MetaWords;
use mecha_memcached::{Request, write};

use super::meta::{Hit, hit, lead};
use super::{classic, line, wrong_type};
use crate::kv::{Fast, FastAction, Recall, StepReply};

/// What a step's reply is formatted as: a memo's low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Form {
    Compared,
    Deleted,
    Flushed,
    MetaCompared,
    MetaDeleted,
    MetaGot,
    MetaStored,
    Stored,
    Touched,
    Value,
    ValueWithUnique,
}

impl Form {
    const ALL: [Self; 11] = [
        Self::Compared,
        Self::Deleted,
        Self::Flushed,
        Self::MetaCompared,
        Self::MetaDeleted,
        Self::MetaGot,
        Self::MetaStored,
        Self::Stored,
        Self::Touched,
        Self::Value,
        Self::ValueWithUnique,
    ];

    fn of(memo: u32) -> Self {
        Self::ALL.get((memo & FORM) as usize).copied().unwrap_or(Self::Flushed)
    }

    fn is_meta(self) -> bool {
        matches!(self, Self::MetaCompared | Self::MetaDeleted | Self::MetaGot | Self::MetaStored)
    }
}

const FORM: u32 = 0xff;
/// `noreply`: nothing is answered. `q`: success (for `mg`, a miss) is not.
const QUIET: u32 = 0x100;

/// The plan of a request whose key is in its frame as it is.
pub(super) fn of(request: &Request, action: FastAction, form: Form) -> Fast {
    let keep = match form {
        Form::Value | Form::ValueWithUnique => request.key_span(),
        form if form.is_meta() => Span::wire(0, request.line_len()),
        _ => Span::default(),
    };
    let quiet = if request.is_quiet() { QUIET } else { 0 };
    Fast { key: request.key_span(), action, keep, memo: form as u32 | quiet }
}

/// Formats a step's reply.
pub(super) fn reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
    let form = Form::of(recall.memo);
    let is_quiet = recall.memo & QUIET != 0;
    if let StepReply::Typed(entry) = reply {
        line(wrong_type(&entry.value).unwrap_or_default(), out);
        return Outcome::ServerError;
    }
    if form.is_meta() {
        meta(form, is_quiet, recall, reply, out);
        return Outcome::Ok;
    }
    let text = match (form, reply) {
        _ if is_quiet => return Outcome::Ok,
        (Form::Value | Form::ValueWithUnique, StepReply::Str { value, flags, token, marks, .. }) => {
            let unique = (form == Form::ValueWithUnique).then_some(*token);
            write::value(recall.kept, *flags, unique, value, out);
            if let Some(marks) = marks {
                classic::read(marks, recall.now_ms);
            }
            "END"
        }
        (Form::Value | Form::ValueWithUnique, _) => "END",
        (Form::Compared | Form::Stored, StepReply::Applied { .. }) => "STORED",
        (Form::Compared, StepReply::Missing) => "NOT_FOUND",
        (Form::Compared, _) => "EXISTS",
        (Form::Stored, _) => "NOT_STORED",
        (Form::Deleted, StepReply::Applied { .. }) => "DELETED",
        (Form::Touched, StepReply::Applied { .. }) => "TOUCHED",
        (Form::Deleted | Form::Touched, _) => "NOT_FOUND",
        _ => "OK",
    };
    line(text, out);
    Outcome::Ok
}

fn meta(form: Form, is_quiet: bool, recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) {
    let words = MetaWords::of(recall.kept);
    let (code, token) = match (form, reply) {
        (Form::MetaGot, StepReply::Str { value, flags: client_flags, expire_at_ms, token, marks }) => {
            let found = Hit {
                value,
                flags: *client_flags,
                token: *token,
                expire_at_ms: *expire_at_ms,
                touch: None,
                vivified: None,
                recache: None,
                marks: *marks,
                now_ms: recall.now_ms,
            };
            hit(&words, found, out);
            return;
        }
        (Form::MetaGot, _) if is_quiet => return,
        (Form::MetaGot, _) => ("EN", None),
        (_, StepReply::Applied { .. }) if is_quiet => return,
        (Form::MetaDeleted, StepReply::Applied { .. }) => ("HD", None),
        (Form::MetaDeleted, _) => ("NF", None),
        (_, StepReply::Applied { token }) => ("HD", Some(token.unwrap_or_default())),
        (Form::MetaCompared, StepReply::Missing) => ("NF", Some(0)),
        (Form::MetaCompared, _) => ("EX", Some(0)),
        _ => ("NS", Some(0)),
    };
    lead(code, &words, token, out);
}
