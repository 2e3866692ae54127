//! The write path and the file system's logic, over real TCP, against real masters and keepers in this process.

// A test that cannot be set up has failed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod callers;
mod cluster;
mod errors;
mod faults;
mod line;
mod listing;
mod model;
mod order;
mod truth;
