use proptest::prelude::*;
use serde::Deserialize;

use super::load;
use crate::units::Period;
use crate::{
    Address, Balance, ConfigError, FilterSpec, HashTag, KeyHash, Known, MigrateStage, Scheme, Snapshot,
};

const DOORS: &[Scheme] =
    &[Scheme::plain("redis", "resp", 6379), Scheme::plain("memcached", "memcached", 11211)];
const BACKS: &[Scheme] = &[
    Scheme::plain("redis", "resp", 6379),
    Scheme::plain("memcached", "memcached", 11211),
    Scheme::inside("embedded", "embedded"),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoded")]
struct Limit {
    permits: u32,
    per: Period,
    #[serde(default)]
    commands: Vec<String>,
}

fn read(text: &str) -> Result<Snapshot, Vec<ConfigError>> {
    read_with(DOORS, BACKS, text)
}

fn read_with(doors: &[Scheme], backs: &[Scheme], text: &str) -> Result<Snapshot, Vec<ConfigError>> {
    let check = |spec: &FilterSpec, _: Option<&str>| match spec.options.decode::<Limit>() {
        Ok(limit) if limit.permits == 0 => vec![spec.options.error("permits", "must be at least 1")],
        Ok(_) => Vec::new(),
        Err(errors) => errors,
    };
    let known = Known {
        doors,
        backs,
        filters: vec!["rate_limit", "timeout"],
        check_filter: &check,
        check_tls: &|_| Vec::new(),
        check_http_route: &|_| Vec::new(),
        check_rules: &|words| {
            let wrong = words.iter().filter(|word| word.starts_with('?'));
            wrong
                .map(|word| crate::RuleComplaint { message: format!("no rule: {word}"), hint: None })
                .collect()
        },
        routes: &|door| {
            Some(crate::KnownRoutes {
                has_databases: door == "resp",
                lists_keys_of: if door == "resp" { &["resp"] } else { &[] },
            })
        },
        pairs: &|door, back| door == back || back == "embedded" || door == "resp" || back == "memcached",
    };
    load(text, "mecha.yaml", &known)
}

/// Each expected error is `line:column path message`, with the hint behind ` => ` if one is looked for.
fn check(text: &str, expected: &[&str]) {
    complains(read(text), expected);
}

fn complains(read: Result<Snapshot, Vec<ConfigError>>, expected: &[&str]) {
    let errors = read.expect_err("it is read");
    let shown: Vec<_> = errors
        .iter()
        .map(|error| {
            (format!("{}:{} {} {}", error.line, error.column, error.path, error.message), error.hint.clone())
        })
        .collect();
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for ((shown, hint), expected) in shown.iter().zip(expected) {
        let (start, wanted) = expected.split_once(" => ").unwrap_or((expected, ""));
        assert!(
            shown.starts_with(start) && hint.clone().unwrap_or_default().contains(wanted),
            "{shown} {hint:?}\n{expected}"
        );
    }
}

#[test]
fn five_lines_are_enough() {
    let snapshot =
        read("listeners:\n  - listen: redis://127.0.0.1:6379\n    to: memcached://127.0.0.1:11211\n")
            .unwrap();
    assert_eq!(snapshot.listeners[0].address, Address::Tcp("127.0.0.1:6379".parse().unwrap()));
    assert_eq!((snapshot.clusters.len(), snapshot.clusters[0].protocol.as_str()), (1, "memcached"));
    assert_eq!(snapshot.listeners[0].name, "resp");
}

#[test]
fn everything_can_be_said() {
    let snapshot = read(
        "listeners:
  - name: front
    listen: redis://[::1]:0
    to: cache
    max_output: 1MiB
    idle_timeout: 5m
    filters:
      - rate_limit: { permits: 10_000, per: 1s }
clusters:
  cache: { to: \"redis://a:1,b:2\", balance: maglev, backoff: { initial: 10ms, max: 1s }, connect_timeout: 250ms }
  other: embedded://
admin: 127.0.0.1:9900
workers: 3
log: { format: json, level: warn }
drain_timeout: 1500ms
",
    )
    .unwrap();
    let (listener, cluster) = (&snapshot.listeners[0], &snapshot.clusters[0]);
    assert_eq!((listener.name.as_str(), listener.max_output, listener.filters.len()), ("front", 1 << 20, 1));
    assert_eq!((cluster.balance, cluster.endpoints.len()), (Balance::Maglev, 2));
    assert_eq!((snapshot.workers, snapshot.log.level.as_str()), (3, "warn"));
}

#[test]
fn two_doors_to_the_same_target_share_it() {
    let text =
        "listeners: [ {listen: redis://:1, to: embedded://}, {listen: memcached://:2, to: embedded://} ]";
    let snapshot = read(text).unwrap();
    assert_eq!((snapshot.clusters.len(), snapshot.listeners[1].cluster), (1, 0));
    assert_eq!(snapshot.listeners[1].name, "memcached-2");
}

#[test]
fn several_servers_are_balanced_by_key_unless_told_otherwise() {
    let snapshot = read("listeners: [ {listen: redis://:1, to: \"redis://a:1,b:1\"} ]").unwrap();
    assert_eq!(snapshot.clusters[0].balance, Balance::Ketama);
}

#[test]
fn all_errors_come_at_once_each_with_its_place_and_a_hint() {
    check(
        "listeners:
  - lisen: redis://127.0.0.1:6379
    to: cahe
    filters:
      - rate_limt: { permits: 1, per: 1s }
      - rate_limit: { permits: 1, pre: 1s }
      - rate_limit: { permits: 1, per: 10 }
      - rate_limit: { permits: 0, per: 1s }
clusters:
  cache: { to: \"redis://a:1\", balance: ketma, connect_timeout: 5 }
workers: 0
admin: nowhere
",
        &[
            "2:5 listeners[0] `listen` is missing => as in",
            "2:5 listeners[0].lisen there is no key `lisen` here => `listen`",
            "3:9 listeners[0].to there is no cluster `cahe` => `cache`",
            "5:9 listeners[0].filters[0].rate_limt there is no filter `rate_limt` => `rate_limit`",
            "6:21 listeners[0].filters[1].rate_limit.per `per` is missing => mecha filters rate_limit",
            "6:35 listeners[0].filters[1].rate_limit.pre there is no option `pre` => did you mean `per`",
            "7:40 listeners[0].filters[2].rate_limit.per expected a duration with a unit, as in `250ms`, got the number `10`",
            "8:32 listeners[0].filters[3].rate_limit.permits must be at least 1",
            "10:40 clusters.cache.balance `ketma` is not one of => `ketama`",
            "10:64 clusters.cache.connect_timeout `5` is no duration => needs a unit",
            "11:10 workers `0` is not a number from 1",
            "12:8 admin `nowhere` is no address and port => 127.0.0.1:9900",
        ],
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    check("", &["0:0 listeners the file is empty => as in"]);
    check("listeners: {}", &["1:12 listeners expected a list"]);
    check(
        "listeners: [ {listen: memcached://:1, to: redis://a:1} ]",
        &["1:43 listeners[0].to a memcached listener cannot"],
    );
    check(
        "listeners: [ {listen: redis://:1, to: embedded://}, {listen: redis://:1, to: embedded://} ]",
        &["1:53 listeners[1] another listener has this address"],
    );
    check("a: [1, 2", &["2:1  not valid YAML"]);
    check("a: &x 1\nb: *x\n", &["1:4  anchors are not supported"]);
    check(
        "listeners: [ {listen: redis://:1, to: embedded://} ]\nworkers: 1\nworkers: 2\n",
        &["3:1  `workers` is given twice => line 2"],
    );
}

#[test]
fn errors_show_the_line() {
    let text =
        read("listeners:\n  - listen: redi://127.0.0.1:1\n    to: embedded://\n").unwrap_err()[0].to_string();
    assert!(text.contains("mecha.yaml:2:13 at listeners[0].listen"), "{text}");
    assert!(
        text.contains(
            "  2 |   - listen: redi://127.0.0.1:1\n    |             ^\n  hint: did you mean `redis`?"
        ),
        "{text}"
    );
}

#[test]
fn hostile_text_is_bounded() {
    assert!(read(&"[".repeat(100_000)).is_err());
    assert!(read(&format!("a: {}", "{b: ".repeat(10_000))).is_err());
    assert!(read(&format!("a: [{}]", "1,".repeat(200_000))).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn no_damaged_file_panics(at in 0..200usize, with in "[\\PC\n]{0,3}") {
        let mut text: Vec<char> = "listeners:\n  - listen: redis://127.0.0.1:6379\n    to: cache\n    filters: [ rate_limit: { permits: 1, per: 1s } ]\nclusters:\n  cache: { to: \"redis://a:1\" }\n".chars().collect();
        let at = at.min(text.len() - 1);
        text.splice(at..=at, with.chars());
        let _ = read(&text.into_iter().collect::<String>());
    }
}

#[test]
fn servers_have_names_and_weights_on_the_ring() {
    let snapshot = read(
        "
listeners: [ { listen: \"redis://127.0.0.1:1\", to: cache } ]
clusters:
  cache:
    to: redis://a:1,b:11211,c:3
    balance: ketama
    hash: murmur
    hash_tag: \"<>\"
    servers: { \"c:3\": { name: third, weight: 5 } }
",
    )
    .unwrap();
    let cluster = &snapshot.clusters[0];
    let members: Vec<_> =
        cluster.members.iter().map(|member| (member.name.as_str(), member.weight)).collect();
    assert_eq!(members, [("a:1", 1), ("b", 1), ("third", 5)]);
    assert_eq!((cluster.hash, cluster.hash_tag), (KeyHash::Murmur, HashTag::Between(b'<', b'>')));
}

#[test]
fn what_spreads_keys_wrongly_is_an_error() {
    check(
        "
listeners: [ { listen: \"redis://127.0.0.1:1\", to: a } ]
clusters:
  a: { to: \"redis://a:1,b:2\", hash: md6, hash_tag: \"{\", servers: { \"a:2\": {}, \"b:2\": { name: \"a:1\" } } }
  b: { to: \"redis://a:1,b:2\", balance: ketama_nginx, hash: md5 }
",
        &[
            "4:37 clusters.a.hash `md6` is not one of => `md5`",
            "4:52 clusters.a.hash_tag `{` is not two characters => none",
            "4:66 clusters.a.servers two servers have the same name",
            "4:68 clusters.a.servers.a:2 `to` has no server `a:2`",
            "5:60 clusters.b.hash `hash` has no effect",
        ],
    );
}

#[test]
fn routes_are_read_with_their_conditions() {
    let snapshot = read(
        "listeners:\n  - listen: redis://127.0.0.1:1\n    to: a\n    routes:\n      - { prefix: 'x:', to: b }\n      \
         - { prefix: ['y:', 'z:'], class: writes, to: 'embedded://', filters: [rate_limit: { permits: 1, per: 1s }] }\n      \
         - { db: [1, 2], user: me, to: b, mirror: { to: a, percent: 2.5, class: reads } }\n    \
         mirror: { to: b }\nclusters: { a: 'redis://a', b: 'redis://b' }\n",
    )
    .unwrap();
    let listener = &snapshot.listeners[0];
    let names: Vec<_> = listener.routes.iter().map(|route| (route.name.as_str(), route.cluster)).collect();
    assert_eq!(names, [("x:", 1), ("y:", 2), ("db-1", 1)]);
    assert_eq!(listener.routes[1].prefixes, ["y:", "z:"]);
    assert_eq!(
        listener.routes[2].mirror.as_ref().map(|mirror| (mirror.cluster, mirror.share)),
        Some((0, 250))
    );
    assert_eq!(listener.targets(), [0, 1, 2, 1, 0, 1]);
    assert!(listener.is_routed());
}

#[test]
fn what_is_wrong_with_routes_is_told_with_its_place() {
    let start = "listeners:\n  - listen: redis://127.0.0.1:1\n    to: redis://a\n    routes:\n";
    check(
        &format!(
            "{start}      - {{ to: redis://b }}\n      - {{ prefix: 'x', to: nowhere }}\n      - {{ prefix: '', to: redis://b }}\n      \
             - {{ prefix: y, to: redis://b }}\n      - {{ prefix: [z, y], to: redis://c }}\n      \
             - {{ db: many, class: both, prefixes: q, to: redis://b, mirror: {{ percent: 0 }} }}\n"
        ),
        &[
            "5:9 listeners[0].routes[0] the route has no condition => prefix",
            "6:28 listeners[0].routes[1].to there is no cluster `nowhere`",
            "7:9 listeners[0].routes[2].prefix a prefix is empty",
            "9:9 listeners[0].routes[4] another route has the prefix `y` and the same conditions",
            "10:9 listeners[0].routes[5].db `many` is no number",
            "10:28 listeners[0].routes[5].class `both` is not one of",
            "10:34 listeners[0].routes[5].prefixes there is no key `prefixes` here => prefix",
            "10:70 listeners[0].routes[5].mirror `to` is missing",
            "10:81 listeners[0].routes[5].mirror.percent `0` is not a number above 0",
        ],
    );
}

#[test]
fn a_connection_for_each_client_leads_to_one_server() {
    let with = |to: &str| {
        format!(
            "listeners:\n  - listen: redis://:1\n    to: x\nclusters:\n  x:\n    to: {to}\n    clients: dedicated\n"
        )
    };
    assert!(read(&with("redis://a")).unwrap().clusters[0].is_private);
    assert!(!read(&with("redis://a").replace("dedicated", "shared")).unwrap().clusters[0].is_private);
    let several =
        "7:14 clusters.x.clients there are several servers => a client's connection leads to one server";
    check(&with("redis://a,b"), &[several]);
    assert!(read(&with("memcached://a")).unwrap().clusters[0].is_private);
    check(&with("redis://a").replace("dedicated", "mine"), &["7:14 clusters.x.clients"]);
}

#[test]
fn a_migration_is_read_with_its_defaults() {
    let snapshot = read(
        "listeners:\n  - listen: redis://127.0.0.1:1\n    to: a\n    migrate: { to: b, stage: dual_write }\n    \
         routes:\n      - { prefix: 'x:', to: b, migrate: { to: a, stage: shadow_read, sweep: 500, percent: 2.5, repair: true, window: 8, pending: 100 } }\n\
         clusters: { a: 'redis://a', b: 'redis://b' }\n",
    )
    .unwrap();
    let listener = &snapshot.listeners[0];
    let migrate = listener.migrate.as_ref().unwrap();
    assert_eq!((migrate.cluster, migrate.stage), (1, MigrateStage::DualWrite));
    assert_eq!((migrate.window, migrate.pending, migrate.share), (64, 65_536, 10_000));
    assert_eq!((migrate.repair, migrate.sweep), (false, None));
    let migrate = listener.routes[0].migrate.as_ref().unwrap();
    assert_eq!((migrate.cluster, migrate.stage), (0, MigrateStage::ShadowRead));
    assert_eq!((migrate.window, migrate.pending, migrate.share), (8, 100, 250));
    assert_eq!((migrate.repair, migrate.sweep), (true, Some(500)));
    assert_eq!(listener.targets(), [0, 1, 0, 1]);
}

#[test]
fn what_is_wrong_with_a_migration_is_told_with_its_place() {
    check(
        "listeners:\n  - listen: redis://127.0.0.1:1\n    to: a\n    migrate: { to: a, stage: dual }\n    \
         routes:\n      - { prefix: 'x:', class: reads, to: b, migrate: { percent: 101, repair: perhaps } }\n  \
         - { listen: 'memcached://127.0.0.1:2', to: 'memcached://a', migrate: { to: 'memcached://b', stage: old, sweep: 5 } }\n\
         clusters: { a: 'redis://a', b: 'redis://b' }\n",
        &[
            "4:20 listeners[0].migrate.to the keys are there already",
            "4:30 listeners[0].migrate.stage `dual` is not one of old, dual_write",
            "6:55 listeners[0].routes[0].migrate a route of one class of calls cannot be migrated",
            "6:55 listeners[0].routes[0].migrate `to` is missing",
            "6:55 listeners[0].routes[0].migrate `stage` is missing => old, dual_write",
            "6:66 listeners[0].routes[0].migrate.percent `101` is not a number",
            "6:79 listeners[0].routes[0].migrate.repair `perhaps` is not one of",
            "7:114 listeners[1].migrate.sweep a memcached listener cannot list the keys of memcached",
        ],
    );
}

#[test]
fn tokens_need_keys_and_a_protocol_that_has_them() {
    let schemes = [Scheme::plain("kafka", "kafka", 9092).opaque(), Scheme::plain("redis", "resp", 6379)];
    let read = |scheme: &str, oauth: &str| {
        let text = format!(
            "listeners:\n- {{ listen: \"{scheme}://127.0.0.1:1\", to: \"{scheme}://a:9\", oauth: {{ {oauth} }} }}\n"
        );
        read_with(&schemes, &schemes, &text)
    };
    complains(read("kafka", "issuer: x"), &["2:62 listeners[0].oauth `jwks_file` is missing => a file"]);
    let file = std::env::temp_dir().join(format!("mecha-config-jwks-{}", std::process::id()));
    std::fs::write(&file, "keys").unwrap();
    let path = file.display();
    complains(
        read("redis", &format!("jwks_file: {path}")),
        &["2:62 listeners[0].oauth this protocol has no tokens => it belongs"],
    );
    let oauth = read("kafka", &format!("jwks_file: {path}, audience: k")).unwrap().listeners[0].oauth.clone();
    let oauth = oauth.unwrap();
    assert_eq!((&*oauth.jwks, &*oauth.claim, oauth.audience.as_deref()), ("keys", "sub", Some("k")));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn brokers_with_names_need_tls_and_a_name_for_each() {
    let schemes = [Scheme::plain("kafka", "kafka", 9092).opaque()];
    let read = |rest: &str| {
        let text =
            format!("listeners:\n- {{ listen: \"kafka://127.0.0.1:1\", to: \"kafka://a:9092\", {rest} }}\n");
        read_with(&schemes, &schemes, &text)
    };
    let tls = "tls: { cert: a, key: b }";
    let named = read(&format!("brokers: {{ ports: sni, host: \"b$(id).x\" }}, {tls}")).unwrap();
    let brokers = named.listeners[0].brokers.clone().unwrap();
    assert!(brokers.is_by_name && !brokers.is_single() && named.listeners[0].sockets().len() == 1);
    complains(
        read(&format!("brokers: {{ ports: sni, host: x }}, {tls}")),
        &["2:67 listeners[0].brokers `host` must have a name for each broker => as in"],
    );
    complains(
        read("brokers: { ports: sni, host: \"b$(id).x\" }"),
        &["2:3 listeners[0] names of brokers are seen in the TLS handshake alone => use `kafkas://`"],
    );
}

#[test]
fn brokers_are_told_who_mecha_is_by_a_mechanism() {
    let kafka = |auth: &str| {
        format!(
            "listeners: [{{ listen: \"kafka://127.0.0.1:0\", to: k }}]\nclusters:\n  k: {{ to: \"kafka://a:9092\", auth: {{ {auth} }} }}\n"
        )
    };
    let schemes = [Scheme::plain("kafka", "kafka", 9092).opaque(), Scheme::plain("redis", "resp", 6379)];
    let read = |text: &str| read_with(&schemes, &schemes, text);
    let login = |auth: &str| read(&kafka(auth)).unwrap().clusters[0].login.clone();
    let scram = login("mechanism: SCRAM-SHA-512, username: mecha, password: x");
    assert_eq!(
        (scram.mechanism.as_deref(), scram.username.as_deref()),
        (Some("SCRAM-SHA-512"), Some("mecha"))
    );
    assert!(login("mechanism: OAUTHBEARER, password: x").username.is_none());
    for (auth, expected) in [
        ("username: mecha, password: x", "`mechanism` is missing => as the brokers"),
        ("mechanism: PLAIN, password: x", "`username` is missing => brokers of Kafka"),
        (
            "mechanism: OAUTHBEARER, username: mecha, password: x",
            "OAUTHBEARER knows no `username` => the token",
        ),
    ] {
        complains(read(&kafka(auth)), &[&format!("3:36 clusters.k.auth {expected}")]);
    }
    complains(
        read(&kafka("mechanism: PLAIN, username: mecha, password: x").replace("kafka:", "redis:")),
        &["3:36 clusters.k.auth `mechanism` belongs to clusters of Kafka => remove it"],
    );
}

const ALIKE: &[Scheme] =
    &[Scheme::plain("http", "http", 80).streamed(), Scheme::plain("tcp", "tcp", 0).opaque()];

#[test]
fn servers_that_are_alike_have_priorities_zones_and_limits() {
    let text = "\
zone: a
listeners:
  - { listen: tcp://127.0.0.1:1, to: app }
clusters:
  app:
    to: tcp://a:1,b:1
    servers: { \"b:1\": { zone: a, priority: 1, weight: 3 } }
    prefer_zone: true
    slow_start: 30s
    spill_below: 0.5
    limits: { connections: 10, pending: 2 }
  found:
    to: http+srv://_http._tcp.a.example
    dns: { min_ttl: 2s, max_ttl: 1m, servers: [10.0.0.2, \"[::1]:5353\"], family: ipv4 }
    zones: { a: [10.1.0.0/16] }
    health_check: { path: / }
    limits: { requests: 5, retries: 1 }
  filed: { to: \"http+file:///etc/a.yaml\", subset: { version: 2 } }
";
    let snapshot = read_with(ALIKE, ALIKE, text).unwrap();
    let [app, found, filed] = &snapshot.clusters[..] else { panic!() };
    let member = &app.members[1];
    assert_eq!((member.zone.as_deref(), member.priority, member.weight), (Some("a"), 1, 3));
    assert!(app.alike.prefers_zone && !found.alike.prefers_zone);
    assert_eq!(app.alike.limits.pending, Some(2));
    assert_eq!(found.alike.limits.retries, Some(1));
    let servers: Vec<_> = found.alike.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.2:53", "[::1]:5353"]);
    assert_eq!(filed.alike.subset, [("version".to_string(), "2".to_string())]);
    assert_eq!(filed.places(), ["/etc/a.yaml"]);
}

#[test]
fn what_has_no_meaning_for_servers_that_are_alike_or_not_is_an_error() {
    let wrong = |cluster: &str, expected: &[&str]| {
        let text = format!(
            "listeners:\n  - {{ listen: tcp://127.0.0.1:1, to: app }}\nclusters:\n  app: {{ {cluster} }}\n"
        );
        complains(read_with(ALIKE, ALIKE, &text), expected);
    };
    wrong("to: tcp://a:1, prefer_zone: true", &["4:38 clusters.app.prefer_zone which zone?"]);
    wrong(
        "to: tcp://a:1, limits: { requests: 1 }",
        &["4:45 clusters.app.limits.requests nobody sees requests"],
    );
    wrong("to: tcp://a:1, dns: { min_ttl: 1s }", &["4:30 clusters.app.dns nothing is looked up"]);
    wrong("to: tcp://a:1, subset: { a: b }", &["4:33 clusters.app.subset only servers of a file"]);
    wrong(
        "to: tcp+dns://a:1, dns: { min_ttl: 9s, max_ttl: 1s, servers: [x] }",
        &["4:34 clusters.app.dns `max_ttl` must", "4:72 clusters.app.dns.servers[0] `x` is no address"],
    );
    wrong(
        "to: tcp+dns://a:1, servers: { \"a:1\": { weight: 2 } }",
        &["4:38 clusters.app.servers these servers are not listed"],
    );
    check(
        "listeners:\n  - { listen: redis://127.0.0.1:1, to: app }\nclusters:\n  app: { to: redis://a, slow_start: 1s, servers: { \"a:6379\": { zone: a } } }\n",
        &[
            "4:37 clusters.app.slow_start `slow_start` has no meaning where servers",
            "4:70 clusters.app.servers.a:6379.zone `zone` has no meaning",
        ],
    );
}

#[test]
fn tunnels_lead_to_bytes_or_to_whomever_a_client_names() {
    const BACKS: &[Scheme] = &[
        Scheme::plain("http", "http", 80).streamed(),
        Scheme::plain("tcp", "tcp", 0).opaque(),
        Scheme::inside("original", "original").opaque(),
    ];
    let listener = |keys: &str| {
        let text = format!("listeners:\n  - {{ listen: http://127.0.0.1:1, to: http://a, {keys} }}\n");
        read_with(ALIKE, BACKS, &text)
    };
    let snapshot = listener(
        "max_duration: 1h, header_case: title, connect: [ { allow: [a:1, \"*.b:*\"], to: tcp://c:1 }, { allow: \"*:443\" } ]",
    )
    .unwrap();
    let listener_spec = &snapshot.listeners[0];
    let protocols: Vec<_> = listener_spec
        .tunnels
        .iter()
        .map(|tunnel| snapshot.clusters[tunnel.cluster].protocol.as_str())
        .collect();
    assert_eq!(protocols, ["tcp", "original"]);
    assert_eq!(listener_spec.targets().len(), 3);
    assert!(listener_spec.tunnels[0].allow[1].has("x.b", 9));
    for (keys, message) in [
        ("connect: [ { allow: nowhere } ]", "`nowhere` is nowhere to go"),
        ("connect: [ { to: tcp://a:1 } ]", "`allow` is missing"),
        ("connect: [ { allow: a:1, to: http://a } ]", "a tunnel cannot lead to http"),
        ("header_case: upper", "`upper` is not one of"),
    ] {
        let errors = listener(keys).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].message.starts_with(message) && errors[0].hint.is_some(), "{errors:?}");
    }
    complains(
        read_with(
            ALIKE,
            ALIKE,
            "listeners:\n  - { listen: tcp://127.0.0.1:1, to: tcp://a:1, max_duration: 1s }\n",
        ),
        &["2:63 listeners[0].max_duration `max_duration` has no meaning but on"],
    );
}

#[test]
fn the_clients_address_is_kept_where_each_has_a_connection() {
    let cluster = |to: &str| {
        let text = format!(
            "listeners:\n  - {{ listen: tcp://127.0.0.1:1, to: tcp://a:1 }}\nclusters:\n  app: {{ to: \"{to}\", keep_source: true }}\n"
        );
        read_with(ALIKE, ALIKE, &text)
    };
    assert!(cluster("tcp://a:1").unwrap().clusters[0].keeps_source);
    let errors = cluster("http://a").unwrap_err();
    assert!(
        errors[0].message.starts_with("many clients share") && errors[0].path.ends_with("keep_source"),
        "{errors:?}"
    );
}
