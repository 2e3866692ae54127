//! Delivers notices to the kernel. On threads of its own, because the kernel makes a notice wait for locks that are
//! held while requests are answered.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use dfs_proto::ids::InodeNo;

use super::root::Root;
use crate::fs::Fs;
use crate::fs::events::Notice;

/// Threads: so many notices can be blocked before the others have to wait.
const THREADS: usize = 8;

/// Threads for what nothing blocks, but an inode that the kernel is just letting go.
const QUICK_THREADS: usize = 2;

/// No entry can have this name: a notice of it does nothing but wait for the directory's lock.
const NO_NAME: &str = "/";

/// FUSE_NOTIFY_INVAL_ENTRY and FUSE_EXPIRE_ONLY of the kernel's fuse.h. fuser 0.18.0 does not know the flag; a
/// kernel before 6.2 neither, and forgets the entry altogether.
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// Starts the threads, which end when the board of `fs` is closed.
///
/// # Errors
/// A thread cannot be started.
pub fn start(fs: &Arc<Fs>, notifier: &fuser::Notifier, device: OwnedFd, root: Root) -> io::Result<()> {
    let device = Arc::new(device);
    for number in 0..THREADS {
        let (fs, notifier, device) = (fs.clone(), notifier.clone(), device.clone());
        std::thread::Builder::new().name(format!("fuse-notices-{number}")).spawn(move || {
            while let Some(job) = fs.notices().take() {
                job.notices.iter().for_each(|notice| tell(&notifier, &device, root, notice));
                fs.notices().delivered(job);
            }
        })?;
    }
    for number in 0..QUICK_THREADS {
        let (fs, notifier, device) = (fs.clone(), notifier.clone(), device.clone());
        std::thread::Builder::new().name(format!("fuse-notices-quick-{number}")).spawn(move || {
            while let Some(quick) = fs.notices().take_quick() {
                let told = |inode: &InodeNo| tell(&notifier, &device, root, &Notice::Attributes(*inode));
                quick.inodes.iter().for_each(told);
                fs.notices().delivered_quick(quick);
            }
        })?;
    }
    Ok(())
}

fn tell(notifier: &fuser::Notifier, device: &OwnedFd, root: Root, notice: &Notice) {
    let Some(inode) = root.noticed(subject(notice)) else { return };
    let told = match notice {
        // A negative offset: attributes alone. 0, 0: every page.
        Notice::Attributes(_) => notifier.inval_inode(inode, -1, 0),
        Notice::Content(_) => notifier.inval_inode(inode, 0, 0),
        Notice::Name(_, name) => notifier.inval_entry(inode, OsStr::from_bytes(name)),
        Notice::Settle(_) => notifier.inval_entry(inode, OsStr::new(NO_NAME)),
        Notice::Expire(_, name) => expire(device, inode.0, name),
    };
    match told {
        Ok(()) => {}
        // The kernel had not cached it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(?notice, "the kernel did not take a notice: {error}"),
    }
}

/// The inode, or the directory, that a notice is about.
fn subject(notice: &Notice) -> InodeNo {
    match notice {
        Notice::Attributes(inode)
        | Notice::Content(inode)
        | Notice::Name(inode, _)
        | Notice::Expire(inode, _)
        | Notice::Settle(inode) => *inode,
    }
}

/// struct fuse_out_header, struct fuse_notify_inval_entry_out, and the name with its NUL, in one write.
fn expire(device: &OwnedFd, parent: u64, name: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let name_len = u32::try_from(name.len()).map_err(too_long)?;
    let length = 16 + 16 + name_len + 1;
    let mut head = Vec::with_capacity(32);
    head.extend(length.to_ne_bytes());
    head.extend(NOTIFY_INVAL_ENTRY.to_ne_bytes());
    head.extend(0u64.to_ne_bytes());
    head.extend(parent.to_ne_bytes());
    head.extend(name_len.to_ne_bytes());
    head.extend(EXPIRE_ONLY.to_ne_bytes());
    let parts = [IoSlice::new(&head), IoSlice::new(name), IoSlice::new(&[0])];
    rustix::io::writev(device, &parts).map(|_| ()).map_err(io::Error::from)
}
