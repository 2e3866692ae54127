//! Users who are bound to a directory.
//!
//! Covers: the mount of such a user shows the directory as its root, with `subdir` below it; nothing outside is reached by path,
//! "..", links, renames, open files that were moved away, or by number in a session that no dfs-mount would hold; `dfs lookup`, `status`,
//! `quota` and the page's JSON name nothing outside; the user follows the directory when it is moved, goes to another one when
//! an admin says so, and is told plainly when it is removed; whoever is also `ro` cannot write.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dfs_proto::pb::mount_request::Op;
use dfs_proto::pb::{self, mount_reply};
use dfs_tests::auth::{RawSession, add_user, cluster, login, token};
use dfs_tests::http::{address, send};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, require_root, run_ok, wait_until};
use rustix::io::Errno;

/// A cluster with /x/d/f and /y/secret, a mount of all of it, and anna, who is bound to /x.
fn world(flags: &[&str]) -> (Cluster, Mount) {
    require_root();
    let mut cluster = cluster(Cluster::builder(), 2, flags);
    let whole = cluster.mount();
    fs::create_dir_all(whole.path("x/d")).unwrap();
    fs::create_dir(whole.path("y")).unwrap();
    fs::write(whole.path("x/d/f"), "anna's").unwrap();
    fs::write(whole.path("y/secret"), "berta's").unwrap();
    add_user(&cluster, "anna", &["--dir", "/x"]);
    (cluster, whole)
}

fn mount_of(cluster: &mut Cluster, user: &str, more: &[&str]) -> Mount {
    let file = login(cluster, user);
    cluster.mount_with(&[&["--token-file", file.to_str().unwrap()], more].concat())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn refused<T>(result: std::io::Result<T>, with: Errno) {
    match result {
        Ok(_) => panic!("it was done"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(with.raw_os_error()), "{error}"),
    }
}

#[test]
fn the_directory_is_all_there_is() {
    let (mut cluster, whole) = world(&[]);
    let anna = mount_of(&mut cluster, "anna", &[]);
    assert_eq!(names(anna.dir()), ["d"]);
    assert_eq!(fs::metadata(anna.dir()).unwrap().ino(), 1);
    assert_eq!(fs::read_to_string(anna.path("d/f")).unwrap(), "anna's");
    let above = anna.dir().parent().unwrap();
    assert_eq!(fs::canonicalize(anna.path("d/../..")).unwrap(), above);
    assert!(!anna.path("x").exists() && !anna.path("y").exists());
    // It is a file system like any other, and others see what is done in it.
    fs::create_dir(anna.path("new")).unwrap();
    fs::write(anna.path("new/file"), vec![7; 3 << 20]).unwrap();
    fs::rename(anna.path("new/file"), anna.path("d/moved")).unwrap();
    fs::hard_link(anna.path("d/moved"), anna.path("linked")).unwrap();
    assert_eq!(fs::read(whole.path("x/linked")).unwrap(), vec![7; 3 << 20]);
    fs::write(whole.path("x/d/f"), "changed").unwrap();
    wait_until(secs(5), "a change from outside is seen", || {
        fs::read_to_string(anna.path("d/f")).is_ok_and(|text| text == "changed")
    });
    run_ok(&["df", anna.dir().to_str().unwrap()]);
    // A subtree of the subtree.
    let sub = mount_of(&mut cluster, "anna", &["-o", "subdir=/d"]);
    assert_eq!(names(sub.dir()), ["f", "moved"]);
    assert_eq!(fs::metadata(sub.dir()).unwrap().ino(), 1);
    sub.unmount();
    anna.unmount();
}

#[test]
fn what_is_moved_away_is_gone_even_when_it_is_open() {
    let (mut cluster, whole) = world(&[]);
    let anna = mount_of(&mut cluster, "anna", &[]);
    fs::write(whole.path("x/big"), vec![1; 20 << 20]).unwrap();
    let open = fs::File::open(anna.path("big")).unwrap();
    let dir = fs::File::open(anna.path("d")).unwrap();
    fs::rename(whole.path("x/big"), whole.path("y/big")).unwrap();
    fs::rename(whole.path("x/d"), whole.path("y/d")).unwrap();
    let mut end = [0; 10];
    refused(std::os::unix::fs::FileExt::read_at(&open, &mut end, 19 << 20), Errno::STALE);
    refused(rustix::fs::statat(&dir, "f", rustix::fs::AtFlags::empty()).map_err(Into::into), Errno::STALE);
    assert_eq!(names(anna.dir()), [""; 0]);
    // A name inside, and it is back.
    fs::hard_link(whole.path("y/big"), whole.path("x/again")).unwrap();
    assert_eq!(fs::metadata(anna.path("again")).unwrap().len(), 20 << 20);
    assert_eq!(std::os::unix::fs::FileExt::read_at(&open, &mut end, 19 << 20).unwrap(), 10);
    fs::rename(whole.path("y/d"), whole.path("x/d")).unwrap();
    wait_until(secs(5), "it is there", || anna.path("d/f").exists());
    // One that loses its name is read on by who has it open.
    let open = fs::File::open(anna.path("again")).unwrap();
    fs::remove_file(whole.path("x/again")).unwrap();
    fs::remove_file(whole.path("y/big")).unwrap();
    assert_eq!(std::os::unix::fs::FileExt::read_at(&open, &mut end, 10 << 20).unwrap(), 10);
    drop((open, dir));
}

#[test]
fn by_number_nothing_is_reached_either() {
    let (cluster, whole) = world(&[]);
    let number = |path: &str| fs::metadata(whole.path(path)).unwrap().ino();
    let (y, secret, d, f) = (number("y"), number("y/secret"), number("x/d"), number("x/d/f"));
    let hello = pb::MountHello { open_inodes: vec![secret, y], ..pb::MountHello::default() };
    let mut session = RawSession::open(&cluster, Some(&token(&cluster, "anna")), hello);
    let is_stale = |result: mount_reply::Result| match result {
        mount_reply::Result::Error(error) => {
            assert_eq!(error.code, pb::Code::Stale as i32, "{error:?}");
            assert!(error.message.contains("is gone"), "{error:?}");
            true
        }
        _ => false,
    };
    assert!(!is_stale(session.ask(Op::Getattr(pb::Getattr { inode: f }))));
    for inode in [y, secret] {
        assert!(is_stale(session.ask(Op::Getattr(pb::Getattr { inode }))));
        assert!(is_stale(session.ask(Op::Open(pb::Open { inode, access: 0 }))));
        assert!(is_stale(session.ask(Op::Layout(pb::Layout { inode, offset: 0, length: 10 }))));
    }
    let lookup = |parent: u64, name: &'static str| Op::Lookup(pb::Lookup { parent, name: name.into() });
    assert!(is_stale(session.ask(lookup(y, "secret"))));
    assert!(is_stale(session.ask(Op::Link(pb::Link { inode: secret, parent: d, name: "mine".into() }))));
    let mut rename = |parent: u64, name: &'static str, new_parent: u64| {
        let (name, new_name) = (name.into(), "gone".into());
        session.ask(Op::Rename(pb::Rename { parent, name, new_parent, new_name, ..pb::Rename::default() }))
    };
    assert!(is_stale(rename(y, "secret", d)) && is_stale(rename(d, "f", y)));
    let copy = pb::CopyRange { source: secret, target: f, length: 7, ..pb::CopyRange::default() };
    assert!(is_stale(session.ask(Op::CopyRange(copy))));
    // The directory itself: 1, and above it nothing.
    let mount_reply::Result::Attr(root) = session.ask(Op::Getattr(pb::Getattr { inode: 1 })) else {
        panic!()
    };
    assert_eq!(root.inode, 1);
    let list = Op::Readdir(pb::Readdir { inode: 1, after: Default::default(), limit: 0 });
    let mount_reply::Result::Entries(list) = session.ask(list) else { panic!() };
    assert_eq!((list.parent, list.entries.len()), (1, 1));
    assert!(matches!(session.ask(lookup(1, "..")), mount_reply::Result::Error(_)));
    assert_eq!(fs::read_to_string(whole.path("y/secret")).unwrap(), "berta's");
}

#[test]
fn no_name_from_outside_is_shown() {
    let (mut cluster, whole) = world(&["--http", "127.0.0.1:0"]);
    cluster.dfs(&["quota", "set", "/y", "--size", "1GiB"]).ok();
    cluster.dfs(&["quota", "set", "/x/d", "--size", "1GiB"]).ok();
    let file = login(&cluster, "anna");
    let file = file.to_str().unwrap();
    let as_anna = |args: &[&str]| cluster.dfs(&[&["--token-file", file], args].concat());
    let table = as_anna(&["lookup"]).ok().stdout;
    assert!(table.contains("/d/f") && !table.contains("/x/d") && !table.contains("secret"), "{table}");
    assert!(!as_anna(&["lookup", "/y"]).status.success());
    assert!(!as_anna(&["lookup", "/x"]).status.success());
    assert!(as_anna(&["lookup", "/d/f"]).ok().stdout.contains("/d/f"));
    let quotas = as_anna(&["quota", "list"]).ok().stdout;
    assert!(quotas.contains("/d") && !quotas.contains("/y") && !quotas.contains("/x"), "{quotas}");
    assert!(!as_anna(&["user", "ls"]).status.success());
    let at = address(&cluster.master);
    let token = token(&cluster, "anna");
    let get = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
        send(&at, &format!("{head}Authorization: Bearer {}\r\n\r\n", token.expose()))
    };
    let rows = get("/api/v1/lookup");
    assert!(rows.text().contains("\"/d/f\"") && !rows.text().contains("secret"), "{}", rows.text());
    // What is lost is named to whom it concerns.
    fs::write(whole.path("y/secret"), vec![1; 1000]).unwrap();
    for keeper in 0..2 {
        cluster.keeper(keeper).stop();
    }
    wait_until(secs(20), "the files are lost", || {
        let lost = cluster.json(&["status"])["lost_files"].as_array().unwrap().len();
        lost == 2
    });
    let status = cluster.dfs(&["--token-file", file, "--json", "status"]).ok().stdout;
    assert!(status.contains("\"/d/f\"") && !status.contains("secret") && !status.contains("/x"), "{status}");
    for path in ["/api/v1/status", "/api/v1/overview"] {
        let text = get(path);
        assert!(text.status == 200 && !text.text().contains("secret"), "{path}: {}", text.text());
    }
    for keeper in 0..2 {
        cluster.keeper(keeper).cont();
    }
}

#[test]
fn the_user_follows_the_directory_and_the_admins_word() {
    let (mut cluster, whole) = world(&[]);
    let anna = mount_of(&mut cluster, "anna", &[]);
    fs::rename(whole.path("x"), whole.path("y/moved")).unwrap();
    assert_eq!(fs::read_to_string(anna.path("d/f")).unwrap(), "anna's");
    let listed = cluster.dfs(&["user", "ls"]).ok().stdout;
    assert!(listed.contains("/y/moved"), "{listed}");
    // Another directory, while a file is open.
    fs::create_dir(whole.path("z")).unwrap();
    fs::write(whole.path("z/other"), "z").unwrap();
    let open = fs::File::open(anna.path("d/f")).unwrap();
    cluster.dfs(&["user", "grant", "anna", "--dir", "/z"]).ok();
    wait_until(secs(20), "the mount shows the other directory", || {
        fs::read_to_string(anna.path("other")).is_ok_and(|text| text == "z")
    });
    assert_eq!(names(anna.dir()), ["other"]);
    let mut byte = [0];
    assert!(std::os::unix::fs::FileExt::read_at(&open, &mut byte, 100).is_err());
    drop(open);
    cluster.dfs(&["user", "grant", "anna", "--no-dir"]).ok();
    wait_until(secs(20), "the mount shows everything", || anna.path("y/secret").exists());
    // Removed.
    cluster.dfs(&["user", "grant", "anna", "--dir", "/z"]).ok();
    wait_until(secs(20), "the mount shows the other directory", || anna.path("other").exists());
    fs::remove_dir_all(whole.path("z")).unwrap();
    wait_until(secs(20), "the mount stops", || {
        fs::read_dir(anna.dir()).is_err_and(|e| e.raw_os_error() == Some(Errno::ACCESS.raw_os_error()))
    });
    let point = cluster.scratch.path("mnt/again");
    fs::create_dir(&point).unwrap();
    let token = cluster.scratch.path("token-anna");
    let args =
        ["--master", cluster.address(), "--token-file", token.to_str().unwrap(), point.to_str().unwrap()];
    let ran = dfs_tests::run(cluster.scratch.command("dfs-mount").args(args), secs(60));
    ran.one_line_error("dfs-mount", &["the directory that user 'anna' is bound to is gone", "--dir"]);
    cluster.dfs(&["user", "grant", "anna", "--dir", "/y"]).ok();
    wait_until(secs(30), "it goes on", || anna.path("secret").exists());
}

#[test]
fn who_is_bound_and_may_only_read_does_only_that() {
    let (mut cluster, _whole) = world(&[]);
    add_user(&cluster, "reader", &["--role", "ro", "--dir", "/x/d"]);
    let reader = mount_of(&mut cluster, "reader", &[]);
    assert_eq!(fs::read_to_string(reader.path("f")).unwrap(), "anna's");
    refused(fs::write(reader.path("new"), "x"), Errno::ROFS);
    refused(fs::remove_file(reader.path("f")), Errno::ROFS);
    // An admin cannot be bound, nor be made one of who is.
    cluster.dfs(&["user", "grant", "reader", "admin"]).one_line_error("dfs", &["bound to a directory"]);
    cluster.dfs(&["user", "grant", "reader", "--dir", "/none"]).one_line_error("dfs", &["no 'none'"]);
}
