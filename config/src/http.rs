//! Routes of HTTP listeners.

use std::time::Duration;

use crate::Place;

/// What the hash of a request is made of that chooses its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    /// A cookie, which clients without one get for so long, in seconds.
    Cookie(String, u64),
    /// A field.
    Header(String),
    /// The client's address.
    #[default]
    Source,
}

/// What becomes of the requests that meet all conditions. An empty list is no condition; of a list, one must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRouteSpec {
    /// Unique on its listener; metric label.
    pub name: String,
    /// Hosts without ports, or `*.` and the end of one.
    pub hosts: Vec<String>,
    /// Whole paths; `{name}` stands for a segment, `{*rest}` for all that follows.
    pub paths: Vec<String>,
    /// Beginnings of paths, by whole segments.
    pub prefixes: Vec<String>,
    /// Regular expressions that the whole path matches.
    pub regexes: Vec<String>,
    /// gRPC services, or `service/method`.
    pub grpc: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Fields and their values: as they are, or with a `*` at one end or alone.
    pub headers: Vec<(String, String)>,
    /// As `headers`, parameters of the query.
    pub query: Vec<(String, String)>,
    /// What becomes of them.
    pub action: HttpActionSpec,
    /// Filters behind those of the listener.
    pub filters: Vec<crate::FilterSpec>,
    /// What changes in requests.
    pub request: HttpEditSpec,
    /// What changes in answers.
    pub response: HttpEditSpec,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpActionSpec {
    /// It goes to a server.
    Forward(HttpForwardSpec),
    /// The client is sent elsewhere.
    Redirect(HttpRedirectSpec),
    /// It is answered.
    Respond {
        /// The status.
        status: u16,
        /// The body, as plain text.
        body: String,
    },
}

impl Default for HttpActionSpec {
    fn default() -> Self {
        Self::Forward(HttpForwardSpec::default())
    }
}

/// How a request goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpForwardSpec {
    /// Indices into [`crate::Snapshot::clusters`] with weights.
    pub targets: Vec<(usize, u32)>,
    /// Takes the place of the prefix that has matched.
    pub prefix: Option<String>,
    /// Takes the place of the whole path.
    pub path: Option<String>,
    /// Takes the place of the host.
    pub host: Option<String>,
    /// For the head of the answer, all attempts together.
    pub timeout: Option<Duration>,
    /// For the request and its answer, to their ends.
    pub max_duration: Option<Duration>,
    /// When it is sent again.
    pub retry: Option<HttpRetrySpec>,
}

/// How names of fields of HTTP/1 are written; in HTTP/2 they are in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// In lower case.
    #[default]
    Lower,
    /// As they came, as far as that is known.
    Preserve,
    /// With a capital at the beginning of each word.
    Title,
}

impl HeaderCase {
    /// Every variant with its name.
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("lower", Self::Lower), ("preserve", Self::Preserve), ("title", Self::Title)];
}

/// Where clients may go with `CONNECT` (RFC 9110, section 9.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Whom they may name.
    pub allow: Vec<Reachable>,
    /// Index into [`crate::Snapshot::clusters`]: servers of `tcp://`, or `original://` for whomever they name.
    pub cluster: usize,
}

/// Hosts and ports that may be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachable {
    hosts: Hosts,
    /// `None` is any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// All whose names end so; with the dot at its beginning.
    Below(String),
    Place(Place),
}

impl Reachable {
    /// Reads `host:port`, where the host is `*`, `*.example.com`, a name, an address or a network, and the port may be `*`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = if port == "*" { None } else { Some(port.parse().ok().filter(|port| *port > 0)?) };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.to_ascii_lowercase();
        let hosts = match host.strip_prefix('*') {
            Some("") => Hosts::All,
            Some(end) if end.len() > 1 && end.starts_with('.') && Place::parse(&end[1..]).is_some() => {
                Hosts::Below(end.into())
            }
            Some(_) => return None,
            None => match Place::parse(&host)? {
                Place::HostPort(..) => return None,
                place => Hosts::Place(place),
            },
        };
        Some(Self { hosts, port })
    }

    /// Whether `host` (an address without brackets) and `port` are meant.
    pub fn has(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
            Hosts::Place(place) => place.has(&host, port),
        };
        is_host && self.port.is_none_or(|own| own == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reachable_is_a_name_its_end_an_address_or_a_network() {
        for (text, host, port, is_meant) in [
            ("db.example:5432", "DB.example.", 5432, true),
            ("db.example:5432", "db.example", 5433, false),
            ("db.example:*", "db.example", 1, true),
            ("*.example:443", "a.b.example", 443, true),
            ("*.example:443", "example", 443, false),
            ("*.example:443", "aexample", 443, false),
            ("*:443", "10.0.0.1", 443, true),
            ("10.0.0.0/8:22", "10.9.9.9", 22, true),
            ("10.0.0.0/8:22", "11.0.0.1", 22, false),
            ("10.0.0.0/8:22", "10.example", 22, false),
            ("[fd00::1]:1", "fd00::1", 1, true),
        ] {
            assert_eq!(Reachable::parse(text).unwrap().has(host, port), is_meant, "{text} {host}:{port}");
        }
        for text in ["", "a", "a:0", "a:b", ":1", "*.:1", "*x:1", "a b:1", "*.*:1", "a:1:2"] {
            assert_eq!(Reachable::parse(text), None, "{text}");
        }
    }
}

/// Where the client is sent; what is missing stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRedirectSpec {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host and maybe port.
    pub host: Option<String>,
    /// The whole path.
    pub path: Option<String>,
    /// In place of the prefix that has matched.
    pub prefix: Option<String>,
}

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRetrySpec {
    /// Times that it is sent again at most.
    pub attempts: u32,
    /// `connect`, `reset`, `gateway`, `5xx`, or a status.
    pub on: Vec<String>,
    /// For the head of one answer.
    pub per_try: Option<Duration>,
    /// When another server is asked too, although the first one may yet answer.
    pub hedge_after: Option<Duration>,
    /// The first wait; it doubles, and half of it is left to chance.
    pub backoff: Duration,
    /// Bodies up to this size are held, in bytes; with a larger one a request is sent once.
    pub max_body: u64,
    /// Of a hundred requests, so many may be sent again.
    pub budget: u32,
}

/// Fields that change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpEditSpec {
    /// Replace what is there.
    pub set: Vec<(String, String)>,
    /// Stand beside what is there.
    pub add: Vec<(String, String)>,
    /// Go.
    pub remove: Vec<String>,
}

/// What is wrong with a route: key, message, hint.
pub type HttpComplaint = (&'static str, String, Option<String>);

impl HttpRouteSpec {
    pub(crate) fn each_target(&mut self, mut each: impl FnMut(&mut usize)) {
        if let HttpActionSpec::Forward(forward) = &mut self.action {
            forward.targets.iter_mut().for_each(|(target, _)| each(target));
        }
    }
}
