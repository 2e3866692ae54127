//! A token goes back and forth: one mount changes something, the call returns, and the other looks at once.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use dfs_tests::Rng;
use dfs_tests::amount::amount;

use crate::two;

/// What is changed, and what the other mount has to see.
#[derive(Clone, Copy, Debug)]
enum Way {
    Overwrite,
    Append,
    RenameOver,
    CreateOrUnlink,
    MkdirOrRmdir,
    Truncate,
    Mode,
    Times,
    Xattr,
    Link,
}

const WAYS: [Way; 10] = [
    Way::Overwrite,
    Way::Append,
    Way::RenameOver,
    Way::CreateOrUnlink,
    Way::MkdirOrRmdir,
    Way::Truncate,
    Way::Mode,
    Way::Times,
    Way::Xattr,
    Way::Link,
];

fn tokens() -> u64 {
    amount("DFS_TEST_TOKENS", 600)
}

/// What can be seen of a file by its name.
fn seen(path: &Path) -> (u64, i64, i64, u32, u64) {
    let meta = fs::metadata(path).unwrap();
    (meta.size(), meta.mtime(), meta.mtime_nsec(), meta.mode(), meta.nlink())
}

/// One change by the mount `from`, and what `to` sees of it, who has seen everything before.
fn pass(way: Way, n: u64, from: &Path, to: &Path) {
    let [here, there] = [from.join("token"), to.join("token")];
    let [name_here, name_there] = [from.join("name"), to.join("name")];
    let text = format!("token {n:06} {}", "x".repeat((n % 40) as usize));
    // Old things are in every cache.
    let before = seen(&there);
    let had = (fs::read(&there).unwrap(), name_there.exists());
    match way {
        Way::Overwrite => fs::write(&here, &text).unwrap(),
        Way::Append => {
            let file = File::options().write(true).open(&here).unwrap();
            file.write_all_at(text.as_bytes(), had.0.len() as u64).unwrap();
            // Not close: fsync is as good.
            file.sync_all().unwrap();
            assert_eq!(fs::read(&there).unwrap().len(), had.0.len() + text.len(), "{way:?} {n}");
        }
        Way::RenameOver => {
            fs::write(from.join("new"), &text).unwrap();
            fs::rename(from.join("new"), &here).unwrap();
            assert!(!to.join("new").exists(), "{way:?} {n}");
        }
        Way::CreateOrUnlink if had.1 => fs::remove_file(&name_here).unwrap(),
        Way::CreateOrUnlink => fs::write(&name_here, &text).unwrap(),
        Way::MkdirOrRmdir => {
            let listed = fs::read_dir(to).unwrap().count();
            fs::create_dir(from.join("dir")).unwrap();
            assert!(to.join("dir").is_dir(), "{way:?} {n}");
            assert_eq!(fs::read_dir(to).unwrap().count(), listed + 1, "{way:?} {n}");
            fs::remove_dir(from.join("dir")).unwrap();
            let error = fs::metadata(to.join("dir")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{way:?} {n}");
            assert_eq!(fs::read_dir(to).unwrap().count(), listed, "{way:?} {n}");
        }
        Way::Truncate => {
            File::options().write(true).open(&here).unwrap().set_len(n % 7).unwrap();
            assert_eq!(fs::metadata(&there).unwrap().len(), n % 7, "{way:?} {n}");
            assert_eq!(fs::read(&there).unwrap().len() as u64, n % 7, "{way:?} {n}");
        }
        Way::Mode => {
            let mode = if before.3 & 0o777 == 0o640 { 0o604 } else { 0o640 };
            fs::set_permissions(&here, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(seen(&there).3 & 0o777, mode, "{way:?} {n}");
        }
        Way::Times => {
            let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000 + n, 7);
            File::options().write(true).open(&here).unwrap().set_modified(time).unwrap();
            assert_eq!((seen(&there).1, seen(&there).2), (1_000_000 + n as i64, 7), "{way:?} {n}");
        }
        Way::Xattr => {
            let mut buffer = [0; 32];
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&here, "user.token", &text.as_bytes()[..12], flags).unwrap();
            let length = rustix::fs::getxattr(&there, "user.token", &mut buffer).unwrap();
            assert_eq!(&buffer[..length], &text.as_bytes()[..12], "{way:?} {n}");
            rustix::fs::removexattr(&here, "user.token").unwrap();
            assert!(rustix::fs::getxattr(&there, "user.token", &mut buffer).is_err(), "{way:?} {n}");
        }
        Way::Link => {
            fs::hard_link(&here, from.join("second")).unwrap();
            assert_eq!(seen(&there).4, 2, "{way:?} {n}");
            assert!(to.join("second").exists(), "{way:?} {n}");
            fs::remove_file(from.join("second")).unwrap();
            assert_eq!(seen(&there).4, 1, "{way:?} {n}");
        }
    }
    // Name, size, times and bytes are what the one who changed them sees.
    assert_eq!(name_there.exists(), name_here.exists(), "{way:?} {n}");
    assert_eq!(seen(&there), seen(&here), "{way:?} {n}");
    let bytes = fs::read(&there).unwrap();
    if matches!(way, Way::Overwrite | Way::RenameOver) {
        assert_eq!(bytes, text.as_bytes(), "{way:?} {n}");
    }
    assert_eq!(bytes, fs::read(&here).unwrap(), "{way:?} {n}");
    assert_eq!(bytes.len() as u64, seen(&there).0, "{way:?} {n}");
}

// SEMANTICS.md: "After `close()` or `fsync()` returned on one mount, an `open()` that starts later on any other sees
// it", and "When a call that changes names or attributes has returned, every other mount sees the change".
#[test]
fn a_token_goes_back_and_forth_and_nothing_is_ever_stale() {
    let (_cluster, a, b) = two();
    fs::write(a.path("token"), "first").unwrap();
    let mut rng = Rng::seeded(31);
    let mut took = Vec::new();
    for n in 0..tokens() {
        let (from, to) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let way = WAYS[rng.below(WAYS.len() as u64) as usize];
        let begun = Instant::now();
        pass(way, n, from.dir(), to.dir());
        took.push(begun.elapsed());
    }
    took.sort();
    println!("{} tokens, median {:?}, longest {:?}", took.len(), took[took.len() / 2], took[took.len() - 1]);
}

// SEMANTICS.md: "typically within milliseconds".
#[test]
fn a_change_of_what_another_mount_has_cached_is_pushed_within_50_ms() {
    let (_cluster, a, b) = two();
    fs::write(a.path("f"), "f").unwrap();
    let mut took = Vec::new();
    for n in 0..100 {
        let mode = 0o600 + n % 8;
        fs::metadata(b.path("f")).unwrap();
        let begun = Instant::now();
        fs::set_permissions(a.path("f"), fs::Permissions::from_mode(mode)).unwrap();
        took.push(begun.elapsed());
        assert_eq!(fs::metadata(b.path("f")).unwrap().mode() & 0o777, mode);
    }
    took.sort();
    println!("median {:?}, longest {:?}", took[50], took[99]);
    assert!(took[50] < Duration::from_millis(50), "{took:?}");
}
