//! Known bugs, to show that each invariant can fail.

use super::world::{Event, Up, World};
use crate::core::duty::Duty;
use crate::core::operator::Operation;
use crate::core::row::{ChunkRow, KeeperRow};
use crate::core::{Applied, Command, Effect, Row, RowChange, RowKey};
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{self, keeper_down, mount_down, mount_reply::Result as Reply, mount_request::Op};

/// What goes wrong, and where: in the master (its core, group commit or store), a keeper or a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    LeavesBeforeItIsDurable,
    ForgetsReservedIds,
    GivesAChunkTwice,
    LosesReplies,
    DeletesWhatIsNeeded,
    KeeperLosesSyncedChunks,
    MountForgetsNothing,
    MountWritesOutOfOrder,
    MountKeepsLostLocks,
    KeeperCopiesNothing,
    KeeperDeletesNothing,
    KeeperSaysSyncedTooEarly,
    GrantsTwice,
    GrantsTheLeaseTwice,
    CopiesToTheSource,
    LosesRows,
    AnswersNever,
    SaysSuccessTooEarly,
    InvalidatesNobody,
    AnswersFsyncTooEarly,
    DeletesAllCopies,
    LosesTrash,
    LosesNames,
    LosesTheRoll,
    ExceedsQuotas,
    ForgetsTooEarly,
    DrainsNothing,
    RebalancesForEver,
}

/// Bugs of the core: what a command did is altered.
pub(super) fn spoil(world: &mut World, command: &Command, applied: &mut Applied) {
    match world.bug {
        Some(Bug::ForgetsReservedIds) => {
            applied.changes.retain(|change| !matches!(change, RowChange::Put(Row::Counters(_))));
        }
        Some(Bug::GivesAChunkTwice) if world.rng.percent(10) => {
            for effect in &mut applied.effects {
                if let Effect::ToMount(_, mount_down::Msg::Reply(reply)) = effect
                    && let Some(Reply::Placed(placed)) = &mut reply.result
                    && let Some(old) = world.chunks.keys().next()
                {
                    placed.chunk = *old;
                }
            }
        }
        Some(Bug::LosesReplies) => {
            applied.changes.retain(|change| !matches!(change, RowChange::Put(Row::Reply { .. })));
        }
        Some(Bug::DeletesWhatIsNeeded) if world.rng.percent(1) => {
            let needed: Vec<(u64, u64)> = world
                .master
                .rows
                .chunks()
                .flat_map(|(chunk, row)| row.keepers.iter().map(move |keeper| (chunk, keeper.0)))
                .collect();
            if let Some((chunk, keeper)) = world.rng.pick(&needed) {
                let delete = keeper_down::Msg::Delete(pb::DeleteChunks { chunks: vec![chunk] });
                applied.effects.push(Effect::ToKeeper(KeeperId(keeper), delete));
            }
        }
        Some(Bug::LosesTrash) => {
            applied.changes.retain(|change| !matches!(change, RowChange::Put(Row::Trash(..))));
        }
        Some(Bug::LosesTheRoll) => {
            applied.changes.retain(|change| !matches!(change, RowChange::Put(Row::Session(_))));
        }
        Some(Bug::LosesNames) if world.rng.percent(20) => {
            applied.changes.retain(|change| !matches!(change, RowChange::Put(Row::Dentry { .. })));
        }
        // It was told ten times as much.
        Some(Bug::ExceedsQuotas) => {
            for change in &mut applied.changes {
                if let RowChange::Put(Row::Quota(_, limits)) = change {
                    limits.max_bytes = limits.max_bytes.map(|limit| limit / 10);
                    limits.max_inodes = limits.max_inodes.map(|limit| limit / 10);
                }
            }
        }
        Some(Bug::ForgetsTooEarly) => forget(world, command, applied),
        // It says that it does, and does not know of it.
        Some(Bug::DrainsNothing) => {
            if let Command::Operator(Operation::Duty { keeper, duty: Duty::CancelDrain }) = command
                && let Some(row) = keeper.parse().ok().and_then(|id| world.master.rows.keeper(id))
            {
                let row = KeeperRow { draining: true, ..row.clone() };
                let id = KeeperId(keeper.parse().unwrap_or(0));
                applied.changes.push(RowChange::Put(Row::Keeper(id, row)));
            }
        }
        // The success comes with the place.
        Some(Bug::SaysSuccessTooEarly) => {
            let Command::Mount { request: pb::MountRequest { op: Some(Op::Alloc(alloc)), .. }, .. } = command
            else {
                return;
            };
            let placed = applied.effects.iter().find_map(|effect| match effect {
                Effect::ToMount(session, mount_down::Msg::Reply(reply)) => match &reply.result {
                    Some(Reply::Placed(placed)) => Some((*session, placed.chunk)),
                    _ => None,
                },
                _ => None,
            });
            if let Some((session, chunk)) = placed {
                let done = pb::UploadDone { chunk, inode: alloc.inode, ..pb::UploadDone::default() };
                applied.effects.push(Effect::ToMount(session, mount_down::Msg::UploadDone(done)));
            }
        }
        // As if all had forgotten what they were to forget.
        Some(Bug::InvalidatesNobody) => {
            let mut unsaid = Vec::new();
            applied.effects.retain(|effect| match effect {
                Effect::ToMount(session, mount_down::Msg::Invalidate(what)) => {
                    unsaid.push((*session, what.seq));
                    false
                }
                _ => true,
            });
            for (session, seq) in unsaid {
                let mount = world.mounts.iter().find(|mount| mount.session == session.0);
                if let Some(link) = mount.and_then(|mount| mount.link) {
                    world.after(1, Event::Up(link, Up::Acks(vec![seq])));
                }
            }
        }
        Some(Bug::AnswersFsyncTooEarly) => {
            if let Command::Mount { session, request } = command
                && let Some(Op::Fsync(_)) = &request.op
                && !applied.effects.iter().any(|effect| matches!(effect, Effect::ToMount(..)))
            {
                let reply = pb::MountReply {
                    id: request.id,
                    result: Some(Reply::Empty(pb::Empty {})),
                    ..Default::default()
                };
                applied.effects.push(Effect::ToMount(*session, mount_down::Msg::Reply(reply)));
            }
        }
        Some(Bug::DeletesAllCopies) if world.rng.percent(1) => {
            let needed: Vec<u64> = world.master.durable.chunks().map(|(chunk, _)| chunk).collect();
            let Some(chunk) = world.rng.pick(&needed) else { return };
            for keeper in world.keepers.iter().filter(|keeper| keeper.id != 0) {
                let delete = keeper_down::Msg::Delete(pb::DeleteChunks { chunks: vec![chunk] });
                applied.effects.push(Effect::ToKeeper(KeeperId(keeper.id), delete));
            }
        }
        // Whoever is refused gets the lock as well.
        Some(Bug::GrantsTwice) => grant(applied),
        // Whoever waits gets the lease at once.
        Some(Bug::GrantsTheLeaseTwice) => {
            if let Command::Mount { session, request } = command
                && let Some(Op::SetLock(pb::SetLock { lock: Some(lock), wait: true })) = &request.op
                && lock.kind == pb::LockKind::Append as i32
                && applied
                    .effects
                    .iter()
                    .all(|effect| !matches!(effect, Effect::ToMount(to, _) if to == session))
            {
                let size = world.master.rows.inode(lock.inode).map_or(0, |row| row.size);
                let attr = Some(pb::Attr { inode: lock.inode, size, ..pb::Attr::default() });
                let result = Some(Reply::Lock(pb::LockInfo { conflict: None, attr }));
                let reply = pb::MountReply { id: request.id, result, ..Default::default() };
                applied.effects.push(Effect::ToMount(*session, mount_down::Msg::Reply(reply)));
            }
        }
        Some(Bug::CopiesToTheSource) => {
            for effect in &mut applied.effects {
                if let Effect::ToKeeper(source, keeper_down::Msg::Push(push)) = effect
                    && let Some(to) = push.grant.as_mut().and_then(|grant| grant.keepers.first_mut())
                {
                    to.keeper = source.0;
                }
            }
        }
        Some(Bug::LosesRows) if world.rng.percent(2) => drop(applied.changes.pop()),
        Some(Bug::AnswersNever) if world.rng.percent(1) => {
            applied.effects.retain(|effect| !matches!(effect, Effect::ToMount(_, mount_down::Msg::Reply(_))))
        }
        _ => {}
    }
}

/// A keeper is forgotten whatever it has.
fn forget(world: &World, command: &Command, applied: &mut Applied) {
    let Command::Operator(Operation::Duty { keeper, duty: Duty::Forget }) = command else { return };
    let Some(id) = keeper.parse().ok().filter(|_| applied.changes.is_empty()).map(KeeperId) else { return };
    applied.changes.push(RowChange::Delete(RowKey::Keeper(id)));
    for (chunk, row) in world.master.rows.chunks().filter(|(_, row)| row.keepers.contains(&id)) {
        let keepers = row.keepers.iter().copied().filter(|keeper| *keeper != id).collect();
        applied.changes.push(RowChange::Put(Row::Chunk(ChunkId(chunk), ChunkRow { keepers, ..row.clone() })));
    }
}

fn grant(applied: &mut Applied) {
    for effect in &mut applied.effects {
        if let Effect::ToMount(_, mount_down::Msg::Reply(reply)) = effect
            && let Some(Reply::Error(error)) = &reply.result
            && error.code == pb::Code::WouldBlock as i32
        {
            reply.result = Some(Reply::Lock(pb::LockInfo::default()));
        }
    }
}
