//! What mecha tells about itself: counters, histograms, logs.
//!
//! A metric on the data path has one writer, the worker that owns it, so writing is a relaxed load and a relaxed store
//! with no lock prefix; the scraper sums the workers' copies. Label values are resolved when a listener or cluster is
//! made, never per call, and only series that were used are exported. Filters register their own gauges, which change
//! rarely, with the ordinary [`prometheus`] types.

mod apis;
mod cluster;
mod counter;
mod export;
mod histogram;
mod hot_keys;
mod lag;
mod listener;
mod logins;
mod logs;
mod migration;
mod process;
mod route;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use mecha_core::OpInfo;

pub use apis::{ApiMetrics, Seated};
pub use cluster::ClusterMetrics;
pub use counter::Counter;
pub use histogram::Histogram;
pub use hot_keys::{HotKey, HotKeys, HotKeysTable};
pub use lag::{Lag, LagTopic};
pub use listener::{CloseReason, ListenerMetrics};
pub use logins::LoginMetrics;
pub use logs::{LogFormat, flush_logs, init_logs};
pub use migration::{MigrationMetrics, count};
pub use prometheus;
pub use route::RouteMetrics;
pub use tls::TlsMetrics;

/// All metrics of the process.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    prometheus: prometheus::Registry,
    sources: Arc<Sources>,
    tls: Option<tls::TlsFamilies>,
    logins: Option<prometheus::IntCounterVec>,
    gauges: Mutex<HashMap<Scoped, prometheus::IntGauge>>,
    counters: Mutex<HashMap<Scoped, prometheus::IntCounter>>,
}

/// Name and scope of a filter's metric.
type Scoped = (String, String);

/// Every worker's metrics, for the scraper.
#[derive(Default)]
pub(crate) struct Sources {
    listeners: Mutex<Vec<Arc<ListenerMetrics>>>,
    clusters: Mutex<Vec<Arc<ClusterMetrics>>>,
    routes: Mutex<Vec<Arc<RouteMetrics>>>,
    apis: Mutex<Vec<Arc<ApiMetrics>>>,
    lags: Mutex<BTreeMap<String, Arc<Lag>>>,
    hot_keys: Mutex<BTreeMap<String, Arc<HotKeys>>>,
}

impl Sources {
    pub(crate) fn listeners(&self) -> Vec<Arc<ListenerMetrics>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn clusters(&self) -> Vec<Arc<ClusterMetrics>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn routes(&self) -> Vec<Arc<RouteMetrics>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn apis(&self) -> Vec<Arc<ApiMetrics>> {
        self.apis.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn lags(&self) -> BTreeMap<String, Arc<Lag>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that knows the process' own figures and nothing else.
    pub fn new() -> Self {
        let (prometheus, sources) = (prometheus::Registry::new(), Arc::new(Sources::default()));
        for collector in [
            Box::new(export::Exporter::new(Arc::clone(&sources))) as Box<dyn prometheus::core::Collector>,
            Box::new(process::Process::new()),
        ] {
            // Names are ours and distinct, so this cannot fail; if it did, the figures would be missing, no more.
            if let Err(error) = prometheus.register(collector) {
                tracing::error!(%error, "metrics are not exported");
            }
        }
        Self {
            inner: Arc::new(Inner {
                // Their names are distinct and their labels fixed, so they are always there.
                tls: tls::TlsFamilies::new(&prometheus).ok(),
                logins: logins::family(&prometheus).ok(),
                prometheus,
                sources,
                gauges: Mutex::default(),
                counters: Mutex::default(),
            }),
        }
    }

    /// Metrics of one listener on one worker; those of the same name are summed at scrape.
    pub fn listener(
        &self,
        name: &str,
        protocol: &'static str,
        ops: &'static [OpInfo],
    ) -> Arc<ListenerMetrics> {
        let metrics = Arc::new(ListenerMetrics::new(name, protocol, ops));
        let sources = &self.inner.sources;
        sources.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&metrics));
        metrics
    }

    /// Handshakes and certificates of the listener or cluster with this name.
    pub fn tls(&self, name: &str) -> TlsMetrics {
        TlsMetrics::new(name, self.inner.tls.clone())
    }

    /// Logins at the listener with this name.
    pub fn logins(&self, listener: &str) -> LoginMetrics {
        LoginMetrics::new(listener, self.inner.logins.clone())
    }

    /// Metrics of one cluster on one worker; those of the same name are summed at scrape.
    pub fn cluster(&self, name: &str, protocol: &'static str) -> Arc<ClusterMetrics> {
        let metrics = Arc::new(ClusterMetrics::new(name, protocol));
        let sources = &self.inner.sources;
        sources.clusters.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&metrics));
        metrics
    }

    /// Metrics of one route on one worker; those of the same names are summed at scrape.
    pub fn route(&self, listener: &str, route: &str, cluster: &str) -> Arc<RouteMetrics> {
        let metrics = Arc::new(RouteMetrics::new(listener, route, cluster));
        let sources = &self.inner.sources;
        sources.routes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&metrics));
        metrics
    }

    /// Requests at one listener on one worker, by API, version and error; those of the same name are summed at scrape. `ops` and
    /// `errors` name what there is.
    pub fn apis(
        &self,
        listener: &str,
        ops: &'static [OpInfo],
        errors: &'static [&'static str],
    ) -> Arc<ApiMetrics> {
        let metrics = Arc::new(ApiMetrics::new(listener, ops, errors));
        let sources = &self.inner.sources;
        sources.apis.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&metrics));
        metrics
    }

    /// How far the groups of consumers at this listener are behind, over all workers: the same for the same name.
    pub fn lag(&self, listener: &str) -> Arc<Lag> {
        let mut lags = self.inner.sources.lags.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lags.entry(listener.into()).or_default())
    }

    /// Tables for the keys that are used most in `scope`: the same for the same scope, unless other calls are to be looked at.
    pub fn hot_keys(&self, scope: &str, sample: u32) -> Arc<HotKeys> {
        let mut all = self.inner.sources.hot_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(scope.into()).or_insert_with(|| Arc::new(HotKeys::new(sample)));
        if known.sample() != sample {
            *known = Arc::new(HotKeys::new(sample));
        }
        Arc::clone(known)
    }

    /// All scopes whose keys are counted by anybody.
    pub fn all_hot_keys(&self) -> Vec<(String, Arc<HotKeys>)> {
        let mut all = self.inner.sources.hot_keys.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, keys| Arc::strong_count(keys) > 1);
        all.iter().map(|(scope, keys)| (scope.clone(), Arc::clone(keys))).collect()
    }

    /// Figures of the migration of `route`, a listener's and a route's name; over all workers.
    pub fn migration(&self, route: &str) -> MigrationMetrics {
        MigrationMetrics::new(self, route)
    }

    /// Where filters register gauges and counters of their own.
    pub fn prometheus(&self) -> &prometheus::Registry {
        &self.inner.prometheus
    }

    /// The gauge of this name and scope: made when it is first asked for, the same ever after, so that a filter that is
    /// rebuilt goes on with it.
    pub fn gauge(&self, name: &str, help: &str, scope: &str) -> Option<prometheus::IntGauge> {
        let mut gauges = self.inner.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gauge) = gauges.get(&(name.to_string(), scope.to_string())) {
            return Some(gauge.clone());
        }
        let gauge =
            prometheus::IntGauge::with_opts(prometheus::Opts::new(name, help).const_label("scope", scope))
                .ok()?;
        self.inner.prometheus.register(Box::new(gauge.clone())).ok()?;
        gauges.insert((name.into(), scope.into()), gauge.clone());
        Some(gauge)
    }

    /// As [`Registry::gauge`], for a counter.
    pub fn counter(&self, name: &str, help: &str, scope: &str) -> Option<prometheus::IntCounter> {
        let mut counters = self.inner.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get(&(name.to_string(), scope.to_string())) {
            return Some(counter.clone());
        }
        let opts = prometheus::Opts::new(name, help).const_label("scope", scope);
        let counter = prometheus::IntCounter::with_opts(opts).ok()?;
        self.inner.prometheus.register(Box::new(counter.clone())).ok()?;
        counters.insert((name.into(), scope.into()), counter.clone());
        Some(counter)
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> String {
        let families = self.inner.prometheus.gather();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }
}
