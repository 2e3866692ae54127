//! Every file operation, one by one, as the system calls define them.
//!
//! Covers: create, open (all access modes, O_TRUNC, O_EXCL, O_APPEND), read, write at any offset, truncate and extend,
//! flush, fsync, rename (with NOREPLACE and EXCHANGE), unlink (and of an open file), mkdir, rmdir, readdir, symlink,
//! readlink, link, chmod, chown, utimens with nanoseconds, statfs, xattr; names of 255 bytes, any bytes but / and NUL.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink,
};
use std::path::Path;

use dfs_tests::{Cluster, Mount, Rng, require_root};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

fn mounted() -> (Cluster, Mount) {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let mount = cluster.mount();
    (cluster, mount)
}

#[test]
fn open_with_every_access_mode_and_flag() {
    let (_cluster, mount) = mounted();
    let path = mount.path("file");
    assert_eq!(File::open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o604).open(&path).unwrap();
    new.write_all(b"0123456789").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o100_604);
    let again = OpenOptions::new().write(true).create_new(true).open(&path);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(new.read(&mut [0]).is_err(), "reading through a write-only handle");
    drop(new);

    let mut reader = File::open(&path).unwrap();
    assert!(reader.write(b"x").is_err(), "writing through a read-only handle");
    let mut both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    both.seek(SeekFrom::Start(3)).unwrap();
    both.write_all(b"abc").unwrap();
    both.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    both.read_to_string(&mut text).unwrap();
    assert_eq!(text, "012abc6789");
    text.clear();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "012abc6789", "a handle that was open before the write");

    let mut end = OpenOptions::new().append(true).open(&path).unwrap();
    end.write_all(b"+").unwrap();
    let mut other_end = OpenOptions::new().append(true).open(&path).unwrap();
    other_end.write_all(b"-").unwrap();
    end.write_all(b"+").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "012abc6789+-+");

    drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert_eq!(File::open(mount.path("file/below")).unwrap_err().kind(), ErrorKind::NotADirectory);
    let directory = OpenOptions::new().write(true).open(mount.dir());
    assert_eq!(directory.unwrap_err().kind(), ErrorKind::IsADirectory);
}

#[test]
fn holes_read_as_zeroes_and_take_no_room() {
    let (_cluster, mount) = mounted();
    let path = mount.path("sparse");
    let file = File::options().create(true).read(true).write(true).truncate(false).open(&path).unwrap();
    let far = 5_000_000_000;
    file.write_all_at(b"far", far).unwrap();
    file.write_all_at(b"near", 700_000).unwrap();
    file.sync_all().unwrap();
    let mut got = vec![1; 100_000];
    file.read_exact_at(&mut got, 650_000).unwrap();
    assert!(got[..50_000].iter().chain(&got[50_004..]).all(|b| *b == 0));
    assert_eq!(&got[50_000..50_004], b"near");
    let mut tail = [1; 10];
    assert_eq!(file.read_at(&mut tail, far - 1).unwrap(), 4);
    assert_eq!(&tail[..4], b"\0far");
    assert_eq!(file.read_at(&mut tail, far + 3).unwrap(), 0, "beyond the end");
    drop(file);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), far + 3);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
}

#[test]
fn truncate_cuts_and_extend_adds_zeroes() {
    let (_cluster, mount) = mounted();
    let path = mount.path("file");
    let bytes = Rng::new(1).bytes(1_000_000);
    fs::write(&path, &bytes).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(300_001).unwrap();
    assert!(fs::read(&path).unwrap() == bytes[..300_001]);
    file.set_len(900_000).unwrap();
    let got = fs::read(&path).unwrap();
    assert!(got[..300_001] == bytes[..300_001] && got[300_001..].iter().all(|b| *b == 0));
    assert_eq!(got.len(), 900_000, "what was cut off does not come back");
    // By name, without a handle; and with bytes that are still on their way.
    file.write_all_at(&bytes[..10], 300_010).unwrap();
    rustix::fs::ftruncate(&file, 300_015).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 300_015);
    let got = fs::read(&path).unwrap();
    assert_eq!((&got[300_001..300_010], &got[300_010..]), (&[0u8; 9][..], &bytes[..5]));
    file.set_len(0).unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn fsync_and_fdatasync_succeed_and_another_mount_sees_the_bytes() {
    let (mut cluster, mount) = mounted();
    let other = cluster.mount();
    let mut file = File::create(mount.path("file")).unwrap();
    let bytes = Rng::new(2).bytes(700_000);
    file.write_all(&bytes[..400_000]).unwrap();
    file.sync_all().unwrap();
    assert!(fs::read(other.path("file")).unwrap() == bytes[..400_000]);
    file.write_all(&bytes[400_000..]).unwrap();
    file.sync_data().unwrap();
    assert!(fs::read(other.path("file")).unwrap() == bytes);
    File::open(mount.dir()).unwrap().sync_all().unwrap();
}

fn rename_with(mount: &Mount, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, mount.path(from), CWD, mount.path(to), flags)
}

#[test]
fn rename_replaces_and_moves_and_keeps_the_inode() {
    let (_cluster, mount) = mounted();
    fs::write(mount.path("a"), b"a").unwrap();
    fs::write(mount.path("b"), b"b").unwrap();
    fs::create_dir_all(mount.path("d/e")).unwrap();
    let inode = fs::metadata(mount.path("a")).unwrap().ino();
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"a");
    assert!(!mount.path("a").exists());
    fs::rename(mount.path("b"), mount.path("d/e/c")).unwrap();
    assert_eq!(fs::metadata(mount.path("d/e/c")).unwrap().ino(), inode);
    fs::rename(mount.path("d"), mount.path("f")).unwrap();
    assert_eq!(fs::read(mount.path("f/e/c")).unwrap(), b"a");
    // What must not be.
    let kind = |from: &str, to: &str| rename_with(&mount, from, to, RenameFlags::empty()).unwrap_err();
    fs::write(mount.path("plain"), b"").unwrap();
    fs::create_dir(mount.path("empty")).unwrap();
    assert_eq!(kind("gone", "x"), Errno::NOENT);
    assert_eq!(kind("f", "f/e/inside"), Errno::INVAL);
    assert_eq!(kind("empty", "f"), Errno::NOTEMPTY);
    assert_eq!(kind("plain", "empty"), Errno::ISDIR);
    assert_eq!(kind("empty", "plain"), Errno::NOTDIR);
    fs::rename(mount.path("f/e"), mount.path("empty")).unwrap();
    assert_eq!(fs::read(mount.path("empty/c")).unwrap(), b"a");
    assert_eq!(fs::metadata(mount.path("f")).unwrap().nlink(), 2);
}

#[test]
fn rename_noreplace_and_exchange() {
    let (_cluster, mount) = mounted();
    fs::write(mount.path("a"), b"a").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/b"), b"b").unwrap();
    assert_eq!(rename_with(&mount, "a", "d/b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(fs::read(mount.path("d/b")).unwrap(), b"b");
    rename_with(&mount, "a", "d/b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(
        (fs::read(mount.path("a")).unwrap(), fs::read(mount.path("d/b")).unwrap()),
        (b"b".into(), b"a".into())
    );
    rename_with(&mount, "a", "d", RenameFlags::EXCHANGE).unwrap();
    assert!(mount.path("a").is_dir() && mount.path("d").is_file());
    assert_eq!(fs::read(mount.path("a/b")).unwrap(), b"a");
    assert_eq!(rename_with(&mount, "a", "none", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    rename_with(&mount, "d", "none", RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(mount.path("none")).unwrap(), b"b");
}

#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    let (cluster, mount) = mounted();
    let path = mount.path("file");
    let bytes = Rng::new(3).bytes(600_000);
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all(&bytes).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b"more").unwrap();
    let mut got = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut got).unwrap();
    assert!(got == [&bytes[..], b"more"].concat());
    // The name is free for another file.
    fs::write(&path, b"other").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 600_004);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"other");
    dfs_tests::wait_until(dfs_tests::wait::secs(10), "the unlinked file is gone", || {
        cluster.status("files") == 1
    });
}

#[test]
fn directories_are_made_listed_and_removed() {
    let (_cluster, mount) = mounted();
    fs::create_dir(mount.path("d")).unwrap();
    assert_eq!(fs::create_dir(mount.path("d")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::metadata(mount.path("d")).unwrap().nlink(), 2);
    fs::create_dir(mount.path("d/e")).unwrap();
    assert_eq!(fs::metadata(mount.path("d")).unwrap().nlink(), 3);
    assert_eq!(fs::remove_dir(mount.path("d")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(fs::remove_file(mount.path("d")).unwrap_err().kind(), ErrorKind::IsADirectory);
    fs::write(mount.path("f"), b"").unwrap();
    assert_eq!(fs::remove_dir(mount.path("f")).unwrap_err().kind(), ErrorKind::NotADirectory);
    fs::remove_dir(mount.path("d/e")).unwrap();
    fs::remove_dir(mount.path("d")).unwrap();
    assert_eq!(fs::remove_dir(mount.path("d")).unwrap_err().kind(), ErrorKind::NotFound);
    // "." and ".." are listed, and lead where they should.
    fs::create_dir(mount.path("d")).unwrap();
    let listed: Vec<_> = rustix::fs::Dir::new(File::open(mount.path("d")).unwrap())
        .unwrap()
        .map(|entry| entry.map(|entry| (entry.file_name().to_bytes().to_vec(), entry.ino())).unwrap())
        .collect();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(listed, [(b".".to_vec(), inode(&mount.path("d"))), (b"..".to_vec(), inode(mount.dir()))]);
    assert_eq!(inode(&mount.path("d/..")), inode(mount.dir()));
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_of_2000_entries_is_listed_once_each_also_while_it_shrinks() {
    let (mut cluster, mount) = mounted();
    let dir = mount.path("many");
    fs::create_dir(&dir).unwrap();
    let names: Vec<String> = (0..2000).map(|i| format!("entry number {i:05}")).collect();
    for name in &names {
        File::create(dir.join(name)).unwrap();
    }
    assert_eq!(listing(&dir), names);
    let other = cluster.mount();
    assert_eq!(listing(&other.path("many")), names);
    // Removing what the listing has just told skips nothing.
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(listing(&dir), [""; 0]);
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn symbolic_and_hard_links() {
    let (_cluster, mount) = mounted();
    symlink("../away/to nowhere", mount.path("soft")).unwrap();
    let target = fs::read_link(mount.path("soft")).unwrap();
    assert_eq!(target, Path::new("../away/to nowhere"));
    let meta = fs::symlink_metadata(mount.path("soft")).unwrap();
    assert!(meta.file_type().is_symlink());
    assert_eq!(meta.len(), target.as_os_str().len() as u64);
    assert_eq!(File::open(mount.path("soft")).unwrap_err().kind(), ErrorKind::NotFound);
    let longest = "x/".repeat(2047) + "y";
    symlink(&longest, mount.path("long")).unwrap();
    assert_eq!(fs::read_link(mount.path("long")).unwrap(), Path::new(&longest));

    fs::write(mount.path("a"), b"one").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    fs::hard_link(mount.path("a"), mount.path("d/b")).unwrap();
    let [a, b] = ["a", "d/b"].map(|name| fs::metadata(mount.path(name)).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    fs::write(mount.path("d/b"), b"two").unwrap();
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"two");
    assert_eq!(
        fs::hard_link(mount.path("a"), mount.path("d/b")).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert!(fs::hard_link(mount.path("d"), mount.path("no")).is_err(), "a hard link to a directory");
    fs::remove_file(mount.path("a")).unwrap();
    assert_eq!(fs::metadata(mount.path("d/b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(mount.path("d/b")).unwrap(), b"two");
}

#[test]
fn modes_and_owners() {
    require_root();
    let (_cluster, mount) = mounted();
    let path = mount.path("file");
    fs::write(&path, b"").unwrap();
    for mode in [0o000, 0o777, 0o4755, 0o2711, 0o1600, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode(), 0o100_000 | mode);
    }
    chown(&path, Some(1234), None).unwrap();
    chown(&path, None, Some(4_000_000_000)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 4_000_000_000));
    symlink("file", mount.path("link")).unwrap();
    lchown(mount.path("link"), Some(7), Some(8)).unwrap();
    let meta = fs::symlink_metadata(mount.path("link")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
    assert_eq!(fs::metadata(&path).unwrap().uid(), 1234, "the link's target keeps its owner");

    // The permission bits count for others than root.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).args(words);
        dfs_tests::run(&mut command, dfs_tests::wait::secs(20)).status.success()
    };
    assert!(!as_nobody(&["cat", path.to_str().unwrap()]));
    fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    assert!(as_nobody(&["cat", path.to_str().unwrap()]));
    assert!(!as_nobody(&["touch", mount.path("new").to_str().unwrap()]));
    fs::set_permissions(mount.dir(), Permissions::from_mode(0o1777)).unwrap();
    assert!(as_nobody(&["touch", mount.path("new").to_str().unwrap()]));
    assert_eq!(fs::metadata(mount.path("new")).unwrap().uid(), 65534);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let (mut cluster, mount) = mounted();
    let path = mount.path("file");
    fs::write(&path, b"x").unwrap();
    let times = |sec: i64, nsec: i64| Timespec { tv_sec: sec, tv_nsec: nsec };
    for (sec, nsec) in [(1_234_567_890, 123_456_789), (0, 1), (-5, 999_999_999), (7_000_000_000, 42)] {
        let both = Timestamps {
            last_access: times(sec, nsec),
            last_modification: times(sec + 1, 999_999_999 - nsec),
        };
        rustix::fs::utimensat(CWD, &path, &both, AtFlags::empty()).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.atime(), meta.atime_nsec()), (sec, nsec));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (sec + 1, 999_999_999 - nsec));
    }
    let other = cluster.mount();
    assert_eq!(fs::metadata(other.path("file")).unwrap().atime_nsec(), 42);

    // A write and a change of the directory show in mtime, a chmod in ctime alone.
    let old = fs::metadata(&path).unwrap();
    fs::write(&path, b"yy").unwrap();
    let new = fs::metadata(&path).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((new.mtime() - now).abs() <= 2, "mtime {} is not now, {now}", new.mtime());
    assert!((new.ctime(), new.ctime_nsec()) > (old.ctime(), old.ctime_nsec()));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let last = fs::metadata(&path).unwrap();
    assert_eq!((last.mtime(), last.mtime_nsec()), (new.mtime(), new.mtime_nsec()));
    assert!((last.ctime(), last.ctime_nsec()) > (new.ctime(), new.ctime_nsec()));
    let before = fs::metadata(mount.dir()).unwrap();
    File::create(mount.path("another")).unwrap();
    let after = fs::metadata(mount.dir()).unwrap();
    assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
}

#[test]
fn extended_attributes() {
    let (mut cluster, mount) = mounted();
    let path = mount.path("file");
    fs::write(&path, b"").unwrap();
    let get = |path: &Path, name: &str| {
        let mut room = vec![0; 65_536];
        rustix::fs::getxattr(path, name, &mut room[..]).map(|n| room[..n].to_vec())
    };
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    assert_eq!(get(&path, "user.none"), Err(Errno::NODATA));
    let value = Rng::new(4).bytes(4000);
    set("user.one", &value, XattrFlags::empty()).unwrap();
    set("user.empty", b"", XattrFlags::CREATE).unwrap();
    assert_eq!(get(&path, "user.one").unwrap(), value);
    assert_eq!(get(&path, "user.empty").unwrap(), b"");
    assert_eq!(set("user.one", b"x", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.two", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.one", b"x", XattrFlags::REPLACE).unwrap();
    let told = dfs_tests::run_ok(&["getfattr", "-d", "--absolute-names", path.to_str().unwrap()]).stdout;
    assert!(told.contains("user.one=\"x\"") && told.contains("user.empty"), "{told}");
    set("user.one", b"xyz", XattrFlags::empty()).unwrap();
    assert_eq!(rustix::fs::getxattr(&path, "user.one", &mut [0u8; 2][..]), Err(Errno::RANGE));
    let mut room = vec![0u8; 1000];
    let n = rustix::fs::listxattr(&path, &mut room[..]).unwrap();
    let mut names: Vec<&[u8]> = room[..n].split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
    names.sort();
    assert_eq!(names, [&b"user.empty"[..], b"user.one"]);
    let other = cluster.mount();
    assert_eq!(get(&other.path("file"), "user.one").unwrap(), b"xyz");
    rustix::fs::removexattr(&path, "user.one").unwrap();
    assert_eq!(get(&path, "user.one"), Err(Errno::NODATA));
    assert_eq!(rustix::fs::removexattr(&path, "user.one"), Err(Errno::NODATA));
}

#[test]
fn statfs_says_what_a_user_can_still_store() {
    let (cluster, mount) = mounted();
    let stat = rustix::fs::statvfs(mount.dir()).unwrap();
    let below = rustix::fs::statvfs(cluster.scratch.dir()).unwrap();
    let (free, raw) = (stat.f_bavail * stat.f_frsize, below.f_bavail * below.f_frsize);
    // Three keepers share one disk, and three copies are wanted: a third of what is free. Other tests use the disk too.
    assert!(free > raw / 6 && free < raw / 3 * 5 / 4, "{free} bytes are free, {raw} on the disk below");
    assert!(stat.f_blocks >= stat.f_bfree && stat.f_bfree >= stat.f_bavail && stat.f_files > 0);
    assert_eq!(stat.f_namemax, 255);
}

#[test]
fn names_of_255_bytes_and_of_every_byte() {
    let (mut cluster, mount) = mounted();
    let every: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let mut names: Vec<Vec<u8>> = vec![
        every,
        vec![b'n'; 255],
        vec![0xff; 255],
        b" ".into(),
        b"...".into(),
        b"a\nb".into(),
        b"-rf".into(),
    ];
    for name in &names {
        fs::write(mount.path(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir(mount.path("d")).unwrap();
    fs::rename(mount.path(OsStr::from_bytes(&names[0])), mount.path("d").join(OsStr::from_bytes(&names[0])))
        .unwrap();
    fs::rename(mount.path("d").join(OsStr::from_bytes(&names[0])), mount.path(OsStr::from_bytes(&names[0])))
        .unwrap();
    let too_long = fs::write(mount.path("n".repeat(256)), b"");
    assert_eq!(too_long.unwrap_err().raw_os_error(), Some(Errno::NAMETOOLONG.raw_os_error()));
    let other = cluster.mount();
    for name in &names {
        assert_eq!(&fs::read(other.path(OsStr::from_bytes(name))).unwrap(), name);
    }
    let mut listed: Vec<Vec<u8>> =
        fs::read_dir(other.dir()).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
    names.push(b"d".into());
    names.sort();
    listed.sort();
    assert_eq!(listed, names);
}

#[test]
fn pipes_and_sockets_can_be_made() {
    let (_cluster, mount) = mounted();
    dfs_tests::run_ok(&["mkfifo", mount.path("pipe").to_str().unwrap()]);
    assert!(fs::metadata(mount.path("pipe")).unwrap().file_type().is_fifo());
    drop(std::os::unix::net::UnixListener::bind(mount.path("s")).unwrap());
    assert!(fs::metadata(mount.path("s")).unwrap().file_type().is_socket());
}

#[test]
fn a_directory_that_was_removed_while_it_is_open_can_be_looked_at() {
    let (_cluster, mount) = mounted();
    for way in ["rmdir", "rename"] {
        let path = mount.path(way);
        fs::create_dir(&path).unwrap();
        let open = fs::File::open(&path).unwrap();
        if way == "rmdir" {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::create_dir(mount.path("over")).unwrap();
            fs::rename(mount.path("over"), &path).unwrap();
        }
        let stat = rustix::fs::fstat(&open).unwrap_or_else(|e| panic!("fstat after {way}: {e}"));
        assert_eq!((stat.st_mode & 0o170_000, stat.st_nlink), (0o040_000, 0), "after {way}");
    }
}
