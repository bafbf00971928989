//! Schema, validation and the immutable snapshot.
