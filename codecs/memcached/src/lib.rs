//! Memcached text and meta protocol: frames, command table, session state.
