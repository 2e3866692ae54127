//! Sequences that once failed.

