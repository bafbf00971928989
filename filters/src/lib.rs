//! Policies and typed filters.
