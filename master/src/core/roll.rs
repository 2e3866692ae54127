//! The roll: which mounts may trust what they have cached, in rows, so that a master that starts knows them.
//!
//! A mount that is cut off trusts what it has cached for 3 s more, and cannot be told of changes. The master that it was
//! connected to waits for it (`acks`); one that starts meanwhile would know nothing of it. So a mount has a row from before its
//! welcome until it trusts nothing any more. A master that starts takes no change while a mount of the rows has neither
//! come back (it has forgotten everything then) nor been away for so long that it trusts nothing: the runtime asks
//! [`State::awaits_mounts`]. Where all come back, nobody waits longer than they take; one that is gone for good costs the time once.
//!
//! The row comes by a command of its own ([`Command::Enroll`](super::Command::Enroll)), and the runtime says hello for the mount when it is
//! durable, or soon after where the store takes too long (a full disk, one that hangs): a mount has to be let in then too. What the mount caches is
//! right all the same as long as this master lives. Batches become durable in their order, and the row is in the one that is open when the mount
//! is let in: so any later change that others are told of is durable with the row, or after it. And what was durable before, the mount was shown.
//! What is left: this master ends before its store has taken the row, the next one finds a store that takes changes, and the mount
//! is cut off all the while. SEMANTICS.md says so.
//!
//! What must hold: who may be waited for has a row, which is durable before anything that is changed after its welcome.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::SessionId;

use super::State;
use super::acks::ACK_DEADLINE_MS;
use super::load::CorruptRow;
use super::out::Out;
use super::row::RowKey;

/// A mount of the time before the start may trust what it has cached for so long after it.
pub(crate) const TRUST_AFTER_START_MS: i64 = ACK_DEADLINE_MS;

/// A row whose mount does not say hello goes after this.
const HELLO_WITHIN_MS: i64 = 10_000;

/// See the module.
#[derive(Default)]
pub(super) struct Roll {
    /// Those that have a row.
    rows: BTreeSet<SessionId>,
    /// Of them, those that are about to say hello; until when.
    expected: BTreeMap<SessionId, i64>,
    /// Of them, those of the time before the start that are not back yet.
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

    /// A mount says hello: it has forgotten all that it had cached.
    pub fn is_back(&mut self, id: SessionId) {
        self.expected.remove(&id);
        self.awaited.remove(&id);
    }
}

impl State {
    /// May a mount of the time before the start still trust what it has cached?
    pub fn awaits_mounts(&self) -> bool {
        !self.roll.awaited.is_empty()
    }

    pub(super) fn enroll(&mut self, id: SessionId, out: &mut Out) {
        self.roll.expected.insert(id, out.now_ms.saturating_add(HELLO_WITHIN_MS));
        if self.roll.rows.insert(id) {
            out.touch(RowKey::Session(id));
        }
    }

    /// Strikes out those that trust nothing any more. (And enters who said hello when his row had gone already: that took long.)
    pub(super) fn keep_roll(&mut self, out: &mut Out) {
        let Roll { rows, expected, awaited, awaited_until_ms } = &mut self.roll;
        if out.now_ms >= *awaited_until_ms {
            awaited.clear();
        }
        expected.retain(|_, until_ms| out.now_ms < *until_ms);
        let trusts = |id: &SessionId| {
            let session = self.sessions.get(id);
            awaited.contains(id)
                || expected.contains_key(id)
                || session.is_some_and(|session| session.may_trust(out.now_ms))
        };
        let over: Vec<SessionId> = rows.iter().filter(|id| !trusts(id)).copied().collect();
        for id in over {
            rows.remove(&id);
            out.touch(RowKey::Session(id));
        }
        for (id, _) in self.sessions.iter().filter(|(_, session)| session.connected) {
            if rows.insert(*id) {
                out.touch(RowKey::Session(*id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::InodeNo;
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
    fn a_hello_changes_no_row_and_who_never_says_it_is_struck_out() {
        let mut kit = Kit::new();
        kit.apply(Command::Enroll(OTHER));
        kit.pass_ms(HELLO_WITHIN_MS - 1_000);
        assert_eq!(on_the_roll(&kit), [SESSION, OTHER]);
        let hello = pb::MountHello {
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            session: OTHER.0,
            ..pb::MountHello::default()
        };
        let before = kit.stored_rows();
        kit.apply(Command::MountHello { fresh: OTHER, root: InodeNo::ROOT, ids: Default::default(), hello });
        assert_eq!(kit.stored_rows(), before);
        kit.pass_ms(2 * HELLO_WITHIN_MS);
        assert_eq!(on_the_roll(&kit), [SESSION, OTHER]);

        kit.apply(Command::Enroll(SessionId(79)));
        kit.pass_ms(HELLO_WITHIN_MS + 1_000);
        assert_eq!(on_the_roll(&kit), [SESSION, OTHER]);
        kit.compare_with_stored();
    }
}
