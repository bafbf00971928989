//! Errors for requests that are not passed on: what a client reads in them.

#[path = "support/any.rs"]
mod any;

use any::Any;
use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use kafka_protocol::messages::{ApiKey as Theirs, *};
use kafka_protocol::protocol::{Request, StrBytes};
use mecha_kafka::errors::{Code, Reason, codes, refuse};
use mecha_kafka::guard;
use mecha_kafka::schema::Listener;
use mecha_kafka::table::{ApiKey, apis};

const WHY: Reason<'static> =
    Reason { code: Code::POLICY_VIOLATION, message: Some("not here"), throttle_millis: 250 };

/// For clients, and without a place for an error that is for all of it (AlterReplicaLogDirs, old DescribeLogDirs,
/// AlterUserScramCredentials): the connection is closed instead.
const CLOSED: [(i16, i16); 5] = [(34, 1), (34, 2), (35, 1), (35, 2), (51, 0)];

#[test]
fn every_request_has_an_error_that_its_client_reads() {
    let (mut read, mut closed) = (0, Vec::new());
    for api in apis() {
        let (request, response) = (api.key.request().unwrap(), api.key.response().unwrap());
        let versions = api.key.versions();
        for version in versions.first..=versions.last {
            let mut any = Any { random: Rng::with_seed(1), text: "name", is_full: true };
            let (body, mut out) = (any.body(request, version), Vec::new());
            let is_told = refuse(api.key, version, &body, WHY, &mut out).unwrap();
            if !is_told {
                assert!(out.is_empty());
                let is_of_brokers = [27, 83, 84, 85, 86, 87].contains(&api.key.0);
                if request.listeners.contains(&Listener::Broker) && !is_of_brokers {
                    closed.push((api.key.0, version));
                }
                continue;
            }
            guard::check(response, version, &out)
                .unwrap_or_else(|error| panic!("{} version {version}: {error}", api.key.name()));
            let mut seen = Vec::new();
            codes(api.key, version, &out, &mut |code| seen.push(code)).unwrap();
            assert!(seen.contains(&WHY.code), "{} version {version} tells {seen:?}", api.key.name());
            assert!(seen.iter().all(|code| [WHY.code, Code::NONE].contains(code)));
            if let Some(theirs) = Theirs::iter().find(|theirs| *theirs as i16 == api.key.0) {
                let header = usize::from(response.is_flexible(version) && api.key != ApiKey::API_VERSIONS);
                let mut input = Bytes::copy_from_slice(&out[header..]);
                match ResponseKind::decode(theirs, &mut input, version) {
                    Ok(said) => {
                        assert!(input.is_empty());
                        let (mut again, said_text) = (BytesMut::new(), format!("{said:?}"));
                        said.encode(&mut again, version).unwrap();
                        assert_eq!(again, out[header..], "{said_text}");
                        read += 1;
                    }
                    Err(error) => assert!(
                        format!("{error:#}").contains("not supported by this message type"),
                        "{} version {version}: {error:#}",
                        api.key.name()
                    ),
                }
            }
        }
    }
    assert_eq!(closed, CLOSED);
    assert!(read > 250, "only {read} were read");
}

/// The answer to a request that is refused.
fn refused<R: Request>(request: &R, version: i16) -> R::Response {
    let (mut body, mut out) = (BytesMut::new(), Vec::new());
    guard::encode_request(Some("client"), request, version, &mut body).unwrap();
    assert!(refuse(ApiKey(R::KEY), version, &body, WHY, &mut out).unwrap());
    guard::response::<R>(version, Bytes::from(out)).unwrap()
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

#[test]
fn a_producer_hears_about_each_partition() {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let partitions = [3, 8].map(|index| {
        PartitionProduceData::default().with_index(index).with_records(Some(Bytes::from_static(b"r")))
    });
    for version in 3..=13 {
        let topic = TopicProduceData::default().with_partition_data(partitions.to_vec());
        let topic = if version < 13 {
            topic.with_name(TopicName(text("orders")))
        } else {
            topic.with_topic_id(uuid(7))
        };
        let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic.clone()]);
        let response = refused(&request, version);
        assert_eq!(response.throttle_time_ms, 250);
        let [told] = response.responses.as_slice() else { panic!("{response:?}") };
        assert_eq!((&told.name, told.topic_id), (&topic.name, topic.topic_id));
        let told: Vec<_> = told
            .partition_responses
            .iter()
            .map(|one| (one.index, one.error_code, one.base_offset, one.error_message.clone()))
            .collect();
        let message = (version >= 8).then(|| text("not here"));
        assert_eq!(told, [(3, 44, -1, message.clone()), (8, 44, -1, message)], "version {version}");
    }
}

fn uuid(byte: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([byte; 16])
}

#[test]
fn a_consumer_hears_about_each_partition_and_not_about_its_session() {
    use fetch_request::{FetchPartition, FetchTopic};
    for version in 4..=18 {
        let partition = FetchPartition::default().with_partition(5).with_fetch_offset(9);
        let topic = FetchTopic::default().with_partitions(vec![partition]);
        let topic = if version < 13 {
            topic.with_topic(TopicName(text("orders")))
        } else {
            topic.with_topic_id(uuid(7))
        };
        let response = refused(&FetchRequest::default().with_topics(vec![topic.clone()]), version);
        // An error of the session would hide those of the partitions.
        assert_eq!((response.error_code, response.session_id, response.throttle_time_ms), (0, 0, 250));
        let told = &response.responses[0];
        assert_eq!((&told.topic, told.topic_id), (&topic.topic, topic.topic_id));
        let told = &told.partitions[0];
        assert_eq!((told.partition_index, told.error_code, told.high_watermark), (5, 44, -1));
        assert_eq!(told.records, Some(Bytes::new()));
    }
}

#[test]
fn groups_topics_and_resources_are_named_again() {
    let joined = refused(&JoinGroupRequest::default().with_group_id(GroupId(text("g"))), 9);
    assert_eq!((joined.error_code, joined.generation_id), (44, -1));

    for version in 0..=6 {
        let request =
            DescribeGroupsRequest::default().with_groups(vec![GroupId(text("a")), GroupId(text("b"))]);
        let told = refused(&request, version).groups;
        let told: Vec<_> = told.iter().map(|one| (one.group_id.as_str(), one.error_code)).collect();
        assert_eq!(told, [("a", 44), ("b", 44)]);
    }

    let topic = create_topics_request::CreatableTopic::default()
        .with_name(TopicName(text("new")))
        .with_num_partitions(12);
    let told = refused(&CreateTopicsRequest::default().with_topics(vec![topic]), 7).topics;
    assert_eq!((told[0].name.as_str(), told[0].error_code, told[0].num_partitions), ("new", 44, -1));
    assert_eq!(told[0].error_message.as_deref(), Some("not here"));

    let topics = vec![TopicName(text("old"))];
    let told = refused(&DeleteTopicsRequest::default().with_topic_names(topics), 5).responses;
    assert_eq!((told[0].name.as_ref().unwrap().as_str(), told[0].error_code), ("old", 44));

    for (version, keys) in [(3, vec![]), (4, vec![text("g1"), text("g2")])] {
        let key = if version < 4 { text("g1") } else { text("") };
        let request = FindCoordinatorRequest::default().with_key(key).with_coordinator_keys(keys);
        let told = refused(&request, version);
        let codes: Vec<_> =
            told.coordinators.iter().map(|one| (one.key.as_str(), one.error_code, one.port)).collect();
        match version {
            3 => assert_eq!((told.error_code, *told.node_id, told.port), (44, -1, -1)),
            _ => assert_eq!(codes, [("g1", 44, -1), ("g2", 44, -1)]),
        }
    }

    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("orders"));
    let told = refused(&DescribeConfigsRequest::default().with_resources(vec![resource]), 4).results;
    assert_eq!(
        (told[0].resource_type, told[0].resource_name.as_str(), told[0].error_code),
        (2, "orders", 44)
    );
}

#[test]
fn what_is_no_request_is_not_answered() {
    let mut out = Vec::new();
    assert!(refuse(ApiKey::METADATA, 0, b"\xff\xff\x7f\xff\xff\xff\xb6", WHY, &mut out).is_err());
    assert!(!refuse(ApiKey::METADATA, 77, b"\xff\xff", WHY, &mut out).unwrap());
    assert!(!refuse(ApiKey(999), 0, b"\xff\xff", WHY, &mut out).unwrap());
    assert!(out.is_empty());
}
