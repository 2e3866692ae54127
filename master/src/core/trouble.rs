//! Keepers whose session lives though their data port fails others: stopped, stuck, cut off from some. Pure.
//!
//! Whoever fails at a keeper says so: a mount with its next `Alloc` (`avoid`), a keeper with `Stored.failed` and
//! `CopyFailed`. Such a keeper is *shunned* for a while: it gets new chunks and copies only when nobody else can take
//! them. When keepers have failed at it for as long as makes a silent one dead, it is *unreachable*: no upload waits
//! for a copy on it. What a mount says alone does not make it that, for it may be the mount that is cut off. The
//! first transfer that goes well ends the trouble.

use std::collections::BTreeMap;

use dfs_proto::DEAD_AFTER_MS;
use dfs_proto::ids::KeeperId;

/// How long it is shunned the first time; twice as long each time it fails again after that.
const SHUN_MS: i64 = 10_000;
/// At most.
const LONGEST_SHUN_MS: i64 = 60_000;
/// A failure that comes later than this after a time of shunning counts as the first.
const REMEMBERED_MS: i64 = 60_000;

struct Trouble {
    until_ms: i64,
    last_shun_ms: i64,
    /// When a keeper first failed at it.
    confirmed_ms: Option<i64>,
    shunned: bool,
    unreachable: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Troubles(BTreeMap<KeeperId, Trouble>);

impl Troubles {
    /// A mount could not transfer to it.
    pub fn mount_failed(&mut self, keeper: KeeperId, now_ms: i64) {
        self.failed(keeper, now_ms);
    }

    /// Another keeper could not.
    pub fn keeper_failed(&mut self, keeper: KeeperId, now_ms: i64) {
        self.failed(keeper, now_ms).confirmed_ms.get_or_insert(now_ms);
    }

    fn failed(&mut self, keeper: KeeperId, now_ms: i64) -> &mut Trouble {
        let trouble = self.0.entry(keeper).or_insert_with(|| Trouble {
            until_ms: now_ms,
            last_shun_ms: SHUN_MS / 2,
            confirmed_ms: None,
            shunned: false,
            unreachable: false,
        });
        if !trouble.shunned {
            trouble.shunned = true;
            trouble.last_shun_ms = (trouble.last_shun_ms * 2).min(LONGEST_SHUN_MS);
            trouble.until_ms = now_ms.saturating_add(trouble.last_shun_ms);
            tracing::warn!(%keeper, for_ms = trouble.last_shun_ms, "transfers to this keeper fail; others are preferred for a while");
        }
        trouble
    }

    /// A transfer to it went well.
    pub fn served(&mut self, keeper: KeeperId) {
        if self.0.remove(&keeper).is_some() {
            tracing::info!(%keeper, "transfers to this keeper work again");
        }
    }

    pub fn tick(&mut self, now_ms: i64) {
        let dead_after_ms = i64::try_from(DEAD_AFTER_MS).unwrap_or(i64::MAX);
        for trouble in self.0.values_mut() {
            trouble.shunned = now_ms < trouble.until_ms;
            trouble.unreachable =
                trouble.confirmed_ms.is_some_and(|at| now_ms.saturating_sub(at) > dead_after_ms);
        }
        self.0.retain(|_, trouble| now_ms < trouble.until_ms.saturating_add(REMEMBERED_MS));
    }

    /// Is it to be taken last?
    pub fn is_shunned(&self, keeper: KeeperId) -> bool {
        self.0.get(&keeper).is_some_and(|trouble| trouble.shunned)
    }

    /// Is there no hope for a copy on it soon?
    pub fn is_unreachable(&self, keeper: KeeperId) -> bool {
        self.0.get(&keeper).is_some_and(|trouble| trouble.unreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;
    use dfs_proto::error::{DfsError, ErrorCode};
    use dfs_proto::ids::InodeNo;
    use dfs_proto::pb::{self, keeper_up::Msg};

    const KEEPER: KeeperId = KeeperId(1);

    #[test]
    fn it_is_shunned_for_a_while_and_longer_when_it_fails_again() {
        let mut troubles = Troubles::default();
        troubles.mount_failed(KEEPER, 0);
        troubles.mount_failed(KEEPER, 5_000);
        troubles.tick(SHUN_MS - 1);
        assert!(troubles.is_shunned(KEEPER));
        troubles.tick(SHUN_MS);
        assert!(!troubles.is_shunned(KEEPER));
        troubles.mount_failed(KEEPER, SHUN_MS);
        troubles.tick(3 * SHUN_MS - 1);
        assert!(troubles.is_shunned(KEEPER) && !troubles.is_unreachable(KEEPER));
        troubles.served(KEEPER);
        assert!(!troubles.is_shunned(KEEPER));
    }

    #[test]
    fn only_keepers_can_say_that_it_is_unreachable() {
        let mut troubles = Troubles::default();
        troubles.mount_failed(KEEPER, 0);
        troubles.tick(9_000);
        assert!(!troubles.is_unreachable(KEEPER));
        troubles.keeper_failed(KEEPER, 9_000);
        troubles.tick(12_000);
        assert!(!troubles.is_unreachable(KEEPER));
        troubles.tick(12_001);
        assert!(troubles.is_unreachable(KEEPER));
        troubles.served(KEEPER);
        assert!(!troubles.is_unreachable(KEEPER));
    }

    #[test]
    fn the_next_uploads_go_elsewhere_and_so_do_copies() {
        let mut kit = Kit::with_keepers(4);
        let file = kit.create(InodeNo::ROOT, "f");
        let first = kit.alloc(file, 0, 10);
        let failed = Kit::placed_on(&first)[0];
        kit.try_alloc(file, &[(0, 10)], first.chunk, &[failed.0]).unwrap();
        for at in 1..7 {
            let placed = kit.alloc(file, at * 10, 10);
            assert!(!Kit::placed_on(&placed).contains(&failed), "{placed:?}");
            kit.sent.clear();
            kit.store_on(&placed, &Kit::placed_on(&placed)[..1]);
            let to: Vec<KeeperId> = kit.pushes().into_iter().map(|(_, _, _, to)| to).collect();
            assert!(!to.is_empty() && !to.contains(&failed), "{to:?}");
            kit.copy_all();
        }
        kit.pass_ms(SHUN_MS + 1_000);
        let used = (7..15).any(|at| Kit::placed_on(&kit.alloc(file, at * 10, 10)).contains(&failed));
        assert!(used, "it is tried again");
    }

    #[test]
    fn an_upload_does_not_wait_for_a_keeper_that_no_keeper_can_reach() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let placed = kit.alloc(file, 0, 10);
        let on = Kit::placed_on(&placed);
        kit.store_on(&placed, &on[..1]);
        assert_eq!(kit.attr(file).size, 0, "it waits for a copy");
        for (order, chunk, source, _) in kit.pushes() {
            let error = DfsError::new(ErrorCode::Unavailable, "nobody listens").to_wire();
            let failed = pb::CopyFailed { order, chunk: chunk.0, error: Some(error) };
            kit.keeper_says(source, Msg::CopyFailed(failed));
        }
        kit.pass_ms(2_000);
        assert_eq!(kit.attr(file).size, 0);
        kit.pass_ms(2_000);
        assert_eq!(kit.attr(file).size, 10);
        assert_eq!(kit.state.status(kit.now()).endangered, 1);
    }
}
