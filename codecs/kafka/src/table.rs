//! What there is to know about each API besides the schema of its messages.
//!
//! | who asks | what the table says |
//! |---|---|
//! | metrics, policies | [`Class`], name |
//! | deadlines | whether a broker answers late on purpose ([`Api::waits`]) |
//! | address rewriting | from which version on responses have addresses ([`Api::addresses`]) |
//! | whoever passes a frame on | whether that is safe ([`judge`]) |
//!
//! Versions are those that [`crate::schema`] describes, requests and responses both. They are not those of the
//! kafka-protocol crate, whose own table promises versions that its codecs lack; [`crate::guard`] decodes what it
//! really has.

use crate::schema::{MESSAGES, Message, Versions};

/// Number of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiKey(pub i16);

/// What an API is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Changes or tells how topics, users, quotas and the like are set up.
    Admin,
    /// Tells where things are.
    Cluster,
    /// What brokers and controllers say to each other. No client has a reason to.
    Controller,
    /// Reads records.
    Fetch,
    /// Membership and offsets of consumer groups of all kinds.
    Group,
    /// Writes records.
    Produce,
    /// About the connection and its client.
    Session,
    /// Transactions and ids of producers.
    Transaction,
}

/// One API.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Its number.
    pub key: ApiKey,
    /// What it is for.
    pub class: Class,
    /// Whether a broker may answer late on purpose: it waits for records, or for other members of a group.
    pub waits: bool,
    /// From which version on its responses say where brokers are; `i16::MAX` if never.
    pub addresses: i16,
    /// The oldest version that is offered to clients, which may be older than what is understood.
    pub offered_from: i16,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is described: pass it on, and look into it where that is wanted.
    Known,
    /// It is not described, and harmless: pass it on as it is.
    Raw,
    /// Its response may say where brokers are, and nobody could tell: UNSUPPORTED_VERSION, or the connection's end.
    Refuse,
}

/// From here on numbers are vendors' own.
pub const VENDORS: i16 = 10_000;

/// One line for each: number, class, whether it waits, first version with addresses.
#[rustfmt::skip]
static APIS: &[Api] = &[
    api(0, Class::Produce, false, 10).offered_from(0),
    api(1, Class::Fetch, true, 16),
    api(2, Class::Fetch, false, NEVER),
    api(3, Class::Cluster, false, 0),
    api(8, Class::Group, false, NEVER),
    api(9, Class::Group, false, NEVER),
    api(10, Class::Cluster, false, 0),
    api(11, Class::Group, true, NEVER),
    api(12, Class::Group, false, NEVER),
    api(13, Class::Group, false, NEVER),
    api(14, Class::Group, true, NEVER),
    api(15, Class::Group, false, NEVER),
    api(16, Class::Group, false, NEVER),
    api(17, Class::Session, false, NEVER),
    api(18, Class::Session, false, NEVER),
    api(19, Class::Admin, false, NEVER),
    api(20, Class::Admin, false, NEVER),
    api(21, Class::Admin, false, NEVER),
    api(22, Class::Transaction, false, NEVER),
    api(23, Class::Fetch, false, NEVER),
    api(24, Class::Transaction, false, NEVER),
    api(25, Class::Transaction, false, NEVER),
    api(26, Class::Transaction, false, NEVER),
    api(27, Class::Controller, false, NEVER),
    api(28, Class::Transaction, false, NEVER),
    api(29, Class::Admin, false, NEVER),
    api(30, Class::Admin, false, NEVER),
    api(31, Class::Admin, false, NEVER),
    api(32, Class::Admin, false, NEVER),
    api(33, Class::Admin, false, NEVER),
    api(34, Class::Admin, false, NEVER),
    api(35, Class::Admin, false, NEVER),
    api(36, Class::Session, false, NEVER),
    api(37, Class::Admin, false, NEVER),
    api(38, Class::Admin, false, NEVER),
    api(39, Class::Admin, false, NEVER),
    api(40, Class::Admin, false, NEVER),
    api(41, Class::Admin, false, NEVER),
    api(42, Class::Group, false, NEVER),
    api(43, Class::Admin, false, NEVER),
    api(44, Class::Admin, false, NEVER),
    api(45, Class::Admin, false, NEVER),
    api(46, Class::Admin, false, NEVER),
    api(47, Class::Group, false, NEVER),
    api(48, Class::Admin, false, NEVER),
    api(49, Class::Admin, false, NEVER),
    api(50, Class::Admin, false, NEVER),
    api(51, Class::Admin, false, NEVER),
    api(52, Class::Controller, false, 1),
    api(53, Class::Controller, false, 1),
    api(54, Class::Controller, false, 1),
    api(55, Class::Admin, false, 2),
    api(56, Class::Controller, false, NEVER),
    api(57, Class::Admin, false, NEVER),
    api(58, Class::Controller, false, NEVER),
    api(59, Class::Controller, false, 1),
    api(60, Class::Cluster, false, 0),
    api(61, Class::Admin, false, NEVER),
    api(62, Class::Controller, false, NEVER),
    api(63, Class::Controller, false, NEVER),
    api(64, Class::Admin, false, NEVER),
    api(65, Class::Transaction, false, NEVER),
    api(66, Class::Transaction, false, NEVER),
    api(67, Class::Controller, false, NEVER),
    api(68, Class::Group, false, NEVER),
    api(69, Class::Group, false, NEVER),
    api(70, Class::Controller, false, NEVER),
    api(71, Class::Session, false, NEVER),
    api(72, Class::Session, false, NEVER),
    api(73, Class::Controller, false, NEVER),
    api(74, Class::Admin, false, NEVER),
    api(75, Class::Cluster, false, NEVER),
    api(76, Class::Group, false, NEVER),
    api(77, Class::Group, false, NEVER),
    api(78, Class::Fetch, true, 0),
    api(79, Class::Fetch, false, 0),
    api(80, Class::Admin, false, NEVER),
    api(81, Class::Admin, false, NEVER),
    api(82, Class::Controller, false, 0),
    api(83, Class::Controller, false, NEVER),
    api(84, Class::Controller, false, NEVER),
    api(85, Class::Controller, false, NEVER),
    api(86, Class::Controller, false, NEVER),
    api(87, Class::Controller, false, NEVER),
    api(88, Class::Group, false, NEVER),
    api(89, Class::Group, false, NEVER),
    api(90, Class::Group, false, NEVER),
    api(91, Class::Group, false, NEVER),
    api(92, Class::Group, false, NEVER),
];

const NEVER: i16 = i16::MAX;

const fn api(key: i16, class: Class, waits: bool, addresses: i16) -> Api {
    Api { key: ApiKey(key), class, waits, addresses, offered_from: i16::MAX }
}

/// Where the row of a number is, and where its request is in [`MESSAGES`]; 255 for nowhere.
const PLACES: [(u8, u8); 128] = {
    let mut places = [(u8::MAX, u8::MAX); 128];
    let mut at = 0;
    while at < APIS.len() {
        places[APIS[at].key.0 as usize].0 = at as u8;
        at += 1;
    }
    at = 0;
    while at < MESSAGES.len() {
        places[MESSAGES[at].key as usize].1 = at as u8;
        at += 2;
    }
    places
};

/// Every API that is described, in the order of their numbers.
pub fn apis() -> impl Iterator<Item = &'static Api> {
    APIS.iter()
}

/// What to do with a request, judged by its head.
#[must_use]
pub fn judge(key: ApiKey, version: i16) -> Judgement {
    if key.0 >= VENDORS {
        return Judgement::Raw;
    }
    let Some(api) = key.api() else { return Judgement::Refuse };
    let versions = key.versions();
    if versions.has(version) {
        return Judgement::Known;
    }
    // What is older has no more than what is described. To a newer ApiVersions the broker answers in version 0, always.
    let is_older = version >= 0 && version < versions.first && version < api.addresses;
    if is_older && key != ApiKey::PRODUCE || key == ApiKey::API_VERSIONS && version > versions.last {
        return Judgement::Raw;
    }
    Judgement::Refuse
}

// === impl ApiKey ===

#[allow(missing_docs, reason = "the names are Kafka's")]
impl ApiKey {
    pub const PRODUCE: Self = Self(0);
    pub const FETCH: Self = Self(1);
    pub const LIST_OFFSETS: Self = Self(2);
    pub const METADATA: Self = Self(3);
    pub const OFFSET_COMMIT: Self = Self(8);
    pub const OFFSET_FETCH: Self = Self(9);
    pub const FIND_COORDINATOR: Self = Self(10);
    pub const JOIN_GROUP: Self = Self(11);
    pub const HEARTBEAT: Self = Self(12);
    pub const LEAVE_GROUP: Self = Self(13);
    pub const SYNC_GROUP: Self = Self(14);
    pub const SASL_HANDSHAKE: Self = Self(17);
    pub const API_VERSIONS: Self = Self(18);
    pub const CREATE_TOPICS: Self = Self(19);
    pub const DELETE_TOPICS: Self = Self(20);
    pub const INIT_PRODUCER_ID: Self = Self(22);
    pub const SASL_AUTHENTICATE: Self = Self(36);
    pub const DESCRIBE_QUORUM: Self = Self(55);
    pub const DESCRIBE_CLUSTER: Self = Self(60);
    pub const CONSUMER_GROUP_HEARTBEAT: Self = Self(68);
    pub const GET_TELEMETRY_SUBSCRIPTIONS: Self = Self(71);
    pub const PUSH_TELEMETRY: Self = Self(72);
    pub const SHARE_FETCH: Self = Self(78);
    pub const SHARE_ACKNOWLEDGE: Self = Self(79);
}

impl ApiKey {
    fn place(self) -> (u8, u8) {
        usize::try_from(self.0).ok().and_then(|key| PLACES.get(key)).copied().unwrap_or((u8::MAX, u8::MAX))
    }

    /// Its row.
    #[must_use]
    pub fn api(self) -> Option<&'static Api> {
        APIS.get(usize::from(self.place().0))
    }

    /// The schema of its requests.
    #[must_use]
    pub fn request(self) -> Option<&'static Message> {
        MESSAGES.get(usize::from(self.place().1))
    }

    /// The schema of its responses.
    #[must_use]
    pub fn response(self) -> Option<&'static Message> {
        MESSAGES.get(usize::from(self.place().1) + 1)
    }

    /// As Kafka names it, `Fetch`; `Unknown` for what is not described.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.request().map_or("Unknown", |message| message.name.trim_end_matches("Request"))
    }

    /// Versions that are described, of requests and responses both.
    #[must_use]
    pub fn versions(self) -> Versions {
        match (self.request(), self.response()) {
            (Some(request), Some(response)) => request.versions.and(response.versions),
            _ => Versions::NONE,
        }
    }

    /// Whether a response of this version says where brokers are.
    #[must_use]
    pub fn has_addresses(self, version: i16) -> bool {
        self.api().is_none_or(|api| version >= api.addresses)
    }
}

// === impl Api ===

impl Api {
    const fn offered_from(mut self, first: i16) -> Self {
        self.offered_from = first;
        self
    }

    /// Versions to offer to clients, if the broker has them.
    #[must_use]
    pub fn offered(&self) -> Versions {
        let versions = self.key.versions();
        Versions { first: versions.first.min(self.offered_from), last: versions.last }
    }
}

#[cfg(test)]
mod tests {
    use super::{ApiKey, Judgement, judge};

    #[test]
    fn only_what_may_hide_an_address_is_refused() {
        for (key, version, judgement) in [
            (ApiKey::FETCH, 12, Judgement::Known),
            (ApiKey::FETCH, 3, Judgement::Raw),
            (ApiKey::FETCH, 19, Judgement::Refuse),
            (ApiKey::FETCH, -1, Judgement::Refuse),
            (ApiKey::METADATA, 14, Judgement::Refuse),
            // Whether it has a response could not be told.
            (ApiKey::PRODUCE, 2, Judgement::Refuse),
            (ApiKey::API_VERSIONS, 5, Judgement::Raw),
            (ApiKey::INIT_PRODUCER_ID, 6, Judgement::Refuse),
            (ApiKey(4), 0, Judgement::Refuse),
            (ApiKey(999), 0, Judgement::Refuse),
            (ApiKey(-1), 0, Judgement::Refuse),
            (ApiKey(i16::MIN), 0, Judgement::Refuse),
            (ApiKey(10_000), 77, Judgement::Raw),
            (ApiKey(i16::MAX), -1, Judgement::Raw),
        ] {
            assert_eq!(judge(key, version), judgement, "{} ({key:?}) version {version}", key.name());
        }
    }
}
