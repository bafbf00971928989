//! What is in flight, found by token.
//!
//! Tokens are handed out in ascending order, so that what is sent in a row has tokens in a row, which the engine keeps
//! as one run. The place of a token is its lowest bits. A token whose place is still taken by a straggler is passed
//! over, so one slow reply holds up nothing. No token is used twice in four billion steps, so a late reply to a step
//! that has failed hits nobody.

pub(super) struct Ring<T> {
    /// A power of two of places, at most half of them taken.
    places: Vec<Option<(u32, T)>>,
    len: usize,
    next: u32,
}

const FEWEST: usize = 64;

// === impl Ring ===

impl<T> Ring<T> {
    pub(super) fn new() -> Self {
        Self { places: Self::vacant(FEWEST), len: 0, next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keeps `value` and returns its token.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if self.len * 2 >= self.places.len() {
            self.grow();
        }
        // Ends, since half of the places are vacant.
        loop {
            let token = self.next;
            self.next = self.next.wrapping_add(1);
            let mask = self.places.len() - 1;
            if let Some(place @ None) = self.places.get_mut(token as usize & mask) {
                *place = Some((token, value));
                self.len += 1;
                return token;
            }
        }
    }

    pub(super) fn remove(&mut self, token: u32) -> Option<T> {
        let mask = self.places.len() - 1;
        let place = self.places.get_mut(token as usize & mask)?;
        let (_, value) = place.take_if(|(of, _)| *of == token)?;
        self.len -= 1;
        Some(value)
    }

    fn vacant(count: usize) -> Vec<Option<(u32, T)>> {
        std::iter::repeat_with(|| None).take(count).collect()
    }

    /// Doubles the places. Tokens that differ in their lowest bits still do when more bits count.
    #[cold]
    fn grow(&mut self) {
        let places = Self::vacant(self.places.len() * 2);
        let mask = places.len() - 1;
        for (token, value) in std::mem::replace(&mut self.places, places).into_iter().flatten() {
            if let Some(place) = self.places.get_mut(token as usize & mask) {
                *place = Some((token, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_what_is_sent_in_a_row_are_in_a_row() {
        let mut ring = Ring::new();
        for round in 0..1000_u32 {
            let tokens: Vec<u32> = (0..10).map(|_| ring.insert(round)).collect();
            assert_eq!(tokens, (round * 10..round * 10 + 10).collect::<Vec<_>>());
            assert!(tokens.iter().all(|&token| ring.remove(token) == Some(round)));
        }
        assert_eq!(ring.places.len(), FEWEST);
    }

    #[test]
    fn a_straggler_keeps_its_place_and_nothing_else() {
        let mut ring = Ring::new();
        let straggler = ring.insert(0);
        let mut seen = vec![straggler];
        for value in 1..10_000 {
            let token = ring.insert(value);
            assert_eq!(ring.remove(token), Some(value));
            assert_eq!(ring.remove(token), None);
            seen.push(token);
        }
        seen.dedup();
        assert_eq!((seen.len(), ring.places.len()), (10_000, FEWEST));
        assert_eq!(ring.remove(straggler), Some(0));
        assert_eq!(ring.len(), 0);
    }

    #[test]
    fn everything_is_found_again_after_the_ring_has_grown_and_tokens_have_wrapped() {
        let mut ring = Ring::new();
        ring.next = u32::MAX - 100;
        let tokens: Vec<u32> = (0..5000).map(|value| ring.insert(value)).collect();
        for (value, &token) in tokens.iter().enumerate() {
            assert_eq!(ring.remove(token), Some(value));
        }
        assert_eq!(ring.len(), 0);
    }
}
