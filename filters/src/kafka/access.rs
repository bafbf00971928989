//! Says who may do what: `deny` forbids what it names, `allow` forbids everything else.

use std::sync::Arc;

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::errors::Code;
use mecha_kafka::names::Name;
use mecha_kafka::schema::Versions;
use mecha_kafka::table::{ApiKey, apis};
use serde::Deserialize;

use super::{Body, Broken, KafkaFactory, KafkaFilter, KafkaKind, Names, Refused, Wants, refused, who};
use crate::Help;

const OPTIONS: &[FilterOption] = &[
    FilterOption {
        name: "apis",
        takes: Takes::Texts,
        without: Without::Means("all"),
        about: "as Kafka names them: Produce, Fetch, CreateTopics",
    },
    FilterOption {
        name: "topics",
        takes: Takes::Texts,
        without: Without::Means("all"),
        about: "names of topics; * at the end stands for anything",
    },
    FilterOption {
        name: "groups",
        takes: Takes::Texts,
        without: Without::Means("all"),
        about: "names of groups, in the same way",
    },
    FilterOption {
        name: "transactional_ids",
        takes: Takes::Texts,
        without: Without::Means("all"),
        about: "transactional ids, in the same way",
    },
    FilterOption {
        name: "users",
        takes: Takes::Texts,
        without: Without::Means("everybody"),
        about: "users, or names in certificates, for whom it holds; * at the end stands for anything",
    },
];

pub(super) static DENY: KafkaKind = KafkaKind {
    name: "deny",
    help: Help {
        summary: "Refuses requests by API, topic, group and user.",
        options: OPTIONS,
        docs: "A request is refused if its API is named and one of its names is. Clients get the errors of missing authorization, and do not see\n\
               such topics and groups in lists. Names are looked at in versions that have them, so those that name topics by identity only\n\
               are not offered where `topics` stands.",
        example: "- deny: { apis: [DeleteTopics, CreateTopics], users: [\"app-*\"] }",
    },
    build: |options, _| build(options, false).map(|rule| Box::new(rule) as Box<dyn KafkaFactory>),
};

pub(super) static ALLOW: KafkaKind = KafkaKind {
    name: "allow",
    help: Help {
        summary: "Refuses all requests but some, by API, topic, group and user.",
        options: OPTIONS,
        docs: "A request passes if its API is named and all of its names are. What clients need to begin passes always: ApiVersions, logins.\n\
               Otherwise as `deny`. With `users`, it says nothing about others.",
        example: "- allow: { apis: [Metadata, Fetch, ListOffsets], topics: [\"public.*\"], users: [reader] }",
    },
    build: |options, _| build(options, true).map(|rule| Box::new(rule) as Box<dyn KafkaFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccess {
    apis: Option<Vec<String>>,
    topics: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    transactional_ids: Option<Vec<String>>,
    users: Option<Vec<String>>,
}

#[derive(Clone)]
struct Access(Arc<Rule>);

struct Rule {
    is_allow: bool,
    apis: Option<Vec<ApiKey>>,
    topics: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    transactional_ids: Option<Vec<String>>,
    users: Option<Vec<String>>,
}

/// The API with this name.
pub(super) fn api(name: &str) -> Option<ApiKey> {
    apis().map(|api| api.key).find(|key| key.name().eq_ignore_ascii_case(name))
}

/// Says which of these are no APIs.
pub(super) fn complain<'a>(
    options: &Options,
    option: &str,
    names: impl IntoIterator<Item = &'a String>,
    errors: &mut Vec<ConfigError>,
) {
    for name in names.into_iter().filter(|name| api(name).is_none()) {
        let hint = "as Kafka names them, as in `Produce`, `Fetch`, `DeleteTopics`";
        errors.push(options.error(option, format!("Kafka has no `{name}`")).hint(hint));
    }
}

fn build(options: &Options, is_allow: bool) -> Result<Access, Vec<ConfigError>> {
    let raw: RawAccess = options.check(|raw: &RawAccess, errors| {
        complain(options, "apis", raw.apis.iter().flatten(), errors);
        let lists = [&raw.topics, &raw.groups, &raw.transactional_ids];
        if raw.apis.is_none() && lists.iter().all(|list| list.is_none()) {
            errors.push(options.error("", "says nothing").hint("as in `{ apis: [DeleteTopics] }`"));
        }
    })?;
    Ok(Access(Arc::new(Rule {
        is_allow,
        apis: raw.apis.map(|names| names.iter().filter_map(|name| api(name)).collect()),
        topics: raw.topics,
        groups: raw.groups,
        transactional_ids: raw.transactional_ids,
        users: raw.users,
    })))
}

/// What clients are told that print what they are told.
const MESSAGE: &str = "a rule of mecha forbids this";

/// Whether a name is one of these.
pub(super) fn is_one(patterns: &[String], name: &[u8]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start.as_bytes()),
        None => name == pattern.as_bytes(),
    })
}

impl KafkaFactory for Access {
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter> {
        let user = who(peer).unwrap_or_default();
        let is_for = self.0.users.as_ref().is_none_or(|users| is_one(users, user.as_bytes()));
        Box::new(Judge { rule: is_for.then(|| Arc::clone(&self.0)), names: Names::default() })
    }
}

struct Judge {
    /// `None` if it is for others.
    rule: Option<Arc<Rule>>,
    names: Names,
}

impl Rule {
    fn has_api(&self, key: ApiKey) -> bool {
        self.apis.as_ref().is_none_or(|apis| apis.contains(&key))
    }

    fn has_names(&self) -> bool {
        self.topics.is_some() || self.groups.is_some() || self.transactional_ids.is_some()
    }

    /// Whether a name may stand in a request that the rule is about.
    fn may(&self, name: Name, text: &[u8]) -> bool {
        let list = match name {
            Name::Group => &self.groups,
            Name::Topic => &self.topics,
            // What it matches, only the broker knows.
            Name::TopicPattern => return self.topics.is_none(),
            Name::TransactionalId => &self.transactional_ids,
        };
        list.as_ref().is_none_or(|list| is_one(list, text) == self.is_allow)
    }

    /// APIs that clients need before anybody can say who they are, or to go on at all.
    fn is_open(key: ApiKey) -> bool {
        [ApiKey::API_VERSIONS, ApiKey::SASL_HANDSHAKE, ApiKey::SASL_AUTHENTICATE].contains(&key)
    }
}

fn error(name: Name) -> (Code, &'static str) {
    let code = match name {
        Name::Group => Code::GROUP_AUTHORIZATION_FAILED,
        Name::Topic | Name::TopicPattern => Code::TOPIC_AUTHORIZATION_FAILED,
        Name::TransactionalId => Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    };
    (code, MESSAGE)
}

impl KafkaFilter for Judge {
    fn serves(&self, key: ApiKey, versions: Versions) -> Versions {
        if self.rule.as_ref().is_none_or(|rule| rule.topics.is_none()) {
            return versions;
        }
        let last = match key {
            // From the next version on they name topics by identity only.
            ApiKey::FETCH | ApiKey::PRODUCE => 12,
            ApiKey::DELETE_TOPICS => 5,
            ApiKey::METADATA => 9,
            ApiKey::SHARE_FETCH | ApiKey::SHARE_ACKNOWLEDGE => return Versions::NONE,
            _ => return versions,
        };
        versions.and(Versions { first: 0, last })
    }

    fn wants(&self, key: ApiKey, version: i16) -> Wants {
        match &self.rule {
            Some(rule) if Rule::is_open(key) && !rule.has_names() => Wants::Nothing,
            Some(rule) if !rule.has_names() => Wants::Request,
            Some(_) if Rule::is_open(key) => Wants::Nothing,
            Some(_) => Names::wants(key, version).max(Wants::Request),
            None => Wants::Nothing,
        }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        let Some(rule) = &self.rule else { return Ok(()) };
        let denied = || Refused::With(Code::denied(request.key), MESSAGE);
        let is_named = rule.has_api(request.key);
        if rule.is_allow && !is_named || !rule.is_allow && is_named && !rule.has_names() {
            return Err(denied());
        }
        if !rule.has_names() {
            return Ok(());
        }
        let only = Versions { first: request.version, last: request.version };
        if self.serves(request.key, only).is_empty() {
            let message = "this version names topics by identity only";
            return Err(Refused::With(Code::UNSUPPORTED_VERSION, message));
        }
        let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(text);
            !is_named || rule.may(name, text)
        };
        self.names.request(request, &mut map).map_err(|failure| refused(failure, error))
    }

    fn on_response(&mut self, response: &mut Body<'_>) -> Result<(), Broken> {
        let Some(rule) = self.rule.as_ref().filter(|rule| rule.has_names()) else { return Ok(()) };
        let is_named = rule.has_api(response.key);
        let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(text);
            !is_named || name == Name::TopicPattern || rule.may(name, text)
        };
        self.names.response(response, &mut map)
    }
}

#[cfg(test)]
mod tests {
    use mecha_kafka::messages::create_topics_request::CreatableTopic;
    use mecha_kafka::messages::list_groups_response::ListedGroup;
    use mecha_kafka::messages::{
        CreateTopicsRequest, DescribeClusterRequest, GroupId, ListGroupsRequest, ListGroupsResponse,
        TopicName,
    };
    use mecha_kafka::protocol::StrBytes;

    use super::super::testing::{answer, ask, open, open_for, wrong};
    use super::*;
    use crate::testing::PEER;

    fn creating(names: &[&'static str]) -> CreateTopicsRequest {
        let topic = |name: &&'static str| {
            CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_num_partitions(1)
        };
        CreateTopicsRequest::default().with_topics(names.iter().map(topic).collect())
    }

    #[test]
    fn apis_and_names_are_denied_together() {
        let mut filter = open(&DENY, "- deny: { apis: [createtopics], topics: [secret, \"x.*\"] }");
        assert!(ask(&mut *filter, 7, &creating(&["open", "secrets"])).is_ok());
        for names in [&["open", "secret"][..], &["x.y"]] {
            let refused = ask(&mut *filter, 7, &creating(names)).unwrap_err();
            assert!(matches!(refused, Refused::With(Code::TOPIC_AUTHORIZATION_FAILED, _)), "{names:?}");
        }
        // Every name, for one user.
        let example = "- deny: { apis: [CreateTopics], users: [\"app-*\"] }";
        for (user, is_denied) in [("app-1", true), ("admin", false)] {
            let mut filter = open_for(&DENY, example, &Peer { user: Some(user.into()), ..PEER.clone() });
            assert_eq!(ask(&mut *filter, 7, &creating(&["open"])).is_err(), is_denied, "{user}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_denied_and_not_seen() {
        let mut filter = open(&ALLOW, "- allow: { apis: [ListGroups, CreateTopics], groups: [mine] }");
        assert!(ask(&mut *filter, 7, &creating(&["any"])).is_ok());
        let refused = ask(&mut *filter, 0, &DescribeClusterRequest::default()).unwrap_err();
        assert!(matches!(refused, Refused::With(Code::CLUSTER_AUTHORIZATION_FAILED, _)));
        let (_, note) = ask(&mut *filter, 4, &ListGroupsRequest::default()).unwrap();
        let group = |name| ListedGroup::default().with_group_id(GroupId(StrBytes::from_static_str(name)));
        let told = ListGroupsResponse::default().with_groups(vec![group("mine"), group("other")]);
        let told = answer::<ListGroupsRequest>(&mut *filter, 4, (&told, note));
        assert_eq!(told.groups.len(), 1);
        assert_eq!(filter.wants(ApiKey::API_VERSIONS, 3), Wants::Nothing);
        let text = wrong(&ALLOW, "- allow: { apis: [Produse] }");
        assert!(text.contains("Produse"), "{text}");
    }
}
