//! What a mount says of a file that others change, or may change, and what a refusal leaves behind.

use std::time::Duration;

use dfs_mount::fs::Caller;
use dfs_proto::error::ErrorCode;
use dfs_proto::pb;

use crate::cluster::{CALLER, Cluster, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn while_the_session_is_broken_an_open_file_is_not_read_from_memory_unless_the_master_is_down() {
    let mut cluster = Cluster::start(2).await;
    let mount = cluster.mount().await;
    let file = mount.create("f").await;
    file.write(0, b"old").await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(file.read(0, 10).await, b"old");
    assert!(file.fs.try_read(file.handle, 0, 10).is_some());
    assert_eq!(file.fs.getattr(file.inode).await.unwrap().size, 3);
    cluster.stop_master().await;
    let reading = tokio::time::timeout(Duration::from_secs(2), file.read(0, 10)).await;
    assert_eq!(reading.expect("nobody is there to change anything"), b"old");
    assert_eq!(file.fs.getattr(file.inode).await.unwrap().size, 3);
    // Somebody listens, and says nothing.
    let silent = std::net::TcpListener::bind(cluster.address()).unwrap();
    wait_for("the loss", || async { file.fs.try_read(file.handle, 0, 10).is_none() }).await;
    let (fs, handle) = (file.fs.clone(), file.handle);
    let mut reading = tokio::spawn(async move { fs.read(handle, 0, 10).await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut reading).await.is_err(), "nobody knows");
    drop(silent);
    cluster.restart_master().await;
    assert_eq!(reading.await.unwrap().unwrap(), &b"old"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_that_is_refused_drops_nothing() {
    let cluster = Cluster::start(2).await;
    let (mount, other) = (cluster.mount().await, cluster.mount().await);
    let file = mount.create("f").await;
    file.write(0, b"0123456789").await.unwrap();
    let stranger = Caller { uid: 65_534, gid: 65_534, pid: 0, checked: true };
    let change = pb::Setattr { inode: file.inode.0, size: Some(3), ..Default::default() };
    assert_eq!(mount.fs.setattr(Some(stranger), change).await.unwrap_err().code, ErrorCode::Access);
    file.close().await.unwrap();
    assert_eq!(other.content("f").await, b"0123456789");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_write_takes_away_goes_also_when_it_came_while_the_file_was_open() {
    let cluster = Cluster::without_keepers().await;
    let (mount, other) = (cluster.mount().await, cluster.mount().await);
    let file = mount.create("f").await;
    let (fs, handle, inode) = (mount.fs.clone(), file.handle, file.inode);
    assert!(!fs.may_be_privileged(handle, false));
    for changer in [&other.fs, &fs] {
        let change = pb::Setattr { inode: inode.0, mode: Some(0o4755), ..Default::default() };
        changer.setattr(Some(CALLER), change).await.unwrap();
        wait_for("the bits are known", || async { fs.may_be_privileged(handle, false) }).await;
        assert!(!fs.clear_privileges(handle, true).await.unwrap(), "root keeps them");
        assert!(fs.clear_privileges(handle, false).await.unwrap());
        assert!(!fs.may_be_privileged(handle, false));
        assert_eq!(fs.getattr(inode).await.unwrap().mode & 0o7777, 0o755);

        let name = &b"security.capability"[..];
        let set = pb::Setxattr {
            inode: inode.0,
            name: name.into(),
            value: b"any".as_slice().into(),
            ..Default::default()
        };
        changer.setxattr(CALLER, set).await.unwrap();
        wait_for("the capability is known", || async { fs.may_be_privileged(handle, true) }).await;
        assert!(fs.clear_privileges(handle, true).await.unwrap());
        assert!(!fs.may_be_privileged(handle, true));
        assert_eq!(other.fs.getxattr(CALLER, inode, name).await.unwrap_err().code, ErrorCode::NoData);
    }
}
