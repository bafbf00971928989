//! Subscriptions that many clients share, over several servers: each message once, to everybody whom it concerns.

use std::time::Duration;

use super::state::Twins;
use crate::support::{Client, Mecha, Process, RedisCluster, eventually, frame, redis};

const QUIET: Duration = Duration::from_millis(200);

/// Three servers that know nothing of each other, behind one mecha of two workers.
fn sharded() -> Option<(Vec<(Process, u16)>, Mecha)> {
    let servers: Vec<_> = (0..3).map(|_| redis()).collect::<Option<_>>()?;
    let list: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let mecha = Mecha::start("redis", &format!("redis://{}", list.join(",")));
    Some((servers, mecha))
}

fn message(lead: char, channel: &str, text: &str) -> String {
    let (channel_len, len) = (channel.len(), text.len());
    format!("{lead}3\r\n$7\r\nmessage\r\n${channel_len}\r\n{channel}\r\n${len}\r\n{text}\r\n")
}

/// Connections with subscriptions that a server has.
fn links(port: u16) -> usize {
    let list = Client::new(port).call("CLIENT LIST TYPE pubsub");
    list.lines().filter(|line| line.contains("addr=")).count()
}

/// Waits until everything that was sent there is answered and drops it.
fn discard(client: &mut Client) {
    client.drain(QUIET);
}

#[test]
fn one_server_shows_what_many_show() {
    let Some(twins) = Twins::sharing() else { return };
    for script in super::state::SUBSCRIPTIONS {
        twins.same(script);
    }
    twins.same(
        "a: SUBSCRIBE x x y
         a?
         a?
         a: PSUBSCRIBE p*
         a: NOSUCHCOMMAND
         a: GET
         a: GET k
         a: SET k v
         a: HELLO 3
         a: MULTI
         a: SELECT 1
         a: CLIENT SETNAME x
         a: SSUBSCRIBE s
         a: UNSUBSCRIBE y
         a: UNSUBSCRIBE
         a: PUNSUBSCRIBE nosuch
         a: PUNSUBSCRIBE
         a: PING
         a: SUNSUBSCRIBE
         a: PING",
    );
    twins.same(
        "a: HELLO 3
         a# SUBSCRIBE x | GET k | PSUBSCRIBE x* | SET k v | PING
         b: PUBLISH x 1
         a?
         a?
         a# MULTI | GET k | EXEC
         a: BLPOP l 0.05
         a: HELLO 2
         a: GET k
         a: RESET
         a: GET k
         b: PUBLISH x 2
         a: PING",
    );
}

#[test]
fn a_thousand_subscribers_share_one_connection_for_each_worker() {
    let Some((servers, mecha)) = sharded() else { return };
    let mut clients: Vec<_> = (0..1000).map(|_| mecha.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let version = if number % 2 == 0 { "HELLO 2" } else { "HELLO 3" };
        client.send(&frame(&version.split(' ').collect::<Vec<_>>()));
        client.send(&frame(&["SUBSCRIBE", "news", &format!("own:{number}")]));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.reply();
        let lead = if number % 2 == 0 { '*' } else { '>' };
        assert_eq!(client.reply(), format!("{lead}3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"));
        assert!(client.reply().ends_with(":2\r\n"));
    }
    let found: usize = servers.iter().map(|(_, port)| links(*port)).sum();
    assert!((1..=2).contains(&found), "{found} connections for two workers");
    let mut publisher = mecha.client();
    publisher.call("PUBLISH news all");
    publisher.call("PUBLISH own:7 seven");
    publisher.call("PUBLISH news again");
    for (number, client) in clients.iter_mut().enumerate() {
        let lead = if number % 2 == 0 { '*' } else { '>' };
        assert_eq!(client.reply(), message(lead, "news", "all"));
        if number == 7 {
            assert_eq!(client.reply(), message(lead, "own:7", "seven"));
        }
        assert_eq!(client.reply(), message(lead, "news", "again"));
    }
    assert!(publisher.call("PUBSUB CHANNELS own:99*").contains("own:99"));
    assert!(publisher.call("PUBSUB NUMSUB news nosuch").starts_with("*4\r\n$4\r\nnews\r\n:"));
    drop((clients, publisher));
    mecha.settles();
    assert_eq!(servers.iter().map(|(_, port)| links(*port)).sum::<usize>(), 0, "nobody listens any more");
}

#[test]
fn notifications_come_from_every_shard_and_once() {
    let Some((_servers, mecha)) = sharded() else { return };
    notifications(&mecha);
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    notifications(&mecha);
}

fn notifications(mecha: &Mecha) {
    let mut client = mecha.client();
    assert_eq!(client.call("CONFIG SET notify-keyspace-events KEA"), "+OK\r\n");
    let (mut keys, mut events, mut all) = (mecha.client(), mecha.client(), mecha.client());
    assert!(keys.call("PSUBSCRIBE __keyspace@0__:user:*").starts_with('*'));
    assert!(events.call("SUBSCRIBE __keyevent@0__:set").starts_with('*'));
    assert!(all.call("PSUBSCRIBE *").starts_with('*'));
    let names: Vec<_> = (0..30).map(|number| format!("user:{number}")).collect();
    for name in &names {
        assert_eq!(client.call(&format!("SET {name} x")), "+OK\r\n");
    }
    client.call("PUBLISH plain word");
    let mut seen: Vec<_> = names.iter().map(|_| events.reply()).collect();
    seen.sort();
    let mut expected: Vec<_> = names.iter().map(|name| message('*', "__keyevent@0__:set", name)).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let mut seen: Vec<_> = names.iter().map(|_| keys.reply()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), names.len());
    let (bytes, _) = all.drain(Duration::from_millis(500));
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("pmessage").count(), 2 * names.len() + 1, "no copy, and none missing");
    assert_eq!(text.matches("plain").count(), 1);
}

#[test]
fn subscriptions_outlive_their_connections() {
    let Some((servers, mecha)) = sharded() else { return };
    let (mut client, mut publisher) = (mecha.client(), mecha.client());
    assert!(client.call("SUBSCRIBE news").starts_with('*'));
    for _ in 0..3 {
        assert_eq!(Client::new(servers[0].1).call("CLIENT KILL TYPE pubsub"), ":1\r\n");
        eventually("nobody listens", || publisher.call("PUBLISH news back") == ":1\r\n");
        assert_eq!(client.reply(), message('*', "news", "back"));
    }
    assert_eq!(client.call("PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
}

#[test]
fn shard_channels_follow_their_slot_and_no_address_is_told() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let (mut two, mut three, mut publisher) = (mecha.client(), mecha.client(), mecha.client());
    three.call("HELLO 3");
    assert_eq!(two.call("SSUBSCRIBE {a}1"), "*3\r\n$10\r\nssubscribe\r\n$4\r\n{a}1\r\n:1\r\n");
    assert_eq!(three.call("SSUBSCRIBE {a}1"), ">3\r\n$10\r\nssubscribe\r\n$4\r\n{a}1\r\n:1\r\n");
    // A slot for each shard: channels of several in one connection, which no server would allow.
    for channel in ["b", "c", "d"] {
        assert!(three.call(&format!("SSUBSCRIBE {channel}")).starts_with(">3"));
    }
    let slot = mecha_resp::key_slot(b"{a}");
    let from = (0..3).find(|at| cluster.slots_of(*at).contains(&slot)).unwrap();
    for (round, to) in [(from + 1) % 3, from].into_iter().enumerate() {
        let holder = (0..3).find(|at| cluster.slots_of(*at).contains(&slot)).unwrap();
        cluster.move_slot(slot, holder, to);
        let text = format!("round{round}");
        // The two may be on different workers, which subscribe again one after the other.
        for (client, lead) in [(&mut two, '*'), (&mut three, '>')] {
            let expected = message(lead, "{a}1", &text).replace("$7\r\nmessage", "$8\r\nsmessage");
            let mut seen = String::new();
            eventually("the channel is not where its slot is", || {
                assert!(publisher.call(&format!("SPUBLISH {{a}}1 {text}")).starts_with(':'));
                seen.push_str(&String::from_utf8(client.drain(Duration::from_millis(50)).0).unwrap());
                seen.contains(&expected)
            });
            assert!(!seen.contains("127.0.0.1") && !seen.contains("sunsubscribe"), "{seen}");
        }
        discard(&mut two);
        discard(&mut three);
    }
    assert_eq!(two.call("SUNSUBSCRIBE"), "*3\r\n$12\r\nsunsubscribe\r\n$4\r\n{a}1\r\n:0\r\n");
    assert_eq!(two.call("GET k"), "$-1\r\n");
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_keeps_nobody_waiting() {
    let Some((_servers, mecha)) = sharded() else { return };
    let (mut slow, mut quick, mut publisher) = (mecha.client(), mecha.client(), mecha.client());
    assert!(slow.call("SUBSCRIBE flood").starts_with('*'));
    assert!(quick.call("SUBSCRIBE flood").starts_with('*'));
    let text = "x".repeat(1 << 20);
    for _ in 0..60 {
        assert!(publisher.call(&format!("PUBLISH flood {text}")).starts_with(':'));
        assert_eq!(quick.reply().len(), message('*', "flood", &text).len());
    }
    eventually("the slow one stays", || mecha.metric("mecha_client_connections{") == 2.0);
    assert!(mecha.resident_mib() < 200.0, "{}", mecha.resident_mib());
    assert!(slow.is_closed());
}

#[test]
fn messages_never_stand_inside_a_reply() {
    let Some((_servers, mecha)) = sharded() else { return };
    let (mut client, mut publisher) = (mecha.client(), mecha.client());
    client.call("HELLO 3");
    assert_eq!(client.call(&format!("SET big {}", "y".repeat(3 << 20))), "+OK\r\n");
    assert!(client.call("SUBSCRIBE c").starts_with(">3"));
    let port = mecha.port;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let stop = std::sync::Arc::clone(&stop);
        std::thread::spawn(move || {
            let (mut client, mut count) = (Client::new(port), 0);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.call("PUBLISH c hello");
                count += 1;
            }
            count
        })
    };
    let (mut asked, mut replies, mut messages) = (0, 0, 0);
    while replies < 40 {
        if replies == asked {
            // Less than `max_output`: on a busy machine this reader may be slow, and that is another test's matter.
            client.send(&frame(&["GET", "big"]).repeat(2));
            asked += 2;
        }
        let seen = client.reply();
        if seen.starts_with('$') {
            assert_eq!(seen.len(), (3 << 20) + 12);
            replies += 1;
        } else {
            assert_eq!(seen, message('>', "c", "hello"));
            messages += 1;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let published = busy.join().unwrap();
    publisher.call("PUBLISH c end");
    while client.reply() != message('>', "c", "end") {
        messages += 1;
    }
    assert_eq!(messages, published, "each message once");
}

#[test]
fn what_no_server_confirms_is_an_error_in_time() {
    let Some((mut servers, mecha)) = sharded() else { return };
    let mut client = mecha.client();
    drop(servers.remove(0));
    let reply = client.call("SUBSCRIBE news");
    assert!(reply.starts_with("-ERR mecha: "), "{reply}");
    assert!(client.call("GET k").starts_with(['$', '-']), "the client is not limited to subscriptions");
    drop(client);
    mecha.settles();
}

#[test]
fn questions_about_subscribers_are_answered_about_clients() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\nclusters: {{ back: \"{}\" }}\nworkers: 2\n",
        cluster.to()
    ));
    let mut asking = mecha.client();
    let mut crowd: Vec<_> = (0..7).map(|_| mecha.client()).collect();
    for (number, client) in crowd.iter_mut().enumerate() {
        assert!(client.call("SUBSCRIBE news").contains("subscribe"));
        if number < 3 {
            assert!(client.call(&format!("PSUBSCRIBE p{number}*")).contains("psubscribe"));
            assert!(client.call("SSUBSCRIBE shard").contains("ssubscribe"));
        }
    }
    // Somebody who is not here.
    let mut other = Client::new(cluster.port(1));
    assert!(other.call("SUBSCRIBE news elsewhere").contains("subscribe"));
    let _ = other.reply();
    let numbers = "*6\r\n$4\r\nnews\r\n:8\r\n$9\r\nelsewhere\r\n:1\r\n$6\r\nnobody\r\n:0\r\n";
    for hello in ["HELLO 2", "HELLO 3"] {
        let _ = asking.call(hello);
        assert_eq!(asking.call("PUBSUB NUMSUB news elsewhere nobody"), numbers);
        assert_eq!(asking.call("PUBSUB SHARDNUMSUB shard"), "*2\r\n$5\r\nshard\r\n:3\r\n");
        assert_eq!(asking.call("PUBSUB NUMPAT"), ":3\r\n");
        assert_eq!(asking.call("PUBSUB CHANNELS"), "*2\r\n$9\r\nelsewhere\r\n$4\r\nnews\r\n");
        assert_eq!(asking.call("PUBSUB CHANNELS n*"), "*1\r\n$4\r\nnews\r\n");
        assert_eq!(asking.call("PUBSUB SHARDCHANNELS"), "*1\r\n$5\r\nshard\r\n");
    }
    crowd.truncate(2);
    eventually("those who have left are not counted", || {
        asking.call("PUBSUB NUMSUB news").ends_with(":3\r\n") && asking.call("PUBSUB NUMPAT") == ":2\r\n"
    });
    drop((crowd, other));
    eventually("nobody is left", || asking.call("PUBSUB CHANNELS") == "*0\r\n");
    drop(asking);
    mecha.settles();
}
