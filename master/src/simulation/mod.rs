//! A simulation of the pure core: many masters' worth of commands, in virtual time, from one seed. Outside-in: real
//! commands go in, and what counts is the effects that leave and the rows that are stored.
//!
//! - `world`: time, and streams that break. `chaos`: misfortunes, until it is calm.
//! - `master`: the core behind the runtime's group commit, with a store that forgets what was not committed.
//! - `door`: what the engine and the service have before the core.
//! - `operators`: quotas, the trash, duties of keepers, rebalancing, fsck.
//! - `mount` (with `writes`, `locking`, `cache`) and `keeper`: scripted peers, that do what the real ones do.
//! - `invariants`: what must hold, one file each. `sabotage`: known bugs, each of which one of them has to find.
//!
//! A failure prints its seed; `DFS_SIM_SEED=N` plays that one again, with all that happens in it. `DFS_SIM_SEEDS=N` runs so
//! many (docs/TESTING.md).

mod cache;
mod chaos;
mod door;
mod invariants;
mod keeper;
mod locking;
mod master;
mod mount;
mod operators;
mod rng;
mod rows;
mod sabotage;
mod tests;
mod world;
mod writes;

pub(crate) use sabotage::Bug;
