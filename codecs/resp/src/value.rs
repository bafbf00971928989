//! A reply as a tree, for the control side: topology answers, a sentinel's, a server's command list.
//!
//! Nothing on the data path builds trees. What a hostile server can make this do is bounded by the bytes that it sent:
//! declared counts reserve nothing, and the depth is limited.

use crate::args::decimal;

/// The deepest nesting that is understood.
const MAX_DEPTH: usize = 8;

/// One value. RESP2's types, and those of RESP3 that say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Arrays, sets and pushes; maps as alternating keys and values.
    Array(Vec<Value>),
    /// An error's text.
    Error(Vec<u8>),
    /// An integer or boolean.
    Int(i64),
    /// No value.
    Null,
    /// Simple and bulk strings, doubles.
    Text(Vec<u8>),
}

impl Value {
    /// Reads the value at the front of `frame`. `None` if it is damaged, incomplete, or of a type that no answer to the
    /// control side has.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        parse(&mut { frame }, 0)
    }

    /// The elements of an array; none of anything else.
    pub fn items(&self) -> &[Self] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    /// Text, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { std::str::from_utf8(text).ok() } else { None }
    }

    /// An integer, or the text of one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Text(text) => decimal(text),
            _ => None,
        }
    }

    /// The value behind `key` in a map, or in an array of alternating keys and values.
    pub fn field(&self, key: &str) -> Option<&Self> {
        let is_it = |pair: &&[Self]| pair.first().and_then(Self::text) == Some(key);
        self.items().chunks_exact(2).find(is_it).and_then(|pair| pair.get(1))
    }
}

fn line<'w>(rest: &mut &'w [u8]) -> Option<&'w [u8]> {
    let end = memchr::memchr(b'\r', rest)?;
    let line = rest.get(..end)?;
    *rest = rest.get(end + 2..)?;
    Some(line)
}

fn parse(rest: &mut &[u8], depth: usize) -> Option<Value> {
    let (kind, behind) = rest.split_first()?;
    *rest = behind;
    let head = line(rest)?;
    Some(match kind {
        b'+' | b',' => Value::Text(head.to_vec()),
        b'-' => Value::Error(head.to_vec()),
        b':' => Value::Int(decimal(head)?),
        b'#' => Value::Int(i64::from(head == b"t")),
        b'_' => Value::Null,
        b'$' | b'=' => {
            let length = decimal(head)?;
            if length < 0 {
                return Some(Value::Null);
            }
            let length = usize::try_from(length).ok()?;
            let text = rest.get(..length)?;
            *rest = rest.get(length.checked_add(2)?..)?;
            Value::Text(text.to_vec())
        }
        b'*' | b'~' | b'>' | b'%' => {
            let count = decimal(head)?;
            if count < 0 {
                return Some(Value::Null);
            }
            if depth == MAX_DEPTH {
                return None;
            }
            let count = if *kind == b'%' { count.checked_mul(2)? } else { count };
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(parse(rest, depth + 1)?);
            }
            Value::Array(items)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tree_is_read_in_both_versions() {
        let two = Value::parse(b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n$-1\r\n").unwrap();
        let three = Value::parse(b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n*1\r\n_\r\n").unwrap();
        assert_eq!(two, three);
        assert_eq!(two.field("a").and_then(Value::int), Some(1));
        assert_eq!(two.field("b").map(Value::items), Some([Value::Null].as_slice()));
        assert_eq!(two.field("c"), None);
    }

    #[test]
    fn declared_sizes_reserve_nothing_and_depth_ends() {
        assert_eq!(Value::parse(b"*999999999999\r\n"), None);
        assert_eq!(Value::parse(b"%9223372036854775807\r\n"), None);
        assert_eq!(Value::parse(b"$9223372036854775807\r\n"), None);
        assert_eq!(Value::parse(&b"*1\r\n".repeat(100_000)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'%'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'-'), any::<u8>()
        ], 0..80)) {
            let _ = Value::parse(&bytes);
        }
    }
}
