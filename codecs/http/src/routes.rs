//! Which requests a route takes.
//!
//! Conditions are compiled once, and looked at in the order of their cost. Nothing is allocated for a request.

use http::header::{HOST, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, Uri};
use regex::Regex;

/// What a route demands. An empty list demands nothing; of a list, one must hold.
#[derive(Debug, Default)]
pub struct Conditions {
    hosts: Vec<Host>,
    paths: Vec<Path>,
    methods: Vec<Method>,
    fields: Vec<(HeaderName, Value)>,
    query: Vec<(String, Value)>,
}

/// What the configuration says, as text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// Hosts, or `*.` and the end of one.
    pub hosts: &'a [String],
    /// Whole paths, with `{name}` for a segment and `{*rest}` for all that follows.
    pub paths: &'a [String],
    /// Beginnings of paths, by whole segments.
    pub prefixes: &'a [String],
    /// Regular expressions that the whole path matches.
    pub regexes: &'a [String],
    /// gRPC services, or `service/method`.
    pub grpc: &'a [String],
    /// Methods.
    pub methods: &'a [String],
    /// Fields and their values.
    pub headers: &'a [(String, String)],
    /// Parameters of the query and their values.
    pub query: &'a [(String, String)],
}

/// What is wrong with a condition: its key, a message, a hint.
pub type Complaint = (&'static str, String, Option<String>);

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Exact(String),
    /// With the dot.
    Under(String),
}

#[derive(Debug)]
enum Path {
    Exact(String),
    /// Without a slash at its end.
    Prefix(String),
    Regex(Regex),
    Template(Vec<Segment>),
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Rest,
    Text(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Any,
    Begins(String),
    Ends(String),
    Exact(String),
}

/// What of a path has matched, for those who replace it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Bytes of the path, where a prefix has matched.
    pub prefix: usize,
}

// === impl Conditions ===

impl Conditions {
    /// Understands what the configuration says.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn new(texts: Texts<'_>) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let mut conditions = Self::default();
        for host in texts.hosts {
            conditions.hosts.extend(kept(&mut complaints, host_of(host)));
        }
        for path in texts.paths {
            conditions.paths.extend(kept(&mut complaints, path_of(path)));
        }
        for prefix in texts.prefixes {
            conditions.paths.extend(kept(&mut complaints, prefix_of(prefix)));
        }
        for regex in texts.regexes {
            let whole = Regex::new(&format!("^(?:{regex})$"));
            let told = whole.map(Path::Regex).map_err(|error| {
                (
                    "regex",
                    format!("`{regex}` is no regular expression: {}", last_line(&error.to_string())),
                    None,
                )
            });
            conditions.paths.extend(kept(&mut complaints, told));
        }
        for name in texts.grpc {
            conditions.paths.extend(kept(&mut complaints, grpc_of(name)));
        }
        for method in texts.methods {
            let known = Method::from_bytes(method.as_bytes());
            let hint = Some("methods are written as in `GET`".to_string());
            let told = match known {
                Ok(known) if method.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                    Err(("method", format!("`{known}` is in lower case, and no client sends that"), hint))
                }
                Ok(known) => Ok(known),
                Err(_) => Err(("method", format!("`{method}` is no method"), hint)),
            };
            conditions.methods.extend(kept(&mut complaints, told));
        }
        for (name, value) in texts.headers {
            let known = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
            let told = known.map_err(|_| ("headers", format!("`{name}` is no name of a field"), None));
            let known = kept(&mut complaints, told);
            conditions.fields.extend(known.map(|name| (name, value_of(value))));
        }
        conditions.query = texts.query.iter().map(|(name, value)| (name.clone(), value_of(value))).collect();
        if complaints.is_empty() { Ok(conditions) } else { Err(complaints) }
    }

    /// Whether they hold for the request with this head.
    pub fn hold(&self, head: &Parts) -> Option<Matched> {
        if !self.methods.is_empty() && !self.methods.contains(&head.method) {
            return None;
        }
        let path = head.uri.path();
        let matched = if self.paths.is_empty() {
            Matched::default()
        } else {
            self.paths.iter().find_map(|wanted| wanted.holds(path))?
        };
        if !self.hosts.is_empty() {
            let host = host_in(&head.uri, &head.headers);
            if !self.hosts.iter().any(|wanted| wanted.holds(host)) {
                return None;
            }
        }
        let has_field = |(name, value): &(HeaderName, Value)| {
            head.headers.get_all(name).iter().any(|given| value.holds(given.as_bytes()))
        };
        let query = head.uri.query().unwrap_or_default();
        let has_parameter = |(name, value): &(String, Value)| {
            query.split('&').any(|pair| {
                let (given, is) = pair.split_once('=').unwrap_or((pair, ""));
                given == name && value.holds(is.as_bytes())
            })
        };
        (self.fields.iter().all(has_field) && self.query.iter().all(has_parameter)).then_some(matched)
    }
}

fn kept<T>(complaints: &mut Vec<Complaint>, told: Result<T, Complaint>) -> Option<T> {
    told.map_err(|complaint| complaints.push(complaint)).ok()
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or_default().trim_start_matches("error: ")
}

/// Whom a request is for, without a port.
pub fn host_in<'h>(uri: &'h Uri, headers: &'h HeaderMap) -> &'h str {
    let given = || headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(|authority| authority.as_str()).or_else(given).unwrap_or_default();
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.split_at(colon).0,
        _ => host,
    }
}

fn host_of(text: &str) -> Result<Host, Complaint> {
    let lower = text.to_ascii_lowercase();
    let rest = lower.strip_prefix('*').unwrap_or(&lower);
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if rest.is_empty() || !rest.bytes().all(is_fine) || (rest.contains(':') && !rest.ends_with(']')) {
        let hint = Some("as in `example.com` or `*.example.com`, without a port".to_string());
        return Err(("host", format!("`{text}` is no host"), hint));
    }
    match lower.strip_prefix('*') {
        None => Ok(Host::Exact(lower)),
        Some(end) if end.starts_with('.') => Ok(Host::Under(end.to_string())),
        Some(_) => Err((
            "host",
            format!("`{text}`: a `*` stands for whole labels"),
            Some("as in `*.example.com`".into()),
        )),
    }
}

fn absolute(key: &'static str, text: &str) -> Result<(), Complaint> {
    if text.starts_with('/') && !text.contains(['?', '#', ' ']) {
        return Ok(());
    }
    let hint = Some(format!("as in `{key}: /api`, without a query"));
    Err((key, format!("`{text}` is no path"), hint))
}

fn path_of(text: &str) -> Result<Path, Complaint> {
    absolute("path", text)?;
    if !text.contains(['{', '}']) {
        return Ok(Path::Exact(text.to_string()));
    }
    let segment = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) if name.starts_with('*') => Some(Segment::Rest),
        Some(_) => Some(Segment::Any),
        None => (!part.contains(['{', '}'])).then(|| Segment::Text(part.to_string())),
    };
    let segments: Option<Vec<_>> = text.split('/').skip(1).map(segment).collect();
    let hint = Some(
        "`{name}` stands for a whole segment, and `{*rest}` at the end for all that follows".to_string(),
    );
    let complaint = ("path", format!("`{text}` is no template"), hint);
    let segments = segments.ok_or(complaint.clone())?;
    let rest = segments.iter().position(|segment| *segment == Segment::Rest);
    if rest.is_some_and(|at| at + 1 != segments.len()) {
        Err(complaint)
    } else {
        Ok(Path::Template(segments))
    }
}

fn prefix_of(text: &str) -> Result<Path, Complaint> {
    absolute("prefix", text)?;
    Ok(Path::Prefix(text.strip_suffix('/').unwrap_or(text).to_string()))
}

fn grpc_of(text: &str) -> Result<Path, Complaint> {
    let name = text.trim_start_matches('/');
    match name.split_once('/') {
        _ if name.is_empty() || name.contains([' ', '?', '#']) => Err((
            "grpc",
            format!("`{text}` is no service"),
            Some("as in `shop.Cart` or `shop.Cart/Add`".into()),
        )),
        None => Ok(Path::Prefix(format!("/{name}"))),
        Some(_) => Ok(Path::Exact(format!("/{name}"))),
    }
}

fn value_of(text: &str) -> Value {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        _ if text == "*" => Value::Any,
        (Some(end), None) => Value::Ends(end.to_string()),
        (None, Some(beginning)) => Value::Begins(beginning.to_string()),
        _ => Value::Exact(text.to_string()),
    }
}

impl Host {
    fn holds(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host.eq_ignore_ascii_case(exact),
            Self::Under(end) => {
                let cut = host.len().checked_sub(end.len()).filter(|cut| *cut > 0);
                cut.and_then(|cut| host.get(cut..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
            }
        }
    }
}

impl Path {
    fn holds(&self, path: &str) -> Option<Matched> {
        let plain = |holds: bool| holds.then(Matched::default);
        match self {
            Self::Exact(exact) => plain(path == exact),
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then_some(Matched { prefix: prefix.len() })
            }
            Self::Regex(regex) => plain(regex.is_match(path)),
            Self::Template(segments) => plain(fits(segments, path)),
        }
    }
}

fn fits(segments: &[Segment], path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    for segment in segments {
        match (segment, parts.next()) {
            (Segment::Rest, Some(_)) => return true,
            (Segment::Any, Some(part)) if !part.is_empty() => {}
            (Segment::Text(text), Some(part)) if text == part => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

impl Value {
    fn holds(&self, given: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Begins(text) => given.starts_with(text.as_bytes()),
            Self::Ends(text) => given.ends_with(text.as_bytes()),
            Self::Exact(text) => given == text.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn head(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn get(conditions: &Conditions, path: &str) -> Option<usize> {
        conditions.hold(&head("GET", path, &[])).map(|matched| matched.prefix)
    }

    #[test]
    fn prefixes_are_of_whole_segments() {
        let prefixes = texts(&["/api/", "/v1"]);
        let conditions = Conditions::new(Texts { prefixes: &prefixes, ..Texts::default() }).unwrap();
        for (path, matched) in
            [("/api", Some(4)), ("/api/x?q", Some(4)), ("/v1/a", Some(3)), ("/apis", None), ("/v10", None)]
        {
            assert_eq!(get(&conditions, path), matched, "{path}");
        }
        let all = texts(&["/"]);
        let conditions = Conditions::new(Texts { prefixes: &all, ..Texts::default() }).unwrap();
        assert_eq!(get(&conditions, "/anything"), Some(0));
    }

    #[test]
    fn templates_stand_for_segments_and_regular_expressions_for_the_whole_path() {
        let (paths, regexes) =
            (texts(&["/users/{id}/posts", "/files/{*rest}", "/exact"]), texts(&["/[0-9]+"]));
        let conditions =
            Conditions::new(Texts { paths: &paths, regexes: &regexes, ..Texts::default() }).unwrap();
        for path in ["/users/7/posts", "/files/a/b", "/files/", "/exact", "/123"] {
            assert!(get(&conditions, path).is_some(), "{path}");
        }
        for path in ["/users//posts", "/users/7/posts/1", "/users/7", "/files", "/exact/", "/123a", "/x/123"]
        {
            assert!(get(&conditions, path).is_none(), "{path}");
        }
    }

    #[test]
    fn hosts_have_no_port_and_no_case_and_stars_stand_for_labels() {
        let hosts = texts(&["Example.com", "*.dev.example.com"]);
        let conditions = Conditions::new(Texts { hosts: &hosts, ..Texts::default() }).unwrap();
        let is_for = |host: &str| conditions.hold(&head("GET", "/", &[("host", host)])).is_some();
        assert!(is_for("example.COM:8080") && is_for("a.b.dev.example.com"));
        assert!(!is_for("dev.example.com") && !is_for("xdev.example.com") && !is_for("example.com.evil"));
        assert!(conditions.hold(&head("GET", "http://example.com/x", &[])).is_some());
    }

    #[test]
    fn fields_and_parameters_are_compared_with_a_star_at_one_end() {
        let headers = [("X-Canary".to_string(), "*".to_string()), ("accept".into(), "text/*".into())];
        let query = [("q".to_string(), "*z".to_string())];
        let conditions =
            Conditions::new(Texts { headers: &headers, query: &query, ..Texts::default() }).unwrap();
        let fine = [("x-canary", "any"), ("accept", "image/png"), ("accept", "text/html")];
        assert!(conditions.hold(&head("GET", "/?a=b&q=xyz", &fine)).is_some());
        assert!(conditions.hold(&head("GET", "/?q=xyza", &fine)).is_none());
        assert!(conditions.hold(&head("GET", "/?q=xyz", &fine[1..])).is_none());
        assert!(conditions.hold(&head("GET", "/?q=xyz", &fine[..2])).is_none());
    }

    #[test]
    fn grpc_names_are_services_or_methods() {
        let grpc = texts(&["shop.Cart", "shop.Pay/Now"]);
        let conditions = Conditions::new(Texts { grpc: &grpc, ..Texts::default() }).unwrap();
        assert!(get(&conditions, "/shop.Cart/Add").is_some() && get(&conditions, "/shop.Pay/Now").is_some());
        assert!(
            get(&conditions, "/shop.Cart2/Add").is_none() && get(&conditions, "/shop.Pay/Later").is_none()
        );
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let complaints = Conditions::new(Texts {
            hosts: &texts(&["a b", "a*.b", "a:80"]),
            paths: &texts(&["x", "/a/{b", "/{*rest}/x"]),
            prefixes: &texts(&["api?"]),
            regexes: &texts(&["("]),
            grpc: &texts(&[""]),
            methods: &texts(&["get", "G T"]),
            headers: &[("a b".into(), String::new())],
            query: &[],
        })
        .unwrap_err();
        assert_eq!(complaints.len(), 12, "{complaints:?}");
    }
}
