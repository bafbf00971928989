//! Endpoints, balancing, backoff.
