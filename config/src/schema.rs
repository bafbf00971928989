//! The JSON Schema of a configuration file, for editors.

use serde_json::{Value, json};

mod http;
mod option;

pub use option::{FilterOption, Takes, Without};

/// The schema (draft 2020-12). `filters` are those that exist: name, summary, options.
pub fn schema(filters: &[(&str, &str, &[FilterOption])]) -> Value {
    let about = |mut schema: Value, description: &str| {
        schema["description"] = description.into();
        schema
    };
    let text = |description: &str| json!({ "type": "string", "description": description });
    let count = |description: &str| about(option::count(1), description);
    let duration = |description: &str| about(option::duration(), description);
    let size = |description: &str| about(option::size(), description);
    let entry = |(name, summary, options): &(&str, &str, &[FilterOption])| {
        ((*name).to_string(), about(option::of_filter(options), summary))
    };
    let entries: serde_json::Map<_, _> = filters.iter().map(entry).collect();
    let needs_nothing =
        |(_, _, options): &&(&str, &str, &[FilterOption])| options.iter().all(|option| !option.is_required());
    let alone: Vec<_> = filters.iter().filter(needs_nothing).map(|(name, ..)| *name).collect();
    let filter = json!({
        "type": "array",
        "description": "What calls pass, in order. `mecha filters` explains each.",
        "items": { "anyOf": [
            { "enum": alone },
            { "type": "object", "properties": entries, "additionalProperties": false, "minProperties": 1, "maxProperties": 1 },
        ] },
    });
    let balance: Vec<_> = crate::Balance::ALL.iter().map(|(name, _)| *name).collect();
    let hash: Vec<_> = crate::KeyHash::ALL.iter().map(|(name, _)| *name).collect();
    let strings = |description: &str| json!({ "type": "array", "items": { "type": "string" }, "description": description });
    let version =
        json!({ "enum": ["1.2", "1.3", 1.2, 1.3], "description": "Oldest version that is spoken (1.2)." });
    let server_tls = json!({ "type": "object", "additionalProperties": false, "properties": {
        "cert": text("PEM file: the certificate, then those that lead to its root."),
        "key": text("PEM file of its key."),
        "certificates": { "type": "array", "description": "More of them, chosen by the name that the client asks for.", "items": {
            "type": "object", "additionalProperties": false, "required": ["cert", "key"],
            "properties": { "cert": text("PEM file."), "key": text("PEM file.") },
        } },
        "client_ca": text("PEM file with the authorities of client certificates (clients are not asked)."),
        "client_auth": { "enum": ["optional", "required"], "description": "Whether clients must have a certificate, with client_ca (required)." },
        "mode": { "enum": ["optional", "required"], "description": "Whether clients may also speak without TLS (required)." },
        "min_version": version,
        "alpn": strings("Protocols that clients may ask for (nobody is asked)."),
        "handshake_timeout": duration("Time for a handshake (5s)."),
    } });
    let client_tls = json!({ "type": "object", "additionalProperties": false, "properties": {
        "ca": text("PEM file with the authorities of the servers' certificates (those of the system)."),
        "server_name": text("Name that the servers' certificates must be for (the server's host)."),
        "cert": text("PEM file of the certificate that mecha shows (none)."),
        "key": text("PEM file of its key."),
        "insecure_skip_verify": { "type": "boolean", "description": "Trust whoever answers: no protection from an attacker on the way (false)." },
        "min_version": version,
        "alpn": strings("Protocols to ask for."),
    } });
    let auth = json!({ "type": "object", "additionalProperties": false, "description": "Who mecha is to the servers (nobody).", "properties": {
                        "mechanism": { "enum": crate::tls::MECHANISMS, "description": "How it is proved to brokers of Kafka." },
                        "username": text("User (the default user)."), "password": text("Password."),
                        "password_file": text("File with the password."), "password_env": text("Environment variable with the password."),
                    } });
    let database = json!({ "type": "integer", "minimum": 0, "description": "Database that every connection selects (0)." });
    let cluster = json!({ "type": "object", "additionalProperties": false, "required": ["to"], "properties": {
        "to": text("Servers: redis://a:6379,b:6379, memcached://a:11211, kafka://a:9092, tcp://a:5432, embedded://."),
        "refresh": duration("How often the servers are looked for again (10s)."),
        "park": duration("How long calls that were not sent wait for a server that is lost, where servers are found; 0s is not at all (5s)."),
        "read_from": { "enum": ["any", "nearest", "prefer-replica", "primary"], "description": "Which servers answer commands that change nothing (primary)." },
        "max_staleness": duration("A replica is read only while it is known to have had, so long ago, all that its primary had (10s)."),
        "replicas": text("Replicas of the one server in `to`: redis://b:6379,c:6379."),
        "zones": { "type": "object", "description": "Where servers are, where they do not tell themselves: `zone: [hosts, host:port, networks]`.", "additionalProperties": {
            "type": "array", "items": { "type": "string" },
        } },
        "balance": { "enum": balance, "description": "How a call's server is chosen (ketama for several servers)." },
        "hash": { "enum": hash, "description": "How a key becomes a number (fnv1a_64)." },
        "hash_tag": text("Two characters; only what lies between them is hashed. `none` for whole keys ({} for Redis, none for Memcached)."),
        "hash_on": { "type": "object", "additionalProperties": false, "description": "What is hashed of requests of HTTP where `balance` is by a hash (the client's address).", "properties": {
            "header": text("A field's value; requests without it go by the client's address."),
            "cookie": text("A cookie's value; clients without one get one."),
            "ttl": duration("How long clients keep that cookie (1h)."),
        } },
        "servers": { "type": "object", "description": "By address as in `to`.", "additionalProperties": {
            "type": "object", "additionalProperties": false, "properties": {
                "name": text("Its name on the ring (host:port, without the port if it is 11211)."), "weight": count("Its share of the keys, or clients (1)."),
                "zone": text("Where it stands, for `prefer_zone`."), "priority": { "type": "integer", "minimum": 0, "maximum": 65535, "description": "Of servers that are alike, one is asked while too few of those with smaller numbers are well (0)." },
            },
        } },
        "proxy_protocol": { "enum": ["v1", "v2"], "description": "Tells the servers of tcp:// and tls:// targets who the client is (they are not told)." },
        "keep_source": { "type": "boolean", "description": "Whether the servers of tcp:// and tls:// targets, and of original://, see the clients' addresses: docs/intercept.md (false)." },
        "auto_eject": { "type": "object", "additionalProperties": false, "properties": {
            "failures": count("Failures in a row after which a server is left out (2)."),
            "retry_after": duration("How long before it is tried again (30s)."),
            "gutter": text("memcached:// servers that take the keys of those that are left out (the others do)."),
            "gutter_ttl": duration("The longest life of what is stored there (10s)."),
        } },
        "health_check": { "type": "object", "additionalProperties": false, "description": "Asks every server now and then, and leaves out those that do not answer as they should: docs/health.md.", "properties": {
            "kind": { "enum": ["grpc", "http", "protocol", "tcp"], "description": "What is asked (http with `path`, grpc with `service`, else what clients of the protocol ask first; HTTP servers are connected to)." },
            "path": text("What is asked of HTTP servers, as in /healthz."),
            "host": text("What Host says (the server's address)."),
            "expect": text("The status, or the first and the last, that is right (200-299)."),
            "service": text("The service that servers of gRPC are asked about (the server)."),
            "interval": duration("Time between two checks of a server (5s)."),
            "timeout": duration("Time for the answer (1s)."),
            "unhealthy_after": count("Failures in a row after which a server is left out (3)."),
            "healthy_after": count("Successes in a row after which it is back (2)."),
            "panic_below": { "type": "number", "minimum": 0, "maximum": 1, "description": "With a smaller share of servers that are well nobody is left out (0.5)." },
        } },
        "outlier": { "type": "object", "additionalProperties": false, "description": "Leaves servers of HTTP and TCP out that fail their clients: docs/health.md.", "properties": {
            "failures": count("Failures in a row after which a server is left out (5)."),
            "eject_for": duration("How long the first time; twice as long the second time, and so on (30s)."),
            "max_share": { "type": "number", "minimum": 0, "maximum": 1, "description": "Share of servers that may be left out at a time; one may be in any case (0.5)." },
        } },
        "header_case": { "enum": ["lower", "preserve", "title"], "description": "How servers of HTTP/1 get names of fields; preserve is as clients have written them, whose listener must say so too (lower)." },
        "dns": { "type": "object", "additionalProperties": false, "description": "How the names of http+dns:// and http+srv:// are looked up: docs/clusters.md.", "properties": {
            "min_ttl": duration("The least time between two questions, whatever answers say (1s)."),
            "max_ttl": duration("The most time between two questions (5m)."),
            "timeout": duration("Time for an answer of one name server (2s)."),
            "servers": strings("Name servers (those of /etc/resolv.conf)."),
            "family": { "enum": ["both", "ipv4", "ipv6"], "description": "Which addresses are asked for (both)." },
        } },
        "subset": { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] }, "description": "Labels that servers of a file must have to be of this cluster (none)." },
        "prefer_zone": { "type": "boolean", "description": "Whether servers that stand in this process' `zone` come first (false)." },
        "spill_below": { "type": "number", "minimum": 0, "maximum": 1, "description": "Share of well servers below which a priority, or the own zone, gives some of its part to the others (0.7)." },
        "slow_start": duration("How long a server that is new, or back, gets less than its part (not at all)."),
        "limits": { "type": "object", "additionalProperties": false, "description": "How much servers of HTTP and TCP may have to do at one time, over all workers; what is above is refused: docs/clusters.md.", "properties": {
            "connections": count("Connections (no limit)."),
            "pending": count("Clients, or requests, that wait for a connection (no limit)."),
            "requests": count("Requests of HTTP that are not answered to the end (no limit)."),
            "retries": count("Requests of HTTP that are being sent again (no limit)."),
        } },
        "connections": count("Shared connections per server and worker (1)."),
        "connect_timeout": duration("Time for one connection attempt (1s)."),
        "backoff": { "type": "object", "additionalProperties": false, "properties": {
            "initial": duration("First wait after a failure (50ms)."), "max": duration("Longest wait (5s)."),
        } },
        "connect_rate": count("Connection attempts per second, server and worker (100)."),
        "clients": { "enum": ["dedicated", "shared"], "description": "Whether each client has a connection of its own to the one server, or clients share them as far as that makes no difference (shared)." },
        "subscriptions": { "enum": ["dedicated", "shared"], "description": "Whether clients that subscribe have a connection of their own, or share one per server and worker (shared for several servers)." },
        "max_pins": count("Dedicated connections per worker (1024)."),
        "max_pending": count("Unanswered calls per connection (16384)."),
        "max_memory": size("Limit of an embedded store (256MiB)."),
        "max_value": size("Largest value where requests are translated (1MiB less 512 bytes)."),
        "filters": filter,
        "tls": client_tls,
        "auth": auth,
        "db": database,
        "sentinels": { "type": "object", "additionalProperties": false, "description": "How sentinels want to be talked to.", "properties": {
            "auth": auth,
            "tls": { "type": "boolean", "description": "Whether they speak TLS (as the servers do)." },
        } },
    } });
    let class = json!({ "enum": ["reads", "writes"], "description": "What its calls do (both)." });
    let words = |description: &str| json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }], "description": description });
    let numbers = json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "array", "items": { "type": "integer", "minimum": 0 } }], "description": "Databases that its clients have selected; one, or a list." });
    let target =
        text("A cluster's name, or a target: redis://a:6379,b:6379, memcached://a:11211, embedded://.");
    let mirror = json!({ "type": "object", "additionalProperties": false, "required": ["to"], "description": "A cluster that gets copies of calls: docs/routes.md.", "properties": {
        "to": target, "percent": { "type": "number", "exclusiveMinimum": 0, "maximum": 100, "description": "Share of the keys (100)." },
        "class": class, "window": count("Unanswered copies per worker; there are no more (1024)."),
    } });
    let migrate = json!({ "type": "object", "additionalProperties": false, "required": ["to", "stage"], "description": "A cluster that the keys move to: docs/migration.md.", "properties": {
        "to": target,
        "stage": { "enum": ["old", "dual_write", "shadow_read", "backfill", "new"], "description": "How far it has come; one after the other." },
        "sweep": count("Keys per second that are moved though nobody uses them (only what is used moves)."),
        "percent": { "type": "number", "exclusiveMinimum": 0, "maximum": 100, "description": "Share of the keys whose reads are compared in `shadow_read` (100)." },
        "repair": { "type": "boolean", "description": "Whether keys are copied again whose reads differ (false)." },
        "window": count("Keys per worker that are copied, and reads that are compared, at one time (64)."),
        "pending": count("Keys that wait for their copy, over all workers; what finds no room is counted and left to the sweep (65536)."),
    } });
    let routes = json!({ "type": "array", "description": "Calls that go to other clusters: docs/routes.md, docs/http.md.", "items": { "anyOf": [{
        "type": "object", "additionalProperties": false, "required": ["to"], "properties": {
            "name": text("Unique name, used in metrics (its first condition)."),
            "prefix": words("What its keys begin with; one text, or a list. The longest wins."),
            "class": class,
            "db": numbers,
            "user": words("Its clients: users, or names in their certificates; one text, or a list."),
            "to": target,
            "filters": filter,
            "mirror": mirror,
            "migrate": migrate,
        },
    }, http::route(&target, &filter)] } });
    let oauth = json!({ "type": "object", "additionalProperties": false, "required": ["jwks_file"], "description": "Whose tokens say who clients of Kafka are: docs/kafka.md.", "properties": {
                        "jwks_file": text("File with the issuer's public keys (JWKS)."),
                        "issuer": text("What tokens must be from (anybody who has a key)."),
                        "audience": text("What tokens must be for (anything)."),
                        "claim": text("The claim that names the user (sub)."),
                    } });
    let listener = json!({
                "type": "object", "additionalProperties": false, "required": ["listen", "to"],
                "properties": {
                    "name": text("Unique name, used in metrics."),
                    "listen": text("Where clients connect: redis://127.0.0.1:6379, memcached://127.0.0.1:11211, kafka://127.0.0.1:9092, http://127.0.0.1:8080, tcp://127.0.0.1:5432, redis+unix:///path."),
                    "to": text("A cluster's name, or a target: redis://a:6379,b:6379, memcached://a:11211, kafka://a:9092, tcp://a:5432, embedded://."),
                    "routes": routes,
                    "mirror": mirror,
                    "migrate": migrate,
                    "filters": filter,
                    "max_connections": count("Clients at one time, over all workers; others get the protocol's error (65536)."),
                    "max_in_flight": count("Unanswered calls of one client (1024)."),
                    "max_output": size("Unread replies of one client (8MiB)."),
                    "max_frame": size("Largest request (512MiB; 100MiB for Kafka)."),
                    "announce": { "anyOf": [ { "enum": ["self"] }, { "type": "array", "items": { "type": "string" } } ], "description": "Clients are told that this is a cluster: of this address (`self`), or of these, host:port, which share the slots (of this one, over a Redis Cluster)." },
                    "oauth": oauth,
                    "brokers": { "type": "object", "additionalProperties": false, "description": "How clients of Kafka reach single brokers: docs/kafka.md.", "properties": {
                        "ports": { "type": ["string", "integer"], "description": "A port for each broker, as in 9093-9099 (the 16 behind the listener's own); sni for a name for each, on the listener's own; none for one address for all brokers." },
                        "host": text("The host that clients are told, in which $(id) stands for a broker's number (the address to which they have connected)."),
                    } },
                    "header_timeout": duration("Time for the head of an HTTP request, from its first byte (10s)."),
                    "body_timeout": duration("How long an HTTP body may stand still because of the client (1m)."),
                    "max_duration": duration("For a request and its answer to their ends, or a tunnel, on HTTP listeners (for ever)."),
                    "early_hints": { "type": "boolean", "description": "Whether clients of HTTP/1.1 get what servers of HTTP/1.1 answer before their answers, such as 103 (false)." },
                    "header_case": { "enum": ["lower", "preserve", "title"], "description": "How clients of HTTP/1 get names of fields; preserve is as servers have written them, whose cluster must say so too (lower)." },
                    "connect": { "type": "array", "description": "Where clients of an HTTP listener may go with CONNECT; the first that allows it counts (nowhere): docs/http.md.", "items": {
                        "type": "object", "additionalProperties": false, "required": ["allow"], "properties": {
                            "allow": words("Whom they may name: host:port, where the host may be *.example.com, an address, a network or *, and the port *; one text, or a list."),
                            "to": text("tcp:// servers to which they are led (whomever they name)."),
                        },
                    } },
                    "idle_timeout": duration("Silent clients are closed after this (never)."),
                    "proxy_protocol": { "enum": ["none", "required"], "description": "Whether each connection begins with a header of the PROXY protocol, version 1 or 2, that tells who the client is (none)." },
                    "detect": { "type": "object", "additionalProperties": false, "description": "Leads clients to other listeners by what they speak: docs/intercept.md.", "properties": {
                        "to": strings("Names of listeners; each gets the clients that speak its protocol."),
                        "ports": { "type": "object", "additionalProperties": { "type": "string" }, "description": "Ports that were dialled, and the listeners that get all such clients." },
                        "sni": { "type": "object", "additionalProperties": { "type": "string" }, "description": "Names that clients ask for in TLS handshakes (a.example, *.a.example), and the listeners that get them." },
                        "wait": duration("Time for a client to say what it speaks (100ms)."),
                    } },
                    "transparent": { "enum": ["none", "redirect", "tproxy"], "description": "How connections come here that were made to other addresses: docs/intercept.md (none)." },
                    "tls": server_tls,
                    "users": { "description": "Who may come: all, none (mecha asks nobody), or names from `users` (all, if there are users).", "anyOf": [
                        { "enum": ["all", "none"] }, strings("Names."),
                    ] },
                },
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mecha",
        "type": "object",
        "additionalProperties": false,
        "required": ["listeners"],
        "properties": {
            "listeners": { "type": "array", "minItems": 1, "items": listener },
            "clusters": { "type": "object", "additionalProperties": { "anyOf": [
                text("A target."),
                cluster,
            ] } },
            "users": { "type": "object", "minProperties": 1, "description": "Who clients can be, by name; see docs/users.md.", "additionalProperties": { "anyOf": [
                text("Rules as ACL SETUSER takes them."),
                { "type": "object", "additionalProperties": false, "properties": {
                    "rules": { "description": "As ACL SETUSER takes them: `#<sha256> ~app:* +@all -@dangerous`.", "anyOf": [text("With spaces between."), strings("One by one.")] },
                    "password_file": text("File with the password."),
                    "password_env": text("Environment variable with the password."),
                } },
            ] } },
            "admin": text("Where the admin server listens, as in 127.0.0.1:9900 (nowhere)."),
            "zone": text("Where this process is, for `read_from: nearest` (nowhere)."),
            "workers": count("Data threads (one per core)."),
            "log": { "type": "object", "additionalProperties": false, "properties": {
                "format": { "enum": ["json", "text"] }, "level": { "enum": ["error", "warn", "info", "debug", "trace"] },
            } },
            "drain_timeout": duration("Longest wait for clients when stopping (10s)."),
        },
    })
}
