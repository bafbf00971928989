//! Gives each tenant names of its own in one cluster.
//!
//! What a client calls `orders` is `tenant-a.orders` in the cluster: topics, groups and transactional ids, in requests and in
//! responses. What others have is in no response. APIs of which nobody knows where all names are get an error.

use std::sync::Arc;

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::errors::Code;
use mecha_kafka::names::{self, Name, own_pattern, pattern};
use mecha_kafka::schema::Versions;
use mecha_kafka::table::ApiKey;
use serde::Deserialize;

use super::{Body, Broken, KafkaFactory, KafkaFilter, KafkaKind, Names, Refused, Wants, refused, who};
use crate::Help;

pub(super) static KIND: KafkaKind = KafkaKind {
    name: "topic_prefix",
    help: Help {
        summary: "Gives each tenant topics, groups and transactional ids of its own.",
        options: &[FilterOption {
            name: "prefix",
            takes: Takes::Text,
            without: Without::Nothing,
            about: "what stands before names in the cluster; $(user) is the client's user, or the name in its certificate",
        }],
        docs: "Clients see names without it, and nobody else's. Requests whose names are not all known get UNSUPPORTED_VERSION: access\n\
               control lists, among others. A client without a name gets errors where the prefix has `$(user)`.",
        example: "- topic_prefix: { prefix: \"$(user).\" }",
    },
    build: |options, _| build(options).map(|prefix| Box::new(prefix) as Box<dyn KafkaFactory>),
};

/// What stands for the client's user.
const USER: &str = "$(user)";

/// The longest name of a topic (`Topic.MAX_NAME_LENGTH` of Kafka), in bytes.
pub(super) const MAX_TOPIC: usize = 249;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrefix {
    prefix: String,
}

struct TopicPrefix {
    prefix: String,
}

/// Whether a topic may have such a name.
pub(super) fn is_topic(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn build(options: &Options) -> Result<TopicPrefix, Vec<ConfigError>> {
    let raw: RawPrefix = options.check(|raw: &RawPrefix, errors| {
        let fixed = raw.prefix.replace(USER, "");
        if raw.prefix.is_empty() || !is_topic(&fixed) || raw.prefix.len() > MAX_TOPIC / 2 {
            let hint = "letters, digits, `.`, `_` and `-`, and `$(user)`, as in `tenant-a.`";
            errors.push(options.error("prefix", "no topic may begin so").hint(hint));
        }
    })?;
    Ok(TopicPrefix { prefix: raw.prefix })
}

impl KafkaFactory for TopicPrefix {
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter> {
        let user = who(peer).filter(|user| is_topic(user));
        let prefix: Option<Arc<str>> = match user {
            _ if !self.prefix.contains(USER) => Some(self.prefix.as_str().into()),
            user => user.map(|user| self.prefix.replace(USER, user).into()),
        };
        Box::new(Prefix { prefix, names: Names::default() })
    }
}

struct Prefix {
    /// `None`: nobody knows who the client is, or no topic may be called so.
    prefix: Option<Arc<str>>,
    names: Names,
}

/// A name as the cluster has it.
fn outer(prefix: &str, name: Name, inner: &[u8], out: &mut Vec<u8>) -> bool {
    if name == Name::TopicPattern {
        let Some(whole) = std::str::from_utf8(inner).ok().and_then(|inner| pattern(prefix, inner)) else {
            return false;
        };
        out.extend_from_slice(whole.as_bytes());
        return true;
    }
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(inner);
    name != Name::Topic || out.len() <= MAX_TOPIC
}

/// A name as the client has it; false if it is not the client's.
fn inner(prefix: &str, name: Name, outer: &[u8], out: &mut Vec<u8>) -> bool {
    let own = match name {
        Name::TopicPattern => {
            let own = std::str::from_utf8(outer).ok().and_then(|outer| own_pattern(prefix, outer));
            own.map(str::as_bytes)
        }
        _ => outer.strip_prefix(prefix.as_bytes()),
    };
    out.extend_from_slice(own.unwrap_or_default());
    own.is_some()
}

fn error(name: Name) -> (Code, &'static str) {
    match name {
        Name::Group => (Code::GROUP_AUTHORIZATION_FAILED, "there is no such group for this client"),
        Name::Topic => (Code::INVALID_TOPIC, "the name is too long with the prefix that it has here"),
        Name::TopicPattern => {
            (Code::INVALID_REGULAR_EXPRESSION, "the pattern cannot be kept to this client's topics")
        }
        Name::TransactionalId => {
            (Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "there is no such transactional id for this client")
        }
    }
}

impl KafkaFilter for Prefix {
    fn serves(&self, key: ApiKey, versions: Versions) -> Versions {
        names::understood(key).and(versions)
    }

    fn wants(&self, key: ApiKey, version: i16) -> Wants {
        match Names::wants(key, version) {
            // It will be refused.
            Wants::Beginning if self.prefix.is_none() => Wants::Request,
            wants => wants,
        }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        let Some(prefix) = &self.prefix else {
            let message = "mecha does not know who this client is, and so not what its names are";
            return Err(Refused::With(Code::denied(request.key), message));
        };
        let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| outer(prefix, name, text, out);
        self.names.request(request, &mut map).map_err(|failure| refused(failure, error))
    }

    fn on_response(&mut self, response: &mut Body<'_>) -> Result<(), Broken> {
        let Some(prefix) = &self.prefix else { return Err(Broken) };
        let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| inner(prefix, name, text, out);
        self.names.response(response, &mut map)
    }
}

#[cfg(test)]
mod tests {
    use mecha_kafka::messages::metadata_response::MetadataResponseTopic;
    use mecha_kafka::messages::{ListGroupsRequest, MetadataRequest, MetadataResponse, TopicName};
    use mecha_kafka::protocol::StrBytes;

    use super::super::testing::{answer, ask, open, open_for, wrong};
    use super::*;
    use crate::testing::PEER;

    fn topic(name: &'static str) -> TopicName {
        TopicName(StrBytes::from_static_str(name))
    }

    #[test]
    fn names_have_the_prefix_in_the_cluster_and_not_for_the_client() {
        let mut filter = open(&KIND, "- topic_prefix: { prefix: a. }");
        let asked = MetadataRequest::default().with_topics(Some(vec![
            mecha_kafka::messages::metadata_request::MetadataRequestTopic::default()
                .with_name(Some(topic("orders"))),
        ]));
        let (asked, note) = ask(&mut *filter, 12, &asked).unwrap();
        assert_eq!(asked.topics.unwrap()[0].name, Some(topic("a.orders")));
        let named = |name| MetadataResponseTopic::default().with_name(Some(topic(name)));
        let told =
            MetadataResponse::default().with_topics(vec![named("a.orders"), named("b.orders"), named("a.")]);
        let told = answer::<MetadataRequest>(&mut *filter, 12, (&told, note));
        let names: Vec<_> = told.topics.iter().map(|topic| topic.name.clone().unwrap()).collect();
        assert_eq!(names, [topic("orders"), topic("")]);
    }

    #[test]
    fn the_prefix_can_be_the_users_and_nobody_has_none() {
        let peer = Peer { user: Some("alice".into()), ..PEER.clone() };
        let mut filter = open_for(&KIND, KIND.help.example, &peer);
        assert!(ask(&mut *filter, 4, &ListGroupsRequest::default()).is_ok());
        for user in [None, Some("a/b".into())] {
            let mut filter = open_for(&KIND, KIND.help.example, &Peer { user, ..PEER.clone() });
            let refused = ask(&mut *filter, 4, &ListGroupsRequest::default()).unwrap_err();
            assert!(matches!(
                refused,
                Refused::With(Code::GROUP_AUTHORIZATION_FAILED | Code::CLUSTER_AUTHORIZATION_FAILED, _)
            ));
        }
        assert!(wrong(&KIND, "- topic_prefix: { prefix: 'a/' }").contains("no topic may begin so"));
    }

    #[test]
    fn what_is_not_understood_is_not_offered() {
        let filter = open(&KIND, "- topic_prefix: { prefix: a. }");
        // Access control lists.
        assert!(filter.serves(ApiKey(29), Versions { first: 0, last: 3 }).is_empty());
        assert_eq!(filter.serves(ApiKey::FETCH, Versions { first: 4, last: 30 }).last, 18);
    }
}
