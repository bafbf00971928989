//! Sorted sets: distinct members, each with a score, in the order of score and then bytes.
//!
//! Two structures share the members' bytes: a hash map answers "which score", and an ordered list of short runs answers
//! everything about order and position. A run holds at most `RUN` members, so an insert or a removal moves a few
//! kilobytes at most, whatever the size of the set, and a position is found by adding up the lengths of runs.
//!
//! Invariants: both structures hold the same members; no run is empty; no score is NaN ([`ZSet::insert`] refuses it).
//! Scores compare as numbers, so `-0.0` and `0.0` are equal and only their members decide the order; each keeps its
//! sign until it is replaced by an unequal score.

use std::{fmt, ops::Range, sync::Arc};

use indexmap::IndexMap;

/// The most members of a run; a full one is cut in two.
const RUN: usize = 512;

/// One member of the ordered list.
#[derive(Clone)]
struct Ranked {
    score: f64,
    member: Arc<[u8]>,
}

/// Members ordered by score, then bytes.
#[derive(Clone, Default)]
pub struct ZSet {
    scores: IndexMap<Arc<[u8]>, f64>,
    runs: Vec<Vec<Ranked>>,
}

/// A score that is no number cannot be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANumber;

/// One end of a range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreBound {
    /// The score.
    pub score: f64,
    /// Whether members with exactly this score are left out.
    pub exclusive: bool,
}

/// One end of a range of members that all have the same score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LexBound<'a> {
    /// Before every member.
    Lowest,
    /// At this member; it is left out if the flag is set.
    At(&'a [u8], bool),
    /// Behind every member.
    Highest,
}

// === impl ZSet ===

impl ZSet {
    /// Number of members.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// The member's score.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// Adds the member or moves it to another score. Returns its score before.
    ///
    /// # Errors
    /// [`NotANumber`], with the set unchanged.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Result<Option<f64>, NotANumber> {
        if score.is_nan() {
            return Err(NotANumber);
        }
        let Some((_, shared, &before)) = self.scores.get_full(member) else {
            let shared: Arc<[u8]> = member.into();
            self.scores.insert(shared.clone(), score);
            self.rank_in(Ranked { score, member: shared });
            return Ok(None);
        };
        if before != score {
            let shared = shared.clone();
            self.rank_out(before, member);
            if let Some(slot) = self.scores.get_mut(member) {
                *slot = score;
            }
            self.rank_in(Ranked { score, member: shared });
        }
        Ok(Some(before))
    }

    /// Removes the member. Returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let score = self.scores.swap_remove(member)?;
        self.rank_out(score, member);
        Some(score)
    }

    /// Removes the members at these positions; positions past the end are ignored. Returns how many there were.
    pub fn remove_range(&mut self, positions: Range<usize>) -> usize {
        let end = positions.end.min(self.len());
        let mut left = end.saturating_sub(positions.start);
        let removed = left;
        let (mut run, mut at) = self.locate(positions.start);
        while left > 0 {
            let Some(members) = self.runs.get_mut(run) else { break };
            let upto = members.len().min(at + left);
            left -= upto - at;
            for gone in members.drain(at..upto) {
                self.scores.swap_remove(&gone.member);
            }
            at = 0;
            run += 1;
        }
        self.runs.retain(|members| !members.is_empty());
        removed
    }

    /// The member's position, 0 for the lowest.
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        let score = self.score(member)?;
        Some(self.count_while(|ranked| ranked.before(score, member)))
    }

    /// The member at a position, 0 for the lowest.
    pub fn get(&self, position: usize) -> Option<(&[u8], f64)> {
        let (run, at) = self.locate(position);
        let ranked = self.runs.get(run)?.get(at)?;
        Some((&ranked.member, ranked.score))
    }

    /// All members, lowest first.
    pub fn iter(&self) -> Iter<'_> {
        self.range(0..self.len())
    }

    /// The members at these positions, lowest first; positions past the end are ignored.
    pub fn range(&self, positions: Range<usize>) -> Iter<'_> {
        let end = positions.end.min(self.len());
        let left = end.saturating_sub(positions.start);
        Iter { runs: &self.runs, front: self.locate(positions.start), back: self.locate(end), left }
    }

    /// All members from index to index of an order that new scores do not change: members are added at the end, and
    /// a removal moves the last one into the gap. Indexes past the end are ignored.
    pub fn unordered(&self, indexes: Range<usize>) -> impl ExactSizeIterator<Item = (&[u8], f64)> {
        let end = indexes.end.min(self.len());
        let all = self.scores.get_range(indexes.start.min(end)..end).unwrap_or_default();
        all.iter().map(|(member, score)| (&**member, *score))
    }

    /// The positions of the members with scores between `min` and `max`. Empty when the ends are crossed.
    pub fn positions_by_score(&self, min: ScoreBound, max: ScoreBound) -> Range<usize> {
        let start = self.count_while(|ranked| ranked.score < min.score || min.shuts_out(ranked.score));
        let end = self.count_while(|ranked| ranked.score <= max.score && !max.shuts_out(ranked.score));
        start..end.max(start)
    }

    /// The positions of the members between `min` and `max`, provided that all have the same score; otherwise
    /// unspecified. Empty when the ends are crossed.
    pub fn positions_by_lex(&self, min: LexBound<'_>, max: LexBound<'_>) -> Range<usize> {
        let start = match min {
            LexBound::Lowest => 0,
            LexBound::At(bound, true) => self.count_while(|ranked| *ranked.member <= *bound),
            LexBound::At(bound, false) => self.count_while(|ranked| *ranked.member < *bound),
            LexBound::Highest => self.len(),
        };
        let end = match max {
            LexBound::Lowest => 0,
            LexBound::At(bound, true) => self.count_while(|ranked| *ranked.member < *bound),
            LexBound::At(bound, false) => self.count_while(|ranked| *ranked.member <= *bound),
            LexBound::Highest => self.len(),
        };
        start..end.max(start)
    }

    /// Number of leading members for which `holds`; it must be true for a prefix of the order only.
    fn count_while(&self, holds: impl Fn(&Ranked) -> bool) -> usize {
        let run = self.runs.partition_point(|members| members.last().is_some_and(&holds));
        let whole: usize = self.runs.iter().take(run).map(Vec::len).sum();
        whole + self.runs.get(run).map_or(0, |members| members.partition_point(holds))
    }

    /// Run and place in it of a position; the end is the run past the last one.
    fn locate(&self, position: usize) -> (usize, usize) {
        let mut left = position;
        for (run, members) in self.runs.iter().enumerate() {
            if left < members.len() {
                return (run, left);
            }
            left -= members.len();
        }
        (self.runs.len(), 0)
    }

    fn rank_in(&mut self, new: Ranked) {
        let goes_behind = |ranked: &Ranked| ranked.before(new.score, &new.member);
        let run = self.runs.partition_point(|members| members.last().is_some_and(goes_behind));
        // Behind everything: the last run grows, or a new one starts, so that ascending inserts fill the runs.
        if run == self.runs.len() {
            match self.runs.last_mut() {
                Some(members) if members.len() < RUN => members.push(new),
                _ => self.runs.push(vec![new]),
            }
            return;
        }
        let Some(members) = self.runs.get_mut(run) else { return };
        members.insert(members.partition_point(goes_behind), new);
        if members.len() > RUN {
            let upper = members.split_off(members.len() / 2);
            self.runs.insert(run + 1, upper);
        }
    }

    fn rank_out(&mut self, score: f64, member: &[u8]) {
        let before = |ranked: &Ranked| ranked.before(score, member);
        let run = self.runs.partition_point(|members| members.last().is_some_and(before));
        let Some(members) = self.runs.get_mut(run) else { return };
        let at = members.partition_point(before);
        if members.get(at).is_some_and(|ranked| *ranked.member == *member) {
            members.remove(at);
        }
        if members.is_empty() {
            self.runs.remove(run);
        }
    }
}

impl PartialEq for ZSet {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for ZSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(member, score)| (member.escape_ascii().to_string(), score)))
            .finish()
    }
}

impl<'a> IntoIterator for &'a ZSet {
    type Item = (&'a [u8], f64);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

// === impl Ranked, ScoreBound ===

impl Ranked {
    /// Whether this one comes before a member with this score.
    fn before(&self, score: f64, member: &[u8]) -> bool {
        self.score < score || (self.score == score && *self.member < *member)
    }
}

impl ScoreBound {
    fn shuts_out(self, score: f64) -> bool {
        self.exclusive && self.score == score
    }
}

// === Iter ===

/// Members with their scores, lowest first; see [`ZSet::range`].
#[derive(Clone)]
pub struct Iter<'a> {
    runs: &'a [Vec<Ranked>],
    front: (usize, usize),
    /// Just past the last one.
    back: (usize, usize),
    left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let members = self.runs.get(self.front.0)?;
        let ranked = members.get(self.front.1)?;
        self.front.1 += 1;
        if self.front.1 == members.len() {
            self.front = (self.front.0 + 1, 0);
        }
        Some((&ranked.member, ranked.score))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        if self.back.1 == 0 {
            let run = self.back.0.checked_sub(1)?;
            self.back = (run, self.runs.get(run)?.len());
        }
        self.back.1 -= 1;
        let ranked = self.runs.get(self.back.0)?.get(self.back.1)?;
        Some((&ranked.member, ranked.score))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zset(members: &[(&str, f64)]) -> ZSet {
        let mut zset = ZSet::default();
        for (member, score) in members {
            assert_eq!(zset.insert(member.as_bytes(), *score), Ok(None));
        }
        zset
    }

    fn names<'a>(members: impl Iterator<Item = (&'a [u8], f64)>) -> String {
        members.map(|(member, _)| String::from_utf8_lossy(member).into_owned()).collect::<Vec<_>>().join(" ")
    }

    fn at(score: f64, exclusive: bool) -> ScoreBound {
        ScoreBound { score, exclusive }
    }

    #[test]
    fn equal_scores_are_ordered_by_bytes() {
        let zset = zset(&[("b", 1.0), ("a", 1.0), ("B", 1.0), ("", 1.0), ("z", -1.0)]);
        assert_eq!(names(zset.iter()), "z  B a b");
        assert_eq!(names(zset.iter().rev()), "b a B  z");
    }

    #[test]
    fn zero_and_minus_zero_are_one_score() {
        let mut zset = zset(&[("b", 0.0), ("a", -0.0)]);
        assert_eq!(names(zset.iter()), "a b");
        assert_eq!(zset.insert(b"b", -0.0), Ok(Some(0.0)));
        assert!(zset.score(b"b").is_some_and(f64::is_sign_positive));
        assert_eq!(zset.positions_by_score(at(0.0, true), at(1.0, false)), 2..2);
    }

    #[test]
    fn infinities_are_the_ends_and_no_number_is_refused() {
        let mut zset = zset(&[("top", f64::INFINITY), ("bottom", f64::NEG_INFINITY), ("mid", f64::MAX)]);
        assert_eq!(names(zset.iter()), "bottom mid top");
        assert_eq!(zset.insert(b"x", f64::NAN), Err(NotANumber));
        assert_eq!(zset.insert(b"mid", f64::NAN), Err(NotANumber));
        assert_eq!(zset.len(), 3);
        let all = zset.positions_by_score(at(f64::NEG_INFINITY, false), at(f64::INFINITY, false));
        assert_eq!(all, 0..3);
        let inner = zset.positions_by_score(at(f64::NEG_INFINITY, true), at(f64::INFINITY, true));
        assert_eq!(inner, 1..2);
    }

    #[test]
    fn bounds_of_bytes_include_or_exclude_their_member() {
        let zset = zset(&[("a", 0.0), ("b", 0.0), ("c", 0.0)]);
        assert_eq!(zset.positions_by_lex(LexBound::Lowest, LexBound::Highest), 0..3);
        assert_eq!(zset.positions_by_lex(LexBound::At(b"a", true), LexBound::At(b"c", true)), 1..2);
        assert_eq!(zset.positions_by_lex(LexBound::At(b"aa", false), LexBound::At(b"c", false)), 1..3);
        assert!(zset.positions_by_lex(LexBound::Highest, LexBound::Lowest).is_empty());
        assert!(zset.positions_by_lex(LexBound::At(b"c", false), LexBound::At(b"a", false)).is_empty());
    }

    #[test]
    fn sets_with_the_same_members_are_equal_however_they_grew() {
        let (mut up, mut down) = (ZSet::default(), ZSet::default());
        for i in 0..3000_u32 {
            let _ = up.insert(&i.to_be_bytes(), f64::from(i % 7));
            let i = 2999 - i;
            let _ = down.insert(&i.to_be_bytes(), f64::from(i % 7));
        }
        assert_eq!(up, down);
        let _ = down.insert(&0_u32.to_be_bytes(), 1.0);
        assert_ne!(up, down);
    }

    #[test]
    fn ascending_inserts_fill_the_runs() {
        let mut zset = ZSet::default();
        for i in 0..(4 * RUN as u32) {
            let _ = zset.insert(&i.to_be_bytes(), f64::from(i));
        }
        assert_eq!(zset.runs.len(), 4);
    }

    /// A model without cleverness.
    #[derive(Default)]
    struct Model(Vec<(f64, Vec<u8>)>);

    impl Model {
        fn remove(&mut self, member: &[u8]) -> Option<f64> {
            let at = self.0.iter().position(|(_, known)| known == member)?;
            Some(self.0.remove(at).0)
        }

        fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
            let before = self.remove(member);
            let at = self.0.iter().take_while(|(s, m)| *s < score || (*s == score && **m < *member)).count();
            self.0.insert(at, (score, member.to_vec()));
            before
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_long_history_leaves_what_a_plain_list_would_hold(
            steps in prop::collection::vec((0_u8..8, 0_u16..900, -3_i8..4), 1..1500),
        ) {
            let (mut zset, mut model) = (ZSet::default(), Model::default());
            // Enough members for several runs.
            for i in 0..1200_u16 {
                let member = (i % 900).to_be_bytes();
                prop_assert_eq!(zset.insert(&member, f64::from(i % 5)), Ok(model.insert(&member, f64::from(i % 5))));
            }
            for (kind, member, score) in steps {
                let (name, score) = (member.to_be_bytes(), f64::from(score));
                match kind {
                    0..=3 => prop_assert_eq!(zset.insert(&name, score), Ok(model.insert(&name, score))),
                    4..=6 => prop_assert_eq!(zset.remove(&name), model.remove(&name)),
                    _ => {
                        let start = usize::from(member);
                        let end = (start + 7).min(model.0.len());
                        let gone = model.0.drain(start.min(end)..end).count();
                        prop_assert_eq!(zset.remove_range(start..start + 7), gone);
                    }
                }
            }
            prop_assert_eq!(zset.len(), model.0.len());
            prop_assert!(zset.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN));
            let plain: Vec<_> = model.0.iter().map(|(score, member)| (member.as_slice(), *score)).collect();
            prop_assert_eq!(zset.iter().collect::<Vec<_>>(), plain.clone());
            prop_assert!(zset.iter().rev().eq(plain.iter().rev().copied()));
            for (position, (member, score)) in plain.iter().enumerate() {
                prop_assert_eq!(zset.rank(member), Some(position));
                prop_assert_eq!(zset.get(position), Some((*member, *score)));
            }
            for start in [0, 1, 511, 512, 513, 700, 2000] {
                for end in [0, 1, 512, 600, 5000] {
                    let expect = plain.get(start..end.min(plain.len())).unwrap_or_default();
                    prop_assert_eq!(zset.range(start..end).collect::<Vec<_>>(), expect);
                    prop_assert!(zset.range(start..end).rev().eq(expect.iter().rev().copied()));
                }
            }
            for score in -4..6 {
                let score = f64::from(score);
                let below = plain.iter().filter(|known| known.1 < score).count();
                let upto = plain.iter().filter(|known| known.1 <= score).count();
                prop_assert_eq!(zset.positions_by_score(at(score, false), at(score, false)), below..upto);
                prop_assert_eq!(zset.positions_by_score(at(score, true), at(9.0, false)), upto..plain.len());
                prop_assert_eq!(zset.positions_by_score(at(-9.0, false), at(score, true)), 0..below);
            }
        }
    }
}
