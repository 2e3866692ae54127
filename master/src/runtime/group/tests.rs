//! What may leave when. Here a session's number is the file's, and a reply's is the step's.

use super::*;
use crate::core::row::InodeRow;
use dfs_proto::ids::{ChunkId, KeeperId, SessionId};
use pb::{keeper_down, mount_down};

fn reply(id: u64) -> Effect {
    let reply = pb::MountReply { id, ..Default::default() };
    Effect::ToMount(SessionId(1), mount_down::Msg::Reply(reply))
}

fn placed(id: u64) -> Effect {
    let result = Some(pb::mount_reply::Result::Placed(pb::Placed::default()));
    Effect::ToMount(SessionId(1), mount_down::Msg::Reply(pb::MountReply { id, result, ..Default::default() }))
}

fn invalidate(inode: u64) -> Effect {
    let invalidate = pb::Invalidate { inode, ..Default::default() };
    Effect::ToMount(SessionId(2), mount_down::Msg::Invalidate(invalidate))
}

fn delete_chunk() -> Effect {
    Effect::ToKeeper(KeeperId(1), keeper_down::Msg::Delete(pb::DeleteChunks { chunks: vec![1] }))
}

fn inode_row(inode: u64) -> RowChange {
    let zero = pb::Time::default();
    RowChange::Put(Row::Inode(
        InodeNo(inode),
        InodeRow {
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            content_version: 0,
            target: None,
        },
    ))
}

fn counters(next: u64) -> RowChange {
    RowChange::Put(Row::Counters(Counters { next_inode: next, next_chunk: 1, next_keeper: 1 }))
}

fn change(changes: Vec<RowChange>, effects: Vec<Effect>) -> Applied {
    Applied { changes, effects, shows: vec![] }
}

fn show(inodes: &[u64], effects: Vec<Effect>) -> Applied {
    Applied { changes: vec![], effects, shows: inodes.iter().copied().map(InodeNo).collect() }
}

/// Admits a command as the engine would, and returns what leaves at once.
fn admit(group: &mut GroupCommit, applied: Applied) -> Vec<Effect> {
    let only_answers = effects_answer(&applied.effects);
    match group.admit(only_answers, applied) {
        Admitted::Now(effects) => effects,
        Admitted::Queued => vec![],
    }
}

#[test]
fn a_change_is_answered_when_its_batch_is_durable() {
    let mut group = GroupCommit::default();
    assert_eq!(admit(&mut group, change(vec![inode_row(5)], vec![reply(1)])), vec![]);
    assert!(group.has_open());
    assert_eq!(group.take(), vec![inode_row(5)]);
    assert!(!group.has_open());
    let committed = group.committed();
    assert_eq!((committed.effects, committed.commands), (vec![reply(1)], 1));
}

#[test]
fn commands_during_a_commit_share_the_next_one_in_order() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![inode_row(5)], vec![reply(1)]));
    group.take();
    for n in 2..100 {
        assert_eq!(admit(&mut group, change(vec![inode_row(n)], vec![reply(n)])), vec![]);
    }
    assert_eq!(group.committed().effects, vec![reply(1)]);
    assert_eq!(group.take(), (2..100).map(inode_row).collect::<Vec<_>>());
    assert_eq!(group.committed().effects, (2..100).map(reply).collect::<Vec<_>>());
}

#[test]
fn a_clean_inode_is_shown_at_once_and_a_changed_one_is_not() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![inode_row(5)], vec![reply(1)]));
    assert_eq!(admit(&mut group, show(&[6], vec![reply(2)])), vec![reply(2)]);
    assert_eq!(admit(&mut group, show(&[6, 5], vec![reply(3)])), vec![]);
    group.take();
    assert_eq!(admit(&mut group, show(&[5], vec![reply(4)])), vec![], "in flight is not durable");
    assert_eq!(group.committed().effects, vec![reply(1), reply(3), reply(4)]);
    assert_eq!(admit(&mut group, show(&[5], vec![reply(5)])), vec![reply(5)]);
    assert!(!group.has_open());
}

#[test]
fn what_shows_the_batch_in_flight_does_not_wait_for_the_open_one() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![inode_row(5)], vec![reply(1)]));
    group.take();
    admit(&mut group, change(vec![inode_row(6)], vec![reply(2)]));
    admit(&mut group, show(&[5], vec![reply(3)]));
    admit(&mut group, show(&[5, 6], vec![reply(4)]));
    assert_eq!(group.committed().effects, vec![reply(1), reply(3)]);
    group.take();
    assert_eq!(group.committed().effects, vec![reply(2), reply(4)]);
}

#[test]
fn an_inode_changed_again_stays_changed_until_the_second_batch_is_durable() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![inode_row(5)], vec![]));
    group.take();
    admit(&mut group, change(vec![inode_row(5)], vec![]));
    group.committed();
    assert_eq!(admit(&mut group, show(&[5], vec![reply(1)])), vec![]);
    group.take();
    group.committed();
    assert_eq!(admit(&mut group, show(&[5], vec![reply(2)])), vec![reply(2)]);
}

#[test]
fn every_row_that_belongs_to_an_inode_changes_it() {
    let name = || (*b"n").into();
    let extent =
        crate::core::row::ExtentRow { file_offset: 0, length: 1, chunk: ChunkId(1), chunk_offset: 0 };
    let inode = InodeNo(5);
    let value = bytes::Bytes::new();
    let cases = [
        RowChange::Put(Row::Dentry { parent: inode, name: name(), inode: InodeNo(9) }),
        RowChange::Put(Row::Dentry { parent: InodeNo(9), name: name(), inode }),
        RowChange::Put(Row::Extent(inode, extent)),
        RowChange::Put(Row::Xattr { inode, name: name(), value }),
        RowChange::Delete(RowKey::Inode(inode)),
        RowChange::Delete(RowKey::Dentry { parent: inode, name: name() }),
        RowChange::Delete(RowKey::Extent { inode, file_offset: 0 }),
        RowChange::Delete(RowKey::Xattr { inode, name: name() }),
    ];
    for case in cases {
        let mut group = GroupCommit::default();
        admit(&mut group, change(vec![case.clone()], vec![]));
        assert_eq!(admit(&mut group, show(&[5], vec![reply(1)])), vec![], "{case:?}");
    }
}

#[test]
fn an_answer_does_not_overtake_an_invalidation_of_the_same_inode() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![inode_row(5)], vec![invalidate(7)]));
    assert_eq!(admit(&mut group, show(&[7], vec![reply(1)])), vec![]);
    assert_eq!(admit(&mut group, show(&[8], vec![reply(2)])), vec![reply(2)]);
    group.take();
    assert_eq!(group.committed().effects, vec![invalidate(7), reply(1)]);
}

#[test]
fn orders_to_keepers_wait_for_everything() {
    let mut group = GroupCommit::default();
    assert_eq!(admit(&mut group, show(&[], vec![delete_chunk()])), vec![delete_chunk()]);
    admit(&mut group, change(vec![inode_row(5)], vec![reply(1)]));
    assert_eq!(admit(&mut group, show(&[], vec![delete_chunk()])), vec![]);
    group.take();
    assert_eq!(group.committed().effects, vec![reply(1), delete_chunk()]);
    assert_eq!(admit(&mut group, show(&[], vec![delete_chunk()])), vec![delete_chunk()]);
}

#[test]
fn no_id_is_handed_out_before_its_reservation_is_durable() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![counters(1024)], vec![reply(1)]));
    assert_eq!(admit(&mut group, show(&[], vec![placed(2)])), vec![]);
    // Who is given none does not wait: the disk may take no writes for long.
    let ack = Effect::ToKeeper(KeeperId(1), keeper_down::Msg::Ack(pb::HeartbeatAck::default()));
    for answer in [reply(3), ack] {
        assert_eq!(admit(&mut group, show(&[7], vec![answer.clone()])), vec![answer]);
    }
    group.take();
    group.committed();
    admit(&mut group, change(vec![counters(1024)], vec![reply(4)]));
    assert_eq!(admit(&mut group, show(&[], vec![placed(5)])), vec![placed(5)], "nothing new was reserved");
}

#[test]
fn a_batch_that_nobody_waits_for_does_not_hurry() {
    let mut group = GroupCommit::default();
    admit(&mut group, change(vec![inode_row(5)], vec![]));
    group.admit_as(true, true, change(vec![inode_row(6)], vec![reply(1)]));
    assert!(group.has_open() && !group.hurries());
    // Of something else: it does not rest on the batch.
    assert_eq!(admit(&mut group, show(&[7], vec![reply(2)])), vec![reply(2)]);
    assert!(!group.hurries());
    admit(&mut group, show(&[5], vec![reply(3)]));
    assert!(group.hurries());
    group.take();
    assert!(!group.hurries());
    assert_eq!(group.committed().effects, vec![reply(1), reply(3)]);
    group.hurry();
    assert!(!group.hurries(), "there is nothing");
    group.admit_as(false, true, change(vec![inode_row(6)], vec![reply(1), invalidate(6)]));
    assert!(group.hurries(), "others are told");
    group.take();
    group.committed();
    (0..MAX_PATIENT as u64)
        .for_each(|n| assert!(admit(&mut group, change(vec![inode_row(n)], vec![])).is_empty()));
    assert!(group.hurries(), "it is large");
}

#[test]
fn only_questions_can_be_answered_early() {
    assert!(asks(&Command::Mount { session: SessionId(1), request: pb::MountRequest::default() }));
    let heartbeat = pb::keeper_up::Msg::Heartbeat(pb::Heartbeat::default());
    assert!(asks(&Command::Keeper { keeper: KeeperId(1), msg: heartbeat }));
    // The answer to an fsync, say: what it depends on is more than an inode.
    let synced = pb::keeper_up::Msg::Synced(pb::Synced::default());
    assert!(!asks(&Command::Keeper { keeper: KeeperId(1), msg: synced }));
    assert!(!asks(&Command::Tick));
    assert!(effects_answer(&[reply(1)]));
    assert!(!effects_answer(&[reply(1), invalidate(1)]));
    assert!(!effects_answer(&[delete_chunk()]));
}
