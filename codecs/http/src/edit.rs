//! What a route changes in messages.

use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::routes::Complaint;

/// Fields that mecha writes itself, and by which messages are read.
const OURS: [&str; 6] = ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];

/// Changes of fields, in this order: gone, replaced, added.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// Understands what the configuration says; `key` is where.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn new(
        key: &'static str,
        set: &[(String, String)],
        add: &[(String, String)],
        remove: &[String],
    ) -> Result<Self, Vec<Complaint>> {
        let mut complaints: Vec<Complaint> = Vec::new();
        let mut edits = Self::default();
        let name = |text: &str| {
            let name = HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes());
            let name = name.map_err(|_| (key, format!("`{text}` is no name of a field"), None))?;
            if OURS.contains(&name.as_str()) {
                let hint = (name == "host").then(|| "`rewrite: { host: … }` changes the host".to_string());
                return Err((key, format!("`{text}` is not for routes to change"), hint));
            }
            Ok(name)
        };
        let pair = |(text, value): &(String, String)| {
            let value = HeaderValue::from_str(value);
            let value = value
                .map_err(|_| (key, format!("the value of `{text}` has bytes that no field may have"), None));
            Ok((name(text)?, value?))
        };
        for (from, to) in [(set, &mut edits.set), (add, &mut edits.add)] {
            for each in from {
                match pair(each) {
                    Ok(known) => to.push(known),
                    Err(complaint) => complaints.push(complaint),
                }
            }
        }
        for text in remove {
            match name(text) {
                Ok(known) => edits.remove.push(known),
                Err(complaint) => complaints.push(complaint),
            }
        }
        if complaints.is_empty() { Ok(edits) } else { Err(complaints) }
    }

    /// Changes `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// The target of `uri` with another path; its query stays. `None` if the two make no path.
pub fn with_path(uri: &Uri, path: &str) -> Option<PathAndQuery> {
    match uri.query() {
        None => PathAndQuery::try_from(path).ok(),
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
    }
}

/// `path` with `prefix` in place of its first `matched` bytes, and one slash between the two.
pub fn with_prefix(path: &str, matched: usize, prefix: &str) -> String {
    let rest = path.get(matched..).unwrap_or_default().trim_start_matches('/');
    let prefix = prefix.trim_end_matches('/');
    match rest {
        "" if prefix.is_empty() => "/".into(),
        "" => prefix.into(),
        rest => format!("{prefix}/{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn fields_go_then_are_replaced_then_added() {
        let edits =
            Edits::new("request", &[pair("A", "1")], &[pair("b", "2")], &["a".into(), "C".into()]).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "0"), ("b", "0"), ("c", "0")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut headers);
        assert_eq!(headers["a"], "1");
        assert_eq!(headers.get_all("b").iter().count(), 2);
        assert!(!headers.contains_key("c"));
    }

    #[test]
    fn what_messages_are_read_by_cannot_be_edited() {
        let set = [pair("Content-Length", "1"), pair("host", "a"), pair("a b", "c"), pair("x", "a\nb")];
        assert_eq!(Edits::new("request", &set, &[], &[]).unwrap_err().len(), 4);
    }

    #[test]
    fn a_prefix_is_replaced_with_one_slash_between() {
        for (path, matched, prefix, expected) in [
            ("/api/x", 4, "/", "/x"),
            ("/api", 4, "/", "/"),
            ("/api/x/y", 4, "/v2/", "/v2/x/y"),
            ("/x", 0, "/v2", "/v2/x"),
            ("/api", 4, "/v2", "/v2"),
        ] {
            assert_eq!(with_prefix(path, matched, prefix), expected, "{path}");
        }
        let uri = Uri::from_static("/a?b=c");
        assert_eq!(with_path(&uri, "/d").unwrap(), "/d?b=c");
    }
}
