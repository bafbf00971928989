//! Holds clients to a number of bytes per second, as brokers do (KIP-13, KIP-219).
//!
//! Nothing is refused and nothing is lost: what came is passed on, and if that was too fast, the response says how long the client
//! should wait, and nothing is read from its connection for as long. So clients that know of quotas count it as throttling, and
//! others wait all the same.
//!
//! Each rate is a bucket that all workers share, one atomic: the time at which what was taken will have been paid for. It may
//! lie in the future, since a request is taken as it comes: whoever takes more waits longer.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mecha_config::units::{ByteSize, Period};
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::errors::Code;
use mecha_kafka::schema::Versions;
use mecha_kafka::table::ApiKey;
use mecha_kafka::throttle::record_bytes;
use mecha_telemetry::{count, prometheus};
use serde::Deserialize;

use super::access::is_one;
use super::{Answer, Body, Broken, KafkaFactory, KafkaFilter, KafkaKind, Refused, Wants, who};
use crate::{BuildCx, Help};

pub(super) static KIND: KafkaKind = KafkaKind {
    name: "quota",
    help: Help {
        summary: "Holds clients to bytes per second, as brokers do.",
        options: &[
            FilterOption {
                name: "produce",
                takes: Takes::Size,
                without: Without::Means("no bound"),
                about: "bytes per second of requests to produce",
            },
            FilterOption {
                name: "fetch",
                takes: Takes::Size,
                without: Without::Means("no bound"),
                about: "bytes per second of answers to fetches, those of share groups too",
            },
            FilterOption {
                name: "by",
                takes: Takes::Word(&["listener", "topic", "user"]),
                without: Without::Default("user"),
                about: "who has a rate of its own: each user (or name in a certificate), each topic, or all clients together",
            },
            FilterOption {
                name: "burst",
                takes: Takes::Duration,
                without: Without::Default("1s"),
                about: "how much may come at once, in time at that rate",
            },
            FilterOption {
                name: "users",
                takes: Takes::Texts,
                without: Without::Means("everybody"),
                about: "users, or names in certificates, for whom it holds; * at the end stands for anything",
            },
            FilterOption {
                name: "topics",
                takes: Takes::Texts,
                without: Without::Means("all"),
                about: "with `by: topic`, topics for which it holds, in the same way",
            },
        ],
        docs: "Answers have the time in throttle_time_ms, and nothing is read from the connection for as long; other connections of the same user\n\
               wait before their next request of that kind. Clients without a name share a rate. With `by: topic` bytes are those of records,\n\
               requests and answers are held as a whole, and versions that name topics by identity only are not offered.\n\
               mecha_quota_throttles_total counts.",
        example: "- quota: { produce: 10MiB, fetch: 20MiB, users: [\"batch-*\"] }",
    },
    build: |options, cx| build(options, cx).map(|quota| Box::new(quota) as Box<dyn KafkaFactory>),
};

/// The longest that a connection is not read from at a time. What is owed then is still owed.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Names with a rate of their own; those beyond share some.
const MAX_BUCKETS: usize = 10_000;
const SHARED: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    produce: Option<ByteSize>,
    fetch: Option<ByteSize>,
    #[serde(default)]
    by: By,
    burst: Option<Period>,
    users: Option<Vec<String>>,
    topics: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum By {
    Listener,
    Topic,
    #[default]
    User,
}

#[derive(Clone)]
struct Quota(Arc<Rule>);

struct Rule {
    produce: Option<Rate>,
    fetch: Option<Rate>,
    by: By,
    users: Option<Vec<String>>,
    topics: Option<Vec<String>>,
    buckets: Mutex<HashMap<Box<str>, Arc<Buckets>>>,
    shared: Vec<Arc<Buckets>>,
    throttles: Option<prometheus::IntCounter>,
}

/// Bytes per second, and what may come at once.
#[derive(Clone, Copy)]
struct Rate {
    per_second: u64,
    burst_micros: u64,
}

/// When what was taken will have been paid for, in microseconds: of producing and of fetching.
#[derive(Default)]
struct Buckets {
    produce: AtomicU64,
    fetch: AtomicU64,
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<Quota, Vec<ConfigError>> {
    let raw: RawQuota = options.check(|raw: &RawQuota, errors| {
        let rates = [("produce", raw.produce), ("fetch", raw.fetch)];
        if rates.iter().all(|(_, rate)| rate.is_none()) {
            errors.push(options.error("", "bounds nothing").hint("as in `{ produce: 10MiB, fetch: 20MiB }`"));
        }
        for (name, _) in rates.iter().filter(|(_, rate)| rate.is_some_and(|rate| u64::from(rate) == 0)) {
            let hint = "bytes per second, as in `10MiB`; to refuse everything, use `deny`";
            errors.push(options.error(name, "must be at least 1").hint(hint));
        }
        if raw.topics.is_some() && raw.by != By::Topic {
            let hint = "`by: topic`, or leave `topics` out";
            errors.push(options.error("topics", "nobody looks at topics here").hint(hint));
        }
    })?;
    let burst_micros = raw.burst.map_or(Duration::from_secs(1), Duration::from).as_micros() as u64;
    let rate = |rate: Option<ByteSize>| rate.map(|rate| Rate { per_second: u64::from(rate), burst_micros });
    Ok(Quota(Arc::new(Rule {
        produce: rate(raw.produce),
        fetch: rate(raw.fetch),
        by: raw.by,
        users: raw.users,
        topics: raw.topics,
        buckets: Mutex::default(),
        shared: (0..SHARED).map(|_| Arc::default()).collect(),
        throttles: cx.registry.counter(
            "mecha_quota_throttles_total",
            "Times that a client had to wait for its bytes per second.",
            cx.scope,
        ),
    })))
}

impl KafkaFactory for Quota {
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter> {
        let (rule, user) = (&self.0, who(peer));
        let is_for =
            rule.users.as_ref().is_none_or(|users| is_one(users, user.unwrap_or_default().as_bytes()));
        let own = match rule.by {
            // What is not a name of anybody stands for everybody.
            By::Listener => Some(rule.bucket("")),
            By::User => Some(rule.bucket(user.unwrap_or_default())),
            By::Topic => None,
        };
        Box::new(Meter { rule: is_for.then(|| Arc::clone(rule)), own, topics: HashMap::new() })
    }
}

impl Rule {
    /// The buckets of a user or a topic.
    fn bucket(&self, name: &str) -> Arc<Buckets> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = buckets.get(name) {
            return Arc::clone(known);
        }
        if buckets.len() >= MAX_BUCKETS {
            buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1);
        }
        if buckets.len() >= MAX_BUCKETS {
            let at = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(name);
            return self.shared.get(at as usize % SHARED).map(Arc::clone).unwrap_or_default();
        }
        Arc::clone(buckets.entry(name.into()).or_default())
    }

    /// What users or listeners still owe for requests of this kind, in microseconds.
    fn owed(&self, buckets: &Buckets, key: ApiKey, now_micros: u64) -> u64 {
        let bucket = if key == ApiKey::PRODUCE { &buckets.produce } else { &buckets.fetch };
        self.rate(key).map_or(0, |rate| rate.owed(bucket.load(Ordering::Relaxed), now_micros))
    }

    fn rate(&self, key: ApiKey) -> Option<Rate> {
        match key {
            ApiKey::PRODUCE => self.produce,
            ApiKey::FETCH | ApiKey::SHARE_FETCH => self.fetch,
            _ => None,
        }
    }
}

impl Rate {
    /// Takes so many bytes: the microseconds after which they are paid for.
    fn take(self, bucket: &AtomicU64, bytes: usize, now_micros: u64) -> u64 {
        let price = u128::from(bytes as u64) * 1_000_000 / u128::from(self.per_second);
        let price = u64::try_from(price).unwrap_or(u64::MAX >> 1);
        let paid = |at: u64| at.max(now_micros).saturating_add(price);
        // The burst is given on credit: what is owed is what lies beyond it.
        let owed = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(paid(at)));
        self.owed(paid(owed.unwrap_or_default()), now_micros)
    }

    fn owed(self, paid_micros: u64, now_micros: u64) -> u64 {
        paid_micros.saturating_sub(now_micros.saturating_add(self.burst_micros))
    }
}

struct Meter {
    /// `None` if it is for others.
    rule: Option<Arc<Rule>>,
    /// Those of the user or of all; `None` where each topic has some.
    own: Option<Arc<Buckets>>,
    /// Those of topics that the connection has written or read.
    topics: HashMap<Box<str>, Arc<Buckets>>,
}

/// Topics that a connection remembers.
const MAX_TOPICS: usize = 1000;

impl Meter {
    /// Takes what a message has that is there as a whole: how long its client has to wait.
    fn take(&mut self, body: &Body<'_>) -> Result<u64, Refused> {
        let Some((rule, rate)) = self.rule.as_ref().and_then(|rule| Some((rule, rule.rate(body.key)?)))
        else {
            return Ok(0);
        };
        let of = |buckets: &Buckets, bytes: usize| {
            let bucket = if body.key == ApiKey::PRODUCE { &buckets.produce } else { &buckets.fetch };
            rate.take(bucket, bytes, body.now_micros)
        };
        let mut wait = 0;
        match &self.own {
            Some(own) => wait = of(own, body.size as usize),
            None => {
                let topics = &mut self.topics;
                let read = record_bytes(body.key, body.version, body.bytes, &mut |topic, bytes| {
                    let Ok(topic) = std::str::from_utf8(topic) else { return };
                    if bytes == 0 || rule.topics.as_ref().is_some_and(|list| !is_one(list, topic.as_bytes()))
                    {
                        return;
                    }
                    if !topics.contains_key(topic) {
                        if topics.len() >= MAX_TOPICS {
                            topics.clear();
                        }
                        topics.insert(topic.into(), rule.bucket(topic));
                    }
                    wait = wait.max(topics.get(topic).map_or(0, |buckets| of(buckets, bytes)));
                });
                read.map_err(|_| Refused::Malformed)?;
            }
        }
        Ok(rule.waits(wait))
    }
}

impl Rule {
    fn waits(&self, micros: u64) -> u64 {
        if micros > 0 {
            count(&self.throttles);
        }
        micros.min(MAX_WAIT.as_micros() as u64)
    }
}

impl KafkaFilter for Meter {
    fn serves(&self, key: ApiKey, versions: Versions) -> Versions {
        let is_named = self.own.is_some() || self.rule.as_ref().and_then(|rule| rule.rate(key)).is_none();
        match key {
            _ if is_named => versions,
            ApiKey::SHARE_FETCH => Versions::NONE,
            // From the next version on they name topics by identity only.
            _ => versions.and(Versions { first: 0, last: 12 }),
        }
    }

    fn wants(&self, key: ApiKey, _version: i16) -> Wants {
        let is_metered = self.rule.as_ref().is_some_and(|rule| rule.rate(key).is_some());
        match key {
            _ if !is_metered => Wants::Nothing,
            // It is enough to know how large they are.
            ApiKey::PRODUCE if self.own.is_some() => Wants::Beginning,
            ApiKey::PRODUCE => Wants::Request,
            _ if self.own.is_some() => Wants::Nothing,
            _ => Wants::Both,
        }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        let only = Versions { first: request.version, last: request.version };
        if self.serves(request.key, only).is_empty() {
            return Err(Refused::With(
                Code::UNSUPPORTED_VERSION,
                "this version names topics by identity only",
            ));
        }
        if request.key == ApiKey::PRODUCE {
            request.wait_micros = self.take(request)?;
        }
        Ok(())
    }

    fn on_response(&mut self, response: &mut Body<'_>) -> Result<(), Broken> {
        if response.key != ApiKey::PRODUCE {
            response.wait_micros = self.take(response).map_err(|_| Broken)?;
        }
        Ok(())
    }

    fn meters(&self, key: ApiKey) -> bool {
        key != ApiKey::PRODUCE && self.rule.as_ref().is_some_and(|rule| rule.rate(key).is_some())
    }

    fn owes(&self, key: ApiKey, now_micros: u64) -> u64 {
        match (&self.rule, &self.own) {
            (Some(rule), Some(own)) => rule.owed(own, key, now_micros).min(MAX_WAIT.as_micros() as u64),
            _ => 0,
        }
    }

    fn on_answer(&mut self, answer: &Answer) -> u64 {
        let (Some(rule), Some(own)) = (&self.rule, &self.own) else { return 0 };
        let is_fetched = answer.key != ApiKey::PRODUCE;
        match rule.rate(answer.key).filter(|_| is_fetched) {
            Some(rate) => rule.waits(rate.take(&own.fetch, answer.bytes as usize, answer.now_micros)),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use mecha_kafka::guard;
    use mecha_kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use mecha_kafka::messages::{ProduceRequest, TopicName};
    use mecha_kafka::protocol::StrBytes;

    use super::super::testing::{open, open_all, wrong};
    use super::*;
    use crate::testing::PEER;

    fn produced(filter: &mut dyn KafkaFilter, topics: &[(&'static str, usize)], now_micros: u64) -> u64 {
        let topic = |(name, size): &(&'static str, usize)| {
            let records = Some(Bytes::from(vec![1; *size]));
            TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_partition_data(vec![PartitionProduceData::default().with_records(records)])
        };
        let request = ProduceRequest::default().with_topic_data(topics.iter().map(topic).collect());
        let mut body = BytesMut::new();
        guard::encode_request(None, &request, 9, &mut body).unwrap();
        let (mut bytes, mut room) = (body.to_vec(), Vec::new());
        let (bytes, room, key) = (&mut bytes, &mut room, ApiKey::PRODUCE);
        let size = bytes.len() as u32;
        let mut body = Body { key, version: 9, bytes, size, room, note: 0, now_micros, wait_micros: 0 };
        filter.on_request(&mut body).unwrap();
        body.wait_micros
    }

    fn fetched(filter: &mut dyn KafkaFilter, bytes: u32, now_micros: u64) -> u64 {
        filter.on_answer(&Answer { key: ApiKey::FETCH, version: 17, bytes, now_micros })
    }

    #[test]
    fn who_takes_more_than_its_rate_waits_until_it_is_paid_for() {
        let mut filter = open(&KIND, "- quota: { fetch: 1000B, burst: 2s }");
        assert_eq!(fetched(&mut *filter, 2000, 0), 0);
        assert_eq!(fetched(&mut *filter, 500, 0), 500_000);
        assert_eq!(filter.owes(ApiKey::FETCH, 100_000), 400_000);
        assert_eq!(filter.owes(ApiKey::PRODUCE, 100_000), 0);
        assert_eq!(fetched(&mut *filter, 100, 200_000), 400_000);
        // Paid for, and then saved up, up to the burst.
        assert_eq!(fetched(&mut *filter, 100, 1_000_000), 0);
        assert_eq!(fetched(&mut *filter, 3000, 60_000_000), 1_000_000);
        // No longer than is bearable at a time.
        assert_eq!(fetched(&mut *filter, 1_000_000_000, 60_000_000), 3_600_000_000);
        // Producing has no bound.
        assert_eq!(produced(&mut *filter, &[("a", 10_000)], 0), 0);
    }

    #[test]
    fn users_have_rates_of_their_own_and_connections_of_one_share_it() {
        let peer = |user: &str| Peer { user: Some(user.into()), ..PEER.clone() };
        let peers = [peer("app-1"), peer("app-1"), peer("app-2"), peer("admin")];
        let mut filters = open_all(&KIND, "- quota: { fetch: 1000B, burst: 1s, users: [\"app-*\"] }", &peers);
        let waits: Vec<_> = filters.iter_mut().map(|filter| fetched(&mut **filter, 1500, 0)).collect();
        assert_eq!(waits, [500_000, 2_000_000, 500_000, 0]);
    }

    #[test]
    fn topics_have_rates_of_their_own() {
        let mut filter = open(&KIND, "- quota: { produce: 1000B, by: topic, topics: [\"big*\"] }");
        assert_eq!(produced(&mut *filter, &[("big-1", 1000), ("small", 9000)], 0), 0);
        assert_eq!(produced(&mut *filter, &[("big-1", 100), ("big-2", 900)], 0), 100_000);
        assert_eq!(filter.serves(ApiKey::PRODUCE, Versions { first: 0, last: 13 }).last, 12);
        assert_eq!(filter.serves(ApiKey::FETCH, Versions { first: 4, last: 18 }).last, 18);
        assert_eq!(filter.wants(ApiKey::FETCH, 12), Wants::Nothing);
    }

    #[test]
    fn what_bounds_nothing_is_told() {
        assert!(wrong(&KIND, "- quota: { by: user }").contains("bounds nothing"));
        assert!(wrong(&KIND, "- quota: { produce: 0B }").contains("must be at least 1"));
        assert!(wrong(&KIND, "- quota: { produce: 1B, topics: [a] }").contains("nobody looks at topics"));
    }
}
