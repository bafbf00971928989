//! What must hold for any bytes.
//!
//! A *target* is a function that panics when something does not hold. The driver of this package (`cargo run -p
//! mecha-fuzz`) feeds them mutated seeds for a time, on the stable compiler; under a nightly one, `cargo fuzz run any
//! --features libfuzzer` does the same with coverage to guide it.

mod codec;
mod config;
mod http;
mod kafka;
mod translation;

pub use codec::whole_frames;

/// One thing that must hold.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Panics if it does not hold for these bytes.
    pub check: fn(&[u8]),
    /// Bytes to start from: such as occur.
    pub seeds: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "config", check: config::any_text, seeds: config::SEEDS },
    Target { name: "http_framing", check: http::framing, seeds: http::SEEDS },
    Target { name: "kafka_batch", check: kafka::batch, seeds: kafka::BATCHES },
    Target { name: "kafka_body", check: kafka::body, seeds: kafka::BODIES },
    Target { name: "kafka_frames", check: kafka::frames, seeds: kafka::FRAMES },
    Target { name: "memcached_binary", check: codec::memcached_binary, seeds: codec::MEMCACHED_BINARY },
    Target { name: "memcached_reply", check: codec::memcached_reply, seeds: codec::MEMCACHED_REPLIES },
    Target { name: "memcached_request", check: codec::memcached_request, seeds: codec::MEMCACHED_REQUESTS },
    Target {
        name: "memcached_roundtrip",
        check: codec::memcached_roundtrip,
        seeds: codec::MEMCACHED_REPLIES,
    },
    Target { name: "memcached_on_store", check: translation::memcached, seeds: codec::MEMCACHED_REQUESTS },
    Target { name: "rdb_payload", check: translation::payload, seeds: translation::PAYLOADS },
    Target {
        name: "replies_of_memcached",
        check: translation::of_memcached,
        seeds: codec::MEMCACHED_REPLIES,
    },
    Target { name: "replies_of_redis", check: translation::of_redis, seeds: codec::RESP_REPLIES },
    Target { name: "resp_on_store", check: translation::resp, seeds: codec::RESP_REQUESTS },
    Target { name: "resp_reply", check: codec::resp_reply, seeds: codec::RESP_REPLIES },
    Target { name: "resp_request", check: codec::resp_request, seeds: codec::RESP_REQUESTS },
];
