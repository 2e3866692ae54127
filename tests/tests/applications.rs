//! Large programs with habits of their own, on a mount.
//!
//! Covers: SQLite with a rollback journal and with WAL, two writers at once, on two mounts too, and its own check afterwards;
//! an archive of every file type out and in again; rsync -aHAX with links and extended attributes; zip and unzip; ffmpeg that
//! moves the index of an mp4 to its front in place; saving as vim does; cargo builds and tests a project, and finds out what
//! has changed; git clones, collects and checks a long history. DFS_TEST_SQLITE, DFS_TEST_FILES and DFS_TEST_COMMITS are numbers
//! for the long forms.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use dfs_tests::amount::amount;
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, film, require_root, run};

fn mounted() -> (Cluster, Mount) {
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let mount = cluster.mount();
    (cluster, mount)
}

/// Two processes add rows, each row a transaction of its own; then another process looks at the whole.
fn sqlite(journal: &str) {
    let (cluster, mount) = mounted();
    let each = amount("DFS_TEST_SQLITE", 200) / 2;
    let script = r#"
        cd "$1"
        [ "$(sqlite3 db "PRAGMA journal_mode=$2; CREATE TABLE t(who, n INTEGER, text);")" = "$2" ]
        add() {
            { echo '.timeout 60000'; for n in $(seq "$2"); do echo "INSERT INTO t VALUES('$1', $n, hex(randomblob(300)));"; done; } |
                sqlite3 -bail db
        }
        add a "$3" & first=$!
        add b "$3"
        wait "$first"
        [ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ]
        [ "$(sqlite3 db 'SELECT count(*), count(DISTINCT who || n), min(length(text)) FROM t')" = "$(($3 * 2))|$(($3 * 2))|600" ]
        sqlite3 db "DELETE FROM t WHERE n % 2; VACUUM;"
        [ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ]
    "#;
    let mut command = cluster.scratch.program("sh");
    command.args(["-euc", script, "sh"]).arg(mount.dir()).args([journal, &each.to_string()]);
    run(&mut command, secs(60) + Duration::from_millis(each * 400)).ok();
}

#[test]
fn sqlite_on_two_mounts_at_once() {
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let (one, two) = (cluster.mount(), cluster.mount());
    let each = amount("DFS_TEST_SQLITE", 80) / 2;
    // SQLite asks for a lock again and again, and whoever has it is the quicker one: with many transactions the other one
    // waits for half a minute on a local disk, too.
    let script = r#"
        sqlite3 "$1/db" "CREATE TABLE t(who, n INTEGER, text);"
        add() {
            { echo '.timeout 600000'; for n in $(seq "$3"); do echo "INSERT INTO t VALUES('$2', $n, hex(randomblob(300)));"; done; } |
                sqlite3 -bail "$1/db"
        }
        add "$1" a "$3" & first=$!
        add "$2" b "$3"
        wait "$first"
        for mount in "$1" "$2"; do
            [ "$(sqlite3 "$mount/db" 'PRAGMA integrity_check')" = ok ]
            [ "$(sqlite3 "$mount/db" 'SELECT count(*), count(DISTINCT who || n) FROM t')" = "$(($3 * 2))|$(($3 * 2))" ]
        done
    "#;
    let mut command = cluster.scratch.program("sh");
    command.args(["-euc", script, "sh"]).args([one.dir(), two.dir()]).arg(each.to_string());
    run(&mut command, secs(60) + Duration::from_millis(each * 400)).ok();
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite("delete");
}

#[test]
fn sqlite_with_wal() {
    sqlite("wal");
}

/// A tree of all that a directory can hold, with extended attributes.
const TREE: &str = r#"
    mkdir "$1/tree"; cd "$1/tree"
    for d in $(seq 0 9); do
        mkdir "d$d"
        for i in $(seq "$(($2 / 10))"); do echo "file $d $i" >"d$d/f$i"; done
    done
    ln -s f1 d0/link; ln -s "$(printf '%0900d' 7)" d0/long; ln d1/f1 d2/hard
    mkfifo d3/pipe; mknod d3/zero c 1 5; mknod d3/disk b 7 200
    truncate -s 5000000 d4/sparse; echo end >>d4/sparse; : >d4/empty; mkdir d5/none
    chown daemon:nogroup d6/f1; chmod 6755 d6/f2; chmod 1777 d7
    setfattr -n user.colour -v blue d8/f1; setfattr -n user.dir -v yes d8
    find . -depth -exec touch -h -d '2001-02-03 04:05:06.123456789' {} +
"#;

/// Defines `facts DIR`: a line for everything in it, and the extended attributes.
const FACTS: &str = r#"
    facts() { (
        cd "$1"
        find . -type d -printf '%P %m %U:%G %T@\n' | sort
        find . ! -type d -printf '%P %y %m %U:%G %s %n %T@ %l\n' | sort
        find . -type b -exec stat -c '%n %t:%T' {} + ; find . -type c -exec stat -c '%n %t:%T' {} +
        find . -type f -exec md5sum {} + | sort
        getfattr -Rd . | grep -v '^$'
    ) }
"#;

#[test]
fn an_archive_of_every_file_type_comes_out_as_it_went_in() {
    require_root();
    let (cluster, mount) = mounted();
    let files = amount("DFS_TEST_FILES", 1000).to_string();
    let script = format!(
        r#"{TREE}{FACTS}
        tar --format=posix --xattrs --sparse -C "$1/tree" -cf "$3/all.tar" .
        mkdir "$3/out"
        tar --xattrs --xattrs-include='*' --same-owner -xpf "$3/all.tar" -C "$3/out"
        facts "$1/tree" >"$1/want"; facts "$3/out" >"$1/got"; diff "$1/want" "$1/got"
        tar --format=posix --xattrs --sparse -C "$3/out" -cf "$1/again.tar" .
        tar --xattrs --compare -f "$1/again.tar" -C "$1/tree"
    "#
    );
    let mut command = cluster.scratch.program("sh");
    command.args(["-euc", &script, "sh"]).arg(cluster.scratch.dir()).arg(&files).arg(mount.dir());
    run(&mut command, secs(600)).ok();
}

#[test]
fn rsync_with_links_and_attributes_copies_nothing_the_second_time() {
    require_root();
    let (cluster, mount) = mounted();
    let script = format!(
        r#"{TREE}{FACTS}
        rsync -aHAX "$1/tree/" "$3/there/"
        facts "$1/tree" >"$1/want"; facts "$3/there" >"$1/got"; diff "$1/want" "$1/got"
        rsync -aHAX --stats --itemize-changes "$1/tree/" "$3/there/" >"$1/told"
        grep -qx 'Number of regular files transferred: 0' "$1/told"
        grep -qx 'Total transferred file size: 0 bytes' "$1/told"
        [ -z "$(rsync -aHAX --itemize-changes "$1/tree/" "$3/there/")" ]
        [ -z "$(rsync -aHAX --itemize-changes "$3/there/" "$1/tree/")" ]
    "#
    );
    sh(&script, &[cluster.scratch.dir(), "300".as_ref(), mount.dir()]);
}

#[test]
fn zip_and_unzip() {
    let (cluster, mount) = mounted();
    let script = r#"
        mkdir "$1/tree"; cd "$1/tree"; mkdir sub
        for i in $(seq 50); do head -c $((i * 1500)) /dev/urandom >"sub/f$i"; done; chmod 750 sub/f3; ln -s f1 sub/link
        zip -qry "$2/all.zip" .; unzip -tq "$2/all.zip"
        unzip -q "$2/all.zip" -d "$2/out"; diff -r --no-dereference . "$2/out"; [ "$(stat -c %a "$2/out/sub/f3")" = 750 ]
        cd "$2/out"; echo new >sub/f2; zip -q ../all.zip sub/f2; zip -qd ../all.zip sub/f1; unzip -tq ../all.zip
    "#;
    sh(script, &[cluster.scratch.dir(), mount.dir()]);
}

#[test]
fn ffmpeg_moves_the_index_of_an_mp4_to_its_front() {
    let (_cluster, mount) = mounted();
    let (source, fast) = (film::small(), mount.path("fast.mp4"));
    let script = r#"ffmpeg -nostdin -v error -i "$1" -c copy -movflags +faststart "$2""#;
    let ran = sh(script, &[&source, &fast]);
    assert!(ran.stderr.is_empty(), "{ran:#?}");
    let bytes = fs::read(&fast).unwrap();
    let place = |name: &[u8]| bytes.windows(4).position(|four| four == name).unwrap();
    assert!(place(b"moov") < place(b"mdat"), "the index is not in front");
    assert!((film::duration_s(&fast) - film::duration_s(&source)).abs() < 0.1);
    film::decode(&fast);
}

#[test]
fn saving_as_vim_does_keeps_mode_and_never_leaves_half_a_file() {
    let (_cluster, mount) = mounted();
    let path = mount.path("notes");
    fs::write(&path, "first\n").unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    sh(
        r#"
        cd "$1"; chmod 640 notes
        for i in $(seq 30); do
            set -C; : >.notes.swp; set +C
            mv notes notes~
            echo "turn $i" >notes; chmod --reference=notes~ notes; sync notes
            rm notes~ .notes.swp
            echo "temporary $i" >.new; sync .new; mv .new other; [ "$(cat other)" = "temporary $i" ]
        done
        [ "$(cat notes)" = 'turn 30' ] && [ "$(stat -c %a notes)" = 640 ] && [ "$(ls -A | wc -l)" = 2 ]
        "#,
        &[mount.dir()],
    );
    assert_ne!(fs::metadata(&path).unwrap().ino(), before);
}

#[test]
fn cargo_builds_and_tests_a_project_and_knows_what_changed() {
    let (_cluster, mount) = mounted();
    // The toolchain itself: what rustup puts before it looks for its settings in a home directory.
    let script = r#"
        [ -z "${CARGO:-}" ] || PATH="$(dirname "$CARGO"):$PATH"
        for name in $(env | sed -n 's/^\(CARGO[A-Z_]*\|RUST[A-Z_]*\|NEXTEST[A-Z_]*\)=.*/\1/p'); do
            [ "$name" = RUSTUP_HOME ] || unset "$name"
        done
        cd "$1"; export CARGO_HOME="$1/home" CARGO_TARGET_DIR="$1/target" CARGO_TERM_COLOR=never
        mkdir -p project/src project/tests; cd project
        printf '[package]\nname = "counted"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' >Cargo.toml
        echo 'pub fn count(text: &str) -> usize { text.split_whitespace().count() }' >src/lib.rs
        echo 'fn main() { println!("{}", counted::count(&std::env::args().nth(1).unwrap())); }' >src/main.rs
        echo '#[test] fn counts() { assert_eq!(counted::count("one two  three"), 3); }' >tests/counts.rs
        cargo build --offline
        [ "$("$1/target/debug/counted" 'a b c d')" = 4 ]
        cargo test --offline --test counts
        cargo build --offline 2>"$1/told"; if grep -q Compiling "$1/told"; then cat "$1/told"; exit 7; fi
        echo 'pub fn count(_: &str) -> usize { 42 }' >src/lib.rs
        cargo build --offline
        [ "$("$1/target/debug/counted" 'a b c d')" = 42 ]
        if cargo test --offline --test counts; then exit 8; fi
    "#;
    let mut command = std::process::Command::new("sh");
    run(command.args(["-euc", script, "sh"]).arg(mount.dir()), secs(180)).ok();
}

#[test]
fn git_clones_collects_and_checks_a_long_history() {
    let (cluster, mount) = mounted();
    let commits = amount("DFS_TEST_COMMITS", 100);
    let script = r#"
        git() { command git -c user.name=a -c user.email=a@b -c init.defaultBranch=main -c safe.directory='*' "$@"; }
        git init -q --bare "$1/source"
        for n in $(seq "$3"); do
            printf 'commit refs/heads/main\ncommitter a <a@b> %s +0000\ndata <<X\nchange %s\nX\n' "$((1000000000 + n))" "$n"
            printf 'M 644 inline dir%s/file%s\ndata <<X\nline %s\nX\n\n' "$((n % 7))" "$((n % 40))" "$n"
        done | git --git-dir "$1/source" fast-import --quiet
        git clone -q --no-hardlinks "$1/source" "$2/clone"
        cd "$2/clone"
        [ "$(git rev-list --count HEAD)" = "$3" ] && [ -z "$(git status --porcelain)" ]
        for n in $(seq 15); do
            echo "more $n" >>"dir1/new$n"; git add .; git commit -qm "more $n"
        done
        git checkout -q "HEAD~$(($3 / 2))"; [ -z "$(git status --porcelain)" ]; git checkout -q main
        git fsck --strict --full; git gc -q --aggressive --prune=now; git fsck --strict --full
        [ "$(git count-objects -v | sed -n 's/^count: //p')" = 0 ]
        [ "$(git rev-list --count HEAD)" = "$(($3 + 15))" ] && [ -z "$(git status --porcelain)" ]
        git clone -q "$2/clone" "$2/again"; diff -r -x .git "$2/clone" "$2/again"
        git push -q "$1/source" main; [ "$(git --git-dir "$1/source" rev-list --count main)" = "$(($3 + 15))" ]
    "#;
    let mut command = cluster.scratch.program("sh");
    command.args(["-euc", script, "sh"]).args([cluster.scratch.dir(), mount.dir()]).arg(commits.to_string());
    run(&mut command, secs(120) + Duration::from_millis(commits * 50)).ok();
}
