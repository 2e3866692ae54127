//! Sequences that once gave another outcome than the local file system.
