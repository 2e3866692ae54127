//! A chunk's transfer to a keeper.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_mount::client::data::KeeperPool;
use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::ErrorCode;
use dfs_proto::pb;

use crate::keeper::{Keeper, Mode, grant};
use crate::noise;

fn pieces(data: &[u8], step: usize) -> Vec<Bytes> {
    data.chunks(step).map(Bytes::copy_from_slice).collect()
}

#[tokio::test]
async fn a_chunk_of_many_pieces_arrives_whole() {
    let (first, second) = (Keeper::start(1), Keeper::start(2));
    let data = noise(1, 3_000_001);
    let placed = pb::Placed { chunk: 9, grant: Some(grant(9, &[&first, &second])) };
    let pool = KeeperPool::new();
    for step in [100_000, 777, 4 << 20] {
        let done = pool.store(&placed, &pieces(&data, step), &BlockSums::of(&data), true, 0).await.unwrap();
        assert_eq!(done, pb::WriteDone { keepers: vec![1, 2], synced: true, failed: vec![] });
        assert!(first.inner.chunks.lock().unwrap().remove(&9).unwrap() == data);
    }
}

#[tokio::test]
async fn an_early_refusal_is_told_in_the_keepers_words() {
    let keeper = Keeper::start(1);
    keeper.set(Mode::Refuses(ErrorCode::NoSpace));
    let data = noise(2, 8 << 20);
    let placed = pb::Placed { chunk: 9, grant: Some(grant(9, &[&keeper])) };
    let error =
        KeeperPool::new().store(&placed, &pieces(&data, 1 << 20), &BlockSums::of(&data), false, 0).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, ErrorCode::NoSpace, "{error}");
    assert!(error.message.contains("refused by the test") && error.message.contains("keeper 1"), "{error}");
}

#[tokio::test]
async fn a_keeper_that_hung_up_meanwhile_is_connected_anew() {
    let keeper = Keeper::start(1);
    keeper.set(Mode::HangsUp);
    let data = noise(3, 300_000);
    let placed = pb::Placed { chunk: 9, grant: Some(grant(9, &[&keeper])) };
    let pool = KeeperPool::new();
    for _ in 0..5 {
        pool.store(&placed, &pieces(&data, 65_536), &BlockSums::of(&data), false, 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_keeper_that_never_answers_is_given_up() {
    let keeper = Keeper::start(1);
    keeper.set(Mode::Silent);
    let data = noise(4, 1000);
    let placed = pb::Placed { chunk: 9, grant: Some(grant(9, &[&keeper])) };
    let began = Instant::now();
    let error = KeeperPool::new().store(&placed, &pieces(&data, 1000), &BlockSums::of(&data), false, 0).await;
    assert_eq!(error.unwrap_err().code, ErrorCode::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(7));
}
