//! Whether a client that nobody knows speaks a protocol, from the first bytes that it sends.

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// More bytes will tell.
    Maybe,
    /// This protocol does not begin so.
    No,
    /// No other protocol that mecha speaks begins so.
    Yes,
}

impl Begins {
    /// Whether `bytes` begin with `word`, or may when there are more of them.
    #[must_use]
    pub fn with(bytes: &[u8], word: &[u8]) -> Self {
        if bytes.starts_with(word) {
            Self::Yes
        } else if word.starts_with(bytes) {
            Self::Maybe
        } else {
            Self::No
        }
    }

    /// What two possibilities say together.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::No,
        }
    }
}
