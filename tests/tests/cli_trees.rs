//! Trees in and out of a cluster: `dfs put -r` and `dfs get -r`.
//!
//! Covers: content, modes, times, owners, links and nodes in both directions; whole files that are there are left out, by size and time or by
//! content; ^C in the middle leaves with 130 and nothing half-done under its name, and the same command goes on; a long file that was broken
//! off is continued and not begun anew, in both directions; what cannot be moved is named and the rest is moved; two gets never write to one part.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, film, wait_for, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

#[test]
fn trees_go_in_and_out() {
    let mut cluster = Cluster::builder().chunk_size("64KiB").start();
    let mount = cluster.mount();
    let local = cluster.scratch.path("local");
    make_tree(&local);
    round_trip(&cluster, &mount, &local);
    what_is_there_is_left_out(&cluster, &mount, &local);
    what_fails_is_named(&cluster, &local);
    a_put_that_is_broken_off_goes_on(&cluster, &mount);
    a_long_file_is_continued(&cluster, &mount);
    a_long_get_is_continued(&cluster, &mount);
}

fn make_tree(local: &Path) {
    let script = r#"
        mkdir -p "$1/sub/deep" "$1/empty"; cd "$1"
        i=0; while [ $i -lt 40 ]; do echo $i >sub/f$i; i=$((i+1)); done
        head -c 300000 /dev/urandom >big; : >nothing; printf x >sub/deep/.x
        ln -s big link; ln -s nowhere dangling; mkfifo pipe
        chmod 600 big; chmod 4755 sub/f1; chmod 500 empty; chown 12345:6 sub/f2
        touch -d '2001-02-03 04:05:06.789 UTC' big sub/f1; touch -h -d '2002-01-01 UTC' link
        touch -d '2003-01-01 UTC' sub/deep sub empty .
    "#;
    sh(script, &[local]);
}

/// Names, kinds, modes, times, targets, owners.
fn stamps(top: &Path) -> String {
    sh(
        r#"cd "$1"; find . -printf '%p %y %m %T@ %l %U:%G %s\n' | sed 's/^\(.* d .*\) [0-9]*$/\1/' | sort"#,
        &[top],
    )
    .stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn figures(value: &Value) -> [u64; 4] {
    ["files", "bytes", "files_there", "bytes_there"].map(|name| value[name].as_u64().unwrap())
}

/// What is in f0 to f39.
const SMALL: u64 = 10 * 2 + 30 * 3;

fn round_trip(cluster: &Cluster, mount: &Mount, local: &Path) {
    let put = cluster.json(&["put", "-r", text(local), "/copy"]);
    assert_eq!(figures(&put), [43, 300_001 + SMALL, 0, 0], "{put}");
    assert_eq!((&put["directories"], &put["others"]), (&4.into(), &3.into()));
    sh(r#"diff -r --no-dereference --exclude=pipe "$1" "$2""#, &[local, &mount.path("copy")]);
    assert_eq!(stamps(local), stamps(&mount.path("copy")));
    let back = cluster.scratch.path("back");
    let get = cluster.json(&["get", "-r", "/copy", text(&back)]);
    assert_eq!(figures(&get), figures(&put));
    sh(r#"diff -r --no-dereference --exclude=pipe "$1" "$2""#, &[local, &back]);
    assert_eq!(stamps(local), stamps(&back));
    // With a slash at its end, it is the place.
    cluster.dfs(&["put", "-r", text(local), "/copy/sub/"]).ok();
    assert_eq!(stamps(local), stamps(&mount.path("copy/sub/local")));
    cluster.dfs(&["rm", "-r", "/copy/sub/local"]).ok();
    let quiet = cluster.dfs(&["put", "-r", text(local), "/copy"]).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    for args in [["put", "-r", text(&local.join("big"))], ["get", "-r", "/copy/big"]] {
        cluster.dfs(&args).one_line_error("dfs", &["no directory"]);
    }
}

fn what_is_there_is_left_out(cluster: &Cluster, mount: &Mount, local: &Path) {
    let back = cluster.scratch.path("back");
    let put =
        |flags: &[&str]| figures(&cluster.json(&[&["put", "-r", text(local), "/copy"], flags].concat()));
    let get =
        |flags: &[&str]| figures(&cluster.json(&[&["get", "-r", "/copy", text(&back)], flags].concat()));
    assert_eq!(put(&[]), [0, 0, 43, 300_001 + SMALL]);
    // Other bytes of the same length and time are not seen, and seen with --checksum.
    let bytes = Rng::new(8).bytes(300_000);
    sh(r#"head -c 300000 /dev/urandom >"$1/big"; touch -d '2001-02-03 04:05:06.789 UTC' "$1/big""#, &[local]);
    assert_eq!(put(&[])[0], 0);
    assert_eq!(put(&["--checksum"]), [1, 300_000, 42, 1 + SMALL]);
    film::same(&local.join("big"), &mount.path("copy/big"));
    assert_eq!(get(&[])[0], 0);
    assert_eq!(get(&["--checksum"]), [1, 300_000, 42, 1 + SMALL]);
    film::same(&local.join("big"), &back.join("big"));
    // The same bytes at another time are moved, and with --checksum get the time alone.
    sh(r#"touch -d '2011-01-01 UTC' "$1/big""#, &[local]);
    assert_eq!(put(&["--checksum"])[0], 0);
    assert_eq!(stamps(local), stamps(&mount.path("copy")));
    assert_eq!(put(&[])[0], 0);
    assert_eq!(get(&[])[0], 1);
    fs::write(local.join("big"), bytes).unwrap();
    assert_eq!(put(&[])[0], 1);
    assert_eq!(get(&[])[0], 1);
    film::same(&local.join("big"), &back.join("big"));
    // A link that leads elsewhere now.
    sh(r#"ln -sfn sub "$1/link""#, &[local]);
    assert_eq!(put(&[])[0], 0);
    assert_eq!(get(&[])[0], 0);
    assert_eq!(fs::read_link(back.join("link")).unwrap(), Path::new("sub"));
}

fn what_fails_is_named(cluster: &Cluster, local: &Path) {
    // A file where a directory has to be, twice.
    cluster.dfs(&["rm", "-r", "/copy/sub/deep", "/copy/empty"]).ok();
    cluster.dfs(&["put", text(&local.join("nothing")), "/copy/empty"]).ok();
    fs::write(local.join("sub/new"), b"new").unwrap();
    let put = cluster.dfs(&["put", "-r", text(local), "/copy"]);
    put.one_line_error("dfs", &["/copy/empty", "no directory"]);
    assert_eq!(put.status.code(), Some(1));
    assert_eq!(
        cluster.dfs(&["cat", "/copy/sub/new", "/copy/sub/deep/.x"]).ok().stdout,
        "newx",
        "the rest is there"
    );
    // A local directory that is a link is not gone through.
    let trap = cluster.scratch.path("trap");
    fs::create_dir_all(trap.join("outside")).unwrap();
    fs::create_dir(trap.join("in")).unwrap();
    std::os::unix::fs::symlink(trap.join("outside"), trap.join("in/sub")).unwrap();
    cluster
        .dfs(&["get", "-r", "/copy", text(&trap.join("in"))])
        .one_line_error("dfs", &["in/sub", "something else"]);
    assert_eq!(fs::read_dir(trap.join("outside")).unwrap().count(), 0);
    assert!(trap.join("in/big").exists());
}

/// Starts `dfs ARGS` and has it end by a signal when `is_time`. Its exit code and what it said.
fn interrupted(cluster: &Cluster, args: &[&str], mut is_time: impl FnMut() -> bool) -> (Option<i32>, String) {
    let mut command = cluster.scratch.command("dfs");
    command.args(["--master", cluster.address()]).args(args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(secs(30), "it is in the middle", || {
        assert!(child.try_wait().unwrap().is_none(), "{args:?} ended before it was interrupted");
        is_time()
    });
    rustix::process::kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = wait_for(secs(20), "it ends", || child.try_wait().unwrap());
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
    (status.code(), told)
}

fn hidden(top: &Path) -> String {
    sh(r#"find "$1" -name '.*.dfs-p*' -o -name '*.part'"#, &[top]).stdout
}

fn a_put_that_is_broken_off_goes_on(cluster: &Cluster, mount: &Mount) {
    let many = cluster.scratch.path("many");
    sh(
        r#"mkdir "$1"; i=0; while [ $i -lt 800 ]; do head -c 20000 /dev/zero >"$1/f$i"; i=$((i+1)); done"#,
        &[&many],
    );
    let arrived = || fs::read_dir(mount.path("many")).map_or(0, Iterator::count);
    let (code, told) = interrupted(cluster, &["put", "-r", text(&many), "/many"], || arrived() > 50);
    assert_eq!(code, Some(130), "{told}");
    assert!(told.starts_with("dfs: interrupted") && told.lines().count() == 1, "{told}");
    assert_eq!(hidden(&mount.path("many")), "", "half-done files are left");
    let sizes = sh(r#"find "$1" -type f ! -size 20000c"#, &[mount.path("many")]).stdout;
    assert_eq!(sizes, "", "half-done files have their names");
    let before = arrived() as u64;
    let again = figures(&cluster.json(&["put", "-r", text(&many), "/many"]));
    assert_eq!(again, [800 - before, (800 - before) * 20_000, before, before * 20_000]);
    sh(r#"diff -r "$1" "$2""#, &[&many, &mount.path("many")]);
}

/// Long enough to be in the middle of it, in chunks of 64 KiB.
const LONG: usize = 48 << 20;

fn a_long_file_is_continued(cluster: &Cluster, mount: &Mount) {
    let dir = cluster.scratch.path("long");
    fs::create_dir(&dir).unwrap();
    let bytes = Rng::new(5).bytes(LONG);
    fs::write(dir.join("film"), &bytes).unwrap();
    let stored = |at_least: u64| {
        let there = cluster.json(&["find", "/long", "-type", "f"]);
        there.as_array().unwrap().iter().any(|row| row["size"].as_u64().unwrap() >= at_least)
    };
    cluster.dfs(&["put", "-r", text(&cluster.scratch.path("local/empty")), "/long"]).ok();
    let (code, told) = interrupted(cluster, &["put", "-r", text(&dir), "/long"], || stored(1 << 20));
    assert_eq!(code, Some(130), "{told}");
    assert!(!mount.path("long/film").exists(), "half of it has its name");
    // Changed in the middle of what is there: what comes before it counts.
    let mut changed = bytes.clone();
    changed[700_000] ^= 1;
    fs::write(dir.join("film"), &changed).unwrap();
    let put = figures(&cluster.json(&["put", "-r", text(&dir), "/long"]));
    assert_eq!((put[0], put[1] + put[3]), (1, LONG as u64));
    assert!((64 << 10..=700_000).contains(&put[3]), "{} bytes of it were left out", put[3]);
    assert!(fs::read(mount.path("long/film")).unwrap() == changed);
    assert_eq!(hidden(&mount.path("long")), "");
}

fn a_long_get_is_continued(cluster: &Cluster, mount: &Mount) {
    let to = cluster.scratch.path("got");
    let part = to.join("film.part");
    let length = || part.metadata().map_or(0, |meta| meta.len());
    let (code, told) = interrupted(cluster, &["get", "-r", "/long", text(&to)], || length() > 1 << 20);
    assert_eq!(code, Some(130), "{told}");
    assert!(!to.join("film").exists() && length() > 1 << 20);
    // A byte that is not as in the cluster: what comes before it counts.
    let mut bytes = fs::read(&part).unwrap();
    bytes[900_000] ^= 1;
    fs::write(&part, bytes).unwrap();
    // Somebody else is at it.
    let other = fs::File::open(&part).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let get = cluster.dfs(&["get", "-r", "/long", text(&to)]);
    get.one_line_error("dfs", &["film.part", "another program"]);
    drop(other);
    let got = figures(&cluster.json(&["get", "-r", "/long", text(&to)]));
    assert_eq!((got[0], got[1] + got[3]), (1, LONG as u64));
    assert!((64 << 10..=900_000).contains(&got[3]), "{} bytes of it were left out", got[3]);
    film::same(&mount.path("long/film"), &to.join("film"));
    assert_eq!(hidden(&to), "");
    assert_eq!(fs::metadata(to.join("film")).unwrap().permissions().mode() & 0o7777, 0o644);
}
