//! Directory handles.

use dfs_mount::fs::dir::{Entry, Wanted};
use dfs_proto::ids::InodeNo;

use crate::cluster::{Cluster, Mount};

/// The next entries after `cookie`, as (cookie, name), at most `limit`.
async fn next(mount: &Mount, handle: u64, cookie: u64, limit: usize) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    // Whichever it is, a place is the same.
    let wanted = if limit % 2 == 0 { Wanted::Names } else { Wanted::Attributes };
    let take = |entry: Entry<'_>| {
        let full = out.len() == limit;
        if !full {
            out.push((entry.cookie, entry.name.to_vec()));
        }
        full
    };
    mount.fs.readdir(handle, cookie, wanted, take).await.unwrap();
    out
}

async fn rest(mount: &Mount, handle: u64, mut cookie: u64) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    loop {
        let part = next(mount, handle, cookie, 100).await;
        let Some((last, _)) = part.last() else { return out };
        cookie = *last;
        out.extend(part);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_that_was_told_can_be_gone_back_to() {
    let cluster = Cluster::without_keepers().await;
    let mount = cluster.mount().await;
    let caller = crate::cluster::CALLER;
    for n in 0..2_500 {
        mount
            .fs
            .mknod(caller, InodeNo::ROOT, format!("{n:05}").as_bytes(), libc::S_IFREG | 0o644, 0, 0)
            .await
            .unwrap();
    }
    let handle = mount.fs.opendir(InodeNo::ROOT, 0);
    let all = rest(&mount, handle, 0).await;
    assert_eq!(all.len(), 2_502);
    for (at, goes_on) in [(100, 101), (2_400, 2_401), (5, 6), (1_030, 1_031), (2_000, 2_001), (0, 1)] {
        let found = next(&mount, handle, all[at].0, 1).await;
        assert_eq!(found, all[goes_on..=goes_on], "after entry {at}");
    }
    assert_eq!(rest(&mount, handle, 0).await, all);
    mount.fs.releasedir(handle);
}
