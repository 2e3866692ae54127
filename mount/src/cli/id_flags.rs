//! `--map-root`, `--map-all`, `--map-uid`, `--map-gid`: how the ids of a user's machines are mapped, as typed and as shown.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use dfs_proto::pb;
use serde::Serialize;

/// As typed. Of one kind.
#[derive(Args, Debug)]
#[group(id = "ids", multiple = true)]
pub(super) struct IdFlags {
    /// Root of the user's machines is this user and group at the cluster
    #[arg(long, value_name = "UID:GID", value_parser = owner, conflicts_with_all = ["map_all", "map_uid", "map_gid"])]
    map_root: Option<pb::Owner>,
    /// Everybody on the user's machines is this user and group at the cluster
    #[arg(long, value_name = "UID:GID", value_parser = owner, conflicts_with_all = ["map_uid", "map_gid"])]
    map_all: Option<pb::Owner>,
    /// Users from FROM on are those from TO on at the cluster, COUNT of them (1); all others are nobody. May be given several times
    #[arg(long, value_name = "FROM:TO[:COUNT]", value_parser = range)]
    map_uid: Vec<pb::IdRange>,
    /// The same for groups
    #[arg(long, value_name = "FROM:TO[:COUNT]", value_parser = range)]
    map_gid: Vec<pb::IdRange>,
}

impl IdFlags {
    /// `None`: none was given.
    pub(super) fn to_wire(&self) -> Option<pb::IdMap> {
        let IdFlags { map_root: root, map_all: all, map_uid, map_gid } = self;
        let ids = pb::IdMap { root: *root, all: *all, uids: map_uid.clone(), gids: map_gid.clone() };
        (ids != pb::IdMap::default()).then_some(ids)
    }
}

fn numbers<const N: usize>(text: &str) -> Option<[u32; N]> {
    let numbers: Vec<u32> = text.split(':').map(u32::from_str).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

fn owner(text: &str) -> Result<pb::Owner, String> {
    let [uid, gid] = numbers(text).ok_or("it takes a user and a group, as in 1000:1000")?;
    Ok(pb::Owner { uid, gid })
}

fn range(text: &str) -> Result<pb::IdRange, String> {
    let [from, to, count] = numbers(text)
        .or_else(|| numbers(text).map(|[from, to]| [from, to, 1]))
        .ok_or("it takes two ids, and how many, as in 1000:5000:100")?;
    Ok(pb::IdRange { from, to, count })
}

/// For people and scripts.
#[derive(Serialize, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shown {
    /// Root is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Owner>,
    /// Everybody is.
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<Owner>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uids: Vec<Range>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gids: Vec<Range>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    from: u32,
    to: u32,
    count: u32,
}

impl Shown {
    /// As the master says it.
    pub(super) fn of(ids: &pb::IdMap) -> Shown {
        let owner = |owner: &pb::Owner| Owner { uid: owner.uid, gid: owner.gid };
        let range = |range: &pb::IdRange| Range { from: range.from, to: range.to, count: range.count };
        let ranges = |ranges: &[pb::IdRange]| ranges.iter().map(range).collect();
        Shown {
            root: ids.root.as_ref().map(owner),
            all: ids.all.as_ref().map(owner),
            uids: ranges(&ids.uids),
            gids: ranges(&ids.gids),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (what, owner) in [("root", self.root), ("all", self.all)] {
            words.extend(owner.map(|owner| format!("{what}={}:{}", owner.uid, owner.gid)));
        }
        for (what, ranges) in [("uid", &self.uids), ("gid", &self.gids)] {
            let shown = |range: &Range| format!("{what}={}:{}:{}", range.from, range.to, range.count);
            words.extend(ranges.iter().map(shown));
        }
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_shown() {
        assert_eq!(owner("5:6"), Ok(pb::Owner { uid: 5, gid: 6 }));
        assert_eq!(range("5:6"), Ok(pb::IdRange { from: 5, to: 6, count: 1 }));
        assert_eq!(range("5:6:7"), Ok(pb::IdRange { from: 5, to: 6, count: 7 }));
        for bad in ["", "5", "5:", ":5", "5:-1", "5:6:7:8", "4294967296:1", "a:b"] {
            assert!(owner(bad).is_err() && range(bad).is_err(), "{bad}");
        }
        assert!(owner("1:2:3").is_err());
        let ids = pb::IdMap {
            uids: vec![range("1000:5000:10").unwrap(), range("0:9").unwrap()],
            gids: vec![range("1:2").unwrap()],
            ..pb::IdMap::default()
        };
        assert_eq!(Shown::of(&ids).to_string(), "uid=1000:5000:10 uid=0:9:1 gid=1:2:1");
        let root = pb::IdMap { root: Some(owner("5:6").unwrap()), ..pb::IdMap::default() };
        assert_eq!(Shown::of(&root).to_string(), "root=5:6");
    }
}
