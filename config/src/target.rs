//! Addresses as people write them: `redis://127.0.0.1:6379`, `memcached://a:1,b:2`, `redis+unix:///run/x.sock`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::suggestion;
use crate::{Address, Endpoint};

/// A scheme and the protocol that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// As in `redis://`.
    pub scheme: &'static str,
    /// The protocol's name.
    pub protocol: &'static str,
    /// Where such a server usually listens; 0 if it does not.
    pub port: u16,
}

/// What went wrong, and what to do.
pub(crate) type Complaint = (String, Option<String>);

/// Cuts `scheme://rest`.
fn cut<'t>(text: &'t str, schemes: &[Scheme]) -> Result<(Scheme, bool, &'t str), Complaint> {
    let names: Vec<_> = schemes.iter().map(|scheme| scheme.scheme).collect();
    let Some((name, rest)) = text.split_once("://") else {
        let hint = format!(
            "start it with one of {}",
            names.iter().map(|n| format!("{n}://")).collect::<Vec<_>>().join(", ")
        );
        return Err((format!("`{text}` has no scheme"), Some(hint)));
    };
    let (name, is_unix) = name.strip_suffix("+unix").map_or((name, false), |name| (name, true));
    match schemes.iter().find(|scheme| scheme.scheme == name) {
        Some(scheme) => Ok((*scheme, is_unix, rest)),
        None => Err((format!("`{name}://` is not known here"), Some(suggestion(name, &names)))),
    }
}

/// Understands where a door listens.
pub(crate) fn door(text: &str, schemes: &[Scheme]) -> Result<(&'static str, Address), Complaint> {
    let (scheme, is_unix, rest) = cut(text, schemes)?;
    if is_unix {
        return Ok((scheme.protocol, Address::Unix(unix_path(rest)?)));
    }
    plain(rest)?;
    let rest = rest.trim_end_matches('/');
    let with_port = if rest.ends_with(']') || !rest.contains(':') {
        format!("{rest}:{}", scheme.port)
    } else {
        rest.into()
    };
    let with_port = with_port.replace("localhost:", "127.0.0.1:");
    let with_port =
        if let Some(port) = with_port.strip_prefix(':') { format!("0.0.0.0:{port}") } else { with_port };
    match with_port.parse::<SocketAddr>() {
        Ok(addr) => Ok((scheme.protocol, Address::Tcp(addr))),
        Err(_) => {
            let hint = format!(
                "an address of this machine and a port, as in `{}://127.0.0.1:{}`",
                scheme.scheme, scheme.port
            );
            Err((format!("`{rest}` is no address to listen on"), Some(hint)))
        }
    }
}

/// Understands where a cluster's servers are.
pub(crate) fn back(text: &str, schemes: &[Scheme]) -> Result<(&'static str, Vec<Endpoint>), Complaint> {
    let (scheme, is_unix, rest) = cut(text, schemes)?;
    if scheme.port == 0 {
        return match rest {
            "" | "/" => Ok((scheme.protocol, Vec::new())),
            _ => Err((
                format!("`{}://` takes no address", scheme.scheme),
                Some("it lives in this process".into()),
            )),
        };
    }
    if is_unix {
        let paths = rest.split(',').map(unix_path).collect::<Result<Vec<_>, _>>()?;
        return Ok((scheme.protocol, paths.into_iter().map(Endpoint::Unix).collect()));
    }
    plain(rest)?;
    let mut endpoints = Vec::new();
    for part in rest.trim_end_matches('/').split(',') {
        let endpoint = endpoint(part.trim(), scheme.port).ok_or_else(|| {
            let hint =
                format!("hosts and ports, as in `{}://a:{},b:{}`", scheme.scheme, scheme.port, scheme.port);
            (format!("`{part}` is no server's address"), Some(hint))
        })?;
        if endpoints.contains(&endpoint) {
            return Err((format!("`{part}` is given twice"), None));
        }
        endpoints.push(endpoint);
    }
    Ok((scheme.protocol, endpoints))
}

fn endpoint(text: &str, default_port: u16) -> Option<Endpoint> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return (addr.port() != 0).then(|| Endpoint::Tcp { host: addr.ip().to_string(), port: addr.port() });
    }
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, "")) => (host, default_port),
        Some(_) => return None,
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, default_port),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(is_host)).then(|| Endpoint::Tcp { host: host.into(), port })
}

fn unix_path(text: &str) -> Result<PathBuf, Complaint> {
    if text.starts_with('/') && text.len() < 108 {
        return Ok(text.into());
    }
    Err((
        format!("`{text}` is no path of a socket"),
        Some("an absolute path below 108 bytes, as in `redis+unix:///run/x.sock`".into()),
    ))
}

/// Refuses what later versions may give a meaning to.
fn plain(rest: &str) -> Result<(), Complaint> {
    let is_path = rest.trim_end_matches('/').contains('/');
    for (is_there, what) in
        [(rest.contains('@'), "a user"), (rest.contains('?'), "a query"), (is_path, "a path")]
    {
        if is_there {
            return Err((
                format!("`{rest}` has {what}, which is not supported"),
                Some("only host:port, separated by commas".into()),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[Scheme] = &[
        Scheme { scheme: "redis", protocol: "resp", port: 6379 },
        Scheme { scheme: "embedded", protocol: "embedded", port: 0 },
    ];

    #[test]
    fn addresses_are_understood_in_every_form() {
        let listens = |text| door(text, SCHEMES).map(|(_, address)| address);
        assert_eq!(listens("redis://127.0.0.1:1"), Ok(Address::Tcp("127.0.0.1:1".parse().unwrap())));
        assert_eq!(listens("redis://[::1]:1"), Ok(Address::Tcp("[::1]:1".parse().unwrap())));
        assert_eq!(listens("redis://localhost"), Ok(Address::Tcp("127.0.0.1:6379".parse().unwrap())));
        assert_eq!(listens("redis://:7"), Ok(Address::Tcp("0.0.0.0:7".parse().unwrap())));
        assert_eq!(listens("redis+unix:///run/a"), Ok(Address::Unix("/run/a".into())));
        let servers = |text| {
            back(text, SCHEMES).map(|(_, list)| list.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            servers("redis://a:1,b,[::1]:3"),
            Ok(vec!["a:1".into(), "b:6379".into(), "[::1]:3".into()])
        );
        assert_eq!(servers("embedded://"), Ok(vec![]));
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
        ] {
            assert!(back(text, SCHEMES).is_err(), "{text}");
        }
        assert!(door("redis://some.host:1", SCHEMES).is_err());
        assert_eq!(back("rediss://a", SCHEMES).unwrap_err().1.as_deref(), Some("did you mean `redis`?"));
    }
}
