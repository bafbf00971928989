//! Servers that are alike, so that any may take any client: where they are looked up, who comes first, how much they may do.

use std::net::SocketAddr;
use std::time::Duration;

use crate::node::Node;
use crate::options::Origin;
use crate::read::Reader;
use crate::{ConfigError, Endpoint, Known};

/// What only clusters of servers that are alike have.
#[derive(Clone, Debug, PartialEq)]
pub struct AlikeSpec {
    /// How names are looked up.
    pub dns: DnsSpec,
    /// Only servers with all of these labels, of those that a file lists.
    pub subset: Vec<(String, String)>,
    /// Whether servers of the own zone come first.
    pub prefers_zone: bool,
    /// Share of well servers, from 0 to 1, below which a priority, or the own zone, gives some of its part to the others.
    pub spill_below: f64,
    /// How long a server that is new, or back, gets less than its part.
    pub slow_start: Option<Duration>,
    /// How much they may have to do.
    pub limits: LimitsSpec,
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSpec {
    /// The least time between two questions, whatever answers say.
    pub min_ttl: Duration,
    /// The most time between two questions, whatever answers say.
    pub max_ttl: Duration,
    /// Time for an answer of one name server.
    pub timeout: Duration,
    /// Name servers; those of the system if there are none.
    pub servers: Vec<SocketAddr>,
    /// Which addresses are asked for.
    pub family: DnsFamily,
}

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// A and AAAA records.
    #[default]
    Both,
    /// A records.
    Ipv4,
    /// AAAA records.
    Ipv6,
}

/// How much servers may have to do at one time, over all workers; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsSpec {
    /// Connections.
    pub connections: Option<u32>,
    /// Clients, or requests, that wait for a connection.
    pub pending: Option<u32>,
    /// Requests that are not yet answered to the end.
    pub requests: Option<u32>,
    /// Requests that are being sent again.
    pub retries: Option<u32>,
}

/// One server of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSpec {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its name on rings; its address unless something is said.
    pub name: Option<String>,
    /// Its share, in proportion to the others'.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// A server is asked while too few of those with smaller numbers are well.
    pub priority: u32,
    /// What it is, for `subset`.
    pub labels: Vec<(String, String)>,
}

impl Default for AlikeSpec {
    fn default() -> Self {
        Self {
            dns: DnsSpec::default(),
            subset: Vec::new(),
            prefers_zone: false,
            spill_below: 0.7,
            slow_start: None,
            limits: LimitsSpec::default(),
        }
    }
}

impl Default for DnsSpec {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
            servers: Vec::new(),
            family: DnsFamily::default(),
        }
    }
}

impl ListedSpec {
    /// Whether it has all of these labels.
    pub fn has(&self, labels: &[(String, String)]) -> bool {
        labels.iter().all(|wanted| self.labels.contains(wanted))
    }
}

/// The servers that a file with this `text` lists, as YAML or JSON. `file` is its name, for errors; addresses without a port
/// have `port`, unless that is 0.
///
/// # Errors
/// Everything that is wrong with it.
pub fn listed_in(text: &str, file: &str, port: u16) -> Result<Vec<ListedSpec>, Vec<ConfigError>> {
    let known = Known {
        doors: &[],
        backs: &[],
        filters: Vec::new(),
        check_filter: &|_, _| Vec::new(),
        check_tls: &|_| Vec::new(),
        check_rules: &|_| Vec::new(),
        check_http_route: &|_| Vec::new(),
        routes: &|_| None,
        pairs: &|_, _| false,
    };
    let origin = Origin::new(file, text);
    let mut errors = Vec::new();
    let root = Node::parse(text, &mut errors).map_err(|error| vec![origin.locate(error)])?;
    let mut reader = Reader::new(&known, origin, errors);
    let list = reader.listed(&root, port);
    reader.errors().map(|()| list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lists_servers_as_yaml_or_json() {
        let text = "- 10.0.0.1:8080\n- { address: \"[::1]\", weight: 3, zone: a, priority: 2, name: one, labels: { version: v2 } }\n";
        let list = listed_in(text, "a.yaml", 80).unwrap();
        let [first, second] = &list[..] else { panic!("{list:?}") };
        assert_eq!(
            (first.endpoint.to_string(), first.weight, first.priority),
            ("10.0.0.1:8080".into(), 1, 0)
        );
        assert_eq!((second.endpoint.to_string(), second.weight, second.priority), ("[::1]:80".into(), 3, 2));
        assert_eq!((second.zone.as_deref(), second.name.as_deref()), (Some("a"), Some("one")));
        let label = |value: &str| [("version".to_string(), value.to_string())];
        assert!(
            second.has(&label("v2"))
                && !second.has(&label("v1"))
                && !first.has(&label("v2"))
                && first.has(&[])
        );
        let json = r#"[ "a.example:1", { "address": "b:2", "weight": 2 } ]"#;
        assert_eq!(listed_in(json, "a.json", 0).unwrap().len(), 2);
        assert_eq!(listed_in("[]", "a.json", 0), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        let text = "- 10.0.0.1\n- { address: a:1, wieght: 2 }\n- { weight: 1 }\n- { address: b:1, priority: 70000 }\n- a:1\n- { address: a:1 }\n";
        let errors = listed_in(text, "a.yaml", 0).unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6], "{errors:?}");
        assert!(errors.iter().all(|error| error.hint.is_some()), "{errors:?}");
        for text in ["", "a: b", "- [1]", "- {", "just text"] {
            assert!(listed_in(text, "a.yaml", 0).is_err(), "{text}");
        }
    }
}
