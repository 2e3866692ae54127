//! `-o subdir=/x/y`: a subtree is mounted, and nothing leads out of it.
//!
//! Covers: what is seen and what is not; "..", hard links, renames, symbolic links, /proc/self/fd and bind mounts as
//! ways out; changes by other mounts, of the mounted directory itself too; its removal; paths that cannot be mounted.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use dfs_tests::mount::mounted;
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, require_root, run, run_ok, wait_until};
use rustix::io::Errno;

/// /secret, /x/above, /x/y/inside, /x/y/d/deep.
fn tree(whole: &Mount) {
    fs::create_dir_all(whole.path("x/y/d")).unwrap();
    for file in ["secret", "x/above", "x/y/inside", "x/y/d/deep"] {
        fs::write(whole.path(file), file).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_leads_out_of_a_subtree() {
    require_root();
    let mut cluster = Cluster::start();
    let whole = cluster.mount();
    tree(&whole);
    symlink("/secret", whole.path("x/y/absolute")).unwrap();
    symlink("../above", whole.path("x/y/up")).unwrap();
    let sub = cluster.mount_with(&["-o", "subdir=/x/y"]);
    assert_eq!(names(sub.dir()), ["absolute", "d", "inside", "up"]);
    assert_eq!(mounted(sub.dir()).unwrap().1, format!("dfs:{}/x/y", cluster.address()));
    assert_eq!(fs::metadata(sub.dir()).unwrap().ino(), 1);
    let above = sub.dir().parent().unwrap().to_owned();

    // "..", by path, by number and by descriptor.
    assert_eq!(fs::canonicalize(sub.path("d/../..")).unwrap(), above);
    let opened = fs::File::open(sub.dir()).unwrap();
    let listed: Vec<(Vec<u8>, u64)> = rustix::fs::Dir::read_from(&opened)
        .unwrap()
        .map(|entry| entry.map(|e| (e.file_name().to_bytes().to_vec(), e.ino())).unwrap())
        .collect();
    assert!(listed.contains(&(b".".to_vec(), 1)) && listed.contains(&(b"..".to_vec(), 1)), "{listed:?}");
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
    let up = rustix::fs::openat(&opened, "..", flags, rustix::fs::Mode::empty()).unwrap();
    let up = fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&up))).unwrap();
    assert_eq!((up.dev(), up.ino()), {
        let above = fs::metadata(&above).unwrap();
        (above.dev(), above.ino())
    });
    let deep = fs::File::open(sub.path("d")).unwrap();
    let by_descriptor = format!("/proc/self/fd/{}/../../above", std::os::fd::AsRawFd::as_raw_fd(&deep));
    assert_eq!(fs::read(by_descriptor).unwrap_err().kind(), ErrorKind::NotFound);

    // Symbolic links lead where they lead from this directory, as in any mount.
    assert_eq!(fs::read(sub.path("up")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read(sub.path("absolute")).unwrap_err().kind(), ErrorKind::NotFound);

    // Links and renames: within, and not between two mounts.
    fs::hard_link(sub.path("inside"), sub.path("d/linked")).unwrap();
    fs::rename(sub.path("d/linked"), sub.path("renamed")).unwrap();
    assert_eq!(fs::metadata(whole.path("x/y/renamed")).unwrap().nlink(), 2);
    let out = fs::hard_link(sub.path("inside"), whole.path("out")).unwrap_err();
    assert_eq!(out.kind(), ErrorKind::CrossesDevices);
    let out = fs::rename(whole.path("secret"), sub.path("secret")).unwrap_err();
    assert_eq!(out.kind(), ErrorKind::CrossesDevices);

    // A bind mount of a directory in it.
    let bound = cluster.scratch.path("mnt/bound");
    fs::create_dir(&bound).unwrap();
    run_ok(&["mount", "--bind", sub.path("d").to_str().unwrap(), bound.to_str().unwrap()]);
    let seen = sh("cd \"$1\" && ls . && ls ..", &[&bound]).stdout;
    run_ok(&["umount", bound.to_str().unwrap()]);
    assert!(seen.contains("deep") && !seen.contains("inside") && !seen.contains("secret"), "{seen}");

    assert!(rustix::fs::statvfs(sub.dir()).unwrap().f_blocks > 0);
    drop((opened, deep));
    sub.unmount();
    // The same again, as the mount table had it.
    let sub = cluster.mount_with(&["--subdir", "x/y/"]);
    assert_eq!(fs::read(sub.path("renamed")).unwrap(), b"x/y/inside");
}

#[test]
fn changes_of_others_are_seen_and_a_removed_root_is_an_error() {
    let mut cluster = Cluster::start();
    let whole = cluster.mount();
    tree(&whole);
    let sub = cluster.mount_with(&["-o", "subdir=/x/y"]);
    let other = cluster.mount_with(&["-o", "subdir=/x"]);

    assert_eq!(names(sub.dir()), ["d", "inside"]);
    fs::write(other.path("y/new"), b"new").unwrap();
    assert_eq!(fs::read(sub.path("new")).unwrap(), b"new");
    fs::set_permissions(whole.path("x/y"), fs::Permissions::from_mode(0o711)).unwrap();
    wait_until(secs(5), "the root's mode is seen", || {
        fs::metadata(sub.dir()).unwrap().permissions().mode() & 0o777 == 0o711
    });
    fs::write(sub.path("from-below"), b"below").unwrap();
    assert_eq!(fs::read(whole.path("x/y/from-below")).unwrap(), b"below");

    // Wherever the directory goes, it is this one.
    fs::rename(whole.path("x/y"), whole.path("moved")).unwrap();
    fs::write(sub.path("after"), b"after").unwrap();
    assert_eq!(fs::read(whole.path("moved/after")).unwrap(), b"after");

    fs::remove_dir_all(whole.path("moved")).unwrap();
    let gone = |error: std::io::Error| {
        let errno = error.raw_os_error().unwrap();
        assert!([Errno::STALE.raw_os_error(), Errno::NOENT.raw_os_error()].contains(&errno), "{error}");
    };
    wait_until(secs(5), "the removed root is an error", || fs::metadata(sub.dir()).is_err());
    gone(fs::metadata(sub.dir()).unwrap_err());
    gone(fs::write(sub.path("more"), b"x").unwrap_err());
    gone(fs::read(sub.path("inside")).unwrap_err());
    gone(fs::create_dir(sub.path("dir")).unwrap_err());
    sub.unmount();
}

#[test]
fn a_path_that_is_no_directory_is_refused_before_anything_is_mounted() {
    let mut cluster = Cluster::start();
    let whole = cluster.mount();
    tree(&whole);
    symlink("y", whole.path("x/link")).unwrap();
    let dir = cluster.scratch.path("mnt/refused");
    fs::create_dir(&dir).unwrap();
    for (subdir, exit, needles) in [
        ("/x/none/z", 1, ["/x/none", "no"]),
        ("/x/above", 1, ["/x/above", "not a directory"]),
        ("/x/above/z", 1, ["/x/above", "not a directory"]),
        ("/x/link", 1, ["/x/link", "symbolic link"]),
        ("/x/link/d", 1, ["/x/link", "symbolic link"]),
        ("/x/../x", 2, ["/x/../x", "'..'"]),
    ] {
        let mut command = cluster.scratch.command("dfs-mount");
        command.args(["--master", cluster.address(), "-o", &format!("subdir={subdir}")]).arg(&dir);
        let ran = run(&mut command, secs(60));
        assert_eq!(ran.status.code(), Some(exit), "{ran:#?}");
        ran.one_line_error("dfs-mount", &needles);
        assert!(mounted(&dir).is_none());
    }
}
