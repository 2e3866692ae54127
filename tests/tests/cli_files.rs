//! The commands of `dfs` for files within the cluster, against what a mount and the usual programs say of the same tree.
//!
//! Covers: `ls -l`, `tree`, `du`, `cat`, `find` (against find(1)), `info`, `mv`, `cp -r` (no new chunk), `rm -r`; directories of several pages;
//! their refusals; `--json` of each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, run, run_ok, wait_until};
use serde_json::Value;

/// More than one page of names.
const MANY: usize = 1_200;

#[test]
fn files_of_a_cluster_without_a_mount() {
    let mut cluster = Cluster::builder().chunk_size("64KiB").start();
    let mount = cluster.mount();
    nobody_waits_for_it(&cluster, &mount);
    make_tree(&mount);
    lists(&cluster);
    sums(&cluster);
    contents(&cluster, &mount);
    finds(&cluster, &mount);
    shows_chunks(&cluster);
    moves(&cluster, &mount);
    copies(&cluster, &mount);
    removes(&cluster, &mount);
    goes_deep(&cluster, &mount);
}

fn make_tree(mount: &Mount) {
    let script = r#"
        mkdir -p "$1"/t/sub/deep "$1"/t/many; cd "$1"/t
        printf hello >a.txt; head -c 5000 /dev/zero >sub/c.mp4; printf x >sub/deep/d.MP4; : >sub/.hidden
        ln -s a.txt link; ln a.txt sub/again; mkfifo sub/pipe
        chmod 640 a.txt; chmod 2750 sub; chown 12345:6 sub/c.mp4
        touch -d '2024-02-29 13:05:01.5 UTC' a.txt; touch -d '3 days ago' sub/c.mp4; touch -h -d '2020-01-01 UTC' link
        i=0; while [ $i -lt "$2" ]; do : >many/f$i; i=$((i+1)); done
    "#;
    dfs_tests::run::sh(script, &[mount.dir().to_str().unwrap(), &MANY.to_string()]);
    fs::write(mount.path("t/big.mp4"), Rng::new(1).bytes(200_000)).unwrap();
}

/// A long command has looked at directories, and says that it forgot them when somebody changes one.
fn nobody_waits_for_it(cluster: &Cluster, mount: &Mount) {
    let mut command = cluster.scratch.command("dfs");
    command.args(["--master", cluster.address(), "put", "-", "/held"]);
    let mut put = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    wait_until(secs(20), "it has begun", || fs::read_dir(mount.dir()).unwrap().count() == 1);
    let began = Instant::now();
    for n in 0..5 {
        fs::create_dir(mount.path(format!("d{n}"))).unwrap();
        fs::remove_dir(mount.path(format!("d{n}"))).unwrap();
    }
    assert!(began.elapsed() < secs(2), "changes took {:?}", began.elapsed());
    drop(put.stdin.take());
    assert!(put.wait().unwrap().success());
    fs::remove_file(mount.path("held")).unwrap();
}

fn lists(cluster: &Cluster) {
    let long = cluster.dfs(&["ls", "-l", "/t"]).ok().stdout;
    let words = |name: &str| -> Vec<&str> {
        let line =
            long.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no {name} in {long}"));
        line.split_whitespace().collect()
    };
    assert_eq!(words("a.txt"), ["-rw-r-----", "2", "root", "root", "5", "2024-02-29", "13:05", "a.txt"]);
    assert_eq!(words("link")[7..], ["link", "->", "a.txt"]);
    assert!(words("sub")[0].starts_with("drwxr-s---"));
    let below = cluster.dfs(&["ls", "-l", "/t/sub"]).ok().stdout;
    assert!(below.contains("12345"), "a number without a name: {below}");
    let short = cluster.dfs(&["ls", "/t"]).ok().stdout;
    assert!(!short.contains("root") && !short.contains("->"), "{short}");
    let rows = cluster.json(&["ls", "-l", "/t"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "link").unwrap();
    assert_eq!(
        (&row["type"], &row["target"], &row["user"]),
        (&"symlink".into(), &"a.txt".into(), &"root".into())
    );
    assert_eq!(cluster.json(&["ls", "/t/many"]).as_array().unwrap().len(), MANY, "of several pages");

    let drawn = cluster.dfs(&["tree", "/t/sub"]).ok().stdout;
    let wanted = "/t/sub\n├── .hidden\n├── again\n├── c.mp4\n├── deep\n│   └── d.MP4\n└── pipe\n\n1 directories, 5 files\n";
    assert_eq!(drawn, wanted);
    let rows = cluster.json(&["tree", "/t", "-L", "1"]);
    let paths: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/t", "/t/a.txt", "/t/big.mp4", "/t/link", "/t/many", "/t/sub"]);
    assert_eq!(rows[5]["depth"], 1);
    cluster.dfs(&["tree", "/none"]).one_line_error("dfs", &["tree /none"]);
}

fn sums(cluster: &Cluster) {
    let rows = cluster.json(&["du", "/t"]);
    let of = |path: &str| rows.as_array().unwrap().iter().find(|row| row["path"] == path).unwrap();
    // a.txt has a name in sub, too, and comes first: it counts once. The link is as long as what it says.
    assert_eq!(of("/t")["allocated"], 5 + 5000 + 1 + 200_000, "{rows:#}");
    assert_eq!(of("/t")["size"].as_u64().unwrap(), 5 + 5000 + 1 + 200_000 + "a.txt".len() as u64);
    assert_eq!(of("/t/sub")["allocated"], 5001);
    assert_eq!((&of("/t")["directories"], &of("/t/sub/deep")["files"]), (&4.into(), &1.into()));
    assert_eq!(cluster.dfs(&["du", "-s", "/t"]).ok().stdout, "201  /t\n");
    assert_eq!(cluster.dfs(&["du", "-sh", "/t"]).ok().stdout, "200 KiB  /t\n");
    assert_eq!(cluster.dfs(&["du", "/t/big.mp4"]).ok().stdout, "196  /t/big.mp4\n");
    assert!(cluster.dfs(&["du", "--help"]).ok().stdout.contains("--human"));
}

fn contents(cluster: &Cluster, mount: &Mount) {
    assert_eq!(cluster.dfs(&["cat", "/t/a.txt", "/t/sub/deep/d.MP4", "/t/link"]).ok().stdout, "helloxhello");
    let out = cluster.scratch.path("out");
    let mut sh = cluster.scratch.program("sh");
    sh.env("DFS_MASTER", cluster.address()).args(["-euc", "dfs cat /t/big.mp4 >\"$1\"", "sh"]).arg(&out);
    run(&mut sh, secs(30)).ok();
    assert!(fs::read(&out).unwrap() == fs::read(mount.path("t/big.mp4")).unwrap());
    cluster.dfs(&["cat", "/t"]).one_line_error("dfs", &["cat /t", "a directory"]);
}

/// The same flags, where they mean the same.
fn finds(cluster: &Cluster, mount: &Mount) {
    for flags in [
        &["-name", "*.mp4"][..],
        &["-iname", "*.mp4"],
        &["-name", "[!a-l]*", "-type", "d"],
        &["-type", "f", "-name", "f1?"],
        &["-type", "l"],
        &["-type", "p"],
        &["-mtime", "+2"],
        &["-mtime", "-1", "-type", "f", "-name", "*.MP4"],
        &["-mtime", "3"],
        &["-maxdepth", "1"],
        &["-maxdepth", "0"],
        &[],
    ] {
        let ours = cluster.dfs(&[&["find", "/t"], flags].concat()).ok().stdout;
        let ours: BTreeSet<&str> = ours.lines().collect();
        // find(1) wants the depth first.
        let (first, rest): (Vec<&str>, Vec<&str>) = if flags.first() == Some(&"-maxdepth") {
            (flags.to_vec(), vec![])
        } else {
            (vec![], flags.to_vec())
        };
        let top = mount.path("t").display().to_string();
        let theirs = run_ok(&[&["find", &top][..], &first, &rest].concat()).stdout;
        let theirs: BTreeSet<String> = theirs.lines().map(|line| line.replacen(&top, "/t", 1)).collect();
        assert!(ours == theirs.iter().map(String::as_str).collect(), "{flags:?}: {ours:?} {theirs:?}");
    }
    let large = cluster.json(&["find", "/t", "--size", "+4KiB"]);
    let paths: Vec<&str> =
        large.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/t/big.mp4", "/t/sub/c.mp4"]);
    assert_eq!(large[0]["size"], 200_000);
    assert_eq!(cluster.dfs(&["find", "/t", "-type", "q"]).status.code(), Some(2));
}

fn shows_chunks(cluster: &Cluster) {
    cluster.wait_copies("/t/big.mp4", 3, secs(15));
    let info = cluster.json(&["info", "/t/big.mp4"]);
    let chunks = info["chunks"].as_array().unwrap();
    let ids: Vec<&str> = chunks.iter().map(|chunk| chunk["chunk"].as_str().unwrap()).collect();
    let known: Vec<String> = cluster.live_copies("/t/big.mp4").into_iter().map(|(chunk, _)| chunk).collect();
    assert_eq!(ids, known);
    assert!(chunks.len() >= 4 && chunks.iter().all(|chunk| chunk["copies"].as_array().unwrap().len() == 3));
    let total: u64 = chunks.iter().map(|chunk| chunk["length"].as_u64().unwrap()).sum();
    assert_eq!((total, &info["size"]), (200_000, &200_000.into()));
    assert_eq!(chunks[0]["checksum"].as_str().unwrap().len(), 8);
    assert_ne!(chunks[0]["checksum"], chunks[1]["checksum"]);
    assert_eq!(chunks[0]["copies"][0]["state"], "live");
    let text = cluster.dfs(&["info", "/t/big.mp4"]).ok().stdout;
    assert!(text.contains(ids[0]) && text.contains(" live"), "{text}");
    assert_eq!(cluster.json(&["info", "/t/link"])["target"], "a.txt");
    assert_eq!(cluster.json(&["info", "/t"])["type"], "directory");
}

fn moves(cluster: &Cluster, mount: &Mount) {
    let there = |name: &str| mount.path("m").join(name).symlink_metadata().is_ok();
    fs::create_dir_all(mount.path("m/dir")).unwrap();
    for name in ["one", "two", "three"] {
        fs::write(mount.path("m").join(name), name).unwrap();
    }
    cluster.dfs(&["mv", "/m/one", "/m/uno"]).ok();
    assert!(!there("one") && there("uno"));
    assert_eq!(cluster.json(&["mv", "/m/uno", "/m/two", "/m/dir"])["moved"], 2);
    assert!(there("dir/uno") && there("dir/two"));
    cluster
        .dfs(&["mv", "-n", "/m/three", "/m/dir/two"])
        .one_line_error("dfs", &["/m/dir/two", "another name"]);
    assert_eq!(fs::read(mount.path("m/dir/two")).unwrap(), b"two");
    cluster.dfs(&["mv", "/m/three", "/m/dir/two"]).ok();
    assert_eq!(fs::read(mount.path("m/dir/two")).unwrap(), b"three");
    cluster.dfs(&["mv", "/m/dir", "/m/dir/below"]).one_line_error("dfs", &["/m/dir/below"]);
    cluster.dfs(&["mv", "/m/x", "/m/y", "/m/nowhere"]).one_line_error("dfs", &["/m/nowhere"]);
    cluster.dfs(&["mv", "/", "/m"]).one_line_error("dfs", &["root"]);
}

fn stamps(top: &Path) -> String {
    let list = r#"cd "$1"; find . -path ./many -prune -o -printf '%p %y %m %T@ %l %U:%G\n' | sort"#;
    dfs_tests::run::sh(list, &[top]).stdout
}

fn copies(cluster: &Cluster, mount: &Mount) {
    let chunks = cluster.status("chunks");
    let copied = cluster.json(&["cp", "-r", "/t", "/copy"]);
    assert_eq!(copied["files"].as_u64().unwrap(), MANY as u64 + 8, "{copied}");
    assert_eq!(cluster.status("chunks"), chunks, "bytes were moved");
    run_ok(&[
        "diff",
        "-r",
        "--exclude=pipe",
        mount.path("t").to_str().unwrap(),
        mount.path("copy").to_str().unwrap(),
    ]);
    assert_eq!(stamps(&mount.path("t")), stamps(&mount.path("copy")));
    // Each lives on by itself.
    fs::write(mount.path("copy/big.mp4"), b"other").unwrap();
    assert_eq!(fs::metadata(mount.path("t/big.mp4")).unwrap().len(), 200_000);
    cluster.dfs(&["cp", "/t/big.mp4", "/t/a.txt", "/copy"]).ok();
    assert!(fs::read(mount.path("copy/big.mp4")).unwrap() == fs::read(mount.path("t/big.mp4")).unwrap());
    // A hole at the end is a part of the file.
    let sparse = fs::File::create(mount.path("t/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    cluster.dfs(&["cp", "/t/sparse", "/copy/sparse"]).ok();
    assert_eq!(fs::metadata(mount.path("copy/sparse")).unwrap().len(), 1 << 30);
    cluster.dfs(&["cp", "/t", "/x"]).one_line_error("dfs", &["cp /t", "cp -r"]);
    cluster.dfs(&["cp", "-r", "/t", "/t/sub/x"]).one_line_error("dfs", &["into itself"]);
    cluster.dfs(&["cp", "/t/a.txt", "/t"]).one_line_error("dfs", &["same file"]);
    cluster.dfs(&["cp", "/t/none", "/x"]).one_line_error("dfs", &["/t/none"]);
}

fn removes(cluster: &Cluster, mount: &Mount) {
    cluster.dfs(&["rm", "/copy"]).one_line_error("dfs", &["rm -r"]);
    cluster.dfs(&["rm", "-r", "/"]).one_line_error("dfs", &["root"]);
    cluster.dfs(&["rm", "-f", "/none"]).ok();
    cluster.dfs(&["rm", "/none"]).one_line_error("dfs", &["/none"]);
    // What links lead to stays.
    let removed = cluster.json(&["rm", "-r", "/copy", "/m", "/t/link"]);
    assert_eq!(removed["directories"].as_u64().unwrap(), 4 + 2, "{removed}");
    assert_eq!(removed["files"].as_u64().unwrap(), MANY as u64 + 8 + 1 + 2 + 1, "{removed}");
    let left: Value = cluster.json(&["find", "/", "-maxdepth", "1"]);
    assert_eq!(left.as_array().unwrap().len(), 2, "{left:#}");
    wait_until(secs(10), "the mount sees it", || {
        !mount.path("copy").exists() && mount.path("t/a.txt").exists()
    });
}

/// Deeper than there are directories of which a page is kept.
fn goes_deep(cluster: &Cluster, mount: &Mount) {
    let script = r#"cd "$1"; i=0; while [ $i -lt 80 ]; do mkdir -p deep/m; cd deep; : >a; : >z; cd m; i=$((i+1)); done"#;
    dfs_tests::run::sh(script, &[mount.dir()]);
    let ours = cluster.dfs(&["find", "/deep"]).ok().stdout;
    let top = mount.path("deep").display().to_string();
    let theirs = run_ok(&["find", &top]).stdout.replace(&top, "/deep");
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&ours), sorted(&theirs));
    assert_eq!(ours.lines().count(), 4 * 80);
    let removed = cluster.json(&["rm", "-r", "/deep"]);
    assert_eq!((&removed["files"], &removed["directories"]), (&160.into(), &160.into()));
}
