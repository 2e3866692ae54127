//! Everything is there again after everything was killed.
//!
//! Covers: stop everything with SIGKILL, start it again, every file whose cp had returned is there, bytes, names,
//! modes, times; keepers keep their ids; a copy under way goes on when the master comes back.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, film, run_ok, wait_for, wait_until};

/// What stat says and what must stay.
#[derive(PartialEq, Debug)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

fn facts(meta: &Metadata) -> Facts {
    Facts {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        size: meta.size(),
        links: meta.nlink(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    }
}

#[test]
fn after_sigkill_of_everything_every_copied_file_is_there_to_the_byte_and_nanosecond() {
    let source = film::small();
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let mut mount = cluster.mount();
    let ids: Vec<u64> = (0..3).map(|i| cluster.keeper_id(i)).collect();
    let bytes = Rng::new(5).bytes(300_001);
    let plain = cluster.scratch.path("plain");
    fs::write(&plain, &bytes).unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o640)).unwrap();
    run_ok(&["touch", "-d", "2001-02-03 04:05:06.123456789Z", plain.to_str().unwrap()]);

    fs::create_dir(mount.path("dir")).unwrap();
    fs::set_permissions(mount.path("dir"), Permissions::from_mode(0o1751)).unwrap();
    symlink("dir/ünï\u{7f}code name", mount.path("link")).unwrap();
    let file = mount.path("dir/ünï\u{7f}code name");
    run_ok(&[Path::new("cp"), Path::new("-p"), &plain, &file]);
    fs::hard_link(&file, mount.path("dir/other name")).unwrap();
    run_ok(&[Path::new("cp"), &source, &mount.path("movie.mp4")]);
    let names = ["dir", "link", "dir/ünï\u{7f}code name", "dir/other name", "movie.mp4"];
    let before = names.map(|name| facts(&fs::symlink_metadata(mount.path(name)).unwrap()));
    assert_eq!(before[2].mtime, (981_173_106, 123_456_789), "cp -p keeps nanoseconds");

    // At once after cp returned: nothing had time to settle.
    mount.process.kill();
    cluster.master.kill();
    (0..3).for_each(|i| cluster.keeper(i).kill());
    mount.kill();
    cluster.restart_master();
    (0..3).for_each(|i| cluster.keeper(i).restart());
    cluster.wait_live(3);

    assert_eq!((0..3).map(|i| cluster.keeper_id(i)).collect::<Vec<_>>(), ids, "keepers keep their ids");
    let mount = cluster.mount();
    let after = names.map(|name| facts(&fs::symlink_metadata(mount.path(name)).unwrap()));
    assert_eq!(before, after);
    film::same(&source, &mount.path("movie.mp4"));
    assert_eq!(fs::read(mount.path("link")).unwrap(), bytes);
    assert_eq!(fs::read(mount.path("dir/other name")).unwrap(), bytes);
    cluster.wait_copies("/movie.mp4", 3, secs(30));
    assert_eq!(cluster.status("lost"), 0);
}

#[test]
fn files_written_one_after_the_other_until_the_kill_are_there_as_far_as_close_returned() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let content = |i: usize| Rng::new(i as u64).bytes(5_000 + 100 * i);
    for i in 0..60 {
        fs::write(mount.path(format!("file {i}")), content(i)).unwrap();
    }
    mount.process.kill();
    cluster.master.kill();
    (0..3).for_each(|i| cluster.keeper(i).kill());
    mount.kill();
    cluster.restart_master();
    (0..3).for_each(|i| cluster.keeper(i).restart());
    cluster.wait_live(3);
    let mount = cluster.mount();
    for i in 0..60 {
        assert!(fs::read(mount.path(format!("file {i}"))).unwrap() == content(i), "file {i}");
    }
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 60);
}

#[test]
fn a_mount_goes_on_after_the_master_was_killed_and_started_again() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    fs::write(mount.path("before"), b"before").unwrap();
    cluster.master.kill();
    cluster.restart_master();
    cluster.wait_live(3);
    fs::write(mount.path("after"), b"after").unwrap();
    assert_eq!(fs::read(mount.path("before")).unwrap(), b"before");
    assert_eq!(fs::read(mount.path("after")).unwrap(), b"after");
    mount.unmount();
}

#[test]
fn a_copy_under_way_goes_on_when_the_master_was_killed_and_comes_back() {
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let mount = cluster.mount();
    let mut cp = Command::new("cp").arg(film::medium()).arg(mount.path("movie.mp4")).spawn().unwrap();
    wait_until(secs(20), "a chunk is uploaded", || !cluster.chunk_files(0).is_empty());
    cluster.master.kill();
    assert!(cp.try_wait().unwrap().is_none(), "cp was done before the master could be killed");
    // Away for so long that keepers have stored what they cannot tell anybody, and the mount has tried again in vain; or
    // for 15 s, where the mount had no upload under way at that moment.
    let (again, away) = ("upload is tried again", Instant::now());
    wait_until(secs(40), "an upload is tried again", || {
        mount.process.log().contains(again) || away.elapsed() > secs(15)
    });
    cluster.restart_master();
    let status = wait_for(secs(60), "cp ends", || cp.try_wait().unwrap());
    assert!(status.success(), "cp failed though the master was back after some seconds");
    film::same(&film::medium(), &mount.path("movie.mp4"));
    mount.unmount();
    let mount = cluster.mount();
    film::same(&film::medium(), &mount.path("movie.mp4"));
}
