//! Gives topics other names for clients than they have in the cluster.
//!
//! What clients call `orders` may be `orders-v2` in the cluster: in requests and in responses, in every place that has a name of a topic.
//! Each topic has one name for a client, and each name is one topic's, or nothing could be led back: so a topic of the
//! cluster whose name clients use for another has none and is not seen, and the cluster's name of a renamed one is no topic's for
//! clients. What asks for that all the same is passed on by a name that no topic can have, and brokers refuse it themselves,
//! in the one place that it is about.

use std::collections::HashMap;
use std::sync::Arc;

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::errors::Code;
use mecha_kafka::names::{self, Name};
use mecha_kafka::schema::Versions;
use mecha_kafka::table::ApiKey;
use serde::Deserialize;

use super::access::is_one;
use super::topic_prefix::{MAX_TOPIC, is_topic};
use super::{Body, Broken, KafkaFactory, KafkaFilter, KafkaKind, Names, Refused, Wants, refused, who};
use crate::Help;

pub(super) static KIND: KafkaKind = KafkaKind {
    name: "topic_rename",
    help: Help {
        summary: "Gives topics other names than they have in the cluster.",
        options: &[
            FilterOption {
                name: "topics",
                takes: Takes::Texts,
                without: Without::Nothing,
                about: "what clients call a topic, =, and what the cluster calls it: orders=orders-v2",
            },
            FilterOption {
                name: "users",
                takes: Takes::Texts,
                without: Without::Means("everybody"),
                about: "users, or names in certificates, for whom it holds; * at the end stands for anything",
            },
        ],
        docs: "Other topics keep their names. A topic of the cluster that is called as clients call a renamed one is not seen by them, and the\n\
               cluster's name of a renamed one is unknown to them. Requests whose names are not all known get UNSUPPORTED_VERSION, and\n\
               regular expressions that brokers would match (KIP-848) INVALID_REGULAR_EXPRESSION; those that clients match work.",
        example: "- topic_rename: { topics: [\"orders=orders-v2\", \"audit=compliance.audit\"] }",
    },
    build: |options, _| build(options).map(|rename| Box::new(rename) as Box<dyn KafkaFactory>),
};

/// Stands before the names that are no topic's for clients; no topic's name may have it.
const NOBODY: u8 = b'!';

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRename {
    topics: Vec<String>,
    users: Option<Vec<String>>,
}

#[derive(Clone)]
struct TopicRename(Arc<Rule>);

struct Rule {
    /// By clients' names, and by the cluster's.
    outer: HashMap<Box<[u8]>, Box<[u8]>>,
    inner: HashMap<Box<[u8]>, Box<[u8]>>,
    users: Option<Vec<String>>,
}

fn pair(text: &str) -> Option<(&str, &str)> {
    let is_name = |name: &str| !name.is_empty() && name.len() <= MAX_TOPIC && is_topic(name);
    text.split_once('=').filter(|(inner, outer)| is_name(inner) && is_name(outer))
}

fn build(options: &Options) -> Result<TopicRename, Vec<ConfigError>> {
    let raw: RawRename = options.check(|raw: &RawRename, errors| {
        if raw.topics.is_empty() {
            errors.push(options.error("topics", "renames nothing").hint("as in `[\"orders=orders-v2\"]`"));
        }
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        for text in &raw.topics {
            let Some((client, cluster)) = pair(text) else {
                let hint = "two names of topics, as in `orders=orders-v2`: clients' first";
                errors.push(options.error("topics", format!("`{text}` is no pair of names")).hint(hint));
                continue;
            };
            for (names, name) in [(&mut inner, client), (&mut outer, cluster)] {
                if names.contains(&name) {
                    let hint = "each topic has one name for clients, and each name is one topic's";
                    errors.push(options.error("topics", format!("`{name}` is there twice")).hint(hint));
                }
                names.push(name);
            }
        }
    })?;
    let pairs = || raw.topics.iter().filter_map(|text| pair(text));
    let bytes = |name: &str| Box::from(name.as_bytes());
    Ok(TopicRename(Arc::new(Rule {
        outer: pairs().map(|(client, cluster)| (bytes(client), bytes(cluster))).collect(),
        inner: pairs().map(|(client, cluster)| (bytes(cluster), bytes(client))).collect(),
        users: raw.users,
    })))
}

impl KafkaFactory for TopicRename {
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter> {
        let user = who(peer).unwrap_or_default();
        let is_for = self.0.users.as_ref().is_none_or(|users| is_one(users, user.as_bytes()));
        Box::new(Renaming { rule: is_for.then(|| Arc::clone(&self.0)), names: Names::default() })
    }
}

struct Renaming {
    /// `None` if it is for others.
    rule: Option<Arc<Rule>>,
    names: Names,
}

impl Rule {
    /// A name as the cluster has it.
    fn outer(&self, name: Name, inner: &[u8], out: &mut Vec<u8>) -> bool {
        match name {
            Name::Topic => match self.outer.get(inner) {
                Some(outer) => out.extend_from_slice(outer),
                None => {
                    if self.inner.contains_key(inner) {
                        out.push(NOBODY);
                    }
                    out.extend_from_slice(inner);
                }
            },
            // What it would match, it would match by the cluster's names.
            Name::TopicPattern => return false,
            Name::Group | Name::TransactionalId => out.extend_from_slice(inner),
        }
        true
    }

    /// A name as clients have it; false if it has none for them.
    fn inner(&self, name: Name, outer: &[u8], out: &mut Vec<u8>) -> bool {
        let topic = || match (self.inner.get(outer), outer) {
            (Some(inner), _) => Some(&**inner),
            (None, [NOBODY, asked @ ..]) if self.inner.contains_key(asked) => Some(asked),
            (None, _) => (!self.outer.contains_key(outer)).then_some(outer),
        };
        let inner = if name == Name::Topic { topic() } else { Some(outer) };
        out.extend_from_slice(inner.unwrap_or_default());
        inner.is_some()
    }
}

fn error(name: Name) -> (Code, &'static str) {
    match name {
        Name::TopicPattern => {
            (Code::INVALID_REGULAR_EXPRESSION, "brokers would match it with other names than clients have")
        }
        Name::Group => (Code::GROUP_AUTHORIZATION_FAILED, "there is no such group for this client"),
        Name::Topic | Name::TransactionalId => {
            (Code::INVALID_TOPIC, "there is no such topic for this client")
        }
    }
}

impl KafkaFilter for Renaming {
    fn serves(&self, key: ApiKey, versions: Versions) -> Versions {
        if self.rule.is_some() { names::understood(key).and(versions) } else { versions }
    }

    fn wants(&self, key: ApiKey, version: i16) -> Wants {
        if self.rule.is_some() { Names::wants(key, version) } else { Wants::Nothing }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        let Some(rule) = &self.rule else { return Ok(()) };
        let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| rule.outer(name, text, out);
        self.names.request(request, &mut map).map_err(|failure| refused(failure, error))
    }

    fn on_response(&mut self, response: &mut Body<'_>) -> Result<(), Broken> {
        let Some(rule) = &self.rule else { return Ok(()) };
        let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| rule.inner(name, text, out);
        self.names.response(response, &mut map)
    }
}

#[cfg(test)]
mod tests {
    use mecha_kafka::messages::metadata_request::MetadataRequestTopic;
    use mecha_kafka::messages::metadata_response::MetadataResponseTopic;
    use mecha_kafka::messages::{
        ConsumerGroupHeartbeatRequest, MetadataRequest, MetadataResponse, TopicName,
    };
    use mecha_kafka::protocol::StrBytes;

    use super::super::testing::{answer, ask, open, open_for, wrong};
    use super::*;
    use crate::testing::PEER;

    fn name(name: &'static str) -> TopicName {
        TopicName(StrBytes::from_static_str(name))
    }

    /// What the cluster is asked for, and what the client is told of what the cluster has.
    fn both(filter: &mut dyn KafkaFilter, asked: &[&'static str], has: &[&'static str]) -> [Vec<String>; 2] {
        let topic = |text: &&'static str| MetadataRequestTopic::default().with_name(Some(name(text)));
        let request = MetadataRequest::default().with_topics(Some(asked.iter().map(topic).collect()));
        let (request, note) = ask(filter, 12, &request).unwrap();
        let topic = |text: &&'static str| MetadataResponseTopic::default().with_name(Some(name(text)));
        let response = MetadataResponse::default().with_topics(has.iter().map(topic).collect());
        let response = answer::<MetadataRequest>(filter, 12, (&response, note));
        let asked = request.topics.unwrap().into_iter().map(|topic| topic.name.unwrap().to_string());
        let told = response.topics.into_iter().map(|topic| topic.name.unwrap().to_string());
        [asked.collect(), told.collect()]
    }

    #[test]
    fn each_topic_has_one_name_and_each_name_one_topic() {
        let mut filter = open(&KIND, "- topic_rename: { topics: [orders=orders-v2] }");
        // The cluster's own orders are not seen, and its name for the others is nobody's.
        let asked = both(
            &mut *filter,
            &["orders", "other", "orders-v2"],
            &["orders-v2", "other", "orders", "!orders-v2"],
        );
        assert_eq!(asked[0], ["orders-v2", "other", "!orders-v2"]);
        assert_eq!(asked[1], ["orders", "other", "orders-v2"]);
        // Two may change their names with each other.
        let mut filter = open(&KIND, "- topic_rename: { topics: [a=b, b=a] }");
        assert_eq!(both(&mut *filter, &["a", "b"], &["a", "b"]), [["b", "a"], ["b", "a"]]);
    }

    #[test]
    fn it_holds_for_some_and_not_for_others() {
        let example = "- topic_rename: { topics: [a=b], users: [\"app-*\"] }";
        for (user, asked) in [("app-1", "b"), ("admin", "a")] {
            let mut filter = open_for(&KIND, example, &Peer { user: Some(user.into()), ..PEER.clone() });
            if user == "admin" {
                assert_eq!(filter.wants(ApiKey::METADATA, 12), Wants::Nothing);
                assert_eq!(filter.serves(ApiKey(29), Versions { first: 0, last: 3 }).last, 3);
            } else {
                assert_eq!(both(&mut *filter, &["a"], &[])[0], [asked]);
                assert!(filter.serves(ApiKey(29), Versions { first: 0, last: 3 }).is_empty());
            }
        }
    }

    #[test]
    fn what_brokers_would_match_by_other_names_is_refused() {
        let mut filter = open(&KIND, "- topic_rename: { topics: [a=b] }");
        let request = |pattern: Option<&'static str>| {
            ConsumerGroupHeartbeatRequest::default()
                .with_subscribed_topic_regex(pattern.map(StrBytes::from_static_str))
        };
        assert!(ask(&mut *filter, 1, &request(None)).is_ok());
        let refused = ask(&mut *filter, 1, &request(Some("a.*"))).unwrap_err();
        assert!(matches!(refused, Refused::With(Code::INVALID_REGULAR_EXPRESSION, _)));
        for (topics, told) in [("[]", "renames nothing"), ("[a=b, c=b]", "twice"), ("[a=b/c, a]", "no pair")]
        {
            assert!(wrong(&KIND, &format!("- topic_rename: {{ topics: {topics} }}")).contains(told));
        }
    }
}
