use mecha_core::{Peer, Protocol, Ticket};
use mecha_core::{Span, Verdict};
use mecha_resp::{Session, head_of};
use mecha_telemetry::Registry;

use super::*;
use crate::guard::Guard;
use crate::rules::Rules;
use crate::secret::Secret;
use crate::user::{Definition, Users};

fn gate(users: &[(&str, &str)]) -> Gate {
    let define = |(name, rules): &(&str, &str)| {
        let words: Vec<String> = rules.split(' ').map(Into::into).collect();
        let rules = Rules::new(&words).unwrap_or_else(|errors| panic!("{errors:?}"));
        Definition { name: (*name).into(), rules, secret: Some(Secret::of(name.as_bytes())) }
    };
    let users = Users::new::<Resp>(&users.iter().map(define).collect::<Vec<_>>());
    Gate::new(users, Registry::new().logins("test"), None)
}

/// What becomes of each line: `pass`, the answer, or the refusal as the client reads it.
fn fates(gate: &Gate, who: &mut Who, lines: &[&str]) -> Vec<String> {
    let (mut wire, mut heads, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let start = wire.len();
        write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut wire);
        let mut head = head_of(&wire[start..]).unwrap();
        head.span = Span::wire(start, wire.len() - start);
        calls.push(Resp::call(&head, Ticket::default()));
        heads.push(head);
    }
    let (mut local, mut session) = (Vec::new(), Session::default());
    let mut batch =
        Batch { wire: &wire, local: &mut local, heads: &mut heads, calls: &mut calls, session: &mut session };
    let peer = Peer { id: 1, addr: None, local: None, identity: None, user: None };
    let (mut at, end) = (0, lines.len());
    while at < end {
        let next = Guard::<Resp>::admit(gate, &mut batch, at..end, who, &Cx { now_micros: 1, peer: &peer });
        assert!(next > at, "the guard stands still");
        at = next;
    }
    let fate = |call: &Call| match call.verdict {
        Verdict::Answered(span) => String::from_utf8_lossy(span.of(&wire, &local)).into_owned(),
        Verdict::Forward => {
            format!("pass {}", String::from_utf8_lossy(call.span.of(&wire, &local)).replace("\r\n", " "))
        }
        Verdict::Refuse(why) => {
            let mut out = Vec::new();
            Resp::refuse(call.asked(), why, &mut out);
            String::from_utf8(out).unwrap()
        }
    };
    calls.iter().map(fate).collect()
}

/// Whether each line passes, for a client that has logged in as `app`.
fn passes(rules: &str, lines: &[&str]) -> Vec<bool> {
    let gate = gate(&[("app", rules)]);
    let mut who = gate.enter();
    assert_eq!(fates(&gate, &mut who, &["AUTH app app"]), ["+OK\r\n"]);
    fates(&gate, &mut who, lines).iter().map(|fate| fate.starts_with("pass")).collect()
}

#[test]
fn nobody_does_anything_before_logging_in() {
    let gate = gate(&[("app", "~* +@all")]);
    let mut who = gate.enter();
    let lines =
        ["GET a", "PING", "HELLO 3", "AUTH app wrong", "AUTH nobody app", "AUTH app", "ACL WHOAMI", "QUIT"];
    let fates_before = fates(&gate, &mut who, &lines);
    assert!(fates_before[..3].iter().all(|fate| fate.starts_with("-NOAUTH ")), "{fates_before:?}");
    assert!(fates_before[3..6].iter().all(|fate| fate.starts_with("-WRONGPASS ")), "{fates_before:?}");
    assert!(
        fates_before[6].starts_with("-NOAUTH") && fates_before[7].starts_with("pass"),
        "{fates_before:?}"
    );
    // What stands before the login in the same batch is judged without it, what stands behind it with it.
    let fates_after = fates(&gate, &mut who, &["GET a", "AUTH app app", "GET a", "RESET", "GET a"]);
    assert!(
        fates_after[0].starts_with("-NOAUTH") && fates_after[4].starts_with("-NOAUTH"),
        "{fates_after:?}"
    );
    assert_eq!(fates_after[1..3], ["+OK\r\n", "pass *2 $3 GET $1 a "]);
}

#[test]
fn a_greeting_loses_its_credentials() {
    let gate = gate(&[("app", "~* +@all")]);
    let mut who = gate.enter();
    let fates =
        fates(&gate, &mut who, &["HELLO 3 SETNAME x AUTH app app", "HELLO 3 AUTH app no", "ACL WHOAMI"]);
    assert_eq!(fates[0], "pass *4 $5 HELLO $1 3 $7 SETNAME $1 x ");
    assert!(fates[1].starts_with("-WRONGPASS"));
    assert_eq!(fates[2], "$3\r\napp\r\n");
}

#[test]
fn commands_are_judged_by_the_last_rule_that_names_them() {
    let lines =
        ["GET a", "SET a 1", "STRLEN a", "FLUSHALL", "CONFIG GET x", "CONFIG SET x y", "JSON.GET a", "PING"];
    let check = |rules: &str, expected: &str| {
        let passes: String =
            passes(rules, &lines).iter().map(|passes| if *passes { '+' } else { '-' }).collect();
        assert_eq!(passes, expected, "{rules}");
    };
    check("~* +@all", "++++++++");
    check("~* +@all -@dangerous", "+++---++");
    check("~* +@read -strlen", "+-------");
    check("~* +@all -@all +get", "+-------");
    check("~* +@string -get +config|get", "-++-+---");
    check("~* +config -config|set", "----+---");
    // A module's command: nobody knows what it does, so only who may do everything may run it.
    check("~a +@all", "++++++-+");
    check("~*", "--------");
}

#[test]
fn keys_are_judged_by_what_is_done_to_them() {
    let lines = [
        "GET app:1",
        "GET ro:1",
        "SET ro:1 x",
        "SET wo:1 x",
        "SET wo:1 x GET",
        "GET wo:1",
        "MGET app:1 other",
        "COPY ro:1 wo:1",
        "COPY wo:1 ro:1",
        "SORT app:1 BY x*",
        "SORT app:1 STORE app:2",
        "EVAL return 1 app:1",
        "EVAL return 1 other",
        "EVAL return nine app:1",
        "SUNIONSTORE app:1 ro:1 app:2",
        "EXISTS wo:1",
        "DBSIZE",
    ];
    let passed = passes("~app:* %R~ro:* %W~wo:* +@all", &lines);
    let expected = [
        true, true, false, true, false, false, false, true, false, false, true, true, false, false, true,
        true, true,
    ];
    for ((line, passed), expected) in lines.iter().zip(passed).zip(expected) {
        assert_eq!(passed, expected, "{line}");
    }
}

#[test]
fn channels_are_judged_too() {
    let lines = [
        "PUBLISH news:a x",
        "PUBLISH other x",
        "SUBSCRIBE news:a news:b",
        "SUBSCRIBE news:a other",
        "PSUBSCRIBE news:*",
        "PSUBSCRIBE news:a*",
        "SSUBSCRIBE other",
        "SPUBLISH news:a x",
        "UNSUBSCRIBE",
    ];
    let passed = passes("~* &news:* +@all", &lines);
    assert_eq!(passed, [true, false, true, false, true, false, false, true, true]);
    assert_eq!(passes("~* +@all", &lines), [false, false, false, false, false, false, false, false, true]);
}

#[test]
fn acl_tells_and_changes_nothing() {
    let gate = gate(&[("app", "~app:* %R~ro:* &news:* +@all -@dangerous +acl"), ("default", "nopass +ping")]);
    let mut who = gate.enter();
    let ask = |who: &mut Who, line: &str| fates(&gate, who, &[line]).remove(0);
    assert!(ask(&mut who, "AUTH x").contains("without any password configured"));
    assert!(
        ask(&mut who, "ACL WHOAMI")
            .starts_with("-NOPERM this user has no permissions to run the 'acl|whoami'")
    );
    assert_eq!(ask(&mut who, "AUTH app app"), "+OK\r\n");
    assert_eq!(ask(&mut who, "ACL WHOAMI"), "$3\r\napp\r\n");
    assert_eq!(ask(&mut who, "ACL USERS"), "*2\r\n$3\r\napp\r\n$7\r\ndefault\r\n");
    let list = ask(&mut who, "ACL LIST");
    assert!(list.contains("user app on ~app:* %R~ro:* &news:* +@all -@dangerous +acl\r\n"), "{list}");
    assert!(list.contains("user default on nopass resetchannels +ping\r\n"), "{list}");
    assert!(!list.contains('#'), "{list}");
    assert!(ask(&mut who, "ACL GETUSER app").contains("~app:* %R~ro:*"));
    assert_eq!(ask(&mut who, "ACL GETUSER nobody"), "$-1\r\n");
    assert!(ask(&mut who, "ACL CAT").starts_with("*21\r\n"));
    assert!(ask(&mut who, "ACL CAT bitmap").contains("bitcount"));
    assert_eq!(ask(&mut who, "ACL DRYRUN app GET app:1"), "+OK\r\n");
    assert!(ask(&mut who, "ACL DRYRUN app SET ro:1 x").contains("to access one of the keys"));
    assert!(ask(&mut who, "ACL DRYRUN default GET a").contains("to run the 'get' command"));
    assert!(ask(&mut who, "ACL SETUSER app +@all").starts_with("-ERR mecha: users are defined in"));
}

#[test]
fn a_transaction_keeps_its_user() {
    let gate = gate(&[("app", "~* +@all")]);
    let mut session = Session::default();
    session.multi = true;
    let mut wire = Vec::new();
    write_request([b"AUTH".as_slice(), b"app", b"app"].into_iter(), &mut wire);
    let mut heads = [head_of(&wire).unwrap()];
    let mut calls = [Resp::call(&heads[0], Ticket::default())];
    let (mut local, mut who) = (Vec::new(), gate.enter());
    let mut batch =
        Batch { wire: &wire, local: &mut local, heads: &mut heads, calls: &mut calls, session: &mut session };
    let peer = Peer { id: 1, addr: None, local: None, identity: None, user: None };
    Guard::<Resp>::admit(&gate, &mut batch, 0..1, &mut who, &Cx { now_micros: 1, peer: &peer });
    assert_eq!(calls[0].verdict, Verdict::Refuse(Refusal::Unsupported));
    assert!(who.name().is_none());
}

#[test]
fn newer_users_hold_for_those_who_are_here() {
    use crate::guard::Standing;
    let before = gate(&[("app", "~* +@all"), ("gone", "~* +@all")]);
    let after = gate(&[("app", "~a +@all"), ("default", "nopass ~d +get")]);
    let (mut app, mut gone) = (before.enter(), before.enter());
    assert_eq!(fates(&before, &mut app, &["AUTH app app"]), ["+OK\r\n"]);
    assert_eq!(fates(&before, &mut gone, &["AUTH gone gone"]), ["+OK\r\n"]);
    let (mut app, standing) = after.follow(Some(&app));
    assert_eq!(standing, Standing::Changed);
    assert!(fates(&after, &mut app, &["GET b"])[0].starts_with("-NOPERM"));
    assert_eq!(after.follow(Some(&app)).1, Standing::Same);
    let (gone, standing) = after.follow(Some(&gone));
    assert_eq!((gone.name(), standing), (None, Standing::Gone));
    assert_eq!(after.follow(Some(&before.enter())).0.name().map(|name| &**name), Some("default"));
}
