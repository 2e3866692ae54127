//! Joining, coming back, and being refused.

use std::time::{Duration, Instant};

use dfs_keeper::{Config, Keeper, KeeperError};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb::TicketOp::{Read, Write};
use dfs_proto::pb::{self, keeper_up::Msg};
use tempfile::tempdir;

use crate::client::Client;
use crate::master::{Master, another};
use crate::{config, keeper, wait_until};

fn hellos(master: &Master) -> Vec<pb::KeeperHello> {
    let said = master.heard(1).into_iter();
    said.filter_map(|m| match m {
        Msg::Hello(hello) => Some(hello),
        _ => None,
    })
    .collect()
}

/// The chunks of the inventory that followed hello number `nth`, when it is complete.
fn inventory(master: &Master, nth: usize) -> Option<Vec<u64>> {
    let (mut hellos, mut chunks) = (0, Vec::new());
    for msg in master.heard(1) {
        match msg {
            Msg::Hello(_) => hellos += 1,
            Msg::Inventory(page) if hellos == nth => {
                chunks.extend(page.chunks.iter().map(|info| info.chunk));
                if page.last {
                    chunks.sort();
                    return Some(chunks);
                }
            }
            _ => {}
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_id_and_the_chunks() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let first = keeper(&dir, &master).await;
    let mut client = Client::connect(first.address());
    for chunk in 1..=20 {
        client.upload(&master.grant(Write, chunk, &[&first]), b"bytes", false).unwrap();
    }
    first.shutdown().await;
    let again = keeper(&dir, &master).await;
    assert_eq!(again.id().0, 1);
    wait_until("the inventory is complete", || inventory(&master, 2) == Some((1..=20).collect()));
    let grant = master.grant(Read, 7, &[&again]);
    assert_eq!(Client::connect(again.address()).read_all(&grant, 5).unwrap(), b"bytes");
    let hellos = hellos(&master);
    assert_eq!((hellos[0].keeper, hellos[1].keeper), (0, 1));
    assert!(hellos[0].cluster.is_empty());
    assert_eq!(hellos[1].cluster[..], crate::master::CLUSTER.0);
    assert_eq!(hellos[1].address, again.address().to_string());
    assert_eq!(hellos[1].data_dir, dir.path().canonicalize().unwrap().to_str().unwrap());
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_inventory_comes_in_pages_and_whole() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let first = keeper(&dir, &master).await;
    let mut client = Client::connect(first.address());
    for chunk in 1..=4200 {
        client.upload(&master.grant(Write, chunk, &[&first]), b"x", false).unwrap();
    }
    master.break_session(1);
    wait_until("the inventory is complete", || inventory(&master, 2) == Some((1..=4200).collect()));
    let pages = master.heard(1).into_iter().filter_map(|m| match m {
        Msg::Inventory(page) => Some(page.chunks.len()),
        _ => None,
    });
    assert!(pages.max().unwrap() <= 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_a_broken_session_and_its_notice_is_not_lost() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    wait_until("the first session is up", || inventory(&master, 1).is_some());
    let mut client = Client::connect(keeper.address());
    // Not acknowledged, so the next session must say it again.
    master.set_mute(true);
    client.upload(&master.grant(Write, 5, &[&keeper]), b"bytes", false).unwrap();
    master.wait_stored(1, 5).await;
    master.break_session(1);
    client.upload(&master.grant(Write, 6, &[&keeper]), b"bytes", false).unwrap();
    master.set_mute(false);
    master.wait_stored(1, 6).await;
    assert!(hellos(&master).len() >= 2);
    let stored = |chunk| {
        let said = master.heard(1);
        said.iter().filter(|m| matches!(m, Msg::Stored(s) if s.info.unwrap().chunk == chunk)).count()
    };
    wait_until("the notice was sent again", || stored(5) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_an_upload_is_unavailable_in_time() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    wait_until("the session is up", || inventory(&master, 1).is_some());
    master.refuse(DfsError::new(ErrorCode::Unavailable, "not now"));
    master.break_session(1);
    let me = [(keeper.id().0, keeper.address().to_string())];
    let begin = Instant::now();
    wait_until("the keeper has noticed", || {
        let grant = master.grant_at(Write, 5, &me, another);
        let answer = Client::connect(keeper.address()).upload(&grant, b"bytes", false);
        answer.is_err_and(|error| error.code == ErrorCode::Unavailable)
    });
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_answers_no_heartbeat_is_left_and_called_again() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let _keeper = keeper(&dir, &master).await;
    master.set_mute(true);
    wait_until("a second hello", || hellos(&master).len() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_master_is_named_after_the_join_timeout() {
    let dir = tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = Config { join_timeout: Duration::from_millis(500), ..Config::new(dir.path(), &free) };
    let begin = Instant::now();
    let error = Keeper::start(config).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(3));
    let text = error.to_string();
    assert!(matches!(error, KeeperError::Unreachable { .. }), "{text}");
    assert!(text.contains(&free) && text.contains("refused") && text.lines().count() == 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_the_start_at_once_and_a_running_keeper_too() {
    let (master, dirs) = (Master::start().await, [tempdir().unwrap(), tempdir().unwrap()]);
    let running = keeper(&dirs[0], &master).await;
    let failed = running.failed();
    master.refuse(DfsError::new(ErrorCode::WrongCluster, "you are not ours"));
    let begin = Instant::now();
    let error = Keeper::start(config(dirs[1].path(), &master)).await.unwrap_err();
    assert!(error.to_string().contains("you are not ours"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5), "not tried again and again");
    master.break_session(1);
    let error = tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap();
    assert!(matches!(error, KeeperError::Refused { .. }), "{error}");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_is_refused_and_stays_as_it_is() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let identity = "format = 1\ncluster = 000102030405060708090a0b0c0d0e0f\nkeeper = 3\n";
    std::fs::write(dir.path().join("IDENTITY"), identity).unwrap();
    let error = Keeper::start(config(dir.path(), &master)).await.unwrap_err();
    assert!(matches!(error, KeeperError::WrongCluster { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("IDENTITY")).unwrap(), identity);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_or_port_in_use_is_refused() {
    let (master, dirs) = (Master::start().await, [tempdir().unwrap(), tempdir().unwrap()]);
    let running = keeper(&dirs[0], &master).await;
    let error = Keeper::start(config(dirs[0].path(), &master)).await.unwrap_err();
    assert!(matches!(error, KeeperError::Locked { .. }), "{error}");
    let config = Config { listen: running.address(), ..config(dirs[1].path(), &master) };
    let error = Keeper::start(config).await.unwrap_err();
    assert!(error.to_string().contains(&running.address().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_every_interface_is_advertised_by_the_address_towards_the_master() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let config = Config { listen: ([0, 0, 0, 0], 0).into(), ..config(dir.path(), &master) };
    let keeper = Keeper::start(config).await.unwrap();
    assert_eq!(hellos(&master)[0].address, format!("127.0.0.1:{}", keeper.address().port()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_is_quick_with_connections_open_and_syncs_what_is_left() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let lazy = dfs_keeper::Tuning { sync_after: Duration::from_secs(3600), ..crate::tuning() };
    let keeper = Keeper::start_tuned(config(dir.path(), &master), lazy).await.unwrap();
    let mut client = Client::connect(keeper.address());
    client.upload(&master.grant(Write, 5, &[&keeper]), b"bytes", false).unwrap();
    let begin = Instant::now();
    keeper.shutdown().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(client.is_closed());
    master.wait_synced(1, 5).await;
}
