//! The mount itself: from mount(2) (root) or fusermount3 (everybody else) to the unmount.
//!
//! We mount by ourselves and hand the open `/dev/fuse` on, because only so do we know which mount is ours.
//! [`Attached`] keeps its number and device; what must hold is that nothing is ever unmounted that does not
//! carry both. Another file system may be mounted over ours, ours may be moved, or be gone and something else
//! be in its place: in doubt it is left alone.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::fusermount::{self, FusermountError};
use super::mountinfo::{self, DeviceNo, MountEntry};
use crate::options::MountOptions;

/// The largest read that the kernel may ask for, in bytes.
const MAX_READ: u32 = 1 << 20;

const DEVICE: &str = "/dev/fuse";

/// Why nothing could be mounted, or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel has no FUSE, or its module is not loaded.
    #[error(
        "/dev/fuse: is not there; load the kernel's module with `modprobe fuse` (in a container: --device /dev/fuse)"
    )]
    NoDevice,
    /// `/dev/fuse` cannot be opened.
    #[error("/dev/fuse: cannot be opened: {0}; see its permissions, or mount as root")]
    Device(io::Error),
    /// mount(2) says that we may not, though we are root.
    #[error(
        "mount of {0}: not permitted, though this is root; in a container it needs the capability SYS_ADMIN \
             (--cap-add SYS_ADMIN --device /dev/fuse)"
    )]
    NotPermitted(PathBuf),
    /// mount(2) failed otherwise.
    #[error("mount of {path}: {error}; see the kernel's log for why")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) said.
        error: io::Error,
    },
    /// The set-user-id helper.
    #[error(transparent)]
    Fusermount(#[from] FusermountError),
    /// The mount table does not show what was just mounted.
    #[error("mount of {0}: the mount table does not show it; somebody unmounted it at once")]
    Vanished(PathBuf),
    /// umount(2) failed.
    #[error("unmount of {path}: {error}; `umount -l {path}` takes it away even when it is busy")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What umount(2) said.
        error: io::Error,
    },
}

impl AttachError {
    /// Somebody still uses the mount.
    pub fn is_busy(&self) -> bool {
        match self {
            AttachError::Unmount { error, .. } => Errno::from_io_error(error) == Some(Errno::BUSY),
            AttachError::Fusermount(error) => error.is_busy(),
            _ => false,
        }
    }
}

/// How to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detach {
    /// Fails when somebody still uses the mount.
    Clean,
    /// Takes the name away at once; open files work for as long as we serve them.
    Lazy,
    /// As `Lazy`, and fails whatever waits for an answer from us.
    Abort,
}

/// What became of [`Attached::detach`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detached {
    /// Our mount is gone.
    Done,
    /// Our mount was not there any more, or something is mounted over it; nothing was done.
    NotOurs,
}

/// Our mount, for as long as it lives.
#[derive(Clone, Debug)]
pub struct Attached {
    id: u64,
    device: DeviceNo,
}

/// Mounts on `path` (a directory, its real name). Returns the open `/dev/fuse`, to be served at once: whoever
/// looks at the mount point now waits for it.
///
/// # Errors
/// [`AttachError`]; nothing is mounted then.
pub fn attach(
    path: &Path,
    options: &MountOptions,
    master_checks: bool,
) -> Result<(OwnedFd, Attached), AttachError> {
    let fd = if rustix::process::geteuid().is_root() {
        mount_as_root(path, options, master_checks)?
    } else {
        fusermount::mount(path, &fusermount_options(options, master_checks))?
    };
    let table = mountinfo::read().unwrap_or_default();
    let fs_type = type_name(options);
    match mountinfo::topmost(&table, path).filter(|e| e.fs_type == fs_type) {
        Some(entry) => Ok((fd, Attached { id: entry.id, device: entry.device })),
        None => Err(AttachError::Vanished(path.to_owned())),
    }
}

/// Whether there is all that [`attach`] needs: worth asking before anything else is started.
///
/// # Errors
/// What is missing, and how to get it.
pub fn available() -> Result<(), AttachError> {
    if rustix::process::geteuid().is_root() {
        return open_device().map(drop);
    }
    // fusermount3 opens the device itself, but says less well what is wrong when it is not there.
    if !Path::new(DEVICE).exists() {
        return Err(AttachError::NoDevice);
    }
    Ok(fusermount::available()?)
}

/// The type that the mount table shows.
pub fn type_name(options: &MountOptions) -> String {
    format!("fuse.{}", options.subtype)
}

/// Takes away the dead mount at `path`. Its process is gone, so nothing is lost that was not lost before.
///
/// # Errors
/// [`AttachError`]: it belongs to another user, say.
pub fn take_away_dead(path: &Path) -> Result<(), AttachError> {
    unmount(path, Detach::Lazy)
}

/// Asks the file system at `path` for its root's attributes, past every cache: it answers when it is usable.
///
/// # Errors
/// What it answers. Waits for as long as it takes: the caller sees to a deadline.
pub fn probe(path: &Path) -> io::Result<()> {
    rustix::fs::statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?;
    Ok(())
}

impl std::fmt::Display for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}:{}", self.id, self.device.major, self.device.minor)
    }
}

impl std::str::FromStr for Attached {
    type Err = std::num::ParseIntError;

    /// As it is displayed.
    fn from_str(text: &str) -> Result<Attached, Self::Err> {
        let (id, device) = text.split_once(' ').unwrap_or_default();
        let (major, minor) = device.split_once(':').unwrap_or_default();
        Ok(Attached { id: id.parse()?, device: DeviceNo { major: major.parse()?, minor: minor.parse()? } })
    }
}

impl Attached {
    /// The device number of the mounted file system.
    pub fn device(&self) -> DeviceNo {
        self.device
    }

    /// Where our mount is now, if it is there at all and nothing is mounted over it.
    pub fn path(&self) -> Option<PathBuf> {
        let table = mountinfo::read().ok()?;
        self.find(&table).map(|e| e.path.clone())
    }

    /// The mount table does not have it any more: it was unmounted, perhaps lazily.
    pub fn is_gone(&self) -> bool {
        let listed =
            |table: Vec<MountEntry>| table.iter().any(|e| e.id == self.id && e.device == self.device);
        mountinfo::read().is_ok_and(|table| !listed(table))
    }

    /// Unmounts what we mounted, and only that. May wait for the kernel to write back what is dirty, so the
    /// file system has to be served meanwhile, from other threads.
    ///
    /// # Errors
    /// [`AttachError::is_busy`] tells whether [`Detach::Lazy`] would help.
    pub fn detach(&self, how: Detach) -> Result<Detached, AttachError> {
        match self.path() {
            Some(path) => unmount(&path, how).map(|()| Detached::Done),
            None => Ok(Detached::NotOurs),
        }
    }

    fn find<'a>(&self, table: &'a [MountEntry]) -> Option<&'a MountEntry> {
        let ours = table.iter().find(|e| e.id == self.id && e.device == self.device)?;
        // umount(2) takes what is on top.
        mountinfo::topmost(table, &ours.path).filter(|top| top.id == ours.id)
    }
}

fn unmount(path: &Path, how: Detach) -> Result<(), AttachError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(fusermount::unmount(path, how != Detach::Clean)?);
    }
    let flags = match how {
        Detach::Clean => UnmountFlags::empty(),
        Detach::Lazy => UnmountFlags::DETACH,
        Detach::Abort => UnmountFlags::DETACH | UnmountFlags::FORCE,
    };
    rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW)
        .map_err(|e| AttachError::Unmount { path: path.to_owned(), error: e.into() })
}

fn mount_as_root(path: &Path, options: &MountOptions, master_checks: bool) -> Result<OwnedFd, AttachError> {
    let device = open_device()?;
    let data = mount_data(&device, options, master_checks);
    let failed = |error: io::Error| AttachError::Mount { path: path.to_owned(), error };
    let data = CString::new(data).map_err(|e| failed(e.into()))?;
    match rustix::mount::mount(
        &options.fsname,
        path,
        type_name(options),
        mount_flags(options),
        data.as_c_str(),
    ) {
        Ok(()) => Ok(device.into()),
        Err(Errno::NODEV) => Err(AttachError::NoDevice),
        Err(Errno::PERM) => Err(AttachError::NotPermitted(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn open_device() -> Result<File, AttachError> {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => Ok(device),
        Err(error) => match Errno::from_io_error(&error) {
            // The node can be there without the driver.
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Err(AttachError::NoDevice),
            _ => Err(AttachError::Device(error)),
        },
    }
}

/// The kernel's own options (Documentation/filesystems/fuse.rst).
fn mount_data(device: &File, options: &MountOptions, master_checks: bool) -> String {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut data =
        format!("fd={},rootmode=40000,user_id={uid},group_id={gid},max_read={MAX_READ}", device.as_raw_fd());
    if !master_checks {
        data.push_str(",default_permissions");
    }
    if options.allow_other {
        data.push_str(",allow_other");
    }
    data
}

/// As mount(2) wants them.
pub fn mount_flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    for (on, flag) in [
        (options.read_only, MountFlags::RDONLY),
        (!options.dev, MountFlags::NODEV),
        (!options.suid, MountFlags::NOSUID),
        (!options.exec, MountFlags::NOEXEC),
        (options.noatime, MountFlags::NOATIME),
        (options.nodiratime, MountFlags::NODIRATIME),
        (options.strictatime, MountFlags::STRICTATIME),
        (options.sync, MountFlags::SYNCHRONOUS),
        (options.dirsync, MountFlags::DIRSYNC),
    ] {
        flags.set(flag, on);
    }
    flags
}

/// The same as words, for fusermount3; it adds `nodev` and `nosuid` by itself. Commas in names are escaped.
fn fusermount_options(options: &MountOptions, master_checks: bool) -> String {
    let escape = |name: &str| name.replace('\\', "\\\\").replace(',', "\\,");
    let mut words = vec![
        format!("fsname={}", escape(&options.fsname)),
        format!("subtype={}", options.subtype),
        format!("max_read={MAX_READ}"),
        "nodev".to_owned(),
        "nosuid".to_owned(),
    ];
    for (on, word) in [
        (!master_checks, "default_permissions"),
        (options.allow_other, "allow_other"),
        (options.read_only, "ro"),
        (!options.exec, "noexec"),
        (options.noatime, "noatime"),
        (options.nodiratime, "nodiratime"),
        (options.sync, "sync"),
        (options.dirsync, "dirsync"),
    ] {
        if on {
            words.push(word.to_owned());
        }
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> MountOptions {
        MountOptions {
            read_only: false,
            allow_other: true,
            dev: true,
            suid: true,
            exec: true,
            noatime: false,
            nodiratime: false,
            strictatime: false,
            sync: false,
            dirsync: false,
            squash: None,
            fsname: "dfs:h:1".to_owned(),
            subtype: "dfs".to_owned(),
        }
    }

    fn entry(id: u64, minor: u32, path: &str) -> MountEntry {
        let device = DeviceNo { major: 0, minor };
        MountEntry {
            id,
            device,
            path: path.into(),
            fs_type: "fuse.dfs".to_owned(),
            source: String::new(),
            options: String::new(),
        }
    }

    #[test]
    fn flags_follow_the_options() {
        assert_eq!(mount_flags(&options()), MountFlags::empty());
        let all = MountOptions {
            read_only: true,
            dev: false,
            suid: false,
            exec: false,
            noatime: true,
            nodiratime: true,
            sync: true,
            dirsync: true,
            ..options()
        };
        let wanted = MountFlags::RDONLY
            | MountFlags::NODEV
            | MountFlags::NOSUID
            | MountFlags::NOEXEC
            | MountFlags::NOATIME
            | MountFlags::NODIRATIME
            | MountFlags::SYNCHRONOUS
            | MountFlags::DIRSYNC;
        assert_eq!(mount_flags(&all), wanted);
        assert!(
            fusermount_options(&all, false)
                .ends_with(",allow_other,ro,noexec,noatime,nodiratime,sync,dirsync")
        );
    }

    #[test]
    fn others_are_let_in_only_when_asked() {
        let device = File::open("/dev/null").unwrap();
        assert!(
            mount_data(&device, &options(), false)
                .contains(",max_read=1048576,default_permissions,allow_other")
        );
        let private = MountOptions { allow_other: false, ..options() };
        assert!(!mount_data(&device, &private, false).contains("allow_other"));
        assert!(!fusermount_options(&private, false).contains("allow_other"));
    }

    #[test]
    fn the_kernel_looks_at_modes_unless_the_master_does() {
        let device = File::open("/dev/null").unwrap();
        let told = |master_checks| {
            let data = mount_data(&device, &options(), master_checks);
            [data, fusermount_options(&options(), master_checks)]
                .map(|all| all.contains("default_permissions"))
        };
        assert_eq!((told(false), told(true)), ([true; 2], [false; 2]));
    }

    #[test]
    fn a_comma_in_a_name_stays_in_the_name() {
        let odd = MountOptions { fsname: "a,b\\c".to_owned(), ..options() };
        assert!(fusermount_options(&odd, false).starts_with("fsname=a\\,b\\\\c,subtype=dfs,"));
    }

    #[test]
    fn only_the_mount_with_our_number_and_device_is_ours() {
        let ours = Attached { id: 7, device: DeviceNo { major: 0, minor: 50 } };
        assert!(ours.find(&[entry(7, 50, "/m")]).is_some());
        assert_eq!(
            ours.find(&[entry(7, 50, "/moved"), entry(8, 51, "/m")]).map(|e| &*e.path),
            Some(Path::new("/moved"))
        );
        // Another mount with the same number, another mount in our place, one over ours.
        assert!(ours.find(&[entry(7, 51, "/m")]).is_none());
        assert!(ours.find(&[entry(8, 50, "/m")]).is_none());
        assert!(ours.find(&[entry(7, 50, "/m"), entry(9, 60, "/m")]).is_none());
    }

    #[test]
    fn a_mount_that_is_gone_is_nobodys_to_unmount() {
        let gone = Attached { id: u64::MAX, device: DeviceNo { major: 0, minor: u32::MAX } };
        assert_eq!(gone.detach(Detach::Clean).unwrap(), Detached::NotOurs);
    }
}
