//! The system that is compared: a master and two keepers in this process, and two mounts without a kernel. It lives for
//! many sequences; each has a directory of its own.

use std::sync::Arc;

use dfs_mount::fs::{Caller, Fs};
use dfs_proto::ids::InodeNo;

use crate::cluster::{Cluster, Mount};

pub const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, checked: false };

pub struct World {
    cluster: Cluster,
    mounts: [Mount; 2],
    sequences: u64,
}

impl World {
    pub async fn start() -> World {
        let cluster = Cluster::start(2).await;
        let mounts = [cluster.mount().await, cluster.mount().await];
        World { cluster, mounts, sequences: 0 }
    }

    /// A new directory for a sequence.
    pub async fn directory(&mut self) -> InodeNo {
        self.sequences += 1;
        let name = format!("sequence-{}", self.sequences);
        let made = self.mounts[0].fs.mkdir(ROOT_CALLER, InodeNo::ROOT, name.as_bytes(), 0o755, 0).await;
        InodeNo(made.unwrap().inode)
    }

    pub fn fs(&self, mount: usize) -> Arc<Fs> {
        self.mounts[mount].fs.clone()
    }

    /// The cluster itself stays, and so do the mounts' sessions, as after a crash that is mended at once.
    pub async fn restart_master(&mut self) {
        self.cluster.stop_master().await;
        self.cluster.restart_master().await;
    }

    /// Another process in the place of one that ended.
    pub async fn replace_mount(&mut self, mount: usize) {
        self.mounts[mount].fs.close().await;
        self.mounts[mount] = self.cluster.mount().await;
    }
}
