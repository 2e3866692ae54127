//! A cluster of the programs beside the benchmark, with a mount that a shell command can make anew.

use std::process::Command;

use super::System;
use crate::Cluster;

/// See the module.
pub struct OwnCluster {
    /// To be measured.
    pub system: System,
    _cluster: Cluster,
}

impl OwnCluster {
    /// Five keepers or so, three copies.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(min_copies: u32) -> OwnCluster {
        let mut cluster =
            Cluster::builder().min_copies(min_copies).replicate_every("10s").log("info").start();
        let dir = cluster.scratch.path("bench");
        let mount = format!(
            "'{}' --master {} '{}'",
            crate::process::binary("dfs-mount").display(),
            cluster.address(),
            dir.display()
        );
        crate::run::sh(&mount, &[] as &[&str]);
        let mut pids: Vec<String> = (0..cluster.keeper_count())
            .map(|n| cluster.keeper(n).pid().as_raw_nonzero().to_string())
            .collect();
        pids.push(cluster.master.pid().as_raw_nonzero().to_string());
        let pids = format!("echo {}; pgrep -f 'dfs-mount.* {}$'", pids.join(" "), dir.display());
        let cold = Some(format!("umount '{}' && {mount}", dir.display()));
        let system = System { name: "dfs".to_owned(), dir, cold, pids: Some(pids) };
        OwnCluster { system, _cluster: cluster }
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        // The watchdog of the cluster's directory sees to the rest.
        let _ = Command::new("umount").arg(&self.system.dir).status();
    }
}
