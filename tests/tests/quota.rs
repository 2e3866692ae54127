//! Quotas of directories: `dfs quota`, and EDQUOT on mounts.
//!
//! Covers: too many bytes, and too many files, below a directory give EDQUOT, at once and on every mount; what is there never
//! exceeds the limit; what is removed makes room; a quota outlives the master; what it counts is what du counts; df shows
//! it; a directory is moved across its border by copying; the commands, their JSON and their errors.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, run};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;

fn cluster() -> Cluster {
    Cluster::builder().chunk_size("1MiB").start()
}

/// Writes and closes as a careful program does.
fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[track_caller]
fn refused(result: io::Result<()>) {
    assert_eq!(result.map_err(|error| error.raw_os_error()), Err(Some(Errno::DQUOT.raw_os_error())));
}

fn number(cluster: &Cluster, path: &str, field: &str) -> u64 {
    cluster.json(&["quota", "get", path])[0][field].as_u64().unwrap()
}

#[test]
fn more_bytes_than_allowed_are_refused_on_every_mount_and_after_a_restart() {
    let mut cluster = cluster();
    let (one, two) = (cluster.mount(), cluster.mount());
    fs::create_dir_all(one.path("home/sub")).unwrap();
    cluster.dfs(&["quota", "set", "/home", "--size", "4MiB"]).ok();
    let bytes = Rng::new(1).bytes(16 << 20);
    let begun = Instant::now();
    refused(store(&one.path("home/big"), &bytes));
    assert!(begun.elapsed() < secs(10), "it is no error to try again for long: {:?}", begun.elapsed());
    assert!(number(&cluster, "/home", "used_bytes") <= 4 * MIB);
    // Others get no more than is left, whoever was first.
    fs::remove_file(one.path("home/big")).unwrap();
    let stored: Vec<bool> = std::thread::scope(|scope| {
        let writers = [one.path("home/a"), two.path("home/sub/b")].map(|path| {
            scope.spawn({
                let bytes = &bytes;
                move || store(&path, &bytes[..3 << 20]).is_ok()
            })
        });
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert!(stored.iter().filter(|stored| **stored).count() <= 1, "6 MiB are stored below a quota of 4");
    assert!(number(&cluster, "/home", "used_bytes") <= 4 * MIB);
    sh("rm -f $1/a $1/sub/b", &[&one.path("home")]);
    assert_eq!(number(&cluster, "/home", "used_bytes"), 0);

    store(&two.path("home/fits"), &bytes[..3 << 20]).unwrap();
    cluster.master.kill();
    cluster.restart_master();
    assert_eq!(number(&cluster, "/home", "used_bytes"), 3 * MIB);
    refused(store(&one.path("home/more"), &bytes[..2 << 20]));
    fs::remove_file(two.path("home/fits")).unwrap();
    store(&one.path("home/more"), &bytes[..2 << 20]).unwrap();
    assert!(fs::read(two.path("home/more")).unwrap() == bytes[..2 << 20]);
    store(&one.path("outside"), &bytes).unwrap();
}

#[test]
fn programs_are_told_and_a_copy_without_bytes_counts_too() {
    let mut cluster = cluster();
    let mount = cluster.mount();
    fs::create_dir(mount.path("q")).unwrap();
    fs::write(mount.path("film"), Rng::new(2).bytes(3 << 20)).unwrap();
    cluster.dfs(&["quota", "set", "/q", "--size", "5MiB"]).ok();
    let script = r#"
        cd "$1"
        fails() { if LC_ALL=C "$@" 2>../told; then echo "$* did not fail"; exit 7; fi; grep -q 'quota exceeded' ../told || { cat ../told; exit 8; }; }
        fails dd if=/dev/zero of=q/zeros bs=65536 count=200 conv=fsync
        [ "$(stat -c %s q/zeros)" -le 5242880 ]; rm q/zeros
        cp film q/one
        fails cp film q/two; rm -f q/two
        fails mv film q/two; [ -e film ]
        truncate -s 1G q/sparse; fallocate -l 2G q/sparse
        [ "$(stat -f -c %b q)" = 1280 ] && [ "$(stat -f -c %a q)" = 512 ]
        [ "$(stat -f -c %b .)" -gt 1280 ]
        [ "$(du -s -B 1 q | cut -f 1)" = 3145728 ]
    "#;
    let mut command = cluster.scratch.program("sh");
    run(command.args(["-euc", script, "sh"]).arg(mount.dir()), secs(60)).ok();
    assert_eq!(number(&cluster, "/q", "used_bytes"), 3 * MIB);
    assert_eq!(number(&cluster, "/q", "used_files"), 2);
}

#[test]
fn more_files_than_allowed_are_refused_and_a_directory_is_moved_by_copying() {
    let mut cluster = cluster();
    let mount = cluster.mount();
    fs::create_dir_all(mount.path("q/sub")).unwrap();
    fs::write(mount.path("film"), b"film").unwrap();
    cluster.dfs(&["quota", "set", "/q", "--files", "3"]).ok();
    fs::write(mount.path("q/sub/file"), b"1").unwrap();
    symlink("file", mount.path("q/link")).unwrap();
    refused(store(&mount.path("q/new"), b""));
    refused(fs::create_dir(mount.path("q/new")));
    refused(symlink("file", mount.path("q/sub/new")));
    refused(fs::hard_link(mount.path("film"), mount.path("q/new")));
    refused(fs::rename(mount.path("film"), mount.path("q/new")));
    fs::hard_link(mount.path("q/sub/file"), mount.path("q/sub/again")).unwrap();
    let crossed = fs::rename(mount.path("q/sub"), mount.path("sub")).unwrap_err();
    assert_eq!(crossed.raw_os_error(), Some(Errno::XDEV.raw_os_error()));
    sh("mv $1/q/sub $1/sub; [ -e $1/sub/again ]; [ ! -e $1/q/sub ]", &[mount.dir()]);
    assert_eq!(number(&cluster, "/q", "used_files"), 1);
    fs::create_dir(mount.path("q/new")).unwrap();
    fs::rename(mount.path("film"), mount.path("q/film")).unwrap();
    refused(store(&mount.path("q/newer"), b""));
    fs::rename(mount.path("q/film"), mount.path("film")).unwrap();
    fs::write(mount.path("q/newer"), b"").unwrap();
}

#[test]
fn the_commands_show_set_and_clear_and_name_what_is_wrong() {
    let mut cluster = cluster();
    let mount = cluster.mount();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::write(mount.path("a/b/file"), vec![1; 5000]).unwrap();
    assert_eq!(cluster.json(&["quota", "list"]).as_array().unwrap().len(), 0);
    cluster.dfs(&["quota", "get", "/a"]).one_line_error("dfs", &["/a", "no quota"]);
    cluster.dfs(&["quota", "set", "/a", "--size", "1GiB"]).ok();
    cluster.dfs(&["quota", "set", "/a", "--files", "100"]).ok();
    cluster.dfs(&["quota", "set", "/a/b", "--size", "8KiB", "--files", "7"]).ok();
    let rows = cluster.json(&["quota", "list"]);
    let expected = serde_json::json!([
        {"path": "/a", "max_bytes": 1u64 << 30, "used_bytes": 5120, "max_files": 100, "used_files": 2},
        {"path": "/a/b", "max_bytes": 8192, "used_bytes": 5120, "max_files": 7, "used_files": 1},
    ]);
    assert_eq!(rows, expected);
    let table = cluster.dfs(&["quota", "list"]).ok().stdout;
    assert!(table.contains("/a/b") && table.contains("8.00 KiB") && table.contains("5.00 KiB"), "{table}");
    cluster.dfs(&["quota", "clear", "/a"]).ok();
    cluster.dfs(&["quota", "clear", "/a"]).one_line_error("dfs", &["/a", "no quota"]);
    assert_eq!(cluster.json(&["quota", "list"])[0]["path"], "/a/b");
    let row = &cluster.json(&["quota", "get", "/a/b"])[0];
    assert_eq!((&row["max_files"], &row["used_files"]), (&7.into(), &1.into()));
    cluster.dfs(&["quota", "set", "/none", "--files", "1"]).one_line_error("dfs", &["/none", "no such"]);
    cluster.dfs(&["quota", "set", "/a/b/file", "--files", "1"]).one_line_error("dfs", &["/a/b/file"]);
    cluster.dfs(&["quota", "clear", ""]).one_line_error("dfs", &["empty"]);
    let wrong = cluster.dfs(&["quota", "set", "/a"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:#?}");
    let wrong = cluster.dfs(&["quota", "set", "/a", "--size", "much"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:#?}");
}
