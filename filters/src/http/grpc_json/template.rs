//! Templates of paths, as `google.api.http` has them: `/v1/{name=shelves/*/books/*}:move`.

/// A path with variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    variables: Vec<Variable>,
    /// What stands behind the last colon.
    verb: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`: any one.
    One,
    /// `**`: all that follow, or none.
    Rest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    /// The field that it sets, with dots.
    field: String,
    /// The segments that it is made of.
    start: usize,
    end: usize,
}

/// The fields that a path sets, with their values.
pub(super) type Bound<'t> = Vec<(&'t str, String)>;

impl Template {
    /// Understands a template. `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('/')?;
        let (mut segments, mut variables) = (Vec::new(), Vec::new());
        let mut verb = None;
        loop {
            if let Some(inner) = rest.strip_prefix('{') {
                let (inner, after) = inner.split_once('}')?;
                let (field, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
                let is_name = |part: &str| {
                    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                };
                if !field.split('.').all(is_name) {
                    return None;
                }
                let start = segments.len();
                for part in pattern.split('/') {
                    segments.push(Segment::parse(part)?);
                }
                variables.push(Variable { field: field.into(), start, end: segments.len() });
                rest = after;
            } else {
                let end = rest.find(['/', ':']).unwrap_or(rest.len());
                let (part, after) = rest.split_at(end);
                segments.push(Segment::parse(part)?);
                rest = after;
            }
            if let Some(next) = rest.strip_prefix('/') {
                rest = next;
            } else if let Some(name) = rest.strip_prefix(':') {
                verb = Some(name).filter(|name| !name.is_empty() && !name.contains(['/', ':', '{']));
                verb?;
                break;
            } else if rest.is_empty() {
                break;
            } else {
                return None;
            }
        }
        let rests = segments.iter().filter(|segment| **segment == Segment::Rest).count();
        let is_last = rests == 0 || rests == 1 && segments.last() == Some(&Segment::Rest);
        is_last.then(|| Self { segments, variables, verb: verb.map(Into::into) })
    }

    /// The order in which templates are tried: those that say more come first.
    pub(super) fn rank(&self) -> (bool, bool, usize) {
        let literals = self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count();
        (self.verb.is_none(), self.segments.contains(&Segment::Rest), usize::MAX - literals)
    }

    /// The names of all fields that it sets.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|variable| variable.field.as_str())
    }

    /// What `path` sets, if it fits.
    pub(super) fn bind(&self, path: &str) -> Option<Bound<'_>> {
        let mut path = path.strip_prefix('/')?;
        if let Some(verb) = &self.verb {
            path = path.strip_suffix(verb.as_str())?.strip_suffix(':')?;
        }
        let parts: Vec<_> = path.split('/').collect();
        let mut spans = Vec::with_capacity(self.segments.len());
        let mut at = 0;
        for segment in &self.segments {
            let start = at;
            match segment {
                Segment::Literal(literal) => {
                    parts.get(at).filter(|part| decoded(part, false).as_ref() == Some(literal))?;
                    at += 1;
                }
                Segment::One => {
                    parts.get(at).filter(|part| !part.is_empty())?;
                    at += 1;
                }
                Segment::Rest => at = parts.len(),
            }
            spans.push((start, at));
        }
        if at != parts.len() {
            return None;
        }
        let bound = self.variables.iter().map(|variable| {
            let start = spans.get(variable.start)?.0;
            let end = spans.get(variable.end.checked_sub(1)?)?.1;
            let pieces = parts.get(start..end)?;
            // A slash that was written otherwise is no part of the path where several segments are one value.
            let is_one = variable.end - variable.start == 1
                && self.segments.get(variable.start) != Some(&Segment::Rest);
            Some((variable.field.as_str(), decoded(&pieces.join("/"), !is_one)?))
        });
        bound.collect()
    }
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::One),
            "**" => Some(Self::Rest),
            "" => None,
            _ if text.contains(['*', '{', '}', '=']) => None,
            _ => Some(Self::Literal(text.into())),
        }
    }
}

/// Text without percent-encoding (RFC 3986, section 2.1), but for slashes if they are to stay apart. `None` if it is no text then.
pub(super) fn decoded(text: &str, keeps_slashes: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).map(|digit| digit as u8);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        match high << 4 | low {
            b'/' if keeps_slashes => out.extend(b"%2F"),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bound(template: &str, path: &str) -> Option<String> {
        let template = Template::parse(template).unwrap();
        let bound = template.bind(path)?;
        Some(bound.iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn paths_set_fields() {
        for (template, path, expected) in [
            ("/v1/{name=shelves/*/books/*}", "/v1/shelves/1/books/2", Some("name=shelves/1/books/2")),
            ("/v1/{name=shelves/*/books/*}", "/v1/shelves/1/books", None),
            ("/v1/{name=shelves/*/books/*}", "/v1/shelves/1/books/2/3", None),
            ("/v1/{a.b}/{c}", "/v1/x%20y/z%2Fz", Some("a.b=x y c=z/z")),
            ("/v1/{name=**}", "/v1/a/b%2Fc", Some("name=a/b%2Fc")),
            ("/v1/{name=**}", "/v1", Some("name=")),
            ("/v1/{name}:move", "/v1/a:move", Some("name=a")),
            ("/v1/{name}:move", "/v1/a", None),
            ("/v1/{name}", "/v1/a:b", Some("name=a:b")),
            ("/v1/*/x", "/v1/y/x", Some("")),
            ("/v1/{name}", "/v1/", None),
            ("/v1/{name}", "/v1/%ff", None),
            ("/v1", "/v1", Some("")),
            ("/v1", "/v2", None),
        ] {
            assert_eq!(bound(template, path).as_deref(), expected, "{template} {path}");
        }
        for text in [
            "",
            "v1",
            "/v1/{",
            "/v1/{}",
            "/v1/{a=}",
            "/v1/**/x",
            "/v1//x",
            "/v1/a*",
            "/v1:",
            "/v1/{a=x/**}/**",
            "/{a-b}",
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }

    #[test]
    fn templates_that_say_more_come_first() {
        let mut all = ["/v1/{a=**}", "/v1/{a}", "/v1/x", "/v1/{a}:do", "/v1/{a}/y"];
        all.sort_by_key(|text| Template::parse(text).unwrap().rank());
        assert_eq!(all, ["/v1/{a}:do", "/v1/x", "/v1/{a}/y", "/v1/{a}", "/v1/{a=**}"]);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/?[a-z/:%{}*=0-9]{0,20}", template in "/[a-z/:{}*=.]{0,20}") {
            if let Some(template) = Template::parse(&template) {
                let _ = template.bind(&path);
            }
        }
    }
}
