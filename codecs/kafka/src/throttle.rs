//! How long a client should wait, in responses (KIP-219); and how many bytes of records messages have.
//!
//! Whoever holds clients to a rate says so in the response's own field and reads no more from them for as long. Of what passes in
//! pieces, the field is the first ([`place`]); in others it is looked for ([`set`]).

use crate::schema::{Kind, Role};
use crate::table::ApiKey;
use crate::walk::{Step, Walk};
use crate::wire::Malformed;

/// Where the field is in the body of a response, in bytes, if that is the same in all of this version: how many stand before it.
/// They are tagged fields of the header, of which there are none, and so zero.
#[must_use]
pub fn place(key: ApiKey, version: i16) -> Option<usize> {
    let response = key.response().filter(|response| response.versions.has(version))?;
    let is_first = response.fields.iter().find(|field| field.tag.is_none() && field.versions.has(version))?;
    (is_first.role == Role::Throttle).then_some(usize::from(response.is_flexible(version)))
}

/// Lets a client wait so many milliseconds at least, by the body of a response. False if the version has no place for it.
///
/// # Errors
/// See [`Malformed`].
pub fn set(key: ApiKey, version: i16, body: &mut [u8], millis: i32) -> Result<bool, Malformed> {
    let message = key.response().ok_or(Malformed::Unknown)?;
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let (mut walk, mut at) = (Walk::new(message, version, size)?, 0);
    loop {
        let is_here = walk.next_field().is_some_and(|field| field.role == Role::Throttle);
        let step = walk.step(body.get(at..).unwrap_or_default())?;
        match step {
            Step::Done => return Ok(false),
            Step::More => return Err(Malformed::Truncated),
            Step::Value { .. } if is_here => {
                let field = body.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
                let field = field.ok_or(Malformed::Truncated)?;
                *field = raised(*field, millis);
                return Ok(true);
            }
            _ => at += step.head() + step.body(),
        }
    }
}

/// The field with a number that is at least this one.
#[must_use]
pub fn raised(field: [u8; 4], millis: i32) -> [u8; 4] {
    i32::from_be_bytes(field).max(millis).to_be_bytes()
}

/// Goes over the topics whose records are in a request to produce or a response to a fetch, by their names, in versions that have
/// them: bytes of the batches of each partition.
///
/// # Errors
/// See [`Malformed`].
pub fn record_bytes<'a>(
    key: ApiKey,
    version: i16,
    body: &'a [u8],
    records: &mut dyn FnMut(&'a [u8], usize),
) -> Result<(), Malformed> {
    let message = if key == ApiKey::PRODUCE { key.request() } else { key.response() };
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let mut walk = Walk::new(message.ok_or(Malformed::Unknown)?, version, size)?;
    let (mut rest, mut topic): (_, &[u8]) = (body, &[]);
    loop {
        let step = walk.step(rest)?;
        let (head, size) = (step.head(), step.body());
        match step {
            Step::Done => return Ok(()),
            Step::More => return Err(Malformed::Truncated),
            Step::Value { field: Some(field), .. } => match (field.role, &field.kind) {
                (Role::Topic, _) => topic = rest.get(head..head + size).ok_or(Malformed::Truncated)?,
                (_, Kind::Records) => records(topic, size),
                _ => {}
            },
            _ => {}
        }
        rest = rest.get(head + size..).ok_or(Malformed::Truncated)?;
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::produce_response::TopicProduceResponse;
    use kafka_protocol::messages::{
        FetchRequest, FetchResponse, ListGroupsRequest, ListGroupsResponse, ProduceRequest, ProduceResponse,
        TopicName,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::guard;

    #[test]
    fn a_client_waits_for_the_longer_of_both() {
        for version in 3..=12 {
            let response = ProduceResponse::default()
                .with_throttle_time_ms(100)
                .with_responses(vec![TopicProduceResponse::default(); 3]);
            for (millis, told) in [(50, 100), (700, 700)] {
                let mut body = BytesMut::new();
                guard::encode_response::<ProduceRequest>(&response, version, &mut body).unwrap();
                assert_eq!(set(ApiKey::PRODUCE, version, &mut body, millis), Ok(true));
                let read = guard::response::<ProduceRequest>(version, body.freeze()).unwrap();
                assert_eq!((read.throttle_time_ms, read.responses.len()), (told, 3), "version {version}");
            }
        }
        // Before version 1 there is no such field.
        let mut body = BytesMut::new();
        guard::encode_response::<ListGroupsRequest>(&ListGroupsResponse::default(), 0, &mut body).unwrap();
        assert_eq!(set(ApiKey(16), 0, &mut body, 5), Ok(false));
        assert_eq!(set(ApiKey::PRODUCE, 9, &mut [], 5), Err(Malformed::Truncated));
    }

    #[test]
    fn the_field_of_fetches_is_where_it_is_said_to_be() {
        for version in 4..=17 {
            let response = FetchResponse::default().with_throttle_time_ms(0x0102_0304);
            let mut body = BytesMut::new();
            guard::encode_response::<FetchRequest>(&response, version, &mut body).unwrap();
            let at = place(ApiKey::FETCH, version).unwrap();
            assert_eq!(body[at..at + 4], [1, 2, 3, 4], "version {version}");
            assert!(body[..at].iter().all(|byte| *byte == 0));
        }
        assert_eq!(place(ApiKey::PRODUCE, 9), None);
        assert!(place(ApiKey::SHARE_FETCH, 1).is_some());
    }

    #[test]
    fn records_are_counted_for_each_topic() {
        let partition = |size: usize| PartitionData::default().with_records(Some(Bytes::from(vec![1; size])));
        let topic = |name: &'static str, sizes: &[usize]| {
            FetchableTopicResponse::default()
                .with_topic(TopicName(StrBytes::from_static_str(name)))
                .with_partitions(sizes.iter().map(|size| partition(*size)).collect())
        };
        let response =
            FetchResponse::default().with_responses(vec![topic("a", &[10, 0, 5]), topic("b", &[7])]);
        for version in 4..=12 {
            let mut body = BytesMut::new();
            guard::encode_response::<FetchRequest>(&response, version, &mut body).unwrap();
            let mut seen = Vec::new();
            record_bytes(ApiKey::FETCH, version, &body, &mut |topic, bytes| seen.push((topic, bytes)))
                .unwrap();
            assert_eq!(seen, [(&b"a"[..], 10), (b"a", 0), (b"a", 5), (b"b", 7)]);
        }
    }
}
