//! The public suites, on a real mount of a real cluster: pjdfstest for the system calls, fsx for the bytes.
//!
//! Covers: every case of pjdfstest passes, as root with two other users, and none is skipped that the local disk does
//! not skip, but for [`NOT_RUN`], which the long form runs (DFS_TEST_LINK_MAX=1); fsx finds no wrong byte with its default settings, with mostly mmap, with mostly
//! truncate and with holes. DFS_TEST_FSX_OPS=1000000 is the long form of fsx: so many operations with each kind of settings. tests/run.sh installs both tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dfs_tests::amount::given;
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Ran, Scratch, require_root, run};

/// Cases in this version of pjdfstest.
const CASES: usize = 398;

/// Cases that are skipped on the mount alone, and why. The long form runs them: [`link_count_max`].
const NOT_RUN: &[(&str, &str)] = &[(
    "link::link_count_max",
    "the C library knows the limit of a few kinds of file system by their numbers, and FUSE is not among them",
)];

/// A library that says of FUSE what the C library says of the file systems that it knows.
const LIMIT_OF_LINKS: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <sys/vfs.h>
    #include <unistd.h>
    long pathconf(const char *path, int name) {
        struct statfs found;
        if (name == _PC_LINK_MAX && statfs(path, &found) == 0 && found.f_type == 0x65735546) return 65000;
        return ((long (*)(const char *, int))dlsym(RTLD_NEXT, "pathconf"))(path, name);
    }
"#;

/// Users of every Debian, each with the group that is its own.
const USERS: &str = r#"[["nobody", "nogroup"], ["daemon", "daemon"]]"#;

fn tool(name: &str) -> PathBuf {
    let path = dfs_tests::process::binary_dir().parent().unwrap().join("tools/bin").join(name);
    assert!(path.is_file(), "{} is not there: ./tests/run.sh installs it", path.display());
    path
}

/// Runs pjdfstest in `dir`; with `remount`, cases may make the file system read-only for a moment. `names` are parts of names.
fn pjdfstest(scratch: &Scratch, dir: &Path, other_disk: &Path, remount: bool, names: &[&str]) -> Ran {
    run(&mut command(scratch, dir, other_disk, remount, names), secs(180))
}

fn command(scratch: &Scratch, dir: &Path, other_disk: &Path, remount: bool, names: &[&str]) -> Command {
    let settings = scratch.path("pjdfstest.toml");
    let features =
        ["posix_fallocate", "rename_ctime", "utime_now", "utimensat"].map(|name| format!("{name} = {{}}\n"));
    let text = format!(
        "[features]\n{}[settings]\nnaptime = 0.01\nallow_remount = {remount}\n[dummy_auth]\nentries = {USERS}\n",
        features.concat()
    );
    fs::write(&settings, text).unwrap();
    // The suite calls mount(8), which would look for a helper program of FUSE's that cannot remount; -i says: no helper.
    let programs = scratch.path("programs");
    fs::create_dir_all(&programs).unwrap();
    sh(
        r#"printf '#!/bin/sh\nexec "%s" -i "$@"\n' "$(command -v mount)" >$1/mount; chmod +x $1/mount"#,
        &[&programs],
    );
    let mut command = scratch.program(tool("pjdfstest"));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env_remove("RUST_BACKTRACE").arg("-c").arg(settings);
    command.arg("-s").arg(other_disk).arg("-p").arg(dir).args(names);
    command
}

/// The case that the C library keeps from running, with a C library that knows the limit.
fn link_count_max(scratch: &Scratch, dir: &Path, other_disk: &Path) {
    let (source, library) = (scratch.path("limit.c"), scratch.path("limit.so"));
    fs::write(&source, LIMIT_OF_LINKS).unwrap();
    sh(r#"cc -shared -fPIC -o "$2" "$1""#, &[&source, &library]);
    let mut command = command(scratch, dir, other_disk, false, &["link::link_count_max"]);
    let ran = run(command.env("LD_PRELOAD", library), secs(1800));
    assert_eq!(cases(&ran, "ok").len(), 1, "{}", plain(&ran.stdout));
}

/// Without the colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// The names of the cases that ended with `word`.
fn cases(ran: &Ran, word: &str) -> BTreeSet<String> {
    let told = plain(&ran.stdout);
    let name = |line: &str| {
        let (name, end) = line.split_once(char::is_whitespace)?;
        (end.trim() == word && name.contains("::")).then(|| name.to_owned())
    };
    told.lines().filter_map(name).collect()
}

#[test]
fn pjdfstest_passes_and_skips_no_more_than_on_the_local_disk() {
    require_root();
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let scratch = &cluster.scratch;
    let (local, other_disk) = (scratch.path("local"), scratch.path("other"));
    fs::create_dir(&local).unwrap();
    fs::create_dir(&other_disk).unwrap();
    let ours = pjdfstest(scratch, mount.dir(), &other_disk, false, &[]);
    // Alone, because earlier cases leave files open, and then the kernel makes no file system read-only (ext4 neither: EBUSY).
    let read_only = pjdfstest(scratch, mount.dir(), &other_disk, true, &["erofs"]);
    // Nobody makes the disk of this machine read-only.
    let disk = pjdfstest(scratch, &local, mount.dir(), false, &[]);

    for ran in [&ours, &read_only] {
        let failed = cases(ran, "FAILED");
        assert!(failed.is_empty() && ran.status.success(), "failed: {failed:#?}\n{}", plain(&ran.stdout));
    }
    let passed: BTreeSet<_> = &cases(&ours, "ok") | &cases(&read_only, "ok");
    let skipped = &cases(&ours, "skipped") - &passed;
    let skipped_there = cases(&disk, "skipped");
    println!("{} passed, skipped {skipped:?}; the local disk skips {skipped_there:?}", passed.len());
    assert_eq!(passed.len() + skipped.len(), CASES);
    let known: BTreeSet<String> = NOT_RUN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(skipped, known, "the reasons of those that are known: {NOT_RUN:#?}");
    let more: Vec<_> = skipped.difference(&skipped_there).filter(|name| !known.contains(*name)).collect();
    assert!(more.is_empty(), "skipped on the mount alone: {more:?}");
    if std::env::var_os("DFS_TEST_LINK_MAX").is_some() {
        link_count_max(scratch, mount.dir(), &other_disk);
    }
}

/// What one run of fsx does in the long form. It keeps each mapping that it has read through, so that a long run spends
/// its time on thousands of mappings, and ends at the 65,530 that the kernel allows.
const FSX_OPERATIONS: u64 = 10_000;

/// Operations of each seed, and how many seeds. The long form says how many operations all seeds do together.
fn amount() -> (u64, u64) {
    given("DFS_TEST_FSX_OPS").map_or((1_500, 2), |all| (FSX_OPERATIONS, all.div_ceil(FSX_OPERATIONS)))
}

/// Runs fsx with these settings and every seed. It ends with an error at the first wrong byte or size.
fn fsx(settings: &str) {
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let mount = cluster.mount();
    let scratch = &cluster.scratch;
    let file = scratch.path("fsx.toml");
    fs::write(&file, settings).unwrap();
    let (operations, seeds) = amount();
    for seed in 1..=seeds {
        let begun = Instant::now();
        let tested = mount.path(format!("fsx-{seed}"));
        let mut command = Command::new(tool("fsx"));
        command.args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-f"]).arg(&file);
        command.arg("-P").arg(scratch.dir()).arg(&tested);
        run(&mut command, secs(60) + Duration::from_millis(operations * 20)).ok();
        println!("seed {seed}: {operations} operations in {:?}", begun.elapsed());
        fs::remove_file(tested).unwrap();
    }
}

#[test]
fn fsx_with_its_default_settings() {
    fsx("");
}

#[test]
fn fsx_with_mostly_mmap() {
    fsx("flen = 1000000\n[weights]\nmapread = 30\nmapwrite = 30\nread = 10\nwrite = 10\ntruncate = 5\n\
         invalidate = 2\nclose_open = 2\nfsync = 0.2\nsendfile = 2\nposix_fadvise = 2\n");
}

#[test]
fn fsx_with_mostly_truncate() {
    fsx("flen = 3000000\n[weights]\ntruncate = 40\nread = 10\nwrite = 20\nmapread = 5\nmapwrite = 5\n\
         close_open = 2\nfdatasync = 0.2\ncopy_file_range = 3\n");
}

/// At least a byte at a time: fallocate(2) refuses to make room for nothing.
#[test]
fn fsx_with_holes() {
    fsx(
        "flen = 1000000\n[opsize]\nmin = 1\n[weights]\npunch_hole = 20\nposix_fallocate = 5\ncopy_file_range = 5\n\
         read = 10\nwrite = 20\nmapread = 5\nmapwrite = 5\ntruncate = 5\nclose_open = 2\n",
    );
}
