//! What the tests of filters share.

use mecha_config::Options;
use mecha_core::{Batch, Call, Cx, OpClass, OpId, OpInfo, Peer, Protocol, Span, Ticket};
use mecha_resp::{Resp, Session, head_of, write_request};
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

/// Lets `look` see a batch of these requests, each in words.
pub(crate) fn batch_of<R>(lines: &[&str], look: impl FnOnce(&mut Batch<'_, Resp>) -> R) -> R {
    let (mut wire, mut heads, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let mut frame = Vec::new();
        write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut frame);
        let mut head = head_of(&frame).unwrap();
        head.span = Span::wire(wire.len(), frame.len());
        heads.push(head);
        calls.push(Resp::call(&head, Ticket::default()));
        wire.extend_from_slice(&frame);
    }
    let (mut local, mut session) = (Vec::new(), Session::default());
    look(&mut Batch {
        wire: &wire,
        local: &mut local,
        heads: &mut heads,
        calls: &mut calls,
        session: &mut session,
    })
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
