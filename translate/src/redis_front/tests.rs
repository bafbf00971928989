use std::collections::HashMap;

use mecha_resp::{COMMANDS, Resp, Session, head_of, write_request};

use super::aggregate::test_run;
use super::differential::ours::Ours;
use super::support::{Support, supported};
use super::with_article;
use crate::kv::{Expire, FastAction, Guard, KvFront, Plan, PlanCx, RunCx, Started, Txn};
use crate::slot::{Entry, Slot, Value};

/// Runs lines on a fresh world and returns the last reply.
fn last(lines: &[&str]) -> String {
    let mut world = HashMap::new();
    let mut reply = Vec::new();
    for line in lines {
        let args: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        reply = test_run(&mut world, &args, 2, 1);
    }
    String::from_utf8(reply).unwrap()
}

#[test]
fn strings_and_numbers_follow_redis() {
    for (lines, expected) in [
        (&["SET a 10", "INCRBY a -3"][..], ":7\r\n"),
        (&["SET a 010", "INCR a"], "-ERR value is not an integer or out of range\r\n"),
        (&["SET a 9223372036854775807", "INCR a"], "-ERR increment or decrement would overflow\r\n"),
        (&["SET a 10.50", "INCRBYFLOAT a 0.1"], "$4\r\n10.6\r\n"),
        (&["SET a hello", "GETRANGE a -3 -1"], "$3\r\nllo\r\n"),
        (&["SET a hello", "SETRANGE a 6 x", "GET a"], "$7\r\nhello\0x\r\n"),
        (&["SET a 1", "SET a 2 NX"], "$-1\r\n"),
        (&["SET a 1", "SET a 2 XX GET"], "$1\r\n1\r\n"),
        (&["SET a 1 EX 0"], "-ERR invalid expire time in 'set' command\r\n"),
        (&["SET a 1 NX XX"], "-ERR syntax error\r\n"),
        (&["MSET a 1 b 2", "MGET a b c"], "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n"),
        (&["MSET a 1 b"], "-ERR wrong number of arguments for 'mset' command\r\n"),
        (&["RPUSH l x", "GET l"], "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        (&["GET"], "-ERR wrong number of arguments for 'get' command\r\n"),
    ] {
        assert_eq!(last(lines), expected, "{lines:?}");
    }
}

#[test]
fn keys_live_and_end_as_in_redis() {
    for (lines, expected) in [
        (&["SET a 1 PX 1500", "PTTL a"][..], ":1500\r\n"),
        (&["SET a 1", "EXPIRE a 10 XX"], ":0\r\n"),
        (&["SET a 1", "EXPIRE a 10 GT"], ":0\r\n"),
        (&["SET a 1", "EXPIRE a -1", "EXISTS a"], ":0\r\n"),
        (&["SET a 1 EX 5", "PERSIST a", "TTL a"], ":-1\r\n"),
        (&["TTL a"], ":-2\r\n"),
        (&["SET a 1", "EXISTS a a b"], ":2\r\n"),
        (&["SET a 1", "DEL a a b"], ":1\r\n"),
        (&["SET a 1", "RENAME a b", "GET b"], "$1\r\n1\r\n"),
        (&["RENAME a b"], "-ERR no such key\r\n"),
        (&["RPUSH l x", "TYPE l"], "+list\r\n"),
    ] {
        assert_eq!(last(lines), expected, "{lines:?}");
    }
}

// === through the front ===

const PLAN: PlanCx<'static> = PlanCx {
    now_ms: 1_000_000,
    back: "memcached",
    max_value: 1 << 20,
    random: 1,
    key_count: None,
    client_id: 7,
    client_addr: None,
    conn: mecha_core::ConnKey { index: 0, epoch: 0 },
    waiting: 0,
    door: None,
    started_at: &Started { unix_seconds: 0 },
};

const RUN: RunCx = RunCx { now_ms: 1_000_000, random: 1, max_value: 1 << 20, token: 0 };

fn plan_on(back: &'static str, session: &mut Session, line: &str) -> (Plan, String) {
    let mut frame = Vec::new();
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    write_request(words.into_iter(), &mut frame);
    let (head, mut out) = (head_of(&frame).unwrap(), Vec::new());
    let courier = std::sync::Arc::new(std::sync::Mutex::<Vec<crate::Parcel>>::default());
    let door = crate::Door::new(std::sync::Arc::default(), courier);
    let plan = Resp::plan(&head, &frame, session, &PlanCx { back, door: Some(&door), ..PLAN }, &mut out);
    (plan, String::from_utf8(out).unwrap())
}

/// Plans on memcached, where plans wait.
fn plan(session: &mut Session, line: &str) -> (Plan, String) {
    plan_on("memcached", session, line)
}

fn txn(planned: (Plan, String)) -> Txn {
    match planned.0 {
        Plan::Txn(txn) => txn,
        _ => panic!("not a program: {:?}", planned.1),
    }
}

fn run(txn: &mut Txn, slots: &mut [Slot]) -> String {
    let mut out = Vec::new();
    txn.program.run(slots, &RUN, &mut out);
    String::from_utf8(out).unwrap()
}

fn queued(lines: &[&str]) -> Session {
    let mut session = Session::default();
    assert_eq!(plan(&mut session, "MULTI").1, "+OK\r\n");
    for line in lines {
        assert_eq!(plan(&mut session, line).1, "+QUEUED\r\n", "{line}");
    }
    session
}

#[test]
fn an_exec_whose_plan_was_dropped_is_planned_again() {
    let mut session = queued(&["INCR a"]);
    drop(plan(&mut session, "EXEC"));
    let mut exec = txn(plan(&mut session, "EXEC"));
    assert_eq!(run(&mut exec, &mut [Slot::default()]), "*1\r\n:1\r\n");
}

#[test]
fn a_transaction_ends_when_its_plan_is_taken_up() {
    let mut session = queued(&["INCR a"]);
    let mut in_flight = txn(plan(&mut session, "EXEC"));
    in_flight.program.begin();
    // What it makes of the session is not known yet.
    assert!(matches!(plan(&mut session, "GET a").0, Plan::Wait));
    assert!(matches!(plan(&mut session, "EXEC").0, Plan::Wait));
    drop(in_flight);
    assert!(matches!(plan(&mut session, "GET a").0, Plan::Fast(_)));
    assert_eq!(plan(&mut session, "EXEC").1, "-ERR EXEC without MULTI\r\n");
}

#[test]
fn a_transaction_that_ran_is_not_run_again() {
    let mut session = queued(&["INCR a"]);
    let mut exec = txn(plan(&mut session, "EXEC"));
    exec.program.begin();
    run(&mut exec, &mut [Slot::default()]);
    drop(exec);
    assert_eq!(plan(&mut session, "EXEC").1, "-ERR EXEC without MULTI\r\n");
}

#[test]
fn a_transaction_that_was_taken_up_and_failed_is_not_tried_again() {
    let mut session = queued(&["INCR a"]);
    let mut exec = txn(plan(&mut session, "EXEC"));
    exec.program.begin();
    drop(exec);
    assert_eq!(plan(&mut session, "EXEC").1, "-ERR EXEC without MULTI\r\n");
}

#[test]
fn the_session_changes_only_if_the_transaction_is_done() {
    for is_done in [true, false] {
        let mut session = queued(&["CLIENT SETNAME n", "INCR a"]);
        let mut exec = txn(plan(&mut session, "EXEC"));
        exec.program.begin();
        run(&mut exec, &mut [Slot::default()]);
        if is_done {
            exec.program.done();
        }
        drop(exec);
        let name = if is_done { "$1\r\nn\r\n" } else { "$-1\r\n" };
        assert_eq!(plan(&mut session, "CLIENT GETNAME").1, name);
    }
}

#[test]
fn a_transaction_shows_a_large_value_only_so_often() {
    let lines = vec!["GET a"; 200];
    let mut exec = txn(plan(&mut queued(&lines), "EXEC"));
    let entry = Entry::new(Value::Str(vec![b'x'; 1_000_000]));
    let reply = run(&mut exec, &mut [Slot { entry: Some(entry), ..Slot::default() }]);
    let mut ours = Ours::embedded();
    let mut ask = |words: &[&[u8]]| {
        let mut frame = Vec::new();
        write_request(words.iter().copied(), &mut frame);
        String::from_utf8(ours.bytes(0, &frame)).unwrap()
    };
    assert_eq!(ask(&[b"SET", b"a", &[b'x'; 1_000_000]]), "+OK\r\n");
    assert_eq!(ask(&[b"MULTI"]), "+OK\r\n");
    lines.iter().for_each(|_| drop(ask(&[b"GET", b"a"])));
    for reply in [reply, ask(&[b"EXEC"])] {
        let refused = reply.matches("-ERR the replies of the transaction are larger than 64 MiB\r\n").count();
        assert!(reply.starts_with("*200\r\n$1000000\r\n") && reply.len() < 65 << 20);
        assert_eq!(reply.matches("$1000000\r\n").count() + refused, 200);
    }
}

#[test]
fn a_transaction_that_failed_before_it_ran_ends_with_the_next_command() {
    let mut session = queued(&["INCR a"]);
    drop(txn(plan(&mut session, "EXEC")));
    assert_eq!(plan(&mut session, "PING").1, "+PONG\r\n");
    assert_eq!(plan(&mut session, "EXEC").1, "-ERR EXEC without MULTI\r\n");
}

#[test]
fn programs_of_a_transaction_see_what_those_before_them_did() {
    let mut session = queued(&["SET a 5", "INCR a", "RPUSH a x", "DEL a", "RPUSH a x", "LLEN a"]);
    let mut exec = txn(plan(&mut session, "EXEC"));
    let mut slots = [Slot::default()];
    let reply = run(&mut exec, &mut slots);
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    assert_eq!(reply, format!("*6\r\n+OK\r\n:6\r\n{wrong}:1\r\n:1\r\n:1\r\n"));
    assert!(slots[0].changed);
}

#[test]
fn a_remote_transaction_over_two_changed_keys_changes_none() {
    let mut session = queued(&["GET b", "INCR a", "INCR b"]);
    let mut exec = txn(plan(&mut session, "EXEC"));
    assert_eq!(exec.keys, [b"b", b"a"]);
    let entry = Entry::new(Value::Str(b"1".to_vec()));
    let before = [Slot { entry: Some(entry), ..Slot::default() }, Slot::default()];
    let mut slots = before.clone();
    assert!(
        run(&mut exec, &mut slots).starts_with("-EXECABORT Transaction discarded because it changes several")
    );
    assert_eq!(slots, before);
    // It may be run again after a lost race.
    assert_eq!(
        run(&mut exec, &mut [Slot::default(), Slot::default()]).split('\r').next(),
        Some(
            "-EXECABORT Transaction discarded because it changes several keys, and a memcached backend changes one at a time"
        )
    );
}

#[test]
fn a_remote_transaction_may_read_many_keys_and_change_one() {
    let mut session = queued(&["GET b", "INCR a", "SET c 1", "DEL c"]);
    let mut exec = txn(plan(&mut session, "EXEC"));
    let mut slots: Vec<_> = exec.keys.iter().map(|_| Slot::default()).collect();
    assert_eq!(run(&mut exec, &mut slots), "*4\r\n$-1\r\n:1\r\n+OK\r\n:1\r\n");
}

#[test]
fn what_cannot_be_queued_breaks_the_transaction() {
    for (line, expected) in [
        ("NOSUCH a", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' \r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("EVAL x 0", "-ERR EVAL is not supported on a memcached backend\r\n"),
        ("FLUSHALL", "-ERR FLUSHALL is not supported inside a transaction on a memcached backend\r\n"),
    ] {
        let mut session = queued(&["SET a 1"]);
        assert_eq!(plan(&mut session, line).1, expected);
        let reply = plan(&mut session, "EXEC").1;
        assert_eq!(reply, "-EXECABORT Transaction discarded because of previous errors.\r\n");
        assert_eq!(plan(&mut session, "EXEC").1, "-ERR EXEC without MULTI\r\n");
    }
}

#[test]
fn everything_is_refused_that_the_table_refuses_and_nothing_else() {
    for back in ["embedded", "memcached"] {
        for (info, row) in COMMANDS.iter().skip(1).zip(supported("resp", back)) {
            assert_eq!(info.name, row.command);
            let mut words: Vec<&str> = info.name.split('|').collect();
            words.resize(words.len().max(usize::from(info.arity.unsigned_abs())), "1");
            if info.is_container && words.len() > 1 {
                continue;
            }
            let reply = plan_on(back, &mut Session::default(), &words.join(" ")).1;
            let name = info.name.to_uppercase().replace('|', " ");
            let refusal = format!("-ERR {name} is not supported on {} backend\r\n", with_article(back));
            assert_eq!(reply == refusal, row.support == Support::Refused, "{words:?} on {back}: {reply}");
        }
    }
}

#[test]
fn a_fast_plan_points_into_the_frame() {
    let mut frame = Vec::new();
    let words: [&[u8]; 5] = [b"SET", b"key", b"value", b"PX", b"500"];
    write_request(words.into_iter(), &mut frame);
    let (head, mut out) = (head_of(&frame).unwrap(), Vec::new());
    let Plan::Fast(fast) = Resp::plan(&head, &frame, &mut Session::default(), &PLAN, &mut out) else {
        panic!("not fast");
    };
    assert_eq!(fast.key.of(&frame, &[]), b"key");
    let FastAction::Set { value, expire, guard, .. } = fast.action else { panic!("not a write") };
    assert_eq!(value.of(&frame, &[]), b"value");
    assert_eq!((expire, guard), (Expire::AtMs(1_000_500), Guard::Always));
}

#[test]
fn the_connection_is_described_as_the_client_named_it() {
    let mut session = Session::default();
    assert_eq!(plan(&mut session, "CLIENT SETNAME me").1, "+OK\r\n");
    assert_eq!(plan(&mut session, "CLIENT SETINFO lib-name x").1, "+OK\r\n");
    assert!(plan(&mut session, "CLIENT LIST").1.contains("id=7 addr=unix name=me db=0"));
    assert_eq!(plan(&mut session, "CLIENT LIST ID 8").1, "$0\r\n\r\n");
    assert!(plan(&mut session, "HELLO 3 SETNAME you").1.starts_with("%7\r\n"));
    assert_eq!(plan(&mut session, "CLIENT GETNAME").1, "$3\r\nyou\r\n");
    assert!(plan(&mut session, "CLIENT INFO").1.contains("resp=3 lib-name=x lib-ver=\n"));
    assert_eq!(
        plan(&mut session, "CLIENT TRACKING ON").1,
        "-ERR CLIENT TRACKING is not supported on a memcached backend\r\n"
    );
    assert_eq!(plan(&mut session, "RESET").1, "+RESET\r\n");
    assert_eq!(plan(&mut session, "CLIENT GETNAME").1, "$-1\r\n");
}

#[test]
fn commands_are_described_as_far_as_they_work() {
    let mut session = Session::default();
    let count = plan(&mut session, "COMMAND COUNT").1;
    let listed = plan(&mut session, "COMMAND LIST").1;
    let names = listed.split("\r\n").skip(2).step_by(2).filter(|name| !name.is_empty());
    let commands = names.filter(|name| !name.contains('|')).count();
    assert_eq!(count, format!(":{commands}\r\n"));
    assert!(listed.contains("\r\nclient|list\r\n") && !listed.contains("\r\nclient|pause\r\n"));
    assert!(!listed.contains("\r\nwatch\r\n") && listed.contains("\r\nget\r\n"));
    let info = plan(&mut session, "COMMAND INFO get nosuch").1;
    assert!(
        info.starts_with("*2\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n"),
        "{info}"
    );
    assert!(info.ends_with("$-1\r\n"));
    assert!(plan(&mut session, "COMMAND DOCS get").1.contains("as in Redis on a memcached backend"));
    assert_eq!(plan(&mut session, "COMMAND LIST FILTERBY PATTERN mget").1, "*1\r\n$4\r\nmget\r\n");
    let text = plan(&mut session, "INFO persistence").1;
    assert!(text.contains("# Persistence\r\nloading:0\r\n") && !text.contains("# Server"), "{text}");
    assert!(plan(&mut session, "INFO").1.contains("redis_version:7.0.15\r\n"));
    assert_eq!(
        plan(&mut session, "CONFIG GET data* SAVE").1,
        "*4\r\n$9\r\ndatabases\r\n$1\r\n1\r\n$4\r\nsave\r\n$0\r\n\r\n"
    );
}
