//! Who may open what, where the kernel could not check.

use dfs_mount::fs::Caller;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_meets_somebody_elses_file_is_checked() {
    let cluster = Cluster::without_keepers().await;
    let mount = cluster.mount().await;
    // The kernel asks to create what another mount has just made. The root directory is root's.
    let create = async |uid: u32, name: &str, flags: i32| {
        let caller = Caller { uid, gid: uid, pid: 0, checked: false };
        let done = mount.fs.create(caller, InodeNo::ROOT, name.as_bytes(), 0o640, 0, flags).await;
        done.map(drop).map_err(|error| error.code)
    };
    let (read, write, truncate) = (libc::O_RDONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC);
    assert_eq!(create(5, "f", write).await, Ok(()));
    for flags in [read, write, truncate] {
        assert_eq!(create(6, "f", flags).await, Err(ErrorCode::Access), "flags {flags:o}");
        assert_eq!(create(5, "f", flags).await, Ok(()));
        assert_eq!(create(0, "f", flags).await, Ok(()));
    }
    assert_eq!(create(5, "f", libc::O_EXCL | write).await, Err(ErrorCode::Exists));
}
