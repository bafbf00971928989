//! Sockets: addresses, listening, connecting, Unix and TCP streams.
