//! What is agreed on with the kernel before the first request.

use fuser::{InitFlags, KernelConfig};

/// Largest write request that we ask the kernel for, in bytes. It sends at most 1 MiB.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel may have under way by itself (readahead), at once.
const MAX_BACKGROUND: u16 = 64;

/// Wanted of the kernel where it has it. None of those with which fuser 0.18.0 has trouble
/// (FUSE_SETXATTR_EXT, FUSE_HANDLE_KILLPRIV_V2).
const CAPABILITIES: [InitFlags; 8] = [
    // The master applies the umask, or a default access list in its place.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
];

/// What the kernel can do.
#[derive(Clone, Copy, Default)]
pub struct Greeted {
    /// It enforces access lists, or the master does.
    pub access_lists: bool,
    /// Its pages stay out of files opened to append, and of what another mount is changing. From Linux 6.6 on, which keeps
    /// them right for others who have the file open, and allows mmap(2) all the same.
    pub uncached: bool,
}

/// Asks the kernel for what is wanted of it. `master_checks`: not to look at modes, which it does when it enforces access lists.
pub fn greet(config: &mut KernelConfig, master_checks: bool) -> Greeted {
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            tracing::info!(?capability, "this kernel does not have it");
        }
    }
    let access_lists = master_checks || config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_ok();
    let uncached = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
    // Each of these answers with the nearest that the kernel takes.
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(MAX_WRITE) {
        let _ = config.set_max_readahead(nearest);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    Greeted { access_lists, uncached }
}
