//! When a read changes atime: relatime, and the options noatime, nodiratime, strictatime, ro, O_NOATIME.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, wait_until};
use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps};

type Time = (i64, i64);

fn atime(path: &Path) -> Time {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.atime(), meta.atime_nsec())
}

fn changed(path: &Path) -> [Time; 2] {
    let meta = fs::symlink_metadata(path).unwrap();
    [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())]
}

/// What a read must do to atime.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Does {
    Move,
    Stay,
}

#[track_caller]
fn check(path: &Path, does: Does, read: impl FnOnce()) {
    let (before, others) = (atime(path), changed(path));
    read();
    match does {
        Does::Move => wait_until(secs(5), "atime moves", || atime(path) > before),
        // The request of a read is ahead of that of the stat.
        Does::Stay => assert_eq!(atime(path), before),
    }
    assert_eq!(changed(path), others, "no other time changes");
}

fn read(path: &Path) {
    fs::read(path).unwrap();
}

fn list(path: &Path) {
    assert!(fs::read_dir(path).unwrap().count() > 0);
}

fn set_atime(path: &Path, sec: i64) {
    let keep = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: Timespec { tv_sec: sec, tv_nsec: 7 }, last_modification: keep };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

// cp of a large file that has just been written has to be done at once, and the kernel takes long to drop its pages.
#[test]
fn a_large_file_keeps_its_pages_and_its_open_counts_as_a_read() {
    const LARGE: usize = 40 << 20;
    const SMALL: usize = 64 << 10;
    let mut cluster = Cluster::start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let path = mount.path("large");
    fs::write(&path, vec![7; LARGE]).unwrap();
    check(&path, Does::Move, || drop(fs::File::open(&path).unwrap()));
    check(&path, Does::Stay, || assert_eq!(fs::read(&path).unwrap().len(), LARGE));
    // Keepers tell what they served once a second: when they have told of what was read after it, it is told too.
    fs::write(mount.path("small"), vec![1; SMALL]).unwrap();
    read(&other.path("small"));
    let served = || -> u64 {
        let rows = cluster.json(&["keepers"]);
        rows.as_array().unwrap().iter().map(|row| row["bytes_read"].as_u64().unwrap()).sum()
    };
    wait_until(secs(10), "keepers tell what they served", || served() >= SMALL as u64);
    assert!(served() < LARGE as u64 / 4, "the pages were given up");
    // What somebody else wrote is read anew all the same.
    fs::write(other.path("large"), vec![8; LARGE]).unwrap();
    assert!(fs::read(&path).unwrap() == vec![8; LARGE]);
}

#[test]
fn relatime_is_the_default() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let other = cluster.mount();
    let file = mount.path("file");
    fs::write(&file, vec![7; 300_000]).unwrap();
    check(&file, Does::Move, || read(&file));
    check(&file, Does::Stay, || read(&file));
    wait_until(secs(5), "another mount sees it", || atime(&other.path("file")) == atime(&file));

    // Written again through the same pages, which the kernel keeps.
    OpenOptions::new().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_at(&OpenOptions::new().write(true).open(&file).unwrap(), b"x", 5)
        .unwrap();
    check(&file, Does::Move, || read(&file));
    check(&file, Does::Stay, || read(&file));
    // Attributes changed later than it was read; older than a day.
    set_atime(&file, 1_000_000_000);
    assert_eq!(atime(&file), (1_000_000_000, 7));
    check(&file, Does::Move, || read(&file));
    // Never back.
    set_atime(&file, 10_000_000_000);
    check(&file, Does::Stay, || read(&file));

    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/entry"), b"").unwrap();
    let dir = mount.path("dir");
    check(&dir, Does::Move, || list(&dir));
    check(&dir, Does::Stay, || list(&dir));
    fs::write(mount.path("dir/more"), b"").unwrap();
    check(&dir, Does::Move, || list(&dir));

    let link = mount.path("link");
    symlink("file", &link).unwrap();
    check(&link, Does::Move, || assert_eq!(fs::read_link(&link).unwrap(), Path::new("file")));

    let quiet = mount.path("quiet");
    fs::write(&quiet, b"bytes").unwrap();
    check(&quiet, Does::Stay, || {
        let flags = OFlags::NOATIME.bits() as i32;
        let mut text = String::new();
        OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&quiet)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
    });
    check(&quiet, Does::Move, || read(&quiet));
}

#[test]
fn options_say_which_reads_count() {
    let mut cluster = Cluster::start();
    let writer = cluster.mount();
    for (n, (options, file_does, dir_does)) in [
        ("noatime", Does::Stay, Does::Stay),
        ("nodiratime", Does::Move, Does::Stay),
        ("ro", Does::Stay, Does::Stay),
        ("relatime", Does::Move, Does::Move),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = format!("dir-{n}");
        fs::create_dir(writer.path(&dir)).unwrap();
        fs::write(writer.path(&dir).join("file"), b"bytes").unwrap();
        let mount = cluster.mount_with(&["-o", options]);
        let (dir, file) = (mount.path(&dir), mount.path(&dir).join("file"));
        check(&file, file_does, || read(&file));
        check(&dir, dir_does, || list(&dir));
        mount.unmount();
    }
    let strict = cluster.mount_with(&["-o", "strictatime"]);
    let (dir, file) = (strict.path("dir-3"), strict.path("dir-3/file"));
    for _ in 0..3 {
        check(&file, Does::Move, || read(&file));
        check(&dir, Does::Move, || list(&dir));
    }
}
