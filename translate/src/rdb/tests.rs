//! Round trips, encodings that no server writes any more, and whatever else bytes can say.

use proptest::prelude::*;

use super::*;

const ROOM: usize = 1 << 20;

fn sealed(body: &[u8]) -> Vec<u8> {
    let mut payload = body.to_vec();
    seal(0, &mut payload);
    payload
}

fn read(body: &[u8]) -> Result<Value, RdbError> {
    restore(&sealed(body), ROOM)
}

/// A short string as it stands inside a value.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_length(bytes.len(), &mut out);
    out.extend_from_slice(bytes);
    out
}

fn listpack(entries: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(|entry| [entry, &[entry.len() as u8][..]].concat()).collect();
    let len = body.len() as u32 + 7;
    [&len.to_le_bytes()[..], &(entries.len() as u16).to_le_bytes(), &body, b"\xff"].concat()
}

fn ziplist(entries: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut before, mut tail) = (Vec::new(), 0, 10);
    for entry in entries {
        tail = 10 + body.len() as u32;
        body.push(before);
        body.extend_from_slice(entry);
        before = entry.len() as u8 + 1;
    }
    let len = body.len() as u32 + 11;
    let head = [len.to_le_bytes(), tail.to_le_bytes()].concat();
    [&head[..], &(entries.len() as u16).to_le_bytes(), &body, b"\xff"].concat()
}

fn list(items: &[&str]) -> Value {
    Value::List(items.iter().map(|item| item.as_bytes().to_vec()).collect())
}

fn hash(pairs: &[(&str, &str)]) -> Value {
    Value::Hash(
        pairs.iter().map(|(field, value)| (field.as_bytes().into(), value.as_bytes().into())).collect(),
    )
}

fn zset(pairs: &[(&str, f64)]) -> Value {
    let mut members = crate::zset::ZSet::default();
    for (member, score) in pairs {
        members.insert(member.as_bytes(), *score).expect("a number");
    }
    Value::ZSet(members)
}

#[test]
fn a_payload_of_a_server_is_read_and_written_the_same() {
    // `SET k v`, `SET k 300` and `SET k -5` at 7.0.15.
    for (text, payload) in [
        ("v", &b"\x00\x01v\x0a\x00\x91\x08\xce\xb2\x198\x8a\xce"[..]),
        ("300", b"\x00\xc1,\x01\n\x00\x95Ba\xf2e\x82\\\x10"),
        ("-5", b"\x00\xc0\xfb\n\x00I\xc4\xc6\xf4\xd7&?h"),
    ] {
        let mut ours = Vec::new();
        dump(&Value::Str(text.into()), &mut ours);
        assert_eq!(ours.escape_ascii().to_string(), payload.escape_ascii().to_string());
        assert_eq!(restore(payload, ROOM), Ok(Value::Str(text.into())));
    }
}

#[test]
fn every_form_of_an_element_of_a_listpack_is_read() {
    let entries: &[&[u8]] = &[
        b"\x00",
        b"\x7f",
        b"\x80",
        b"\x82ab",
        b"\xdf\xff",
        b"\xd0\x00",
        b"\xcf\xff",
        b"\xe0\x01x",
        b"\xf0\x02\x00\x00\x00yz",
        b"\xf1\xff\x7f",
        b"\xf2\x00\x00\x80",
        b"\xf3\xff\xff\xff\x7f",
        b"\xf4\x00\x00\x00\x00\x00\x00\x00\x80",
    ];
    let expected = list(&[
        "0",
        "127",
        "",
        "ab",
        "-1",
        "-4096",
        "4095",
        "x",
        "yz",
        "32767",
        "-8388608",
        "2147483647",
        "-9223372036854775808",
    ]);
    let node = string(&listpack(entries));
    assert_eq!(read(&[&[kind::LIST_QUICKLIST_2, 1, 2][..], &node].concat()), Ok(expected));
}

#[test]
fn every_form_of_an_element_of_a_ziplist_is_read() {
    let entries: &[&[u8]] = &[
        b"\x00",
        b"\x02ab",
        b"\x40\x01x",
        b"\x80\x00\x00\x00\x02yz",
        b"\xc0\xff\x7f",
        b"\xd0\xff\xff\xff\x7f",
        b"\xe0\x00\x00\x00\x00\x00\x00\x00\x80",
        b"\xf0\x00\x00\x80",
        b"\xfe\x80",
        b"\xf1",
        b"\xfd",
    ];
    let expected = list(&[
        "",
        "ab",
        "x",
        "yz",
        "32767",
        "2147483647",
        "-9223372036854775808",
        "-8388608",
        "-128",
        "0",
        "12",
    ]);
    let whole = string(&ziplist(entries));
    assert_eq!(read(&[&[kind::LIST_ZIPLIST][..], &whole].concat()).as_ref(), Ok(&expected));
    assert_eq!(read(&[&[kind::LIST_QUICKLIST, 1][..], &whole].concat()), Ok(expected));
}

#[test]
fn packed_pairs_are_hashes_and_sorted_sets() {
    let pairs: &[&[u8]] = &[b"\x81b", b"\x832.5", b"\x81a", b"\x07"];
    let whole = string(&listpack(pairs));
    assert_eq!(read(&[&[kind::HASH_LISTPACK][..], &whole].concat()), Ok(hash(&[("b", "2.5"), ("a", "7")])));
    assert_eq!(read(&[&[kind::ZSET_LISTPACK][..], &whole].concat()), Ok(zset(&[("b", 2.5), ("a", 7.0)])));
    let whole = string(&ziplist(&[b"\x01b", b"\x04-inf", b"\x01a", b"\xf8"]));
    assert_eq!(
        read(&[&[kind::ZSET_ZIPLIST][..], &whole].concat()),
        Ok(zset(&[("b", f64::NEG_INFINITY), ("a", 7.0)]))
    );
    let whole = string(b"\x02\x01f\x02\x03vvv###\x01g\x00\x00\xff".as_slice());
    assert_eq!(read(&[&[kind::HASH_ZIPMAP][..], &whole].concat()), Err(RdbError::BadFormat));
    let whole = string(b"\x02\x01f\x03\x02vvv##\x01g\x00\x00\xff");
    assert_eq!(read(&[&[kind::HASH_ZIPMAP][..], &whole].concat()), Ok(hash(&[("f", "vvv"), ("g", "")])));
}

#[test]
fn scores_are_read_as_text_and_as_numbers() {
    let body = [&[kind::ZSET, 3][..], b"\x01a\x031.5", b"\x01b\xfe", b"\x01c\xff"].concat();
    let expected = zset(&[("a", 1.5), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY)]);
    assert_eq!(read(&body), Ok(expected));
    assert_eq!(read(&[&[kind::ZSET, 1][..], b"\x01a\xfd"].concat()), Err(RdbError::BadFormat));
    let not_a_number = [&[kind::ZSET_2, 1][..], b"\x01a", &f64::NAN.to_le_bytes()].concat();
    assert_eq!(read(&not_a_number), Err(RdbError::BadFormat));
}

#[test]
fn what_occurs_twice_or_out_of_order_is_broken() {
    let twice = string(&listpack(&[b"\x81a", b"\x01", b"\x81a", b"\x02"]));
    let odd = string(&listpack(&[b"\x81a", b"\x01", b"\x81b"]));
    let unordered = string(b"\x02\x00\x00\x00\x02\x00\x00\x00\x02\x00\x01\x00");
    for body in [
        [&[kind::HASH_LISTPACK][..], &twice].concat(),
        [&[kind::ZSET_LISTPACK][..], &twice].concat(),
        [&[kind::HASH_LISTPACK][..], &odd].concat(),
        [&[kind::ZSET_LISTPACK][..], &odd].concat(),
        [&[kind::SET_INTSET][..], &unordered].concat(),
        [&[kind::SET, 2][..], b"\x01a\x01a"].concat(),
        [&[kind::HASH, 2][..], b"\x01a\x011\x01a\x012"].concat(),
        [&[kind::ZSET_2, 2][..], b"\x01a", &[0; 8], b"\x01a", &[0; 8]].concat(),
    ] {
        assert_eq!(read(&body), Err(RdbError::BadFormat), "{body:?}");
    }
}

#[test]
fn nothing_is_no_aggregate() {
    for body in
        [&[kind::LIST, 0][..], &[kind::SET, 0], &[kind::ZSET_2, 0], &[kind::HASH, 0], &[], &[255], &[15]]
    {
        assert_eq!(read(body), Err(RdbError::BadFormat), "{body:?}");
    }
    assert_eq!(read(&[kind::STRING, 0]), Ok(Value::Str(Vec::new())));
}

#[test]
fn a_footer_is_judged_before_the_value() {
    let mut payload = sealed(b"\x00\x01v");
    assert_eq!(restore(&payload[..9], ROOM), Err(RdbError::WrongFooter));
    payload[1] = 2;
    assert_eq!(restore(&payload, ROOM), Err(RdbError::WrongFooter));
    let mut newer = b"\x00\x01v\x0b\x00".to_vec();
    newer.extend_from_slice(&crc64::of(&newer).to_le_bytes());
    assert_eq!(restore(&newer, ROOM), Err(RdbError::WrongFooter));
}

#[test]
fn a_count_or_length_that_the_bytes_cannot_hold_is_broken() {
    let most = [read::LENGTH_64, 255, 255, 255, 255, 255, 255, 255, 255];
    for kind in 1..=20 {
        assert!(read(&[&[kind][..], &most].concat()).is_err(), "{kind}");
        assert!(read(&[&[kind, 1][..], &most].concat()).is_err(), "{kind}");
        let compressed = [&[kind, 0xc3, 1][..], &most, b"\x00"].concat();
        assert!(read(&compressed).is_err(), "{kind}");
    }
    assert!(read(&[&[kind::LIST_QUICKLIST_2, 1, 2][..], &most].concat()).is_err());
}

/// Nests all the ways in which little becomes much: a quicklist of listpacks of small numbers, each compressed.
#[test]
fn what_expands_ends_where_the_room_does() {
    let zeros = vec![b"\x00".as_slice(); 60_000];
    let pack = listpack(&zeros);
    // Head, a literal of two bytes, and copies of them.
    let body = pack.len() - 7;
    let mut compressed = vec![5];
    compressed.extend_from_slice(&pack[..6]);
    compressed.extend_from_slice(b"\x01\x00\x01");
    let mut left = body - 2;
    while left >= 264 {
        compressed.extend_from_slice(b"\xe0\xff\x01");
        left -= 264;
    }
    compressed.extend(std::iter::once(left as u8 - 1).filter(|_| left > 0 && left <= 32));
    let rest: Vec<u8> = (0..left).map(|at| (at % 2) as u8).collect();
    if left > 32 {
        for chunk in rest.chunks(32) {
            compressed.push(chunk.len() as u8 - 1);
            compressed.extend_from_slice(chunk);
        }
    } else {
        compressed.extend_from_slice(&rest);
    }
    compressed.extend_from_slice(b"\x00\xff");
    let mut node = vec![2, 0xc3];
    write_length(compressed.len(), &mut node);
    write_length(pack.len(), &mut node);
    node.extend_from_slice(&compressed);
    let one = [&[kind::LIST_QUICKLIST_2, 1][..], &node].concat();
    let Ok(Value::List(items)) = restore(&sealed(&one), 64 << 20) else { panic!("it is sound") };
    assert_eq!(items.len(), 60_000);
    assert_eq!(restore(&sealed(&one), 1 << 20), Err(RdbError::TooLarge));
    let many = [&[kind::LIST_QUICKLIST_2, 60][..], &node.repeat(60)].concat();
    assert!(many.len() < 100_000, "{}", many.len());
    assert_eq!(restore(&sealed(&many), 64 << 20), Err(RdbError::TooLarge));
}

fn values() -> impl Strategy<Value = Value> {
    let bytes = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            (-40_000..40_000_i64).prop_map(|number| number.to_string().into_bytes()),
            Just(b"-0".to_vec()),
            Just(b"007".to_vec()),
        ]
    };
    let many = 1..80_usize;
    prop_oneof![
        bytes().prop_map(Value::Str),
        prop::collection::vec((bytes(), bytes()), many.clone())
            .prop_map(|pairs| Value::Hash(pairs.into_iter().collect())),
        prop::collection::vec(bytes(), many.clone()).prop_map(|items| Value::List(items.into())),
        prop::collection::vec(bytes(), many.clone())
            .prop_map(|members| Value::Set(members.into_iter().collect())),
        prop::collection::vec((bytes(), -1e300..1e300_f64), many).prop_map(|pairs| {
            let mut members = crate::zset::ZSet::default();
            for (member, score) in pairs {
                members.insert(&member, score).expect("the range has no NaN");
            }
            Value::ZSet(members)
        }),
    ]
}

proptest! {
    #[test]
    fn values_survive_the_round_trip(value in values()) {
        let mut payload = Vec::new();
        dump(&value, &mut payload);
        prop_assert_eq!(restore(&payload, ROOM), Ok(value));
    }

    #[test]
    fn whatever_is_changed_in_a_payload_is_noticed(value in values(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut payload = Vec::new();
        dump(&value, &mut payload);
        let at = at.index(payload.len());
        payload[at] ^= 1_u8 << bit;
        prop_assert_eq!(restore(&payload, ROOM), Err(RdbError::WrongFooter));
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_exceed_its_room(
        kind in 0..20_u8,
        packs in any::<bool>(),
        mut bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..4_u8, Just(0xff)], 0..120),
        room in 0..4000_usize,
    ) {
        if packs && bytes.len() > 16 {
            // Totals that fit get further.
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes = string(&bytes);
        }
        let payload = sealed(&[&[kind][..], &bytes].concat());
        if let Ok(value) = restore(&payload, room) {
            prop_assert!(crate::embedded::weight(b"", &crate::slot::Entry::new(value.clone())) <= 8 * room + 400);
            let mut again = Vec::new();
            dump(&value, &mut again);
            prop_assert_eq!(restore(&again, ROOM), Ok(value));
        }
    }
}
