use super::*;

const HASHED: [Balance; 5] =
    [Balance::Ketama, Balance::KetamaNginx, Balance::KetamaUnweighted, Balance::Maglev, Balance::Modulo];

fn balancer(balance: Balance, nodes: &[Node]) -> Balancer {
    // FNV, the default, puts the points of a ring without digests close together.
    let hash = if balance == Balance::KetamaUnweighted { KeyHash::Md5 } else { KeyHash::default() };
    Balancer::new(Sharding { balance, hash, ..Sharding::default() }, nodes)
}

fn node(index: u16, name: impl Into<String>, weight: u32) -> Node {
    Node { index, name: name.into(), weight }
}

/// Share of 20,000 keys that moved without need when the last of ten endpoints left, and the largest share of one.
fn moved(balance: Balance, name: impl Fn(u16) -> String) -> (f64, f64) {
    let nodes: Vec<_> = (0..10).map(|index| node(index, name(index), 1)).collect();
    let (before, after) = (balancer(balance, &nodes), balancer(balance, &nodes[..9]));
    let keys: Vec<_> = (0..20_000).map(|key| format!("key:{key}")).collect();
    let mut share = [0; 10];
    let mut moved = 0;
    for key in &keys {
        let (old, new) = (before.by_key(key.as_bytes()).unwrap(), after.by_key(key.as_bytes()).unwrap());
        share[old] += 1;
        moved += usize::from(old != new && old != 9);
    }
    let largest = *share.iter().max().unwrap() as f64 / (keys.len() as f64 / 10.0);
    (moved as f64 / keys.len() as f64, largest)
}

#[test]
fn consistent_policies_spread_keys_and_move_few_when_an_endpoint_leaves() {
    let (addresses, hosts) =
        (|index| format!("10.0.0.{index}:6379"), |index| format!("cache-{index}.internal:6379"));
    for balance in [Balance::Ketama, Balance::KetamaNginx, Balance::KetamaUnweighted, Balance::Maglev] {
        for (without_need, largest) in [moved(balance, addresses), moved(balance, hosts)] {
            let most = if balance == Balance::Maglev { 0.05 } else { 0.001 };
            assert!(without_need < most && largest < 1.7, "{balance:?} {without_need} {largest}");
        }
    }
}

#[test]
fn heavier_endpoints_get_their_share_of_the_keys() {
    for balance in HASHED.into_iter().filter(|balance| *balance != Balance::KetamaUnweighted) {
        let nodes = [node(0, "10.0.0.1:1", 1), node(1, "10.0.0.2:1", 3)];
        let balancer = balancer(balance, &nodes);
        let heavy = (0..10_000).filter(|key| balancer.by_key(format!("key:{key}").as_bytes()) == Some(1));
        let share = heavy.count() as f64 / 10_000.0;
        assert!((0.65..0.85).contains(&share), "{balance:?} {share}");
    }
}

#[test]
fn a_hash_tag_keeps_keys_together() {
    let tag = HashTag { open: b'{', close: b'}' };
    for (key, hashed) in [
        ("{user}:a", "user"),
        ("x{user}y{other}", "user"),
        ("{}a", "{}a"),
        ("a}b{c", "a}b{c"),
        ("{{a}}", "{a"),
        ("{a", "{a"),
        ("", ""),
    ] {
        assert_eq!(tag.of(key.as_bytes()), hashed.as_bytes(), "{key}");
    }
    let nodes: Vec<_> = (0..7).map(|index| node(index, format!("10.0.0.{index}:1"), 1)).collect();
    for balance in HASHED {
        let sharding = Sharding { balance, tag: Some(tag), ..Sharding::default() };
        let balancer = Balancer::new(sharding, &nodes);
        let owners = (0..50).map(|key| balancer.by_key(format!("{{user}}{key}").as_bytes()));
        assert!(owners.into_iter().all(|owner| owner == balancer.by_key(b"user")), "{balance:?}");
    }
}

#[test]
fn no_endpoint_and_no_key_are_no_reason_to_panic() {
    for balance in HASHED {
        assert_eq!(balancer(balance, &[]).by_key(b"key"), None, "{balance:?}");
        assert_eq!(balancer(balance, &[node(3, "a:1", 1)]).by_key(b""), Some(3), "{balance:?}");
    }
}

#[test]
fn other_policies_pass_over_endpoints_that_are_down() {
    let load = |index: usize| [None, Some(7), Some(3)][index];
    let any = |balance, turn| Balance::any(balance, 3, turn, load);
    assert_eq!(any(Balance::RoundRobin, 0), Some(1));
    assert_eq!(any(Balance::RoundRobin, 2), Some(2));
    assert_eq!(any(Balance::LeastRequest, 0), Some(2));
    assert_ne!(any(Balance::Random, 0), Some(0));
}

#[test]
fn an_endpoint_is_tried_even_if_all_are_down() {
    assert!(Balance::LeastRequest.any(2, 1, |_| None).is_some());
    assert_eq!(Balance::RoundRobin.any(0, 0, |_| None), None);
}

/// Every hash by the name that twemproxy and libmemcached have for it.
fn hash_named(name: &str) -> KeyHash {
    match name {
        "crc" | "crc32" => KeyHash::Crc32,
        "crc16" => KeyHash::Crc16,
        "crc32a" => KeyHash::Crc32a,
        "default" | "one_at_a_time" => KeyHash::OneAtATime,
        "fnv1_32" => KeyHash::Fnv132,
        "fnv1_64" => KeyHash::Fnv164,
        "fnv1a_32" => KeyHash::Fnv1a32,
        "fnv1a_64" => KeyHash::Fnv1a64,
        "hsieh" => KeyHash::Hsieh,
        "jenkins" => KeyHash::Jenkins,
        "md5" => KeyHash::Md5,
        "murmur" => KeyHash::Murmur,
        other => panic!("no hash {other}"),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn a_key_meets_the_server_that_nutcracker_and_libmemcached_chose() {
    let (mut keys, mut text_keys, mut compared) = (Vec::new(), Vec::new(), 0);
    for line in include_str!("vectors.txt").lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split(' ').collect();
        let [program, distribution, hash, weights, ports, owners] = words[..] else {
            let list = words[1..].iter().map(|word| unhex(word)).collect();
            if words[0] == "keys" {
                keys = list
            } else {
                text_keys = list
            }
            continue;
        };
        let names: Vec<_> = match program {
            "nutcracker" => {
                ["10.1.1.1:6379", "cache-b", "10.1.1.3:6380", "unix-like/d"].map(Into::into).into()
            }
            _ => ports.split(',').map(|port| format!("127.0.0.1:{port}")).collect(),
        };
        let weights = weights.split(',').map(|weight| weight.parse().unwrap());
        let mut nodes: Vec<_> =
            (0..).zip(names).zip(weights).map(|((i, name), weight)| node(i, name, weight)).collect();
        if program == "nutcracker" && distribution == "modula" {
            nodes.sort_by_key(|node| (node.name.len(), node.name.clone()));
        }
        let (balance, hash) = match distribution {
            // Weights make libmemcached hash keys with MD5, whatever was set.
            "ketama_weighted" => (Balance::Ketama, KeyHash::Md5),
            "ketama" => (Balance::Ketama, hash_named(hash)),
            "ketama_unweighted" => (Balance::KetamaUnweighted, hash_named(hash)),
            _ => (Balance::Modulo, hash_named(hash)),
        };
        let balancer = Balancer::new(Sharding { balance, hash, tag: None }, &nodes);
        let keys = if program == "nutcracker" { &keys } else { &text_keys };
        let ours: String = keys.iter().map(|key| balancer.by_key(key).unwrap().to_string()).collect();
        assert_eq!(ours, owners, "{line}");
        compared += 1;
    }
    assert_eq!(compared, 55);
}
