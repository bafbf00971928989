//! Addresses as people write them: `redis://127.0.0.1:6379`, `memcached://a:1,b:2`, `redis+unix:///run/x.sock`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::suggestion;
use crate::{Address, ClusterSpec, Discovery, Endpoint, Transparent};

/// The protocol of whatever connections of a transparent listener were going to.
pub(crate) const ORIGINAL: &str = "original";

/// As [`ORIGINAL`], as a target.
pub(crate) const ORIGINAL_TARGET: &str = "original://";

/// What an address begins with whose clients may speak anything.
pub(crate) const AUTO: &str = "auto://";

/// The words for how connections come to a listener.
pub(crate) const TRANSPARENT: [(&str, Transparent); 3] =
    [("none", Transparent::None), ("redirect", Transparent::Redirect), ("tproxy", Transparent::Tproxy)];

/// What is wrong with a listener that leads to [`ORIGINAL`] and is not transparent.
pub(crate) fn not_transparent() -> Complaint {
    let hint = "`transparent: redirect` or `transparent: tproxy`; as a flag `?transparent=redirect`: docs/intercept.md";
    ("nothing tells where its connections were going".into(), Some(hint.into()))
}

/// A scheme and the protocol that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// As in `redis://`.
    pub scheme: &'static str,
    /// The protocol's name.
    pub protocol: &'static str,
    /// Where such a server usually listens; 0 if nothing is usual.
    pub port: u16,
    /// Whom the addresses behind it name.
    pub servers: SchemeServers,
    /// Whether it means TLS.
    pub is_tls: bool,
    /// Whether bytes are passed on as they are, so that there are connections but no calls.
    pub is_opaque: bool,
    /// Whether requests pass as they come, to any of the servers: nobody looks for keys, or asks clients who they are.
    pub is_streamed: bool,
}

/// Whom the addresses of a target name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemeServers {
    /// Some servers of a cluster, which know the others.
    Cluster,
    /// The servers themselves.
    Listed,
    /// There are none: it lives in this process.
    None,
    /// Sentinels, which know the servers; a path names the primary that they watch.
    Sentinel,
}

/// What `to` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) protocol: &'static str,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) discovery: Discovery,
    pub(crate) is_tls: bool,
    pub(crate) is_opaque: bool,
    pub(crate) is_streamed: bool,
}

impl Target {
    /// Whether `cluster` came from an equal target.
    pub(crate) fn is_of(&self, cluster: &ClusterSpec) -> bool {
        cluster.protocol == self.protocol
            && cluster.endpoints == self.endpoints
            && cluster.discovery == self.discovery
            && cluster.tls.is_some() == self.is_tls
    }
}

impl Scheme {
    /// A scheme without TLS.
    pub const fn plain(scheme: &'static str, protocol: &'static str, port: u16) -> Self {
        let servers = SchemeServers::Listed;
        Self { scheme, protocol, port, servers, is_tls: false, is_opaque: false, is_streamed: false }
    }

    /// A scheme without TLS whose servers are found.
    pub const fn found(
        scheme: &'static str,
        protocol: &'static str,
        port: u16,
        servers: SchemeServers,
    ) -> Self {
        Self { servers, ..Self::plain(scheme, protocol, port) }
    }

    /// A scheme that means TLS and whose servers are found.
    pub const fn found_tls(
        scheme: &'static str,
        protocol: &'static str,
        port: u16,
        servers: SchemeServers,
    ) -> Self {
        Self { servers, is_tls: true, ..Self::plain(scheme, protocol, port) }
    }

    /// A scheme that means TLS.
    pub const fn tls(scheme: &'static str, protocol: &'static str, port: u16) -> Self {
        Self { is_tls: true, ..Self::plain(scheme, protocol, port) }
    }

    /// A scheme of what lives in this process.
    pub const fn inside(scheme: &'static str, protocol: &'static str) -> Self {
        Self { servers: SchemeServers::None, ..Self::plain(scheme, protocol, 0) }
    }

    /// This scheme, for bytes that are passed on as they are, to and from any port.
    pub const fn opaque(self) -> Self {
        Self { is_opaque: true, ..self }
    }

    /// This scheme, for requests that pass as they come.
    pub const fn streamed(self) -> Self {
        Self { is_streamed: true, ..self }
    }

    /// A port for examples.
    fn example_port(&self) -> u16 {
        if self.port == 0 { 8000 } else { self.port }
    }
}

/// Whether an address asks for TLS.
pub(crate) fn is_tls(text: &str, schemes: &[Scheme]) -> bool {
    cut(text, schemes).is_ok_and(|(scheme, ..)| scheme.is_tls)
}

/// What went wrong, and what to do.
pub(crate) type Complaint = (String, Option<String>);

/// What stands behind a scheme's name, as in `http+dns://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Host names that are asked for all their addresses.
    Dns,
    /// A file that lists the servers.
    File,
    /// Addresses.
    Plain,
    /// Names of services.
    Srv,
    /// Paths of sockets.
    Unix,
}

const WAYS: [(&str, Way); 4] =
    [("+dns", Way::Dns), ("+file", Way::File), ("+srv", Way::Srv), ("+unix", Way::Unix)];

/// The protocol whose servers name each other.
const KAFKA: &str = "kafka";

/// Cuts `scheme://rest`.
fn cut<'t>(text: &'t str, schemes: &[Scheme]) -> Result<(Scheme, Way, &'t str), Complaint> {
    let names: Vec<_> = schemes.iter().map(|scheme| scheme.scheme).collect();
    let Some((name, rest)) = text.split_once("://") else {
        let hint = format!(
            "start it with one of {}",
            names.iter().map(|n| format!("{n}://")).collect::<Vec<_>>().join(", ")
        );
        return Err((format!("`{}` has no scheme", shown(text)), Some(hint)));
    };
    let way = WAYS.iter().find_map(|(end, way)| Some((name.strip_suffix(end)?, *way)));
    let (name, way) = way.unwrap_or((name, Way::Plain));
    match schemes.iter().find(|scheme| scheme.scheme == name) {
        Some(scheme) if scheme.is_tls && way == Way::Unix => Err((
            "TLS is not spoken on Unix sockets".into(),
            Some("what it protects from cannot happen there".into()),
        )),
        Some(scheme) => Ok((*scheme, way, rest)),
        None => Err((format!("`{name}://` is not known here"), Some(suggestion(name, &names)))),
    }
}

/// Whether an address stands for bytes that are passed on as they are.
pub(crate) fn is_opaque(text: &str, schemes: &[Scheme]) -> bool {
    cut(text, schemes).is_ok_and(|(scheme, ..)| scheme.is_opaque)
}

/// Whether an address stands for requests that pass as they come.
pub(crate) fn is_streamed(text: &str, schemes: &[Scheme]) -> bool {
    cut(text, schemes).is_ok_and(|(scheme, ..)| scheme.is_streamed)
}

/// Cuts `?transparent=redirect` off where a door listens.
pub(crate) fn transparent(text: &str) -> Result<(&str, Transparent), Complaint> {
    let Some((door, query)) = text.split_once('?') else { return Ok((text, Transparent::None)) };
    let named = query.strip_prefix("transparent=");
    let known = TRANSPARENT.iter().find(|(word, _)| named == Some(word));
    known.map(|(_, mode)| (door, *mode)).ok_or_else(|| {
        (format!("`?{query}` is not known"), Some("`?transparent=redirect` or `?transparent=tproxy`".into()))
    })
}

/// Understands where a door listens.
pub(crate) fn door(text: &str, schemes: &[Scheme]) -> Result<(&'static str, Address), Complaint> {
    let (scheme, way, rest) = cut(text, schemes)?;
    match way {
        Way::Plain => {}
        Way::Unix => return Ok((scheme.protocol, Address::Unix(unix_path(rest)?))),
        Way::Dns | Way::File | Way::Srv => {
            let hint =
                "servers are looked up, in `to`; a listener has an address of this machine".to_string();
            return Err((format!("`{}` is no address to listen on", shown(text)), Some(hint)));
        }
    }
    plain(rest)?;
    let rest = rest.trim_end_matches('/');
    let has_port = !rest.ends_with(']') && rest.contains(':');
    if !has_port && scheme.port == 0 {
        return Err(needs_port(rest, scheme));
    }
    let with_port = if !has_port { format!("{rest}:{}", scheme.port) } else { rest.into() };
    let with_port = with_port.replace("localhost:", "127.0.0.1:");
    let with_port =
        if let Some(port) = with_port.strip_prefix(':') { format!("0.0.0.0:{port}") } else { with_port };
    match with_port.parse::<SocketAddr>() {
        Ok(addr) => Ok((scheme.protocol, Address::Tcp(addr))),
        Err(_) => {
            let hint = format!(
                "an address of this machine and a port, as in `{}://127.0.0.1:{}`",
                scheme.scheme,
                scheme.example_port()
            );
            Err((format!("`{rest}` is no address to listen on"), Some(hint)))
        }
    }
}

/// Understands where a cluster's servers are.
pub(crate) fn back(text: &str, schemes: &[Scheme]) -> Result<Target, Complaint> {
    let (scheme, way, rest) = cut(text, schemes)?;
    let is_unix = way == Way::Unix;
    if scheme.servers == SchemeServers::None {
        return match rest {
            "" | "/" => {
                let Scheme { protocol, is_opaque, .. } = scheme;
                Ok(Target { protocol, is_opaque, ..Target::default() })
            }
            _ => Err((
                format!("`{}://` takes no address", scheme.scheme),
                Some(format!("`{}://` alone", scheme.scheme)),
            )),
        };
    }
    if is_unix && scheme.servers != SchemeServers::Listed {
        let hint = "its servers know each other by host and port".to_string();
        return Err((format!("`{}+unix://` is not possible", scheme.scheme), Some(hint)));
    }
    if is_unix {
        let paths = rest.split(',').map(unix_path).collect::<Result<Vec<_>, _>>()?;
        let endpoints = paths.into_iter().map(Endpoint::Unix).collect();
        let Scheme { protocol, is_opaque, is_streamed, .. } = scheme;
        return Ok(Target { protocol, endpoints, is_opaque, is_streamed, ..Target::default() });
    }
    if matches!(way, Way::Dns | Way::File | Way::Srv) {
        return looked_up(scheme, way, rest);
    }
    let (rest, discovery) = match scheme.servers {
        SchemeServers::Cluster => (rest, Discovery::Cluster),
        SchemeServers::Listed | SchemeServers::None => (rest, Discovery::Listed),
        SchemeServers::Sentinel => {
            let (rest, primary) = sentinel(rest, scheme)?;
            (rest, Discovery::Sentinel(primary))
        }
    };
    let endpoints = listed(rest, |part| {
        endpoint(part, scheme.port).ok_or_else(|| {
            let port = scheme.example_port();
            let hint = format!("hosts and ports, as in `{}://a:{port},b:{port}`", scheme.scheme);
            (format!("`{part}` is no server's address"), Some(hint))
        })
    })?;
    let Scheme { protocol, is_tls, is_opaque, is_streamed, .. } = scheme;
    Ok(Target { protocol, endpoints, discovery, is_tls, is_opaque, is_streamed })
}

/// Understands where a cluster's servers are looked up.
fn looked_up(scheme: Scheme, way: Way, rest: &str) -> Result<Target, Complaint> {
    let name = scheme.scheme;
    let is_alike = (scheme.is_opaque || scheme.is_streamed) && scheme.protocol != KAFKA;
    if scheme.servers != SchemeServers::Listed || !is_alike {
        let way = WAYS.iter().find(|(_, known)| *known == way).map_or("", |(end, _)| end);
        let hint = "only servers that are alike are looked up: those of HTTP, gRPC and `tcp://`".to_string();
        return Err((format!("`{name}{way}://` is not possible"), Some(hint)));
    }
    let (endpoints, discovery) = match way {
        Way::File => {
            if !rest.starts_with('/') || rest.ends_with('/') {
                let hint = format!("an absolute path, as in `{name}+file:///etc/mecha/app.yaml`");
                return Err((format!("`{}` is no path of a file", shown(rest)), Some(hint)));
            }
            (Vec::new(), Discovery::File { path: rest.into(), port: scheme.port })
        }
        Way::Srv => {
            let service = |part: &str| match endpoint(part, 1) {
                Some(Endpoint::Tcp { host, .. }) if !part.contains(':') => {
                    Ok(Endpoint::Tcp { host, port: 0 })
                }
                _ => {
                    let hint = format!(
                        "names whose SRV records tell hosts and ports, as in `{name}+srv://_http._tcp.app.example`"
                    );
                    Err((format!("`{part}` is no name of a service"), Some(hint)))
                }
            };
            (listed(rest, service)?, Discovery::Srv)
        }
        Way::Dns | Way::Plain | Way::Unix => {
            let host = |part: &str| {
                endpoint(part, scheme.port).ok_or_else(|| {
                    let hint = format!(
                        "host names and ports, as in `{name}+dns://app.example:{}`",
                        scheme.example_port()
                    );
                    (format!("`{part}` is no host and port"), Some(hint))
                })
            };
            (listed(rest, host)?, Discovery::Dns)
        }
    };
    let Scheme { protocol, is_tls, is_opaque, is_streamed, .. } = scheme;
    Ok(Target { protocol, endpoints, discovery, is_tls, is_opaque, is_streamed })
}

/// What is separated by commas, each once.
fn listed(
    rest: &str,
    read: impl Fn(&str) -> Result<Endpoint, Complaint>,
) -> Result<Vec<Endpoint>, Complaint> {
    plain(rest)?;
    let mut endpoints = Vec::new();
    for part in rest.trim_end_matches('/').split(',') {
        let endpoint = read(part.trim())?;
        if endpoints.contains(&endpoint) {
            return Err((
                format!("`{part}` is given twice"),
                Some("once is enough; `weight` gives a server more".into()),
            ));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn needs_port(rest: &str, scheme: Scheme) -> Complaint {
    let host = if rest.is_empty() { "127.0.0.1" } else { rest };
    let hint = format!("as in `{}://{host}:{}`", scheme.scheme, scheme.example_port());
    (format!("`{}://{rest}` needs a port", scheme.scheme), Some(hint))
}

/// Splits off the name of the primary.
fn sentinel(rest: &str, scheme: Scheme) -> Result<(&str, String), Complaint> {
    match rest.split_once('/') {
        Some((servers, name)) if !name.is_empty() && !name.contains(['/', '?']) => Ok((servers, name.into())),
        _ => Err((
            format!("`{}` does not name a primary", shown(rest)),
            Some(format!("as in `{}://a,b,c/mymaster`", scheme.scheme)),
        )),
    }
}

pub(crate) fn endpoint(text: &str, default_port: u16) -> Option<Endpoint> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return (addr.port() != 0).then(|| Endpoint::Tcp { host: addr.ip().to_string(), port: addr.port() });
    }
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, "")) => (host, default_port),
        Some(_) => return None,
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, default_port),
        },
    };
    if port == 0 {
        return None;
    }
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(is_host)).then(|| Endpoint::Tcp { host: host.into(), port })
}

fn unix_path(text: &str) -> Result<PathBuf, Complaint> {
    if text.starts_with('/') && text.len() < 108 {
        return Ok(text.into());
    }
    Err((
        format!("`{}` is no path of a socket", shown(text)),
        Some("an absolute path below 108 bytes, as in `redis+unix:///run/x.sock`".into()),
    ))
}

/// An address as it may be shown: what stands before an `@` may be a password.
pub(crate) fn shown(text: &str) -> String {
    let (start, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{start}***@{rest}"),
        None => text.into(),
    }
}

/// Refuses what later versions may give a meaning to.
fn plain(rest: &str) -> Result<(), Complaint> {
    let is_path = rest.trim_end_matches('/').contains('/');
    for (is_there, what) in
        [(rest.contains('@'), "a user"), (rest.contains('?'), "a query"), (is_path, "a path")]
    {
        if is_there {
            return Err((
                format!("`{}` has {what}, which is not supported", shown(rest)),
                Some(if what == "a user" {
                    "only host:port, separated by commas; who mecha is to the servers is said by `auth`"
                        .into()
                } else {
                    "only host:port, separated by commas".into()
                }),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[Scheme] = &[
        Scheme::plain("redis", "resp", 6379),
        Scheme::inside("embedded", "embedded"),
        Scheme::plain("tcp", "tcp", 0).opaque(),
        Scheme::plain("web", "http", 80).streamed(),
        Scheme::found("redis-cluster", "resp", 6379, SchemeServers::Cluster),
        Scheme::found("redis-sentinel", "resp", 26379, SchemeServers::Sentinel),
    ];

    #[test]
    fn servers_that_are_alike_are_looked_up() {
        let found = |text: &str| back(text, SCHEMES).map(|to| (to.discovery, to.endpoints));
        let name = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        assert_eq!(found("web+dns://a.example"), Ok((Discovery::Dns, vec![name("a.example", 80)])));
        assert_eq!(found("tcp+dns://a:1,b:2"), Ok((Discovery::Dns, vec![name("a", 1), name("b", 2)])));
        let service = "_http._tcp.a.example";
        assert_eq!(found(&format!("web+srv://{service}")), Ok((Discovery::Srv, vec![name(service, 0)])));
        assert_eq!(name(service, 0).to_string(), service);
        let file = Discovery::File { path: "/etc/a.yaml".into(), port: 80 };
        assert_eq!(found("web+file:///etc/a.yaml"), Ok((file, vec![])));
        for text in [
            "tcp+dns://a",
            "web+srv://a:80",
            "web+srv://",
            "web+file://a.yaml",
            "web+file:///etc/",
            "redis+dns://a",
            "redis-cluster+dns://a",
            "web+dns://a,a:80",
            "embedded+file:///a",
        ] {
            let (_, hint) = back(text, SCHEMES).expect_err(text);
            assert!(hint.is_some(), "{text}");
        }
        assert!(door("web+dns://a:1", SCHEMES).is_err());
    }

    #[test]
    fn addresses_are_understood_in_every_form() {
        let listens = |text| door(text, SCHEMES).map(|(_, address)| address);
        assert_eq!(listens("redis://127.0.0.1:1"), Ok(Address::Tcp("127.0.0.1:1".parse().unwrap())));
        assert_eq!(listens("redis://[::1]:1"), Ok(Address::Tcp("[::1]:1".parse().unwrap())));
        assert_eq!(listens("redis://localhost"), Ok(Address::Tcp("127.0.0.1:6379".parse().unwrap())));
        assert_eq!(listens("redis://:7"), Ok(Address::Tcp("0.0.0.0:7".parse().unwrap())));
        assert_eq!(listens("redis+unix:///run/a"), Ok(Address::Unix("/run/a".into())));
        let servers = |text| {
            back(text, SCHEMES).map(|to| to.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            servers("redis://a:1,b,[::1]:3"),
            Ok(vec!["a:1".into(), "b:6379".into(), "[::1]:3".into()])
        );
        assert_eq!(servers("embedded://"), Ok(vec![]));
        assert_eq!(servers("tcp://a:1,[::1]:3"), Ok(vec!["a:1".into(), "[::1]:3".into()]));
        assert_eq!(servers("redis-cluster://a,b:2"), Ok(vec!["a:6379".into(), "b:2".into()]));
        let sentinels = back("redis-sentinel://a,b:2/main", SCHEMES).unwrap();
        assert_eq!(sentinels.discovery, Discovery::Sentinel("main".into()));
        assert_eq!(sentinels.endpoints.len(), 2);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "a:1",
            "http://a",
            "redis://",
            "redis://u:p@a:1",
            "redis://a:1/2",
            "redis://a:0",
            "redis://a:1,a:1",
            "embedded://x",
            "redis+unix://x",
            "redis-sentinel://a",
            "redis-sentinel://a/",
            "redis-cluster+unix:///x",
            "tcp://a",
            "tcp://a:0",
            "tcp://[::1]",
        ] {
            assert!(back(text, SCHEMES).is_err(), "{text}");
        }
        assert!(door("redis://some.host:1", SCHEMES).is_err());
        assert_eq!(door("tcp://127.0.0.1", SCHEMES).unwrap_err().0, "`tcp://127.0.0.1` needs a port");
        assert_eq!(back("rediss://a", SCHEMES).unwrap_err().1.as_deref(), Some("did you mean `redis`?"));
    }
}
