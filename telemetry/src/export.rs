//! From workers' figures to metric families, at scrape.

use std::collections::BTreeMap;
use std::sync::Arc;

use mecha_core::Refusal;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::apis::VERSIONS;
use crate::histogram::BOUNDS_MICROS;
use crate::listener::OUTCOMES;
use crate::{CloseReason, Sources};

/// Reads all workers' figures.
pub(crate) struct Exporter {
    sources: Arc<Sources>,
}

impl Exporter {
    pub(crate) fn new(sources: Arc<Sources>) -> Self {
        Self { sources }
    }
}

impl Collector for Exporter {
    /// Families are made at scrape, so none is declared; their names share the prefix `mecha_`, which no filter's
    /// metrics of another kind reuse.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        self.listeners(&mut families);
        self.clusters(&mut families);
        self.routes(&mut families);
        self.apis(&mut families);
        families.finish()
    }
}

impl Exporter {
    fn listeners(&self, out: &mut Families) {
        for listener in self.sources.listeners() {
            let at = [("listener", listener.name.as_str()), ("protocol", listener.protocol)];
            out.gauge("mecha_client_connections", "Clients connected now.", &at, listener.connections.get());
            out.counter(
                "mecha_client_connections_total",
                "Clients that have connected.",
                &at,
                listener.opened.get(),
            );
            let turned_away = listener.refused_connections.get();
            out.used(
                "mecha_client_connections_refused_total",
                "Clients turned away: too many.",
                &at,
                turned_away,
            );
            for (direction, bytes) in [("in", &listener.read_bytes), ("out", &listener.wrote_bytes)] {
                let labels = [at[0], ("direction", direction)];
                out.counter("mecha_client_bytes_total", "Bytes from and to clients.", &labels, bytes.get());
            }
            for (why, count) in CloseReason::ALL.iter().zip(&listener.closed) {
                let labels = [at[0], ("reason", why.name())];
                out.used("mecha_client_closed_total", "Client connections that ended.", &labels, count.get());
            }
            for (why, count) in Refusal::ALL.iter().zip(&listener.refusals) {
                let labels = [at[0], ("reason", why.name())];
                out.used(
                    "mecha_refusals_total",
                    "Calls answered in the backend's place.",
                    &labels,
                    count.get(),
                );
            }
            for (row, metrics) in listener.by_op.iter().enumerate() {
                let Some(metrics) = metrics.get() else { continue };
                let command = listener.ops.get(row).map_or("unknown", |op| op.name);
                for (outcome, count) in OUTCOMES.iter().zip(&metrics.outcomes) {
                    let labels = [at[0], at[1], ("command", command), ("outcome", *outcome)];
                    out.used("mecha_calls_total", "Calls by command and outcome.", &labels, count.get());
                }
                let (buckets, sum) = metrics.latency.read();
                let labels = [at[0], ("command", command)];
                let help = "Time from forwarding a call to its answer.";
                out.histogram("mecha_call_duration_seconds", help, &labels, &buckets, sum);
            }
        }
    }

    fn apis(&self, out: &mut Families) {
        for apis in self.sources.apis() {
            let at = ("listener", apis.listener.as_str());
            for (row, versions) in apis.rows.iter().enumerate() {
                let Some(versions) = versions.get() else { continue };
                let api = apis.ops.get(row).map_or("other", |op| op.name);
                for (version, errors) in versions.iter().enumerate() {
                    let Some(errors) = errors.get() else { continue };
                    let version = if version < VERSIONS { version.to_string() } else { "other".into() };
                    for (error, count) in errors.iter().enumerate() {
                        let error = apis.errors.get(error).copied().unwrap_or("UNKNOWN");
                        let labels = [at, ("api", api), ("version", version.as_str()), ("error", error)];
                        let help =
                            "Requests that were answered, by API, version and the worst error in the answer.";
                        out.used("mecha_kafka_requests_total", help, &labels, count.get());
                    }
                }
            }
            for (broker, count) in apis.servers() {
                let labels = [at, ("broker", broker.as_str())];
                out.gauge(
                    "mecha_kafka_broker_connections",
                    "Connections to each broker now; `any` where none was asked for in particular.",
                    &labels,
                    count,
                );
            }
        }
        for (listener, lag) in self.sources.lags() {
            for (group, topic, behind) in lag.read() {
                let labels =
                    [("listener", listener.as_str()), ("group", group.as_str()), ("topic", topic.as_str())];
                let help = "Records that a group has not read: the end of what it reads, less what it has committed.";
                out.gauge("mecha_kafka_group_lag", help, &labels, behind);
            }
        }
    }

    fn routes(&self, out: &mut Families) {
        for route in self.sources.routes() {
            let at = [
                ("listener", route.listener.as_str()),
                ("route", route.route.as_str()),
                ("cluster", route.cluster.as_str()),
            ];
            out.counter(
                "mecha_route_calls_total",
                "Calls by the route that they took.",
                &at,
                route.calls.get(),
            );
            out.used(
                "mecha_mirror_lost_total",
                "Copies that were not made for want of room, or never answered.",
                &at,
                route.mirror_lost.get(),
            );
            out.used(
                "mecha_mirror_failed_total",
                "Copies that the mirror answered with an error of its own state.",
                &at,
                route.mirror_failed.get(),
            );
        }
    }

    fn clusters(&self, out: &mut Families) {
        for cluster in self.sources.clusters() {
            let at = [("cluster", cluster.name.as_str()), ("protocol", cluster.protocol)];
            out.gauge("mecha_upstream_connections", "Connections open now.", &at, cluster.connections.get());
            out.gauge("mecha_upstream_pins", "Dedicated connections in use.", &at, cluster.pins.get());
            if cluster.ejections.get() > 0 {
                let help = "Servers that are left out now, summed over workers.";
                out.gauge("mecha_upstream_ejected", help, &at, cluster.ejected.get());
            }
            let counters = [
                ("mecha_upstream_ejections_total", "Times that a server was left out.", &cluster.ejections),
                ("mecha_upstream_connects_total", "Connections made.", &cluster.connects),
                ("mecha_upstream_connect_failures_total", "Attempts that failed.", &cluster.connect_failures),
                (
                    "mecha_upstream_connect_delays_total",
                    "Attempts that waited for the rate.",
                    &cluster.connect_delays,
                ),
                ("mecha_upstream_replies_total", "Calls answered.", &cluster.replies),
                (
                    "mecha_upstream_abandoned_total",
                    "Calls whose late replies are dropped.",
                    &cluster.abandoned,
                ),
                (
                    "mecha_upstream_split_calls_total",
                    "Calls taken apart for several shards.",
                    &cluster.splits,
                ),
                ("mecha_upstream_replica_reads_total", "Calls sent to a replica.", &cluster.replica_reads),
                ("mecha_upstream_parts_total", "Parts that they were taken into.", &cluster.parts),
                (
                    "mecha_upstream_parked_total",
                    "Times that calls waited for a lost or changing server.",
                    &cluster.parked,
                ),
                ("mecha_upstream_stalls_total", "Times that a client waited for room.", &cluster.stalls),
                (
                    "mecha_upstream_scripts_told_total",
                    "Calls of scripts that a server lacked and was told again.",
                    &cluster.scripts_told,
                ),
                ("mecha_upstream_pins_total", "Dedicated connections given out.", &cluster.pins_opened),
                (
                    "mecha_upstream_pins_refused_total",
                    "Refused: too many dedicated ones.",
                    &cluster.pins_refused,
                ),
            ];
            for (name, help, counter) in counters {
                out.counter(name, help, &at, counter.get());
            }
            for (kind, redirects) in [
                ("ask", &cluster.redirects_ask),
                ("later", &cluster.redirects_later),
                ("moved", &cluster.redirects_moved),
            ] {
                let labels = [at[0], ("kind", kind)];
                out.counter(
                    "mecha_upstream_redirects_total",
                    "Calls that a server sent away, and that were sent after it.",
                    &labels,
                    redirects.get(),
                );
            }
            for (direction, bytes) in [("in", &cluster.received_bytes), ("out", &cluster.sent_bytes)] {
                let labels = [at[0], ("direction", direction)];
                out.counter(
                    "mecha_upstream_bytes_total",
                    "Bytes from and to upstreams.",
                    &labels,
                    bytes.get(),
                );
            }
        }
    }
}

type Labels = Vec<(&'static str, String)>;

/// The counts of each bucket, and the sum.
type Observations = (Vec<u64>, u64);

/// Sums over workers, by family and labels.
#[derive(Default)]
struct Families {
    numbers: BTreeMap<&'static str, (&'static str, bool, BTreeMap<Labels, u64>)>,
    histograms: BTreeMap<&'static str, (&'static str, BTreeMap<Labels, Observations>)>,
}

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        is_gauge: bool,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        let family = self.numbers.entry(name).or_insert_with(|| (help, is_gauge, BTreeMap::new()));
        *family.2.entry(owned(labels)).or_default() += value;
    }

    fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        self.add(name, help, false, labels, value);
    }

    /// A counter whose series exists only once it has counted.
    fn used(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: u64) {
        if value > 0 {
            self.add(name, help, false, labels, value);
        }
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: u64) {
        self.add(name, help, true, labels, value);
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        buckets: &[u64],
        sum: u64,
    ) {
        if buckets.iter().all(|count| *count == 0) {
            return;
        }
        let family = self.histograms.entry(name).or_insert_with(|| (help, BTreeMap::new()));
        let series = family.1.entry(owned(labels)).or_insert_with(|| (vec![0; buckets.len()], 0));
        series.0.iter_mut().zip(buckets).for_each(|(total, count)| *total += count);
        series.1 += sum;
    }

    fn finish(self) -> Vec<MetricFamily> {
        let numbers = self.numbers.into_iter().map(|(name, (help, is_gauge, series))| {
            let kind = if is_gauge { MetricType::GAUGE } else { MetricType::COUNTER };
            let metrics = series.into_iter().map(|(labels, value)| {
                let mut metric = labelled(labels);
                if is_gauge {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value as f64);
                    metric.set_gauge(gauge);
                } else {
                    let mut counter = Counter::default();
                    counter.set_value(value as f64);
                    metric.set_counter(counter);
                }
                metric
            });
            family(name, help, kind, metrics.collect())
        });
        let histograms = self.histograms.into_iter().map(|(name, (help, series))| {
            let metrics = series.into_iter().map(|(labels, (counts, sum))| {
                let mut metric = labelled(labels);
                metric.set_histogram(histogram(&counts, sum));
                metric
            });
            family(name, help, MetricType::HISTOGRAM, metrics.collect())
        });
        numbers.chain(histograms).collect()
    }
}

fn histogram(counts: &[u64], sum_micros: u64) -> Histogram {
    let mut total = 0;
    let buckets = BOUNDS_MICROS.iter().zip(counts).map(|(bound, count)| {
        total += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(total);
        bucket
    });
    let buckets: Vec<_> = buckets.collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum_micros as f64 / 1e6);
    histogram
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_string())).collect()
}

fn labelled(labels: Labels) -> Metric {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value);
        pair
    });
    Metric::from_label(pairs.collect())
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[cfg(test)]
mod tests {
    use mecha_core::{Done, OpClass, OpId, OpInfo, Outcome, Refusal, Ticket};

    use crate::{CloseReason, Registry};

    static OPS: [OpInfo; 2] = [
        OpInfo { name: "unknown", class: OpClass::Write, idempotent: false },
        OpInfo { name: "get", class: OpClass::Read, idempotent: true },
    ];

    fn done(op: u16, outcome: Outcome, micros: u32) -> Done {
        Done { ticket: Ticket::default(), op: OpId(op), outcome, micros }
    }

    #[test]
    fn workers_are_summed_and_unused_series_left_out() {
        let registry = Registry::new();
        let workers = [registry.listener("front", "resp", &OPS), registry.listener("front", "resp", &OPS)];
        workers[0].done(&[
            done(1, Outcome::Ok, 30),
            done(1, Outcome::Ok, 30),
            done(1, Outcome::ClientError, 1),
        ]);
        workers[1].done(&[done(1, Outcome::Ok, 70), done(9, Outcome::Refused(Refusal::Denied), 0)]);
        workers[1].opened();
        workers[1].opened();
        workers[1].closed(CloseReason::Quit);
        registry.cluster("back", "resp").connection_opened();
        let text = registry.render();
        for line in [
            r#"mecha_calls_total{listener="front",protocol="resp",command="get",outcome="ok"} 3"#,
            r#"mecha_calls_total{listener="front",protocol="resp",command="unknown",outcome="refused"} 1"#,
            r#"mecha_call_duration_seconds_bucket{listener="front",command="get",le="0.00005"} 3"#,
            r#"mecha_call_duration_seconds_count{listener="front",command="get"} 4"#,
            r#"mecha_refusals_total{listener="front",reason="denied"} 1"#,
            r#"mecha_client_connections{listener="front",protocol="resp"} 1"#,
            r#"mecha_client_closed_total{listener="front",reason="quit"} 1"#,
            r#"mecha_upstream_connections{cluster="back",protocol="resp"} 1"#,
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(!text.contains("server_error") && text.contains("process_resident_memory_bytes"));
    }
}
