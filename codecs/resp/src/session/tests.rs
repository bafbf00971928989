use mecha_core::{Affinity, Batch, Decode, Limits, Outcome, Protocol, Session as _, Ticket, Verdict};

use super::Session;
use crate::ops::op;
use crate::{RequestDecoder, Resp};

/// Shows the lines to the session, one batch, and returns what becomes of each: an affinity, or an answer.
fn show(session: &mut Session, lines: &[&str]) -> Vec<String> {
    let wire: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
    let mut heads = Vec::new();
    RequestDecoder::new(Limits::default()).decode(&wire, &mut heads).unwrap();
    let mut calls: Vec<_> = heads.iter().map(|head| Resp::call(head, Ticket::default())).collect();
    let mut local = Vec::new();
    let mut batch = Batch { wire: &wire, local: &mut local, heads: &mut heads, calls: &mut calls, session };
    let (mut next, mut is_over) = (0, false);
    while next < batch.calls.len() && !is_over {
        let looked = Session::on_requests(&mut batch, next);
        assert!(looked.next > next, "no progress");
        (next, is_over) = (looked.next, looked.is_over);
    }
    calls.truncate(next);
    let mut seen: Vec<_> = calls
        .iter()
        .map(|call| match call.verdict {
            Verdict::Answered(span) => String::from_utf8(span.of(&wire, &local).to_vec()).unwrap(),
            _ => format!("{:?}", call.affinity),
        })
        .collect();
    if is_over {
        seen.push("over".into());
    }
    seen
}

fn check(lines: &[&str], expected: &[&str]) {
    assert_eq!(show(&mut Session::default(), lines), expected, "{lines:?}");
}

#[test]
fn state_gets_a_dedicated_connection_for_as_long_as_it_lasts() {
    check(
        &["MULTI", "SET a 1", "BLPOP l 0", "EXEC", "GET a"],
        &["Pin", "Shared", "Shared", "Release", "Shared"],
    );
    check(&["WATCH a", "GET a", "MULTI", "EXEC"], &["Pin", "Shared", "Pin", "Release"]);
    check(&["WATCH a", "UNWATCH"], &["Pin", "Release"]);
    check(&["EXEC", "UNWATCH", "DISCARD"], &["Shared", "Shared", "Shared"]);
    check(&["SELECT 1", "MULTI", "EXEC", "SELECT 0"], &["Attempt", "Pin", "Shared", "Attempt"]);
    check(&["SELECT 1", "WATCH a", "SELECT 0", "UNWATCH"], &["Attempt", "Pin", "Attempt", "Release"]);
    check(&["AUTH x", "MULTI", "EXEC"], &["Attempt", "Pin", "Shared"]);
}

#[test]
fn an_age_of_nothing_ends_nobody() {
    let refused = "-ERR maxage should be greater than 0\r\n";
    check(&["CLIENT KILL MAXAGE 0", "CLIENT KILL MAXAGE -1"], &[refused, refused]);
    let number = "-ERR maxage is not an integer or out of range\r\n";
    check(&["CLIENT KILL MAXAGE x", "CLIENT KILL MAXAGE 1"], &[number, "Errand"]);
}

#[test]
fn replies_with_numbers_are_waited_for_alone() {
    check(
        &["CLIENT ID", "HELLO", "INFO", "CLIENT GETREDIR", "CLIENT TRACKINGINFO"],
        &["Barrier", "Barrier", "Barrier", "Barrier", "Barrier"],
    );
    check(
        &["SELECT 1", "CLIENT ID", "INFO clients", "MULTI", "CLIENT ID", "INFO"],
        &["Attempt", "Attempt", "Attempt", "Pin", "Shared", "Shared"],
    );
}

#[test]
fn what_the_server_refuses_needs_no_connection_any_more() {
    for (line, op) in [("SELECT 99", op::SELECT), ("AUTH x", op::AUTH), ("HELLO 3 AUTH a b", op::HELLO)] {
        let mut session = Session::default();
        assert_eq!(show(&mut session, &[line]), ["Attempt"]);
        assert!(!session.on_barrier_done(op, Outcome::ClientError), "{line}");
        assert_eq!(show(&mut session, &[line]), ["Attempt"]);
        assert!(session.on_barrier_done(op, Outcome::Ok), "{line}");
    }
    let mut session = Session::default();
    assert_eq!(show(&mut session, &["SELECT 1"]), ["Attempt"]);
    assert!(session.on_barrier_done(op::SELECT, Outcome::Ok));
    assert_eq!(show(&mut session, &["SELECT 99"]), ["Attempt"]);
    assert!(session.on_barrier_done(op::SELECT, Outcome::ClientError));
    assert_eq!(session.db, 1);
    assert_eq!(show(&mut session, &["SELECT 0"]), ["Attempt"]);
    assert!(!session.on_barrier_done(op::SELECT, Outcome::Ok));
}

#[test]
fn blocking_commands_have_a_connection_for_themselves() {
    check(&["BLPOP l 0", "BZPOPMIN z 1"], &["Once", "Once"]);
    check(&["WATCH a", "WAIT 0 1", "BLPOP l 0"], &["Pin", "Waits", "Waits"]);
    check(&["SCRIPT KILL", "FUNCTION KILL", "GET a"], &["Once", "Once", "Shared"]);
    let (mut session, mut said) = (Session::default(), Vec::new());
    assert_eq!(show(&mut session, &["WAIT 0 1"]), ["Once"]);
    assert_eq!(session.introduction(&mut said), 1);
    assert_eq!(said, b"*1\r\n$4\r\nPING\r\n");
    check(&["XREAD COUNT 1 STREAMS block 0", "XREAD BLOCK 0 STREAMS s 0"], &["Shared", "Once"]);
    check(
        &["XREADGROUP GROUP block c STREAMS s >", "XREADGROUP GROUP g c BLOCK 5 STREAMS s >"],
        &["Shared", "Once"],
    );
}

#[test]
fn subscriptions_are_not_counted() {
    check(&["SUBSCRIBE c", "PING"], &["Raw", "Shared"]);
    check(&["MONITOR"], &["Raw"]);
}

#[test]
fn what_concerns_the_connection_only_is_answered_here() {
    check(
        &["CLIENT GETNAME", "CLIENT SETNAME app", "CLIENT GETNAME"],
        &["$-1\r\n", "+OK\r\n", "$3\r\napp\r\n"],
    );
    check(&["CLIENT SETINFO LIB-NAME redis-py", "SELECT 0"], &["+OK\r\n", "+OK\r\n"]);
    check(&["RESET", "QUIT", "GET a"], &["+RESET\r\n", "+OK\r\n", "over"]);
    check(&["MULTI", "RESET"], &["Pin", "Release"]);
    check(
        &["AUTH x", "RESET", "GET a", "MULTI", "EXEC"],
        &["Attempt", "Release", "Shared", "Pin", "Release"],
    );
    let mut session = Session::default();
    for (line, is_spent) in [("MULTI", false), ("CLIENT NO-EVICT ON", true), ("SELECT 1", false)] {
        assert_eq!(show(&mut session, &[line, "RESET"])[1], "Release", "{line}");
        assert_eq!((session.is_spent(), session.is_spent()), (is_spent, false), "{line}");
    }
    // What its library is called outlives it, as it does on servers; its name does not.
    show(&mut session, &["CLIENT SETINFO lib-name redis.py", "CLIENT SETNAME me", "RESET"]);
    assert_eq!(
        (session.name.as_slice(), session.lib_name.as_slice()),
        (b"".as_slice(), b"redis.py".as_slice())
    );
    // One that others know by its number stays where it is.
    session.keep();
    assert_eq!(show(&mut session, &["RESET", "SELECT 1", "RESET"]), ["Pin", "Pin", "Pin"]);
    check(
        &["UNSUBSCRIBE a b", "PUNSUBSCRIBE"],
        &[
            "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n",
            "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n",
        ],
    );
    check(&["post / HTTP/1.1", "GET a"], &["", "over"]);
}

#[test]
fn what_may_have_changed_inside_a_transaction_never_reaches_another_client() {
    for inner in ["SELECT 0", "SELECT 1", "AUTH x", "HELLO 3", "CLIENT SETNAME x", "CLIENT NO-EVICT ON"] {
        let seen = show(&mut Session::default(), &["MULTI", inner, "DISCARD", "MULTI", "EXEC"]);
        assert!(!seen.contains(&"Release".into()), "{inner}: {seen:?}");
    }
}

#[test]
fn the_wrong_number_of_arguments_changes_nothing() {
    check(&["MULTI x", "GET a"], &["Shared", "Shared"]);
    check(&["MULTI", "DISCARD x", "EXEC"], &["Pin", "Shared", "Release"]);
    check(&["SELECT 1", "SELECT 0 x", "RESET x", "SELECT 0"], &["Attempt", "Shared", "Shared", "Attempt"]);
    check(&["SUBSCRIBE", "QUIT"], &["Shared", "+OK\r\n", "over"]);
}

#[test]
fn commands_whose_replies_cannot_be_counted_are_kept_apart() {
    for line in ["REPLCONF ACK 1", "SCRIPT DEBUG YES"] {
        assert_eq!(show(&mut Session::default(), &[line, "GET a", "QUIT"]), ["Raw", "Shared", "Shared"]);
    }
    check(&["MULTI", "UNSUBSCRIBE a b"], &["Pin", "Raw"]);
    check(&["MULTI", "CLIENT REPLY OFF"], &["Pin", "Raw"]);
}

#[test]
fn replies_that_nobody_wants_need_no_connection_of_their_own() {
    check(
        &[
            "CLIENT REPLY OFF",
            "GET a",
            "CLIENT ID",
            "CLIENT REPLY ON",
            "CLIENT REPLY SKIP",
            "CLIENT ID",
            "GET a",
        ],
        &["", "Shared", "Barrier", "+OK\r\n", "", "Barrier", "Shared"],
    );
    check(&["CLIENT REPLY NOSUCH"], &["Shared"]);
}

#[test]
fn what_concerns_all_clients_is_an_errand() {
    check(
        &[
            "CLIENT LIST",
            "CLIENT INFO",
            "CLIENT KILL ID 7",
            "CLIENT UNBLOCK 7",
            "CLIENT TRACKING ON REDIRECT 7",
        ],
        &["Errand", "Errand", "Errand", "Errand", "Errand"],
    );
    check(
        &["CLIENT LIST ID x", "CLIENT LIST x y z"],
        &["-ERR Invalid client ID\r\n", "-ERR syntax error\r\n"],
    );
    check(&["MULTI", "CLIENT LIST", "CLIENT ID"], &["Pin", "Shared", "Shared"]);
}

#[test]
fn a_refusal_takes_back_what_its_command_would_have_changed() {
    let refuse = |session: &mut Session, line: &str| {
        let seen = show(session, &[line]);
        let op = crate::op_named(line.split(' ').next().unwrap().as_bytes());
        (seen, session.on_refused(&mecha_core::Call { op, ..Default::default() }))
    };
    let mut session = Session::default();
    for line in ["SELECT 1", "MULTI", "WATCH a", "AUTH x", "SUBSCRIBE a", "HELLO 3"] {
        assert!(!refuse(&mut session, line).1);
        assert!(!session.is_pinned() && session.proto == 2, "{line}");
    }
    assert_eq!(show(&mut session, &["MULTI"]), ["Pin"]);
    assert!(!refuse(&mut session, "SET a 1").1);
    assert_eq!(show(&mut session, &["EXEC"]), ["Release"]);
    assert_eq!(session.spoiler(), b"*1\r\n$3\r\nGET\r\n", "which the server does not accept");
    assert!(session.spoiler().is_empty());
    assert!(!session.multi && !session.doomed);
    assert_eq!(show(&mut session, &["MULTI"]), ["Pin"]);
    assert!(refuse(&mut session, "EXEC").1, "the server still has the transaction");
}

#[test]
fn hello_changes_the_kind_of_connection_unless_the_server_refuses() {
    let mut session = Session::default();
    assert_eq!(show(&mut session, &["HELLO 3 SETNAME app"]), ["Barrier"]);
    assert_eq!((session.profile(), session.name.as_slice()), (1, b"".as_slice()));
    session.on_barrier_done(op::HELLO, Outcome::ClientError);
    assert_eq!((session.profile(), session.name.as_slice()), (0, b"".as_slice()));
    assert_eq!(show(&mut session, &["HELLO 3 SETNAME app"]), ["Barrier"]);
    session.on_barrier_done(op::HELLO, Outcome::Ok);
    assert_eq!((session.profile(), session.name.as_slice()), (1, b"app".as_slice()));
    let mut session = Session::default();
    assert_eq!(show(&mut session, &["HELLO 9"]), ["Shared"]);
    assert_eq!(show(&mut session, &["HELLO 3 AUTH default x"]), ["Attempt"]);
    assert_eq!(session.profile(), 0, "the connection is opened as the client knows it");
    assert!(session.on_barrier_done(op::HELLO, Outcome::Ok));
    assert_eq!((session.profile(), mecha_core::Session::<Resp>::shown_user(&session)), (1, "default"));
    // And on it.
    assert_eq!(show(&mut session, &["HELLO 2 AUTH app x"]), ["Attempt"]);
    session.on_barrier_done(op::HELLO, Outcome::ClientError);
    assert_eq!((session.profile(), mecha_core::Session::<Resp>::shown_user(&session)), (1, "default"));
    assert_eq!(show(&mut session, &["HELLO 2 AUTH app x SETNAME me"]), ["Attempt"]);
    session.on_barrier_done(op::HELLO, Outcome::Ok);
    assert_eq!((session.profile(), mecha_core::Session::<Resp>::shown_user(&session)), (0, "app"));
    assert_eq!(session.name, b"me");
}

#[test]
fn inline_commands_become_arrays() {
    let wire = b"set k \"a b\"\r\n".to_vec();
    let mut heads = Vec::new();
    RequestDecoder::new(Limits::default()).decode(&wire, &mut heads).unwrap();
    let mut calls: Vec<_> = heads.iter().map(|head| Resp::call(head, Ticket::default())).collect();
    let (mut local, mut session) = (Vec::new(), Session::default());
    let mut batch =
        Batch { wire: &wire, local: &mut local, heads: &mut heads, calls: &mut calls, session: &mut session };
    Session::on_requests(&mut batch, 0);
    assert_eq!(batch.frame(0), b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\na b\r\n");
    assert_eq!((calls[0].affinity, heads[0].key_len), (Affinity::Shared, 1));
}
