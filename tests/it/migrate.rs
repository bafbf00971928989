//! Keys that move from one cluster to another while clients use them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::support::{Client, Mecha, RedisCluster, eventually, frame, memcached, redis, redis_on};

/// A configuration of one migrating listener, edited from stage to stage.
struct Move {
    file: PathBuf,
    from: String,
    to: String,
    more: &'static str,
}

impl Move {
    fn new(name: &str, from: String, to: String, more: &'static str) -> Self {
        let file = std::env::temp_dir().join(format!("mecha-migrate-{}-{name}.yaml", std::process::id()));
        Self { file, from, to, more }
    }

    fn write(&self, stage: &str) {
        let (from, to, more) = (&self.from, &self.to, self.more);
        let text = format!(
            "listeners:\n  - listen: redis://127.0.0.1:0\n    to: '{from}'\n    \
             migrate: {{ to: '{to}', stage: {stage}{more} }}\nworkers: 2\ndrain_timeout: 1s\n"
        );
        self.replace(&text);
    }

    fn replace(&self, text: &str) {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &self.file).unwrap();
    }

    fn start(&self, stage: &str) -> Mecha {
        self.write(stage);
        Mecha::from_file(&self.file)
    }

    /// The next stage, in force.
    fn enter(&self, mecha: &Mecha, stage: &str) {
        let applied = mecha.metric("mecha_config_applied_total");
        self.write(stage);
        eventually("the stage is not applied", || mecha.metric("mecha_config_applied_total") > applied);
    }
}

impl Drop for Move {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Keys that wait for their copy now; the figure of the same name may be a moment old.
fn pending(mecha: &Mecha) -> u32 {
    let clusters = mecha.get("/clusters");
    let pending =
        clusters.split("\"pending\": ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
    pending.expect(&clusters)
}

fn copied(mecha: &Mecha) {
    eventually("the copies do not end", || pending(mecha) == 0);
}

/// Clients that write, read back what they have written, and count together, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    const CLIENTS: usize = 4;

    /// With `is_rich`, keys of every type; otherwise strings only.
    fn start(mecha: &Mecha, is_rich: bool) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |own: usize| {
            let (mut client, stop, calls) = (mecha.client(), Arc::clone(&stop), Arc::clone(&calls));
            std::thread::spawn(move || {
                let mut rounds = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let key = rounds % 40;
                    let mut say = |line: &str, expected: &str| {
                        let reply = client.call(line);
                        assert!(
                            expected.is_empty() || reply == expected,
                            "{line} in round {rounds}: {reply}"
                        );
                        assert!(!reply.starts_with('-'), "{line} in round {rounds}: {reply}");
                        calls.fetch_add(1, Ordering::Relaxed);
                    };
                    say(&format!("SET own:{own}:{key} {rounds:09}"), "+OK\r\n");
                    say(&format!("GET own:{own}:{key}"), &format!("$9\r\n{rounds:09}\r\n"));
                    say("INCR shared", "");
                    say(&format!("SET fought:{} {own}:{rounds}", rounds % 3), "+OK\r\n");
                    if rounds.is_multiple_of(5) {
                        say(&format!("DEL own:{own}:{}", (key + 20) % 40), "");
                        say(&format!("GET own:{own}:{}", (key + 20) % 40), "$-1\r\n");
                    }
                    if is_rich {
                        say(&format!("GET cold:{}", rounds % 2000), "");
                        say(&format!("HINCRBY hash:{own} f{key} 1"), "");
                        say(&format!("RPUSH list:{own} {rounds}"), "");
                        say(&format!("LTRIM list:{own} -5 -1"), "+OK\r\n");
                        say(&format!("ZADD zset {rounds} m{own}:{key}"), "");
                        say(&format!("MGET own:{own}:{key} shared nothing"), "");
                    }
                    rounds += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                rounds
            })
        };
        let clients = (0..Self::CLIENTS).map(one).collect();
        Self { stop, calls, clients }
    }

    /// Returns when so many more calls have been answered.
    fn goes_on(&self, calls: u64) {
        let goal = self.calls.load(Ordering::Relaxed) + calls;
        eventually("the clients stand still", || self.calls.load(Ordering::Relaxed) >= goal);
    }

    /// All rounds of all clients. Panics if one of them has got anything but the right answer.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().expect("a call has failed")).sum()
    }
}

/// Every key of a server, of any type, as text that is equal where the data is.
fn dump(port: u16) -> BTreeMap<String, String> {
    let mut client = Client::new(port);
    let keys = bulks(&client.call("KEYS *"));
    let value = |client: &mut Client, key: &str| {
        let kind = client.call(&format!("TYPE {key}"));
        let mut value = match kind.trim() {
            "+string" => vec![client.call(&format!("GET {key}"))],
            "+hash" => pairs(bulks(&client.call(&format!("HGETALL {key}")))),
            "+list" => bulks(&client.call(&format!("LRANGE {key} 0 -1"))),
            "+set" => bulks(&client.call(&format!("SMEMBERS {key}"))),
            "+zset" => bulks(&client.call(&format!("ZRANGE {key} 0 -1 WITHSCORES"))),
            other => panic!("{key} is {other}"),
        };
        if !matches!(kind.trim(), "+list" | "+zset") {
            value.sort();
        }
        format!("{} {value:?}", kind.trim())
    };
    keys.into_iter().map(|key| (key.clone(), value(&mut client, &key))).collect()
}

fn bulks(reply: &str) -> Vec<String> {
    let lines = reply.split("\r\n").skip(1);
    lines.filter(|line| !line.is_empty() && !line.starts_with('$')).map(str::to_string).collect()
}

fn pairs(all: Vec<String>) -> Vec<String> {
    all.chunks(2).map(<[String]>::concat).collect()
}

#[test]
fn in_dual_write_the_new_side_gets_whatever_clients_do_to_their_keys() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("dual", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("dual_write");
    let mut client = mecha.client();
    for line in [
        "SET text a",
        "APPEND text b",
        "INCRBY number 41",
        "INCR number",
        "SET brief x EX 100",
        "HSET hash a 1 b 2",
        "HINCRBY hash a 5",
        "RPUSH list a b c",
        "LPOP list",
        "SADD set a b c d",
        "SPOP set",
        "ZADD zset 1 a 2 b",
        "ZINCRBY zset 5 a",
        "MSET one 1 two 2 three 3",
        "DEL two",
        "RENAME three four",
        "SUNIONSTORE union set",
        "EVAL redis.call('SET',KEYS[1],ARGV[1]) 1 scripted yes",
        "SET gone x PX 1",
    ] {
        let reply = client.call(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    // What a transaction changes is copied when it is carried out.
    client.call("MULTI");
    assert_eq!(client.call("SET within 1"), "+QUEUED\r\n");
    assert_eq!(client.call("INCR within"), "+QUEUED\r\n");
    assert!(client.call("EXEC").ends_with(":2\r\n"));
    // And what a client that waits has taken, when it gets it.
    let mut blocked = mecha.client();
    blocked.send(&frame(&["BLPOP", "queue", "20"]));
    client.call("RPUSH queue first second");
    assert!(blocked.reply().contains("first"));
    eventually("the copies do not end", || {
        pending(&mecha) == 0 && Client::new(new).call("LLEN queue") == ":1\r\n"
    });
    eventually("the sides differ", || dump(old) == dump(new));
    let new_keys = dump(new);
    assert!(new_keys.len() == 13 && new_keys.contains_key("within"), "{new_keys:?}");
    let ttl = Client::new(new).call("TTL brief");
    assert!(ttl == ":100\r\n" || ttl == ":99\r\n", "{ttl}");
    assert!(mecha.metric("mecha_migration_copies_total{") >= 13.0);
    assert_eq!(mecha.metric("mecha_migration_lost_total{"), 0.0);
    assert!(mecha.metric("mecha_route_calls_total{listener=\"resp\",route=\"default.old\"") >= 20.0);
    // What nobody could follow is refused by name.
    for line in ["FLUSHALL", "SWAPDB 0 1", "EVAL x 0", "SELECT 3"] {
        let reply = client.call(line);
        assert!(
            reply.starts_with("-ERR mecha: command cannot be followed while its keys move"),
            "{line}: {reply}"
        );
    }
    assert_eq!(client.call("GET text"), "$2\r\nab\r\n");
    let clusters = mecha.get("/clusters");
    assert!(clusters.contains("\"stage\": \"dual_write\""), "{clusters}");
    drop((client, blocked));
    mecha.settles();
}

/// From stage to stage with clients at work, and nothing that any of them could see.
#[test]
fn a_redis_moves_to_another_one_under_load_and_nothing_is_lost() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let mut direct = Client::new(old);
    for number in 0..2000 {
        // Nobody uses these: only the sweep finds them.
        assert_eq!(direct.call(&format!("SET cold:{number} {number}")), "+OK\r\n");
    }
    direct.call("SADD cold:set a b c");
    direct.call("SET shared 1000");
    let config = Move::new(
        "under-load",
        format!("redis://127.0.0.1:{old}"),
        format!("redis://127.0.0.1:{new}"),
        ", sweep: 4000",
    );
    let mecha = config.start("old");
    let load = Load::start(&mecha, true);
    load.goes_on(200);
    assert_eq!(Client::new(new).call("DBSIZE"), ":0\r\n");
    config.enter(&mecha, "dual_write");
    load.goes_on(500);
    eventually("the sweep does not end", || mecha.metric("mecha_migration_sweep_done{") == 1.0);
    config.enter(&mecha, "shadow_read");
    load.goes_on(1000);
    assert!(mecha.metric("mecha_migration_compared_total{") > 50.0);
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 0.0);
    config.enter(&mecha, "backfill");
    load.goes_on(1000);
    config.enter(&mecha, "new");
    load.goes_on(500);
    let rounds = load.stop();
    copied(&mecha);
    assert!(mecha.metric("mecha_migration_swept_total{") >= 2000.0);
    for figure in ["lost", "refused", "mismatches"] {
        assert_eq!(mecha.metric(&format!("mecha_migration_{figure}_total{{")), 0.0, "{figure}");
    }
    let all = dump(new);
    assert_eq!(all.keys().filter(|key| key.starts_with("cold:")).count(), 2001);
    // Every increment is there, whichever side it was made on.
    assert_eq!(Client::new(new).call("GET shared"), format!("$4\r\n{}\r\n", 1000 + rounds));
    let calls = |side: &str| {
        mecha.metric(&format!("mecha_route_calls_total{{listener=\"resp\",route=\"default.{side}\""))
    };
    assert!(calls("old") > 1000.0 && calls("new") > 1000.0, "{} {}", calls("old"), calls("new"));
    mecha.settles();
}

#[test]
fn in_backfill_both_sides_are_equal_in_the_end_and_the_way_back_is_open() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("back", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mut direct = Client::new(old);
    for number in 0..100 {
        direct.call(&format!("SET cold:{number} {number}"));
    }
    direct.call("SET counter 10");
    // The new side is empty: everything comes from the old one when it is asked for.
    let mecha = config.start("backfill");
    let load = Load::start(&mecha, true);
    let mut client = mecha.client();
    assert_eq!(client.call("INCR counter"), ":11\r\n");
    assert_eq!(client.call("GET cold:5"), "$1\r\n5\r\n");
    assert_eq!(client.call("DEL cold:6"), ":1\r\n");
    // What was deleted does not come back, though the old side had it.
    assert_eq!(client.call("GET cold:6"), "$-1\r\n");
    assert_eq!(client.call("EXISTS cold:7 cold:6 cold:8"), ":2\r\n");
    client.call("MULTI");
    assert_eq!(client.call("INCRBY cold:9 1"), "+QUEUED\r\n");
    assert!(client.call("EXEC").ends_with(":10\r\n"));
    load.goes_on(500);
    assert!(mecha.metric("mecha_migration_backfills_total{") >= 5.0);
    // The old side follows, so that it can be the truth again.
    eventually("the old side does not follow", || Client::new(old).call("GET counter") == "$2\r\n11\r\n");
    assert_eq!(Client::new(old).call("EXISTS cold:6"), ":0\r\n");
    config.enter(&mecha, "dual_write");
    load.goes_on(300);
    assert_eq!(client.call("INCR counter"), ":12\r\n");
    config.enter(&mecha, "backfill");
    load.goes_on(300);
    assert_eq!(client.call("INCR counter"), ":13\r\n");
    let rounds = load.stop();
    copied(&mecha);
    eventually("the sides differ", || {
        let (one, mut other) = (dump(new), dump(old));
        // Nobody has asked for these.
        other.retain(|key, _| !key.starts_with("cold:") || one.contains_key(key));
        one == other
    });
    assert_eq!(Client::new(new).call("GET shared"), format!("${}\r\n{rounds}\r\n", rounds.to_string().len()));
    drop(client);
    mecha.settles();
}

#[test]
fn a_new_side_that_is_killed_costs_clients_nothing_and_catches_up_when_it_is_back() {
    let (Some((_old, old)), Some((new_server, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("killed", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("shadow_read");
    let load = Load::start(&mecha, true);
    load.goes_on(300);
    drop(new_server);
    load.goes_on(1000);
    assert!(mecha.metric("mecha_migration_failures_total{") > 0.0);
    assert!(pending(&mecha) > 10, "keys are forgotten");
    let _again = redis_on(new);
    load.goes_on(300);
    load.stop();
    copied(&mecha);
    let (one, other) = (dump(old), dump(new));
    assert!(other.len() > 20, "{other:?}");
    for (key, value) in &other {
        assert_eq!(one.get(key), Some(value), "{key}");
    }
    // What was copied before the server was killed is gone with it, but for what was written since.
    assert_eq!(one.get("shared"), other.get("shared"));
    assert_eq!(mecha.metric("mecha_migration_lost_total{"), 0.0);
    mecha.settles();
}

#[test]
fn in_backfill_a_killed_old_side_fails_only_what_it_alone_has() {
    let (Some((old_server, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("old-killed", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    Client::new(old).call("SET kept 1");
    let mecha = config.start("backfill");
    let mut client = mecha.client();
    assert_eq!(client.call("INCR kept"), ":2\r\n");
    assert_eq!(client.call("SET fresh 1"), "+OK\r\n");
    drop(old_server);
    for number in 0..50 {
        assert_eq!(client.call("INCR kept"), format!(":{}\r\n", number + 3));
        assert_eq!(client.call("INCR fresh"), format!(":{}\r\n", number + 2));
    }
    // Nobody knows whether there is more of these. To make them up would be worse.
    for line in ["GET unknown", "INCR unknown"] {
        let reply = client.call(line);
        assert!(reply.starts_with("-ERR mecha: backend is unreachable"), "{reply}");
    }
    let _again = redis_on(old);
    eventually("the old side is not found again", || client.call("INCR unknown").starts_with(':'));
    eventually("the old side does not follow", || Client::new(old).call("GET kept") == "$2\r\n52\r\n");
    assert_eq!(Client::new(old).call("GET fresh"), "$2\r\n51\r\n");
    assert!(mecha.metric("mecha_migration_copies_total{") >= 2.0);
    drop(client);
    mecha.settles();
}

#[test]
fn what_is_changed_behind_mechas_back_is_counted_and_mended_where_that_is_wanted() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let mut config =
        Move::new("tampered", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("shadow_read");
    let mut client = mecha.client();
    client.call("SET a 1");
    client.call("SADD s a b c d e f g h i j k l m n o p q r s t");
    client.call("HSET h a 1 b 2 c 3");
    copied(&mecha);
    let compared = || mecha.metric("mecha_migration_compared_total{");
    let read = |client: &mut Client, line: &str| {
        let before = compared();
        let reply = client.call(line);
        eventually("nothing is compared", || compared() > before);
        reply
    };
    for line in ["GET a", "SMEMBERS s", "HGETALL h", "GET nothing", "MGET a nothing", "SCARD s"] {
        read(&mut client, line);
    }
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 0.0);
    let mut tamperer = Client::new(new);
    tamperer.call("SET a 2");
    tamperer.call("SREM s a");
    assert_eq!(read(&mut client, "GET a"), "$1\r\n1\r\n");
    read(&mut client, "SMEMBERS s");
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 2.0);
    assert_eq!(tamperer.call("GET a"), "$1\r\n2\r\n");
    assert_eq!(mecha.metric("mecha_migration_repairs_total{"), 0.0);
    // Repaired where that is wanted.
    config.more = ", repair: true";
    config.enter(&mecha, "shadow_read");
    eventually("it is not mended", || {
        client.call("GET a");
        client.call("SCARD s");
        tamperer.call("GET a") == "$1\r\n1\r\n" && tamperer.call("SCARD s") == ":20\r\n"
    });
    assert!(mecha.metric("mecha_migration_repairs_total{") >= 2.0);
    copied(&mecha);
    drop(client);
    mecha.settles();
}

#[test]
fn a_redis_moves_to_memcached_under_load_by_the_parts_of_its_values() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), memcached()) else { return };
    let mut direct = Client::new(old);
    for number in 0..300 {
        direct.call(&format!("SET cold:{number} {number}"));
    }
    direct.call("HSET cold:h a 1 b 2");
    direct.call("RPUSH cold:l a b c");
    direct.call("SADD cold:s a b c");
    direct.call("ZADD cold:z 1 a 2.5 b");
    direct.call("SET cold:brief x EX 100");
    direct.call("XADD stream * a 1");
    let config = Move::new(
        "memcached",
        format!("redis://127.0.0.1:{old}"),
        format!("memcached://127.0.0.1:{new}"),
        ", sweep: 2000",
    );
    let mecha = config.start("dual_write");
    let load = Load::start(&mecha, true);
    load.goes_on(300);
    eventually("the sweep does not end", || mecha.metric("mecha_migration_sweep_done{") == 1.0);
    config.enter(&mecha, "shadow_read");
    load.goes_on(600);
    assert!(mecha.metric("mecha_migration_compared_total{") > 10.0);
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 0.0);
    config.enter(&mecha, "backfill");
    load.goes_on(600);
    config.enter(&mecha, "new");
    load.goes_on(300);
    config.replace(&format!(
        "listeners:\n  - {{ listen: 'redis://127.0.0.1:0', to: 'memcached://127.0.0.1:{new}' }}\nworkers: 2\ndrain_timeout: 1s\n"
    ));
    load.goes_on(300);
    let rounds = load.stop();
    let mut client = mecha.client();
    assert_eq!(client.call("GET shared"), format!("${}\r\n{rounds}\r\n", rounds.to_string().len()));
    for number in 0..300 {
        let text = number.to_string();
        assert_eq!(client.call(&format!("GET cold:{number}")), format!("${}\r\n{text}\r\n", text.len()));
    }
    assert_eq!(client.call("HGET cold:h b"), "$1\r\n2\r\n");
    assert_eq!(client.call("LRANGE cold:l 1 -1"), "*2\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(client.call("SCARD cold:s"), ":3\r\n");
    assert_eq!(client.call("ZSCORE cold:z b"), "$3\r\n2.5\r\n");
    let ttl: i64 = client.call("TTL cold:brief").trim().trim_start_matches(':').parse().unwrap();
    assert!((60..=100).contains(&ttl), "{ttl}");
    // A stream has no form there. It was counted, not lost in silence.
    assert!(mecha.metric("mecha_migration_refused_total{") >= 1.0);
    assert_eq!(mecha.metric("mecha_migration_lost_total{"), 0.0);
    drop(client);
    mecha.settles();
}

#[test]
fn a_memcached_moves_to_redis_for_clients_of_either() {
    let (Some((_old, old)), Some((_new, new))) = (memcached(), redis()) else { return };
    let mut direct = Client::new(old);
    for number in 0..50 {
        direct.send(format!("set cold:{number} {number} 100 3\r\nold\r\n").as_bytes());
        assert_eq!(direct.line(), "STORED\r\n");
    }
    let text = |stage: &str| {
        format!(
            "listeners:\n  - listen: memcached://127.0.0.1:0\n    to: memcached://127.0.0.1:{old}\n    \
             migrate: {{ to: 'redis://127.0.0.1:{new}', stage: {stage} }}\nworkers: 2\ndrain_timeout: 1s\n"
        )
    };
    let config = Move::new("to-redis", String::new(), String::new(), "");
    config.replace(&text("dual_write"));
    let mecha = Mecha::from_file(&config.file);
    let enter = |stage: &str| {
        let applied = mecha.metric("mecha_config_applied_total");
        config.replace(&text(stage));
        eventually("the stage is not applied", || mecha.metric("mecha_config_applied_total") > applied);
    };
    let mut client = mecha.client();
    let mut say = |request: &str, lines: &[&str]| {
        client.send(format!("{request}\r\n").as_bytes());
        for line in lines {
            assert_eq!(client.line(), format!("{line}\r\n"), "{request}");
        }
    };
    say("set n 7 0 1\r\n1", &["STORED"]);
    say("incr n 41", &["42"]);
    say("set gone 0 0 1\r\n1", &["STORED"]);
    say("delete gone", &["DELETED"]);
    say("set flood 0 0 1 noreply\r\n1", &[]);
    say(
        "flush_all",
        &["SERVER_ERROR mecha: command cannot be followed while its keys move to another cluster"],
    );
    copied(&mecha);
    enter("shadow_read");
    for _ in 0..20 {
        say("get n", &["VALUE n 7 2", "42", "END"]);
        say("get n gone flood", &["VALUE n 7 2", "42", "VALUE flood 0 1", "1", "END"]);
    }
    eventually("nothing is compared", || mecha.metric("mecha_migration_compared_total{") >= 20.0);
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 0.0);
    enter("backfill");
    say("get n cold:7", &["VALUE n 7 2", "42", "VALUE cold:7 7 3", "old", "END"]);
    say("append cold:8 0 0 4\r\nwine", &["STORED"]);
    say("get cold:8", &["VALUE cold:8 8 7", "oldwine", "END"]);
    say("add cold:9 0 0 1\r\nx", &["NOT_STORED"]);
    say("mg cold:10 v f", &["VA 3 f10", "old"]);
    say("delete cold:11", &["DELETED"]);
    say("get cold:11", &["END"]);
    copied(&mecha);
    enter("new");
    say("get n cold:8 cold:11", &["VALUE n 7 2", "42", "VALUE cold:8 8 7", "oldwine", "END"]);
    assert!(mecha.metric("mecha_migration_backfills_total{") >= 4.0);
    assert!(mecha.metric("mecha_route_calls_total{listener=\"memcached\",route=\"default.new\"") >= 7.0);
    drop(client);
    mecha.settles();
}

#[test]
fn a_redis_moves_to_a_redis_cluster_under_load() {
    let (Some((_old, old)), Some(cluster)) = (redis(), RedisCluster::start()) else { return };
    let mut direct = Client::new(old);
    for number in 0..500 {
        direct.call(&format!("SET cold:{number} {number}"));
    }
    direct.call("XADD cold:stream 1-1 a 1");
    let config = Move::new(
        "cluster",
        format!("redis://127.0.0.1:{old}"),
        format!("redis-cluster://127.0.0.1:{}", cluster.port(0)),
        ", sweep: 2000",
    );
    let mecha = config.start("dual_write");
    let load = Load::start(&mecha, true);
    load.goes_on(300);
    eventually("the sweep does not end", || mecha.metric("mecha_migration_sweep_done{") == 1.0);
    config.enter(&mecha, "shadow_read");
    load.goes_on(600);
    assert!(mecha.metric("mecha_migration_compared_total{") > 10.0);
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 0.0);
    config.enter(&mecha, "backfill");
    load.goes_on(600);
    // The way back and forth again, from a cluster to a single server.
    config.enter(&mecha, "dual_write");
    load.goes_on(300);
    config.enter(&mecha, "backfill");
    load.goes_on(300);
    config.enter(&mecha, "new");
    load.goes_on(300);
    let rounds = load.stop();
    copied(&mecha);
    let mut client = mecha.client();
    assert_eq!(client.call("GET shared"), format!("${}\r\n{rounds}\r\n", rounds.to_string().len()));
    for number in 0..500 {
        let text = number.to_string();
        assert_eq!(client.call(&format!("GET cold:{number}")), format!("${}\r\n{text}\r\n", text.len()));
    }
    // Between two of a kind even what has no parts is copied.
    assert!(client.call("XRANGE cold:stream - +").contains("1-1"));
    let held: u64 = (0..3)
        .map(|at| Client::new(cluster.port(at)).call("DBSIZE"))
        .map(|size| size.trim().trim_start_matches(':').parse::<u64>().unwrap())
        .sum();
    assert!(held >= 501, "{held}");
    for figure in ["lost", "refused", "mismatches"] {
        assert_eq!(mecha.metric(&format!("mecha_migration_{figure}_total{{")), 0.0, "{figure}");
    }
    drop(client);
    mecha.settles();
}

#[test]
fn what_finds_no_room_is_counted_and_a_sweep_makes_up_for_it() {
    let (Some((_old, old)), Some((new_server, new))) = (redis(), redis()) else { return };
    let config = Move::new(
        "room",
        format!("redis://127.0.0.1:{old}"),
        format!("redis://127.0.0.1:{new}"),
        ", pending: 20, sweep: 2000",
    );
    let mecha = config.start("dual_write");
    drop(new_server);
    let mut client = mecha.client();
    for number in 0..100 {
        assert_eq!(client.call(&format!("SET key:{number} {number}")), "+OK\r\n");
    }
    assert!(mecha.metric("mecha_migration_lost_total{") >= 80.0);
    assert_eq!(pending(&mecha), 20);
    eventually("the figure differs", || mecha.metric("mecha_migration_pending{") == 20.0);
    eventually("nobody is told", || mecha.metric("mecha_migration_behind{") == 1.0);
    let _again = redis_on(new);
    eventually("the sweep does not mend it", || {
        mecha.metric("mecha_migration_sweep_done{") == 1.0 && mecha.metric("mecha_migration_behind{") == 0.0
    });
    copied(&mecha);
    assert_eq!(dump(old), dump(new));
    drop(client);
    mecha.settles();
}

#[test]
fn dedicated_connections_end_when_another_side_answers() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("pins", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("dual_write");
    let (mut blocked, mut subscribed, mut queueing) = (mecha.client(), mecha.client(), mecha.client());
    blocked.send(&frame(&["BLPOP", "queue", "0"]));
    assert!(subscribed.call("SUBSCRIBE news").contains("subscribe"));
    assert_eq!(queueing.call("MULTI"), "+OK\r\n");
    assert_eq!(queueing.call("SET within 1"), "+QUEUED\r\n");
    eventually("it does not wait", || Client::new(old).call("CLIENT LIST").contains("cmd=blpop"));
    config.enter(&mecha, "backfill");
    // It would have waited on a side where nothing comes any more, and its key with it.
    assert!(blocked.reply().starts_with("-ERR mecha: backend connection was lost"));
    assert!(subscribed.is_closed() && queueing.is_closed());
    let mut client = mecha.client();
    assert_eq!(client.call("RPUSH queue a"), ":1\r\n");
    assert!(blocked.call("BLPOP queue 5").contains("queue"));
    assert_eq!(client.call("GET within"), "$-1\r\n");
    copied(&mecha);
    assert_eq!(Client::new(old).call("EXISTS queue within"), ":0\r\n");
    assert!(mecha.metric("mecha_route_calls_total{listener=\"resp\",route=\"default.new\"") >= 3.0);
    drop((blocked, subscribed, queueing, client));
    mecha.settles();
}

#[test]
fn a_route_moves_alone_with_its_filters_into_the_store_of_this_process() {
    let Some((_old, old)) = redis() else { return };
    let mut direct = Client::new(old);
    for number in 0..50 {
        direct.call(&format!("SET own:a:{number} {number}"));
        direct.call(&format!("SET b:{number} {number}"));
    }
    let config = Move::new("route", String::new(), String::new(), "");
    let text = |stage: &str| {
        format!(
            "listeners:
  - listen: redis://127.0.0.1:0
    to: old
    routes:
      - prefix: 'a:'
        to: old
        filters: [key_prefix: {{ prefix: 'own:' }}]
        migrate: {{ to: store, stage: {stage}, sweep: 5000 }}
clusters:
  old: {{ to: 'redis://127.0.0.1:{old}', filters: [rate_limit: {{ permits: 100000, per: 1s }}] }}
  store: {{ to: 'embedded://', filters: [rate_limit: {{ permits: 100000, per: 1s }}] }}
workers: 2
drain_timeout: 1s
"
        )
    };
    config.replace(&text("dual_write"));
    let mecha = Mecha::from_file(&config.file);
    let enter = |stage: &str| {
        let applied = mecha.metric("mecha_config_applied_total");
        config.replace(&text(stage));
        eventually("the stage is not applied", || mecha.metric("mecha_config_applied_total") > applied);
    };
    let mut client = mecha.client();
    assert_eq!(client.call("INCR a:1"), ":2\r\n");
    assert_eq!(client.call("INCR b:1"), ":2\r\n");
    assert_eq!(client.call("MSET a:new x b:new y"), "+OK\r\n");
    assert_eq!(client.call("MGET a:1 b:1 a:new"), "*3\r\n$1\r\n2\r\n$1\r\n2\r\n$1\r\nx\r\n");
    eventually("the sweep does not end", || mecha.metric("mecha_migration_sweep_done{") == 1.0);
    copied(&mecha);
    enter("shadow_read");
    for number in 2..50 {
        let text = number.to_string();
        assert_eq!(client.call(&format!("GET a:{number}")), format!("${}\r\n{text}\r\n", text.len()));
    }
    eventually("nothing is compared", || mecha.metric("mecha_migration_compared_total{") >= 40.0);
    assert_eq!(mecha.metric("mecha_migration_mismatches_total{"), 0.0);
    enter("new");
    assert_eq!(client.call("INCR a:1"), ":3\r\n");
    assert_eq!(client.call("INCR b:1"), ":3\r\n");
    assert_eq!(client.call("MGET a:1 b:1 a:new a:7"), "*4\r\n$1\r\n3\r\n$1\r\n3\r\n$1\r\nx\r\n$1\r\n7\r\n");
    assert_eq!(direct.call("GET own:a:1"), "$1\r\n2\r\n");
    assert_eq!(direct.call("GET b:1"), "$1\r\n3\r\n");
    let calls = "mecha_route_calls_total{listener=\"resp\",route=\"a:.new\"";
    // One of its own, and its part of the other.
    assert_eq!(mecha.metric(calls), 2.0);
    drop(client);
    mecha.settles();
}

/// What a newcomer is told to try.
#[test]
fn the_example_moves_a_redis_to_memcached_and_no_call_fails() {
    let (Some(_redis), Some(_memcached)) = (redis(), memcached()) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/migrate/run.sh");
    let run = std::process::Command::new("bash")
        .arg(script)
        .env("MECHA", env!("CARGO_BIN_EXE_mecha"))
        .output()
        .expect("there is a shell");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    // Counted by mecha: calls went to the one side, then to the other.
    let crossed = said.lines().rfind(|line| line.starts_with("calls so far: ")).expect(&said);
    let mut numbers =
        crossed.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    assert!(numbers.next() > Some(500) && numbers.next() > Some(100), "{crossed}");
    assert!(said.contains("moved: every key is on the new side"), "{said}");
}

/// Whatever clients on both workers do to the same few keys at once, the sides are equal when they are done.
#[test]
fn clients_that_fight_over_keys_leave_both_sides_equal() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("fight", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("dual_write");
    let fight = |mecha: &Mecha, seed: u64| {
        let one = |own: u64| {
            let mut client = mecha.client();
            std::thread::spawn(move || {
                let mut random = (seed * 100 + own).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for _ in 0..40 {
                    let mut wire = Vec::new();
                    for _ in 0..10 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let (key, value) = (format!("k{}", random % 5), format!("{own}.{random}"));
                        wire.extend(match (random >> 20) % 8 {
                            0 | 1 => frame(&["SET", &key, &value]),
                            2 => frame(&["DEL", &key]),
                            3 => frame(&["APPEND", &key, "x"]),
                            4 => frame(&["INCR", &key]),
                            5 => frame(&["RPUSH", &key, &value]),
                            6 => frame(&["LPOP", &key]),
                            _ => frame(&["RENAME", &key, "k0"]),
                        });
                    }
                    client.send(&wire);
                    // Many are errors of the server's: of the wrong type, or without a key.
                    (0..10).for_each(|_| drop(client.reply()));
                }
            })
        };
        let clients: Vec<_> = (0..8).map(one).collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    };
    for (seed, stage) in (1..).zip(["dual_write", "backfill", "shadow_read"]) {
        if seed > 1 {
            config.enter(&mecha, stage);
        }
        fight(&mecha, seed);
        copied(&mecha);
        assert_eq!(dump(old), dump(new), "{stage}");
    }
    assert!(mecha.metric("mecha_migration_copies_total{") > 100.0);
    mecha.settles();
}

#[test]
fn a_call_that_began_to_wait_before_anybody_followed_is_followed_when_it_ends() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), redis()) else { return };
    let config =
        Move::new("late", format!("redis://127.0.0.1:{old}"), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("old");
    let (mut blocked, mut client) = (mecha.client(), mecha.client());
    blocked.send(&frame(&["BLMOVE", "from", "to", "LEFT", "RIGHT", "0"]));
    eventually("it does not wait", || Client::new(old).call("CLIENT LIST").contains("cmd=blmove"));
    // Less than a drain takes, which would end the call.
    config.enter(&mecha, "dual_write");
    assert_eq!(client.call("RPUSH from a"), ":1\r\n");
    assert_eq!(blocked.reply(), "$1\r\na\r\n");
    eventually("it is not followed", || Client::new(new).call("LRANGE to 0 -1") == "*1\r\n$1\r\na\r\n");
    drop((blocked, client));
    mecha.settles();
}

#[test]
fn a_key_that_cannot_be_copied_leaves_nothing_old_behind() {
    let (Some((_old, old)), Some((_new, new))) = (redis(), memcached()) else { return };
    let config =
        Move::new("refused", format!("redis://127.0.0.1:{old}"), format!("memcached://127.0.0.1:{new}"), "");
    let mecha = config.start("dual_write");
    let mut client = mecha.client();
    assert_eq!(client.call("SET k before"), "+OK\r\n");
    copied(&mecha);
    let there = || {
        let mut direct = Client::new(new);
        direct.send(b"get k\r\n");
        direct.line() != "END\r\n"
    };
    assert!(there());
    assert_eq!(client.call("DEL k"), ":1\r\n");
    assert!(client.call("XADD k 1-1 a 1").contains("1-1"));
    eventually("it is not refused", || mecha.metric("mecha_migration_refused_total{") >= 1.0);
    assert!(!there());
    drop(client);
    mecha.settles();
}

#[test]
fn what_was_tried_in_the_store_of_this_process_moves_to_a_server() {
    let Some((_new, new)) = redis() else { return };
    let config =
        Move::new("embedded", "embedded://".into(), format!("redis://127.0.0.1:{new}"), ", sweep: 2000");
    let mecha = config.start("old");
    let mut client = mecha.client();
    for number in 0..200 {
        client.call(&format!("SET key:{number} {number}"));
    }
    client.call("HSET hash a 1");
    config.enter(&mecha, "dual_write");
    let load = Load::start(&mecha, true);
    eventually("the sweep does not end", || mecha.metric("mecha_migration_sweep_done{") == 1.0);
    config.enter(&mecha, "backfill");
    load.goes_on(300);
    config.enter(&mecha, "new");
    load.goes_on(300);
    let rounds = load.stop();
    copied(&mecha);
    let all = dump(new);
    assert_eq!(all.keys().filter(|key| key.starts_with("key:")).count(), 200);
    assert!(all.contains_key("hash"));
    assert_eq!(client.call("GET shared"), format!("${}\r\n{rounds}\r\n", rounds.to_string().len()));
    drop(client);
    mecha.settles();
}

#[test]
fn what_a_side_refuses_leaves_nothing_pending() {
    let Some((_new, new)) = redis() else { return };
    let config = Move::new("denied", "embedded://".into(), format!("redis://127.0.0.1:{new}"), "");
    let mecha = config.start("dual_write");
    let mut client = mecha.client();
    for line in ["EVAL x 1 k", "XADD k * a 1", "MIGRATE h 1 k 0 1"] {
        assert!(client.call(line).starts_with('-'), "{line}");
    }
    copied(&mecha);
    // The same where the cluster's own policy refuses.
    let text = "listeners:\n  - listen: redis://127.0.0.1:0\n    to: old\n    migrate: { to: new, stage: dual_write }\n\
                clusters:\n  old: { to: 'embedded://', filters: [rate_limit: { permits: 3, per: 1h }] }\n  \
                new: redis://127.0.0.1:NEW\nworkers: 1\ndrain_timeout: 1s\n";
    let file = Move::new("limited", String::new(), String::new(), "");
    file.replace(&text.replace("NEW", &new.to_string()));
    let mecha_limited = Mecha::from_file(&file.file);
    let mut limited = mecha_limited.client();
    let refused =
        (0..20).filter(|number| limited.call(&format!("SET key:{number} 1")).starts_with('-')).count();
    assert!(refused >= 17, "{refused}");
    // Those that were let through wait for their copies, which are under the same limit; the others were never sent.
    assert!(pending(&mecha_limited) <= 3);
    drop((client, limited));
    mecha.settles();
    mecha_limited.settles();
}
