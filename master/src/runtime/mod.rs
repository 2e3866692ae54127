//! Runs the pure core: time, order, durability, delivery.
//!
//! - [`Clock`]: the time that commands are applied at; it never goes back.
//! - `group`: the group commit: which effects may leave when.
//! - `outbox`: the connections, and the bounded queue of what is to be sent on each.
//! - `deletions`: orders to delete, which wait for the next message to their keeper.
//! - `ticker`: lets time pass.
//! - [`Engine`]: the state and the above under one lock. `committer`: the thread that commits.
//!
//! What must hold: **nobody is shown a state that a crash could still take back.** A command is applied in
//! memory at once. Its row changes join the open batch, and its effects leave when that batch is on stable
//! storage. Many commands so share one sync, because a batch collects for as long as the one before it is
//! being committed. A command that changes nothing is held back only as far as it shows what is not
//! durable yet.

mod clock;
mod committer;
mod deletions;
mod engine;
pub(crate) mod group;
mod outbox;
mod ticker;

pub use clock::Clock;
#[cfg(test)]
pub(crate) use engine::quiet::changes_what_others_know;
pub(crate) use engine::quiet::may_overtake;
pub use engine::{Engine, Link, Stopped};
pub(crate) use outbox::CAPACITY as OUTBOX_CAPACITY;
pub use ticker::tick_forever;
