//! fsync: which copies are not known to be on stable storage, and who waits for them.
//!
//! A copy is unsynced from when it is recorded until its keeper says otherwise. That outlives the keeper's
//! death: a keeper that comes back has not therefore synced anything. Not stored: after a restart of the master the
//! copies of a keeper count as synced when it has been heard of for some time, since keepers sync all they have within a second; until
//! then none does.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::command::Effect;
use super::out::{Out, Res, fail};
use super::request::reply;

/// Longest wait for an fsync.
const FSYNC_DEADLINE_MS: i64 = 20_000;
/// Most fsyncs of all sessions that wait.
const MAX_WAITS: usize = 4096;

/// So many copies are looked at one by one.
const FEW_UNSYNCED: usize = 64;

/// After a restart nobody knows what keepers have synced; so long after they came they have all of it.
const UNKNOWN_AFTER_LOAD_MS: i64 = 2_000;

struct Wait {
    session: SessionId,
    request: u64,
    inode: InodeNo,
    /// Not yet on enough stable storage.
    chunks: BTreeSet<ChunkId>,
    deadline_ms: i64,
}

/// All of it.
#[derive(Default)]
pub(super) struct Syncs {
    unsynced: BTreeSet<(ChunkId, KeeperId)>,
    waits: BTreeMap<u64, Wait>,
    next_wait: u64,
    /// Until then any copy may be unsynced.
    unknown_until_ms: Option<i64>,
    /// Keepers of before a restart, whose copies may be unsynced, and when they came back.
    unknown: BTreeMap<KeeperId, Option<i64>>,
}

impl Syncs {
    /// The master was restarted, and knows these.
    pub fn begin_after_load(&mut self, keepers: impl Iterator<Item = KeeperId>, now_ms: i64) {
        self.unknown_until_ms = Some(now_ms.saturating_add(UNKNOWN_AFTER_LOAD_MS));
        self.unknown = keepers.map(|keeper| (keeper, None)).collect();
    }

    /// A keeper is there, perhaps anew: it may not have synced what it has.
    pub fn came(&mut self, keeper: KeeperId, now_ms: i64) {
        if let Some(since) = self.unknown.get_mut(&keeper) {
            *since = Some(now_ms);
        }
    }

    /// It is nobody any more.
    pub fn forget_keeper(&mut self, keeper: KeeperId) {
        self.unknown.remove(&keeper);
    }

    pub fn add(&mut self, chunk: ChunkId, keeper: KeeperId) {
        self.unsynced.insert((chunk, keeper));
    }

    pub fn forget(&mut self, chunk: ChunkId, keeper: KeeperId) {
        self.unsynced.remove(&(chunk, keeper));
    }

    pub fn is_synced(&self, chunk: ChunkId, keeper: KeeperId) -> bool {
        self.unknown_until_ms.is_none()
            && !self.unknown.contains_key(&keeper)
            && !self.unsynced.contains(&(chunk, keeper))
    }

    pub fn unsynced(&self) -> impl Iterator<Item = (ChunkId, KeeperId)> {
        self.unsynced.iter().copied()
    }

    /// Nobody is left to be answered on that stream.
    pub fn drop_waits_of(&mut self, session: SessionId) {
        self.waits.retain(|_, wait| wait.session != session);
    }
}

impl State {
    /// Is the chunk on stable storage at `min_copies` live keepers, or at all live ones that have it, and at one at
    /// least, live or not? One that has left the table is nobody's any more.
    pub(super) fn is_durable(&self, chunk: ChunkId) -> bool {
        let Some(row) = self.chunks.get(chunk) else { return true };
        if self.syncs.unknown_until_ms.is_some() {
            // Those that were not heard of since the restart may have more.
            return false;
        }
        let (mut live, mut live_synced, mut synced) = (0, 0, 0);
        for keeper in &*row.keepers {
            let (lives, is_synced) =
                (u32::from(self.is_alive(*keeper)), u32::from(self.syncs.is_synced(chunk, *keeper)));
            live += lives;
            live_synced += lives & is_synced;
            synced += is_synced;
        }
        synced > 0 && live_synced >= self.settings.min_copies.min(live)
    }

    pub(super) fn ask_to_sync(&self, chunk: ChunkId, out: &mut Out) {
        for keeper in self.chunks.get(chunk).into_iter().flat_map(|row| &*row.keepers) {
            let connected = self.keepers.get(keeper).is_some_and(|keeper| keeper.alive && keeper.connected);
            if connected && !self.syncs.is_synced(chunk, *keeper) {
                out.sync(*keeper, chunk);
            }
        }
    }

    /// Chunks of the file that are not on stable storage, as far as is known.
    pub(super) fn not_durable(&self, inode: InodeNo) -> BTreeSet<ChunkId> {
        if self.syncs.unknown_until_ms.is_some() {
            return self.chunks_of(inode);
        }
        if self.syncs.unknown.is_empty() && self.is_all_durable() {
            return BTreeSet::new();
        }
        self.chunks_of(inode).into_iter().filter(|chunk| !self.is_durable(*chunk)).collect()
    }

    /// Is every chunk of the cluster durable? What is not synced yet is mostly third copies of the last second, which nobody waits
    /// for; to look at them is less than to look at every chunk of a large file. False also when they are many.
    fn is_all_durable(&self) -> bool {
        let all_have_copies = self.chunks.wanting().below(1).next().is_none();
        let unsynced = &self.syncs.unsynced;
        all_have_copies
            && unsynced.len() <= FEW_UNSYNCED
            && unsynced.iter().all(|(chunk, _)| self.is_durable(*chunk))
    }

    /// `None`: the reply follows when keepers have synced.
    pub(super) fn fsync(
        &mut self,
        session: SessionId,
        request: u64,
        inode: InodeNo,
        out: &mut Out,
    ) -> Res<Option<Reply>> {
        out.show(inode);
        self.inode(inode)?;
        let chunks = self.not_durable(inode);
        if chunks.is_empty() {
            return Ok(Some(Reply::Empty(pb::Empty {})));
        }
        self.check_not_lost(inode, &chunks)?;
        if self.syncs.waits.len() >= MAX_WAITS {
            return fail(ErrorCode::Busy, format!("fsync of inode {inode}: too many others wait; try again"));
        }
        for chunk in &chunks {
            self.ask_to_sync(*chunk, out);
        }
        let deadline_ms = out.now_ms + FSYNC_DEADLINE_MS;
        let wait = Wait { session, request, inode, chunks, deadline_ms };
        self.syncs.next_wait += 1;
        self.syncs.waits.insert(self.syncs.next_wait, wait);
        Ok(None)
    }

    pub(super) fn synced(&mut self, keeper: KeeperId, synced: &pb::Synced, out: &mut Out) {
        for chunk in &synced.chunks {
            self.syncs.forget(ChunkId(*chunk), keeper);
        }
        self.recheck_syncs(out);
    }

    /// Of a chunk whose last copy went bad, nobody will ever have one synced.
    fn check_not_lost(&self, inode: InodeNo, chunks: &BTreeSet<ChunkId>) -> Res<()> {
        let is_lost = |chunk: &&ChunkId| self.chunks.get(**chunk).is_some_and(|row| row.keepers.is_empty());
        let Some(chunk) = chunks.iter().find(is_lost) else { return Ok(()) };
        let message = format!(
            "fsync of inode {inode}: no keeper has chunk {chunk} any more; write again what the file has there ('dfs \
             status' names the file), or bring back a keeper that has it"
        );
        fail(ErrorCode::Lost, message)
    }

    /// Answers the fsyncs that have waited long enough, one way or the other.
    pub(super) fn recheck_syncs(&mut self, out: &mut Out) {
        for (number, mut wait) in std::mem::take(&mut self.syncs.waits) {
            wait.chunks.retain(|chunk| !self.is_durable(*chunk));
            if let Err(error) = self.check_not_lost(wait.inode, &wait.chunks) {
                push(reply(wait.session, wait.request, Err(error)), out);
            } else if wait.chunks.is_empty() {
                out.show(wait.inode);
                let done = Ok(Reply::Empty(pb::Empty {}));
                push(reply(wait.session, wait.request, done), out);
            } else {
                self.syncs.waits.insert(number, wait);
            }
        }
    }

    pub(super) fn expire_syncs(&mut self, out: &mut Out) {
        if self.syncs.unknown_until_ms.is_some_and(|until_ms| out.now_ms >= until_ms) {
            self.syncs.unknown_until_ms = None;
        }
        // Until it is heard of again it may have done nothing, or be dead.
        let is_known = |id: &KeeperId, since: i64| {
            let heard_ms = self.keepers.get(id).map_or(i64::MIN, |keeper| keeper.last_heard_ms);
            heard_ms >= since.saturating_add(UNKNOWN_AFTER_LOAD_MS)
        };
        self.syncs.unknown.retain(|id, since| !since.is_some_and(|since| is_known(id, since)));
        self.recheck_syncs(out);
        let late: Vec<u64> = self
            .syncs
            .waits
            .iter()
            .filter(|(_, wait)| out.now_ms >= wait.deadline_ms)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let Some(wait) = self.syncs.waits.remove(&number) else { continue };
            let message = format!(
                "fsync of inode {}: {} chunks are not on stable storage after {FSYNC_DEADLINE_MS} ms",
                wait.inode,
                wait.chunks.len()
            );
            push(reply(wait.session, wait.request, fail(ErrorCode::TimedOut, message)), out);
        }
    }

    /// A copy more, which is not synced, may be one that an fsync now has to wait for.
    pub(super) fn ask_sync_if_waited_for(&self, chunk: ChunkId, out: &mut Out) {
        if self.syncs.waits.values().any(|wait| wait.chunks.contains(&chunk)) {
            self.ask_to_sync(chunk, out);
        }
    }

    /// A keeper's new stream: what was asked of it on the old one may be lost.
    pub(super) fn ask_syncs_again(&self, keeper: KeeperId, out: &mut Out) {
        for chunk in self.syncs.waits.values().flat_map(|wait| &wait.chunks) {
            if self.chunks.has_copy(*chunk, keeper) && !self.syncs.is_synced(*chunk, keeper) {
                out.sync(keeper, *chunk);
            }
        }
        // Word that these are synced may be lost, too.
        for (chunk, _) in self.syncs.unsynced().filter(|(_, at)| *at == keeper) {
            out.sync(keeper, chunk);
        }
    }
}

fn push(effect: Effect, out: &mut Out) {
    if let Effect::ToMount(session, msg) = effect {
        out.for_mount(session, msg);
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Command;
    use super::super::testkit::{Kit, SESSION};
    use super::*;

    fn setup() -> (Kit, InodeNo, ChunkId) {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        (kit, file, chunk)
    }

    #[test]
    fn fsync_waits_for_min_copies_synced_copies() {
        let (mut kit, file, chunk) = setup();
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        kit.sent.clear();
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        assert_eq!(kit.reply_to(request), None);
        for keeper in &holders {
            assert!(kit.was_asked_to_sync(*keeper, chunk));
        }
        kit.synced(holders[0], chunk);
        assert_eq!(kit.reply_to(request), None);
        kit.synced(holders[1], chunk);
        assert_eq!(kit.reply_to(request), Some(Reply::Empty(pb::Empty {})));
        // Now that all is synced, at once.
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        assert_eq!(kit.reply_to(request), Some(Reply::Empty(pb::Empty {})));
    }

    #[test]
    fn the_success_message_says_whether_an_fsync_is_left_to_do() {
        let (mut kit, file, chunk) = setup();
        let upload = |kit: &mut Kit, synced: bool| {
            let placed = kit.alloc(file, 0, 5);
            let holders = Kit::placed_on(&placed);
            kit.store_synced(&placed, &holders, synced);
            kit.done().pop().unwrap()
        };
        assert!(!kit.done()[0].synced, "{chunk} is not");
        assert!(!upload(&mut kit, false).synced);
        assert!(!upload(&mut kit, true).synced, "the rest of the file is not");
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        for keeper in holders {
            kit.synced(keeper, chunk);
        }
        assert!(upload(&mut kit, true).synced);
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        assert_eq!(kit.reply_to(request), Some(Reply::Empty(pb::Empty {})));
    }

    #[test]
    fn fsync_does_not_wait_for_the_dead() {
        let (mut kit, file, chunk) = setup();
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        kit.synced(holders[0], chunk);
        kit.kill(holders[1]);
        assert_eq!(kit.reply_to(request), Some(Reply::Empty(pb::Empty {})));
    }

    #[test]
    fn fsync_does_not_succeed_because_everybody_who_should_sync_is_dead() {
        let (mut kit, file, chunk) = setup();
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        holders.iter().for_each(|keeper| kit.kill(*keeper));
        assert_eq!(kit.reply_to(request), None, "nobody has it on stable storage");
        kit.pass_ms(20_000);
        let Some(Reply::Error(error)) = kit.reply_to(request) else { panic!("no error") };
        assert_eq!(error.code, pb::Code::TimedOut as i32);
    }

    fn is_lost(reply: Option<Reply>) -> bool {
        matches!(reply, Some(Reply::Error(error)) if error.code == pb::Code::Lost as i32)
    }

    #[test]
    fn fsync_fails_at_once_when_the_last_copy_went_bad_before_it_was_synced() {
        let (mut kit, file, chunk) = setup();
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        let waits = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        holders.iter().for_each(|keeper| kit.bad_copy(*keeper, chunk));
        assert!(is_lost(kit.reply_to(waits)), "{:?}", kit.reply_to(waits));
        // Nothing waits to be synced any more.
        let later = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        assert!(is_lost(kit.reply_to(later)), "{:?}", kit.reply_to(later));
        // One comes back with it.
        kit.reconnect(holders[0]);
        kit.inventory(holders[0], vec![kit.info(chunk)]);
        kit.synced(holders[0], chunk);
        let again = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        assert_eq!(kit.reply_to(again), Some(Reply::Empty(pb::Empty {})));
    }

    /// The master was restarted, and an fsync waits for what one keeper alone may have.
    fn restarted() -> (Kit, ChunkId, KeeperId, u64) {
        let (mut kit, file, chunk) = setup();
        let holder = kit.state.chunks.get(chunk).unwrap().keepers[0];
        kit.restart();
        kit.hello(SESSION, &[file]);
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        kit.pass_ms(3_000);
        assert_eq!(kit.reply_to(request), None, "nobody who has it came back");
        (kit, chunk, holder, request)
    }

    #[test]
    fn after_a_restart_a_keeper_counts_when_it_has_been_there_for_a_while() {
        let (mut kit, chunk, holder, request) = restarted();
        kit.reconnect(holder);
        kit.inventory(holder, vec![kit.info(chunk)]);
        kit.pass_ms(1_000);
        assert!(!kit.state.syncs.is_synced(chunk, holder));
        kit.apply(Command::KeeperGone(holder));
        kit.pass_silently_ms(1_500);
        assert!(!kit.state.syncs.is_synced(chunk, holder), "it went too early");
        kit.reconnect(holder);
        kit.pass_ms(1_000);
        assert!(!kit.state.syncs.is_synced(chunk, holder), "it may have died meanwhile");
        assert_eq!(kit.reply_to(request), None);
        kit.pass_ms(1_000);
        assert!(kit.state.syncs.is_synced(chunk, holder));
        assert_eq!(kit.reply_to(request), Some(Reply::Empty(pb::Empty {})));
    }

    #[test]
    fn after_a_restart_a_keeper_that_is_silent_does_not_count_until_it_has_been_heard_of_for_a_while() {
        let (mut kit, chunk, holder, request) = restarted();
        kit.reconnect(holder);
        kit.inventory(holder, vec![kit.info(chunk)]);
        kit.pass_silently_ms(2_500);
        assert!(!kit.state.syncs.is_synced(chunk, holder), "it may have been stopped");
        kit.pass_silently_ms(2_500);
        assert!(!kit.state.is_alive(holder));
        // Its stream did not break.
        kit.heartbeat(holder);
        kit.pass_ms(1_000);
        assert!(!kit.state.syncs.is_synced(chunk, holder));
        kit.pass_ms(1_000);
        assert!(kit.state.syncs.is_synced(chunk, holder));
        assert_eq!(kit.reply_to(request), Some(Reply::Empty(pb::Empty {})));
    }

    #[test]
    fn fsync_gives_up_after_its_deadline() {
        let (mut kit, file, _) = setup();
        let request = kit.request(pb::mount_request::Op::Fsync(pb::Fsync { inode: file.0 }));
        kit.pass_ms(19_000);
        assert_eq!(kit.reply_to(request), None);
        kit.pass_ms(1_000);
        let Some(Reply::Error(error)) = kit.reply_to(request) else { panic!("no error") };
        assert_eq!(error.code, pb::Code::TimedOut as i32);
    }
}
