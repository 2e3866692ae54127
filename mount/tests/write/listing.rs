//! Directory handles.

use dfs_mount::fs::dir::{Entry, Wanted};
use dfs_proto::ids::InodeNo;

use crate::cluster::{Cluster, Mount};

/// The next entries after `cookie`, as (cookie, name), at most `limit`.
async fn next(mount: &Mount, handle: u64, cookie: u64, limit: usize) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    // Whichever it is, a place is the same.
    let wanted = if limit.is_multiple_of(2) { Wanted::Names } else { Wanted::Attributes };
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
    // The second listing is of a list that is known.
    for again in [false, true] {
        let handle = mount.fs.opendir(InodeNo::ROOT, 0);
        assert_eq!(mount.fs.try_readdir(handle, 0, Wanted::Names, |_| true), again);
        let all = rest(&mount, handle, 0).await;
        assert_eq!(all.len(), 2_502);
        for (at, goes_on) in [(100, 101), (2_400, 2_401), (5, 6), (1_030, 1_031), (2_000, 2_001), (0, 1)] {
            for limit in [1, 2] {
                let found = next(&mount, handle, all[at].0, limit).await;
                assert_eq!(found, all[goes_on..goes_on + limit], "after entry {at}");
            }
        }
        assert_eq!(rest(&mount, handle, 0).await, all);
        mount.fs.releasedir(handle);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_stays_the_same_when_what_was_before_it_is_gone() {
    let cluster = Cluster::without_keepers().await;
    let mount = cluster.mount().await;
    let caller = crate::cluster::CALLER;
    let make = async |n: u32| {
        let name = format!("{n:05}");
        let made = mount.fs.mknod(caller, InodeNo::ROOT, name.as_bytes(), libc::S_IFREG | 0o644, 0, 0);
        made.await.unwrap();
    };
    let remove = async |n: u32| mount.fs.unlink(caller, InodeNo::ROOT, format!("{n:05}").as_bytes()).await;
    for n in 0..100 {
        make(2 * n).await;
    }
    let handle = mount.fs.opendir(InodeNo::ROOT, 0);
    let all = rest(&mount, handle, 0).await;
    for n in 0..20 {
        remove(2 * n).await.unwrap();
    }
    make(81).await;
    // Read once more from the start, and back to places of the first time: also to that of a name that is gone.
    assert_eq!(rest(&mount, handle, 0).await.len(), 83);
    let names = |list: &[(u64, Vec<u8>)]| list.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&rest(&mount, handle, all[61].0).await), names(&all[62..]));
    assert_eq!(rest(&mount, handle, all[11].0).await.len(), 81);
    mount.fs.releasedir(handle);
}
