//! What master, keepers and mounts say to each other, and nothing else. Everything here is either
//! on the wire, or a word that all of them share.
//!
//! - `proto/dfs/v1/*.proto`, compiled into [`pb`]: the gRPC services (a mount's session, a keeper's session,
//!   the operators' calls) and the structured parts of data-plane frames.
//! - [`ids`]: inode, chunk, keeper, session and cluster ids as types.
//! - [`error`]: the error that crosses process borders, and the one table to errno.
//! - [`frame`]: the framing of the TCP data plane.
//! - [`ticket`]: what the master signs and the keepers check.
//! - [`block_sum`]: the checksums of a chunk.
//! - [`atime`]: when a read changes an atime.
//! - [`json`]: what operators are told.
//! - [`label`]: what keepers are labelled with.
//! - [`lock_ranges`]: the bytes that one owner has locked.
//! - [`looks`]: how mounts look for a master that is down, and when one that starts takes changes.
//! - [`request_kind`]: what each request of a mount is to those who carry it.
//! - [`secret`]: what nobody may see. [`token`], [`token_file`]: who somebody is, signed.
//! - [`time`]: points in time.
//! - [`units`] and [`logging`]: how people type sizes and periods, and how every binary logs.
//! - [`otlp`]: what is logged of operations, as traces for a collector.
//!
//! This crate depends on nothing of ours; master, keeper and mount depend on it.

pub mod atime;
pub mod block_sum;
pub mod error;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod ids;
pub mod json;
pub mod label;
pub mod lock_ranges;
pub mod logging;
pub mod looks;
pub mod otlp;
pub mod request_kind;
pub mod secret;
pub mod ticket;
pub mod time;
pub mod token;
pub mod token_file;
pub mod units;

/// The messages and services of `proto/dfs/v1/*.proto`, as prost and tonic generate them.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod pb {
    tonic::include_proto!("dfs.v1");
}

/// The path of every call of every service, `/dfs.v1.Service/Method`, as the .proto files have them.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The version of everything above. Peers of another version are refused with `Code::Version`.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest gRPC message, both ways, in bytes. Pages of directories, layouts and inventories are
/// cut so that they stay well below it.
pub const MAX_MESSAGE_LEN: usize = 4 * 1024 * 1024;

/// Longest name of a directory entry, in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Longest target of a symbolic link, in bytes (PATH_MAX less the NUL).
pub const MAX_SYMLINK_LEN: usize = 4095;

/// Largest file, in bytes: what a signed 64-bit offset can reach.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;

/// Silence after which a keeper counts as dead.
pub const DEAD_AFTER_MS: u64 = 3_000;
