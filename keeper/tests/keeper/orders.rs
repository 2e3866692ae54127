//! What the master orders.

use std::net::TcpListener;

use dfs_keeper::Keeper;
use dfs_proto::pb::TicketOp::{Copy, Read, Write};
use dfs_proto::pb::{self, keeper_down as down, keeper_up::Msg};
use tempfile::tempdir;

use crate::client::Client;
use crate::master::Master;
use crate::{chunk_file, count_files, data, flip_byte, keeper, wait_until};

fn store(master: &Master, keeper: &Keeper, chunk: u64, bytes: &[u8]) {
    Client::connect(keeper.address()).upload(&master.grant(Write, chunk, &[keeper]), bytes, false).unwrap();
}

async fn copy_failed(master: &Master, keeper: u64, order: u64) -> pb::Error {
    master
        .wait("CopyFailed", keeper, |msg| match msg {
            Msg::CopyFailed(failed) if failed.order == order => failed.error.clone(),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_pushed_and_the_destination_says_so() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let (a, b) = (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await);
    let bytes = data(2_000_003);
    store(&master, &a, 5, &bytes);
    let info = master.wait_stored(1, 5).await.info;
    master.order(2, down::Msg::Expect(pb::ExpectChunk { order: 8, info, source: 1 }));
    let grant = Some(master.grant(Copy, 5, &[&b]));
    master.order(1, down::Msg::Push(pb::PushChunk { order: 8, chunk: 5, grant, urgent: false }));
    let copied = master
        .wait("Copied", 2, |msg| match msg {
            Msg::Copied(copied) => Some(*copied),
            _ => None,
        })
        .await;
    assert_eq!(copied, pb::Copied { info, order: 8 });
    let grant = master.grant(Read, 5, &[&b]);
    assert_eq!(Client::connect(b.address()).read_all(&grant, bytes.len()).unwrap(), bytes);
    assert!(!master.heard(2).iter().any(|m| matches!(m, Msg::Stored(_))));
    master.wait_synced(2, 5).await;
    let said = master.heard(2);
    let at = |wanted: fn(&Msg) -> bool| said.iter().position(wanted).unwrap();
    let synced = at(|m| matches!(m, Msg::Synced(s) if s.chunks.contains(&5)));
    assert!(at(|m| matches!(m, Msg::Copied(_))) < synced);
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_is_never_replicated() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let (a, b) = (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await);
    store(&master, &a, 5, &data(1_000_000));
    flip_byte(&chunk_file(&dirs[0], 5), 4096 + 900_000);
    let grant = Some(master.grant(Copy, 5, &[&b]));
    master.order(1, down::Msg::Push(pb::PushChunk { order: 8, chunk: 5, grant, urgent: false }));
    assert_eq!(copy_failed(&master, 1, 8).await.code(), pb::Code::Corrupt);
    assert_eq!(master.wait_bad(1, 5).await.code(), pb::Code::Corrupt);
    wait_until("the destination threw it away", || count_files(&dirs[1].path().join("tmp")) == 0);
    assert!(!chunk_file(&dirs[1], 5).exists());
    assert_eq!(count_files(&dirs[0].path().join("quarantine")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_made_is_reported() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    store(&master, &keeper, 5, b"bytes");
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let grant = Some(master.grant_at(Copy, 5, &[(2, dead)], |_| ()));
    master
        .order(1, down::Msg::Push(pb::PushChunk { order: 1, chunk: 5, grant: grant.clone(), urgent: false }));
    assert_eq!(copy_failed(&master, 1, 1).await.code(), pb::Code::Unavailable);
    master.order(1, down::Msg::Push(pb::PushChunk { order: 2, chunk: 6, grant, urgent: false }));
    assert_eq!(copy_failed(&master, 1, 2).await.code(), pb::Code::NotFound);
    master.order(1, down::Msg::Push(pb::PushChunk { order: 3, chunk: 5, grant: None, urgent: false }));
    assert_eq!(copy_failed(&master, 1, 3).await.code(), pb::Code::Invalid);
    // A refusal of the destination comes back in its own words.
    let me = [(1, keeper.address().to_string())];
    let expired = Some(master.grant_at(Copy, 5, &me, |t| t.expires_ms -= 62_000));
    master.order(1, down::Msg::Push(pb::PushChunk { order: 4, chunk: 5, grant: expired, urgent: false }));
    assert_eq!(copy_failed(&master, 1, 4).await.code(), pb::Code::TicketExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_chunks_are_gone() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    store(&master, &keeper, 5, b"bytes");
    store(&master, &keeper, 6, b"more");
    master.order(1, down::Msg::Delete(pb::DeleteChunks { chunks: vec![5, 99] }));
    wait_until("it is deleted", || !chunk_file(&dir, 5).exists());
    assert!(chunk_file(&dir, 6).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_late_does_not_take_a_newer_copy() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let (a, b) = (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await);
    for keeper in [&a, &b] {
        store(&master, keeper, 5, &data(300_000));
    }
    store(&master, &b, 6, b"the last to be deleted");
    let info = master.wait_stored(1, 5).await.info;
    // The stream to the destination is slower than the one to the source: the copy comes before the deletion that was
    // ordered before it.
    let grant = Some(master.grant(Copy, 5, &[&b]));
    master.order(1, down::Msg::Push(pb::PushChunk { order: 8, chunk: 5, grant, urgent: false }));
    let whole = || {
        let mut coming = std::fs::read_dir(dirs[1].path().join("tmp")).unwrap().flatten();
        coming.any(|file| {
            file.metadata().is_ok_and(|found| found.len() == 4096 + 300_000 || found.len() == 300_000)
        })
    };
    wait_until("all of the copy came, and waits to be announced", whole);
    master.order(2, down::Msg::Delete(pb::DeleteChunks { chunks: vec![5, 6] }));
    master.order(2, down::Msg::Expect(pb::ExpectChunk { order: 8, info, source: 1 }));
    master
        .wait("Copied", 2, |msg| match msg {
            Msg::Copied(copied) => Some(*copied),
            _ => None,
        })
        .await;
    wait_until("the deletion is done", || !chunk_file(&dirs[1], 6).exists());
    assert!(chunk_file(&dirs[1], 5).exists(), "the newer copy was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_announced_is_refused() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let (a, b) = (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await);
    store(&master, &a, 5, b"bytes");
    let grant = Some(master.grant(Copy, 5, &[&b]));
    master.order(1, down::Msg::Push(pb::PushChunk { order: 8, chunk: 5, grant, urgent: false }));
    assert_eq!(copy_failed(&master, 1, 8).await.code(), pb::Code::Unavailable);
    assert!(!chunk_file(&dirs[1], 5).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_a_flipped_byte() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    store(&master, &keeper, 5, &data(300_000));
    store(&master, &keeper, 6, &data(300_000));
    flip_byte(&chunk_file(&dir, 5), 4096 + 299_999);
    for chunk in [6, 5, 7] {
        master.order(1, down::Msg::Verify(pb::VerifyChunk { chunk, info: None }));
    }
    assert_eq!(master.wait_bad(1, 5).await.code(), pb::Code::Corrupt);
    assert_eq!(master.wait_bad(1, 7).await.code(), pb::Code::NotFound);
    assert!(!master.heard(1).iter().any(|m| matches!(m, Msg::BadCopy(bad) if bad.chunk == 6)));
    assert_eq!(count_files(&dir.path().join("quarantine")), 1);
    assert!(!chunk_file(&dir, 5).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_asked_for_is_answered_also_when_it_is_done_already() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    store(&master, &keeper, 5, b"bytes");
    let times = || {
        let said = master.heard(1);
        said.iter().filter(|m| matches!(m, Msg::Synced(s) if s.chunks.contains(&5))).count()
    };
    wait_until("it is synced by itself", || times() == 1);
    let said = master.heard(1);
    let stored = said.iter().position(|m| matches!(m, Msg::Stored(_))).unwrap();
    let synced = said.iter().position(|m| matches!(m, Msg::Synced(s) if s.chunks.contains(&5))).unwrap();
    assert!(stored < synced, "the master hears of the chunk first");
    master.order(1, down::Msg::Sync(pb::SyncChunks { chunks: vec![5, 77] }));
    wait_until("it is said again", || times() == 2);
    assert_eq!(master.wait_bad(1, 77).await.code(), pb::Code::NotFound);
}
