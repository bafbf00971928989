//! Requests that are taken apart, and answers that are made one: nothing is lost, and nothing goes to the wrong broker.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeProducersRequest,
    FetchRequest, FindCoordinatorRequest, FindCoordinatorResponse, GroupId, ListGroupsRequest,
    ListGroupsResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetFetchRequest, ProduceRequest, TopicName, delete_records_request, describe_configs_request,
    describe_producers_request, fetch_request, find_coordinator_response, list_groups_response,
    list_offsets_request, list_offsets_response, metadata_response, offset_fetch_request, produce_request,
};
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use mecha_kafka::guard;
use mecha_kafka::route::learn::{self, Kept};
use mecha_kafka::route::{
    Key, Plan, Serves, Topic, first_partition, is_continued, merge, serves, without_rack,
};
use mecha_kafka::table::{ApiKey, Class, apis};
use proptest::prelude::*;
use uuid::Uuid;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn name(at: usize) -> TopicName {
    TopicName(text(&format!("topic-{at}")))
}

fn body<R: Request + Encodable>(request: &R, version: i16) -> Vec<u8> {
    let mut body = BytesMut::new();
    guard::encode_request(Some("client"), request, version, &mut body).unwrap();
    body.to_vec()
}

/// Who is asked, in these tests: one of three brokers, and nobody for some partitions.
fn place(key: Key<'_>) -> Option<i32> {
    match key {
        Key::Partition(_, index) if index % 4 == 3 => None,
        Key::Partition(Topic::Name(name), index) => Some((name.len() as i32 + index) % 3),
        Key::Partition(Topic::Id(id), index) => Some((i32::from(id[0]) + index) % 3),
        Key::Group(name) | Key::Transaction(name) => Some(name.len() as i32 % 3),
        Key::Node(broker) => Some(broker),
    }
}

/// The parts of a request, each with its broker.
fn parts<R: Request + Encodable>(request: &R, version: i16) -> Vec<(i32, R)> {
    let body = body(request, version);
    let mut plan = Plan::default();
    plan.read(ApiKey(R::KEY), version, &body, &mut place).unwrap();
    assert!(plan.is_split());
    let part = |(at, broker)| {
        let mut out = Vec::new();
        plan.write(&body, broker, at == 0, &mut out);
        let (client, part) = guard::request::<R>(version, Bytes::from(out)).unwrap();
        assert_eq!(client.as_deref(), Some("client"));
        (broker, part)
    };
    plan.brokers().enumerate().map(part).collect()
}

/// Topics with partitions, in which every topic has one at least.
fn topics() -> impl Strategy<Value = Vec<BTreeSet<i32>>> {
    proptest::collection::vec(proptest::collection::btree_set(0..40i32, 1..9), 1..6)
}

/// What came out of the parts is what was there, and each is where it belongs.
fn assert_all(topics: &[BTreeSet<i32>], parts: &[(i32, Vec<(String, i32)>)]) {
    let whole = topics.iter().enumerate();
    let mut expected: Vec<_> =
        whole.flat_map(|(at, of)| of.iter().map(move |index| (format!("topic-{at}"), *index))).collect();
    let mut got: Vec<_> = parts.iter().flat_map(|(_, part)| part.clone()).collect();
    expected.sort();
    got.sort();
    assert_eq!(expected, got);
    let first = parts.first().map(|(broker, _)| *broker);
    for (broker, part) in parts {
        for (name, index) in part {
            let goes = place(Key::Partition(Topic::Name(name), *index));
            assert_eq!(goes.or(first), Some(*broker), "{name} {index}");
        }
    }
}

proptest! {
    #[test]
    fn what_names_partitions_is_taken_apart_by_their_leaders(topics in topics()) {
        // With nobody known there is nobody to ask.
        prop_assume!(topics.iter().flatten().any(|index| index % 4 != 3));
        let named = || topics.iter().enumerate();
        for version in 3..=12 {
            let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(77).with_topic_data(named().map(|(at, of)| {
                let data = of.iter().map(|index| {
                    let records = Some(Bytes::from(vec![7; *index as usize]));
                    produce_request::PartitionProduceData::default().with_index(*index).with_records(records)
                });
                produce_request::TopicProduceData::default().with_name(name(at)).with_partition_data(data.collect())
            }).collect());
            let got = parts(&request, version).into_iter().map(|(broker, part)| {
                assert_eq!((part.acks, part.timeout_ms), (-1, 77));
                let of = part.topic_data.iter().flat_map(|topic| topic.partition_data.iter().map(|data| {
                    assert_eq!(data.records.as_ref().unwrap().len(), data.index as usize);
                    (topic.name.to_string(), data.index)
                }));
                (broker, of.collect())
            });
            assert_all(&topics, &got.collect::<Vec<_>>());
        }
        for version in 1..=9 {
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(named().map(|(at, of)| {
                let data = of.iter().map(|index| {
                    list_offsets_request::ListOffsetsPartition::default().with_partition_index(*index).with_timestamp(-1)
                });
                list_offsets_request::ListOffsetsTopic::default().with_name(name(at)).with_partitions(data.collect())
            }).collect());
            let got = parts(&request, version).into_iter().map(|(broker, part)| {
                let of = part.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|data| (topic.name.to_string(), data.partition_index))
                });
                (broker, of.collect())
            });
            assert_all(&topics, &got.collect::<Vec<_>>());
        }
        for version in 0..=2 {
            let request = DeleteRecordsRequest::default().with_topics(named().map(|(at, of)| {
                let data = of.iter().map(|index| {
                    delete_records_request::DeleteRecordsPartition::default().with_partition_index(*index)
                });
                delete_records_request::DeleteRecordsTopic::default().with_name(name(at)).with_partitions(data.collect())
            }).collect());
            let got = parts(&request, version).into_iter().map(|(broker, part)| {
                let of = part.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|data| (topic.name.to_string(), data.partition_index))
                });
                (broker, of.collect())
            });
            assert_all(&topics, &got.collect::<Vec<_>>());
        }
        let request = DescribeProducersRequest::default().with_topics(named().map(|(at, of)| {
            describe_producers_request::TopicRequest::default()
                .with_name(name(at))
                .with_partition_indexes(of.iter().copied().collect())
        }).collect());
        let got = parts(&request, 0).into_iter().map(|(broker, part)| {
            let of = part.topics.iter().flat_map(|topic| {
                topic.partition_indexes.iter().map(|index| (topic.name.to_string(), *index))
            });
            (broker, of.collect())
        });
        assert_all(&topics, &got.collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_a_plan_panic(key in 0..93i16, version in 0..14i16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut plan = Plan::default();
        if plan.read(ApiKey(key), version, &body, &mut place).is_ok() {
            for (at, broker) in plan.brokers().enumerate() {
                plan.write(&body, broker, at == 0, &mut Vec::new());
            }
        }
        let _ = first_partition(version, &body);
        let _ = is_continued(ApiKey(key), version, &body);
        let _ = without_rack(version, &body, &mut Vec::new());
        let _ = learn::leaders(version, &body, &mut |_| {});
        let _ = learn::sought(version, &body, &mut |_, _| {});
        let _ = learn::coordinators(version, &body, &mut |_, _| {});
        let _ = merge(ApiKey(key), version, &[body.clone(), body], &mut Vec::new());
    }
}

#[test]
fn what_names_groups_is_taken_apart_by_their_coordinators() {
    let names = ["a", "bb", "ccc", "dddd"];
    for version in 0..=6 {
        let groups = names.iter().map(|name| GroupId(text(name))).collect();
        let got = parts(&DescribeGroupsRequest::default().with_groups(groups), version);
        let got: Vec<_> = got
            .iter()
            .map(|(broker, part)| {
                (*broker, part.groups.iter().map(|group| group.0.to_string()).collect::<Vec<_>>())
            })
            .collect();
        let of = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(got, [(1, of(&["a", "dddd"])), (2, of(&["bb"])), (0, of(&["ccc"]))]);
    }
    for version in 8..=9 {
        let group = |name: &&str| {
            offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(text(name)))
                .with_topics(None)
        };
        let request = OffsetFetchRequest::default().with_groups(names.iter().map(group).collect());
        let got = parts(&request, version);
        assert_eq!(got.iter().map(|(_, part)| part.groups.len()).collect::<Vec<_>>(), [2, 1, 1]);
    }
}

#[test]
fn resources_go_to_the_broker_that_they_are_of() {
    let resource = |kind: i8, name: &str| {
        describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    };
    let resources = vec![resource(4, "7"), resource(2, "9"), resource(4, "8"), resource(4, "")];
    let got = parts(&DescribeConfigsRequest::default().with_resources(resources), 4);
    let got: Vec<_> = got
        .iter()
        .map(|(broker, part)| {
            (*broker, part.resources.iter().map(|one| one.resource_name.to_string()).collect())
        })
        .collect::<Vec<(i32, Vec<_>)>>();
    // A topic by the name of a number is no broker's.
    assert_eq!(got, [(7, vec!["7".to_string(), "9".into(), String::new()]), (8, vec!["8".into()])]);
}

#[test]
fn the_first_partition_is_found_as_soon_as_it_is_there() {
    for version in 3..=13 {
        let data = produce_request::PartitionProduceData::default()
            .with_index(5)
            .with_records(Some(Bytes::from_static(b"1234")));
        let mut topic = produce_request::TopicProduceData::default().with_partition_data(vec![data]);
        let id = Uuid::from_bytes([9; 16]);
        if version >= 13 {
            topic.topic_id = id
        } else {
            topic.name = name(3)
        }
        let body = body(&ProduceRequest::default().with_topic_data(vec![topic]), version);
        let expected = if version >= 13 { Topic::Id([9; 16]) } else { Topic::Name("topic-3") };
        let found: Vec<_> =
            (0..=body.len()).map(|end| first_partition(version, &body[..end]).unwrap()).collect();
        let first = found.iter().position(Option::is_some).unwrap();
        assert!(first < body.len() - 3, "version {version}");
        assert!(found[first..].iter().all(|found| *found == Some((expected, 5))), "version {version}");
    }
}

#[test]
fn a_session_is_told_from_a_beginning_and_a_rack_is_left_out() {
    for version in 4..=17 {
        let topic = fetch_request::FetchTopic::default().with_topic(if version < 13 {
            name(1)
        } else {
            TopicName::default()
        });
        let request = |session: i32, rack: &str| {
            let request = FetchRequest::default().with_topics(vec![topic.clone()]);
            let request = if version >= 7 { request.with_session_id(session) } else { request };
            let request = if version < 15 { request.with_replica_id(BrokerId(-1)) } else { request };
            if version >= 11 { request.with_rack_id(text(rack)) } else { request }
        };
        let (begun, plain) = (body(&request(0, "r1"), version), body(&request(7, ""), version));
        assert!(!is_continued(ApiKey::FETCH, version, &begun).unwrap());
        assert_eq!(is_continued(ApiKey::FETCH, version, &plain).unwrap(), version >= 7);
        let mut out = Vec::new();
        assert!(!without_rack(version, &plain, &mut out).unwrap());
        assert_eq!(without_rack(version, &begun, &mut out).unwrap(), version >= 11);
        if version >= 11 {
            assert_eq!(out, body(&request(0, ""), version));
        }
    }
}

#[test]
fn leaders_are_learned_from_metadata_of_every_version() {
    for version in 0..=13 {
        let partition = |index, leader| {
            metadata_response::MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(leader))
        };
        let topic = metadata_response::MetadataResponseTopic::default()
            .with_name(Some(name(1)))
            .with_partitions(vec![partition(0, 3), partition(1, -1)]);
        let topic = if version >= 10 { topic.with_topic_id(Uuid::from_bytes([5; 16])) } else { topic };
        let mut bytes = BytesMut::new();
        let response = MetadataResponse::default().with_topics(vec![topic]);
        guard::encode_response::<MetadataRequest>(&response, version, &mut bytes).unwrap();
        let mut got = Vec::new();
        learn::leaders(version, &bytes, &mut |led| {
            let topics: Vec<_> = led.topics().map(|topic| format!("{topic:?}")).collect();
            got.push((topics.len(), led.name.map(str::to_string), led.index, led.leader));
        })
        .unwrap();
        let known = if version >= 10 { 2 } else { 1 };
        assert_eq!(got, [(known, Some("topic-1".into()), 0, 3), (known, Some("topic-1".into()), 1, -1)]);
    }
}

#[test]
fn coordinators_are_learned_with_what_they_keep() {
    for version in 0..=6 {
        for kind in [0i8, 1] {
            let request = FindCoordinatorRequest::default();
            let request = if version >= 1 { request.with_key_type(kind) } else { request };
            let request = match version {
                0..=3 => request.with_key(text("g")),
                _ => request.with_coordinator_keys(vec![text("g"), text("h")]),
            };
            let mut sought = Vec::new();
            learn::sought(version, &body(&request, version), &mut |kind, name| {
                sought.push((kind, name.to_string()))
            })
            .unwrap();
            let expected = if kind == 1 && version >= 1 { Kept::Transaction } else { Kept::Group };
            assert_eq!(sought.first(), Some(&(expected, "g".to_string())), "version {version}");
            assert_eq!(sought.len(), if version < 4 { 1 } else { 2 });
            let response = FindCoordinatorResponse::default();
            let response = if version < 4 {
                response.with_node_id(BrokerId(4))
            } else {
                let one = |key: &str, node, error| {
                    find_coordinator_response::Coordinator::default()
                        .with_key(text(key))
                        .with_node_id(BrokerId(node))
                        .with_error_code(error)
                };
                response.with_coordinators(vec![one("g", 4, 0), one("h", -1, 15)])
            };
            let mut bytes = BytesMut::new();
            guard::encode_response::<FindCoordinatorRequest>(&response, version, &mut bytes).unwrap();
            let mut got = Vec::new();
            learn::coordinators(version, &bytes, &mut |name, node| {
                got.push((name.map(str::to_string), node))
            })
            .unwrap();
            assert_eq!(got, [(if version < 4 { None } else { Some("g".to_string()) }, 4)]);
        }
    }
}

#[test]
fn answers_of_several_brokers_are_one() {
    for version in 0..=5 {
        let of = |names: &[&str], error: i16, wait: i32| {
            let group =
                |name: &&str| list_groups_response::ListedGroup::default().with_group_id(GroupId(text(name)));
            let response = ListGroupsResponse::default()
                .with_error_code(error)
                .with_groups(names.iter().map(group).collect());
            let response = if version >= 1 { response.with_throttle_time_ms(wait) } else { response };
            let mut bytes = BytesMut::new();
            guard::encode_response::<ListGroupsRequest>(&response, version, &mut bytes).unwrap();
            bytes.to_vec()
        };
        let mut out = Vec::new();
        merge(ApiKey(16), version, &[of(&["a"], 0, 5), of(&[], 15, 0), of(&["b", "c"], 0, 9)], &mut out)
            .unwrap();
        let merged = guard::response::<ListGroupsRequest>(version, out.into()).unwrap();
        let names: Vec<_> = merged.groups.iter().map(|group| group.group_id.0.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!((merged.error_code, merged.throttle_time_ms), (15, if version >= 1 { 9 } else { 0 }));
    }
    for version in 1..=9 {
        let of = |at: usize, index: i32| {
            let partition =
                list_offsets_response::ListOffsetsPartitionResponse::default().with_partition_index(index);
            let topic = list_offsets_response::ListOffsetsTopicResponse::default()
                .with_name(name(at))
                .with_partitions(vec![partition]);
            let mut bytes = BytesMut::new();
            let response = ListOffsetsResponse::default().with_topics(vec![topic]);
            guard::encode_response::<ListOffsetsRequest>(&response, version, &mut bytes).unwrap();
            bytes.to_vec()
        };
        let mut out = Vec::new();
        merge(ApiKey::LIST_OFFSETS, version, &[of(1, 2), of(1, 3)], &mut out).unwrap();
        let merged = guard::response::<ListOffsetsRequest>(version, out.into()).unwrap();
        let all: Vec<_> =
            merged.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.partition_index).collect();
        assert_eq!(all, [2, 3]);
    }
}

#[test]
fn every_api_says_what_decides() {
    for api in apis() {
        let fields = api.key.request().unwrap().fields;
        match serves(api.key) {
            // What names partitions, a group or a transaction must not be anybody's.
            Serves::Any => {
                let has = |role| fields.iter().any(|field| field.role == role);
                assert!(!has(mecha_kafka::schema::Role::Group), "{}", api.key.name());
                assert!(!has(mecha_kafka::schema::Role::TransactionalId), "{}", api.key.name());
                assert!(!matches!(api.class, Class::Fetch | Class::Produce), "{}", api.key.name());
            }
            Serves::Nobody => assert!(!matches!(api.class, Class::Fetch | Class::Produce | Class::Group)),
            _ => {}
        }
    }
}
