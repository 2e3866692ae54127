//! Programs that people use every day, on a mount.
//!
//! Covers: `sed -i`, `tar`, `rsync -a`, `git clone` of a local repository, `dd` with seek, `>>`, `find`, `du`, `mv`
//! between directories all work; copying with many processes at once.

use std::fs;
use std::path::Path;
use std::process::Command;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, Scratch, run};

fn mounted() -> (Cluster, Mount) {
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let mount = cluster.mount();
    (cluster, mount)
}

/// A small tree with files of many sizes, links and modes, and times to the nanosecond.
fn tree(scratch: &Scratch) -> std::path::PathBuf {
    let root = scratch.path("tree");
    let mut rng = Rng::new(6);
    for dir in ["a", "a/b", "c"] {
        fs::create_dir_all(root.join(dir)).unwrap();
        for i in 0..15u32 {
            let len = rng.below(1 << (i + 4)) as usize;
            fs::write(root.join(dir).join(format!("file {i}")), rng.bytes(len)).unwrap();
        }
    }
    let script = r#"
        cd "$1"
        ln -s ../a/b c/link; ln 'a/file 3' c/hard; mkfifo c/pipe
        chmod 700 a/b; chmod 4711 'a/file 2'
        n=100000000
        find . -depth | while read -r f; do n=$((n + 1)); touch -h -d "2001-02-03 04:05:06.$n" "$f"; done"#;
    sh(script, &[&root]);
    root
}

/// Same names, types, modes, owners, sizes, link counts, targets, times and bytes.
fn same_tree(a: &Path, b: &Path) {
    let facts = |dir: &Path| {
        let script = r#"cd "$1"
            find . -mindepth 1 -type d -printf '%P d %m %U:%G %T@\n' | sort
            find . -type l -printf '%P l %U:%G %l\n' | sort
            find . ! -type d ! -type l -printf '%P %y %m %U:%G %s %n %T@\n' | sort"#;
        sh(script, &[dir]).stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (of_a, of_b) = (facts(a), facts(b));
    let missing: Vec<_> = of_a.iter().filter(|line| !of_b.contains(line)).collect();
    let strange: Vec<_> = of_b.iter().filter(|line| !of_a.contains(line)).collect();
    assert!(missing.is_empty() && strange.is_empty(), "missing: {missing:#?}, strange: {strange:#?}");
    sh("diff -r --no-dereference -x pipe $1 $2", &[a, b]);
}

#[test]
fn sed_in_place_and_append_and_dd_with_seek() {
    let (_cluster, mount) = mounted();
    sh(
        r#"
        cd "$1"
        seq 1 20000 >numbers
        sed -i 's/^1/one/' numbers
        [ "$(sed -n 10p numbers)" = one0 ] && [ "$(wc -l <numbers)" = 20000 ]
        for i in 1 2 3 4 5 6 7 8 9; do echo "line $i" >>log; done
        [ "$(wc -l <log)" = 9 ] && [ "$(tail -n 1 log)" = 'line 9' ]
        cat log >>log2; cat log >>log2
        [ "$(wc -l <log2)" = 18 ]
        printf 'xxxxxxxxxx' | dd of=holes bs=1 seek=3000000 conv=notrunc status=none
        printf 'yy' | dd of=holes bs=1 seek=3000004 conv=notrunc status=none
        [ "$(stat -c %s holes)" = 3000010 ]
        [ "$(tail -c 10 holes)" = xxxxyyxxxx ]
        dd if=/dev/zero bs=3000000 count=1 status=none | cmp - holes 2>&1 | grep -q EOF
        dd if=holes bs=4096 skip=732 count=2 status=none | wc -c | grep -qx 1738
        "#,
        &[mount.dir()],
    );
}

#[test]
fn tar_in_and_out() {
    let (cluster, mount) = mounted();
    let tree = tree(&cluster.scratch);
    let (there, back) = (mount.path("tree"), cluster.scratch.path("back"));
    fs::create_dir(&there).unwrap();
    fs::create_dir(&back).unwrap();
    sh("tar --format=posix -C $1 -cf - . | tar -C $2 -xpf -", &[&tree, &there]);
    same_tree(&tree, &there);
    sh("tar --format=posix -C $2 -cf $2/../all.tar . && tar -C $1 -xpf $2/../all.tar", &[&back, &there]);
    same_tree(&tree, &back);
}

#[test]
fn rsync_twice_copies_nothing_the_second_time() {
    let (cluster, mount) = mounted();
    let tree = tree(&cluster.scratch);
    let there = mount.path("tree");
    let sync =
        |flags: &str| sh(&format!("rsync -aH --itemize-changes {flags} $1/ $2/"), &[&tree, &there]).stdout;
    assert!(sync("").lines().count() > 40);
    same_tree(&tree, &there);
    assert_eq!(sync(""), "", "the second run found something to copy");
    assert_eq!(sync("--checksum"), "", "bytes differ");
    fs::write(tree.join("c/file 9"), b"changed").unwrap();
    let changed = sync("");
    assert!(changed.lines().count() == 1 && changed.contains("c/file 9"), "{changed}");
    assert_eq!(fs::read(there.join("c/file 9")).unwrap(), b"changed");
}

#[test]
fn git_clones_and_commits() {
    let (cluster, mount) = mounted();
    let source = cluster.scratch.path("source");
    fs::create_dir(&source).unwrap();
    let script = r#"
        git() { command git -c user.name=a -c user.email=a@b -c init.defaultBranch=main -c safe.directory='*' "$@"; }
        cd "$1"; git init -q
        for i in 1 2 3 4 5; do seq $i 5000 >"file$i"; git add .; git commit -qm "change $i"; done
        git clone -q "$1" "$2"
        cd "$2"; git fsck --strict; [ "$(git rev-list --count HEAD)" = 5 ]
        [ -z "$(git status --porcelain)" ]
        echo more >>file1; mv file2 renamed; git add -A; git commit -qm more; git gc -q
        git fsck --strict; [ -z "$(git status --porcelain)" ]
        git clone -q "$2" "$3"; diff -r -x .git "$2" "$3"
    "#;
    let mut command = cluster.scratch.program("sh");
    command.args(["-euc", script, "sh"]).args([
        &source,
        &mount.path("clone"),
        &cluster.scratch.path("again"),
    ]);
    run(&mut command, secs(120)).ok();
}

#[test]
fn find_du_and_mv_between_directories() {
    let (_cluster, mount) = mounted();
    sh(
        r#"
        cd "$1"
        mkdir -p x/y/z w
        head -c 3000000 /dev/urandom >x/y/big; cp x/y/big kept
        : >x/empty
        [ "$(find . -type f | sort | tr '\n' ' ')" = './kept ./x/empty ./x/y/big ' ]
        [ "$(find . -size +2M -name b\*)" = ./x/y/big ]
        kib=$(du -sk . | cut -f 1); [ "$kib" -ge 5859 ] && [ "$kib" -le 6100 ]
        [ "$(du -sb x/y/big | cut -f 1)" = 3000000 ]
        mv x/y/big w/; mv x w/; mv w/big x2
        cmp x2 kept
        [ "$(find . | sort | tr '\n' ' ')" = '. ./kept ./w ./w/x ./w/x/empty ./w/x/y ./w/x/y/z ./x2 ' ]
        mv /proc/self/cmdline ./none 2>/dev/null && exit 1
        cp -a w "$1/copy"; diff -r w copy; rm -r w copy; [ ! -e w ]
        "#,
        &[mount.dir()],
    );
}

#[test]
fn a_file_from_outside_is_moved_in_and_out() {
    let (cluster, mount) = mounted();
    let bytes = Rng::new(9).bytes(5_000_000);
    let (outside, inside) = (cluster.scratch.path("file"), mount.path("file"));
    fs::write(&outside, &bytes).unwrap();
    sh("mv $1 $2; [ ! -e $1 ]", &[&outside, &inside]);
    assert!(fs::read(&inside).unwrap() == bytes);
    sh("mv $2 $1; [ ! -e $2 ]", &[&outside, &inside]);
    assert!(fs::read(&outside).unwrap() == bytes);
}

#[test]
fn many_processes_at_once() {
    let (cluster, mount) = mounted();
    let tree = tree(&cluster.scratch);
    let mut copies: Vec<_> = (0..6)
        .map(|i| Command::new("cp").arg("-a").arg(&tree).arg(mount.path(format!("copy{i}"))).spawn().unwrap())
        .collect();
    for copy in &mut copies {
        assert!(copy.wait().unwrap().success());
    }
    for i in 0..6 {
        same_tree(&tree, &mount.path(format!("copy{i}")));
    }
}

#[test]
fn a_program_is_run_and_mapped_from_the_mount() {
    let (_cluster, mount) = mounted();
    sh(
        r#"cp "$(command -v ls)" "$1/myls"; [ "$("$1/myls" "$1")" = myls ]; printf '#!/bin/sh\necho ran\n' >"$1/s"; chmod +x "$1/s"; [ "$("$1/s")" = ran ]"#,
        &[mount.dir()],
    );
}
