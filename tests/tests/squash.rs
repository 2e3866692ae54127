//! Users whose ids are mapped at the master: root alone, everybody, or ranges.
//!
//! Covers, with a mount of an ordinary user beside the mapped one: to whom belongs what is made there, as others see it; what root there may not do;
//! ranges both ways, in lists of directories and access lists too; `tar` and `cp -a`; one who is everybody; a session that no dfs-mount would
//! hold; a map that is changed while a mount is there; what `dfs user` shows and refuses; the master restarted under an open file.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use dfs_proto::pb::mount_request::Op;
use dfs_proto::pb::{self, mount_reply};
use dfs_tests::auth::{RawSession, add_user, cluster, login, token};
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, require_root, run, wait_until};
use rustix::io::Errno;

/// Who is nobody.
const NOBODY: u32 = 65_534;

/// A cluster, a mount of it as it is, and one of a user who was made with these flags.
fn world(flags: &[&str]) -> (Cluster, Mount, Mount) {
    require_root();
    let mut cluster = cluster(Cluster::builder(), 2, &[]);
    let plain = cluster.mount_with(&["-o", "allow_other"]);
    set_mode(plain.dir(), 0o777);
    add_user(&cluster, "anna", flags);
    let file = login(&cluster, "anna");
    let mapped = cluster.mount_with(&["--token-file", file.to_str().unwrap(), "-o", "allow_other"]);
    (cluster, plain, mapped)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A file of somebody, made on the mount that is not mapped.
fn theirs(plain: &Mount, name: &str, id: u32, mode: u32) {
    let path = plain.path(name);
    fs::write(&path, "theirs").unwrap();
    set_mode(&path, mode);
    chown(&path, Some(id), Some(id)).unwrap();
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

/// Does the script succeed in the directory, as this user and group? What it says of that goes into `said`.
fn does_as(id: u32, dir: &Path, script: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    if id != 0 {
        command.uid(id).gid(id);
    }
    run(&mut command, secs(60)).status.success()
}

#[test]
fn root_is_somebody_else() {
    let (cluster, plain, mapped) = world(&["--map-root", "1000:2000"]);
    let dir = mapped.dir();
    sh(
        "cd $1; echo x > file; mkdir sub; ln -s file link; mkfifo pipe; ln file hard; echo y >> file; chmod 640 file
         touch -d 2020-01-01 file; setfattr -n user.a -v 1 file; mv sub moved; install -m 400 /dev/null readonly; cp file copy",
        &[dir],
    );
    for name in ["file", "moved", "link", "pipe", "readonly", "copy"] {
        assert_eq!(owner(plain.path(name)), (1000, 2000), "{name}");
        assert_eq!(owner(mapped.path(name)), (1000, 2000), "{name}: as it is");
    }
    assert_eq!(fs::read_to_string(plain.path("file")).unwrap(), "x\ny\n");
    theirs(&plain, "secret", 1234, 0o600);
    theirs(&plain, "readable", 1234, 0o644);
    fs::create_dir(plain.path("roots")).unwrap();
    fs::create_dir(plain.path("private")).unwrap();
    fs::write(plain.path("private/hidden"), "x").unwrap();
    set_mode(&plain.path("private"), 0o700);
    for script in [
        "cat secret",
        "echo x >> readable",
        "truncate -s 0 readable",
        "chmod 777 readable",
        "chown 1000 readable",
        "chown 0 secret",
        "chown 5 file",
        "chgrp 5 file",
        "touch readable",
        "setfacl -m u:1000:rw secret",
        "setfattr -n trusted.a -v 1 file",
        "ls private",
        "cat private/hidden",
        ": > roots/new",
        "mknod null c 1 3",
    ] {
        assert!(!does_as(0, dir, script), "{script}");
    }
    assert_eq!(fs::read_to_string(plain.path("readable")).unwrap(), "theirs");
    assert!(does_as(0, dir, "cat readable"));
    // Others are who they are.
    assert!(does_as(1234, dir, "cat secret; echo x >> readable; : > own"));
    assert_eq!(owner(plain.path("own")), (1234, 1234));
    assert!(!does_as(1235, dir, "cat secret"));
    // Copies of root's own files are no errors.
    sh(
        "cd $1; mkdir -p tree/below; echo a > tree/below/a; chmod 600 tree/below/a; cp -a tree copied; tar cf $2 tree",
        &[dir, &cluster.scratch.path("a.tar")],
    );
    sh(
        "cd $1; mkdir out; tar xpf $2 -C out; diff -r tree out/tree; diff -r tree copied",
        &[dir, &cluster.scratch.path("a.tar")],
    );
    assert_eq!(owner(plain.path("out/tree/below/a")), (1000, 2000));
    // Nor of what is root's on the machine: to give it to root gives it to whom root is.
    let local = cluster.scratch.path("tree");
    sh(
        "mkdir -p $1/below; echo a > $1/below/a; cp -a $1 $2/from; tar cf $3 -C $1 .; mkdir $2/here; tar xpf $3 -C $2/here",
        &[local.as_path(), dir, &cluster.scratch.path("b.tar")],
    );
    sh("diff -r $1 $2/from; diff -r $1 $2/here", &[local.as_path(), dir]);
    assert_eq!(owner(plain.path("from/below/a")), (1000, 2000));
    assert_eq!(owner(plain.path("here/below/a")), (1000, 2000));
    // `dfs` is a client like any other.
    let file = cluster.scratch.path("token-anna");
    let file = file.to_str().unwrap();
    let local = cluster.scratch.path("local");
    fs::write(&local, "put").unwrap();
    let local = local.to_str().unwrap();
    cluster.dfs(&["--token-file", file, "put", local, "/put"]).ok();
    assert_eq!(owner(plain.path("put")), (1000, 2000));
    assert!(!cluster.dfs(&["--token-file", file, "cat", "/secret"]).status.success());
    assert!(!cluster.dfs(&["--token-file", file, "put", local, "/roots/new"]).status.success());
    assert_eq!(cluster.dfs(&["--token-file", file, "cat", "/readable"]).ok().stdout, "theirsx\n");
}

#[test]
fn ranges_are_other_ranges_both_ways() {
    let (cluster, plain, mapped) = world(&[
        "--map-uid",
        "1000:5000:10",
        "--map-uid",
        "0:4000",
        "--map-gid",
        "1000:6000:10",
        "--map-gid",
        "0:4000",
    ]);
    let dir = mapped.dir();
    assert!(does_as(
        1003,
        dir,
        "echo x > file; mkdir sub; chmod 600 file; setfacl -m u:1004:r,g:1001:r file"
    ));
    assert!(does_as(0, dir, ": > roots"));
    assert!(does_as(77, dir, ": > nobodys"));
    assert_eq!((owner(plain.path("file")), owner(mapped.path("file"))), ((5003, 6003), (1003, 1003)));
    assert_eq!((owner(plain.path("roots")), owner(mapped.path("roots"))), ((4000, 4000), (0, 0)));
    assert_eq!(owner(plain.path("nobodys")), (NOBODY, NOBODY));
    let acl = |mount: &Mount| sh("getfacl -nc $1 | grep '[0-9]'", &[&mount.path("file")]).stdout;
    assert!(
        acl(&plain).contains("user:5004:r--") && acl(&plain).contains("group:6001:r--"),
        "{}",
        acl(&plain)
    );
    assert!(
        acl(&mapped).contains("user:1004:r--") && acl(&mapped).contains("group:1001:r--"),
        "{}",
        acl(&mapped)
    );
    // Who is not in a range is shown as nobody, and is not reached.
    theirs(&plain, "outside", 1003, 0o640);
    theirs(&plain, "inside", 5004, 0o600);
    chown(plain.path("inside"), None, Some(6004)).unwrap();
    assert_eq!(
        (owner(mapped.path("outside")), owner(mapped.path("inside"))),
        ((NOBODY, NOBODY), (1004, 1004))
    );
    let listed = sh("ls -ln $1", &[dir]).stdout;
    let line = |name: &str| {
        let line = listed.lines().find(|line| line.ends_with(name)).unwrap();
        line.split_whitespace().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((line("file"), line("outside"), line("roots")), (two("1003"), two("65534"), two("0")));
    for id in [1003, 0, NOBODY] {
        assert!(!does_as(id, dir, "cat outside"), "{id}");
    }
    assert!(does_as(1004, dir, "cat inside; echo x >> inside; cat file"), "the list lets 1004 read");
    assert!(!does_as(1003, dir, "cat inside"));
    assert!(!does_as(1003, dir, "setfacl -m u:77:r file"), "77 is nobody at the cluster");
    assert!(!does_as(0, dir, "chown 1003 roots"), "root is no root");
    // A tree goes out and back as it was.
    let tar = cluster.scratch.path("a.tar");
    assert!(does_as(1003, dir, "mkdir tree; echo a > tree/a; chmod 604 tree/a; cp -a tree copied"));
    sh("cd $1; tar cf $2 tree", &[dir, &tar]);
    assert!(sh("tar tvf $1 --numeric-owner", &[&tar]).stdout.contains("1003/1003"));
    assert_eq!((owner(plain.path("copied/a")), owner(mapped.path("copied/a"))), ((5003, 6003), (1003, 1003)));
}

fn two(id: &str) -> Vec<String> {
    vec![id.to_owned(); 2]
}

#[test]
fn everybody_is_one() {
    let (_cluster, plain, mapped) = world(&["--map-all", "1000:2000"]);
    let dir = mapped.dir();
    assert!(does_as(0, dir, ": > roots; chmod 600 roots"));
    assert!(does_as(77, dir, "echo x > own; chmod 600 own; cat own; mkdir sub; : > sub/below"));
    for name in ["roots", "own", "sub/below"] {
        assert_eq!(owner(plain.path(name)), (1000, 2000), "{name}");
    }
    // What belongs to the one is everybody's, whoever made it and whatever the kernel thinks.
    assert!(does_as(
        78,
        dir,
        "cat own roots; echo y >> own; rm sub/below; rmdir sub; mv roots moved; touch own"
    ));
    theirs(&plain, "secret", 1234, 0o600);
    fs::create_dir(plain.path("private")).unwrap();
    set_mode(&plain.path("private"), 0o700);
    for id in [0, 77, 1234] {
        for script in ["cat secret", "chmod 777 secret", "ls private", ": > private/new", "chown 1000 secret"]
        {
            assert!(!does_as(id, dir, script), "{id}: {script}");
        }
    }
    assert_eq!(fs::read_to_string(plain.path("own")).unwrap(), "x\ny\n");
}

#[test]
fn who_is_no_mount_can_do_no_more() {
    let (cluster, plain, mapped) = world(&["--map-root", "1000:1000"]);
    theirs(&plain, "secret", 0, 0o600);
    fs::write(plain.path("secret"), vec![7; 5000]).unwrap();
    let inode = fs::metadata(plain.path("secret")).unwrap().ino();
    let token = token(&cluster, "anna");
    let mut session = RawSession::open(
        &cluster,
        Some(&token),
        pb::MountHello { open_inodes: vec![inode], ..Default::default() },
    );
    assert!(session.welcome.maps_ids && !session.welcome.all_are_one);
    let runs = vec![pb::Run { file_offset: 0, length: 10 }];
    let given = |uid| pb::Setattr { inode, uid: Some(uid), ..Default::default() };
    for caller in [None, Some(0), Some(1000), Some(5)] {
        for op in [
            Op::Open(pb::Open { inode, access: 4 }),
            Op::Layout(pb::Layout { inode, offset: 0, length: 5000 }),
            Op::Alloc(pb::Alloc { inode, runs: runs.clone(), ..Default::default() }),
            Op::Setattr(pb::Setattr { inode, mode: Some(0o777), ..Default::default() }),
            Op::Setattr(pb::Setattr { inode, size: Some(0), ..Default::default() }),
            Op::Setattr(given(1000)),
            Op::Unlink(pb::Unlink { parent: inode, name: "x".into() }),
            Op::CopyRange(pb::CopyRange {
                source: inode,
                target: inode,
                target_offset: 9000,
                length: 9,
                ..Default::default()
            }),
            Op::Setxattr(pb::Setxattr {
                inode,
                name: "user.a".into(),
                value: "1".into(),
                ..Default::default()
            }),
        ] {
            // That he is not to be checked he says himself.
            let caller = caller.map(|uid| pb::Caller { uid, gid: 0, groups: vec![0], check: false });
            let reply = session.ask_as(caller, op.clone());
            assert!(matches!(reply, mount_reply::Result::Error(_)), "{op:?}: {reply:?}");
        }
    }
    // What he makes he makes as whom he says, and never for root.
    let create = pb::Create { parent: 1, name: "his".into(), mode: 0o4777, uid: 0, gid: 0, umask: 0 };
    let made = session.ask_as(None, Op::Create(create));
    assert!(matches!(made, mount_reply::Result::Attr(_)), "{made:?}");
    assert_eq!(owner(plain.path("his")), (1000, 1000));
    drop(mapped);
}

#[test]
fn a_mount_goes_by_the_map_as_it_is_now() {
    let (mut cluster, plain, mapped) = world(&["--map-root", "1000:1000"]);
    let dir = mapped.dir();
    assert!(does_as(0, dir, ": > first"));
    // A master that is new knows nothing of what is open.
    let mut open =
        fs::OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("open")).unwrap();
    open.write_all(b"before").unwrap();
    // Whoever starts a process closes it there, which waits for what is under way.
    open.sync_all().unwrap();
    cluster.master.kill();
    cluster.restart_master();
    open.write_all(b" and after").unwrap();
    open.sync_all().unwrap();
    drop(open);
    let mut text = String::new();
    fs::File::open(plain.path("open")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), owner(plain.path("open"))), ("before and after", (1000, 1000)));
    // Another map, while the mount is there.
    let made_by = |name: &str| does_as(0, dir, &format!(": > {name}")).then(|| owner(plain.path(name)).0);
    cluster.dfs(&["user", "grant", "anna", "--map-all", "3000:3000"]).ok();
    let mut number = 0;
    let mut wait_for = |owner: u32| {
        wait_until(secs(30), &format!("what is made belongs to {owner}"), || {
            number += 1;
            made_by(&format!("made-{number}")) == Some(owner)
        });
    };
    wait_for(3000);
    cluster.dfs(&["user", "grant", "anna", "--map-uid", "0:4000:5"]).ok();
    wait_for(4000);
    assert_eq!(owner(mapped.path("first")).0, NOBODY, "nothing of before is believed");
    cluster.dfs(&["user", "grant", "anna", "--no-map"]).ok();
    wait_for(0);
    assert_eq!(owner(mapped.path("first")).0, 1000);
    let bad = |args: &[&str], needle: &str| {
        cluster.dfs(&[&["user", "grant", "anna"], args].concat()).one_line_error("dfs", &[needle]);
    };
    bad(&["--map-uid", "0:100:10", "--map-uid", "5:500"], "in common");
    bad(&["--map-root", "0:0"], "stays root");
    cluster.dfs(&["user", "grant", "anna", "--map-uid", "1000:5000:10", "--map-gid", "1:2"]).ok();
    let listed = cluster.dfs(&["user", "ls"]).ok().stdout;
    assert!(listed.contains("uid=1000:5000:10 gid=1:2:1"), "{listed}");
    let users = cluster.json(&["user", "ls"]);
    let anna = users.as_array().unwrap().iter().find(|row| row["user"] == "anna").unwrap();
    assert_eq!(anna["ids"]["uids"][0]["to"], 5000);
    bad(&["admin"], "mapped");
    assert!(!cluster.dfs(&["user", "grant", "anna", "--no-map", "--map-all", "1:1"]).status.success());
    // A refused read has its own errno on the mapped mount.
    theirs(&plain, "secret", 1234, 0o600);
    wait_until(secs(30), "the map is there", || {
        fs::read(mapped.path("secret")).is_err_and(|e| e.raw_os_error() == Some(Errno::ACCESS.raw_os_error()))
    });
}
