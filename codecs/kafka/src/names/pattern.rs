//! Regular expressions over topics.

/// An expression that matches what `pattern` matches with `prefix` before it. `None` for one that might match something
/// else than it seems: it is refused.
///
/// Brokers match a whole name, in RE2's syntax. A `)` that closes nothing in the pattern would close what is put around
/// it, and what follows would match everybody's topics. So brackets and classes are counted, and what makes that
/// uncertain is not taken: quoting by `\Q`, classes within classes, classes that begin with `]`.
#[must_use]
pub fn pattern(prefix: &str, pattern: &str) -> Option<String> {
    let (mut depth, mut in_class) = (0u32, false);
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' if chars.next().is_none_or(|escaped| matches!(escaped, 'Q' | 'E')) => return None,
            '\\' => {}
            '[' if in_class => return None,
            '[' => {
                in_class = true;
                chars.next_if_eq(&'^');
                if chars.peek() == Some(&']') {
                    return None;
                }
            }
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.checked_sub(1)?,
            // With this flag a # and what follows it is no part of the expression, our own bracket included.
            '#' => return None,
            _ => {}
        }
    }
    if depth > 0 || in_class {
        return None;
    }
    Some(format!("{}{pattern})", before(prefix)))
}

/// The pattern that [`pattern`] put a prefix before; `None` if it is not one of those.
#[must_use]
pub fn own_pattern<'p>(prefix: &str, whole: &'p str) -> Option<&'p str> {
    whole.strip_prefix(&before(prefix))?.strip_suffix(')')
}

/// The prefix as an expression that matches nothing else, and the beginning of a group.
fn before(prefix: &str) -> String {
    let mut before = String::with_capacity(prefix.len() * 2 + 3);
    for char in prefix.chars() {
        // Other than letters and digits, what is escaped is itself.
        if char.is_ascii() && !char.is_ascii_alphanumeric() {
            before.push('\\');
        }
        before.push(char);
    }
    before.push_str("(?:");
    before
}

#[cfg(test)]
mod tests {
    use super::{own_pattern, pattern};

    #[test]
    fn a_pattern_stays_behind_its_prefix() {
        assert_eq!(pattern("a.b-", "x|y.*").as_deref(), Some("a\\.b\\-(?:x|y.*)"));
        assert_eq!(pattern("t", "([a-c(]\\)|z)+").as_deref(), Some("t(?:([a-c(]\\)|z)+)"));
    }

    #[test]
    fn a_pattern_comes_back_as_it_went() {
        let whole = pattern("a.b-", "x|y.*").unwrap();
        assert_eq!(own_pattern("a.b-", &whole), Some("x|y.*"));
        assert_eq!(own_pattern("a.c-", &whole), None);
    }

    #[test]
    fn a_pattern_that_may_reach_further_is_refused() {
        for wrong in [
            "x)|(.*",
            "x)|.*",
            "[(]x)|.*",
            "(",
            "[a",
            "\\",
            "\\Qx\\E",
            "[]x)|.*",
            "[^])|.*",
            "[[:alpha:])|.*]",
            "x#",
        ] {
            assert_eq!(pattern("t", wrong), None, "{wrong}");
        }
    }
}
