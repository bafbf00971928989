//! The schemas beside kafka-protocol, which was made from the same descriptions by others: what one writes the other
//! must read, in every version of every message that both have.

#[path = "support/any.rs"]
mod any;

use any::Any;
use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use kafka_protocol::messages::{ApiKey as Theirs, RequestKind, ResponseKind};
use mecha_kafka::addresses::{Address, Rewritten, rewrite};
use mecha_kafka::guard;
use mecha_kafka::schema::{Field, Kind, MESSAGES, Message, Role};
use mecha_kafka::table::{ApiKey, apis};

/// Decodes a body without its header, and encodes it again; `None` if kafka-protocol lacks the version.
fn through_theirs(message: &Message, version: i16, body: &[u8]) -> Option<(String, Vec<u8>)> {
    let key = Theirs::iter().find(|key| *key as i16 == message.key)?;
    let (mut input, mut out) = (Bytes::copy_from_slice(body), BytesMut::new());
    let said = if message.is_response {
        let kind = match ResponseKind::decode(key, &mut input, version) {
            Ok(kind) => kind,
            Err(error) if is_lacking(&error) => return None,
            Err(error) => panic!("{} version {version}: {error:#}", message.name),
        };
        kind.encode(&mut out, version).unwrap();
        format!("{kind:?}")
    } else {
        let kind = match RequestKind::decode(key, &mut input, version) {
            Ok(kind) => kind,
            Err(error) if is_lacking(&error) => return None,
            Err(error) => panic!("{} version {version}: {error:#}", message.name),
        };
        kind.encode(&mut out, version).unwrap();
        format!("{kind:?}")
    };
    assert!(input.is_empty(), "{} version {version}: {} bytes are left", message.name, input.len());
    Some((said, out.to_vec()))
}

fn is_lacking(error: &impl std::fmt::Display) -> bool {
    format!("{error:#}").contains("not supported by this message type")
}

/// Bytes of the header that a body begins with.
fn header(message: &Message, version: i16) -> usize {
    let is_flexible = message.is_flexible(version);
    match message.is_response {
        false => 8 + usize::from(is_flexible),
        true => usize::from(is_flexible && message.key != ApiKey::API_VERSIONS.0),
    }
}

fn every_version() -> impl Iterator<Item = (&'static Message, i16)> {
    MESSAGES.iter().flat_map(|message| {
        (message.versions.first..=message.versions.last).map(move |version| (message, version))
    })
}

#[test]
fn another_implementation_reads_what_the_schemas_describe() {
    let mut compared = 0;
    for (message, version) in every_version() {
        let mut any = Any { random: Rng::with_seed(7), text: "sentinel", is_full: true };
        let body = any.body(message, version);
        guard::check(message, version, &body)
            .unwrap_or_else(|error| panic!("{} {version}: {error}", message.name));
        let header = header(message, version);
        if let Some((_, again)) = through_theirs(message, version, &body[header..]) {
            assert_eq!(again, body[header..], "{} version {version}", message.name);
            compared += 1;
        }
    }
    assert!(compared > 500, "only {compared} were compared");
}

#[test]
fn no_api_that_another_implementation_knows_is_missing() {
    for theirs in Theirs::iter() {
        let key = ApiKey(theirs as i16);
        assert!(key.api().is_some(), "{theirs:?} has no row in the table");
        let versions = key.versions();
        // What the key promises is more than the codecs have; it must be known here all the same, but for drafts.
        let promised = theirs.valid_versions();
        let last = if theirs == Theirs::InitProducerId { promised.max - 1 } else { promised.max };
        assert!(versions.last >= last, "{theirs:?}: {versions:?}, theirs {promised:?}");
    }
    assert_eq!(apis().count() * 2, MESSAGES.len(), "a schema has no row, or a row no schema");
    for message in &MESSAGES {
        assert!(ApiKey(message.key).api().is_some(), "{} has no row in the table", message.name);
    }
}

#[test]
fn the_table_says_from_which_version_on_there_are_addresses() {
    fn has_address(fields: &'static [Field], version: i16) -> bool {
        fields
            .iter()
            .filter(|field| field.versions.has(version))
            .any(|field| field.role == Role::Host || has_address(field.kind.fields(), version))
    }
    for (message, version) in every_version().filter(|(message, _)| message.is_response) {
        let (key, found) = (ApiKey(message.key), has_address(message.fields, version));
        assert_eq!(key.has_addresses(version), found, "{} version {version}", message.name);
    }
}

/// A host with a port beside it that is no broker's.
const OTHERS: [&str; 2] = ["StreamsGroupHeartbeatResponse", "StreamsGroupDescribeResponse"];

#[test]
fn every_host_with_a_port_is_replaced() {
    fn look(message: &Message, fields: &'static [Field]) {
        for (at, field) in fields.iter().enumerate() {
            look(message, field.kind.fields());
            let next = fields.get(at + 1);
            let looks_like_host = ["host", "address", "endpoint", "listener"]
                .iter()
                .any(|word| field.name.to_lowercase().contains(word));
            let is_text = matches!(field.kind, Kind::String | Kind::Bytes);
            // Members of groups and access control lists have hosts without ports.
            let is_other = ["ClientHost", "HostFilter"].contains(&field.name)
                || message.name.ends_with("AclsResponse")
                || OTHERS.contains(&message.name);
            if looks_like_host && is_text && !is_other {
                assert_eq!(field.role, Role::Host, "{}: {}", message.name, field.name);
                assert!(next.is_some_and(|next| next.role == Role::Port), "{}: {}", message.name, field.name);
            }
            if field.role == Role::Host || field.name == "Port" && !OTHERS.contains(&message.name) {
                let node = fields.iter().take(at).any(|field| field.role == Role::Node);
                assert!(
                    node || field.name == "Port" || message.key == 55,
                    "{}: whose host is it",
                    message.name
                );
                assert!(field.role != Role::None, "{}: a port without a host", message.name);
            }
        }
    }
    MESSAGES.iter().filter(|message| message.is_response).for_each(|message| look(message, message.fields));
}

#[test]
fn no_address_survives_in_any_response() {
    let (mut seen, mut rewritten) = (0, 0);
    for (message, version) in every_version().filter(|(message, _)| message.is_response) {
        for is_full in [true, false, false, false] {
            let mut any = Any { random: Rng::with_seed(seen), text: "sentinel.example", is_full };
            seen += 1;
            let body = any.body(message, version);
            let (mut out, mut asked) = (Vec::new(), 0);
            let mut map = |node: mecha_kafka::addresses::Node<'_>| {
                assert_eq!(node.host, b"sentinel.example");
                assert!((2..100).contains(&node.port) && (2..100).contains(&node.id), "{node:?}");
                asked += 1;
                Address { host: "here".into(), port: 7 }
            };
            let done = rewrite(ApiKey(message.key), version, &body, &mut map, &mut out).unwrap();
            let new = if done == Rewritten::Changed { out } else { body };
            assert_eq!(done == Rewritten::Changed, asked > 0);
            guard::check(message, version, &new).unwrap();
            if let Some((said, again)) = through_theirs(message, version, &new[header(message, version)..]) {
                // Whatever another implementation calls a host with a port.
                let hosts: Vec<_> = said
                    .split("host: \"")
                    .skip(1)
                    .filter(|rest| !rest.starts_with('"'))
                    .filter(|rest| rest.split_once('"').is_some_and(|(_, rest)| rest.starts_with(", port: ")))
                    .collect();
                assert!(hosts.iter().all(|host| host.starts_with("here\", port: 7")), "{said}");
                assert_eq!(hosts.len(), asked, "{} version {version}", message.name);
                if is_full {
                    assert_eq!(again, new[header(message, version)..]);
                }
                rewritten += hosts.len();
            }
        }
    }
    assert!(rewritten > 100, "only {rewritten} addresses were seen");
}
