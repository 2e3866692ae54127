//! The roll: which mounts may trust what they have cached, in rows, so that a master that starts knows them.
//!
//! A mount that is cut off trusts what it has cached for 3 s more, and cannot be told of changes. The master that it was
//! connected to waits for it (`acks`); one that starts meanwhile would know nothing of it. So the row of a mount is durable before it is
//! welcomed, and goes when it trusts nothing any more. A master that starts takes no change while a mount of the rows has neither
//! come back (it has forgotten everything then) nor been away for so long that it trusts nothing: the runtime asks
//! [`State::awaits_mounts`]. Where all come back, nobody waits longer than they take; one that is gone for good costs the time once.
//!
//! While the store takes nothing, a mount is welcomed without a row, which follows: nobody can change anything meanwhile.
//!
//! What must hold: who may be waited for has a row, but for those that were welcomed while the store took nothing.

use std::collections::BTreeSet;

use dfs_proto::ids::SessionId;

use super::State;
use super::acks::ACK_DEADLINE_MS;
use super::load::CorruptRow;
use super::out::Out;
use super::row::RowKey;

/// A mount of the time before the start may trust what it has cached for so long after it.
pub(crate) const TRUST_AFTER_START_MS: i64 = ACK_DEADLINE_MS;

/// See the module.
#[derive(Default)]
pub(super) struct Roll {
    /// Those that have a row.
    rows: BTreeSet<SessionId>,
    /// Of the time before the start, and not back yet.
    awaited: BTreeSet<SessionId>,
    awaited_until_ms: i64,
}

impl Roll {
    pub fn has(&self, id: SessionId) -> bool {
        self.rows.contains(&id)
    }

    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = SessionId> {
        self.rows.iter().copied()
    }

    pub fn load(&mut self, id: SessionId) -> Result<(), CorruptRow> {
        if !self.rows.insert(id) {
            return Err(CorruptRow(format!("session {id} is on the roll twice")));
        }
        self.awaited.insert(id);
        Ok(())
    }

    pub fn begin_after_load(&mut self, now_ms: i64) {
        self.awaited_until_ms = now_ms.saturating_add(TRUST_AFTER_START_MS);
    }
}

impl State {
    /// May a mount of the time before the start still trust what it has cached?
    pub fn awaits_mounts(&self) -> bool {
        !self.roll.awaited.is_empty()
    }

    /// A mount says hello: it has forgotten all that it had cached, and may trust what it caches from now on.
    pub(super) fn enroll(&mut self, id: SessionId, store_takes_rows: bool, out: &mut Out) {
        self.roll.awaited.remove(&id);
        if store_takes_rows && self.roll.rows.insert(id) {
            out.touch(RowKey::Session(id));
        }
    }

    /// Strikes out those that trust nothing any more, and enters those that could not be when they came.
    pub(super) fn keep_roll(&mut self, out: &mut Out) {
        if out.now_ms >= self.roll.awaited_until_ms {
            self.roll.awaited.clear();
        }
        let trusts = |id: &SessionId| {
            self.roll.awaited.contains(id)
                || self.sessions.get(id).is_some_and(|session| session.may_trust(out.now_ms))
        };
        let over: Vec<SessionId> = self.roll.rows.iter().filter(|id| !trusts(id)).copied().collect();
        let connected = self.sessions.iter().filter(|(_, session)| session.connected).map(|(id, _)| *id);
        let missing: Vec<SessionId> = connected.filter(|id| !self.roll.has(*id)).collect();
        for id in over {
            self.roll.rows.remove(&id);
            out.touch(RowKey::Session(id));
        }
        for id in missing {
            self.roll.rows.insert(id);
            out.touch(RowKey::Session(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::pb;

    use super::super::testkit::{Kit, SESSION};
    use super::*;
    use crate::core::Command;

    const OTHER: SessionId = SessionId(78);

    fn on_the_roll(kit: &Kit) -> Vec<SessionId> {
        kit.state.roll.keys().collect()
    }

    #[test]
    fn a_master_that_starts_waits_for_those_who_were_there_until_each_is_back() {
        let mut kit = Kit::new();
        kit.hello(OTHER, &[]);
        assert!(!kit.state.awaits_mounts());
        kit.restart();
        assert!(kit.state.awaits_mounts());
        kit.hello(OTHER, &[]);
        assert!(kit.state.awaits_mounts(), "the other one may still trust");
        kit.hello(SESSION, &[]);
        assert!(!kit.state.awaits_mounts());
        kit.pass_ms(10_000);
        assert_eq!(on_the_roll(&kit), [SESSION, OTHER]);
    }

    #[test]
    fn it_does_not_wait_longer_than_anybody_trusts_what_he_has_and_not_again() {
        let mut kit = Kit::new();
        kit.restart();
        kit.pass_ms(3_900);
        assert!(kit.state.awaits_mounts());
        kit.pass_ms(200);
        assert!(!kit.state.awaits_mounts());
        kit.restart();
        assert!(!kit.state.awaits_mounts(), "once");
    }

    #[test]
    fn who_trusts_nothing_any_more_is_not_waited_for() {
        let mut kit = Kit::new();
        kit.hello(OTHER, &[]);
        // It was unmounted.
        kit.apply(Command::MountGone { session: OTHER, clean: true });
        kit.tick();
        assert_eq!(on_the_roll(&kit), [SESSION]);
        // Its stream broke: it may not know that yet.
        kit.gone(SESSION);
        kit.pass_ms(3_900);
        assert_eq!(on_the_roll(&kit), [SESSION]);
        kit.pass_ms(1_000);
        assert_eq!(on_the_roll(&kit), []);
        // It is back, after all.
        kit.hello(SESSION, &[]);
        assert_eq!(on_the_roll(&kit), [SESSION]);
        kit.compare_with_stored();
    }

    #[test]
    fn who_came_while_the_store_took_nothing_is_entered_later() {
        let mut kit = Kit::new();
        let hello = pb::MountHello {
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            session: OTHER.0,
            ..pb::MountHello::default()
        };
        kit.apply(Command::MountHello { fresh: OTHER, hello, store_takes_rows: false });
        assert_eq!(on_the_roll(&kit), [SESSION]);
        kit.tick();
        assert_eq!(on_the_roll(&kit), [SESSION, OTHER]);
    }
}
