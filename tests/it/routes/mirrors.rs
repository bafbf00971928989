//! Mirrors of routes: copies of calls whose answers nobody reads.

use super::keys;
use crate::support::{Client, Mecha, eventually, frame, memcached, redis, signal};

#[test]
fn a_mirror_gets_copies_and_its_answers_are_nobodys() {
    let (Some((_first, one)), Some((_second, two)), Some((_third, three))) = (redis(), redis(), memcached())
    else {
        return;
    };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{one}
    mirror: {{ to: 'redis://127.0.0.1:{two}', class: writes }}
    routes:
      - {{ prefix: 'm:', to: store, mirror: {{ to: 'memcached://127.0.0.1:{three}', percent: 50 }} }}
clusters: {{ store: 'embedded://' }}
workers: 1
"
    ));
    // What the mirror answers differs from what the client is to read.
    Client::new(two).call("SET n 100");
    let mut client = mecha.client();
    for number in 1..=50 {
        client.send(
            &[frame(&["INCR", "n"]), frame(&["GET", "n"]), frame(&["MSET", "a", "1", "b", "2"])].concat(),
        );
        assert_eq!(client.reply(), format!(":{number}\r\n"));
        assert!(client.reply().ends_with(&format!("\r\n{number}\r\n")));
        assert_eq!(client.reply(), "+OK\r\n");
    }
    eventually("the copies do not arrive", || Client::new(two).call("GET n") == "$3\r\n150\r\n");
    assert_eq!(keys(two), ["a", "b", "n"]);
    assert_eq!(mecha.metric("mecha_route_calls_total{listener=\"resp\",route=\"default.mirror\""), 100.0);
    // Half of the keys, each with all of its calls, translated on the way.
    for number in 0..200 {
        assert_eq!(client.call(&format!("SET m:{number} {number}")), "+OK\r\n");
        assert_eq!(
            client.call(&format!("APPEND m:{number} x")),
            format!(":{}\r\n", number.to_string().len() + 1)
        );
    }
    let whole = || {
        let mut direct = Client::new(three);
        let values = (0..200).filter(|number| {
            direct.send(format!("get m:{number}\r\n").as_bytes());
            let head = direct.line();
            if head == "END\r\n" {
                return false;
            }
            let value = direct.line();
            direct.line();
            value == format!("{number}x\r\n")
        });
        values.count()
    };
    eventually("the copies do not arrive", || whole() > 60);
    assert!(whole() < 140, "{}", whole());
    assert_eq!(mecha.metric("mecha_mirror_lost_total"), 0.0);
    drop(client);
    mecha.settles();
}

#[test]
fn a_mirror_that_stands_still_costs_copies_and_nothing_else() {
    let (Some((_first, one)), Some((second, two))) = (redis(), redis()) else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{one}
    mirror: {{ to: 'redis://127.0.0.1:{two}', window: 20 }}
workers: 1
"
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("SET a 0"), "+OK\r\n");
    eventually("the copy does not arrive", || Client::new(two).call("GET a") == "$1\r\n0\r\n");
    signal(second.id(), "STOP");
    for number in 0..200 {
        assert_eq!(client.call(&format!("SET a {number}")), "+OK\r\n");
    }
    let lost = mecha.metric("mecha_mirror_lost_total");
    assert_eq!(lost, 180.0, "the window is all that waits");
    assert_eq!(mecha.metric("mecha_upstream_stalls_total{cluster=\"resp-upstream\""), 0.0);
    signal(second.id(), "CONT");
    eventually("the copies that waited do not arrive", || Client::new(two).call("GET a") == "$2\r\n19\r\n");
    assert_eq!(client.call("SET a last"), "+OK\r\n");
    eventually("there are no copies any more", || Client::new(two).call("GET a") == "$4\r\nlast\r\n");
    // A mirror that is gone is no different.
    drop(second);
    for number in 0..50 {
        assert_eq!(client.call(&format!("SET a {number}")), "+OK\r\n");
    }
    assert!(mecha.metric("mecha_mirror_lost_total") >= 200.0);
}
