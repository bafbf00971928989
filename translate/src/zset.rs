//! Sorted sets.

/// Members ordered by score, then bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ZSet {
    members: Vec<(Vec<u8>, f64)>,
}

impl ZSet {
    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
