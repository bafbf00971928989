//! The store under the toy front.

use std::sync::Arc;

use mecha_core::{Span, Verdict};

use super::space::View;
use super::*;
use crate::kv::KeySpace as _;
use crate::kv::Started;
use crate::slot::Value;
use crate::toy::{PEER, Requests, Toy, request, words};
use crate::translator::Taken;

const NOW: u64 = 1_700_000_000_123;

/// For clients that wait for nothing.
fn nobody() -> Arc<dyn Post> {
    Arc::new(Mutex::<Vec<Late>>::default())
}

fn serve_all(store: &Store, now_ms: u64, frames: &[Vec<u8>]) -> (Taken, Vec<String>) {
    let mut requests = Requests::new(1, frames);
    let started = Started { unix_seconds: 1 };
    let taken = serve::<Toy>(
        store,
        &mut requests.batch(),
        0..frames.len(),
        &PEER,
        &Desk { now_ms, started, random: 42, post: &nobody(), door: None },
    );
    (taken, (0..frames.len()).filter_map(|index| requests.answer(index)).collect())
}

/// The answers to lines of commands.
fn says(store: &Store, now_ms: u64, lines: &[&str]) -> Vec<String> {
    serve_all(store, now_ms, &lines.iter().map(|line| words(line)).collect::<Vec<_>>()).1
}

#[test]
fn every_kind_of_plan_is_answered_at_once_and_in_order() {
    let store = Store::new(1 << 20);
    let frames: Vec<_> =
        ["ping", "set a 1", "get a", "incr a", "push l x", "nokeys", "keys", "get l", "quit", "get a"]
            .map(words)
            .into();
    let (taken, answers) = serve_all(&store, NOW, &frames);
    assert_eq!(taken, Taken::Close(9));
    assert_eq!(answers, ["pong", "ok", "str:1", "int:2", "int:1", "slots:0", "a l", "list", "bye"]);
    assert_eq!(says(&store, NOW, &["read l"]), ["Some((List([[120]]), None))"]);
}

#[test]
fn guards_and_deletions_do_not_see_expired_keys() {
    let store = Store::new(1 << 20);
    let soon = NOW + 5;
    assert_eq!(
        says(&store, NOW, &[&format!("set a 1 - {soon}"), "set a 2 nx", "get a"]),
        ["ok", "guarded", "str:1"]
    );
    assert_eq!(
        says(&store, soon, &["set a 2 xx", "del a", "set a 3 nx", "get a"]),
        ["guarded", "nil", "ok", "str:3"]
    );
    assert_eq!(
        says(&store, soon, &["set a 4 xx", "set b 4 xx", "del a", "del a"]),
        ["ok", "guarded", "ok", "nil"]
    );
}

#[test]
fn an_entry_lives_to_its_millisecond() {
    let store = Store::new(1 << 20);
    says(&store, NOW, &["push l x", &format!("expire l {}", NOW + 5)]);
    assert_eq!(says(&store, NOW + 4, &["get l"]), ["list"]);
    assert_eq!(says(&store, NOW + 5, &["get l", "pop l", "keys", "random"]), ["nil", "nil", "", ""]);
}

#[test]
fn a_sweep_removes_what_has_expired_within_its_budget() {
    let store = Store::new(1 << 26);
    for index in 0..100 {
        says(
            &store,
            NOW,
            &[&format!("set k{index} v - {}", NOW + 10), &format!("set k{index} v - {}", NOW + 20)],
        );
    }
    says(&store, NOW, &["set k7 forever"]);
    assert_eq!(store.sweep(NOW + 19, 1000), 0);
    assert_eq!(store.len(), 100);
    // One of those that it looks at may be the key that no longer expires.
    let first = store.sweep(NOW + 20, 40);
    assert!((39..=40).contains(&first), "{first}");
    assert_eq!(first + store.sweep(NOW + 20, 1000), 99);
    assert_eq!(says(&store, NOW + 20, &["keys", "count"]), ["k7", "Some(1)"]);
}

#[test]
fn expiries_that_were_overwritten_do_not_pile_up() {
    let store = Store::new(1 << 20);
    for round in 0..10_000 {
        store.set(b"k", b"v", 0, Expire::AtMs(NOW + 1000 + round), Guard::Always, NOW);
    }
    let queued: usize = store.stripes.iter().map(|stripe| stripe.lock().unwrap().expiries_queued()).sum();
    assert!(queued < 1100, "{queued}");
}

#[test]
fn the_byte_limit_holds_and_evictions_are_counted() {
    let store = Store::new(1 << 20);
    for index in 0..5_000_u32 {
        let reply = store.set(&index.to_be_bytes(), &[b'v'; 1000], 0, Expire::Never, Guard::Always, NOW);
        assert!(matches!(reply, StepReply::Applied { .. }));
    }
    assert!(store.bytes() <= 1 << 20);
    assert!(store.len() > 500, "{}", store.len());
    assert_eq!(store.evictions() + store.len() as u64, 5_000);
}

#[test]
fn lists_that_grow_in_place_stay_within_the_limit() {
    let store = Store::new(1 << 20);
    let item = [b'i'; 500];
    for round in 0..400_u32 {
        for list in 0..20_u8 {
            serve_all(&store, NOW, &[request(&[b"push", &[b'l', list], &item])]);
        }
        assert!(store.bytes() <= 1 << 20, "in round {round}");
    }
    assert!(store.evictions() > 0);
}

#[test]
fn a_value_over_the_limit_is_refused_and_the_old_one_stays() {
    let store = Store::new(1 << 20);
    let big = vec![b'b'; store.max_value() + 1];
    let frames = [words("set a 1"), request(&[b"set", b"a", &big]), words("get a")];
    assert_eq!(serve_all(&store, NOW, &frames).1, ["ok", "error:ValueTooLarge", "str:1"]);
    let part = vec![b'p'; store.max_value() / 2];
    let frames =
        [request(&[b"push", b"l", &part]), request(&[b"push", b"l", &part]), words("get l"), words("del l")];
    assert_eq!(serve_all(&store, NOW, &frames).1, ["int:1", "error:ValueTooLarge", "list", "ok"]);
}

#[test]
fn a_push_onto_a_long_list_does_not_copy_it() {
    let store = Store::new(1 << 28);
    for index in 0..2_000_u32 {
        serve_all(&store, NOW, &[request(&[b"push", b"l", &index.to_be_bytes()])]);
    }
    let address = |store: &Store| {
        store.get(b"l", NOW, |reply| match reply {
            StepReply::Typed(entry) => match &entry.value {
                Value::List(items) => items.as_slices().0.as_ptr() as usize,
                _ => 0,
            },
            _ => 0,
        })
    };
    let before = address(&store);
    // The capacity is 2048 here, so the next pushes need no new memory.
    says(&store, NOW, &["push l x", "push l y"]);
    assert_eq!(address(&store), before);
}

#[test]
fn weights_follow_what_programs_do() {
    let store = Store::new(1 << 24);
    let empty = store.bytes();
    let item = [b'i'; 100];
    for _ in 0..10_000 {
        serve_all(&store, NOW, &[request(&[b"push", b"l", &item])]);
    }
    let full = store.bytes();
    assert!((1_400_000..2_000_000).contains(&full), "{full}");
    for _ in 0..9_990 {
        says(&store, NOW, &["pop l"]);
    }
    assert!(store.bytes() < 40_000, "{}", store.bytes());
    says(&store, NOW, &["del l"]);
    assert_eq!(store.bytes(), empty);
}

#[test]
fn programs_over_several_keys_are_atomic() {
    let store = Arc::new(Store::new(1 << 26));
    let coins = 64;
    for coin in 0..coins {
        says(&store, NOW, &[&format!("set left{coin} coin")]);
    }
    let workers: Vec<_> = [("left", "right"), ("right", "left")]
        .into_iter()
        .map(|(from, to)| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for round in 0..4_000 {
                    let coin = round % coins;
                    says(&store, NOW, &[&format!("move {from}{coin} {to}{coin}")]);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(store.len(), coins);
}

#[test]
fn increments_of_several_threads_all_count() {
    let store = Arc::new(Store::new(1 << 20));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    says(&store, NOW, &["incr n"]);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(says(&store, NOW, &["get n"]), ["str:4000"]);
}

#[test]
fn a_panic_in_a_program_costs_its_key_only() {
    let store = Arc::new(Store::new(1 << 20));
    says(&store, NOW, &["set a 1", "set b 2"]);
    let broken = Arc::clone(&store);
    assert!(std::thread::spawn(move || says(&broken, NOW, &["panic a"])).join().is_err());
    assert_eq!(
        says(&store, NOW, &["get a", "get b", "set a 3", "get a", "keys"]),
        ["nil", "str:2", "ok", "str:3", "a b"]
    );
}

#[test]
fn a_flush_removes_everything_at_once_or_later() {
    let store = Store::new(1 << 26);
    says(&store, NOW, &["set a 1", "push l x"]);
    assert_eq!(says(&store, NOW, &["flush 0", "keys", "count"]), ["ok", "", "Some(0)"]);
    says(&store, NOW, &["set a 1", "flush 2", "set b 1"]);
    assert_eq!(says(&store, NOW + 1999, &["keys"]), ["a b"]);
    assert_eq!(says(&store, NOW + 2000, &["keys", "set c 1", "keys"]), ["", "ok", "c"]);
    assert_eq!(says(&store, NOW + 9000, &["keys"]), ["c"]);
}

#[test]
fn a_scan_reports_every_key_that_stays_while_others_come_and_go() {
    let store = Store::new(1 << 26);
    for index in 0..500 {
        says(&store, NOW, &[&format!("set stay{index} v"), &format!("set go{index} v")]);
    }
    let view = View { store: &store, now_ms: NOW };
    let (mut cursor, mut round, mut seen) = (0, 0, std::collections::HashSet::new());
    loop {
        cursor = view.scan(cursor, 10, &mut |key, _| {
            seen.insert(String::from_utf8_lossy(key).into_owned());
        });
        says(&store, NOW, &[&format!("del go{round}"), &format!("set new{round} v")]);
        round += 1;
        if cursor == 0 {
            break;
        }
    }
    assert!(round >= 50);
    assert!((0..500).all(|index| seen.contains(&format!("stay{index}"))));
}

#[test]
fn requests_that_a_filter_rewrote_are_served_from_where_they_lie() {
    let store = Store::new(1 << 20);
    let (set, get) = (words("set a 1"), words("get a"));
    let mut requests = Requests::new(1, &[set.clone(), get.clone()]);
    requests.local = [set.clone(), get.clone()].concat();
    requests.wire.clear();
    requests.calls[0].span = Span::local(0, set.len());
    requests.calls[1].span = Span::local(set.len(), get.len());
    let started = Started { unix_seconds: 1 };
    let taken = serve::<Toy>(
        &store,
        &mut requests.batch(),
        0..2,
        &PEER,
        &Desk { now_ms: NOW, started, random: 42, post: &nobody(), door: None },
    );
    assert_eq!((taken, requests.answer(1).as_deref()), (Taken::Answered(2), Some("str:1")));
    assert!(matches!(requests.calls[0].verdict, Verdict::Answered(_)));
}

#[test]
fn tokens_change_with_every_write_and_never_come_back() {
    let store = Store::new(1 << 20);
    let token = |store: &Store| {
        store.get(b"a", NOW, |reply| match reply {
            StepReply::Str { token, .. } => *token,
            _ => 0,
        })
    };
    let mut seen = std::collections::HashSet::new();
    for line in ["set a 1", "set a 1", "incr a", "del a", "set a 1", "flush 0", "set a 1"] {
        says(&store, NOW, &[line]);
        let token = token(&store);
        assert!(token == 0 || seen.insert(token), "after {line}");
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn a_list_at_the_limit_takes_no_more_but_can_be_popped() {
    let store = Store::new(1 << 20);
    let item = [b'i'; 1000];
    let mut pushed = 0;
    while serve_all(&store, NOW, &[request(&[b"push", b"l", &item])]).1[0].starts_with("int:") {
        pushed += 1;
    }
    assert!((490..=525).contains(&pushed), "{pushed}");
    for _ in 0..pushed {
        assert_eq!(says(&store, NOW, &["pop l"])[0].len(), 1000);
    }
    assert_eq!(says(&store, NOW, &["get l"]), ["nil"]);
}
