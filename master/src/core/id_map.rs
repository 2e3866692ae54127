//! How the users and groups of a client's machine are those of the cluster, for a user who is bound to such a map.
//!
//! Three kinds, as other file systems have them: root alone is somebody else (`root_squash` of exports(5)), everybody is one user
//! (`all_squash`), or ranges of ids are other ranges (as for id-mapped mounts). With ranges, what is in none of them is nobody.
//!
//! What must hold: ranges of one kind of id do not overlap, on neither side, so that what goes in comes out as it was.

use std::fmt;

use dfs_proto::error::ErrorCode;
use dfs_proto::pb;

use super::out::{Res, fail};

/// Who has no id: as exports(5) and the kernel have it.
pub const NOBODY: u32 = 65_534;
/// (uid_t) -1: no id of anybody.
const NO_ID: u64 = u32::MAX as u64;
/// The most ranges of one kind of id.
pub const MAX_RANGES: usize = 64;

/// A user and a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// `count` ids from `from` on, at the client, are those from `to` on, at the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct IdRange {
    pub from: u32,
    pub to: u32,
    pub count: u32,
}

/// Ids of one kind. No range: they are what they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdRanges(Vec<IdRange>);

/// See the head of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum IdMap {
    /// Everybody is who he says.
    #[default]
    None,
    /// Root is this one.
    Root(Owner),
    /// Everybody is this one.
    All(Owner),
    /// Who is in a range is somebody; of a kind of id that has ranges, all others are nobody.
    #[allow(missing_docs)]
    Ranges { uids: IdRanges, gids: IdRanges },
}

fn shifted(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    // What is checked when ranges are made: none goes past the last id.
    id.checked_sub(from).filter(|at| *at < count).map(|at| to.saturating_add(at))
}

impl IdRanges {
    /// # Errors
    /// `Invalid`: says which range does not fit.
    pub fn new(mut ranges: Vec<IdRange>) -> Res<IdRanges> {
        if ranges.len() > MAX_RANGES {
            return fail(
                ErrorCode::Invalid,
                format!("there are at most {MAX_RANGES} ranges of ids; give fewer"),
            );
        }
        let too_far = |first: u32, count: u32| u64::from(first) + u64::from(count) > NO_ID;
        if let Some(bad) =
            ranges.iter().find(|r| r.count == 0 || too_far(r.from, r.count) || too_far(r.to, r.count))
        {
            let message =
                format!("range {bad} has no ids, or goes past the last one, {}; give another", NO_ID - 1);
            return fail(ErrorCode::Invalid, message);
        }
        for start in [|range: &IdRange| range.to, |range: &IdRange| range.from] {
            ranges.sort_by_key(start);
            let twice = ranges.windows(2).find(|two| start(&two[1]) - start(&two[0]) < two[0].count);
            if let Some(two) = twice {
                let message = format!("ranges {} and {} have ids in common; make them apart", two[0], two[1]);
                return fail(ErrorCode::Invalid, message);
            }
        }
        Ok(IdRanges(ranges))
    }

    /// By the ids at the client.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &IdRange> {
        self.0.iter()
    }

    fn inward(&self, id: u32) -> Option<u32> {
        if self.0.is_empty() {
            return Some(id);
        }
        self.0.iter().find_map(|range| shifted(id, range.from, range.to, range.count))
    }

    fn outward(&self, id: u32) -> Option<u32> {
        if self.0.is_empty() {
            return Some(id);
        }
        self.0.iter().find_map(|range| shifted(id, range.to, range.from, range.count))
    }

    /// Is there somebody at the client who is this one?
    fn reaches(&self, id: u32) -> bool {
        id == NOBODY || self.outward(id).is_some()
    }
}

impl IdMap {
    /// Is there anything to do?
    pub fn is_none(&self) -> bool {
        *self == IdMap::None
    }

    /// The one whom everybody is.
    pub fn everybody(&self) -> Option<Owner> {
        match self {
            IdMap::All(owner) => Some(*owner),
            _ => None,
        }
    }

    /// A caller, as the cluster knows him. His groups that it does not know give him nothing.
    pub fn caller(&self, caller: &pb::Caller) -> pb::Caller {
        let pb::Caller { uid, gid, groups, check: _ } = caller;
        let groups = match self {
            IdMap::All(_) => Vec::new(),
            _ => groups.iter().filter_map(|gid| self.gid_in(*gid)).collect(),
        };
        let (uid, gid) = (self.uid_in(*uid).unwrap_or(NOBODY), self.gid_in(*gid).unwrap_or(NOBODY));
        pb::Caller { uid, gid, groups, check: true }
    }

    /// A user of the client, at the cluster. `None`: he is in no range.
    pub fn uid_in(&self, uid: u32) -> Option<u32> {
        match self {
            IdMap::None => Some(uid),
            IdMap::Root(owner) => Some(if uid == 0 { owner.uid } else { uid }),
            IdMap::All(owner) => Some(owner.uid),
            IdMap::Ranges { uids, .. } => uids.inward(uid),
        }
    }

    /// The same for a group.
    pub fn gid_in(&self, gid: u32) -> Option<u32> {
        match self {
            IdMap::None => Some(gid),
            IdMap::Root(owner) => Some(if gid == 0 { owner.gid } else { gid }),
            IdMap::All(owner) => Some(owner.gid),
            IdMap::Ranges { gids, .. } => gids.inward(gid),
        }
    }

    /// A user in an access list. Only ranges change it: what a list shows can then always be given back.
    pub fn listed_uid_in(&self, uid: u32) -> Option<u32> {
        match self {
            IdMap::Ranges { uids, .. } => uids.inward(uid),
            _ => Some(uid),
        }
    }

    /// The same for a group.
    pub fn listed_gid_in(&self, gid: u32) -> Option<u32> {
        match self {
            IdMap::Ranges { gids, .. } => gids.inward(gid),
            _ => Some(gid),
        }
    }

    /// A user of the cluster, as the client is shown him.
    pub fn uid_out(&self, uid: u32) -> u32 {
        match self {
            IdMap::Ranges { uids, .. } => uids.outward(uid).unwrap_or(NOBODY),
            _ => uid,
        }
    }

    /// The same for a group.
    pub fn gid_out(&self, gid: u32) -> u32 {
        match self {
            IdMap::Ranges { gids, .. } => gids.outward(gid).unwrap_or(NOBODY),
            _ => gid,
        }
    }

    /// Can somebody at the client be this user?
    pub fn reaches_uid(&self, uid: u32) -> bool {
        match self {
            IdMap::None => true,
            IdMap::Root(owner) => uid != 0 || owner.uid == 0,
            IdMap::All(owner) => uid == owner.uid,
            IdMap::Ranges { uids, .. } => uids.reaches(uid),
        }
    }

    /// Or be in this group?
    pub fn reaches_gid(&self, gid: u32) -> bool {
        match self {
            IdMap::None => true,
            IdMap::Root(owner) => gid != 0 || owner.gid == 0,
            IdMap::All(owner) => gid == owner.gid,
            IdMap::Ranges { gids, .. } => gids.reaches(gid),
        }
    }

    /// From an operator. Nothing in it: there is to be no map.
    ///
    /// # Errors
    /// `Invalid`: says what is wrong with it.
    pub fn from_wire(wire: &pb::IdMap) -> Res<IdMap> {
        let pb::IdMap { root, all, uids, gids } = wire;
        let kinds = [root.is_some(), all.is_some(), !uids.is_empty() || !gids.is_empty()];
        if kinds.into_iter().filter(|there| *there).count() > 1 {
            let message = "ids are mapped in one way: root alone, everybody, or ranges, of which root can be one; choose";
            return fail(ErrorCode::Invalid, message);
        }
        let owner = |owner: &pb::Owner| match owner {
            pb::Owner { uid: u32::MAX, .. } | pb::Owner { gid: u32::MAX, .. } => {
                fail(ErrorCode::Invalid, format!("{} is the id of nobody; give another", u32::MAX))
            }
            pb::Owner { uid, gid } => Ok(Owner { uid: *uid, gid: *gid }),
        };
        let ranges = |ranges: &[pb::IdRange]| {
            let range = |range: &pb::IdRange| IdRange { from: range.from, to: range.to, count: range.count };
            IdRanges::new(ranges.iter().map(range).collect())
        };
        Ok(match (root, all) {
            (Some(pb::Owner { uid: 0, .. }), _) => {
                return fail(ErrorCode::Invalid, "root that stays root is no map; name another user");
            }
            (Some(root), _) => IdMap::Root(owner(root)?),
            (_, Some(all)) => IdMap::All(owner(all)?),
            _ if kinds[2] => IdMap::Ranges { uids: ranges(uids)?, gids: ranges(gids)? },
            _ => IdMap::None,
        })
    }

    /// For an operator.
    pub fn to_wire(&self) -> Option<pb::IdMap> {
        let owner = |owner: &Owner| Some(pb::Owner { uid: owner.uid, gid: owner.gid });
        let range = |range: &IdRange| pb::IdRange { from: range.from, to: range.to, count: range.count };
        let ranges = |ranges: &IdRanges| ranges.iter().map(range).collect();
        Some(match self {
            IdMap::None => return None,
            IdMap::Root(root) => pb::IdMap { root: owner(root), ..pb::IdMap::default() },
            IdMap::All(all) => pb::IdMap { all: owner(all), ..pb::IdMap::default() },
            IdMap::Ranges { uids, gids } => {
                pb::IdMap { uids: ranges(uids), gids: ranges(gids), ..pb::IdMap::default() }
            }
        })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.from, self.to, self.count)
    }
}

#[cfg(test)]
#[path = "id_map_tests.rs"]
mod tests;
