//! What is at a limit, beyond it, or makes no sense.
//!
//! Covers: paths of PATH_MAX and longer; symbolic links of up to PATH_MAX; a file of the largest size, and EFBIG beyond it and beyond
//! RLIMIT_FSIZE; extended attributes at their limits; invalid flags; operations on what another mount just deleted, each with a
//! deadline; st_blocks, du and df that say what was written. (Names of 255 bytes and of every byte: operations.rs.)

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, run_ok, wait_until};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags, fallocate, ftruncate,
    getxattr, listxattr, mkdirat, openat, renameat_with, seek, setxattr, statvfs, unlinkat,
};
use rustix::io::{Errno, pwrite};

const PATH_MAX: usize = 4096;
const LARGEST: u64 = i64::MAX as u64;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

fn mounted() -> (Cluster, Mount) {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let mount = cluster.mount();
    (cluster, mount)
}

/// Does something that must not hang.
#[track_caller]
fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    done.recv_timeout(limit).unwrap_or_else(|_| panic!("{what} was not done within {limit:?}"))
}

fn errno<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or_else(|| panic!("{error}")))
}

fn directory(at: &OwnedFd, name: &[u8]) -> OwnedFd {
    mkdirat(at, name, Mode::from_raw_mode(0o755)).unwrap();
    openat(at, name, DIRECTORY, Mode::empty()).unwrap()
}

#[test]
fn paths_of_path_max_and_longer() {
    let (_cluster, mount) = mounted();
    // With the NUL behind it, a path of 4095 bytes is the longest.
    let mut path = mount.dir().to_owned();
    while path.as_os_str().len() + 1 + 250 < PATH_MAX - 1 {
        path.push("d".repeat(200));
        fs::create_dir(&path).unwrap();
    }
    let left = PATH_MAX - 1 - path.as_os_str().len() - 1;
    let (longest, beyond) = (path.join("f".repeat(left)), path.join("f".repeat(left + 1)));
    fs::write(&longest, b"at the end").unwrap();
    assert_eq!(fs::read(&longest).unwrap(), b"at the end");
    assert_eq!(errno(fs::write(&beyond, b"")), Err(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::metadata(&beyond).map(drop)), Err(Errno::NAMETOOLONG));

    // Step by step there is no end to it: three times PATH_MAX, and back.
    let name = [b'n'; 255];
    let root: OwnedFd = rustix::fs::open(mount.dir(), DIRECTORY, Mode::empty()).unwrap();
    let mut way = vec![root];
    for _ in 0..3 * PATH_MAX / 256 {
        way.push(directory(way.last().unwrap(), &name));
    }
    let deep = way.last().unwrap();
    let created = openat(deep, "file", OFlags::CREATE | OFlags::RDWR, Mode::from_raw_mode(0o600)).unwrap();
    pwrite(&created, b"deep", 0).unwrap();
    drop(created);
    let read = File::from(openat(deep, "file", OFlags::RDONLY, Mode::empty()).unwrap());
    assert_eq!(std::io::read_to_string(read).unwrap(), "deep");
    unlinkat(deep, "file", AtFlags::empty()).unwrap();
    while way.len() > 1 {
        way.pop();
        unlinkat(way.last().unwrap(), &name[..], AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn symbolic_links_of_up_to_path_max() {
    let (_cluster, mount) = mounted();
    const THREADS: usize = 8;
    // Every length up to that of a name and more, some between, and every one near the largest.
    let lengths: Vec<usize> = (1..300).chain((300..4000).step_by(37)).chain(4000..PATH_MAX).collect();
    std::thread::scope(|scope| {
        for part in lengths.chunks(lengths.len().div_ceil(THREADS)) {
            let dir = mount.dir();
            scope.spawn(move || {
                for &length in part {
                    let target: Vec<u8> = (0..length).map(|n| b'a' + (n % 26) as u8).collect();
                    let link = dir.join(length.to_string());
                    symlink(OsStr::from_bytes(&target), &link).unwrap();
                    assert_eq!(fs::read_link(&link).unwrap().as_os_str().as_bytes(), target);
                    assert_eq!(fs::symlink_metadata(&link).unwrap().len(), length as u64);
                }
            });
        }
    });
    let link = mount.path("beyond");
    assert_eq!(errno(symlink("t".repeat(PATH_MAX), &link)), Err(Errno::NAMETOOLONG));
    assert_eq!(errno(symlink("", &link)), Err(Errno::NOENT));
    assert_eq!(errno(fs::read_link(&link)), Err(Errno::NOENT));
}

#[test]
fn a_file_of_the_largest_size_and_nothing_larger() {
    let (mut cluster, mount) = mounted();
    let path = mount.path("largest");
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(b"Z", LARGEST - 1).unwrap();
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), LARGEST);
    assert_eq!(meta.blocks(), 1, "six bytes");
    for mount in [&mount, &cluster.mount()] {
        let file = File::open(mount.path("largest")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), LARGEST);
        // A buffer that reached beyond it the kernel would refuse by itself.
        let mut tail = [0xee; 4];
        assert_eq!(file.read_at(&mut tail, LARGEST - 4).unwrap(), 4);
        assert_eq!(&tail, b"\0\0\0Z");
        assert_eq!(seek(&file, SeekFrom::Data(1000)), Ok(LARGEST - 1));
        assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(5));
    }
    let none = FallocateFlags::empty();
    assert_eq!(fallocate(&file, none, LARGEST, 1), Err(Errno::FBIG));
    assert_eq!(fallocate(&file, none, LARGEST - 1, 2), Err(Errno::FBIG));
    assert!(pwrite(&file, b"x", LARGEST).is_err(), "one byte more");
    assert!(ftruncate(&file, LARGEST + 1).is_err());
    assert_eq!(file.metadata().unwrap().len(), LARGEST);
    file.set_len(3).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"fir");
    file.set_len(LARGEST).unwrap();
    assert_eq!(file.metadata().unwrap().len(), LARGEST);
    let mut byte = [1];
    assert_eq!(file.read_at(&mut byte, LARGEST - 1).unwrap(), 1);
    assert_eq!(byte, [0], "what was cut off does not come back");
}

#[test]
fn the_limit_of_a_process_is_kept_and_gives_efbig() {
    let (_cluster, mount) = mounted();
    let path = mount.path("limited");
    // In blocks of 512 bytes. Without the signal the write itself says why.
    let script = r#"trap '' XFSZ; ulimit -f 20; ! dd if=/dev/zero of="$1" bs=1000 count=30 2>"$2""#;
    let said = mount.path("said");
    sh(script, &[&path, &said]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 20 * 512);
    let said = fs::read_to_string(said).unwrap();
    assert!(said.contains("File too large"), "{said}");
}

#[test]
fn extended_attributes_at_their_limits() {
    let (_cluster, mount) = mounted();
    let path = mount.path("file");
    fs::write(&path, b"").unwrap();
    let any = XattrFlags::empty();
    let longest = format!("user.{}", "n".repeat(250));
    let value = Rng::new(60).bytes(65_536);
    setxattr(&path, longest.as_str(), &value, any).unwrap();
    let mut got = vec![0; 65_536];
    assert_eq!(getxattr(&path, longest.as_str(), &mut got[..]), Ok(65_536));
    assert!(got == value);
    assert_eq!(getxattr(&path, longest.as_str(), &mut got[..65_535]), Err(Errno::RANGE));
    assert_eq!(setxattr(&path, longest.as_str(), &[0; 65_537], any), Err(Errno::TOOBIG));
    assert_eq!(setxattr(&path, format!("{longest}n").as_str(), b"", any), Err(Errno::RANGE));
    assert_eq!(setxattr(&path, "user.", b"", any), Err(Errno::INVAL));
    assert_eq!(setxattr(&path, "no.such.kind", b"", any), Err(Errno::OPNOTSUPP));
    assert_eq!(getxattr(&path, "user.none", &mut got[..]), Err(Errno::NODATA));

    // The names with their NULs may be 64 KiB together: 256 of this length.
    let name = |n: usize| format!("user.{n:0250}");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (path, name) = (&path, &name);
            scope.spawn(move || {
                (thread..255).step_by(8).for_each(|n| setxattr(path, name(n), b"v", any).unwrap())
            });
        }
    });
    assert_eq!(setxattr(&path, "user.one-more", b"", any), Err(Errno::NOSPC));
    let mut list = vec![0; 65_536];
    assert_eq!(listxattr(&path, &mut list[..]), Ok(65_536));
    let mut names: Vec<&[u8]> = list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort();
    assert_eq!(names.len(), 256);
    assert!(names.iter().enumerate().take(255).all(|(n, got)| *got == name(n).as_bytes()));
    assert_eq!(listxattr(&path, &mut list[..100]), Err(Errno::RANGE));
}

#[test]
fn invalid_flags_and_offsets_are_refused() {
    let (_cluster, mount) = mounted();
    let (a, b) = (mount.path("a"), mount.path("b"));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    let rename = |flags: u32| renameat_with(CWD, &a, CWD, &b, RenameFlags::from_bits_retain(flags));
    for flags in [3, 4 | 2, 8, 1 << 20, u32::MAX] {
        assert_eq!(rename(flags), Err(Errno::INVAL), "rename with flags {flags:#x}");
    }
    let file = File::options().read(true).write(true).open(&a).unwrap();
    for mode in [0x02, 0x02 | 0x10, 0x08 | 0x01, 0x20 | 0x01, 0x100, 0x8000_0000] {
        let refused = fallocate(&file, FallocateFlags::from_bits_retain(mode), 0, 4096);
        assert!(matches!(refused, Err(Errno::OPNOTSUPP | Errno::INVAL)), "fallocate {mode:#x}: {refused:?}");
    }
    assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 0), Err(Errno::INVAL));
    let open = |flags: OFlags| rustix::fs::open(&a, flags, Mode::from_raw_mode(0o600)).map(drop);
    assert_eq!(open(DIRECTORY), Err(Errno::NOTDIR));
    assert_eq!(open(OFlags::CREATE | OFlags::DIRECTORY), Err(Errno::INVAL));
    assert_eq!(open(OFlags::CREATE | OFlags::EXCL), Err(Errno::EXIST));
    for offset in [1 << 63, u64::MAX] {
        assert_eq!(pwrite(&file, b"x", offset), Err(Errno::INVAL), "at {offset}");
        assert_eq!(rustix::io::pread(&file, &mut [0; 1][..], offset), Err(Errno::INVAL), "at {offset}");
    }
    assert_eq!(seek(&file, SeekFrom::Data(1)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::Current(-1)), Err(Errno::INVAL));
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"a".to_vec(), b"b".to_vec()));
}

/// One thing that a program may do to a path.
type Act = fn(&Path) -> std::io::Result<()>;

const ACTS: [(&str, Act); 12] = [
    ("open", |path| File::open(path).map(drop)),
    ("open to write", |path| File::options().write(true).open(path).map(drop)),
    ("truncate", |path| File::options().write(true).truncate(true).open(path).map(drop)),
    ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600))),
    ("chown", |path| std::os::unix::fs::chown(path, Some(1), Some(1))),
    ("link", |path| fs::hard_link(path, path.with_extension("link"))),
    ("rename", |path| fs::rename(path, path.with_extension("moved"))),
    ("unlink", |path| fs::remove_file(path)),
    ("create below", |path| fs::write(path.parent().unwrap().join("new"), b"")),
    ("mkdir below", |path| fs::create_dir(path.parent().unwrap().join("new-dir"))),
    ("setxattr", |path| Ok(setxattr(path, "user.x", b"", XattrFlags::empty())?)),
    ("list", |path| fs::read_dir(path.parent().unwrap())?.try_for_each(|entry| entry.map(drop))),
];

#[test]
fn what_another_mount_just_deleted_is_gone_and_nothing_hangs() {
    let (mut cluster, mount) = mounted();
    let other = cluster.mount();
    for (n, (what, act)) in ACTS.into_iter().enumerate() {
        let path = PathBuf::from(n.to_string()).join("file");
        fs::create_dir(mount.path(n.to_string())).unwrap();
        fs::write(mount.path(&path), b"content").unwrap();
        // This mount's kernel knows both.
        assert_eq!(fs::metadata(mount.path(&path)).unwrap().len(), 7);
        fs::remove_dir_all(other.path(n.to_string())).unwrap();
        let here = mount.path(&path);
        let outcome = within(secs(10), what, move || errno(act(&here)));
        assert!(matches!(outcome, Err(Errno::NOENT | Errno::STALE)), "{what} gave {outcome:?}");
    }
    // What is open goes on.
    fs::write(mount.path("open"), b"content").unwrap();
    let open = File::options().read(true).write(true).open(mount.path("open")).unwrap();
    fs::remove_file(other.path("open")).unwrap();
    let content = within(secs(20), "reading, writing and fsync of a deleted file", move || {
        open.write_all_at(b"C", 0).unwrap();
        open.sync_all().unwrap();
        open.set_len(4).unwrap();
        let mut content = [0; 10];
        let got = open.read_at(&mut content, 0).unwrap();
        (content[..got].to_vec(), open.metadata().unwrap().nlink())
    });
    assert_eq!(content, (b"Cont".to_vec(), 0));
    wait_until(secs(5), "the name is gone", || !mount.path("open").exists());
}

#[test]
fn du_says_what_was_written_and_df_adds_up() {
    let (cluster, mount) = mounted();
    const MIB: u64 = 1 << 20;
    let used = || {
        let stat = statvfs(mount.dir()).unwrap();
        assert!(stat.f_bfree <= stat.f_blocks && stat.f_bavail <= stat.f_bfree);
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };
    let before = used();
    let bytes = Rng::new(61).bytes(32 << 20);
    fs::write(mount.path("full"), &bytes).unwrap();
    let sparse = File::create(mount.path("sparse")).unwrap();
    sparse.write_all_at(&bytes[..1_000_000], 1 << 40).unwrap();
    sparse.sync_all().unwrap();
    assert_eq!(fs::metadata(mount.path("full")).unwrap().blocks() * 512, 32 * MIB);
    assert_eq!(sparse.metadata().unwrap().blocks(), 1_000_000_u64.div_ceil(512));
    let du = run_ok(&["du", "--block-size=512", "-s", mount.dir().to_str().unwrap()]).stdout;
    let du: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(du, 65_536 + 1_000_000_u64.div_ceil(512));

    // Each byte is on all three keepers, and the space is told in bytes of files. Their headers take some more.
    cluster.wait_copies("/full", 3, secs(30));
    let written = 32 * MIB + 1_000_000;
    let grown = written..written + written / 20 + MIB;
    wait_until(secs(20), "df shows what was written", || grown.contains(&used().saturating_sub(before)));
    fs::remove_file(mount.path("full")).unwrap();
    drop(sparse);
    fs::remove_file(mount.path("sparse")).unwrap();
    wait_until(secs(30), "df shows that it is gone", || used().saturating_sub(before) < MIB);
}
