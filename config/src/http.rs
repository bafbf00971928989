//! Routes of HTTP listeners.

use std::time::Duration;

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
    /// When it is sent again.
    pub retry: Option<HttpRetrySpec>,
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
