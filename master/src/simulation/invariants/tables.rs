//! The tables fit together, and a restart changes nothing: the core's own check holds, and a state made of the stored rows
//! tells operators the same of every file, chunk, copy and quota.

use dfs_proto::pb;

use super::{Invariant, Saw};
use crate::core::State;
use crate::simulation::world::World;

/// Commands between two looks.
const EVERY: u64 = 97;

/// See the module.
#[derive(Default)]
pub(super) struct Tables;

/// What operators see of it, but for who is alive.
fn shown(state: &State, now: pb::Time) -> Result<String, String> {
    let status = state.status(now);
    let mut cursor = None;
    let mut rows = Vec::new();
    loop {
        let (page, next) = state.lookup_rows(b"/", cursor, 10_000).map_err(|error| error.to_string())?;
        rows.extend(page.into_iter().map(|row| (row.file, row.chunk, row.offset, row.length, row.keeper)));
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let quotas = state.quotas(b"").map_err(|error| error.to_string())?;
    Ok(format!(
        "{} files, {} directories, {} bytes, {} chunks; {rows:?}; {quotas:?}",
        status.files, status.directories, status.bytes, status.chunks
    ))
}

impl Invariant for Tables {
    fn name(&self) -> &'static str {
        "the tables fit together"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        let due = match what {
            Saw::Applied { .. } => world.commands.is_multiple_of(EVERY),
            Saw::End | Saw::Started => true,
            _ => false,
        };
        let Some(state) = world.master.state.as_ref().filter(|_| due) else { return Ok(()) };
        state.check()?;
        let mut again = State::new(world.master.settings.clone());
        let mut rows = world.master.rows.0.values().cloned();
        let loaded =
            rows.try_for_each(|row| again.load_row(row)).and_then(|()| again.finish_load(world.now()));
        loaded.map_err(|error| format!("what is stored cannot be loaded: {error}"))?;
        let (here, there) = (shown(state, world.now())?, shown(&again, world.now())?);
        if here != there {
            return Err(format!("a restart makes of\n{here}\nthis:\n{there}"));
        }
        Ok(())
    }
}
