//! The Master Tracker: names, the look-up table, who is alive, who copies what to whom.
//!
//! From the outside inwards, each layer knowing only those below it:
//!
//! - [`Master`] (master.rs): starts and stops all of it inside somebody's tokio runtime.
//! - [`config`]: what a user can choose, checked.
//! - [`archive`]: dumps of a stopped master's directory, and directories made of dumps.
//! - [`auth`]: who may do what: tokens, passwords, the one gate before all services, the audit log.
//! - `metrics`: what it counts.
//! - `web`: the page in a browser.
//! - [`service`]: gRPC: the sessions of mounts and keepers, and the operators' calls.
//! - [`runtime`]: owns the clock, the state, the connections and the group commit.
//! - [`store`]: keeps rows: redb on disk, or memory; and the data directory.
//! - [`core`]: the pure core: commands in, row changes and effects out. Everything that decides is there.
//!
//! There is no process-wide state, so that several masters can live in one process (the embedded cluster
//! of dfs-mount, and tests).

pub mod archive;
pub mod auth;
pub mod config;
pub mod core;
#[doc(hidden)]
pub mod fuzz;
mod metrics;
pub mod runtime;
pub mod service;
pub mod store;
mod web;

mod master;
#[cfg(test)]
mod simulation;

pub use config::{Config, ConfigError};
pub use master::{Master, MasterError};
