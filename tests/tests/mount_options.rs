//! Mount options as mount(8) names them, remount, budgets, and how a mount ends that has lost its master.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use dfs_tests::mount::{detach, mounted};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, require_root, run, run_ok};

/// The options that the mount table shows, the mount's and the file system's.
fn shown(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let text = run_ok(&["findmnt", "-no", "VFS-OPTIONS,FS-OPTIONS", dir]).stdout;
    text.split([',', ' ', '\n']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_usual_options_reach_the_kernel_and_do_what_they_say() {
    require_root();
    let mut cluster = Cluster::start();
    let plain = cluster.mount();
    let options = shown(plain.dir());
    assert!(options.contains(&"relatime".to_owned()) && options.contains(&"rw".to_owned()), "{options:?}");
    fs::write(plain.path("program"), "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(plain.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Command::new(plain.path("program")).status().unwrap().success());

    let strict = cluster.mount_with(&["-o", "nodev,nosuid,noexec,noatime,sync,dirsync,nodiratime"]);
    let options = shown(strict.dir());
    for word in ["nodev", "nosuid", "noexec", "noatime", "nodiratime", "sync", "dirsync"] {
        assert!(options.contains(&word.to_owned()), "{word}: {options:?}");
    }
    let refused = Command::new(strict.path("program")).status().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    fs::write(strict.path("synced"), b"bytes").unwrap();
    strict.unmount();
    let strict = cluster.mount_with(&["-o", "noatime,strictatime,rw,async,dev,suid,exec"]);
    let options = shown(strict.dir());
    for word in ["noatime", "relatime", "nodev", "nosuid", "noexec", "sync"] {
        assert!(!options.contains(&word.to_owned()), "{word}: {options:?}");
    }
}

#[test]
fn remount_changes_what_the_kernel_keeps_and_nothing_else() {
    require_root();
    let mut cluster = Cluster::start();
    let mount = cluster.mount_with(&["-o", "nosuid,noatime"]);
    fs::write(mount.path("file"), b"bytes").unwrap();
    let remount = |dir: &Path, words: &str| {
        let mut command = cluster.scratch.command("dfs-mount");
        run(command.arg(dir).args(["-o", &format!("remount,{words}")]), secs(20))
    };
    remount(mount.dir(), "ro").ok();
    assert_eq!(fs::write(mount.path("file"), b"x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"bytes");
    let options = shown(mount.dir());
    assert!(options.contains(&"nosuid".to_owned()) && options.contains(&"noatime".to_owned()), "{options:?}");
    remount(mount.dir(), "rw").ok();
    let open = File::create(mount.path("file")).unwrap();
    let busy = remount(mount.dir(), "ro");
    assert_eq!(busy.status.code(), Some(1));
    busy.one_line_error("dfs-mount", &["open for writing", "try again"]);
    drop(open);

    let nothing = cluster.scratch.path("mnt/nothing");
    fs::create_dir(&nothing).unwrap();
    let ran = remount(&nothing, "ro");
    assert_eq!(ran.status.code(), Some(1));
    ran.one_line_error("dfs-mount", &["mnt/nothing", "nothing is mounted"]);
    assert_eq!(remount(mount.dir(), "alow_other").status.code(), Some(2));
}

#[test]
fn budgets_that_make_no_sense_mount_nothing() {
    let cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let dir = cluster.scratch.path("mnt/refused");
    for (flag, size, why) in [
        ("--cache-size", "0", "too small"),
        ("--write-buffer", "4KiB", "too small"),
        ("--cache-size", "1000TiB", "more than the memory"),
        ("--write-buffer", "1000TiB", "more than the memory"),
    ] {
        let mut command = cluster.scratch.command("dfs-mount");
        let ran = run(command.args(["--master", cluster.address(), flag, size]).arg(&dir), secs(20));
        assert_eq!(ran.status.code(), Some(2), "{ran:#?}");
        ran.one_line_error("dfs-mount", &[flag, size, why]);
        assert!(mounted(&dir).is_none());
    }
}

#[test]
fn a_mount_without_master_ends_soon_after_umount() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mut plain = cluster.mount();
    let mut busy = cluster.mount();
    fs::write(busy.path("file"), b"bytes").unwrap();
    let open = File::open(busy.path("file")).unwrap();
    cluster.master.kill();
    // One that nobody uses, and one that is taken away while a file is open and somebody waits for an answer.
    detach(plain.dir());
    let waiting = Command::new("stat").arg(busy.path("none")).spawn();
    detach(busy.dir());
    let begun = Instant::now();
    plain.process.wait_exit(secs(10));
    busy.process.wait_exit(secs(20));
    assert!(begun.elapsed() < secs(15), "it took {:?}", begun.elapsed());
    drop(open);
    waiting.unwrap().wait().unwrap();
}
