//! What quotas refuse. Uploads that are under way were promised their room: whatever else wants some has to leave it to them.

use std::collections::BTreeMap;

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;

use super::super::State;
use super::super::inode::Body;
use super::super::out::{Res, fail};
use super::super::upload::Phase;
use super::{Quota, Usage, blocks, without};

impl State {
    fn check_room(&self, directory: InodeNo, more: Usage) -> Res<()> {
        let Some(quota) = self.quotas.map.get(&directory) else { return Ok(()) };
        let over = |used: u64, more: u64, max: Option<u64>| {
            max.filter(|max| more > 0 && used.saturating_add(more) > *max)
        };
        let advice = "remove something, or have the quota raised with 'dfs quota set'";
        if let Some(max) = over(quota.used.inodes, more.inodes, quota.limits.max_inodes) {
            let message = format!("directory {directory} may have {max} files below it: {advice}");
            return fail(ErrorCode::QuotaExceeded, message);
        }
        if let Some(max) = over(quota.used.bytes, more.bytes, quota.limits.max_bytes) {
            let message = format!(
                "directory {directory} may have {max} bytes below it, and {} of these are used: {advice}",
                quota.used.bytes
            );
            return fail(ErrorCode::QuotaExceeded, message);
        }
        Ok(())
    }

    /// May an inode (`None`: a new one) get a name in this directory?
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(in super::super) fn check_quota_for_name(&self, inode: Option<InodeNo>, parent: InodeNo) -> Res<()> {
        if self.quotas.map.is_empty() {
            return Ok(());
        }
        let (known, mut usage) = match inode {
            Some(inode) => (self.quotas_of(inode), self.usage_of(inode)),
            None => (Vec::new(), Usage::ONE_INODE),
        };
        let gained = without(self.quotas_over(parent), &known);
        if inode.is_some() && !gained.is_empty() {
            // What is on its way into it comes along.
            usage.bytes += self.promised(&self.under_way(ChunkId(0), |of| Some(of) == inode));
        }
        gained.into_iter().try_for_each(|quota| {
            let mut more = usage;
            if more.bytes > 0 {
                more.bytes += self.promised(&self.under_way_below(quota, ChunkId(0)));
            }
            self.check_room(quota, more)
        })
    }

    /// May an inode move from one directory to another?
    ///
    /// # Errors
    /// `CrossesQuota` for a directory, and for an exchange; `QuotaExceeded`.
    pub(in super::super) fn check_quota_for_rename(
        &self,
        inode: InodeNo,
        from: InodeNo,
        to: InodeNo,
        exchange: bool,
    ) -> Res<()> {
        if from == to || self.quotas_over(from) == self.quotas_over(to) {
            return Ok(());
        }
        if exchange || self.is_directory(inode) {
            let message = "it would move into or out of a directory with a quota: copy it and remove it here";
            return fail(ErrorCode::CrossesQuota, message);
        }
        self.check_quota_for_name(Some(inode), to)
    }

    /// May these runs be stored in a file? Other uploads that are under way count as if they were done, but for
    /// `replaced`. What takes the place of bytes that are there takes no room.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(in super::super) fn check_quota_for_bytes(
        &self,
        inode: InodeNo,
        runs: &[pb::Run],
        replaced: ChunkId,
    ) -> Res<()> {
        let lengths = self.uploads.values().map(|upload| u64::from(upload.length));
        let most = lengths.chain([runs.iter().map(|run| run.length).sum()]).map(blocks).sum::<u64>();
        for quota in self.quotas_of(inode) {
            let Some(Quota { limits, used }) = self.quotas.map.get(&quota) else { continue };
            if limits.max_bytes.is_none_or(|max| used.bytes.saturating_add(most) <= max) {
                continue;
            }
            let new = self.new_bytes(inode, runs);
            let mut under_way = self.under_way_below(quota, replaced);
            let before = self.promised(&under_way);
            *under_way.entry(inode).or_default() += new;
            let after = self.promised(&under_way);
            // By itself: those that seem to take the same room may fail.
            if after > before || self.growth(inode, new) > 0 {
                self.check_room(quota, Usage { bytes: after, inodes: 0 })?;
            }
        }
        Ok(())
    }

    /// How many bytes that are not there yet uploads bring, by file; but for one chunk.
    fn under_way(&self, but_for: ChunkId, is_it: impl Fn(InodeNo) -> bool) -> BTreeMap<InodeNo, u64> {
        let mut new: BTreeMap<InodeNo, u64> = BTreeMap::new();
        for (chunk, upload) in &self.uploads {
            if *chunk != but_for && upload.phase != Phase::Failed && is_it(upload.inode) {
                *new.entry(upload.inode).or_default() += self.new_bytes(upload.inode, &upload.runs);
            }
        }
        new
    }

    fn under_way_below(&self, quota: InodeNo, but_for: ChunkId) -> BTreeMap<InodeNo, u64> {
        self.under_way(but_for, |inode| self.quotas_of(inode).contains(&quota))
    }

    /// Of these runs, what is not there yet.
    fn new_bytes(&self, inode: InodeNo, runs: &[pb::Run]) -> u64 {
        let new = runs.iter().map(|run| {
            let (from, to) = (run.file_offset, run.file_offset.saturating_add(run.length));
            let covered = self.overlapping(inode, from, to).map(|(start, span)| {
                (start + u64::from(span.length)).min(to).saturating_sub(start.max(from))
            });
            run.length.saturating_sub(covered.sum())
        });
        new.sum()
    }

    /// By how much a file's blocks grow with so many bytes more.
    fn growth(&self, inode: InodeNo, new: u64) -> u64 {
        let now = match self.inodes.get(&inode).map(|node| &node.body) {
            Some(Body::File { allocated, .. }) => *allocated,
            _ => 0,
        };
        blocks(now.saturating_add(new)) - blocks(now)
    }

    /// The same of several files.
    fn promised(&self, new: &BTreeMap<InodeNo, u64>) -> u64 {
        new.iter().map(|(inode, new)| self.growth(*inode, *new)).sum()
    }
}
