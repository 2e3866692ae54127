//! This machine.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dfs_proto::pb;
use rustix::process::{Resource, getrlimit};
use tokio::task::JoinSet;

use super::Check;
use crate::cli::mounts;
use crate::cli::output::human;
use crate::mountpoint::mountinfo::MountEntry;
use crate::mountpoint::readahead::{self, READAHEAD_KIB};

const DEVICE: &str = "/dev/fuse";
const FUSE_SETTINGS: &str = "/etc/fuse.conf";
/// A mount of many open files, and a keeper of many connections, want so many.
const ENOUGH_FILES: u64 = 4096;
const FEW_FILES: u64 = 256;
/// Below these shares of a disk, in percent.
const NEARLY_FULL: u64 = 10;
const FULL: u64 = 1;

pub(super) async fn checks(keepers: &[pb::KeeperRow], dirs: &[PathBuf]) -> Vec<Check> {
    let mut checks = vec![device(), open_files(getrlimit(Resource::Nofile).current)];
    if !rustix::process::geteuid().is_root() {
        checks.push(helper());
        checks.push(allow_other(std::fs::read_to_string(FUSE_SETTINGS)));
    }
    let host = crate::embedded::host_name();
    let ours =
        keepers.iter().filter(|keeper| keeper.host == host).map(|keeper| PathBuf::from(&keeper.data_dir));
    let ours: BTreeSet<PathBuf> = ours.filter(|dir| dir.is_dir()).chain(dirs.iter().cloned()).collect();
    checks.extend(ours.iter().flat_map(|dir| disk(dir)));
    // At once: each may have to be waited for.
    let mut looking = JoinSet::new();
    for mount in mounts::all() {
        looking.spawn(async move {
            let checks = mounted(&mount).await;
            (mount.path, checks)
        });
    }
    let mut mounts = looking.join_all().await;
    mounts.sort_by(|(a, _), (b, _)| a.cmp(b));
    checks.extend(mounts.into_iter().flat_map(|(_, checks)| checks));
    checks
}

fn device() -> Check {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    match opened {
        Ok(_) => Check::ok(DEVICE, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::fail(
            DEVICE,
            error.to_string(),
            "chmod 666 /dev/fuse, as root; in a container: --device /dev/fuse",
        ),
        Err(error) => {
            let remedy = "modprobe fuse, as root; in a container: --device /dev/fuse --cap-add SYS_ADMIN";
            Check::fail(DEVICE, error.to_string(), remedy)
        }
    }
}

/// `None`: no limit.
fn open_files(limit: Option<u64>) -> Check {
    let remedy = "ulimit -n 65536, or LimitNOFILE= in the unit";
    match limit {
        Some(limit) if limit < FEW_FILES => Check::fail("open files", format!("at most {limit}"), remedy),
        Some(limit) if limit < ENOUGH_FILES => Check::warn("open files", format!("at most {limit}"), remedy),
        Some(limit) => Check::ok("open files", format!("at most {limit}")),
        None => Check::ok("open files", "no limit"),
    }
}

/// Who is not root mounts through it.
fn helper() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|program| program.is_file());
    let remedy = "install the package fuse3";
    let Some(program) = found else {
        return Check::fail(
            "fusermount3",
            "it is not in PATH, and who is not root needs it to mount",
            remedy,
        );
    };
    let mode = program.metadata().map_or(0, |meta| meta.permissions().mode());
    match mode & 0o4000 {
        0 => Check::fail("fusermount3", format!("{} is not set-user-id root", program.display()), remedy),
        _ => Check::ok("fusermount3", program.display().to_string()),
    }
}

fn allow_other(settings: io::Result<String>) -> Check {
    let is_set = settings.is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    match is_set {
        true => Check::ok("user_allow_other", "other users can be let in"),
        false => {
            let remedy = "only for -o allow_other: write user_allow_other into /etc/fuse.conf, as root";
            Check::warn("user_allow_other", "mounts of this user are for this user alone", remedy)
        }
    }
}

/// Room and inodes.
fn disk(dir: &Path) -> Vec<Check> {
    let name = format!("disk of {}", dir.display());
    let disk = match rustix::fs::statvfs(dir) {
        Ok(disk) => disk,
        Err(error) => return vec![Check::fail(name, error.to_string(), "see that the directory is there")],
    };
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let found = format!("{} free of {}", human(bytes(disk.f_bavail)), human(bytes(disk.f_blocks)));
    let remedy = "make room, or move the directory to a larger disk";
    let mut checks = vec![share(&name, disk.f_bavail, disk.f_blocks, found, remedy)];
    // Some file systems have no fixed number of them.
    if disk.f_files > 0 {
        let found = format!("{} of {} inodes free", disk.f_favail, disk.f_files);
        let remedy = "remove small files, or make the file system anew with more inodes";
        checks.push(share(
            &format!("inodes of {}", dir.display()),
            disk.f_favail,
            disk.f_files,
            found,
            remedy,
        ));
    }
    checks
}

fn share(check: &str, free: u64, total: u64, found: String, remedy: &str) -> Check {
    match free.saturating_mul(100) / total.max(1) {
        percent if percent < FULL => Check::fail(check, found, remedy),
        percent if percent < NEARLY_FULL => Check::warn(check, found, remedy),
        _ => Check::ok(check, found),
    }
}

async fn mounted(mount: &MountEntry) -> Vec<Check> {
    let name = format!("mount on {}", mount.path.display());
    let place = mount.path.clone();
    if let Err(error) = mounts::within_deadline("stat", &mount.path, move || place.metadata()).await {
        let remedy =
            format!("see its log and the master; 'umount -l {}' takes it away", mount.path.display());
        return vec![Check::fail(name, error.to_string(), remedy)];
    }
    let ahead = match readahead::get(mount.device) {
        Some(kib) if kib < READAHEAD_KIB => {
            let control = readahead::control_file(mount.device);
            let remedy = format!("as root: echo {READAHEAD_KIB} > {}", control.display());
            Check::warn(
                format!("readahead of {}", mount.path.display()),
                format!("{kib} KiB: long files are read slowly"),
                remedy,
            )
        }
        Some(kib) => Check::ok(format!("readahead of {}", mount.path.display()), format!("{kib} KiB")),
        None => Check::ok(format!("readahead of {}", mount.path.display()), "not told by this kernel"),
    };
    vec![Check::ok(name, format!("{} answers", mount.source)), ahead]
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn limits_are_judged() {
        let of = |limit| open_files(limit).state;
        assert_eq!(
            [of(Some(64)), of(Some(1024)), of(Some(65_536)), of(None)],
            [State::Fail, State::Warn, State::Ok, State::Ok]
        );
        let of = |free| share("x", free, 1000, String::new(), "").state;
        assert_eq!([of(5), of(50), of(500)], [State::Fail, State::Warn, State::Ok]);
    }

    #[test]
    fn a_setting_that_is_commented_out_is_not_set() {
        assert_eq!(allow_other(Ok("# user_allow_other\n".to_owned())).state, State::Warn);
        assert_eq!(allow_other(Ok("mount_max = 5\nuser_allow_other\n".to_owned())).state, State::Ok);
        assert_eq!(allow_other(Err(io::ErrorKind::NotFound.into())).state, State::Warn);
    }

    #[test]
    fn a_directory_that_is_not_there_fails() {
        assert_eq!(disk(Path::new("/nowhere/at/all"))[0].state, State::Fail);
        assert!(!disk(Path::new("/")).is_empty());
    }
}
