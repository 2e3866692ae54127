use proptest::prelude::*;

use super::*;

fn ranges(ranges: &[(u32, u32, u32)]) -> Res<IdRanges> {
    IdRanges::new(ranges.iter().map(|&(from, to, count)| IdRange { from, to, count }).collect())
}

fn mapped(uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> IdMap {
    IdMap::Ranges { uids: ranges(uids).unwrap(), gids: ranges(gids).unwrap() }
}

fn caller(uid: u32, gid: u32, groups: &[u32]) -> pb::Caller {
    pb::Caller { uid, gid, groups: groups.to_vec(), check: false }
}

#[test]
fn ranges_that_overlap_on_either_side_are_refused() {
    assert!(ranges(&[(0, 100, 10), (10, 110, 10)]).is_ok());
    for bad in [
        &[(0, 100, 10), (9, 200, 1)][..],
        &[(0, 100, 10), (50, 109, 1)],
        &[(50, 109, 1), (0, 100, 10)],
        &[(5, 5, 0)],
        &[(u32::MAX - 1, 5, 2)],
        &[(5, u32::MAX - 1, 2)],
        &[(1, 1, 1), (1, 2, 1)],
    ] {
        let error = ranges(bad).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{bad:?}");
        assert!(error.message.contains(':'), "it names the ranges: {}", error.message);
    }
    assert!(ranges(&[(0, 0, u32::MAX)]).is_ok(), "every id there is");
    let many: Vec<_> = (0..=MAX_RANGES as u32).map(|n| (n * 2, n * 2, 1)).collect();
    assert!(ranges(&many).is_err() && ranges(&many[1..]).is_ok());
}

#[test]
fn root_alone_is_somebody_else_with_his_group() {
    let map = IdMap::Root(Owner { uid: 1000, gid: 2000 });
    assert_eq!(
        map.caller(&caller(0, 0, &[0, 4])),
        pb::Caller { check: true, ..caller(1000, 2000, &[2000, 4]) }
    );
    assert_eq!(map.caller(&caller(7, 0, &[])), pb::Caller { check: true, ..caller(7, 2000, &[]) });
    assert_eq!((map.uid_out(0), map.uid_out(1000), map.gid_out(7)), (0, 1000, 7));
    assert!(!map.reaches_uid(0) && !map.reaches_gid(0) && map.reaches_uid(1) && map.reaches_gid(2000));
}

#[test]
fn everybody_is_one() {
    let map = IdMap::All(Owner { uid: 5, gid: 6 });
    for uid in [0, 5, 1000, NOBODY] {
        assert_eq!(map.caller(&caller(uid, uid, &[0, 1])), pb::Caller { check: true, ..caller(5, 6, &[]) });
    }
    assert!(map.reaches_uid(5) && map.reaches_gid(6));
    assert!(!map.reaches_uid(6) && !map.reaches_uid(0) && !map.reaches_gid(5) && !map.reaches_uid(NOBODY));
    assert_eq!((map.listed_uid_in(9), map.uid_out(9)), (Some(9), 9), "lists are what they are");
}

#[test]
fn who_is_in_no_range_is_nobody() {
    let map = mapped(&[(1000, 5000, 10)], &[(100, 600, 2)]);
    let who = map.caller(&caller(1003, 101, &[0, 100, 102]));
    assert_eq!(who, pb::Caller { check: true, ..caller(5003, 601, &[600]) });
    assert_eq!(map.caller(&caller(0, 0, &[])), pb::Caller { check: true, ..caller(NOBODY, NOBODY, &[]) });
    assert_eq!((map.uid_in(999), map.uid_in(1010), map.listed_gid_in(102)), (None, None, None));
    assert_eq!((map.uid_out(5009), map.uid_out(5010), map.gid_out(0)), (1009, NOBODY, NOBODY));
    assert!(
        map.reaches_uid(5000) && map.reaches_uid(NOBODY) && !map.reaches_uid(1000) && !map.reaches_uid(0)
    );
    let users_alone = mapped(&[(0, 5000, 1)], &[]);
    assert_eq!(
        (users_alone.uid_in(0), users_alone.gid_in(0), users_alone.gid_out(7)),
        (Some(5000), Some(0), 7)
    );
}

#[test]
fn a_map_is_of_one_kind() {
    let one = || Some(pb::Owner { uid: 1, gid: 1 });
    let range = || vec![pb::IdRange { from: 1, to: 2, count: 1 }];
    let none = pb::IdMap::default;
    assert_eq!(IdMap::from_wire(&none()), Ok(IdMap::None));
    for bad in [
        pb::IdMap { root: one(), all: one(), ..none() },
        pb::IdMap { root: one(), uids: range(), ..none() },
        pb::IdMap { all: one(), gids: range(), ..none() },
        pb::IdMap { root: Some(pb::Owner { uid: 0, gid: 5 }), ..none() },
        pb::IdMap { all: Some(pb::Owner { uid: 1, gid: u32::MAX }), ..none() },
    ] {
        assert_eq!(IdMap::from_wire(&bad).unwrap_err().code, ErrorCode::Invalid, "{bad:?}");
    }
    let good = [
        pb::IdMap { root: one(), ..none() },
        pb::IdMap { all: one(), ..none() },
        pb::IdMap { gids: range(), ..none() },
    ];
    for wire in good {
        assert_eq!(IdMap::from_wire(&wire).unwrap().to_wire(), Some(wire));
    }
}

/// Any map of ranges that is taken.
fn any_ranges() -> impl Strategy<Value = IdRanges> {
    let id = || prop_oneof![0..40u32, any::<u32>()];
    let range = (id(), id(), 0..12u32).prop_map(|(from, to, count)| IdRange { from, to, count });
    prop::collection::vec(range, 1..5).prop_filter_map("refused", |ranges| IdRanges::new(ranges).ok())
}

proptest! {
    /// What goes in comes out as it was, and the other way round; nothing else is reached.
    #[test]
    fn ranges_go_round(ranges in any_ranges(), id in prop_oneof![0..60u32, any::<u32>()]) {
        for range in ranges.iter() {
            for at in 0..range.count {
                prop_assert_eq!(ranges.inward(range.from + at), Some(range.to + at));
                prop_assert_eq!(ranges.outward(range.to + at), Some(range.from + at));
            }
        }
        if let Some(there) = ranges.inward(id) {
            prop_assert_eq!(ranges.outward(there), Some(id));
            prop_assert!(ranges.reaches(there));
        }
        match ranges.outward(id) {
            Some(here) => prop_assert_eq!(ranges.inward(here), Some(id)),
            None => prop_assert_eq!(ranges.reaches(id), id == NOBODY),
        }
    }
}
