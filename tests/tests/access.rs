//! Who may do what: access lists, umask, groups, sticky and set-id bits, and a squashed root.
//!
//! Covers: POSIX ACLs enforced, inherited by files and directories, changed by chmod, kept by cp, rsync and tar, and
//! seen on another mount at once; what they cost in requests; umask, set-group-id directories, supplementary groups
//! and sticky directories; set-id bits cleared by write, truncate and chown, on another mount too; root squash on and off.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Ran, require_root, run, wait_until};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

fn mounted() -> (Cluster, Mount) {
    require_root();
    let mut cluster = Cluster::builder().keepers(2).start();
    let mount = cluster.mount();
    (cluster, mount)
}

/// Runs a shell script in `dir` as user and group `id`, with `groups` (`--groups 5,6`, or none).
#[track_caller]
fn as_user(id: u32, groups: &str, dir: &Path, script: &str) -> Ran {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id.to_string(), "--regid", &id.to_string()]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.args(["sh", "-euc", script]).current_dir(dir);
    run(&mut command, secs(60))
}

#[track_caller]
fn allowed(id: u32, dir: &Path, script: &str) -> bool {
    as_user(id, "", dir, script).status.success()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The lists of everything below a directory, in the order of names, without those that inodes do not have.
fn lists(dir: &Path) -> String {
    sh("cd $1; find . | LC_ALL=C sort | getfacl -n -p - 2>/dev/null", &[dir]).stdout
}

#[test]
fn access_lists_are_enforced_and_follow_chmod() {
    let (_cluster, mount) = mounted();
    let dir = mount.dir();
    let file = mount.path("file");
    fs::write(&file, b"content\n").unwrap();
    set_mode(&file, 0o600);
    let (reads, writes) = ("cat file", "echo more >> file");
    assert!(!allowed(1234, dir, reads));
    sh("setfacl -m u:1234:rw,g:77:r $1", &[&file]);
    assert_eq!(mode(&file), 0o660, "the mask is shown as the group's bits");
    assert!(allowed(1234, dir, reads) && allowed(1234, dir, writes));
    assert!(!allowed(1235, dir, reads));
    assert!(as_user(1235, "77", dir, reads).status.success(), "by a supplementary group");
    assert!(!as_user(1235, "77", dir, writes).status.success());
    // chmod changes the mask, which cuts what the list grants.
    set_mode(&file, 0o640);
    assert!(allowed(1234, dir, reads) && !allowed(1234, dir, writes));
    let told = sh("getfacl -n -c --omit-header $1", &[&file]).stdout;
    let wanted =
        "user::rw-\nuser:1234:rw-\t#effective:r--\ngroup::---\ngroup:77:r--\nmask::r--\nother::---\n\n";
    assert_eq!(told, wanted);
    assert!(sh("getfattr -m- --absolute-names $1", &[&file]).stdout.contains("system.posix_acl_access\n"));

    sh(
        "setfattr -n trusted.a -v 1 $1; setfattr -n user.a -v 1 $1; getfattr -m- $1 | grep trusted.a",
        &[&file],
    );
    let shown = as_user(1234, "", dir, "getfattr -m- file").ok().stdout;
    assert!(shown.contains("user.a") && !shown.contains("trusted.a"), "root's are not shown: {shown}");
    sh("setfattr -x trusted.a $1; setfattr -x user.a $1", &[&file]);
    assert!(!allowed(1234, dir, "setfacl -m u:1234:rwx file"), "the owner alone sets lists");
    assert!(!allowed(1234, dir, "setfacl -b file"));
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&file, name, value, XattrFlags::empty());
    assert_eq!(set("system.posix_acl_access", &[2, 0, 0, 0, 1, 0, 6, 0]), Err(Errno::INVAL));
    let entry = |tag: u8| [tag, 0, 6, 0, 0xff, 0xff, 0xff, 0xff];
    let minimal = [&[2, 0, 0, 0][..], &entry(1), &entry(4), &entry(0x20)].concat();
    assert_eq!(set("system.posix_acl_default", &minimal), Err(Errno::ACCESS), "directories alone have one");
    sh("setfacl -b $1", &[&file]);
    assert_eq!(mode(&file), 0o600);
    assert!(!allowed(1234, dir, reads));
    set("system.posix_acl_access", &minimal).unwrap();
    assert_eq!(mode(&file), 0o666, "a list that a mode can say is the mode");
    assert!(sh("getfattr -m- $1", &[&file]).stdout.is_empty());

    // Who sets a list and is not in the file's group takes the set-group-id bit away.
    chown(&file, Some(1234), Some(99)).unwrap();
    for (groups, keeps) in [("", false), ("5,99", true)] {
        set_mode(&file, 0o2755);
        as_user(1234, groups, dir, "setfacl -m u:5:r file").ok();
        assert_eq!(mode(&file) & 0o2000 != 0, keeps, "groups '{groups}'");
    }
}

/// As ext4 makes it, word for word. install(1) takes the list of what it installs away.
const INHERITED: &str = "\
# file: .
# owner: 0
# group: 0
user::rwx
group::r-x
other::r-x
default:user::rwx
default:user:1234:rwx
default:group::r-x
default:group:77:r-x
default:mask::rwx
default:other::---

# file: ./file
# owner: 0
# group: 0
user::rw-
user:1234:rwx\t#effective:rw-
group::r-x\t#effective:r--
group:77:r-x\t#effective:r--
mask::rw-
other::---

# file: ./private
# owner: 0
# group: 0
user::rw-
group::---
other::---

# file: ./sub
# owner: 0
# group: 0
user::rwx
user:1234:rwx
group::r-x
group:77:r-x
mask::rwx
other::---
default:user::rwx
default:user:1234:rwx
default:group::r-x
default:group:77:r-x
default:mask::rwx
default:other::---

# file: ./sub/pipe
# owner: 0
# group: 0
user::rw-
user:1234:rwx\t#effective:rw-
group::r-x\t#effective:r--
group:77:r-x\t#effective:r--
mask::rw-
other::---

";

#[test]
fn access_lists_are_inherited_and_archives_keep_them() {
    let (_cluster, mount) = mounted();
    let script = "
        cd $1; umask 022; mkdir from; setfacl -m d:u:1234:rwx,d:g:77:r-x,d:o::- from; cd from
        umask 077; echo x > file; mkdir sub; mkfifo sub/pipe; ln -s file link; install -m 600 /dev/null private; rm link
        cd ..; cp -a from cp; rsync -aA from/ rsync; mkdir tar; tar --acls -C from -c . | tar --acls -C tar -x -p";
    sh(script, &[mount.dir()]);
    assert_eq!(lists(&mount.path("from")), INHERITED);
    for copy in ["cp", "rsync", "tar"] {
        assert_eq!(lists(&mount.path(copy)), INHERITED, "{copy}");
    }
    let dir = mount.path("from");
    assert!(allowed(1234, &dir, "echo y >> file; echo z > sub/new; rm sub/new"));
    assert!(!allowed(1235, &dir, "cat file"));
    assert!(!allowed(1234, &dir, "cat private"));
}

#[test]
fn a_changed_access_list_counts_on_another_mount_at_once() {
    let (mut cluster, one) = mounted();
    let two = cluster.mount();
    let file = one.path("file");
    fs::write(&file, b"content\n").unwrap();
    set_mode(&file, 0o600);
    let mut fastest = Duration::MAX;
    for round in 0..6 {
        let granted = round % 2 == 0;
        sh(if granted { "setfacl -m u:1234:r $1" } else { "setfacl -x u:1234 $1" }, &[&file]);
        let changed = Instant::now();
        // The last that it saw, less than its lifetime ago, was the opposite.
        wait_until(secs(10), "the other mount follows", || allowed(1234, two.dir(), "cat file") == granted);
        fastest = fastest.min(changed.elapsed());
    }
    assert!(fastest < Duration::from_millis(700), "it took {fastest:?} at best: no push did that");
}

#[test]
fn access_lists_cost_users_no_requests() {
    require_root();
    let mut cluster = Cluster::builder().keepers(2).log("info,dfs::requests=trace").start();
    let mount = cluster.mount();
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o777);
    let asked = |what: &str| {
        let log = mount.process.log();
        log.lines().filter(|line| line.contains("dfs::requests: ") && line.ends_with(what)).count()
    };
    let before = asked("");
    as_user(1234, "", &dir, "i=0; while [ $i -lt 1000 ]; do : > f$i; i=$((i+1)); done").ok();
    let created = asked("") - before;
    assert_eq!(asked("getxattr"), 0);
    // For each, the kernel looks the name up, creates it, and asks for the directory's new attributes.
    assert!((1000..3100).contains(&created), "{created} requests for 1000 new files");
    let before = asked("");
    as_user(1235, "", &dir, "stat -c %s f* >/dev/null; cat f* >/dev/null").ok();
    let looked_at = asked("") - before;
    // Each is looked up and opened, and once more looked at when the first look was a second ago.
    assert!(looked_at < 3600, "{looked_at} requests for 1000 files to look at and open");
    // File capabilities are asked for at each write.
    as_user(1235, "", &dir, "dd if=/dev/zero of=big bs=4k count=500 2>/dev/null").ok();
    assert_eq!(asked("getxattr"), 0, "nothing there has a list");
    sh("setfacl -m u:1236:r $1", &[dir.join("f0")]);
    assert!(!allowed(1235, &dir, "echo x >> f0"));
    assert!(asked("getxattr") > 0, "the trace says what is asked");
}

#[test]
fn umask_groups_and_sticky_directories() {
    let (_cluster, mount) = mounted();
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o1777);
    as_user(1234, "", &dir, "umask 027; : > file; mkdir sub; mkfifo pipe; umask 000; : > open").ok();
    let made = ["file", "sub", "pipe", "open"].map(|name| mode(&dir.join(name)));
    assert_eq!(made, [0o640, 0o750, 0o640, 0o666]);

    // In a sticky directory each removes his own.
    assert!(!allowed(1235, &dir, "rm -f open") && !allowed(1235, &dir, "mv open x"));
    assert!(allowed(1235, &dir, "echo x >> open") && allowed(1234, &dir, "mv open x; rm x"));

    // What is made in a set-group-id directory has its group, whoever makes it; directories hand it on.
    let shared = mount.path("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, None, Some(77)).unwrap();
    set_mode(&shared, 0o2770);
    assert!(!allowed(1234, &shared, "ls"));
    as_user(1234, "5,77", &shared, "umask 022; : > file; mkdir -p sub/below; chmod g+s file").ok();
    let gid = |name: &str| fs::metadata(shared.join(name)).unwrap().gid();
    assert_eq!(["file", "sub", "sub/below"].map(gid), [77; 3]);
    assert_eq!([mode(&shared.join("sub")), mode(&shared.join("sub/below"))], [0o2755; 2]);
    assert_eq!(mode(&shared.join("file")), 0o2644, "he is in that group");
    // Who is not in the group cannot make what runs as it.
    set_mode(&shared, 0o2777);
    as_user(1236, "", &shared, ": > other; chmod 2755 other").ok();
    assert_eq!((mode(&shared.join("other")), gid("other")), (0o755, 77));
    as_user(1234, "5,77", &shared, "chgrp 5 file; chgrp 77 file").ok();
    assert!(!as_user(1234, "5", &shared, "chgrp 77 file; chgrp 6 file").status.success());
}

#[test]
fn set_id_bits_are_cleared_by_who_changes_the_file() {
    let (mut cluster, one) = mounted();
    let two = cluster.mount();
    let file = one.path("file");
    fs::write(&file, b"program").unwrap();
    for (dir, script) in [
        (one.dir(), "echo x >> file"),
        (two.dir(), "echo x >> file"),
        (one.dir(), "truncate -s 3 file"),
        (two.dir(), ": > file"),
    ] {
        set_mode(&file, 0o6777);
        // As that mount knows it then.
        wait_until(secs(5), "both mounts see the bits", || mode(&dir.join("file")) == 0o6777);
        as_user(1234, "", dir, script).ok();
        assert_eq!(mode(&dir.join("file")), 0o777, "{script}");
        wait_until(secs(5), "the other mount sees it", || mode(&file) == 0o777);
    }
    set_mode(&file, 0o6777);
    fs::write(&file, b"by root").unwrap();
    assert_eq!(mode(&file), 0o6777, "root may");
    chown(&file, Some(1234), Some(1234)).unwrap();
    assert_eq!(mode(&file), 0o777);
    set_mode(&file, 0o6767);
    as_user(1234, "", one.dir(), "chgrp 1234 file").ok();
    assert_eq!(mode(&file), 0o2767, "without group execution it is no program of the group");
}

#[test]
fn appending_takes_away_what_came_while_the_file_was_open() {
    let (_cluster, mount) = mounted();
    let file = mount.path("file");
    fs::write(&file, b"program").unwrap();
    set_mode(&file, 0o666);
    set_mode(mount.dir(), 0o777);
    let dir = mount.dir().to_path_buf();
    let appending = std::thread::spawn(move || {
        let script =
            "exec 3>>file; echo a >&3; : > ready; while [ ! -e go ]; do sleep 0.05; done; echo b >&3";
        as_user(1234, "", &dir, script).ok();
    });
    wait_until(secs(10), "it has the file open", || mount.path("ready").exists());
    set_mode(&file, 0o6777);
    fs::write(mount.path("go"), "").unwrap();
    appending.join().unwrap();
    assert_eq!(mode(&file), 0o777);
    // Version 2 of capabilities(7), none of them set: root loses it like anybody.
    let value = "0x0000000200000000000000000000000000000000";
    sh(&format!("setfattr -n security.capability -v {value} $1; echo c >> $1"), &[&file]);
    let capability = rustix::fs::getxattr(&file, "security.capability", &mut [0u8; 64]);
    assert_eq!(capability, Err(Errno::NODATA), "a file that was changed is another program");
    assert_eq!(fs::read(&file).unwrap(), b"programa\nb\nc\n");
}

#[test]
fn a_squashed_root_is_nobody() {
    let (mut cluster, plain) = mounted();
    let squashed = cluster.mount_with(&["-o", "root_squash"]);
    fs::create_dir(plain.path("roots")).unwrap();
    fs::create_dir(plain.path("private")).unwrap();
    set_mode(&plain.path("private"), 0o700);
    fs::create_dir(plain.path("public")).unwrap();
    set_mode(&plain.path("public"), 0o1777);
    let theirs = |name: &str, mode| {
        let path = plain.path(name);
        fs::write(&path, b"theirs").unwrap();
        set_mode(&path, mode);
        chown(&path, Some(1234), Some(1234)).unwrap();
    };
    theirs("public/secret", 0o600);
    theirs("public/readable", 0o644);
    theirs("private/hidden", 0o666);
    for script in [
        ": > roots/new",
        "mkdir roots/new",
        "rmdir roots",
        "ls private",
        "cat private/hidden",
        "cat public/secret",
        "echo x >> public/readable",
        "truncate -s 0 public/readable",
        "rm -f public/readable",
        "mv public/readable public/x",
        "ln public/secret public/link",
        "chmod 777 public/readable",
        "chown 0 public/readable",
        "touch public/readable",
        "setfacl -m u:65534:rw public/secret",
        "setfattr -n user.a -v 1 public/readable",
        "setfattr -n trusted.a -v 1 public/readable",
        "mknod public/null c 1 3",
    ] {
        let in_dir = |mount: &Mount| {
            run(Command::new("sh").args(["-euc", script]).current_dir(mount.dir()), secs(30)).status.success()
        };
        assert!(!in_dir(&squashed), "{script}");
    }
    let dir = squashed.dir();
    let own = "
        cd $1/public; cat readable; : > file; mkdir sub; : > sub/below; ln -s file link; mkfifo pipe; ln file hard
        echo x > file; chmod 640 file; touch -d 2020-01-01 file; setfacl -m u:5:r file; setfattr -n user.a -v 1 file
        ls sub; mv sub/below moved; rmdir sub; install -m 400 /dev/null readonly; cp readable copy";
    sh(own, &[dir]);
    for name in ["file", "link", "pipe", "readonly", "copy"] {
        let meta = fs::symlink_metadata(squashed.path("public").join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65534, 65534), "{name}");
    }
    // Others are who they are, and on other mounts root is root.
    assert!(allowed(1234, dir, "cat public/secret; echo x >> public/readable"));
    assert!(!allowed(1235, dir, "cat public/secret"));
    sh("cat $1/public/secret $1/private/hidden; : > $1/roots/new; rm $1/public/file", &[plain.dir()]);
    let off = cluster.mount_with(&["--root-squash", "-o", "no_root_squash"]);
    sh("cat $1/public/secret; : > $1/roots/more", &[off.dir()]);
    let other = cluster.mount_with(&["--root-squash", "-o", "anonuid=1234,anongid=5"]);
    sh("cat $1/public/secret; : > $1/public/new", &[other.dir()]);
    let meta = fs::metadata(other.path("public/new")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 5));
    // A program runs where the mode lets it.
    sh(
        "cp /bin/true $1/public/run; chmod 700 $1/public/run; $1/public/run; ! $2/public/run",
        &[plain.dir(), dir],
    );
    sh("chmod 711 $1/public/run; $2/public/run", &[plain.dir(), dir]);
}
