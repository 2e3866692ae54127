//! Golden bytes, round trips and hostile bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_proto::token::Role;
use proptest::prelude::*;

use super::*;
use crate::core::id_map::{IdRange, IdRanges, Owner};

/// A row of each kind, as simple and as full as it can be.
pub(crate) fn samples() -> Vec<Row> {
    let inode = InodeRow {
        mode: 0o100_644,
        nlink: 1,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 5_000_000_000,
        atime: pb::Time { sec: 1, nsec: 2 },
        mtime: pb::Time { sec: -1, nsec: 999_999_999 },
        ctime: pb::Time { sec: 300, nsec: 0 },
        content_version: 7,
        target: None,
    };
    let link = InodeRow { mode: 0o120_777, target: Some((*b"a/b").into()), ..inode.clone() };
    let extent =
        ExtentRow { file_offset: 8 << 20, length: 300, chunk: ChunkId(0x1234), chunk_offset: 65_536 };
    let keepers = vec![KeeperId(1), KeeperId(2), KeeperId(300)];
    let keeper = KeeperRow {
        address: "10.0.0.1:4000".to_owned(),
        data_dir: "/srv/dfs".to_owned(),
        host: "höst".to_owned(),
        ..KeeperRow::default()
    };
    let labelled = KeeperRow {
        version: "1.2".to_owned(),
        labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        draining: true,
        maintenance_until_ms: 1_700_000_000_000,
        ..keeper.clone()
    };
    vec![
        Row::Counters(Counters { next_inode: 2, next_chunk: 1024, next_keeper: 1 }),
        Row::Inode(InodeNo(1), inode),
        Row::Inode(InodeNo(258), link),
        Row::Dentry { parent: InodeNo(1), name: (*b"film.mp4").into(), inode: InodeNo(300) },
        Row::Extent(InodeNo(300), extent),
        Row::Chunk(ChunkId(0x1234), ChunkRow { length: 8 << 20, checksum: 0xdead_beef, keepers }),
        Row::Chunk(ChunkId(7), ChunkRow { length: 1, checksum: 0, keepers: vec![] }),
        Row::Xattr { inode: InodeNo(1), name: (*b"user.k").into(), value: Bytes::from_static(b"v\0") },
        Row::Keeper(KeeperId(1), keeper),
        Row::Keeper(KeeperId(2), labelled),
        Row::Reply { session: SessionId(5), request: 6, reply: Bytes::from_static(b"\x08\x06") },
        Row::Quota(InodeNo(1), QuotaRow { max_bytes: Some(0), max_inodes: None }),
        Row::Quota(InodeNo(258), QuotaRow { max_bytes: None, max_inodes: Some(300) }),
        Row::Trash(
            InodeNo(300),
            TrashRow { path: (*b"/a/b").into(), deleted: pb::Time { sec: -1, nsec: 2 }, bytes: 300 },
        ),
        Row::Session(SessionId(5)),
        Row::User("anna".into(), user("$argon2id$v=19$x", [Role::Rw, Role::Ro], false, 300)),
        Row::User("keeper-1".into(), user("", [Role::Keeper, Role::Keeper], true, 0)),
        Row::User(
            "bound".into(),
            UserRow { dir: Some(InodeNo(300)), ..user("h", [Role::Ro, Role::Ro], false, 1) },
        ),
        Row::User("mapped".into(), with_ids(IdMap::All(Owner { uid: 300, gid: 5 }))),
        Row::User("ranges".into(), with_ids(ids_of_ranges([IdRange { from: 0, to: 300, count: 2 }], []))),
    ]
}

fn user(hash: &str, roles: [Role; 2], disabled: bool, generation: u32) -> UserRow {
    UserRow {
        password_hash: hash.to_owned(),
        roles: roles.into_iter().collect(),
        disabled,
        generation,
        ..UserRow::default()
    }
}

fn with_ids(ids: IdMap) -> UserRow {
    UserRow { ids: Arc::new(ids), ..user("h", [Role::Ro, Role::Ro], false, 1) }
}

fn ids_of_ranges<const N: usize, const M: usize>(uids: [IdRange; N], gids: [IdRange; M]) -> IdMap {
    let ranges = |ranges: &[IdRange]| IdRanges::new(ranges.to_vec()).unwrap();
    IdMap::Ranges { uids: ranges(&uids), gids: ranges(&gids) }
}

fn any_ids() -> impl Strategy<Value = IdMap> {
    let owner = || any::<(u32, u32)>().prop_map(|(uid, gid)| Owner { uid, gid });
    let ranges = || {
        let range = |(from, to, count)| IdRange { from, to, count };
        prop::collection::vec((0..99u32, 0..99u32, 1..9u32).prop_map(range), 0..4)
            .prop_filter_map("refused", |ranges| IdRanges::new(ranges).ok())
    };
    prop_oneof![
        Just(IdMap::None),
        owner().prop_map(IdMap::Root),
        owner().prop_map(IdMap::All),
        (ranges(), ranges()).prop_map(|(uids, gids)| IdMap::Ranges { uids, gids }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// If this fails, the format has changed: existing clusters cannot be read any more.
#[test]
fn the_bytes_of_each_row_are_these() {
    let seen: Vec<String> = samples()
        .iter()
        .map(|row| {
            let (table, key, value) = encode(row);
            format!("{} {} {}", table as u8, hex(&key), hex(&value))
        })
        .collect();
    assert_eq!(seen, GOLDEN);
}

/// Table, key, value.
const GOLDEN: &[&str] = &[
    "1  0102800801466c34db",
    "2 0000000000000001 01a4830201e807640080e497d012020201ff93ebdc03d804000700a3e4d8e8",
    "2 0000000000000102 01ffc30201e807640080e497d012020201ff93ebdc03d804000704612f628cfa7f16",
    "3 000000000000000166696c6d2e6d7034 01ac0246d42fea",
    "4 000000000000012c0000000000800000 01ac02b42480800403d247ae",
    "5 0000000000001234 0180808004effdb6f50d030102ac027bdc01ab",
    "5 0000000000000007 01010000974ab39f",
    "6 0000000000000001757365722e6b 01760089dafdc2",
    "7 0000000000000001 020d31302e302e302e313a34303030082f7372762f6466730568c3b67374000000007e190384",
    "7 0000000000000002 020d31302e302e302e313a34303030082f7372762f6466730568c3b6737403312e3201047261636b01370180d095ffbc310354d647",
    "9 00000000000000050000000000000006 010806364a721a",
    "8 0000000000000001 010100005747337f",
    "8 0000000000000102 010001ac0292cabb45",
    "10 000000000000012c 010102ac022f612f6241e4d9b5",
    "11 0000000000000005 01d39b5252",
    "12 616e6e61 030600ac020000246172676f6e32696424763d31392478cecb291b",
    "12 6b65657065722d31 0308010000003beda120",
    "12 626f756e64 03040001ac020068b4515f23",
    "12 6d6170706564 030400010002ac020568f578e345",
    "12 72616e676573 0304000100030100ac0202006889363739",
];

/// As versions 1 and 2 wrote it: bound to nothing; to a directory, and not mapped.
#[test]
fn users_of_older_versions_are_read() {
    let value = sealed(Table::User, b"anna", 1, b"\x06\x00\xac\x02$argon2id$v=19$x");
    assert_eq!(hex(&value), "010600ac02246172676f6e32696424763d31392478a4bac7f8");
    assert_eq!(decode(Table::User, b"anna", &value), Ok(samples().remove(15)));
    let value = sealed(Table::User, b"bound", 2, b"\x04\x00\x01\xac\x02h");
    assert_eq!(hex(&value), "02040001ac02687d0f4a39");
    assert_eq!(decode(Table::User, b"bound", &value), Ok(samples().remove(17)));
}

/// As version 1 wrote it: without labels and duty.
#[test]
fn a_keeper_of_the_first_version_is_read() {
    const KEY: &[u8] = &1u64.to_be_bytes();
    let body = b"\x0d10.0.0.1:4000\x08/srv/dfs\x05h\xc3\xb6st\x00";
    let value = sealed(Table::Keeper, KEY, 1, body);
    assert_eq!(hex(&value), "010d31302e302e302e313a34303030082f7372762f6466730568c3b67374003ed4fbd5");
    assert_eq!(decode(Table::Keeper, KEY, &value), Ok(samples().remove(8)));
}

#[test]
fn the_order_of_keys_is_the_order_of_numbers_and_names() {
    let dentry =
        |parent, name: &[u8]| encode_key(&RowKey::Dentry { parent: InodeNo(parent), name: name.into() }).1;
    let extent = |inode, file_offset| encode_key(&RowKey::Extent { inode: InodeNo(inode), file_offset }).1;
    assert!(dentry(1, b"b") < dentry(256, b"a"));
    assert!(dentry(1, b"a") < dentry(1, b"aa"));
    assert!(extent(1, 255) < extent(1, 256));
    assert!(extent(1, u64::MAX) < extent(2, 0));
}

#[test]
fn any_flipped_bit_of_a_value_is_noticed() {
    for row in samples() {
        let (table, key, value) = encode(&row);
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(table, &key, &bad).is_err(), "{row:?} bit {bit}");
        }
        assert!(decode(table, &key, &value[..value.len() - 1]).is_err());
    }
}

#[test]
fn a_value_under_another_key_or_in_another_table_is_no_row() {
    let (table, mut key, value) = encode(&samples()[1]);
    key[7] ^= 3;
    let error = decode(table, &key, &value).unwrap_err().to_string();
    assert_eq!(error, "a row of table 'inode' cannot be read: its checksum is wrong (key 0000000000000002)");
    let (_, key, value) = encode(&samples()[1]);
    assert!(decode(Table::Chunk, &key, &value).is_err());
}

/// A value with a right checksum over any body.
fn sealed(table: Table, key: &[u8], version: u8, body: &[u8]) -> Vec<u8> {
    let mut value = [&[version], body].concat();
    let crc = checksum(table, key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

#[test]
fn what_no_encoder_writes_is_refused() {
    const KEY: &[u8] = &1u64.to_be_bytes();
    type Case = (Table, &'static [u8], u8, &'static [u8], &'static str);
    let cases: &[Case] = &[
        (Table::Dentry, &[0; 9], 2, &[1], "it is of another version"),
        (Table::Dentry, &[0; 9], 1, &[1, 0], "it is too long"),
        (Table::Dentry, &[0; 8], 1, &[1], "its name has an impossible length"),
        (Table::Dentry, &[0; 264], 1, &[1], "its name has an impossible length"),
        (Table::Chunk, &[0; 9], 1, &[1, 1, 0], "its key is too long"),
        (Table::Chunk, &[0; 7], 1, &[1, 1, 0], "its key is too short"),
        (Table::Chunk, KEY, 1, &[1, 1, 2, 5, 5], "its keepers are not in order"),
        (
            Table::Chunk,
            KEY,
            1,
            &[1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f],
            "it names more keepers than it has room for",
        ),
        (Table::Chunk, KEY, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 0], "a number in it is too large"),
        (Table::Chunk, KEY, 1, &[0x80], "a number in it is broken"),
        (Table::Keeper, KEY, 1, &[1, 0xff, 0, 0, 0], "a text in it is not UTF-8"),
        (Table::Keeper, KEY, 1, &[200, 1, b'a'], "it is too short"),
        (Table::Keeper, KEY, 3, &[0, 0, 0, 0, 0, 0, 0], "it is of another version"),
        (Table::Keeper, KEY, 0, &[0, 0, 0, 0], "it is of another version"),
        (Table::Keeper, KEY, 1, &[0, 0, 0, 0, 0, 0, 0], "it is too long"),
        (Table::Keeper, KEY, 2, &[0, 0, 0, 0], "a number in it is broken"),
        (Table::Keeper, KEY, 2, &[0, 0, 0, 0, 0, 2, 0], "a mark in it is neither there nor not"),
        (Table::Keeper, KEY, 2, &[0, 0, 0, 0, 2, 1, b'a', 0, 1, b'a', 0, 0, 0], "it has a label twice"),
        (Table::Quota, KEY, 1, &[2, 0], "a limit in it is neither there nor not"),
        (Table::User, b"a", 3, &[4, 0, 1, 0, 4], "its ids are mapped in a way that is not known"),
        (Table::User, b"a", 3, &[4, 0, 1, 0, 3, 65], "it has too many ranges of ids"),
        (
            Table::User,
            b"a",
            3,
            &[4, 0, 1, 0, 3, 2, 1, 5, 2, 2, 9, 1, 0],
            "its ranges of ids do not fit together",
        ),
    ];
    for (table, key, version, body, why) in cases {
        let result = decode(*table, key, &sealed(*table, key, *version, body));
        assert_eq!(result.map_err(|e| e.why), Err(*why), "{table:?} {body:?}");
    }
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(1u8.., 1..=255).prop_map(Vec::into_boxed_slice)
}

fn time() -> impl Strategy<Value = pb::Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(sec, nsec)| pb::Time { sec, nsec })
}

fn inode() -> impl Strategy<Value = InodeRow> {
    let target = prop::option::of(prop::collection::vec(any::<u8>(), 0..100).prop_map(Vec::into_boxed_slice));
    (any::<[u32; 5]>(), any::<[u64; 2]>(), [time(), time(), time()], target).prop_map(
        |(n, big, times, target)| InodeRow {
            mode: n[0],
            nlink: n[1],
            uid: n[2],
            gid: n[3],
            rdev: n[4],
            size: big[0],
            content_version: big[1],
            atime: times[0],
            mtime: times[1],
            ctime: times[2],
            target,
        },
    )
}

fn keeper() -> impl Strategy<Value = KeeperRow> {
    let texts = ["\\PC{0,40}", "\\PC{0,40}", "\\PC{0,40}", "\\PC{0,40}"];
    let labels = prop::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..5);
    (texts, labels, any::<bool>(), 0..i64::MAX).prop_map(|(texts, labels, draining, maintenance_until_ms)| {
        let [address, data_dir, host, version] = texts;
        KeeperRow { address, data_dir, host, version, labels, draining, maintenance_until_ms }
    })
}

fn row() -> impl Strategy<Value = Row> {
    let n = any::<u64>;
    let keepers = prop::collection::btree_set(any::<u64>(), 0..20);
    prop_oneof![
        (n(), n(), n()).prop_map(|(next_inode, next_chunk, next_keeper)| {
            Row::Counters(Counters { next_inode, next_chunk, next_keeper })
        }),
        (n(), inode()).prop_map(|(id, inode)| Row::Inode(InodeNo(id), inode)),
        (n(), name(), n()).prop_map(|(p, name, i)| Row::Dentry {
            parent: InodeNo(p),
            name,
            inode: InodeNo(i)
        }),
        (n(), n(), n(), n(), any::<u32>()).prop_map(|(inode, file_offset, length, chunk, chunk_offset)| {
            Row::Extent(
                InodeNo(inode),
                ExtentRow { file_offset, length, chunk: ChunkId(chunk), chunk_offset },
            )
        }),
        (n(), any::<u32>(), any::<u32>(), keepers).prop_map(|(chunk, length, checksum, keepers)| {
            let keepers = keepers.into_iter().map(KeeperId).collect();
            Row::Chunk(ChunkId(chunk), ChunkRow { length, checksum, keepers })
        }),
        (n(), name(), prop::collection::vec(any::<u8>(), 0..1000)).prop_map(|(inode, name, value)| {
            Row::Xattr { inode: InodeNo(inode), name, value: value.into() }
        }),
        (n(), n(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(session, request, reply)| {
            Row::Reply { session: SessionId(session), request, reply: reply.into() }
        }),
        (n(), keeper()).prop_map(|(id, row)| Row::Keeper(KeeperId(id), row)),
        (n(), any::<[Option<u64>; 2]>()).prop_map(|(id, [max_bytes, max_inodes])| {
            Row::Quota(InodeNo(id), QuotaRow { max_bytes, max_inodes })
        }),
        (n(), time(), n(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(
            |(id, deleted, bytes, path)| {
                Row::Trash(InodeNo(id), TrashRow { path: path.into(), deleted, bytes })
            }
        ),
        n().prop_map(|id| Row::Session(SessionId(id))),
        (
            "[a-z]{1,9}",
            ".{0,99}",
            0..16u8,
            any::<bool>(),
            any::<u32>(),
            prop::option::of(1..u64::MAX),
            any_ids()
        )
            .prop_map(|(name, password_hash, roles, disabled, generation, dir, ids)| {
                let (roles, dir) = (Roles::from_bits(roles).unwrap(), dir.map(InodeNo));
                Row::User(
                    name.into(),
                    UserRow { password_hash, roles, disabled, generation, dir, ids: Arc::new(ids) },
                )
            }),
    ]
}

fn table() -> impl Strategy<Value = Table> {
    prop::sample::select(Table::ALL.to_vec())
}

proptest! {
    #[test]
    fn every_row_reads_back(row in row()) {
        let (table, key, value) = encode(&row);
        prop_assert_eq!(decode(table, &key, &value), Ok(row));
    }

    #[test]
    fn hostile_bytes_do_not_panic(
        table in table(),
        key in prop::collection::vec(any::<u8>(), 0..300),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = decode(table, &key, &body);
        if let Ok(row) = decode(table, &key, &sealed(table, &key, table.version(), &body)) {
            let (again, same_key, _) = encode(&row);
            prop_assert_eq!((again, same_key), (table, key));
        }
    }
}
