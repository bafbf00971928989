//! Redis' patterns: `*`, `?`, `[a-c^x]` and `\`, over bytes.

/// Whether the whole of `text` matches. Time is at most proportional to both lengths multiplied.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Behind the last star, and where it would have to swallow one byte more.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                pattern = rest;
                retry = Some((rest, text));
                continue;
            }
            ([], []) => return true,
            (_, [byte, tail @ ..]) => {
                if let Some(rest) = one(pattern, *byte) {
                    (pattern, text) = (rest, tail);
                    continue;
                }
            }
            _ => {}
        }
        let Some((behind, [_, tail @ ..])) = retry else { return false };
        retry = Some((behind, tail));
        (pattern, text) = (behind, tail);
    }
}

/// What is left of the pattern if its first item matches this byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// The inside of brackets; a class that is not closed ends with the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut left) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut hit = false;
    loop {
        left = match left {
            [b'\\', literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
            [b']', rest @ ..] => return (hit != negated).then_some(rest),
            [] => return (hit != negated).then_some(left),
            [low, b'-', high, rest @ ..] => {
                hit |= (*low.min(high)..=*low.max(high)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_a_server_matches_them() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a*c*", "abcbd", true),
            ("*a*b", "aab", true),
            ("*ab", "aac", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a]", "a", false),
            ("[a", "a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[\\]]", "]", true),
            ("a\\", "a\\", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_long() {
        assert!(!matches("a*".repeat(200).as_bytes(), &[b'a'; 199]));
        assert!(!matches(format!("{}b", "*a".repeat(50)).as_bytes(), &[b'a'; 5000]));
    }
}
