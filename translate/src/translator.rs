//! The machine that drives a remote back.

/// What became of the leading calls of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The verdicts of this many calls are [`mecha_core::Verdict::Answered`].
    Answered(usize),
    /// As [`Taken::Answered`], and the connection is to be closed behind the last of them.
    Close(usize),
    /// Nothing was taken: the first call has to wait for an answer of the same client, or for room.
    Full,
    /// This many calls are in flight; their answers come through [`crate::kv::Answers`].
    Pending(usize),
}

/// Facts and limits of one translator.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many endpoints a flush has to reach.
    pub endpoints: usize,
}

/// Drives a remote back.
pub struct Translator<A, B>(std::marker::PhantomData<(A, B)>);
