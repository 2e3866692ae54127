//! Uploads while parts of the cluster go away and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cluster::{Cluster, Mount, noise, wait_for};
use crate::line::Line;

/// Writes `length` bytes, over and over in the same places, until told to end; returns what the file must hold.
fn keep_writing(
    mount: Arc<Mount>,
    name: &'static str,
    ends: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let file = mount.create(name).await;
        let mut model = vec![0; 600_000];
        let mut round = 0;
        while !ends.load(Ordering::Relaxed) {
            round += 1;
            let at = (round * 37_000) % 500_000;
            let data = noise(round as u64, 100_000);
            file.write(at as u64, &data).await.unwrap();
            model[at..at + 100_000].copy_from_slice(&data);
            if round % 40 == 0 {
                file.flush().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        file.close().await.unwrap();
        let written = mount.content(name).await.len();
        model.truncate(written);
        model
    })
}

async fn check(cluster: &Cluster, writing: tokio::task::JoinHandle<Vec<u8>>, name: &str) {
    let model =
        tokio::time::timeout(Duration::from_secs(50), writing).await.expect("the writer hangs").unwrap();
    assert!(!model.is_empty());
    let seen = cluster.mount().await.content(name).await;
    assert!(seen == model, "what another mount sees is not what was written last");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_the_master_lose_nothing() {
    let mut cluster = Cluster::start(3).await;
    let mount = Arc::new(cluster.mount().await);
    let ends = Arc::new(AtomicBool::new(false));
    let writing = keep_writing(mount, "f", ends.clone());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.stop_master().await;
        cluster.restart_master().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    ends.store(true, Ordering::Relaxed);
    check(&cluster, writing, "f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keepers_that_die_one_after_the_other_lose_nothing() {
    let mut cluster = Cluster::start(3).await;
    let mount = Arc::new(cluster.mount().await);
    let ends = Arc::new(AtomicBool::new(false));
    let writing = keep_writing(mount, "f", ends.clone());
    for keeper in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.stop_keeper(keeper).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.restart_keeper(keeper).await;
    }
    ends.store(true, Ordering::Relaxed);
    check(&cluster, writing, "f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_whole_cluster_loses_nothing() {
    let mut cluster = Cluster::start(2).await;
    let mount = Arc::new(cluster.mount().await);
    let ends = Arc::new(AtomicBool::new(false));
    let writing = keep_writing(mount, "f", ends.clone());
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Places are given by the one master, their transfers fail, and the other master knows nothing of them.
    cluster.stop_master().await;
    cluster.stop_keeper(0).await;
    cluster.stop_keeper(1).await;
    cluster.restart_master().await;
    cluster.restart_keeper(0).await;
    cluster.restart_keeper(1).await;
    ends.store(true, Ordering::Relaxed);
    check(&cluster, writing, "f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_breaks_loses_nothing() {
    let cluster = Cluster::start(3).await;
    let line = Line::to(cluster.address()).await;
    let mount = Arc::new(Mount::new(line.address, 64 << 20).await);
    let ends = Arc::new(AtomicBool::new(false));
    let writing = keep_writing(mount, "f", ends.clone());
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = line.carried();
        line.cut();
        wait_for("the session", || async { line.carried() > before }).await;
    }
    ends.store(true, Ordering::Relaxed);
    check(&cluster, writing, "f").await;
}
