//! Order, age, and memory.

use std::time::Duration;

use crate::cluster::{CHUNK, Cluster, Mount, noise, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn many_files_share_a_small_budget() {
    let cluster = Cluster::start(3).await;
    let mount = std::sync::Arc::new(Mount::new(cluster.address(), 1 << 20).await);
    let writers: Vec<_> = (0..24u64)
        .map(|n| {
            let mount = mount.clone();
            tokio::spawn(async move {
                let data = noise(n, 700_000);
                let file = mount.create(&format!("f{n}")).await;
                for (at, piece) in data.chunks(130_000).enumerate() {
                    file.write(at as u64 * 130_000, piece).await.unwrap();
                }
                file.close().await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(50), writer).await.expect("no progress").unwrap();
    }
    let other = cluster.mount().await;
    for n in 0..24 {
        assert!(other.content(&format!("f{n}")).await == noise(n, 700_000), "file {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_stay_open_do_not_keep_the_budget_from_others() {
    let cluster = Cluster::start(2).await;
    let mount = Mount::new(cluster.address(), 1 << 20).await;
    let mut open = Vec::new();
    for n in 0..40u64 {
        let file = mount.create(&format!("f{n}")).await;
        // Opened, closed, and at once opened again.
        file.write(0, &noise(n, 10)).await.unwrap();
        file.close().await.unwrap();
        let file = mount.open(&format!("f{n}"), libc::O_RDWR).await;
        let data = noise(n, CHUNK / 2);
        tokio::time::timeout(Duration::from_secs(20), file.write(0, &data))
            .await
            .expect("no memory")
            .unwrap();
        open.push(file);
    }
    for file in open {
        file.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_uploaded_by_age_though_nobody_closes() {
    let cluster = Cluster::start(2).await;
    let (mount, other) = (cluster.mount().await, cluster.mount().await);
    let file = mount.create("f").await;
    file.write(0, b"first").await.unwrap();
    file.close().await.unwrap();
    let file = mount.open("f", libc::O_RDWR).await;
    file.write(5, b" and second").await.unwrap();
    wait_for("the second write on another mount", || async {
        other.content("f").await == b"first and second"
    })
    .await;
    drop(file);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mount_only_ever_sees_a_prefix_of_what_is_appended() {
    let cluster = Cluster::start(3).await;
    let (mount, other) = (cluster.mount().await, cluster.mount().await);
    let data = noise(5, 3_000_000);
    let file = mount.create("f").await;
    let (whole, name) = (data.clone(), "f");
    let reading = tokio::spawn(async move {
        loop {
            let seen = other.content(name).await;
            assert!(whole.starts_with(&seen), "{} bytes that are no prefix", seen.len());
            if seen.len() == whole.len() {
                return;
            }
        }
    });
    for (at, piece) in data.chunks(10_000).enumerate() {
        file.write(at as u64 * 10_000, piece).await.unwrap();
        if at % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
    file.close().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("never whole").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_waits_for_what_is_on_its_way() {
    let cluster = Cluster::start(2).await;
    let (mount, other) = (cluster.mount().await, cluster.mount().await);
    let file = mount.create("f").await;
    for round in 0..20u64 {
        file.write(0, &noise(round, 300_000)).await.unwrap();
        file.truncate(round * 1_000).await;
        file.truncate(100_000).await;
        let mut expected = noise(round, 300_000);
        expected.truncate(round as usize * 1_000);
        expected.resize(100_000, 0);
        assert!(file.content().await == expected, "round {round}");
        assert!(other.content("f").await == expected, "round {round}");
    }
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_that_is_refused_drops_nobodys_bytes() {
    let cluster = Cluster::start(2).await;
    let mount = cluster.mount().await;
    let file = mount.create("f").await;
    file.write(0, &noise(1, 50_000)).await.unwrap();
    let stranger = dfs_mount::fs::Caller { uid: 77, gid: 77, pid: 0, checked: true };
    let cut = dfs_proto::pb::Setattr { inode: file.inode.0, size: Some(0), ..Default::default() };
    let refused = mount.fs.setattr(Some(stranger), cut).await.unwrap_err();
    assert_eq!(refused.code, dfs_proto::error::ErrorCode::Access);
    assert!(file.content().await == noise(1, 50_000));
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_set_by_hand_comes_after_the_writes() {
    let cluster = Cluster::start(2).await;
    let mount = cluster.mount().await;
    let file = mount.create("f").await;
    file.write(0, &noise(1, 200_000)).await.unwrap();
    let mtime = Some(dfs_proto::pb::Time { sec: 5, nsec: 6 });
    let set = dfs_proto::pb::Setattr { inode: file.inode.0, mtime, ..Default::default() };
    assert_eq!(mount.fs.setattr(None, set).await.unwrap().mtime, mtime);
    let inode = file.inode;
    file.close().await.unwrap();
    assert_eq!(mount.fs.getattr(inode).await.unwrap().mtime, mtime);
}
