//! Where the connections of Kafka's clients go, and what is said on them.
//!
//! A client has one connection to each broker that it wants something from, and so has mecha: one for each of its
//! clients'. Which broker that is, the port tells at which the client came ([`Brokers`]). What the two say passes
//! through a [`Conversation`], which lets bytes be what they are but for the addresses of brokers.

mod clients;
mod conversation;
mod figures;
mod login;
mod placement;
mod reception;
mod single;
mod stage;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mecha_clusters::{Brokers, Door, Knock, Streams};
use mecha_core::{Cx, OpClass, OpId, OpInfo, Peer, Refusal};
use mecha_filters::kafka::KafkaFactory;
use mecha_kafka::schema::Versions;
use mecha_kafka::table::{ApiKey, Class, apis};
use mecha_telemetry::{ApiMetrics, CloseReason, ClusterMetrics, Lag};
use mecha_transport::{Address, Clock, ReadHalf, WriteHalf};

use self::clients::Asking;
pub use self::clients::Clients;
pub use self::conversation::Conversation;
pub(crate) use self::conversation::broker;
use self::figures::Figures;
pub(crate) use self::login::log_in;
pub use self::login::{Credentials, Opened};
pub use self::placement::Placement;
use self::reception::Reception;
pub use self::single::SingleAddress;
use self::stage::{Stage, Staged};
use super::opaque::{Destination, Greeted, Judges, OpaqueListener, Relay};

/// What clients of Kafka do: connect, and then what the protocol's table has, in its order.
pub static OPS: LazyLock<Vec<OpInfo>> = LazyLock::new(|| {
    let fixed = super::opaque::OPS.iter().copied();
    let row = |api: &mecha_kafka::table::Api| {
        let class = match api.class {
            Class::Admin | Class::Controller => OpClass::Admin,
            Class::Cluster | Class::Fetch => OpClass::Read,
            Class::Session => OpClass::Session,
            Class::Group | Class::Produce | Class::Transaction => OpClass::Write,
        };
        OpInfo { name: api.key.name(), class, idempotent: false }
    };
    fixed.chain(apis().map(row)).collect()
});

/// The row of an API in [`OPS`].
fn op_of(key: ApiKey) -> OpId {
    static ROWS: LazyLock<Vec<u16>> = LazyLock::new(|| {
        let mut rows = vec![0; 128];
        for (at, api) in apis().enumerate() {
            if let Some(row) = usize::try_from(api.key.0).ok().and_then(|key| rows.get_mut(key)) {
                *row = (super::opaque::OPS.len() + at) as u16;
            }
        }
        rows
    });
    OpId(usize::try_from(key.0).ok().and_then(|key| ROWS.get(key)).copied().unwrap_or_default())
}

/// The host that clients are told, the same for all brokers or a name for each.
#[derive(Clone, Debug, Default)]
pub struct Host {
    before: String,
    /// What follows the broker's number, if there is one in it.
    after: Option<String>,
}

impl Host {
    /// As configuration spells it: `$(id)` stands for the broker's number.
    #[must_use]
    pub fn new(spelled: String) -> Self {
        match spelled.split_once(mecha_config::BROKER_ID) {
            Some((before, after)) => Self { before: before.into(), after: Some(after.into()) },
            None => Self { before: spelled, after: None },
        }
    }

    /// The broker whose host this is; `None` if it is no broker's.
    fn broker(&self, name: &str) -> Option<i32> {
        // Names are the same in any case (RFC 4343).
        let name = name.to_ascii_lowercase();
        let number = name.strip_prefix(&self.before.to_ascii_lowercase())?;
        let number = number.strip_suffix(&self.after.as_ref()?.to_ascii_lowercase())?;
        let is_number =
            number.bytes().all(|digit| digit.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
        number.parse().ok().filter(|_| is_number)
    }

    /// That of one broker.
    fn of(&self, broker: i32) -> Cow<'_, str> {
        match &self.after {
            None => Cow::Borrowed(&self.before),
            Some(after) => Cow::Owned(format!("{}{broker}{after}", self.before)),
        }
    }
}

/// The brokers of one listener, on one worker.
pub struct VirtualCluster {
    /// Connections to them.
    pub streams: Rc<Streams>,
    /// Who mecha is to them.
    pub credentials: Rc<Credentials>,
    /// Who clients may be; `None` where nobody asks.
    pub clients: Option<Arc<Clients>>,
    /// What brokers have said that they know, and when.
    pub offers: RefCell<Option<(u64, Rows)>>,
    /// Who they are, for all workers.
    pub brokers: Arc<Brokers>,
    /// The host that clients are told, if it is not the one that they have connected to; as [`Host`] is spelled.
    pub host: Option<String>,
    /// The hosts by which clients are told apart, if it is by the names that they ask for in the TLS handshake.
    pub named: Option<Host>,
    /// Bytes of the largest request.
    pub max_frame: u32,
    /// What requests and answers pass, from the client on.
    pub filters: Vec<Arc<dyn KafkaFactory>>,
    /// Policies that are asked about each request, if there are any.
    pub judges: RefCell<Option<Judges>>,
    /// Requests by API, version and error, of this worker.
    pub apis: Arc<ApiMetrics>,
    /// How far groups are behind, for all workers.
    pub lag: Arc<Lag>,
    /// The process'.
    pub clock: Clock,
}

impl VirtualCluster {
    /// What stands between this client and a broker. `offered` are the versions of each API that it may know of.
    fn conversation(&self, client: &Peer, offered: fn(ApiKey, Versions) -> Versions) -> Conversation {
        let told = || client.local.map(|local| local.ip().to_canonical().to_string());
        let host = self.host.clone().or_else(told).map(Host::new).unwrap_or_default();
        let figures = Figures::new(Arc::clone(&self.apis), Arc::clone(&self.lag));
        let (brokers, settings) = (Arc::clone(&self.brokers), (self.max_frame, self.clock));
        let conversation = Conversation::new(brokers, host, settings, offered, figures);
        // Who clients are is settled, or brokers know mecha instead.
        conversation.logged_in(self.credentials.is_some() || self.clients.is_some())
    }

    /// The filters of one client; `None` if there are none.
    fn stage(&self, client: &Peer) -> Option<Box<Stage>> {
        let filters: Vec<_> = self.filters.iter().map(|factory| factory.open(client)).collect();
        let judges = self.judges.borrow().clone();
        let is_wanted = !filters.is_empty() || judges.is_some();
        let policies = judges.map(|judges| (judges, client.clone()));
        is_wanted.then(|| {
            Box::new(Stage::new(filters, policies, (self.max_frame, self.clock), Arc::clone(&self.apis)))
        })
    }

    /// Connects to this broker, or to any, and logs in where that is wanted.
    async fn reach(
        &self,
        address: Option<&Address>,
        client: &Peer,
        within: Option<Duration>,
    ) -> Result<Opened, Refusal> {
        let reaching = async {
            let stream = match address {
                None => self.streams.open(client, None).await?,
                Some(address) => self.streams.open_at(address, client, None).await?,
            };
            self.credentials.log_in(stream, &self.clock).await
        };
        match within {
            None => reaching.await,
            Some(within) => tokio::time::timeout(within, reaching).await.map_err(|_| Refusal::TimedOut)?,
        }
    }

    /// Whether clients of the one may go on as clients of the other.
    fn is_like(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.streams, &other.streams)
            && Arc::ptr_eq(&self.brokers, &other.brokers)
            && self.host == other.host
            && self.named.is_some() == other.named.is_some()
            && self.max_frame == other.max_frame
            // Policies may be others.
            && self.judges.borrow().is_none()
            && other.judges.borrow().is_none()
            && self.filters.iter().map(Arc::as_ptr).eq(other.filters.iter().map(Arc::as_ptr))
            && self.clients.as_ref().map(Arc::as_ptr) == other.clients.as_ref().map(Arc::as_ptr)
    }
}

impl VirtualCluster {
    /// What brokers know, asked anew when that is some time ago.
    async fn offers(&self, client: &Peer) -> Rows {
        let now = self.clock.micros();
        if let Some((_, rows)) =
            self.offers.borrow().as_ref().filter(|(asked, _)| now < asked + OFFERED_MICROS)
        {
            return rows.clone();
        }
        let asking = async {
            let opened = self.reach(None, client, None).await.ok()?;
            login::offers(opened.stream).await.ok()
        };
        let rows = tokio::time::timeout(reception::PATIENCE / 2, asking).await.ok().flatten();
        if let Some(rows) = &rows {
            self.offers.replace(Some((now, rows.clone())));
        }
        rows.unwrap_or_default()
    }

    /// Lets a client prove who it is, where that is wanted.
    async fn receive(
        &self,
        client: &Peer,
        halves: &mut (ReadHalf, WriteHalf),
        offered: fn(ApiKey, Versions) -> Versions,
    ) -> Result<Greeted, CloseReason> {
        let Some(clients) = &self.clients else { return Ok(Greeted::default()) };
        let receiving = async {
            let rows = self.offers(client).await;
            let cx = Cx { now_micros: self.clock.micros(), peer: client };
            let mut asking = Asking { clients, cx, is_plain: true, until: None };
            let mechanisms: Vec<_> = clients.mechanisms().collect();
            let mut limit = |key: ApiKey, versions: Versions| match key {
                // Some clients look for version 0 of the handshake, and use 1.
                ApiKey::API_VERSIONS | ApiKey::SASL_AUTHENTICATE | ApiKey::SASL_HANDSHAKE => versions,
                _ => offered(key, rows.get(&key).map_or(Versions::NONE, |theirs| versions.and(*theirs))),
            };
            let ended = Reception::new(halves).log_in(&mechanisms, &mut asking, &mut limit).await;
            match &ended {
                Ok(_) => asking.ended(true),
                Err(CloseReason::Refused) => asking.ended(false),
                Err(_) => {}
            }
            let now = self.clock.micros();
            let left = |until: u64| until.saturating_sub(clients::seconds()).saturating_mul(1_000_000);
            let until_micros = asking.until.map(|until| now.saturating_add(left(until)));
            ended.map(|name| Greeted { user: Some(name.into()), until_micros })
        };
        match tokio::time::timeout(reception::PATIENCE, receiving).await {
            Ok(ended) => ended,
            Err(_) => Err(CloseReason::Idle),
        }
    }
}

/// Tells a client why it is led nowhere.
async fn turn_away(why: Refusal, mut halves: (ReadHalf, WriteHalf)) {
    let mut reception = Reception::new(&mut halves);
    let is_said = tokio::time::timeout(reception::PATIENCE, reception.turn_away(why)).await;
    if is_said != Ok(true) {
        halves.1.abort();
    }
}

/// How long what brokers have said of their versions is believed.
const OFFERED_MICROS: u64 = 10_000_000;

/// The versions of each API that brokers know.
pub type Rows = Rc<HashMap<ApiKey, Versions>>;

impl Destination for VirtualCluster {
    type Opened = (Opened, Option<i32>);
    type Passage = Relay<Staged>;

    async fn open(
        &self,
        client: &Peer,
        asked: Option<&str>,
        within: Option<Duration>,
    ) -> Result<Self::Opened, Refusal> {
        let port = client.local.map_or(0, |local| local.port());
        let named = self.named.as_ref().and_then(|host| host.broker(asked?));
        let knock = named.map_or(Knock::Port(port), Knock::Broker);
        match self.brokers.found(knock).await {
            Door::Any => Ok((self.reach(None, client, within).await?, None)),
            Door::Of(broker) => {
                let opened = self.reach(Some(&broker.address), client, within).await;
                if opened.is_err() {
                    // It may have moved.
                    self.brokers.refresh();
                }
                Ok((opened?, Some(broker.id)))
            }
            Door::Vacant => Err(Refusal::NoRoute),
        }
    }

    fn pass(
        self: &Rc<Self>,
        client: &Peer,
        halves: (ReadHalf, WriteHalf),
        (opened, broker): Self::Opened,
    ) -> Self::Passage {
        let mut conversation = self.conversation(client, |_, versions| versions);
        conversation.connected(broker);
        let staged = Staged::new(conversation.renewing(opened.renewal), self.stage(client));
        Relay::new(halves, opened.stream, staged)
    }

    async fn greet(&self, client: &Peer, halves: &mut (ReadHalf, WriteHalf)) -> Result<Greeted, CloseReason> {
        self.receive(client, halves, |_, versions| versions).await
    }

    async fn refuse(&self, why: Refusal, halves: (ReadHalf, WriteHalf)) {
        turn_away(why, halves).await;
    }

    fn report(relay: &mut Self::Passage, listener: &OpaqueListener<Self>) {
        relay.between.take_done(|done| listener.metrics.done(done));
    }

    fn judged_by(&self, judges: &Judges) {
        self.judges.replace(Some(Rc::clone(judges)).filter(|judges| !judges.borrow().is_empty()));
    }

    fn is_same(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        self.is_like(other)
    }

    fn metrics(&self) -> &ClusterMetrics {
        self.streams.metrics()
    }
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn a_name_is_one_brokers_or_nobodys() {
        let host = Host::new("b$(id).Kafka.example".into());
        for (name, broker) in [
            ("b7.kafka.example", Some(7)),
            ("B0.KAFKA.EXAMPLE", Some(0)),
            ("b.kafka.example", None),
            ("b07.kafka.example", None),
            ("b+7.kafka.example", None),
            ("b-1.kafka.example", None),
            ("b99999999999.kafka.example", None),
            ("kafka.example", None),
            ("b7.kafka.example.org", None),
        ] {
            assert_eq!(host.broker(name), broker, "{name}");
        }
        assert_eq!(host.of(7), "b7.Kafka.example");
        assert_eq!(Host::new("kafka.example".into()).broker("kafka.example"), None);
    }
}
