//! The memcached back.
