//! What a writer hears of uploads that failed.

use dfs_proto::error::ErrorCode;

use crate::cluster::{Cluster, noise};

/// A cluster whose only keeper has no room.
async fn full_cluster() -> Cluster {
    let mut cluster = Cluster::without_keepers().await;
    cluster.add_keeper(Some(u64::MAX)).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn each_handle_hears_of_a_failure_once_and_later_writes_work() {
    let mut cluster = full_cluster().await;
    let mount = cluster.mount().await;
    let first = mount.create("f").await;
    let second = mount.open("f", libc::O_RDWR).await;
    first.write(0, b"lost").await.unwrap();
    assert_eq!(first.flush().await.unwrap_err().code, ErrorCode::NoSpace);
    assert_eq!(second.write(0, b"x").await.unwrap_err().code, ErrorCode::NoSpace);
    assert_eq!(
        second.flush().await.unwrap_err().code,
        ErrorCode::NoSpace,
        "its bytes may have been among them"
    );
    first.flush().await.unwrap();
    second.flush().await.unwrap();
    assert_eq!(first.content().await, b"", "what is lost is not shown");

    cluster.add_keeper(Some(0)).await;
    let data = noise(1, 200_000);
    second.write(0, &data).await.unwrap();
    first.close().await.unwrap();
    second.close().await.unwrap();
    assert!(mount.content("f").await == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_kept_for_the_writer_whoever_else_waited_for_the_upload() {
    let cluster = full_cluster().await;
    let mount = cluster.mount().await;
    let writer = mount.create("f").await;
    let reader = mount.open("f", libc::O_RDONLY).await;
    writer.write(0, b"lost").await.unwrap();
    let set_time = dfs_proto::pb::Setattr { inode: writer.inode.0, mtime_now: true, ..Default::default() };
    assert_eq!(mount.fs.setattr(None, set_time).await.unwrap_err().code, ErrorCode::NoSpace);
    let _ = reader.close().await;
    assert_eq!(writer.close().await.unwrap_err().code, ErrorCode::NoSpace);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_lost_bytes_are_not_kept() {
    let cluster = full_cluster().await;
    let mount = cluster.mount().await;
    let file = mount.create("f").await;
    let inode = file.inode;
    file.write(0, b"lost").await.unwrap();
    assert!(file.close().await.is_err());
    let again = mount.fs.open(crate::cluster::CALLER, inode, libc::O_RDONLY).await.unwrap();
    assert!(!again.keep_cache, "the kernel's pages have bytes that the file never got");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_opened_after_a_failure_starts_afresh() {
    let mut cluster = full_cluster().await;
    let mount = cluster.mount().await;
    let unlucky = mount.create("f").await;
    unlucky.write(0, b"lost").await.unwrap();
    let time = dfs_proto::pb::Setattr { inode: unlucky.inode.0, mtime_now: true, ..Default::default() };
    mount.fs.setattr(None, time).await.unwrap_err();
    cluster.add_keeper(Some(0)).await;
    let fresh = mount.open("f", libc::O_RDWR).await;
    fresh.write(0, b"kept").await.unwrap();
    fresh.close().await.unwrap();
    assert!(unlucky.close().await.is_err());
    assert_eq!(mount.content("f").await, b"kept");
}
