//! Publish and subscribe where mecha itself sees to it: on the embedded store and on Memcached, among clients of all workers.

use std::time::Duration;

use super::support::{Client, Mecha, eventually, frame, translated_doors};

#[test]
fn a_message_reaches_everybody_who_listens_on_any_worker_once() {
    for (_process, mecha) in translated_doors() {
        let mut speaker = mecha.client();
        let mut listeners: Vec<Client> = (0..12).map(|_| mecha.client()).collect();
        for (at, listener) in listeners.iter_mut().enumerate() {
            let lead = if at % 3 == 0 { '>' } else { '*' };
            if lead == '>' {
                assert!(listener.call("HELLO 3").starts_with("%7\r\n"));
            }
            assert_eq!(
                listener.call("SUBSCRIBE news"),
                format!("{lead}3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
            );
        }
        assert_eq!(speaker.call("PUBSUB NUMSUB news"), "*2\r\n$4\r\nnews\r\n:12\r\n");
        for text in ["one", "two"] {
            assert_eq!(speaker.call(&format!("PUBLISH news {text}")), ":12\r\n");
        }
        for (at, listener) in listeners.iter_mut().enumerate() {
            let lead = if at % 3 == 0 { '>' } else { '*' };
            for text in ["one", "two"] {
                let expected = format!("{lead}3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\n{text}\r\n");
                assert_eq!(listener.reply(), expected);
            }
        }
        // A client of version 3 goes on as before; one of version 2 may not.
        assert_eq!(listeners[0].call("SET k v"), "+OK\r\n");
        assert!(listeners[1].call("SET k v").starts_with("-ERR Can't execute 'set'"));
        assert_eq!(listeners[1].call("PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
        let id = speaker.call("CLIENT LIST TYPE pubsub");
        assert_eq!(id.matches("id=").count(), 12, "{id}");
        drop(listeners);
        eventually("nobody listens", || speaker.call("PUBSUB NUMSUB news") == "*2\r\n$4\r\nnews\r\n:0\r\n");
        assert_eq!(speaker.call("PUBSUB CHANNELS"), "*0\r\n");
        assert!(mecha.stop());
    }
}

#[test]
fn what_a_transaction_publishes_is_heard_when_it_takes_effect_and_not_before() {
    for (process, mecha) in translated_doors() {
        let (mut speaker, mut other, mut listener) = (mecha.client(), mecha.client(), mecha.client());
        assert!(listener.call("PSUBSCRIBE n*").starts_with("*3\r\n"));
        for (call, reply) in [
            ("MULTI", "+OK\r\n"),
            ("SET k v", "+QUEUED\r\n"),
            ("PUBLISH news first", "+QUEUED\r\n"),
            ("SUBSCRIBE x", "-ERR SUBSCRIBE is not supported inside a transaction"),
            ("EXEC", "-EXECABORT"),
            ("MULTI", "+OK\r\n"),
            ("SET k v", "+QUEUED\r\n"),
            ("PUBLISH news second", "+QUEUED\r\n"),
        ] {
            assert!(speaker.call(call).starts_with(reply), "{call}");
        }
        assert_eq!(other.call("PUBLISH news third"), ":1\r\n");
        assert_eq!(speaker.call("EXEC"), "*2\r\n+OK\r\n:1\r\n");
        for text in ["third", "second"] {
            assert!(listener.reply().ends_with(&format!("{text}\r\n")), "{text}");
        }
        if process.is_none() {
            // One that comes to nothing says nothing.
            assert_eq!(speaker.call("WATCH k"), "+OK\r\n");
            assert_eq!(other.call("SET k w"), "+OK\r\n");
            assert_eq!(speaker.call("MULTI"), "+OK\r\n");
            assert_eq!(speaker.call("PUBLISH news never"), "+QUEUED\r\n");
            assert_eq!(speaker.call("EXEC"), "*-1\r\n");
            assert_eq!(other.call("PUBLISH news fourth"), ":1\r\n");
            assert!(listener.reply().ends_with("fourth\r\n"));
        }
        drop(listener);
        assert!(mecha.stop());
    }
}

#[test]
fn a_listener_that_does_not_read_is_closed_and_keeps_nobody_waiting() {
    let mecha = Mecha::configured(
        "workers: 2\nclusters:\n  back: { to: \"embedded://\" }\nlisteners:\n  - { listen: \"redis://127.0.0.1:0\", to: back }\n",
    );
    let (mut speaker, mut slow, mut quick) = (mecha.client(), mecha.client(), mecha.client());
    for listener in [&mut slow, &mut quick] {
        assert!(listener.call("SUBSCRIBE news").starts_with("*3\r\n"));
    }
    let text = "x".repeat(1 << 20);
    let publish = frame(&["PUBLISH", "news", &text]);
    let mut rounds = 0;
    loop {
        speaker.send(&publish);
        let heard = speaker.reply();
        assert!(quick.reply().ends_with(&format!("{text}\r\n")));
        rounds += 1;
        if heard == ":1\r\n" {
            break;
        }
        assert!(rounds < 400, "the slow listener is still there");
    }
    let (_, is_closed) = slow.drain(Duration::from_secs(5));
    assert!(is_closed);
    assert_eq!(speaker.call("PING"), "+PONG\r\n");
    drop((speaker, slow, quick));
    mecha.settles();
    assert!(mecha.stop());
}

#[test]
fn routes_that_mecha_itself_answers_have_messages_and_clients_that_wait() {
    let mecha = Mecha::configured(
        "workers: 2
clusters:
  main: { to: \"embedded://\" }
  other: { to: \"embedded://\" }
listeners:
  - listen: \"redis://127.0.0.1:0\"
    to: main
    routes:
      - { prefix: \"other:\", to: other }
",
    );
    let (mut speaker, mut listener) = (mecha.client(), mecha.client());
    assert!(listener.call("SUBSCRIBE news").starts_with("*3\r\n"));
    assert_eq!(speaker.call("PUBLISH news hello"), ":1\r\n");
    assert!(listener.reply().ends_with("hello\r\n"));
    drop(listener);
    // Whatever form a request has, its key decides.
    speaker.send(b"SET other:inline 1\r\n");
    assert_eq!(speaker.reply(), "+OK\r\n");
    assert_eq!(speaker.call("GET other:inline"), "$1\r\n1\r\n");
    speaker.send(b"CLIENT LIST\r\n");
    assert!(speaker.reply().contains(" cmd=client|list "));
    for key in ["queue", "other:queue"] {
        let mut waiting = mecha.client();
        let id = waiting.call("CLIENT ID").trim_start_matches(':').trim_end().to_owned();
        waiting.send(&[frame(&["BLPOP", key, "0"]), frame(&["PING"])].concat());
        eventually("it waits", || speaker.call(&format!("CLIENT LIST ID {id}")).contains(" flags=b "));
        assert_eq!(speaker.call(&format!("RPUSH {key} v")), ":1\r\n");
        assert!(waiting.reply().ends_with("$1\r\nv\r\n"));
        assert_eq!(waiting.reply(), "+PONG\r\n");
        waiting.send(&frame(&["BLPOP", key, "0"]));
        eventually("it waits", || speaker.call(&format!("CLIENT LIST ID {id}")).contains(" flags=b "));
        assert_eq!(speaker.call(&format!("CLIENT UNBLOCK {id}")), ":1\r\n");
        assert_eq!(waiting.reply(), "*-1\r\n");
    }
    assert!(mecha.stop());
}

#[test]
fn filters_that_rewrite_replies_see_what_the_store_answers() {
    let mecha = Mecha::configured(
        "workers: 1
clusters:
  back: { to: \"embedded://\" }
listeners:
  - { listen: \"redis://127.0.0.1:0\", to: back, filters: [ { key_prefix: { prefix: \"t:\" } } ] }
",
    );
    let mut client = mecha.client();
    assert_eq!(client.call("RPUSH q v w"), ":2\r\n");
    assert_eq!(client.call("KEYS *"), "*1\r\n$1\r\nq\r\n");
    assert_eq!(client.call("BLPOP q 0"), "*2\r\n$1\r\nq\r\n$1\r\nv\r\n");
    assert_eq!(client.call("SUBSCRIBE news"), "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut speaker = mecha.client();
    assert_eq!(speaker.call("PUBLISH news hello"), ":1\r\n");
    assert_eq!(client.reply(), "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    assert_eq!(client.call("UNSUBSCRIBE news"), "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n");
    assert_eq!(client.call("QUIT"), "+OK\r\n");
    assert!(mecha.stop());
}
