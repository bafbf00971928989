//! Filters: what a call passes between its client and its upstream.
//!
//! A *policy* sees only the neutral [`mecha_core::Call`] and works for every protocol; a *typed filter* sees one
//! protocol's frames. Both are configured by name, and both are registered in lists that can be read: [`POLICIES`] here,
//! the typed ones in [`resp`], [`memcached`], [`http`] and [`kafka`]. A kind carries its help, an example and the function that understands
//! its options, so the reference that `mecha filters` prints is made from the code.
//!
//! A kind builds one *factory* for the process, which holds what all workers share (atomics, nothing else); the factory
//! opens one filter for each worker, which needs no lock.

mod access_log;
mod circuit_breaker;
mod deny_commands;
mod hot_keys;
pub mod http;
pub mod kafka;
mod log_sink;
pub mod memcached;
mod rate_limit;
pub mod resp;
mod select;
#[cfg(test)]
mod testing;
mod timeout;

use mecha_config::{ConfigError, FilterOption, Options};
use mecha_core::{Filter, Framed, OpInfo, Policy};
use mecha_telemetry::Registry;

pub use log_sink::LogSink;

/// Every policy, in alphabetical order.
pub const POLICIES: &[&PolicyKind] =
    &[&access_log::KIND, &circuit_breaker::KIND, &rate_limit::KIND, &timeout::KIND];

/// What building a filter may use.
#[derive(Clone, Copy)]
pub struct BuildCx<'a> {
    /// Where the filter registers metrics of its own.
    pub registry: &'a Registry,
    /// What it is configured on: `listener:<name>` or `cluster:<name>`.
    pub scope: &'a str,
    /// How many workers will open it.
    pub workers: usize,
    /// The operations of the listener's protocol; empty on a cluster, where several protocols may meet.
    pub ops: &'static [OpInfo],
    /// Where access logs go.
    pub log: &'a LogSink,
}

/// What people read about a filter.
#[derive(Clone, Copy, Debug)]
pub struct Help {
    /// One line.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [FilterOption],
    /// What else to know, in whole lines; may be empty.
    pub docs: &'static str,
    /// YAML, as it stands in a list of filters.
    pub example: &'static str,
}

/// What understands the options of one `T`.
pub type Build<T> = fn(&Options, &BuildCx<'_>) -> Result<Box<T>, Vec<ConfigError>>;

/// A policy that can be configured.
pub struct PolicyKind {
    /// As the configuration spells it.
    pub name: &'static str,
    /// For people.
    pub help: Help,
    /// Understands the options.
    pub build: Build<dyn PolicyFactory>,
}

/// Makes one policy for each worker.
pub trait PolicyFactory: Send + Sync {
    /// Called once on each worker.
    fn open(&self) -> Box<dyn Policy>;
}

/// A typed filter that can be configured.
pub struct FilterKind<P: Framed> {
    /// As the configuration spells it.
    pub name: &'static str,
    /// For people.
    pub help: Help,
    /// Understands the options.
    pub build: Build<dyn FilterFactory<P>>,
}

/// Makes one typed filter for each worker.
pub trait FilterFactory<P: Framed>: Send + Sync {
    /// Called once on each worker.
    fn open(&self) -> Box<dyn Filter<P>>;

    /// Whether it rewrites frames, so that none may be handed on in pieces.
    fn needs_whole_frames(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_listed() {
        let listed = |folder: &str, names: Vec<&str>, others: &[&str]| {
            let path = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap().to_string();
                assert!(
                    names.contains(&name.as_str()) || others.contains(&name.as_str()),
                    "{name} is in no list"
                );
            }
            assert!(names.is_sorted(), "{names:?}");
        };
        let policies = super::POLICIES.iter().map(|kind| kind.name).collect();
        listed(
            "src",
            policies,
            &[
                "lib",
                "log_sink",
                "select",
                "http",
                "kafka",
                "memcached",
                "resp",
                "deny_commands",
                "hot_keys",
                "testing",
            ],
        );
        let typed: Vec<_> = super::resp::FILTERS
            .iter()
            .map(|kind| kind.name)
            .filter(|name| !["deny_commands", "hot_keys"].contains(name))
            .collect();
        listed("src/resp", typed, &["channels", "replies"]);
        let typed = super::kafka::FILTERS.iter().map(|kind| kind.name).collect();
        listed("src/kafka", typed, &["access"]);
        listed("src/http", super::http::FILTERS.iter().map(|kind| kind.name).collect(), &["grpc"]);
    }

    /// What a filter's decoder says when it meets an option that nobody has: it names all that there are.
    fn decoded<T: ?Sized>(build: super::Build<T>) -> Vec<String> {
        let options = mecha_config::Options::from_example("- filter: { zzzzzzzzzzzzzzzz: 1 }");
        let built = crate::testing::with_cx(&mecha_telemetry::Registry::new(), |cx| build(&options, cx));
        let errors = built.err().expect("nobody has such an option");
        let unknown = errors.iter().find(|error| error.message.contains("zzzz")).expect("it is told");
        let hint = unknown.hint.as_deref().unwrap_or_default();
        let mut names: Vec<_> =
            hint.trim_start_matches("there is ").split(", ").map(ToString::to_string).collect();
        names.retain(|name| name != "none");
        names.sort_unstable();
        names
    }

    #[test]
    fn documented_options_are_those_that_are_decoded() {
        let policies = super::POLICIES.iter().map(|kind| (kind.name, kind.help, decoded(kind.build)));
        let resp = super::resp::FILTERS.iter().map(|kind| (kind.name, kind.help, decoded(kind.build)));
        let memcached =
            super::memcached::FILTERS.iter().map(|kind| (kind.name, kind.help, decoded(kind.build)));
        let http = super::http::FILTERS.iter().map(|kind| (kind.name, kind.help, decoded(kind.build)));
        let kafka = super::kafka::FILTERS.iter().map(|kind| (kind.name, kind.help, decoded(kind.build)));
        for (name, help, decoded) in policies.chain(resp).chain(memcached).chain(http).chain(kafka) {
            let mut documented: Vec<_> = help.options.iter().map(|option| option.name).collect();
            documented.sort_unstable();
            assert_eq!(decoded, documented, "{name}");
        }
    }
}
