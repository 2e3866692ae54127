//! Whose call it is, and what the master is told of that.
//!
//! The kernel checks the modes and access lists for every caller, so the master need not. It has to where the kernel
//! lets pass whom it should not (a squashed root), and where the kernel did not know of the file.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::client::Client;

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, for its further groups; 0: not known here.
    pub pid: u32,
    /// The master checks what he does: a squashed root, whom the kernel lets pass, or whoever it is where ids are mapped at the master.
    pub checked: bool,
}

/// The user and group that root counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Squash {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Caller {
    /// The same caller on a mount that squashes root.
    pub fn squashed_to(self, squash: Squash) -> Caller {
        match self.uid {
            0 => Caller { uid: squash.uid, gid: squash.gid, pid: 0, checked: true },
            _ => self,
        }
    }

    /// Stands for capabilities(7), of which nothing is known here.
    pub fn is_root(self) -> bool {
        self.uid == 0
    }

    /// A client whose requests the master checks if it checks this caller.
    pub async fn client(self, client: &Client) -> Client {
        if self.checked { self.checked_client(client).await } else { client.clone() }
    }

    /// A client whose requests the master checks, whoever calls.
    pub async fn checked_client(self, client: &Client) -> Client {
        client.on_behalf_of(self.to_wire(self.groups().await, true))
    }

    /// A client whose requests say all of who calls.
    pub async fn known_client(self, client: &Client) -> Client {
        client.on_behalf_of(self.to_wire(self.groups().await, self.checked))
    }

    /// For an attribute that the mount itself computes: may the caller read it? All whom the master does not check the kernel has
    /// asked that.
    ///
    /// # Errors
    /// `Access`, or another of the master's.
    pub async fn check_read_attribute(
        self,
        client: &Client,
        inode: InodeNo,
        name: &[u8],
    ) -> Result<(), DfsError> {
        if !self.checked {
            return Ok(());
        }
        match self.client(client).await.getxattr(inode, name).await {
            // The master need not have it.
            Err(error) if error.code == ErrorCode::NoData => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn to_wire(self, groups: Vec<u32>, check: bool) -> pb::Caller {
        pb::Caller { uid: self.uid, gid: self.gid, groups, check }
    }

    /// His supplementary groups. None when the process cannot be seen (another pid namespace, or it is gone): then
    /// less is allowed, not more.
    async fn groups(self) -> Vec<u32> {
        if self.pid == 0 {
            return Vec::new();
        }
        let path = format!("/proc/{}/status", self.pid);
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        read.ok().and_then(Result::ok).map_or_else(Vec::new, |status| groups_in(&status))
    }
}

/// The groups in a `status` file of proc(5).
fn groups_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// What an open with these flags (open(2)) wants to do, as the three bits of a mode have it.
pub fn access(flags: i32) -> u32 {
    // As the kernel marks an open for execve(2): linux/fs.h, __FMODE_EXEC.
    const OPENED_TO_RUN: i32 = 0o40;
    let wanted = match flags & libc::O_ACCMODE {
        _ if flags & OPENED_TO_RUN != 0 => 1,
        libc::O_RDONLY => 4,
        libc::O_WRONLY => 2,
        _ => 4 | 2,
    };
    if flags & libc::O_TRUNC != 0 { wanted | 2 } else { wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_is_squashed() {
        let squash = Squash { uid: 65_534, gid: 65_533 };
        let user = Caller { uid: 5, gid: 6, pid: 7, checked: false };
        assert_eq!(user.squashed_to(squash), user);
        let root = Caller { uid: 0, gid: 0, ..user }.squashed_to(squash);
        assert_eq!(root, Caller { uid: 65_534, gid: 65_533, pid: 0, checked: true });
    }

    #[test]
    fn groups_are_read_as_proc_5_writes_them() {
        assert_eq!(groups_in("Name:\tx\nGroups:\t4 24 4000000000 \nNStgid:\t1\n"), [4, 24, 4_000_000_000]);
        assert_eq!(groups_in("Groups:\t\n"), Vec::<u32>::new());
        assert_eq!(groups_in(""), Vec::<u32>::new());
    }

    #[tokio::test]
    async fn the_groups_of_a_process_are_found() {
        let caller = Caller { uid: 0, gid: 0, pid: std::process::id(), checked: false };
        let own: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(caller.groups().await, own);
    }

    #[tokio::test]
    async fn a_process_that_cannot_be_seen_has_no_groups() {
        let caller = Caller { uid: 5, gid: 6, pid: u32::MAX, checked: false };
        assert_eq!(caller.groups().await, Vec::<u32>::new());
    }

    #[test]
    fn flags_say_what_is_wanted() {
        assert_eq!(access(libc::O_RDONLY), 4);
        assert_eq!(access(libc::O_WRONLY | libc::O_APPEND), 2);
        assert_eq!(access(libc::O_RDWR), 6);
        assert_eq!(access(libc::O_RDONLY | libc::O_TRUNC), 6);
        assert_eq!(access(libc::O_RDONLY | 0o40), 1);
    }
}
