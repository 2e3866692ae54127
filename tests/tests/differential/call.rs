//! System calls, as data: made at random, made shorter when a sequence fails, kept as a test.
//!
//! Descriptors and mappings are numbers that are taken modulo how many there are.

use proptest::prelude::*;

/// One of what there is.
pub type Pick = u8;

/// A path: names below the root of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(pub Vec<u8>);

/// What open(2) is asked for, besides O_NONBLOCK and O_CLOEXEC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// 0, 1, 2: as O_RDONLY, O_WRONLY, O_RDWR.
    pub access: u8,
    pub create: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
    pub direct: bool,
    pub no_follow: bool,
    pub directory: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
    /// Both at once, which is refused.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    Plain,
    KeepSize,
    Punch,
    Zero,
    ZeroKeepSize,
    /// Without KEEP_SIZE, which is refused.
    BarePunch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Start,
    Current,
    End,
    Data,
    Hole,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Open { path: Path, open: Open },
    Close { fd: Pick },
    Dup { fd: Pick },
    Read { fd: Pick, length: u32 },
    Write { fd: Pick, length: u32, seed: u8 },
    Pread { fd: Pick, offset: u32, length: u32 },
    Pwrite { fd: Pick, offset: u32, length: u32, seed: u8 },
    Seek { fd: Pick, offset: i32, from: From },
    Ftruncate { fd: Pick, size: u32 },
    Truncate { path: Path, size: u32 },
    Fallocate { fd: Pick, offset: u32, length: u32, how: Allocate },
    Copy { from: Pick, offset: u32, to: Pick, to_offset: u32, length: u32 },
    Fsync { fd: Pick, data: bool },
    Fstat { fd: Pick },
    Mkdir { path: Path, mode: u16 },
    Rmdir { path: Path },
    Unlink { path: Path },
    Link { path: Path, to: Path, follow: bool },
    Symlink { path: Path, target: Path },
    Readlink { path: Path },
    Rename { path: Path, to: Path, how: Rename },
    Fifo { path: Path, mode: u16 },
    Chmod { path: Path, mode: u16 },
    Chown { path: Path, uid: Option<u32>, gid: Option<u32>, follow: bool },
    Utimens { path: Path, sec: u32, nsec: u32, follow: bool },
    List { path: Path },
    Stat { path: Path, follow: bool },
    SetXattr { path: Path, name: u8, length: u8, create: bool, replace: bool },
    GetXattr { path: Path, name: u8 },
    ListXattr { path: Path },
    RemoveXattr { path: Path, name: u8 },
    Map { fd: Pick, page: u8, pages: u8, shared: bool, writes: bool },
    Unmap { map: Pick },
    MapRead { map: Pick, offset: u32, length: u32 },
    MapWrite { map: Pick, offset: u32, length: u32, seed: u8 },
    Msync { map: Pick },
}

fn path() -> impl Strategy<Value = Path> {
    let name = || 0u8..6;
    prop_oneof![
        4 => prop::collection::vec(name(), 1),
        4 => prop::collection::vec(name(), 2),
        2 => prop::collection::vec(name(), 3),
        1 => prop::collection::vec(0u8..9, 1..4),
    ]
    .prop_map(Path)
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0u32), 4 => 0u32..5_000, 3 => 0u32..70_000, 2 => (0u32..16).prop_map(|page| page * 4096)]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0u32), 5 => 1u32..3_000, 2 => 1u32..100_000, 2 => (1u32..8).prop_map(|page| page * 4096)]
}

fn mode() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0o755u16), 1 => Just(0o2775), 1 => Just(0o6711), 2 => 0u16..0o10000]
}

fn opens() -> BoxedStrategy<Call> {
    let flag = prop::bool::weighted;
    (path(), 0u8..3, flag(0.6), flag(0.15), flag(0.2), flag(0.25), flag(0.15), flag(0.1), flag(0.05))
        .prop_map(|(path, access, create, exclusive, truncate, append, direct, no_follow, directory)| {
            // Ends of files are seldom aligned as O_DIRECT needs it.
            let append = append && !direct;
            Call::Open {
                path,
                open: Open { access, create, exclusive, truncate, append, direct, no_follow, directory },
            }
        })
        .boxed()
}

fn descriptors() -> BoxedStrategy<Call> {
    use Call::*;
    let fd = any::<Pick>;
    let from = prop_oneof![
        Just(From::Start),
        Just(From::Current),
        Just(From::End),
        Just(From::Data),
        Just(From::Hole)
    ];
    let how = prop_oneof![
        3 => Just(Allocate::Plain),
        3 => Just(Allocate::KeepSize),
        6 => Just(Allocate::Punch),
        4 => Just(Allocate::Zero),
        3 => Just(Allocate::ZeroKeepSize),
        1 => Just(Allocate::BarePunch)
    ];
    prop_oneof![
        6 => fd().prop_map(|fd| Close { fd }),
        2 => fd().prop_map(|fd| Dup { fd }),
        6 => (fd(), length()).prop_map(|(fd, length)| Read { fd, length }),
        8 => (fd(), length(), 1u8..255).prop_map(|(fd, length, seed)| Write { fd, length, seed }),
        8 => (fd(), offset(), length()).prop_map(|(fd, offset, length)| Pread { fd, offset, length }),
        10 => (fd(), offset(), length(), 1u8..255).prop_map(|(fd, offset, length, seed)| Pwrite { fd, offset, length, seed }),
        6 => (fd(), -5_000i32..60_000, from).prop_map(|(fd, offset, from)| Seek { fd, offset, from }),
        4 => (fd(), offset()).prop_map(|(fd, size)| Ftruncate { fd, size }),
        5 => (fd(), offset(), length(), how).prop_map(|(fd, offset, length, how)| Fallocate { fd, offset, length, how }),
        4 => (fd(), offset(), fd(), offset(), length())
            .prop_map(|(from, offset, to, to_offset, length)| Copy { from, offset, to, to_offset, length }),
        2 => (fd(), any::<bool>()).prop_map(|(fd, data)| Fsync { fd, data }),
        3 => fd().prop_map(|fd| Fstat { fd }),
    ]
    .boxed()
}

fn mappings() -> BoxedStrategy<Call> {
    use Call::*;
    let map = any::<Pick>;
    prop_oneof![
        3 => (any::<Pick>(), 0u8..4, 1u8..12, any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(fd, page, pages, shared, writes)| Map { fd, page, pages, shared, writes }),
        1 => map().prop_map(|map| Unmap { map }),
        4 => (map(), offset(), length()).prop_map(|(map, offset, length)| MapRead { map, offset, length }),
        5 => (map(), offset(), length(), 1u8..255)
            .prop_map(|(map, offset, length, seed)| MapWrite { map, offset, length, seed }),
        1 => map().prop_map(|map| Msync { map }),
    ]
    .boxed()
}

fn paths() -> BoxedStrategy<Call> {
    use Call::*;
    let how = prop_oneof![
        8 => Just(self::Rename::Replace),
        2 => Just(self::Rename::NoReplace),
        4 => Just(self::Rename::Exchange),
        1 => Just(self::Rename::Both)
    ];
    let owner = || prop::option::of(prop_oneof![Just(0u32), Just(1000u32), Just(65_534u32)]);
    let flag = any::<bool>;
    prop_oneof![
        8 => (path(), mode()).prop_map(|(path, mode)| Mkdir { path, mode }),
        3 => path().prop_map(|path| Rmdir { path }),
        5 => path().prop_map(|path| Unlink { path }),
        4 => (path(), path(), flag()).prop_map(|(path, to, follow)| Link { path, to, follow }),
        3 => (path(), path()).prop_map(|(path, target)| Symlink { path, target }),
        2 => path().prop_map(|path| Readlink { path }),
        9 => (path(), path(), how).prop_map(|(path, to, how)| Rename { path, to, how }),
        1 => (path(), mode()).prop_map(|(path, mode)| Fifo { path, mode }),
        3 => (path(), offset()).prop_map(|(path, size)| Truncate { path, size }),
        3 => (path(), mode()).prop_map(|(path, mode)| Chmod { path, mode }),
        3 => (path(), owner(), owner(), flag()).prop_map(|(path, uid, gid, follow)| Chown { path, uid, gid, follow }),
        3 => (path(), 0u32..900_000_000, 0u32..1_000_000_000, flag())
            .prop_map(|(path, sec, nsec, follow)| Utimens { path, sec, nsec, follow }),
        4 => path().prop_map(|path| List { path }),
        4 => (path(), flag()).prop_map(|(path, follow)| Stat { path, follow }),
        3 => (path(), 0u8..3, 0u8..100, flag(), flag())
            .prop_map(|(path, name, length, create, replace)| SetXattr { path, name, length, create, replace: replace && !create }),
        2 => (path(), 0u8..3).prop_map(|(path, name)| GetXattr { path, name }),
        1 => path().prop_map(|path| ListXattr { path }),
        1 => (path(), 0u8..3).prop_map(|(path, name)| RemoveXattr { path, name }),
    ]
    .boxed()
}

/// Sequences of at most `longest` calls.
pub fn sequences(longest: usize) -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![15 => opens(), 45 => descriptors(), 15 => mappings(), 30 => paths()];
    prop::collection::vec(call, longest / 2..=longest)
}
