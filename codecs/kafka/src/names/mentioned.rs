//! What a request is about, for people: the names in it, whatever it asks for.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::schema::Role;
use crate::table::ApiKey;
use crate::tally::values;
use crate::walk::Walk;
use crate::wire::Malformed;

/// Something that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention<'a> {
    /// A group of whatever kind.
    Group(&'a [u8]),
    /// Anything else that has a name: what configuration, access control, a quota or a login is for.
    Other(&'a [u8]),
    /// A topic by its name, or a regular expression over names.
    Topic(&'a [u8]),
    /// A topic by its identity.
    TopicId([u8; 16]),
    /// A transactional producer.
    TransactionalId(&'a [u8]),
}

/// Fields that name something, where that is no topic, group or transactional id.
const OTHERS: [&str; 5] = ["EntityName", "Feature", "Principal", "ResourceName", "ResourceNameFilter"];

/// Users whose logins are changed.
const SCRAM: ApiKey = ApiKey(51);

/// Goes over what a request names, in its order; what it names twice is told twice.
///
/// # Errors
/// See [`Malformed`].
pub fn mentioned<'a>(
    key: ApiKey,
    version: i16,
    body: &'a [u8],
    mention: &mut dyn FnMut(Mention<'a>),
) -> Result<(), Malformed> {
    let message = key.request().ok_or(Malformed::Unknown)?;
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    values(Walk::new(message, version, size)?, body, &mut |field, value| {
        if value.is_empty() {
            return;
        }
        match (field.role, field.name) {
            (Role::Group, _) => mention(Mention::Group(value)),
            (Role::Topic | Role::TopicPattern, _) => mention(Mention::Topic(value)),
            (Role::TransactionalId, _) => mention(Mention::TransactionalId(value)),
            (_, "TopicId" | "TopicIds") => {
                if let Some(id) = value.first_chunk().filter(|id| **id != [0; 16]) {
                    mention(Mention::TopicId(*id));
                }
            }
            (_, name) if OTHERS.contains(&name) || key == SCRAM && name == "Name" => {
                mention(Mention::Other(value));
            }
            _ => {}
        }
    })
}

/// A topic's identity as Kafka's tools print it.
#[must_use]
pub fn topic_id(id: [u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::create_acls_request::AclCreation;
    use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
    use kafka_protocol::messages::{CreateAclsRequest, DeleteTopicsRequest, TopicName};
    use kafka_protocol::protocol::{Request, StrBytes};

    use super::*;
    use crate::guard;

    fn told<R: Request>(version: i16, request: &R) -> Vec<String> {
        let mut body = BytesMut::new();
        guard::encode_request(Some("tester"), request, version, &mut body).unwrap();
        let mut told = Vec::new();
        mentioned(ApiKey(R::KEY), version, &body, &mut |mention| told.push(format!("{mention:?}"))).unwrap();
        told
    }

    #[test]
    fn what_a_request_names_is_told() {
        let name = TopicName(StrBytes::from_static_str("orders"));
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name.clone()]);
        assert_eq!(told(5, &request), [format!("{:?}", Mention::Topic(b"orders"))]);
        let named = DeleteTopicState::default().with_name(Some(name));
        let other = DeleteTopicState::default().with_name(None).with_topic_id(uuid::Uuid::from_u128(7));
        let request = DeleteTopicsRequest::default().with_topics(vec![named, other]);
        let id = 7u128.to_be_bytes();
        let both = [Mention::Topic(b"orders"), Mention::TopicId(id)];
        assert_eq!(told(6, &request), both.map(|mention| format!("{mention:?}")));
        assert_eq!(topic_id(id), "AAAAAAAAAAAAAAAAAAAABw");
        let rule = AclCreation::default()
            .with_resource_name(StrBytes::from_static_str("pay-*"))
            .with_principal(StrBytes::from_static_str("User:eve"));
        let request = CreateAclsRequest::default().with_creations(vec![rule]);
        let both = [Mention::Other(b"pay-*"), Mention::Other(b"User:eve")];
        assert_eq!(told(3, &request), both.map(|mention| format!("{mention:?}")));
    }
}
