use proptest::prelude::*;

use super::{FrameError, Head, Item, RequestHead, ResponseHead, Scanner, Want};
use crate::table::ApiKey;

/// A head, its body, and whether that was whole.
type Frame<H> = (H, Vec<u8>, bool);

/// What is told about the frames of `bytes`, given in pieces of `size`: heads, bodies, and whether each was whole.
fn cut<H: Head>(bytes: &[u8], size: usize, want: impl Fn(&H) -> Want) -> (Vec<Frame<H>>, Option<FrameError>) {
    let (mut scanner, mut held, mut frames) = (Scanner::<H>::new(1 << 20), Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (taken, item) = match scanner.next(&held[at..]) {
                Ok(next) => next,
                Err(error) => return (frames, Some(error)),
            };
            let is_more = matches!(item, Item::More);
            let wanted = match item {
                Item::Head(head) => {
                    frames.push((head, Vec::new(), false));
                    Some(want(&head))
                }
                Item::Piece { len, .. } => {
                    assert_eq!(len, taken);
                    frames.last_mut().unwrap().1.extend_from_slice(&held[at..at + len]);
                    None
                }
                Item::Whole(body) => {
                    let last = frames.last_mut().unwrap();
                    last.1.extend_from_slice(body);
                    last.2 = true;
                    None
                }
                Item::More => None,
            };
            if let Some(want) = wanted {
                scanner.want(want);
            }
            at += taken;
            if is_more {
                break;
            }
        }
        held.drain(..at);
        assert!(held.len() < H::SIZE, "{} bytes were not taken", held.len());
    }
    (frames, None)
}

fn request(correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    RequestHead { key: ApiKey::FETCH, version: 12, correlation, body: body.len() as u32 }.write(&mut out);
    out.extend_from_slice(body);
    out
}

#[test]
fn a_body_that_comes_at_once_is_handed_out_where_it_is() {
    let bytes = request(5, b"body");
    let mut scanner = Scanner::<RequestHead>::new(100);
    let (taken, item) = scanner.next(&bytes).unwrap();
    assert_eq!((taken, matches!(item, Item::Head(head) if head.body == 4)), (12, true));
    scanner.want(Want::Whole);
    let (taken, item) = scanner.next(&bytes[12..]).unwrap();
    let Item::Whole(body) = item else { panic!("{item:?}") };
    assert_eq!((taken, body.as_ptr()), (4, bytes[12..].as_ptr()));
    assert!(scanner.is_between());
}

#[test]
fn lengths_that_cannot_be_are_refused_at_their_fourth_byte() {
    let mut scanner = Scanner::<RequestHead>::new(100);
    assert_eq!(scanner.next(&[0, 0, 0]), Ok((0, Item::More)));
    for (length, error) in [
        (7, FrameError::TooShort { length: 7 }),
        (-1, FrameError::TooShort { length: -1 }),
        (i32::MIN, FrameError::TooShort { length: i32::MIN }),
        (101, FrameError::TooLong { length: 101, limit: 100 }),
        (i32::from_be_bytes(*b"GET "), FrameError::TooLong { length: 0x4745_5420, limit: 100 }),
    ] {
        assert_eq!(scanner.next(&length.to_be_bytes()), Err(error));
    }
    assert_eq!(
        Scanner::<ResponseHead>::new(100).next(&[0, 0, 0, 3]),
        Err(FrameError::TooShort { length: 3 })
    );
}

#[test]
fn a_head_that_claims_much_takes_no_memory() {
    let mut scanner = Scanner::<ResponseHead>::new(u32::MAX);
    let (_, item) = scanner.next(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]).unwrap();
    assert!(matches!(item, Item::Head(_)));
    scanner.want(Want::Whole);
    assert_eq!(scanner.next(b"a little").unwrap().0, 8);
    assert!(scanner.held() < 100);
}

#[test]
fn memory_of_a_large_body_is_given_back() {
    let bytes = request(1, &[7; 300_000]);
    let mut scanner = Scanner::<RequestHead>::new(1 << 20);
    let _ = scanner.next(&bytes).unwrap();
    scanner.want(Want::Whole);
    assert_eq!(scanner.next(&bytes[12..100_000]).unwrap().1, Item::More);
    let (_, item) = scanner.next(&bytes[100_000..]).unwrap();
    assert!(matches!(item, Item::Whole(body) if body == [7; 300_000]));
    assert_eq!(scanner.next(&[]), Ok((0, Item::More)));
    assert!(scanner.held() <= super::KEPT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_give_the_same_frames(
        frames in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..70)), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        size in 1..50usize,
    ) {
        let mut bytes: Vec<u8> =
            frames.iter().flat_map(|(correlation, body)| request(*correlation, body)).collect();
        bytes.extend_from_slice(&tail);
        // Every other body is wanted whole.
        let want = |head: &RequestHead| if head.correlation % 2 == 0 { Want::Whole } else { Want::Pass };
        let whole = cut(&bytes, usize::MAX, want);
        let mut pieces = cut(&bytes, size, want);
        for (at, (correlation, body)) in frames.iter().enumerate() {
            let (head, got, was_whole) = &whole.0[at];
            prop_assert_eq!((head.correlation, got), (*correlation, body));
            prop_assert_eq!(*was_whole, correlation % 2 == 0);
        }
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(whole.1, pieces.1.take());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1..50usize) {
        let _ = cut::<RequestHead>(&bytes, size, |_| Want::Whole);
        let _ = cut::<ResponseHead>(&bytes, size, |_| Want::Pass);
    }
}
