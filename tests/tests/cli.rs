//! The operators' command line.
//!
//! Covers: `dfs status | keepers | lookup | ls | put | get | rm`, with and without `--json`; what `dfs status --json` has at
//! least; names of any bytes; an interrupted put; a progress bar on a terminal (bytes, rate, time left), none in a pipe; put of a missing file, get of a missing
//! path; DFS_MASTER.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, film, run, wait_for, wait_until};
use rustix::process::{Pid, Signal};

#[test]
fn put_and_get_round_trip_and_overwrite() {
    let mut cluster = Cluster::start();
    let (from, back) = (cluster.scratch.path("from"), cluster.scratch.path("back"));
    let text = |path: &std::path::Path| path.display().to_string();
    for len in [0, 1, 65_536, 8 << 20, (17 << 20) + 5] {
        let bytes = Rng::new(len as u64).bytes(len);
        fs::write(&from, &bytes).unwrap();
        cluster.dfs(&["put", &text(&from), "/file"]).ok();
        cluster.dfs(&["get", "/file", &text(&back)]).ok();
        assert!(fs::read(&back).unwrap() == bytes, "{len} bytes");
    }
    let mount = cluster.mount();
    film::same(&from, &mount.path("file"));
    // The default names, and a directory as the target.
    fs::create_dir(mount.path("dir")).unwrap();
    cluster.dfs(&["put", &text(&from)]).ok();
    cluster.dfs(&["put", &text(&from), "/dir"]).ok();
    film::same(&from, &mount.path("from"));
    film::same(&from, &mount.path("dir/from"));
    let mut get = cluster.scratch.command("dfs");
    fs::create_dir(cluster.scratch.path("here")).unwrap();
    get.args(["--master", cluster.address(), "get", "/dir/from"]).current_dir(cluster.scratch.path("here"));
    run(&mut get, secs(30)).ok();
    film::same(&from, &cluster.scratch.path("here/from"));
    assert_eq!(
        fs::read_dir(cluster.scratch.path("here")).unwrap().count(),
        1,
        "a part of it was left behind"
    );
    assert_eq!(fs::read_dir(mount.path("dir")).unwrap().count(), 1, "a temporary name was left behind");
    cluster.dfs(&["rm", "/from"]).ok();
    assert!(!mount.path("from").exists());
    cluster.dfs(&["rm", "/dir"]).one_line_error("dfs", &["/dir", "directory"]);
}

#[test]
fn bytes_go_through_standard_input_and_output() {
    let cluster = Cluster::start();
    let bytes = Rng::new(3).bytes(3_000_000);
    fs::write(cluster.scratch.path("in"), &bytes).unwrap();
    let mut sh = cluster.scratch.program("sh");
    sh.env("DFS_MASTER", cluster.address());
    sh.args(["-euc", r#"cd "$1"; cat in | dfs put - /piped; dfs get /piped - >out; dfs get /piped - | head -c 1 >/dev/null"#, "sh"]);
    let ran = run(sh.arg(cluster.scratch.dir()), secs(60)).ok();
    assert_eq!(ran.stderr, "", "a closed pipe is no error to speak of");
    assert!(fs::read(cluster.scratch.path("out")).unwrap() == bytes);
}

#[test]
fn no_progress_bar_in_a_pipe_and_one_on_a_terminal() {
    let cluster = Cluster::start();
    let film = film::small().display().to_string();
    let back = cluster.scratch.path("back").display().to_string();
    for args in [["put", &film, "/movie.mp4"], ["get", "/movie.mp4", &back]] {
        let quiet = cluster.dfs(&args).ok();
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""), "in a pipe: {args:?}");
        let mut terminal = cluster.scratch.program("script");
        let line = format!("dfs --master {} {} '{}' '{}'", cluster.address(), args[0], args[1], args[2]);
        terminal.args(["-qec", &line, "/dev/null"]);
        let shown = run(&mut terminal, secs(60)).ok().stdout;
        assert!(shown.contains('%') && shown.contains("/s"), "no bar on a terminal: {shown:?}");
    }
}

#[test]
fn ls_shows_directories_files_and_links() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/file one"), vec![0; 12_345]).unwrap();
    fs::write(mount.path(".hidden"), b"").unwrap();
    std::os::unix::fs::symlink("dir", mount.path("link")).unwrap();
    let top = cluster.dfs(&["ls"]).ok().stdout;
    for name in ["dir", ".hidden", "link"] {
        assert!(top.contains(name), "{name} is not in {top}");
    }
    let below = cluster.dfs(&["ls", "/dir"]).ok().stdout;
    assert!(below.contains("file one") && below.contains("12345") && below.contains("rw"), "{below}");
    let rows = cluster.json(&["ls", "/dir"]);
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows:#}");
    assert!(rows.to_string().contains("file one") && rows.to_string().contains("12345"), "{rows:#}");
    cluster.dfs(&["ls", "/none"]).one_line_error("dfs", &["/none"]);
}

#[test]
fn status_and_keepers_have_their_fields() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    fs::write(mount.path("a"), vec![0; 1000]).unwrap();
    fs::write(mount.path("b"), vec![0; 500]).unwrap();
    cluster.wait_copies("/a", 3, secs(15));
    let status = cluster.json(&["status"]);
    for (field, value) in [
        ("files", 2),
        ("bytes", 1500),
        ("chunks", 2),
        ("endangered", 0),
        ("lost", 0),
        ("keepers_live", 3),
        ("keepers_dead", 0),
    ] {
        assert_eq!(status[field], value, "{field} in {status:#}");
    }
    assert!(cluster.dfs(&["status"]).ok().stdout.contains("files"));

    let rows = cluster.json(&["keepers"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        for field in ["keeper", "total", "used", "free", "chunks", "bytes_read", "bytes_written"] {
            assert!(row[field].is_u64(), "{field} in {row:#}");
        }
        for field in ["address", "data_dir", "host", "version"] {
            assert!(row[field].is_string(), "{field} in {row:#}");
        }
        assert_eq!((&row["alive"], &row["read_only"]), (&true.into(), &false.into()), "{row:#}");
    }
    let table = cluster.dfs(&["keepers"]).ok().stdout;
    assert!((0..3).all(|i| table.contains(cluster.keeper_data(i).to_str().unwrap())), "{table}");
}

#[test]
fn missing_things_are_named() {
    let cluster = Cluster::start();
    cluster.dfs(&["put", "/no/such/file", "/x"]).one_line_error("dfs", &["/no/such/file", "no such file"]);
    let never = cluster.scratch.path("never");
    cluster.dfs(&["get", "/no such path", never.to_str().unwrap()]).one_line_error("dfs", &["/no such path"]);
    cluster.dfs(&["rm", "/nothing"]).one_line_error("dfs", &["/nothing"]);
    cluster.dfs(&["lookup", "/nowhere"]).one_line_error("dfs", &["/nowhere"]);
    let file = film::small();
    cluster.dfs(&["put", file.to_str().unwrap(), "/no/dir/x"]).one_line_error("dfs", &["/no/dir"]);
    cluster
        .dfs(&["put", file.parent().unwrap().to_str().unwrap(), "/x"])
        .one_line_error("dfs", &["directory"]);
    assert!(!never.exists());
    assert_eq!(cluster.status("files"), 0, "a failed put left a file");
}

#[test]
fn a_name_of_any_bytes_goes_in_and_out_and_cannot_break_a_table() {
    let cluster = Cluster::start();
    let name = OsStr::from_bytes(b"bad \xff\nname\x1b[2J");
    let from = cluster.scratch.path("in");
    fs::create_dir(&from).unwrap();
    fs::write(from.join(name), b"content").unwrap();
    let dfs = |args: &[&OsStr]| {
        let mut command = cluster.scratch.command("dfs");
        command.args(["--master", cluster.address()]).args(args).current_dir(&from);
        run(&mut command, secs(30)).ok()
    };
    dfs(&[OsStr::new("put"), name]);
    fs::remove_file(from.join(name)).unwrap();
    for command in ["ls", "lookup"] {
        let table = cluster.dfs(&[command]).ok().stdout;
        assert!(!table.contains('\x1b'), "{command} hands on what moves the cursor: {table:?}");
        let with_it = table.lines().filter(|line| line.contains("bad") || line.contains("name")).count();
        assert_eq!(
            with_it,
            table.lines().filter(|line| line.contains("bad")).count(),
            "{command}: {table:?}"
        );
    }
    assert_eq!(cluster.json(&["ls"]).as_array().unwrap().len(), 1);
    let path = OsStr::from_bytes(b"/bad \xff\nname\x1b[2J");
    dfs(&[OsStr::new("get"), path]);
    assert_eq!(fs::read(from.join(name)).unwrap(), b"content");
    dfs(&[OsStr::new("rm"), path]);
    assert_eq!(cluster.status("files"), 0);
}

#[test]
fn an_interrupted_put_says_so_and_leaves_nothing() {
    let cluster = Cluster::builder().chunk_size("64KiB").start();
    // It reads from a pipe that never ends, so that it is always in the middle.
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = cluster.scratch.command("dfs");
        command.args(["--master", cluster.address(), "put", "-", "/half"]);
        let mut put = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = put.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, &vec![7; 4 << 20]).unwrap();
        wait_until(secs(20), "some of it is stored", || !cluster.chunk_files(0).is_empty());
        rustix::process::kill_process(Pid::from_child(&put), signal).unwrap();
        let status = wait_for(secs(20), "the interrupted put ends", || put.try_wait().unwrap());
        assert!(!status.success());
        let mut told = String::new();
        std::io::Read::read_to_string(&mut put.stderr.take().unwrap(), &mut told).unwrap();
        assert!(told.lines().count() == 1 && told.starts_with("dfs: interrupted"), "{told:?}");
        assert!(cluster.json(&["ls"]).as_array().unwrap().is_empty(), "a name was left behind");
        wait_until(secs(60), "its chunks are collected", || {
            (0..3).all(|i| cluster.chunk_files(i).is_empty())
        });
    }
}

#[test]
fn a_file_without_bytes_and_one_that_is_mostly_a_hole_have_no_rows_for_nothing() {
    let mut cluster = Cluster::builder().chunk_size("64KiB").start();
    let mount = cluster.mount();
    fs::write(mount.path("empty"), b"").unwrap();
    let sparse = fs::File::create(mount.path("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 3 << 30).unwrap();
    drop(sparse);
    cluster.wait_copies("/sparse", 3, secs(15));
    assert_eq!(cluster.lookup("/empty").len(), 0);
    assert_eq!(cluster.lookup("/sparse").len(), 3, "one chunk in three copies");
    assert_eq!(cluster.lookup("/").len(), 3);
}
