//! Typed filters of HTTP, from the configuration to what a worker has.

use std::rc::Rc;
use std::sync::Arc;

use mecha_config::{ClusterSpec, ConfigError, FilterSpec};
use mecha_core::Protocol;
use mecha_filters::BuildCx;
use mecha_filters::http::{FILTERS, Fetch, HttpFactory, HttpFilter, HttpKind};
use mecha_http::Http;

use crate::catalog;

/// The factories of one list, with what they were made of.
#[derive(Clone, Default)]
pub(super) struct Factories(Vec<(FilterSpec, Arc<dyn HttpFactory>)>);

/// The kind with this name.
pub(super) fn kind(name: &str) -> Option<&'static HttpKind> {
    FILTERS.iter().find(|kind| kind.name == name).copied()
}

impl Factories {
    /// Builds those of `specs` that look into requests, or takes them over from `known`.
    pub(super) fn plan(
        specs: &[FilterSpec],
        known: Option<&Self>,
        clusters: &[ClusterSpec],
        cx: &BuildCx<'_>,
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let mut known = known.map_or_else(Vec::new, |known| known.0.clone());
        let typed: Vec<_> = specs.iter().filter(|spec| kind(&spec.name).is_some()).cloned().collect();
        let factories = super::super::build_all(&typed, &mut known, errors, |spec| {
            let Some(kind) = kind(&spec.name) else { return Err(Vec::new()) };
            let factory: Arc<dyn HttpFactory> = (kind.build)(&spec.options, cx).map(Arc::from)?;
            let speaks_http =
                |cluster: &&ClusterSpec| [Http::NAME, catalog::HTTP2].contains(&&*cluster.protocol);
            match factory.cluster() {
                Some(name) => match clusters.iter().find(|cluster| cluster.name == name) {
                    Some(cluster) if speaks_http(&cluster) => Ok(factory),
                    Some(cluster) => {
                        let message = format!("the servers of `{name}` speak {}", cluster.protocol);
                        Err(vec![spec.options.error("cluster", message).hint("it is asked by HTTP")])
                    }
                    None => {
                        let names: Vec<_> = clusters
                            .iter()
                            .filter(speaks_http)
                            .map(|cluster| cluster.name.as_str())
                            .collect();
                        let hint = format!("`clusters` has, for HTTP: {}", names.join(", "));
                        let error = spec.options.error("cluster", format!("there is no cluster `{name}`"));
                        Err(vec![error.hint(hint)])
                    }
                },
                None => Ok(factory),
            }
        });
        Self(typed.into_iter().zip(factories).collect())
    }

    /// One of each, for a worker; `fetch` opens the cluster that one asks.
    pub(super) fn open(
        &self,
        mut fetch: impl FnMut(&str) -> Option<Rc<dyn Fetch>>,
    ) -> Vec<Box<dyn HttpFilter>> {
        self.0.iter().map(|(_, factory)| factory.open(factory.cluster().and_then(&mut fetch))).collect()
    }
}

/// For each that looks into requests, how many policies stand before it.
pub(super) fn places(specs: &[FilterSpec]) -> Vec<usize> {
    let mut policies = 0;
    let mut places = Vec::new();
    for spec in specs {
        match kind(&spec.name) {
            Some(_) => places.push(policies),
            None => policies += 1,
        }
    }
    places
}
