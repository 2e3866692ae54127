//! Scrubs, and the quarantine that they fill.

use std::time::Duration;

use dfs_keeper::{Config, Keeper};
use dfs_proto::pb::TicketOp::Write;
use dfs_proto::pb::{self, keeper_down as down, keeper_up::Msg};
use tempfile::{TempDir, tempdir};

use crate::client::Client;
use crate::master::Master;
use crate::{chunk_file, count_files, data, flip_byte, keeper, tuning, wait_until};

/// Four chunks, of which one is bad in its data, one cut short and one gone.
fn store_and_spoil(master: &Master, keeper: &Keeper, dir: &TempDir) {
    for chunk in 5..9 {
        let grant = master.grant(Write, chunk, &[keeper]);
        Client::connect(keeper.address()).upload(&grant, &data(300_000), false).unwrap();
    }
    flip_byte(&chunk_file(dir, 5), 4096 + 299_999);
    std::fs::File::options().write(true).open(chunk_file(dir, 6)).unwrap().set_len(5000).unwrap();
    std::fs::remove_file(chunk_file(dir, 7)).unwrap();
}

fn last_load(master: &Master) -> pb::Load {
    let heard = master.heard(1);
    let beat = heard.iter().rev().find_map(|msg| match msg {
        Msg::Heartbeat(beat) => beat.load,
        _ => None,
    });
    beat.unwrap_or_default()
}

fn bad(master: &Master) -> Vec<(u64, bool)> {
    let of = |msg: &Msg| match msg {
        Msg::BadCopy(bad) => Some((bad.chunk, bad.quarantined)),
        _ => None,
    };
    let mut found: Vec<_> = master.heard(1).iter().filter_map(of).collect();
    found.sort_unstable();
    found
}

async fn unscrubbed(dir: &TempDir, master: &Master) -> Keeper {
    let config = Config { scrub_every: None, ..crate::config(dir.path(), master) };
    Keeper::start_tuned(config, tuning()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_is_ordered_finds_all_that_is_bad_and_says_how_far_it_is() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = unscrubbed(&dir, &master).await;
    store_and_spoil(&master, &keeper, &dir);
    master.order(1, down::Msg::Scrub(pb::StartScrub { number: 77 }));
    let scrub = || last_load(&master).scrub.unwrap_or_default();
    wait_until("the scrub is over", || scrub().number == 77 && !scrub().running);
    assert_eq!(bad(&master), [(5, true), (6, true), (7, false)]);
    let end = scrub();
    assert_eq!((end.chunks, end.total_chunks, end.bytes, end.bad), (4, 4, 1_200_000, 3));
    assert_eq!(count_files(&dir.path().join("quarantine")), 2);
    let load = last_load(&master);
    assert_eq!((load.quarantine_files, load.quarantine_bytes), (2, 4096 + 300_000 + 5000));
    // A second one finds nothing any more.
    master.order(1, down::Msg::Scrub(pb::StartScrub { number: 78 }));
    wait_until("the second scrub is over", || scrub().number == 78 && !scrub().running);
    assert_eq!((scrub().chunks, scrub().bad), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_read_once_in_the_period_without_being_asked() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let config = Config { scrub_every: Some(Duration::from_secs(1)), ..crate::config(dir.path(), &master) };
    let keeper = Keeper::start_tuned(config, tuning()).await.unwrap();
    store_and_spoil(&master, &keeper, &dir);
    wait_until("all three are found", || bad(&master).len() == 3);
    assert!(chunk_file(&dir, 8).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_outlives_a_restart_and_goes_when_the_master_says_so() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let first = unscrubbed(&dir, &master).await;
    store_and_spoil(&master, &first, &dir);
    master.order(1, down::Msg::Verify(pb::VerifyChunk { chunk: 5, info: None }));
    master.wait_bad(1, 5).await;
    first.shutdown().await;
    let _second = keeper(&dir, &master).await;
    master
        .wait("an inventory with chunk 5 in quarantine", 1, |msg| match msg {
            Msg::Inventory(page) => page.quarantined.contains(&5).then_some(()),
            _ => None,
        })
        .await;
    let quarantine = dir.path().join("quarantine");
    // Chunk 6 was found cut short at the start.
    assert_eq!(count_files(&quarantine), 2);
    master.order(1, down::Msg::EmptyQuarantine(pb::EmptyQuarantine { chunks: vec![5, 99] }));
    wait_until("it is emptied of chunk 5", || count_files(&quarantine) == 1);
    wait_until("the master hears of it", || last_load(&master).quarantine_files == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_another_than_the_master_knows_is_bad() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let grant = master.grant(Write, 5, &[&keeper]);
    Client::connect(keeper.address()).upload(&grant, b"bytes", false).unwrap();
    let good = master.wait_stored(1, 5).await.info.unwrap();
    master.order(1, down::Msg::Verify(pb::VerifyChunk { chunk: 5, info: Some(good) }));
    let other = pb::ChunkInfo { checksum: good.checksum ^ 1, ..good };
    master.order(1, down::Msg::Verify(pb::VerifyChunk { chunk: 5, info: Some(other) }));
    master.wait_bad(1, 5).await;
    assert_eq!(bad(&master), [(5, true)], "the first check found nothing");
}
