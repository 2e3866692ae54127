//! What is done to both file systems, as data: so that a sequence can be made at random, made shorter when it fails, and
//! kept as a test of its own.
//!
//! Files, directories and handles are numbers that are taken modulo how many there are when the step's turn comes. So every
//! part of a sequence is a sequence, and most steps hit something.

use proptest::prelude::*;

use crate::bytes::Allocate;
use crate::tree::Rename as How;

/// One of what there is.
pub type Pick = u8;

/// What mknod(2) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Fifo,
    Socket,
    Device,
}

/// What setxattr(2) is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Any,
    Create,
    Replace,
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Lookup {
        dir: Pick,
        name: Pick,
    },
    Create {
        dir: Pick,
        name: Pick,
        mode: u32,
        user: bool,
        exclusive: bool,
        truncate: bool,
    },
    Mknod {
        dir: Pick,
        name: Pick,
        kind: Kind,
    },
    Mkdir {
        dir: Pick,
        name: Pick,
        mode: u32,
        user: bool,
    },
    Symlink {
        dir: Pick,
        name: Pick,
        length: u16,
    },
    Link {
        node: Pick,
        dir: Pick,
        name: Pick,
    },
    Unlink {
        dir: Pick,
        name: Pick,
    },
    Rmdir {
        dir: Pick,
        name: Pick,
    },
    Rename {
        dir: Pick,
        name: Pick,
        to_dir: Pick,
        to_name: Pick,
        how: How,
    },
    Readlink {
        node: Pick,
    },
    Open {
        file: Pick,
        truncate: bool,
    },
    Close {
        handle: Pick,
    },
    Read {
        handle: Pick,
        offset: u32,
        length: u32,
    },
    Write {
        handle: Pick,
        offset: u32,
        length: u32,
        seed: u8,
    },
    Append {
        handle: Pick,
        length: u32,
        seed: u8,
    },
    Fsync {
        handle: Pick,
    },
    Truncate {
        node: Pick,
        size: u32,
    },
    Fallocate {
        handle: Pick,
        offset: u32,
        length: u32,
        how: Allocate,
    },
    Copy {
        from: Pick,
        from_offset: u32,
        to: Pick,
        to_offset: u32,
        length: u32,
    },
    Seek {
        handle: Pick,
        offset: u32,
        data: bool,
    },
    Chmod {
        node: Pick,
        mode: u32,
    },
    Chown {
        node: Pick,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    SetMtime {
        node: Pick,
        sec: i64,
        nsec: u32,
    },
    SetXattr {
        node: Pick,
        name: Pick,
        length: u32,
        how: Set,
    },
    GetXattr {
        node: Pick,
        name: Pick,
    },
    RemoveXattr {
        node: Pick,
        name: Pick,
    },
    OpenDir {
        dir: Pick,
    },
    /// Lists some more; the end of a listing closes it.
    List {
        listing: Pick,
        entries: u8,
    },
    /// The master is stopped and started on its data.
    RestartMaster,
    /// The mount goes and another comes; with or without the last close of what was open.
    Remount {
        closes: bool,
    },
}

/// Who does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which of the two mounts.
    pub mount: u8,
    pub operation: Operation,
}

/// Names: few, so that they meet; some are special.
pub fn name(pick: Pick) -> Vec<u8> {
    match pick {
        0..=5 => vec![b'a' + pick],
        6 => vec![b'n'; 255],
        7 => b"\xff\x01 \\\n".to_vec(),
        _ => vec![b'n'; 256],
    }
}

fn a_name() -> impl Strategy<Value = Pick> {
    prop_oneof![40 => 0u8..6, 2 => 6u8..8, 1 => Just(8u8)]
}

fn a_mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0o644), Just(0o755), Just(0o2775), 0u32..0o10000]
}

/// Offsets and sizes: mostly small, at times beyond a chunk of 64 KiB.
fn an_offset() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(0u32), 6 => 0u32..5_000, 2 => 0u32..150_000, 1 => Just(65_536u32)]
}

fn a_length() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0u32), 6 => 1u32..3_000, 2 => 1u32..140_000, 1 => Just(4_096u32)]
}

fn names() -> BoxedStrategy<Operation> {
    use Operation::*;
    let how = prop_oneof![4 => Just(How::Replace), 1 => Just(How::NoReplace), 2 => Just(How::Exchange)];
    let kind = prop_oneof![Just(Kind::File), Just(Kind::Fifo), Just(Kind::Socket), Just(Kind::Device)];
    let dir = || 0u8..16;
    prop_oneof![
        2 => (dir(), a_name()).prop_map(|(dir, name)| Lookup { dir, name }),
        7 => (dir(), a_name(), a_mode(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(dir, name, mode, user, exclusive, truncate)| Create { dir, name, mode, user, exclusive, truncate }
        ),
        2 => (dir(), a_name(), kind).prop_map(|(dir, name, kind)| Mknod { dir, name, kind }),
        6 => (dir(), a_name(), a_mode(), any::<bool>()).prop_map(|(dir, name, mode, user)| Mkdir { dir, name, mode, user }),
        2 => (dir(), a_name(), prop_oneof![5 => 1u16..60, 1 => Just(4095u16), 1 => Just(4096u16)])
            .prop_map(|(dir, name, length)| Symlink { dir, name, length }),
        4 => (any::<Pick>(), dir(), a_name()).prop_map(|(node, dir, name)| Link { node, dir, name }),
        5 => (dir(), a_name()).prop_map(|(dir, name)| Unlink { dir, name }),
        3 => (dir(), a_name()).prop_map(|(dir, name)| Rmdir { dir, name }),
        9 => (dir(), a_name(), dir(), a_name(), how)
            .prop_map(|(dir, name, to_dir, to_name, how)| Rename { dir, name, to_dir, to_name, how }),
        1 => any::<Pick>().prop_map(|node| Readlink { node }),
    ]
    .boxed()
}

fn contents() -> BoxedStrategy<Operation> {
    use Operation::*;
    let how = prop_oneof![
        Just(Allocate::Plain),
        Just(Allocate::KeepSize),
        Just(Allocate::Punch),
        Just(Allocate::Zero),
        Just(Allocate::ZeroKeepSize)
    ];
    let pick = any::<Pick>;
    prop_oneof![
        4 => (pick(), prop::bool::weighted(0.2)).prop_map(|(file, truncate)| Open { file, truncate }),
        4 => pick().prop_map(|handle| Close { handle }),
        4 => (pick(), an_offset(), a_length()).prop_map(|(handle, offset, length)| Read { handle, offset, length }),
        8 => (pick(), an_offset(), a_length(), 1u8..255)
            .prop_map(|(handle, offset, length, seed)| Write { handle, offset, length, seed }),
        2 => (pick(), a_length(), 1u8..255).prop_map(|(handle, length, seed)| Append { handle, length, seed }),
        2 => pick().prop_map(|handle| Fsync { handle }),
        3 => (pick(), an_offset()).prop_map(|(node, size)| Truncate { node, size }),
        3 => (pick(), an_offset(), a_length(), how)
            .prop_map(|(handle, offset, length, how)| Fallocate { handle, offset, length, how }),
        4 => (pick(), an_offset(), pick(), an_offset(), a_length()).prop_map(
            |(from, from_offset, to, to_offset, length)| Copy { from, from_offset, to, to_offset, length }
        ),
        2 => (pick(), an_offset(), any::<bool>()).prop_map(|(handle, offset, data)| Seek { handle, offset, data }),
    ]
    .boxed()
}

fn attributes() -> BoxedStrategy<Operation> {
    use Operation::*;
    let pick = any::<Pick>;
    let owner = || prop::option::of(prop_oneof![Just(0u32), Just(1000u32), Just(4_000_000_000u32)]);
    let how = prop_oneof![3 => Just(Set::Any), 2 => Just(Set::Create), 2 => Just(Set::Replace), 1 => Just(Set::Both)];
    let length = prop_oneof![5 => 0u32..40, 1 => Just(65_536u32), 1 => Just(65_537u32)];
    let sec = prop_oneof![-2_000_000_000i64..20_000_000_000, Just(0i64)];
    prop_oneof![
        2 => (pick(), a_mode()).prop_map(|(node, mode)| Chmod { node, mode }),
        2 => (pick(), owner(), owner()).prop_map(|(node, uid, gid)| Chown { node, uid, gid }),
        2 => (pick(), sec, 0u32..1_000_000_000).prop_map(|(node, sec, nsec)| SetMtime { node, sec, nsec }),
        3 => (pick(), 0u8..3, length, how).prop_map(|(node, name, length, how)| SetXattr { node, name, length, how }),
        1 => (pick(), 0u8..3).prop_map(|(node, name)| GetXattr { node, name }),
        1 => (pick(), 0u8..3).prop_map(|(node, name)| RemoveXattr { node, name }),
    ]
    .boxed()
}

fn listings() -> BoxedStrategy<Operation> {
    use Operation::*;
    prop_oneof![
        1 => (0u8..16).prop_map(|dir| OpenDir { dir }),
        3 => (any::<Pick>(), 1u8..5).prop_map(|(listing, entries)| List { listing, entries }),
    ]
    .boxed()
}

fn breaks() -> BoxedStrategy<Operation> {
    use Operation::*;
    prop_oneof![1 => Just(RestartMaster), 3 => any::<bool>().prop_map(|closes| Remount { closes })].boxed()
}

/// Sequences of at most `longest` steps.
pub fn sequences(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let operation =
        prop_oneof![400 => names(), 400 => contents(), 120 => attributes(), 80 => listings(), 12 => breaks()];
    let step = (0u8..2, operation).prop_map(|(mount, operation)| Step { mount, operation });
    prop::collection::vec(step, longest / 2..=longest)
}
