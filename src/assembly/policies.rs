//! The policies of a door whose requests no typed filter looks into.

use std::sync::Arc;

use mecha_config::{ClusterSpec, ConfigError, FilterSpec, ListenerSpec, Snapshot};
use mecha_core::{OpInfo, Policy};
use mecha_filters::{BuildCx, PolicyFactory};

use super::{Shared, build_all};

/// A listener's policies. Those of its cluster come behind them.
pub(super) struct Policies {
    specs: Vec<FilterSpec>,
    factories: Vec<Arc<dyn PolicyFactory>>,
}

impl Policies {
    /// Builds what `listener` names, or takes it over from `previous` with its state.
    ///
    /// # Errors
    /// Everything that they have to say about their options.
    pub(super) fn plan(
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Shared,
        previous: Option<&Self>,
        (protocol, ops): (&str, &'static [OpInfo]),
    ) -> Result<Self, Vec<ConfigError>> {
        let mut known: Vec<_> = previous.map_or_else(Vec::new, |previous| {
            previous.specs.iter().cloned().zip(previous.factories.iter().cloned()).collect()
        });
        let scope = format!("listener:{}", listener.name);
        let cx = BuildCx {
            registry: &shared.registry,
            scope: &scope,
            workers: snapshot.workers,
            ops,
            log: &shared.log,
        };
        let mut errors = Vec::new();
        let build = |spec: &FilterSpec| build(spec, protocol, &cx);
        let factories = build_all(&listener.filters, &mut known, &mut errors, build);
        if errors.is_empty() { Ok(Self { specs: listener.filters.clone(), factories }) } else { Err(errors) }
    }

    /// Those of a cluster, for the calling worker.
    pub(super) fn of_cluster(cluster: &ClusterSpec, shared: &Shared) -> Vec<Box<dyn Policy>> {
        let factories = shared.cluster_policies.get(&cluster.name).into_iter().flatten();
        factories.map(|(_, factory)| factory.open()).collect()
    }

    /// What the filter `spec` has to say about its options.
    pub(super) fn check(spec: &FilterSpec, protocol: &str, cx: &BuildCx<'_>) -> Vec<ConfigError> {
        build(spec, protocol, cx).err().unwrap_or_default()
    }

    /// One of each, for the calling worker.
    pub(super) fn open(&self) -> Vec<Box<dyn Policy>> {
        self.factories.iter().map(|factory| factory.open()).collect()
    }
}

fn build(
    spec: &FilterSpec,
    protocol: &str,
    cx: &BuildCx<'_>,
) -> Result<Arc<dyn PolicyFactory>, Vec<ConfigError>> {
    match mecha_filters::POLICIES.iter().find(|kind| kind.name == spec.name) {
        Some(kind) => (kind.build)(&spec.options, cx).map(Arc::from),
        None => {
            let message = format!("`{}` looks into requests, which is not possible on {protocol}", spec.name);
            let names: Vec<_> = mecha_filters::POLICIES.iter().map(|kind| kind.name).collect();
            let hint = format!("here can stand {}", names.join(", "));
            Err(vec![spec.options.error("", message).hint(hint)])
        }
    }
}
