//! The client: the cluster as a directory. From the kernel inwards, each layer knowing only the next:
//!
//! - [`fuse`]: a thin adapter to the kernel: decode, spawn, reply. The only module that knows fuser.
//! - [`fs`]: the file system's logic in its own types: lookup, open, read, write, rename, ...; open files and
//!   handles, and what may be cached.
//! - [`read`]: planner, prefetcher, verified block cache.
//! - [`write`]: dirty buffers, frozen, uploading, committed: in order, under one byte budget.
//! - [`client`]: the session and its calls to the master, connections to keepers.
//!
//! Around them, what makes programs of it:
//!
//! - [`options`], [`mountpoint`], [`daemon`]: what `dfs-mount` is told, where it mounts, how it goes to the
//!   background.
//! - [`embedded`]: a whole cluster in one process. The only module that knows the master and the keeper.
//! - [`cli`]: the commands of `dfs`.
//!
//! `lock` is how all of them take a lock.

pub mod cli;
pub mod client;
pub mod daemon;
pub mod embedded;
pub mod fs;
pub mod fuse;
mod lock;
pub mod mountpoint;
pub mod options;
pub mod read;
pub mod write;
