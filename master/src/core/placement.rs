//! Where copies go, and which of them goes when there are too many: one rule for uploads, replication,
//! compaction and trimming.
//!
//! Copies of a chunk are spread over racks first, then over hosts, then over keepers, and never are two on one keeper. How badly
//! some keepers are spread is their [`Crowding`]: a new copy goes where it adds least to it, and the copy that adds
//! most to it is trimmed. So what one of them does the other never undoes.
//!
//! A keeper that is being drained gets nothing new, and its copies count for nothing. One in maintenance is the last
//! choice, because it may be gone in a moment.

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::KeeperId;
use dfs_proto::label;

use super::State;
use super::keepers::Keeper;
use super::row::KeeperRow;

/// A keeper takes no new chunk when it would be left with less than this.
pub(super) const FREE_RESERVE_BYTES: u64 = 16 << 20;

/// How much copies of one chunk would fall with each other; less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Crowding {
    /// Pairs of them that are in one rack.
    racks: u32,
    /// Pairs of them that are on one host.
    hosts: u32,
}

/// Where a keeper is: its rack and its host, as numbers. All keepers are looked at for each copy that is placed, and
/// to compare names took most of the master's time where there are a thousand. Two names with one number (one pair in 2^64)
/// would be taken for one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    rack: u64,
    host: u64,
}

impl Spot {
    pub fn of(row: &KeeperRow) -> Spot {
        let number = |name: &str| {
            // Always the same keys: the same commands give the same state.
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        };
        let rack = row.labels.get(label::RACK).map_or("", String::as_str);
        Spot { rack: number(rack), host: number(&row.host) }
    }

    /// What a copy here adds to the crowding of copies there.
    fn crowds(self, others: &[Spot]) -> Crowding {
        let mut crowding = Crowding::default();
        for other in others {
            crowding.racks += u32::from(other.rack == self.rack);
            crowding.hosts += u32::from(other.host == self.host);
        }
        crowding
    }
}

impl Keeper {
    /// Can be given orders, and has not run out of ways to take bytes.
    pub fn is_writable(&self) -> bool {
        self.alive && self.connected && !self.load.read_only
    }

    /// Has room for a chunk of this length, beside all that is on its way.
    pub fn has_room(&self, length: u32) -> bool {
        let need = self.pending_bytes.saturating_add(u64::from(length)).saturating_add(FREE_RESERVE_BYTES);
        self.load.free >= need
    }

    /// May a new chunk of this length be put on it?
    pub fn takes(&self, length: u32) -> bool {
        self.is_writable() && self.has_room(length) && !self.row.draining
    }

    /// The part of its space that is used, of 2^32.
    pub fn fill(&self) -> u64 {
        let whole = u128::from(self.load.used) + u128::from(self.load.free);
        let part = (u128::from(self.load.used) << 32) / whole.max(1);
        // At most 2^32.
        part as u64
    }
}

impl State {
    fn spots<'a>(&self, keepers: impl IntoIterator<Item = &'a KeeperId>) -> Vec<Spot> {
        keepers.into_iter().filter_map(|id| self.keepers.get(id)).map(|keeper| keeper.spot).collect()
    }

    /// Of all of these together.
    pub(super) fn crowding(&self, keepers: &[KeeperId]) -> Crowding {
        let spots = self.spots(keepers);
        let mut crowding = Crowding::default();
        for (at, spot) in spots.iter().enumerate() {
            let more = spot.crowds(&spots[..at]);
            crowding.racks += more.racks;
            crowding.hosts += more.hosts;
        }
        crowding
    }

    /// Keepers for a new chunk: the primary, then companions in relay order, `want` in all if there are
    /// so many. The best spread first, then least bytes under way, then the one that waited longest; those of `avoid`,
    /// and those that others have trouble with, only when nobody else is left.
    ///
    /// # Errors
    /// `NoKeeper`: none is live. `NoSpace`: those that are take nothing.
    pub(super) fn place(&mut self, length: u32, want: u32, avoid: &[u64]) -> Result<Vec<KeeperId>, DfsError> {
        let mut chosen: Vec<KeeperId> = Vec::new();
        while chosen.len() < want as usize {
            let spots = self.spots(&chosen);
            let next = self
                .keepers
                .iter()
                .filter(|(id, keeper)| keeper.takes(length) && !chosen.contains(id))
                .min_by_key(|(id, keeper)| {
                    let avoided = avoid.contains(&id.0) || self.troubles.is_shunned(**id);
                    let unwanted = (avoided, keeper.row.in_maintenance());
                    let last = if chosen.is_empty() { keeper.last_primary } else { keeper.last_placed };
                    (unwanted, keeper.spot.crowds(&spots), keeper.pending_bytes, last, **id)
                })
                .map(|(id, _)| *id);
            let Some(next) = next else { break };
            // A companion that just failed would only fail again.
            if (avoid.contains(&next.0) || self.troubles.is_shunned(next)) && !chosen.is_empty() {
                break;
            }
            chosen.push(next);
        }
        if chosen.is_empty() {
            return Err(self.nobody_takes());
        }
        for (at, id) in chosen.iter().enumerate() {
            self.placements += 1;
            if let Some(keeper) = self.keepers.get_mut(id) {
                keeper.last_placed = self.placements;
                if at == 0 {
                    keeper.last_primary = self.placements;
                }
                keeper.pending_bytes += u64::from(length);
            }
        }
        Ok(chosen)
    }

    fn nobody_takes(&self) -> DfsError {
        let mut live = self.keepers.values().filter(|keeper| keeper.alive && keeper.connected).peekable();
        if live.peek().is_none() {
            return DfsError::new(
                ErrorCode::NoKeeper,
                "no keeper is live: start one, or see why they are gone",
            );
        }
        let message = if live.all(|keeper| keeper.row.draining) {
            "every live keeper is being drained; add a keeper, or cancel a drain with 'dfs drain --cancel'"
        } else {
            "every live keeper is full, read-only or being drained; add a keeper or make room"
        };
        DfsError::new(ErrorCode::NoSpace, message)
    }

    /// Where one more copy goes, beside copies on `others`: the best spread, then the fewest orders, then the
    /// emptiest. `may`: further conditions.
    pub(super) fn select_beside(
        &self,
        length: u32,
        others: &[KeeperId],
        may: impl Fn(KeeperId, &Keeper) -> bool,
    ) -> Option<KeeperId> {
        let spots = self.spots(others);
        self.keepers
            .iter()
            .filter(|(id, keeper)| keeper.takes(length) && !others.contains(id) && may(**id, keeper))
            .min_by_key(|(id, keeper)| {
                let crowds = keeper.spot.crowds(&spots);
                let free = keeper.load.free.saturating_sub(keeper.pending_bytes);
                let shunned = self.troubles.is_shunned(**id);
                (shunned, keeper.row.in_maintenance(), crowds, keeper.orders_in, Reverse(free), **id)
            })
            .map(|(id, _)| *id)
    }

    /// Which of these copies is needed least: one that is being drained, then the one that crowds the others most,
    /// then the one on the fullest keeper.
    pub(super) fn least_needed(&self, copies: &[KeeperId]) -> Option<KeeperId> {
        let staying: Vec<KeeperId> = copies.iter().copied().filter(|id| !self.is_draining(*id)).collect();
        copies
            .iter()
            .filter_map(|id| self.keepers.get(id).map(|keeper| (*id, keeper)))
            .max_by_key(|(id, keeper)| {
                let others = self.spots(staying.iter().filter(|other| *other != id));
                (keeper.row.draining, keeper.spot.crowds(&others), keeper.fill(), Reverse(*id))
            })
            .map(|(id, _)| id)
    }

    pub(super) fn is_draining(&self, keeper: KeeperId) -> bool {
        self.keepers.get(&keeper).is_some_and(|keeper| keeper.row.draining)
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
