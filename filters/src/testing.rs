//! What the tests of filters share.

use mecha_config::Options;
use mecha_core::{Call, Cx, OpClass, OpId, OpInfo, Peer, Protocol};
use mecha_resp::Resp;
use mecha_telemetry::Registry;

use crate::{BuildCx, LogSink, PolicyFactory, PolicyKind};

pub(crate) static PEER: Peer = Peer { id: 1, addr: None, local: None, identity: None, user: None };

pub(crate) fn cx(now_micros: u64) -> Cx<'static> {
    Cx { now_micros, peer: &PEER }
}

pub(crate) fn cx_from(addr: &str) -> Cx<'static> {
    let peer = Box::leak(Box::new(Peer {
        id: 1,
        addr: Some(addr.parse().unwrap()),
        local: None,
        identity: None,
        user: None,
    }));
    Cx { now_micros: 0, peer }
}

pub(crate) fn with_cx<T>(registry: &Registry, run: impl FnOnce(&BuildCx<'_>) -> T) -> T {
    let log = LogSink::new(registry);
    let ops: &'static [OpInfo] = Resp::ops();
    run(&BuildCx { registry, scope: "listener:test", workers: 1, ops, log: &log })
}

/// Options from a list of one filter, as examples show it.
pub(crate) fn options(example: &str) -> Options {
    Options::from_example(example)
}

/// Builds a policy from an example.
pub(crate) fn built(kind: &PolicyKind, example: &str) -> Box<dyn PolicyFactory> {
    let built = with_cx(&Registry::new(), |cx| (kind.build)(&options(example), cx));
    built.unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// What a policy says against an example.
pub(crate) fn refused(kind: &PolicyKind, example: &str) -> String {
    let built = with_cx(&Registry::new(), |cx| (kind.build)(&options(example), cx));
    let errors = built.err().expect("options are wrong");
    let text = |error: &mecha_config::ConfigError| {
        format!("{}: {} ({})\n", error.path, error.message, error.hint.as_deref().unwrap_or_default())
    };
    errors.iter().map(text).collect()
}

/// Calls of these classes, with the `get` and `set` operations where they fit.
pub(crate) fn calls<const N: usize>(classes: &[OpClass; N]) -> [Call; N] {
    classes.map(|class| {
        let op = if class == OpClass::Read { mecha_resp::op::GET } else { mecha_resp::op::SET };
        Call { class, op: if class == OpClass::Session { OpId::UNKNOWN } else { op }, ..Call::default() }
    })
}
