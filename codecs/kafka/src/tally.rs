//! What messages that pass tell figures: errors, how far topics have come, and how far groups.
//!
//! A [`Tally`] reads along a response in whatever pieces it comes, and needs no memory but for the name of a topic. What it
//! cannot understand it stops looking at: nobody's connection ends for a figure. Records it does not see.
//!
//! How far a group is behind follows from two messages that have nothing to do with each other: responses to `Fetch` tell how
//! long partitions are, to any consumer ([`Mark`]), and requests to commit offsets how far a group has come ([`commits`]).
//! Newer versions name topics by identities, and responses to `Metadata` whose those are ([`topics`]).

use crate::errors::Code;
use crate::schema::{Field, Role};
use crate::table::ApiKey;
use crate::walk::{Feed, Step, Walk};
use crate::wire::Malformed;

/// What a message calls a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Its identity.
    Id([u8; 16]),
    /// Its name.
    Name(&'a [u8]),
}

/// How far a partition of a topic has come, or a group in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// Whose partition.
    pub topic: Topic<'a>,
    /// Its number.
    pub partition: i32,
    /// The offset of the next record: of the first that is not replicated, or not read by the group.
    pub offset: i64,
}

/// Longest name of a topic that is looked at, in bytes.
const MAX_NAME: usize = 249;

/// Reads along a response.
#[derive(Debug)]
pub struct Tally {
    feed: Feed,
    code: Code,
    has_marks: bool,
    is_lost: bool,
    is_naming: bool,
    id: Option<[u8; 16]>,
    name: Vec<u8>,
    partition: i32,
}

impl Tally {
    /// For a response of this version with a body of so many bytes.
    ///
    /// # Errors
    /// [`Malformed::Unknown`] if the version is not known.
    pub fn new(key: ApiKey, version: i16, body: u32) -> Result<Self, Malformed> {
        let message = key.response().ok_or(Malformed::Unknown)?;
        let walk = Walk::new(message, version, body)?;
        Ok(Self {
            feed: Feed::new(walk),
            code: Code::NONE,
            has_marks: key == ApiKey::FETCH,
            is_lost: false,
            is_naming: false,
            id: None,
            name: Vec::new(),
            partition: -1,
        })
    }

    /// As [`Tally::new`], with the memory that it has.
    ///
    /// # Errors
    /// As there.
    pub fn restart(&mut self, key: ApiKey, version: i16, body: u32) -> Result<(), Malformed> {
        let message = key.response().ok_or(Malformed::Unknown)?;
        self.feed.walk_mut().restart(message, version, body)?;
        (self.code, self.has_marks) = (Code::NONE, key == ApiKey::FETCH);
        (self.is_lost, self.is_naming, self.id, self.partition) = (false, false, None, -1);
        self.name.clear();
        Ok(())
    }

    /// The error that the response has had so far, if any: the first, but one of a broker about itself comes before others.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Takes the next piece of the body. `mark` is told how far partitions have come.
    pub fn push(&mut self, piece: &[u8], mark: &mut dyn FnMut(Mark<'_>)) {
        if !self.is_lost && self.read(piece, mark).is_err() {
            self.is_lost = true;
        }
    }

    /// Bytes to come that it need not see, if [`Tally::passed`] is told.
    #[must_use]
    pub fn unseen(&self) -> usize {
        match (self.is_lost, self.is_naming) {
            (true, _) => usize::MAX,
            (false, true) => 0,
            (false, false) => self.feed.unseen(),
        }
    }

    /// So many bytes have passed, of those that [`Tally::unseen`] lets.
    pub fn passed(&mut self, bytes: usize) {
        self.feed.passed(bytes);
    }

    fn read(&mut self, piece: &[u8], mark: &mut dyn FnMut(Mark<'_>)) -> Result<(), Malformed> {
        let mut at = 0;
        loop {
            let rest = piece.get(at..).unwrap_or_default();
            if self.is_naming {
                let taken = self.feed.skip(rest);
                if self.name.len() + taken > MAX_NAME {
                    return Err(Malformed::Value);
                }
                self.name.extend_from_slice(rest.get(..taken).unwrap_or_default());
                at += taken;
                self.is_naming = self.feed.unseen() > 0;
                if self.is_naming {
                    return Ok(());
                }
                continue;
            }
            let Self { feed, code, has_marks, is_naming, id, name, partition, .. } = self;
            let mut is_done = false;
            at += feed.push(rest, |_, step, head| {
                is_done = matches!(step, Step::Done);
                let Step::Value { field: Some(field), .. } = step else { return true };
                match field.role {
                    Role::ErrorCode => note(code, head),
                    Role::Topic if *has_marks => {
                        name.clear();
                        (*is_naming, *id) = (true, None);
                    }
                    _ if *has_marks => match field.name {
                        "PartitionIndex" => *partition = number(head) as i32,
                        "TopicId" => *id = head.first_chunk().copied(),
                        "HighWatermark" => {
                            let topic = id.map_or(Topic::Name(name), Topic::Id);
                            mark(Mark { topic, partition: *partition, offset: number(head) });
                        }
                        _ => {}
                    },
                    _ => {}
                }
                !*is_naming
            })?;
            if is_done || at >= piece.len() && !(self.is_naming && self.feed.unseen() == 0) {
                return Ok(());
            }
        }
    }
}

/// Takes an error into account.
fn note(code: &mut Code, head: &[u8]) {
    let next = Code(number(head) as i16);
    let is_worse = next.is_of_broker() && !code.is_of_broker();
    if next != Code::NONE && (*code == Code::NONE || is_worse) {
        *code = next;
    }
}

/// A big-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> i64 {
    let is_negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let start = if is_negative { -1 } else { 0 };
    bytes.iter().take(8).fold(start, |number, byte| number << 8 | i64::from(*byte))
}

/// Goes over the values of a body that is there as a whole: each with its field and its bytes.
pub(crate) fn values<'a>(
    mut walk: Walk,
    body: &'a [u8],
    visit: &mut dyn FnMut(&'static Field, &'a [u8]),
) -> Result<(), Malformed> {
    let mut rest = body;
    loop {
        let step = walk.step(rest)?;
        let (head, size) = (step.head(), step.body());
        match step {
            Step::Done => return Ok(()),
            Step::More => return Err(Malformed::Truncated),
            Step::Value { field: Some(field), .. } => {
                // Text has its length before it; a number is its own head.
                let from = if field.kind.size().is_some() { 0 } else { head };
                visit(field, rest.get(from..head + size).ok_or(Malformed::Truncated)?);
            }
            _ => {}
        }
        rest = rest.get(head + size..).ok_or(Malformed::Truncated)?;
    }
}

/// How far a request to commit offsets says that its group has come: the group's name. `mark` is told each partition.
///
/// # Errors
/// See [`Malformed`].
pub fn commits<'a>(
    version: i16,
    body: &'a [u8],
    mark: &mut dyn FnMut(Mark<'a>),
) -> Result<&'a [u8], Malformed> {
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let message = ApiKey::OFFSET_COMMIT.request().ok_or(Malformed::Unknown)?;
    let (mut group, mut topic, mut partition): (&[u8], _, _) = (&[], Topic::Name(&[]), -1);
    values(Walk::new(message, version, size)?, body, &mut |field, value| match (field.role, field.name) {
        (Role::Group, _) => group = value,
        (Role::Topic, _) => topic = Topic::Name(value),
        (_, "TopicId") => topic = value.first_chunk().map_or(topic, |id| Topic::Id(*id)),
        (_, "PartitionIndex") => partition = number(value) as i32,
        (_, "CommittedOffset") => mark(Mark { topic, partition, offset: number(value) }),
        _ => {}
    })?;
    Ok(group)
}

/// The topics that a response to `Metadata` names, with their identities.
///
/// # Errors
/// See [`Malformed`].
pub fn topics<'a>(
    version: i16,
    body: &'a [u8],
    topic: &mut dyn FnMut(&'a [u8], [u8; 16]),
) -> Result<(), Malformed> {
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let message = ApiKey::METADATA.response().ok_or(Malformed::Unknown)?;
    let mut name: &[u8] = &[];
    values(Walk::new(message, version, size)?, body, &mut |field, value| match (field.role, field.name) {
        (Role::Topic, _) => name = value,
        (_, "TopicId") => {
            if let Some(id) = value.first_chunk().filter(|id| **id != [0; 16] && !name.is_empty()) {
                topic(name, *id);
            }
        }
        _ => {}
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::{
        FetchRequest, FetchResponse, GroupId, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
        TopicName,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::guard;

    fn name(name: &'static str) -> TopicName {
        TopicName(StrBytes::from_static_str(name))
    }

    fn fetched(version: i16) -> Vec<u8> {
        let partition = |index: i32, end: i64| {
            PartitionData::default()
                .with_partition_index(index)
                .with_error_code(if index == 3 { 6 } else { 0 })
                .with_high_watermark(end)
                .with_records(Some(bytes::Bytes::from_static(&[7; 100])))
        };
        let topic = |text: &'static str, id: u128| {
            let topic = FetchableTopicResponse::default().with_partitions(vec![
                partition(0, 1000),
                partition(3, -1),
                partition(1, i64::MAX),
            ]);
            if version >= 13 {
                topic.with_topic_id(uuid::Uuid::from_u128(id))
            } else {
                topic.with_topic(name(text))
            }
        };
        let response = FetchResponse::default()
            .with_error_code(if version >= 7 { 70 } else { 0 })
            .with_responses(vec![topic("orders", 1), topic("x", 2)]);
        let mut body = BytesMut::new();
        guard::encode_response::<FetchRequest>(&response, version, &mut body).unwrap();
        body.to_vec()
    }

    #[test]
    fn marks_and_the_worst_error_are_found_in_any_pieces() {
        for version in 4..=17 {
            let body = fetched(version);
            for size in [1, 2, 3, 7, 64, 1000] {
                let mut tally = Tally::new(ApiKey::FETCH, version, body.len() as u32).unwrap();
                for again in [false, true] {
                    if again {
                        tally.restart(ApiKey::FETCH, version, body.len() as u32).unwrap();
                    }
                    let mut marks = Vec::new();
                    for piece in body.chunks(size) {
                        tally.push(piece, &mut |mark| {
                            let topic = match mark.topic {
                                Topic::Id(id) => u128::from_be_bytes(id).to_string(),
                                Topic::Name(name) => String::from_utf8(name.to_vec()).unwrap(),
                            };
                            marks.push((topic, mark.partition, mark.offset));
                        });
                    }
                    let [first, second] = if version >= 13 { ["1", "2"] } else { ["orders", "x"] };
                    let of = |topic: &str| {
                        [(0, 1000), (3, -1), (1, i64::MAX)].map(|(at, end)| (topic.to_string(), at, end))
                    };
                    assert_eq!(
                        marks,
                        [of(first), of(second)].concat(),
                        "version {version}, pieces of {size}"
                    );
                    assert_eq!(tally.code(), Code::NOT_LEADER_OR_FOLLOWER);
                }
            }
        }
    }

    #[test]
    fn records_need_not_be_seen() {
        let body = fetched(17);
        let mut tally = Tally::new(ApiKey::FETCH, 17, body.len() as u32).unwrap();
        let (mut at, mut marks, mut skipped) = (0, 0, 0);
        while at < body.len() {
            let unseen = tally.unseen();
            if unseen > 0 {
                tally.passed(unseen);
                (at, skipped) = (at + unseen, skipped + unseen);
                continue;
            }
            tally.push(&body[at..=at], &mut |_| marks += 1);
            at += 1;
        }
        assert_eq!((marks, skipped), (6, 600));
    }

    #[test]
    fn what_is_not_sound_is_left_alone() {
        let mut tally = Tally::new(ApiKey::FETCH, 12, 100).unwrap();
        tally.push(&[0xff; 100], &mut |_| {});
        assert_eq!(tally.unseen(), usize::MAX);
        assert!(Tally::new(ApiKey::FETCH, 99, 100).is_err());
        let response = ListGroupsResponse::default().with_error_code(15);
        let mut body = BytesMut::new();
        guard::encode_response::<ListGroupsRequest>(&response, 4, &mut body).unwrap();
        let mut tally = Tally::new(ApiKey(16), 4, body.len() as u32).unwrap();
        tally.push(&body, &mut |_| panic!("there is no mark"));
        assert_eq!(tally.code(), Code::COORDINATOR_NOT_AVAILABLE);
    }

    #[test]
    fn commits_name_the_group_and_how_far_it_is() {
        for version in 2..=9 {
            let partition = |index, offset| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(offset)
            };
            let topic = OffsetCommitRequestTopic::default().with_name(name("orders"));
            let request = OffsetCommitRequest::default()
                .with_group_id(GroupId(StrBytes::from_static_str("readers")))
                .with_topics(vec![topic.with_partitions(vec![partition(0, 7), partition(2, 1 << 40)])]);
            let mut body = BytesMut::new();
            guard::encode_request(Some("c"), &request, version, &mut body).unwrap();
            let mut marks = Vec::new();
            let group = commits(version, &body, &mut |mark| marks.push(mark)).unwrap();
            assert_eq!(group, b"readers");
            let topic = Topic::Name(b"orders");
            let mark = |partition, offset| Mark { topic, partition, offset };
            assert_eq!(marks, [mark(0, 7), mark(2, 1 << 40)], "version {version}");
        }
    }
}
