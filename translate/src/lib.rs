//! The kv family: RESP and Memcached over Redis, Memcached and the embedded store.
