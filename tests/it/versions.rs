//! Clients of RESP3 before servers that have RESP2 alone: every conversation is held with a server that has both and, through
//! mecha, with one whose `HELLO` was taken away, and must be the same byte for byte.

use crate::support::{Client, Mecha, Process, eventually, frame, redis_with};

/// A server for comparison, one that lacks RESP3, and a mecha before that one.
struct Pair {
    direct: u16,
    mecha: Mecha,
    _servers: [Process; 2],
}

impl Pair {
    fn start(options: &[&str], more: &str) -> Option<Self> {
        let (one, direct) = redis_with(options)?;
        let (other, behind) = redis_with(&[&["--rename-command", "HELLO", ""], options].concat())?;
        let mecha = Mecha::configured(&format!(
            "listeners: [ {{ listen: 'redis://127.0.0.1:0', to: back }} ]\nclusters: {{ back: {{ to: 'redis://127.0.0.1:{behind}'{more} }} }}\n\
             workers: 2\n"
        ));
        Some(Self { direct, mecha, _servers: [one, other] })
    }

    /// Clients of version 3.
    fn clients(&self) -> [Client; 2] {
        let mut clients = [Client::new(self.direct), self.mecha.client()];
        let replies = clients.each_mut().map(|client| masked(&client.call("HELLO 3")));
        assert_eq!(replies[1], replies[0], "the greeting");
        clients
    }
}

/// Without what differs between any two servers and connections.
fn masked(reply: &str) -> String {
    let mut lines: Vec<_> = reply.split("\r\n").map(str::to_string).collect();
    for at in 1..lines.len() {
        if lines[at - 1] == "id" && lines[at].starts_with(':') {
            lines[at] = ":id".into();
        }
    }
    lines.join("\r\n")
}

/// The lines of a reply in an order of their own.
fn sorted(reply: &str) -> Vec<&str> {
    let mut lines: Vec<_> = reply.split("\r\n").collect();
    lines.sort_unstable();
    lines
}

/// The types of a reply, and how many of each in a row: for replies whose values differ from server to server.
fn types(reply: &str) -> String {
    let starts = reply.split("\r\n").filter_map(|line| line.chars().next());
    let mut types: Vec<_> = starts.filter(|kind| "*%~>,:#_$=+-(".contains(*kind)).collect();
    types.dedup();
    types.into_iter().collect()
}

/// What sets of keys of every type are, and what is asked of them.
const SAME: &str = "
FLUSHALL
SET s text
SET n 10
APPEND s x
GET s
GET nothing
MGET s nothing n
INCRBYFLOAT n 1.5
SETRANGE s 1 y
GETDEL nothing
GETEX s PERSIST
SET s z GET
SET nothing z XX
LCS s n
LCS s n LEN
LCS s n IDX
LCS s n IDX MINMATCHLEN 0 WITHMATCHLEN
HSET h a 1 b 2
HGET h a
HGET h nothing
HMGET h a nothing
HGETALL h
HGETALL nothing
HINCRBYFLOAT h a 0.5
HKEYS h
HVALS h
HSET h1 f v
HRANDFIELD h1
HRANDFIELD h 10
HRANDFIELD h 10 WITHVALUES
HRANDFIELD nothing 3 WITHVALUES
HRANDFIELD nothing
HSCAN h 0
SADD set a
SMEMBERS set
SMEMBERS nothing
SUNION set nothing
SINTER set nothing
SDIFF set nothing
SINTERCARD 1 set
SISMEMBER set a
SMISMEMBER set a b
SRANDMEMBER set
SRANDMEMBER set 2
SRANDMEMBER nothing
SPOP nothing
SPOP nothing 2
SPOP set 1
SADD set a
SPOP set
SCAN 0 MATCH n COUNT 100
KEYS s
ZADD z 1 a 2.5 b inf c -inf d 3.0000000000000004 e
ZADD z INCR 2 a
ZADD z NX INCR 2 a
ZADD z XX CH 5 a
ZSCORE z a
ZSCORE z e
ZSCORE z nothing
ZSCORE nothing a
ZMSCORE z a nothing c
ZINCRBY z 1.25 a
ZINCRBY z 1e300 a
ZRANGE z 0 -1
ZRANGE z 0 -1 WITHSCORES
ZRANGE z 0 -1 REV WITHSCORES
ZRANGE z (0 +inf BYSCORE WITHSCORES LIMIT 0 2
ZRANGE nothing 0 -1 WITHSCORES
ZREVRANGE z 0 -1 withscores
ZRANGEBYSCORE z -inf +inf WITHSCORES
ZREVRANGEBYSCORE z +inf -inf WITHSCORES
ZRANGEBYLEX z - +
ZRANK z a
ZRANK z nothing
ZRANDMEMBER nothing
ZRANDMEMBER nothing 3 WITHSCORES
ZADD one 1.5 x
ZRANDMEMBER one 2 WITHSCORES
ZRANDMEMBER one -2 WITHSCORES
ZUNION 2 z one WITHSCORES
ZUNION 2 z one
ZINTER 2 z z WITHSCORES
ZDIFF 2 z one WITHSCORES
ZINTERCARD 2 z one
ZUNIONSTORE dst 2 z one
ZSCAN z 0
ZPOPMIN nothing
ZPOPMIN one
ZADD one 1.5 x 2 y 3 v
ZPOPMAX one 1
ZPOPMIN one 5
ZPOPMAX nothing 3
ZADD one 1.5 x 2 y 3 v
ZMPOP 1 one MIN
ZMPOP 1 one MAX COUNT 5
ZMPOP 1 one MIN
BZPOPMIN one 0.01
ZADD one 1.5 x 2 y 3 v
BZPOPMIN one 1
BZPOPMAX one 1
BZMPOP 1 1 one MIN COUNT 2
RPUSH l a b c
LRANGE l 0 -1
LPOP l
LPOP nothing
LPOP nothing 2
LPOP l 5
LMPOP 1 l LEFT
BLPOP l 0.01
RPUSH l a
BLPOP l 1
BLMPOP 0.01 1 l LEFT
LPOS l a
LINDEX l 0
GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
GEOPOS g Palermo nothing Catania
GEOPOS nothing Palermo
GEODIST g Palermo Catania
GEODIST g Palermo nothing
GEOHASH g Palermo nothing
GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC
GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD
GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD WITHDIST
GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD WITHDIST WITHHASH
GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST
GEORADIUS g 15 37 200 km WITHCOORD WITHHASH ASC
GEORADIUSBYMEMBER g Palermo 200 km WITHCOORD WITHDIST ASC
XADD st 1-1 a 1
XADD st 1-2 b 2
XADD st2 1-1 c 3
XRANGE st - +
XREAD STREAMS st st2 0 0
XREAD COUNT 1 STREAMS st nothing 0 0
XREAD STREAMS st $
XREAD BLOCK 10 STREAMS st $
XGROUP CREATE st gr 0
XREADGROUP GROUP gr me COUNT 1 STREAMS st >
XREADGROUP GROUP gr me STREAMS st 0
XPENDING st gr
XINFO GROUPS st
XAUTOCLAIM st gr me 0 0
XCLAIM st gr me 0 1-1
XACK st gr 1-1
XSETID st 5-1
BITFIELD bits SET u8 0 200 GET u4 4
BITFIELD bits OVERFLOW FAIL INCRBY u8 0 100
EVAL return{1,false,'x',{2,3}} 0
EVAL return(nil) 0
EVAL return{ok='fine'} 0
EVAL return{err='bad'} 0
EVALSHA ffffffffffffffffffffffffffffffffffffffff 0
CONFIG GET maxmemory*
CONFIG GET nosuch
CONFIG SET maxmemory-samples 7
TYPE z
OBJECT ENCODING z
OBJECT ENCODING nothing
TTL s
DUMP nothing
SORT l
ECHO hi
PING
PING hi
SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff
COMMAND INFO get nosuch zadd config
COMMAND INFO eval xgroup sort
COMMAND DOCS get
COMMAND DOCS set zadd config
COMMAND GETKEYS MSET a 1 b 2
COMMAND LIST FILTERBY PATTERN xr*
ACL WHOAMI
ACL GETUSER default
ACL GETUSER nobody
ACL CAT string
ACL LOG
FUNCTION LIST
FUNCTION STATS
PUBSUB CHANNELS
PUBSUB NUMSUB a b
SLOWLOG GET
LATENCY LATEST
MEMORY USAGE nothing
MODULE LIST
CLIENT TRACKINGINFO
CLIENT GETNAME
CLIENT GETREDIR
NOSUCH a
GET
ZADD z notanumber a
INCR s
DEBUG SLEEP
ROLE
WAIT 0 0
";

#[test]
fn replies_are_those_of_version_three() {
    let Some(pair) = Pair::start(&[], "") else { return };
    let mut clients = pair.clients();
    let mut wrong = Vec::new();
    for line in SAME.lines().filter(|line| !line.is_empty()) {
        let [theirs, ours] = clients.each_mut().map(|client| client.call(line));
        // What the server keeps in a table has another order in every process.
        let is_table = ["COMMAND", "ACL CAT", "CONFIG GET"].iter().any(|start| line.starts_with(start));
        let is_same = if is_table { sorted(&ours) == sorted(&theirs) } else { ours == theirs };
        if !is_same {
            let first = sorted(&ours).into_iter().zip(sorted(&theirs)).find(|(one, other)| one != other);
            wrong.push(format!("{line}: {first:?}\nthrough mecha: {ours:?}\ndirect:        {theirs:?}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn replies_whose_values_differ_have_the_types_of_version_three() {
    let Some(pair) = Pair::start(&[], "") else { return };
    let mut clients = pair.clients();
    for line in [
        "XADD st 1-1 a 1",
        "XGROUP CREATE st gr 0",
        "XREADGROUP GROUP gr me COUNT 1 STREAMS st >",
        "XINFO STREAM st",
        "XINFO STREAM st FULL",
        "XINFO CONSUMERS st gr",
        "INFO",
        "INFO server",
        "MEMORY STATS",
        "MEMORY DOCTOR",
        "MEMORY MALLOC-STATS",
        "LATENCY DOCTOR",
        "LATENCY HISTOGRAM get",
        "LOLWUT",
        "CLIENT LIST",
        "CLIENT INFO",
        "ACL LOG",
        "TIME",
        "ACL SETUSER u on ~a* (~b* +get)",
        "ACL GETUSER u",
    ] {
        let [theirs, ours] = clients.each_mut().map(|client| types(&client.call(line)));
        assert_eq!(ours, theirs, "{line}\nthrough mecha (left) and direct (right)");
    }
    let library = "#!lua name=lib\nredis.register_function{function_name='f',callback=function() return 1 end,flags={'no-writes'}}";
    for words in [
        &["FUNCTION", "LOAD", library][..],
        &["FUNCTION", "LIST"],
        &["FUNCTION", "LIST", "WITHCODE"],
        &["FCALL", "f", "0"],
    ] {
        let [theirs, ours] = clients.each_mut().map(|client| {
            client.send(&frame(words));
            client.reply()
        });
        assert_eq!(ours, theirs, "{words:?}");
    }
}

#[test]
fn transactions_pipelines_and_large_values_are_those_of_version_three() {
    let Some(pair) = Pair::start(&[], "") else { return };
    let mut clients = pair.clients();
    let big = "x".repeat(300_000);
    let mut seen = clients.each_mut().map(|client| {
        let lines = [
            "HSET h f v",
            "ZADD z 1.5 a 2 b",
            "SADD set m",
            "MULTI",
            "HGETALL h",
            "ZRANGE z 0 -1 WITHSCORES",
            "GET nothing",
            "SMEMBERS set",
            "PING",
            "EXEC",
            "HGETALL h",
            "MULTI",
            "NOSUCH",
            "EXEC",
            "ZSCORE z a",
            "MULTI",
            "HGETALL h",
            "DISCARD",
            "SMEMBERS set",
            "WATCH h",
            "HSET h f 2",
            "MULTI",
            "HGETALL h",
            "EXEC",
            "ZPOPMIN z",
            "SELECT 3",
            "HSET h g 1",
            "HGETALL h",
            "SELECT 0",
            "HGETALL h",
        ];
        let requests = lines.iter().flat_map(|line| frame(&line.split(' ').collect::<Vec<_>>()));
        client.send(&requests.collect::<Vec<_>>());
        let mut replies: Vec<_> = lines.iter().map(|_| client.reply()).collect();
        client.send(&frame(&["HSET", "big", "f", &big]));
        client.send(&frame(&["HGETALL", "big"]));
        client.send(&frame(&["ZSCORE", "z", "b"]));
        replies.extend((0..3).map(|_| client.reply()));
        let words: Vec<_> = (0..6000)
            .flat_map(|number| [number.to_string(), format!("member of some length {number}")])
            .collect();
        let zadd: Vec<_> = ["ZADD", "wide"].into_iter().chain(words.iter().map(String::as_str)).collect();
        client.send(&frame(&zadd));
        replies.push(client.reply());
        replies.push(client.call("ZRANGE wide 0 -1 WITHSCORES"));
        replies.push(client.call("EXEC"));
        replies
    });
    let (ours, theirs) = (seen[1].split_off(0), seen[0].split_off(0));
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert!(ours == theirs, "reply {at}: {ours:.300} instead of {theirs:.300}");
    }
}

/// Both ways of subscribing.
fn messages(pair: &Pair) {
    let mut clients = pair.clients();
    let all = clients.each_mut().map(|client| {
        let mut seen = Vec::new();
        for (line, replies) in
            [("SUBSCRIBE a b", 2), ("PSUBSCRIBE p*", 1), ("PING", 1), ("UNSUBSCRIBE a", 1), ("PING hi", 1)]
        {
            client.send(&frame(&line.split(' ').collect::<Vec<_>>()));
            seen.extend((0..replies).map(|_| client.reply()));
        }
        seen
    });
    assert_eq!(all[1], all[0]);
    for port in [pair.direct, pair.mecha.port] {
        let mut other = Client::new(port);
        for line in ["PUBLISH b one", "PUBLISH pat two", "PUBLISH a three"] {
            other.call(line);
        }
    }
    let all = clients.each_mut().map(|client| {
        let mut seen: Vec<_> = (0..2).map(|_| client.reply()).collect();
        client.send(&[frame(&["UNSUBSCRIBE"]), frame(&["PUNSUBSCRIBE"])].concat());
        seen.extend((0..2).map(|_| client.reply()));
        seen.push(client.call("PING"));
        client.call("HSET h f v");
        seen.push(client.call("HGETALL h"));
        seen
    });
    assert_eq!(all[1], all[0]);
    assert!(all[1][0].starts_with(">3"), "{all:?}");
}

#[test]
fn messages_are_pushes_on_a_connection_of_the_clients_own() {
    let Some(pair) = Pair::start(&[], "") else { return };
    messages(&pair);
}

#[test]
fn messages_are_pushes_on_shared_connections() {
    let Some(pair) = Pair::start(&[], ", subscriptions: shared") else { return };
    messages(&pair);
}

#[test]
fn version_two_is_as_it_was_beside_version_three() {
    let Some(pair) = Pair::start(&[], "") else { return };
    let mut three = pair.clients();
    let [_, three] = &mut three;
    let (mut two, mut plain) = (pair.mecha.client(), Client::new(pair.direct));
    assert_eq!(plain.call("HSET h f v"), two.call("HSET h f v"));
    for line in ["HGETALL h", "GET nothing", "CONFIG GET maxmemory"] {
        assert_eq!(two.call(line), plain.call(line), "{line}");
    }
    assert_eq!(three.call("HGETALL h"), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    // A client may change its mind, with a connection of its own and without one.
    for line in [
        "HELLO 3",
        "SELECT 1",
        "HELLO 2",
        "HSET h g v",
        "HGETALL h",
        "GET nothing",
        "HELLO 3",
        "HGETALL h",
        "GET nothing",
        "HELLO 4",
        "HELLO x",
        "HELLO 3 NOSUCH",
    ] {
        let replies = [&mut plain, &mut *three].map(|client| masked(&client.call(line)));
        assert_eq!(replies[1], replies[0], "{line}");
    }
}

#[test]
fn logins_and_databases_of_mecha_hold_without_hello() {
    let Some((_server, port)) = redis_with(&["--rename-command", "HELLO", ""]) else { return };
    assert_eq!(Client::new(port).call("CONFIG SET requirepass secret"), "+OK\r\n");
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: 'redis://127.0.0.1:0', to: back }} ]\nclusters: {{ back: {{ to: 'redis://127.0.0.1:{port}', auth: {{ \
         password: secret }} }} }}\nworkers: 1\n"
    ));
    let mut client = mecha.client();
    assert!(client.call("HELLO 3").starts_with("%7\r\n"));
    assert_eq!(client.call("HSET h f v"), ":1\r\n");
    assert_eq!(client.call("HGETALL h"), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    // Clients that log in themselves, once the server is known for what it is.
    for hello in ["HELLO 3 AUTH default secret SETNAME me", "HELLO 3 AUTH default wrong"] {
        let mut other = mecha.client();
        let reply = other.call(hello);
        assert_eq!(reply.starts_with("%7\r\n"), !hello.contains("wrong"), "{reply}");
        if !hello.contains("wrong") {
            assert_eq!(other.call("HGETALL h"), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
        }
    }
    drop(client);
    eventually("nothing is left", || mecha.metric("mecha_client_connections{") == 0.0);
}
