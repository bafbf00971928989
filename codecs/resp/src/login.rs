//! Logins in requests.

use mecha_core::OpId;

use crate::args;
use crate::ops::op;

/// The user, if one is named, and the password that `frame` (`AUTH`, `HELLO`) logs in with; `None` if it does not, or not in
/// text.
pub fn credentials(op: OpId, frame: &[u8]) -> Option<(Option<&str>, &str)> {
    let mut words = args(frame).skip(1);
    if op == op::HELLO {
        words.find(|word| word.eq_ignore_ascii_case(b"AUTH"))?;
        let (user, password) = (words.next()?, words.next()?);
        return Some((Some(std::str::from_utf8(user).ok()?), std::str::from_utf8(password).ok()?));
    }
    let first = std::str::from_utf8(words.next()?).ok()?;
    match words.next() {
        None => Some((None, first)),
        Some(password) => Some((Some(first), std::str::from_utf8(password).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(op: OpId, line: &str) -> Option<(Option<String>, String)> {
        let mut frame = Vec::new();
        crate::inline_to_array(line.as_bytes(), &mut frame).unwrap();
        credentials(op, &frame).map(|(user, password)| (user.map(Into::into), password.into()))
    }

    #[test]
    fn logins_are_found_where_they_stand() {
        let both = Some((Some("u".to_string()), "p".to_string()));
        assert_eq!(of(op::AUTH, "AUTH p\r\n"), Some((None, "p".into())));
        assert_eq!(of(op::AUTH, "AUTH u p\r\n"), both);
        assert_eq!(of(op::HELLO, "HELLO 3 SETNAME x auth u p\r\n"), both);
        assert_eq!(of(op::HELLO, "HELLO 3 AUTH u\r\n"), None);
        assert_eq!(of(op::HELLO, "HELLO 3\r\n"), None);
        assert_eq!(of(op::AUTH, "AUTH\r\n"), None);
    }
}
