//! Replies that name keys, and how to take a prefix off the names.

use mecha_resp::reply::write_int;

/// Where the names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameShape {
    /// Every element of an array: `KEYS`.
    Elements,
    /// The first element of an array, if there is one: `BLPOP`, `LMPOP`.
    FirstElement,
    /// Every other element of an array: `PUBSUB NUMSUB`.
    OddElements,
    /// The first element of each pair, or each key of a map: `XREAD`.
    PairsNames,
    /// The second element, if that is a name: confirmations of subscriptions.
    SecondElement,
    /// Every element of the second element: `SCAN`.
    SecondElementsElements,
}

/// Appends `frame` without the prefix. `false` if it has another form than expected (null, an error), and so no names.
pub(super) fn strip(frame: &[u8], shape: NameShape, prefix: &[u8], out: &mut Vec<u8>) -> bool {
    strip_with(frame, shape, prefix.len(), &|name| name.starts_with(prefix).then_some(0), out)
}

/// As [`strip`], of names where `len` bytes are cut out at a place that `cut` tells.
pub(super) fn strip_with(
    frame: &[u8],
    shape: NameShape,
    len: usize,
    cut: &dyn Fn(&[u8]) -> Option<usize>,
    out: &mut Vec<u8>,
) -> bool {
    let mut stripper = Stripper { frame, at: 0, copied: 0, len, cut, out };
    let done = match shape {
        NameShape::Elements => stripper.elements(),
        NameShape::FirstElement => {
            stripper.aggregate(b"*").filter(|count| *count > 0).and_then(|_| stripper.name())
        }
        NameShape::OddElements => {
            let count = stripper.aggregate(b"*");
            count.and_then(|count| {
                (0..count / 2).try_for_each(|_| stripper.name().and_then(|()| stripper.skip()))
            })
        }
        NameShape::PairsNames => stripper.pairs(),
        NameShape::SecondElement => stripper
            .aggregate(b"*>")
            .filter(|count| *count >= 2)
            .and_then(|_| stripper.skip())
            .and_then(|()| stripper.name()),
        NameShape::SecondElementsElements => stripper
            .aggregate(b"*")
            .filter(|count| *count == 2)
            .and_then(|_| stripper.skip())
            .and_then(|()| stripper.elements()),
    };
    let is_done = done.is_some();
    if is_done {
        stripper.finish();
    }
    is_done
}

struct Stripper<'a> {
    frame: &'a [u8],
    at: usize,
    /// Everything before this is in `out`.
    copied: usize,
    /// How much of a name goes, and where.
    len: usize,
    cut: &'a dyn Fn(&[u8]) -> Option<usize>,
    out: &'a mut Vec<u8>,
}

impl Stripper<'_> {
    /// A header line: its type and number.
    fn header(&mut self) -> Option<(u8, i64)> {
        let rest = self.frame.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\r')?;
        let number = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok();
        self.at += end + 2;
        Some((*rest.first()?, number.unwrap_or(-1)))
    }

    fn aggregate(&mut self, kinds: &[u8]) -> Option<i64> {
        let (kind, count) = self.header()?;
        kinds.contains(&kind).then_some(count)
    }

    fn elements(&mut self) -> Option<()> {
        let count = self.aggregate(b"*~")?;
        (0..count).try_for_each(|_| self.name())
    }

    fn pairs(&mut self) -> Option<()> {
        let (kind, count) = self.header()?;
        match kind {
            b'%' => (0..count).try_for_each(|_| self.name().and_then(|()| self.skip())),
            b'*' => (0..count).try_for_each(|_| {
                self.aggregate(b"*").filter(|count| *count == 2)?;
                self.name()?;
                self.skip()
            }),
            _ => None,
        }
    }

    /// A bulk string that is a key: loses the prefix if it has it.
    fn name(&mut self) -> Option<()> {
        let start = self.at;
        let (kind, length) = self.header()?;
        let length = usize::try_from(length).ok().filter(|_| kind == b'$')?;
        let name = self.frame.get(self.at..self.at + length)?;
        if let Some(at) = (self.cut)(name) {
            self.out.extend_from_slice(self.frame.get(self.copied..start)?);
            self.out.push(b'$');
            write_int(length.checked_sub(self.len)? as i64, self.out);
            self.out.extend_from_slice(b"\r\n");
            self.out.extend_from_slice(name.get(..at)?);
            self.copied = self.at + at + self.len;
        }
        self.at += length + 2;
        Some(())
    }

    /// Any element, with all that is in it. Counts instead of recursing.
    fn skip(&mut self) -> Option<()> {
        let mut left = 1i64;
        while left > 0 {
            let (kind, number) = self.header()?;
            left -= 1;
            match kind {
                b'$' | b'=' | b'!' if number >= 0 => self.at += number as usize + 2,
                b'*' | b'~' | b'>' if number > 0 => left = left.checked_add(number)?,
                b'%' if number > 0 => left = left.checked_add(number.checked_mul(2)?)?,
                b'|' => left = left.checked_add(number.max(0).checked_mul(2)?.checked_add(1)?)?,
                _ => {}
            }
            if self.at > self.frame.len() {
                return None;
            }
        }
        Some(())
    }

    fn finish(&mut self) {
        self.out.extend_from_slice(self.frame.get(self.copied..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPES: [NameShape; 6] = [
        NameShape::Elements,
        NameShape::FirstElement,
        NameShape::OddElements,
        NameShape::PairsNames,
        NameShape::SecondElement,
        NameShape::SecondElementsElements,
    ];

    fn check(frame: &str, shape: NameShape, expected: Option<&str>) {
        let mut out = Vec::new();
        let stripped =
            strip(frame.as_bytes(), shape, b"p:", &mut out).then(|| String::from_utf8(out).unwrap());
        assert_eq!(stripped.as_deref(), expected, "{frame:?}");
    }

    #[test]
    fn names_lose_the_prefix_and_values_keep_theirs() {
        check(
            "*2\r\n$3\r\np:a\r\n$3\r\nx:b\r\n",
            NameShape::Elements,
            Some("*2\r\n$1\r\na\r\n$3\r\nx:b\r\n"),
        );
        check(
            "*2\r\n$3\r\np:a\r\n$3\r\np:v\r\n",
            NameShape::FirstElement,
            Some("*2\r\n$1\r\na\r\n$3\r\np:v\r\n"),
        );
        check("*-1\r\n", NameShape::FirstElement, None);
        check("_\r\n", NameShape::FirstElement, None);
        check("-ERR x\r\n", NameShape::Elements, None);
        check(
            "*2\r\n$1\r\n0\r\n*1\r\n$3\r\np:a\r\n",
            NameShape::SecondElementsElements,
            Some("*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n"),
        );
        let entry = "*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$3\r\np:f\r\n$3\r\np:v\r\n";
        check(
            &format!("*1\r\n*2\r\n$3\r\np:s\r\n{entry}"),
            NameShape::PairsNames,
            Some(&format!("*1\r\n*2\r\n$1\r\ns\r\n{entry}")),
        );
        check(
            &format!("%1\r\n$3\r\np:s\r\n{entry}"),
            NameShape::PairsNames,
            Some(&format!("%1\r\n$1\r\ns\r\n{entry}")),
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), shape in 0..6usize) {
            strip(&bytes, SHAPES[shape], b"p:", &mut Vec::new());
        }
    }
}
