//! Which broker a request is for, where all brokers have one address.
//!
//! A client that is told one address for every broker sends each request to the right one, and then whoever listens there
//! cannot see which one that was. But a request says it: it names partitions, which have leaders, or a group or a
//! transaction, which has a coordinator; and most others any broker answers as well as another.
//!
//! [`serves`] says what decides. [`Plan`] reads the deciding names of a request, and takes it apart where they lead to several
//! brokers; [`merge()`] makes one response of the answers. [`learn`] finds in responses who leads and who coordinates.
//!
//! A plan that is out of date does no harm: the broker that is asked says that it is not the one, as brokers do, and clients
//! find out anew.

mod cursor;
pub mod learn;
mod merge;
mod plan;

pub use self::merge::merge;
pub use self::plan::{Plan, first_partition, is_continued, without_rack};

use crate::table::{ApiKey, Class};

/// What decides which broker a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Nothing: any broker answers it.
    Any,
    /// It is about what a single broker has, and does not say which: all are asked, and their answers are one.
    Everybody,
    /// The group that it names, or the groups.
    Group,
    /// The partitions that it names have leaders.
    Leader,
    /// The broker that it names among its resources, if it does.
    Node,
    /// Nobody can say: one address for all brokers cannot serve it.
    Nobody,
    /// The transaction that it names, if it does.
    Transaction,
}

/// The name that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// Of a consumer group, of whatever kind.
    Group(&'a str),
    /// A broker's number.
    Node(i32),
    /// A partition of a topic.
    Partition(Topic<'a>, i32),
    /// A transactional id.
    Transaction(&'a str),
}

/// A topic, as older requests name it or as newer ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic<'a> {
    /// Its id.
    Id([u8; 16]),
    /// Its name.
    Name(&'a str),
}

/// What decides for requests of this kind.
#[must_use]
pub fn serves(key: ApiKey) -> Serves {
    match key.0 {
        0 | 1 | 2 | 21 | 23 | 61 | 78 | 79 => Serves::Leader,
        8 | 9 | 11..=15 | 28 | 42 | 47 | 68 | 69 | 76 | 77 | 88..=92 => Serves::Group,
        16 | 66 => Serves::Everybody,
        22 | 24..=26 | 65 => Serves::Transaction,
        32 | 33 | 44 => Serves::Node,
        // What a broker has on its disks, and logins of which each connection has its own.
        17 | 34..=36 => Serves::Nobody,
        _ => match key.api() {
            Some(api) if api.class != Class::Controller => Serves::Any,
            _ => Serves::Nobody,
        },
    }
}

/// Where the names are: an array of the request, the array in its values that has the partitions, and the array of the
/// response that answers the first.
struct Parts {
    key: i16,
    first: i16,
    outer: &'static str,
    inner: &'static str,
    answers: &'static str,
    /// Whether it can be taken apart. What has a session on the broker cannot.
    is_split: bool,
}

const fn parts(
    key: i16,
    first: i16,
    outer: &'static str,
    inner: &'static str,
    answers: &'static str,
) -> Parts {
    Parts { key, first, outer, inner, answers, is_split: true }
}

/// In the order of keys.
#[rustfmt::skip]
static PARTS: &[Parts] = &[
    parts(0, 0, "TopicData", "PartitionData", "Responses"),
    parts(1, 0, "Topics", "Partitions", "Responses").whole(),
    parts(2, 0, "Topics", "Partitions", "Topics"),
    parts(9, 8, "Groups", "", "Groups"),
    parts(15, 0, "Groups", "", "Groups"),
    parts(16, 0, "", "", "Groups"),
    parts(21, 0, "Topics", "Partitions", "Topics"),
    parts(23, 0, "Topics", "Partitions", "Topics"),
    parts(32, 0, "Resources", "", "Results"),
    parts(33, 0, "Resources", "", "Responses"),
    parts(42, 0, "GroupsNames", "", "Results"),
    parts(44, 0, "Resources", "", "Responses"),
    parts(61, 0, "Topics", "PartitionIndexes", "Topics"),
    parts(65, 0, "TransactionalIds", "", "TransactionStates"),
    parts(66, 0, "", "", "TransactionStates"),
    parts(69, 0, "GroupIds", "", "Groups"),
    parts(77, 0, "GroupIds", "", "Groups"),
    parts(78, 0, "Topics", "Partitions", "Responses").whole(),
    parts(79, 0, "Topics", "Partitions", "Responses").whole(),
    parts(89, 0, "GroupIds", "", "Groups"),
    parts(90, 0, "Groups", "", "Groups"),
];

impl Parts {
    const fn whole(mut self) -> Self {
        self.is_split = false;
        self
    }

    fn of(key: ApiKey, version: i16) -> Option<&'static Self> {
        PARTS.iter().find(|parts| parts.key == key.0 && version >= parts.first)
    }
}
