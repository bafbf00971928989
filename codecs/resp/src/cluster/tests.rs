use proptest::prelude::*;

use super::*;

const ASKED: Context<'_> = Context { host: "asked", is_tls: false };

fn resp(text: &str) -> Vec<u8> {
    text.split_whitespace().flat_map(|part| [part.as_bytes(), b"\r\n"].concat()).collect()
}

fn summary(shards: &[ClusterShard]) -> Vec<String> {
    let row = |shard: &ClusterShard| {
        let replicas: Vec<_> =
            shard.replicas.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
        format!("{}:{} {:?} {:?}", shard.primary.host, shard.primary.port, replicas, shard.slots)
    };
    shards.iter().map(row).collect()
}

#[test]
fn shards_are_read_with_empty_hosts_and_without_the_dead_primary() {
    let node = |host: &str, port: u16, role: &str, health: &str| {
        format!(
            "*8 $4 port :{port} $8 endpoint {host} $4 role ${} {role} $6 health ${} {health} ",
            role.len(),
            health.len()
        )
    };
    let reply = resp(&format!(
        "*2 *4 $5 slots *4 :0 :10 :12 :16383 $5 nodes *3 {}{}{} *4 $5 slots *0 $5 nodes *1 {}",
        node("$7 dead.ex", 1, "master", "fail"),
        node("$-1", 2, "master", "online"),
        node("$0 ", 3, "replica", "online"),
        node("$1 x", 4, "master", "online"),
    ));
    // An empty bulk string is an empty line, which `split_whitespace` drops.
    let reply = String::from_utf8(reply).unwrap().replace("$0\r\n", "$0\r\n\r\n").into_bytes();
    let shards = cluster_shards(&reply, &ASKED).unwrap();
    assert_eq!(summary(&shards), [r#"asked:2 ["asked:3"] [(0, 10), (12, 16383)]"#]);
}

#[test]
fn slots_of_one_primary_are_put_together() {
    let reply = resp("*3 *4 :0 :1 *2 $1 a :1 *2 $1 b :2 *3 :2 :3 *2 $1 c :3 *4 :4 :5 *2 $1 a :1 *2 $1 b :2");
    let shards = cluster_slots(&reply, &ASKED).unwrap();
    assert_eq!(summary(&shards), [r#"a:1 ["b:2"] [(0, 1), (4, 5)]"#, r#"c:3 [] [(2, 3)]"#]);
}

#[test]
fn a_server_is_known_by_its_name_else_its_address_else_by_whoever_was_asked() {
    let node = |host: &str, more: &str| format!("*3 :0 :16383 *4 {host} :1 $2 id {more} ");
    for (host, more, is) in [
        ("$3 a.b", "*2 $2 ip $3 1.2", "a.b"),
        ("$1 ?", "*2 $2 ip $3 1.2", "1.2"),
        ("$1 ?", "*0", "asked"),
        ("$-1", "*2 $2 ip $3 1.2", "asked"),
    ] {
        let shards = cluster_slots(&resp(&format!("*1 {}", node(host, more))), &ASKED).unwrap();
        assert_eq!(shards[0].primary.host, is, "{host} {more}");
    }
    let reply = resp(
        "*1 *4 $5 slots *2 :0 :16383 $5 nodes *1 *12 $4 port :1 $8 tls-port :2 $2 ip $3 1.2 $8 endpoint $1 ? \
         $4 role $6 master $6 health $6 online",
    );
    for is_tls in [false, true] {
        let shards = cluster_shards(&reply, &Context { is_tls, ..ASKED }).unwrap();
        let primary = &shards[0].primary;
        assert_eq!((primary.host.as_str(), primary.port), ("1.2", 1 + u16::from(is_tls)));
    }
}

#[test]
fn nodes_are_read_with_host_names_ipv6_and_slots_on_their_way() {
    let text = "\
a 10.0.0.1:7000@17000,one.example myself,master - 0 0 1 connected 0-5460 [93->-b]\n\
b ::1:7001@17001 master - 0 0 2 connected 5461-16383\n\
c :7002@17002 slave a 0 0 1 connected\n\
d 10.0.0.9:7003@17003 master,fail - 0 0 0 disconnected\n\
e :0@0 slave,noaddr a 0 0 1 disconnected\n";
    let reply = format!("${}\r\n{text}\r\n", text.len());
    let shards = cluster_nodes(reply.as_bytes(), &ASKED).unwrap();
    assert_eq!(
        summary(&shards),
        [r#"one.example:7000 ["asked:7002"] [(0, 5460)]"#, r#"::1:7001 [] [(5461, 16383)]"#]
    );
}

#[test]
fn errors_that_name_another_place_are_understood() {
    assert_eq!(
        redirect(b"-MOVED 3999 127.0.0.1:6381\r\n"),
        Some(Redirect::Moved { slot: 3999, host: "127.0.0.1", port: 6381 })
    );
    assert_eq!(redirect(b"-ASK 1 ::1:6381\r\n"), Some(Redirect::Ask { slot: 1, host: "::1", port: 6381 }));
    assert_eq!(redirect(b"-MOVED 1 :6381\r\n"), Some(Redirect::Moved { slot: 1, host: "", port: 6381 }));
    assert_eq!(
        redirect(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"),
        Some(Redirect::Later)
    );
    assert_eq!(redirect(b"-MOVED 1 ?:6381\r\n"), Some(Redirect::Later), "nobody is called so");
    for other in [
        "-MOVED 16384 a:1\r\n",
        "-MOVED 1 a\r\n",
        "-MOVED 1 a:0\r\n",
        "-MOVED\r\n",
        "-ERR MOVED 1 a:1\r\n",
        "+MOVED 1 a:1\r\n",
        "",
    ] {
        assert_eq!(redirect(other.as_bytes()), None, "{other}");
    }
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(
        reply in prop::collection::vec(prop_oneof![
            Just("*2\r\n"), Just("*4\r\n"), Just(":1\r\n"), Just(":99999\r\n"), Just("$5\r\nslots\r\n"), Just("$5\r\nnodes\r\n"),
            Just("$-1\r\n"), Just("$4\r\nrole\r\n"), Just("+a b:1@2 master - 0 0 0 c 1-0 2-99999\r\n"), Just("-MOVED 1 \r\n"),
        ], 0..24)
    ) {
        let reply = reply.concat();
        let _ = cluster_shards(reply.as_bytes(), &ASKED);
        let _ = cluster_slots(reply.as_bytes(), &ASKED);
        let _ = cluster_nodes(reply.as_bytes(), &ASKED);
        let _ = redirect(reply.as_bytes());
    }
}
