//! Names in requests and responses: a tenant's own on its side, the cluster's on the other.

#[path = "support/any.rs"]
mod any;

use any::Any;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use fastrand::Rng;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};
use mecha_kafka::guard;
use mecha_kafka::names::{self, Failure, Name, Note, is_understood};
use mecha_kafka::pending::beginning;
use mecha_kafka::schema::{Field, Kind, MESSAGES, Role};
use mecha_kafka::table::{ApiKey, apis};

const PREFIX: &[u8] = b"t1.";

fn add(_: Name, name: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(PREFIX);
    out.extend_from_slice(name);
    true
}

fn strip(_: Name, name: &[u8], out: &mut Vec<u8>) -> bool {
    name.strip_prefix(PREFIX).map(|name| out.extend_from_slice(name)).is_some()
}

/// Texts and bytes of understood messages that were looked at and name no topic, group or transactional id; or are
/// taken care of by their place.
#[rustfmt::skip]
const LOOKED_AT: &[&str] = &[
    // By their place.
    "Assignment", "CoordinatorKeys", "Key", "MemberAssignment", "MemberMetadata", "Metadata", "ResourceName",
    // Not names, or names of something else.
    "AcknowledgeErrorMessage", "AssignorName", "AuthBytes", "BatchIndexErrorMessage", "ClientHost", "ClientId",
    "ClientSoftwareName", "ClientSoftwareVersion", "ClusterId", "CommittedMetadata", "ConfigurationKeys",
    "Documentation", "ErrorMessage", "GroupInstanceId", "GroupState", "GroupType", "Host", "InstanceId", "Leader",
    "Mechanism", "Mechanisms", "MemberId", "Name", "ProtocolData", "ProtocolName", "ProtocolType", "Rack", "RackId",
    "Reason", "Records", "ServerAssignor", "StateFilters", "StatesFilter", "TransactionState", "TypesFilter",
    "UnknownStateFilters", "Value",
];

#[test]
fn no_text_of_an_understood_message_was_overlooked() {
    fn look(message: &str, version: i16, fields: &'static [Field], is_tagged: bool) {
        for field in fields.iter().filter(|field| field.versions.has(version)) {
            let is_tagged = is_tagged || field.tag.is_some();
            look(message, version, field.kind.fields(), is_tagged);
            let is_text = field.kind.is_text() || matches!(field.kind, Kind::Bytes | Kind::Records);
            let is_name =
                [Role::Group, Role::Topic, Role::TopicPattern, Role::TransactionalId].contains(&field.role);
            let is_known = is_name || LOOKED_AT.contains(&field.name);
            assert!(!is_text || is_known, "{message} version {version}: what is {}", field.name);
            assert!(!is_name || !is_tagged, "{message}: {} is tagged, and those are copied", field.name);
        }
    }
    let mut seen = 0;
    for message in &MESSAGES {
        for version in message.versions.first..=message.versions.last {
            if is_understood(ApiKey(message.key), version) {
                look(message.name, version, message.fields, false);
                seen += 1;
            }
        }
    }
    assert!(seen > 300, "only {seen} were looked at");
}

#[test]
fn names_come_back_as_they_went() {
    let (mut note, mut seen) = (Note::default(), 0);
    for api in apis() {
        let versions = api.key.versions();
        for version in versions.first..=versions.last {
            // What is asked of a coordinator is told by the test below.
            if !is_understood(api.key, version) || api.key == ApiKey::FIND_COORDINATOR {
                continue;
            }
            for is_response in [false, true] {
                let message = if is_response { api.key.response() } else { api.key.request() }.unwrap();
                let mut any = Any { random: Rng::with_seed(seen), text: "name", is_full: true };
                let body = any.body(message, version);
                let (mut there, mut back, mut count) = (Vec::new(), Vec::new(), 0);
                let mut map = |name: Name, text: &[u8], out: &mut Vec<u8>| {
                    count += 1;
                    assert_eq!(text, b"name");
                    add(name, text, out)
                };
                let turn = if is_response { names::response } else { names::request };
                turn(api.key, version, &body, &mut note, &mut map, &mut there)
                    .unwrap_or_else(|error| panic!("{} version {version}: {error:?}", message.name));
                guard::check(message, version, &there).unwrap();
                assert_eq!(there.len(), body.len() + count * PREFIX.len());
                turn(api.key, version, &there, &mut note, &mut strip, &mut back).unwrap();
                assert_eq!(back, body, "{} version {version}", message.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 300);
}

#[test]
fn the_beginning_of_a_nameless_request_to_produce_has_all_of_its_names() {
    let key = ApiKey::PRODUCE;
    let last = names::understood(key).last;
    assert!(last >= names::NAMELESS_PRODUCE);
    for version in names::NAMELESS_PRODUCE..=last {
        for seed in 0..20 {
            let mut any = Any { random: Rng::with_seed(seed), text: "name", is_full: seed % 2 == 0 };
            let body = any.body(key.request().unwrap(), version);
            let mut whole = Vec::new();
            names::request(key, version, &body, &mut Note::default(), &mut add, &mut whole).unwrap();
            let (size, _) = beginning(version, body.len() as u32, &body).unwrap().unwrap();
            let mut anew = Vec::new();
            names::beginning(version, &body[..size], &mut add, &mut anew).unwrap();
            anew.extend_from_slice(&body[size..]);
            assert_eq!(anew, whole, "version {version}, seed {seed}");
        }
    }
    let named = names::beginning(names::NAMELESS_PRODUCE - 1, &[0; 20], &mut add, &mut Vec::new());
    assert_eq!(named, Err(Failure::NotUnderstood));
}

#[test]
fn what_is_not_understood_is_refused() {
    for key in [29, 30, 31, 88, 89, 999, 10_001] {
        let mut out = Vec::new();
        let done = names::request(ApiKey(key), 0, b"\xff\xff", &mut Note::default(), &mut add, &mut out);
        assert_eq!(done, Err(Failure::NotUnderstood));
    }
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

/// A request as the broker gets it.
fn sent<R: Request>(request: &R, version: i16, note: &mut Note) -> Result<R, Failure> {
    let (mut body, mut out) = (BytesMut::new(), Vec::new());
    guard::encode_request(Some("client"), request, version, &mut body).unwrap();
    names::request(ApiKey(R::KEY), version, &body, note, &mut add, &mut out)?;
    Ok(guard::request::<R>(version, Bytes::from(out)).unwrap().1)
}

/// A response as the client gets it.
fn told<R: Request>(response: &R::Response, version: i16, note: &mut Note) -> Result<R::Response, Failure> {
    let (mut body, mut out) = (BytesMut::new(), Vec::new());
    guard::encode_response::<R>(response, version, &mut body).unwrap();
    names::response(ApiKey(R::KEY), version, &body, note, &mut strip, &mut out)?;
    Ok(guard::response::<R>(version, Bytes::from(out)).unwrap())
}

#[test]
fn what_is_not_the_tenants_is_left_out_of_responses() {
    use metadata_response::MetadataResponseTopic;
    let topic = |name: &'static str| MetadataResponseTopic::default().with_name(Some(TopicName(text(name))));
    let topics = vec![topic("t2.secret"), topic("t1.orders"), topic("__consumer_offsets"), topic("t1.")];
    for version in 1..=13 {
        let response = MetadataResponse::default().with_topics(topics.clone());
        let told = told::<MetadataRequest>(&response, version, &mut Note::default()).unwrap();
        let names: Vec<_> = told.topics.iter().map(|topic| topic.name.as_ref().unwrap().as_str()).collect();
        assert_eq!(names, ["orders", ""], "version {version}");
    }
    // Where it cannot be left out, the response cannot be told.
    let cursor =
        describe_topic_partitions_response::Cursor::default().with_topic_name(TopicName(text("t2.secret")));
    let response = DescribeTopicPartitionsResponse::default().with_next_cursor(Some(cursor));
    let told = told::<DescribeTopicPartitionsRequest>(&response, 0, &mut Note::default());
    assert_eq!(told, Err(Failure::Foreign(Name::Topic)));
}

#[test]
fn a_coordinator_is_asked_for_by_its_kind() {
    for (kind, version, is_renamed) in [(0, 0, true), (0, 3, true), (1, 3, true), (0, 6, true), (1, 6, true)]
    {
        let mut note = Note::default();
        let request = FindCoordinatorRequest::default().with_key_type(kind);
        let request = if version < 4 {
            request.with_key(text("id"))
        } else {
            request.with_coordinator_keys(vec![text("id"), text("other")])
        };
        let sent = sent(&request, version, &mut note).unwrap();
        let keys: Vec<_> = sent.coordinator_keys.iter().map(StrBytes::as_str).collect();
        match version {
            0..=3 => assert_eq!(sent.key.as_str() == "t1.id", is_renamed),
            _ => assert_eq!(keys, ["t1.id", "t1.other"]),
        }
        if version >= 4 {
            let key = find_coordinator_response::Coordinator::default().with_key(text("t1.id"));
            let response = FindCoordinatorResponse::default().with_coordinators(vec![key]);
            let told = told::<FindCoordinatorRequest>(&response, version, &mut note).unwrap();
            assert_eq!(told.coordinators[0].key.as_str(), "id");
        }
    }
    let share = FindCoordinatorRequest::default().with_key_type(2).with_coordinator_keys(vec![text("g:t:0")]);
    assert_eq!(sent(&share, 6, &mut Note::default()), Err(Failure::NotUnderstood));
}

#[test]
fn resources_are_renamed_by_their_kind() {
    use describe_configs_request::DescribeConfigsResource;
    let resource = |kind, name| {
        DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
    };
    let resources =
        vec![resource(2, "orders"), resource(4, "1"), resource(32, "group"), resource(2, "other")];
    let sent = sent(&DescribeConfigsRequest::default().with_resources(resources), 4, &mut Note::default());
    let sent = sent.unwrap().resources;
    let names: Vec<_> = sent.iter().map(|one| one.resource_name.as_str()).collect();
    assert_eq!(names, ["t1.orders", "1", "t1.group", "t1.other"]);
}

/// A subscription of version 1 with a topic that is owned, and something behind it.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.put_i32(1);
    out.put_i16(topics[0].len() as i16);
    out.put_slice(topics[0].as_bytes());
    out.put_i32(2);
    out.put_u64(7);
    out.put_slice(b"more");
    out.freeze()
}

fn assignment(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
        out.put_i32(1);
        out.put_i32(3);
    }
    out.put_i32(2);
    out.put_slice(b"xy");
    out.freeze()
}

#[test]
fn consumers_understand_each_other() {
    use join_group_request::JoinGroupRequestProtocol;
    use join_group_response::JoinGroupResponseMember;
    use sync_group_request::SyncGroupRequestAssignment;
    for version in 0..=9 {
        let mut note = Note::default();
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(subscription(&["orders", "payments"]));
        let join = JoinGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let sent_join = sent(&join, version, &mut note).unwrap();
        assert_eq!(sent_join.group_id.as_str(), "t1.g");
        assert_eq!(sent_join.protocols[0].metadata, subscription(&["t1.orders", "t1.payments"]));

        let member =
            JoinGroupResponseMember::default().with_metadata(sent_join.protocols[0].metadata.clone());
        let response = JoinGroupResponse::default().with_members(vec![member]);
        let told = told::<JoinGroupRequest>(&response, version, &mut note).unwrap();
        assert_eq!(told.members[0].metadata, subscription(&["orders", "payments"]), "version {version}");

        // What a member is told to do is about the connection's last group, where the version does not say.
        let sync = SyncGroupRequest::default().with_group_id(GroupId(text("g"))).with_assignments(vec![
            SyncGroupRequestAssignment::default().with_assignment(assignment(&["orders"])),
        ]);
        let sent_sync = sent(&sync, version.min(5), &mut note).unwrap();
        assert_eq!(sent_sync.assignments[0].assignment, assignment(&["t1.orders"]));
        let foreign = SyncGroupResponse::default().with_assignment(assignment(&["t2.x", "t1.orders"]));
        let told = self::told::<SyncGroupRequest>(&foreign, version.min(5), &mut note).unwrap();
        assert_eq!(told.assignment, assignment(&["orders"]));
    }
}

#[test]
fn members_of_other_kinds_tell_each_other_what_they_like() {
    let mut note = Note::default();
    let protocol = join_group_request::JoinGroupRequestProtocol::default()
        .with_metadata(Bytes::from_static(b"anything"));
    let join = JoinGroupRequest::default().with_protocol_type(text("connect")).with_protocols(vec![protocol]);
    assert_eq!(sent(&join, 5, &mut note).unwrap().protocols[0].metadata.chunk(), b"anything");
    // A group that nobody on this connection joined may be of any kind.
    let sync = SyncGroupResponse::default().with_assignment(Bytes::from_static(b"?"));
    assert_eq!(told::<SyncGroupRequest>(&sync, 3, &mut Note::default()), Err(Failure::NotUnderstood));
}
