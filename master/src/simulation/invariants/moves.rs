//! Moves end: when it has been calm for long, no rebalancing is under way.

use super::{Invariant, Saw};
use crate::simulation::world::World;

/// See the module.
pub(super) struct Moves;

impl Invariant for Moves {
    fn name(&self) -> &'static str {
        "moves end"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        let state = world.master.state.as_ref().filter(|_| matches!(what, Saw::End));
        match state.map(|state| state.rebalance_status()).filter(|status| status.running) {
            Some(status) => Err(format!("a rebalancing goes on and on: {status:?}")),
            None => Ok(()),
        }
    }
}
