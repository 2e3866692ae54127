//! dfs-mount as mount(8)'s helper, and so from /etc/fstab.
//!
//! Covers: `mount -t fuse.dfs HOST:PORT /mnt/dfs -o ...`, and so from /etc/fstab; subdir=; `mount -o remount`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use dfs_tests::mount::{mounted, unmount};
use dfs_tests::process::binary;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, require_root, run, run_ok, wait_until};

const HELPER: &str = "/sbin/mount.fuse.dfs";

/// The helper in the place where mount(8) looks, for as long as this lives. One that is there already is not touched,
/// but for a link that leads nowhere, which a killed test has left.
struct Helper {
    made: bool,
}

impl Helper {
    fn install() -> Helper {
        require_root();
        let target = binary("dfs-mount");
        if fs::symlink_metadata(HELPER).is_ok()
            && (!Path::new(HELPER).exists() || fs::read_link(HELPER).ok() == Some(target.clone()))
        {
            fs::remove_file(HELPER).unwrap();
        }
        match symlink(target, HELPER) {
            Ok(()) => Helper { made: true },
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Helper { made: false },
            Err(e) => panic!("cannot make the link {HELPER}: {e}"),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(HELPER);
        }
    }
}

#[test]
fn mount_t_fuse_dfs_mounts_with_options_and_umount_ends_it() {
    let _helper = Helper::install();
    let cluster = Cluster::start();
    let dir = cluster.scratch.path("mnt/by-mount");
    fs::create_dir(&dir).unwrap();
    let mount = |options: &str| {
        let mut command = cluster.scratch.program("mount");
        command.args(["-t", "fuse.dfs", cluster.address()]).arg(&dir).args(["-o", options]);
        run(&mut command, secs(60))
    };
    mount("rw,noatime,_netdev,nofail,cache-size=64MiB").ok();
    fs::write(dir.join("file"), b"bytes").unwrap();
    let options = run_ok(&["findmnt", "-no", "FSTYPE,OPTIONS", dir.to_str().unwrap()]).stdout;
    assert!(options.contains("fuse.dfs") && options.contains("noatime"), "{options}");
    unmount(&dir);
    wait_until(secs(35), "the helper's process has ended", || cluster.scratch.pids("dfs-mount").is_empty());

    mount("ro").ok();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"bytes");
    assert_eq!(fs::write(dir.join("file"), b"x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    unmount(&dir);

    // A subtree, by option and as the mount table shows it.
    mount("rw,subdir=/").ok();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/below"), b"below").unwrap();
    unmount(&dir);
    mount("rw,subdir=/sub").ok();
    assert_eq!(fs::read(dir.join("below")).unwrap(), b"below");
    let source = mounted(&dir).unwrap().1;
    assert_eq!(source, format!("dfs:{}/sub", cluster.address()));

    // mount(8) hands a remount to the helper too.
    let remount = |options: &str| {
        let mut command = cluster.scratch.program("mount");
        run(command.args(["-o", options]).arg(&dir), secs(60)).ok();
    };
    remount("remount,ro");
    assert_eq!(fs::write(dir.join("below"), b"x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    remount("remount,rw");
    fs::write(dir.join("below"), b"below").unwrap();
    unmount(&dir);

    // As at boot: the line of an fstab.
    let table = cluster.scratch.path("fstab");
    let line = format!("{} {} fuse.dfs _netdev,nofail,nosuid 0 0\n", cluster.address(), dir.display());
    fs::write(&table, line).unwrap();
    let mut command = cluster.scratch.program("mount");
    run(command.arg("-T").arg(&table).arg(&dir), secs(60)).ok();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"bytes");
    unmount(&dir);

    let ran = mount("no_such_option");
    assert!(!ran.status.success());
    assert!(ran.stderr.contains("no_such_option"), "{ran:#?}");
    assert!(mounted(&dir).is_none());
}

#[test]
fn the_name_of_the_helper_alone_makes_f_mean_pretend() {
    let cluster = Cluster::start();
    let link = cluster.scratch.path("mount.fuse.dfs");
    symlink(binary("dfs-mount"), &link).unwrap();
    let dir = cluster.scratch.path("mnt/pretended");
    let mut command = Command::new(&link);
    run(command.arg(cluster.address()).arg(&dir).args(["-f", "-o", "rw"]), secs(20)).ok();
    assert!(mounted(&dir).is_none(), "-f of mount(8) must mount nothing");
}
