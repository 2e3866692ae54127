//! Tests of `compact.rs` and its parts.
