//! Commands that wait, where mecha itself makes them wait: on the embedded store, and on Memcached. Clients of both workers
//! wait for each other; `CLIENT UNBLOCK`, time and a closed connection end it.

use std::time::{Duration, Instant};

use super::support::{Client, Mecha, eventually, frame, translated_doors};

/// `b` among the flags: the client waits.
fn waits(other: &mut Client, id: &str) -> bool {
    other.call(&format!("CLIENT LIST ID {id}")).contains(" flags=b ")
}

/// The number of a client.
fn id(client: &mut Client) -> String {
    client.call("CLIENT ID").trim_start_matches(':').trim_end().to_owned()
}

/// Sends `line` and returns once the client waits.
fn wait(client: &mut Client, other: &mut Client, line: &str) -> String {
    let id = id(client);
    client.send(format!("{line}\r\n").as_bytes());
    eventually("a client that waits", || waits(other, &id));
    id
}

#[test]
fn a_client_that_waits_gets_what_another_pushes_on_any_worker() {
    for (_process, mecha) in translated_doors() {
        // So many that both workers have some.
        let mut others: Vec<Client> = (0..8).map(|_| mecha.client()).collect();
        let mut client = mecha.client();
        for (at, other) in others.iter_mut().enumerate() {
            wait(&mut client, other, "BLPOP nothing queue 0");
            assert_eq!(other.call(&format!("RPUSH queue v{at}")), ":1\r\n");
            assert_eq!(client.reply(), format!("*2\r\n$5\r\nqueue\r\n$2\r\nv{at}\r\n"));
            assert_eq!(other.call("EXISTS queue"), ":0\r\n");
            wait(&mut client, other, "BZPOPMIN scores 0");
            assert_eq!(other.call("ZADD scores 2 b 1 a"), ":2\r\n");
            assert_eq!(client.reply(), "*3\r\n$6\r\nscores\r\n$1\r\na\r\n$1\r\n1\r\n");
            assert_eq!(other.call("DEL scores"), ":1\r\n");
        }
        assert!(mecha.metric("mecha_calls_total") >= 48.0, "traffic did not cross mecha");
        assert!(mecha.stop());
    }
}

#[test]
fn what_is_sent_behind_a_call_that_waits_is_done_behind_it() {
    for (_process, mecha) in translated_doors() {
        let (mut client, mut other) = (mecha.client(), mecha.client());
        wait(
            &mut client,
            &mut other,
            "SET k before\r\nBLMOVE from to LEFT RIGHT 0\r\nSET k behind\r\nLLEN to",
        );
        eventually("what is before it", || other.call("GET k") == "$6\r\nbefore\r\n");
        assert_eq!(other.call("RPUSH from x"), ":1\r\n");
        let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
        assert_eq!(replies, ["+OK\r\n", "$1\r\nx\r\n", "+OK\r\n", ":1\r\n"]);
        assert_eq!(other.call("GET k"), "$6\r\nbehind\r\n");
        // In a transaction nobody waits.
        assert_eq!(client.call("MULTI"), "+OK\r\n");
        assert_eq!(client.call("BLPOP nothing 0"), "+QUEUED\r\n");
        assert_eq!(client.call("EXEC"), "*1\r\n*-1\r\n");
        assert!(mecha.stop());
    }
}

#[test]
fn waiting_ends_in_time_and_when_another_client_says_so() {
    for (_process, mecha) in translated_doors() {
        let (mut client, mut other) = (mecha.client(), mecha.client());
        let start = Instant::now();
        assert_eq!(client.call("BRPOP nothing 0.3"), "*-1\r\n");
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
        let id = wait(&mut client, &mut other, "BLPOP nothing 0");
        assert_eq!(other.call(&format!("CLIENT UNBLOCK {id}")), ":1\r\n");
        assert_eq!(client.reply(), "*-1\r\n");
        assert_eq!(other.call(&format!("CLIENT UNBLOCK {id}")), ":0\r\n");
        wait(&mut client, &mut other, "BZMPOP 100 1 nothing MAX");
        assert_eq!(other.call(&format!("CLIENT UNBLOCK {id} ERROR")), ":1\r\n");
        assert_eq!(client.reply(), "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
        assert_eq!(client.call("PING"), "+PONG\r\n");
        assert!(mecha.stop());
    }
}

#[test]
fn a_client_that_has_gone_takes_nothing() {
    for (_process, mecha) in translated_doors() {
        let (mut gone, mut client, mut other) = (mecha.client(), mecha.client(), mecha.client());
        let first = wait(&mut gone, &mut other, "BLPOP queue 0");
        wait(&mut client, &mut other, "BLPOP queue 0");
        drop(gone);
        eventually("the end of the first", || other.call(&format!("CLIENT LIST ID {first}")) == "$0\r\n\r\n");
        assert_eq!(other.call("RPUSH queue v"), ":1\r\n");
        assert_eq!(client.reply(), "*2\r\n$5\r\nqueue\r\n$1\r\nv\r\n");
        let id = wait(&mut client, &mut other, "BLPOP queue 0");
        assert_eq!(other.call(&format!("CLIENT KILL ID {id}")), ":1\r\n");
        assert!(client.is_closed());
        eventually("its end", || other.call(&format!("CLIENT LIST ID {id}")) == "$0\r\n\r\n");
        assert_eq!(other.call("RPUSH queue w"), ":1\r\n");
        assert_eq!(other.call("LPOP queue"), "$1\r\nw\r\n");
        assert!(mecha.stop());
    }
}

#[test]
fn those_who_wait_for_one_key_of_the_store_are_served_in_the_order_in_which_they_came() {
    let mecha = Mecha::start("redis", "embedded://");
    let mut other = mecha.client();
    let mut clients: Vec<Client> = (0..12).map(|_| mecha.client()).collect();
    for client in &mut clients {
        wait(client, &mut other, "BLPOP queue 0");
    }
    for round in 0..clients.len() {
        assert_eq!(other.call(&format!("RPUSH queue {round:02}")), ":1\r\n");
    }
    for (round, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply(), format!("*2\r\n$5\r\nqueue\r\n$2\r\n{round:02}\r\n"));
    }
    assert!(mecha.stop());
}

/// A queue of jobs between many: none is lost, none is done twice.
#[test]
fn workers_on_a_queue_take_each_job_once() {
    for (_process, mecha) in translated_doors() {
        const JOBS: usize = 240;
        let (stop, taken) = (std::sync::atomic::AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut worker = mecha.client();
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let reply = worker.call("BRPOP jobs 0.2");
                        if reply != "*-1\r\n" {
                            taken.lock().unwrap().push(reply);
                        }
                    }
                });
            }
            let givers: Vec<_> = (0..3)
                .map(|giver| {
                    let mecha = &mecha;
                    scope.spawn(move || {
                        let mut client = mecha.client();
                        for job in 0..JOBS / 3 {
                            let reply = client.call(&format!("LPUSH jobs {giver}-{job}"));
                            assert!(reply.starts_with(':'), "{reply}");
                        }
                    })
                })
                .collect();
            givers.into_iter().for_each(|giver| giver.join().unwrap());
            eventually("all jobs", || taken.lock().unwrap().len() >= JOBS);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut taken = taken.into_inner().unwrap();
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), JOBS);
        assert!(mecha.stop());
    }
}

#[test]
fn the_store_knows_how_long_a_key_has_not_been_used() {
    let mecha = Mecha::start("redis", "embedded://");
    let mut client = mecha.client();
    let idle = |client: &mut Client, key: &str| {
        let reply = client.call(&format!("OBJECT IDLETIME {key}"));
        reply.trim_start_matches(':').trim_end().parse::<u64>().unwrap_or_else(|_| panic!("{reply}"))
    };
    assert_eq!(client.call("OBJECT IDLETIME nosuch"), "$-1\r\n");
    assert_eq!(client.call("SET s v"), "+OK\r\n");
    assert_eq!(client.call("RPUSH l v"), ":1\r\n");
    assert!(idle(&mut client, "s") < 2 && idle(&mut client, "l") < 2);
    eventually("both are idle", || idle(&mut client, "s") >= 2 && idle(&mut client, "l") >= 2);
    // What is no use of a key leaves it idle.
    for call in ["TTL s", "EXISTS l", "TYPE l", "OBJECT ENCODING s", "SCAN 0"] {
        client.call(call);
    }
    assert!(idle(&mut client, "s") >= 2 && idle(&mut client, "l") >= 2);
    assert_eq!(client.call("GET s"), "$1\r\nv\r\n");
    assert_eq!(client.call("LLEN l"), ":1\r\n");
    assert!(idle(&mut client, "s") < 2 && idle(&mut client, "l") < 2);
    // The value 1 of a string, with an idle time of its own.
    let payload = b"\x00\xc0\x01\n\x00&x\xe7\xb6\xd1\x01\x11\xfc";
    let words: [&[u8]; 6] = [b"RESTORE", b"r", b"0", payload, b"IDLETIME", b"1000"];
    client.send(&frame(&words));
    assert_eq!(client.reply(), "+OK\r\n");
    assert!(idle(&mut client, "r") >= 1000);
    assert!(mecha.stop());
}
