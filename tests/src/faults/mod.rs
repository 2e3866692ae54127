//! Faults, with a checker: real processes that fail at random, programs that work on the mounts meanwhile, and a
//! judgement over all that they wrote and saw.
//!
//! - [`content`]: blocks and records that say what they must be, to the last byte.
//! - [`log`]: the log of operations: what was called when, and what came of it.
//! - [`work`]: the programs on one mount. They run in a process of their own (`dfs-test-worker`), because a process that
//!   has files open on a mount that stands still cannot start programs, nor be ended.
//! - [`check`]: the checker. Pure: a log in, everything that is wrong with it out.
//! - [`plan`]: which faults, when, for how long; from a seed.
//! - [`inject`]: doing that to the processes of a cluster.
//! - [`disk`]: what happens to a keeper's directory.
//! - [`round`]: one round: work, faults, healing, the judgement.
//!
//! What must hold: nothing here but the workers touches a mount. Everything else only ever looks at processes,
//! directories of keepers and what the command line says.

pub mod check;
pub mod content;
pub mod disk;
pub mod inject;
pub mod log;
pub mod plan;
pub mod round;
pub mod work;
