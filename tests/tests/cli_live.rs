//! The commands of `dfs` that look at what runs: `warmup`, `bench`, `top`, `profile`, `doctor`.
//!
//! Covers: what is read through a mount is in its cache afterwards; the benchmark has every case, and leaves nothing, also when it is broken off;
//! operations that are done are seen, with rates and waits, by HTTP and on a mount without it, and of all keepers; a mount's time is divided; the
//! doctor says that all is well, and what is not; what each refuses.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_tests::http::address;
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, wait_for, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

#[test]
fn what_runs_is_looked_at() {
    let mut cluster = Cluster::builder().master_flags(&HTTP).keeper_flags(&HTTP).start();
    let mount = cluster.mount();
    fs::create_dir(mount.path("films")).unwrap();
    for n in 0..5 {
        fs::write(mount.path(format!("films/{n}")), Rng::new(n).bytes(1_500_000)).unwrap();
    }
    let reader = cluster.mount();
    warms_up(&cluster, &reader);
    measures(&cluster, &mount);
    while_busy(&mount, || {
        shows_operations(&mut cluster, &mount);
        profiles(&cluster, &mount);
    });
    examines(&mut cluster, &mount);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn attribute(mount: &Mount, name: &str) -> f64 {
    let all = sh("getfattr -n user.dfs.metrics --only-values \"$1\"", &[mount.dir()]).stdout;
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn warms_up(cluster: &Cluster, reader: &Mount) {
    let held = || attribute(reader, "dfs_mount_cache_bytes");
    assert_eq!(held(), 0.0);
    let warmed = cluster.json(&["warmup", text(&reader.path("films"))]);
    assert_eq!((&warmed["files"], &warmed["bytes"]), (&5.into(), &7_500_000.into()), "{warmed}");
    assert!(warmed["bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(held() >= 7_500_000.0, "{} bytes are in the cache", held());
    let one = cluster.dfs(&["warmup", text(&reader.path("films/1"))]).ok().stdout;
    assert!(one.starts_with("1 files, 1.43 MiB in "), "{one}");
    cluster.dfs(&["warmup", "/tmp"]).one_line_error("dfs", &["/tmp", "no mount of a cluster"]);
    cluster.dfs(&["warmup", text(&reader.path("none"))]).one_line_error("dfs", &["none"]);
}

fn measures(cluster: &Cluster, mount: &Mount) {
    fs::create_dir(mount.path("bench")).unwrap();
    let dir = mount.path("bench");
    let rows = cluster.json(&["bench", text(&dir), "--size", "8MiB", "--files", "20"]);
    let rows = rows.as_array().unwrap();
    let cases: Vec<&str> = rows.iter().map(|row| row["case"].as_str().unwrap()).collect();
    let wanted =
        ["write", "read", "random_read_4k", "create_16k", "stat", "list", "read_16k", "rename", "unlink"];
    assert_eq!(cases, [&wanted[..], &["mkdir", "rmdir"]].concat());
    assert!(rows.iter().all(|row| row["value"].as_f64().unwrap() > 0.0), "{rows:#?}");
    assert!(rows[3]["p99_ms"].as_f64() >= rows[3]["median_ms"].as_f64());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "something is left");
    cluster.dfs(&["bench", text(&dir.join("none"))]).one_line_error("dfs", &["none"]);
    // Broken off.
    let mut command = cluster.scratch.command("dfs");
    command.args(["bench", text(&dir), "--files", "1000000", "--size", "1MiB"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let below = || fs::read_dir(&dir).unwrap().next().map(|entry| entry.unwrap().path());
    wait_until(secs(60), "small files are made", || {
        below().is_some_and(|dir| dir.join("small/f10").exists())
    });
    rustix::process::kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = wait_for(secs(30), "it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "something is left");
}

/// While files are made, read and removed in the mount.
fn while_busy(mount: &Mount, work: impl FnOnce()) {
    let dir = mount.dir();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = dir.join("busy");
            while !stop.load(Ordering::Relaxed) {
                fs::write(&path, [1; 100_000]).unwrap();
                assert_eq!(fs::read(&path).unwrap().len(), 100_000);
                assert!(fs::remove_dir(dir.join("films")).is_err());
                fs::remove_file(&path).unwrap();
            }
        });
        // Also when it panics, or nobody would ever hear of it.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn operation<'a>(shown: &'a Value, list: &str, key: &str, name: &str) -> &'a Value {
    let all = shown[list].as_array().unwrap();
    all.iter().find(|row| row[key] == name).unwrap_or_else(|| panic!("no {name} in {shown:#}"))
}

fn shows_operations(cluster: &mut Cluster, mount: &Mount) {
    let top = |of: &str| cluster.json(&["top", of, "--once", "--every", "2s"]);
    let shown = top(text(&mount.path("films")));
    assert_eq!(shown["of"], text(mount.dir()), "the mount that has it");
    for name in ["create", "write", "flush", "unlink"] {
        let row = operation(&shown, "operations", "op", name);
        assert!(row["per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(
            row["mean_ms"].as_f64().unwrap() > 0.0
                && row["p50_ms"].is_f64()
                && row["p50_ms"].as_f64() <= row["p99_ms"].as_f64(),
            "{row}"
        );
    }
    assert_eq!(operation(&shown, "operations", "op", "write")["errors_per_second"], 0.0);
    assert!(operation(&shown, "operations", "op", "rmdir")["errors_per_second"].as_f64().unwrap() > 0.0);
    assert!(shown["rates"]["dfs_mount_written_bytes_total"].as_f64().unwrap() > 0.0);
    let master = top(&address(&cluster.master));
    operation(&master, "operations", "op", "create");
    let of_keeper = format!("http://{}/metrics", address(cluster.keeper(0)));
    let top = |of: &str| cluster.json(&["top", of, "--once", "--every", "2s"]);
    wait_until(secs(20), "the keeper stores something", || {
        top(&of_keeper)["operations"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["per_second"].as_f64().unwrap() > 0.0)
    });
    let table = cluster.dfs(&["top", text(mount.dir()), "--once"]).ok().stdout;
    assert!(table.contains("OPERATION") && table.contains("unlink") && !table.contains('\x1b'), "{table}");
    let all = cluster.json(&["top", "--once", "--every", "2s"]);
    assert!(all["requests_per_second"].as_f64().unwrap() > 0.0, "{all:#}");
    let keepers = all["keepers"].as_array().unwrap();
    assert_eq!(keepers.len(), 3);
    assert!(
        keepers.iter().any(|keeper| keeper["written_bytes_per_second"].as_f64().unwrap() > 0.0),
        "{all:#}"
    );
    cluster.dfs(&["top", "127.0.0.1:1", "--once"]).one_line_error("dfs", &["127.0.0.1:1", "--http"]);
    cluster.dfs(&["top", "/tmp", "--once"]).one_line_error("dfs", &["/tmp", "no mount"]);
    cluster.dfs(&["top", cluster.address(), "--once"]).one_line_error("dfs", &["--http"]);
}

fn profiles(cluster: &Cluster, mount: &Mount) {
    let profile = cluster.json(&["profile", text(mount.dir()), "--for", "2s"]);
    let sum = |list: &str| {
        profile[list].as_array().unwrap().iter().map(|row| row["share"].as_f64().unwrap()).sum::<f64>()
    };
    assert!((sum("operations") - 1.0).abs() < 1e-6 && (sum("waits") - 1.0).abs() < 1e-6, "{profile:#}");
    let flush = operation(&profile, "operations", "name", "flush");
    let (count, total, mean) = (&flush["count"], &flush["total_ms"], &flush["mean_ms"]);
    assert!(
        (count.as_f64().unwrap() * mean.as_f64().unwrap() - total.as_f64().unwrap()).abs() < 1.0,
        "{flush}"
    );
    for name in ["master", "store"] {
        let wait = operation(&profile, "waits", "name", name);
        assert!(wait["count"].as_f64().unwrap() > 0.0 && wait["total_ms"].as_f64().unwrap() > 0.0, "{wait}");
    }
    let text_of = cluster.dfs(&["profile", text(&mount.path("films")), "--for", "1s"]).ok().stdout;
    assert!(text_of.contains("WAITS FOR") && text_of.contains("flush"), "{text_of}");
    cluster.dfs(&["profile", "/tmp"]).one_line_error("dfs", &["/tmp", "no mount"]);
}

fn examines(cluster: &mut Cluster, mount: &Mount) {
    let all_copies = |cluster: &Cluster| cluster.status("endangered") == 0;
    wait_until(secs(30), "all copies are there", || all_copies(cluster));
    let ran = cluster.dfs(&["--json", "doctor", text(cluster.scratch.dir())]);
    let checks: Value = serde_json::from_str(&ran.stdout).unwrap();
    // There may be dead mounts of others.
    let fails = checks.as_array().unwrap().iter().filter(|row| row["state"] == "fail").count();
    assert_eq!(ran.status.code(), Some(i32::from(fails > 0)), "{ran:#?}");
    let find = |checks: &Value, check: &str| -> Value {
        let all = checks.as_array().unwrap();
        all.iter()
            .find(|row| row["check"] == check)
            .unwrap_or_else(|| panic!("no {check} in {checks:#}"))
            .clone()
    };
    for check in [
        "master",
        "version of master",
        "clock",
        "chunks",
        "port of keeper 1",
        "version of keeper 3",
        "/dev/fuse",
    ] {
        assert_eq!(find(&checks, check)["state"], "ok", "{checks:#}");
    }
    for check in [
        format!("mount on {}", mount.dir().display()),
        format!("readahead of {}", mount.dir().display()),
        format!("inodes of {}", cluster.scratch.dir().display()),
    ] {
        assert!(find(&checks, &check)["found"].is_string());
    }
    let limited = || {
        let mut sh = cluster.scratch.program("sh");
        sh.env("DFS_MASTER", cluster.address()).args(["-c", "ulimit -n 200; exec dfs doctor"]);
        dfs_tests::run(&mut sh, secs(60))
    };
    let ran = limited();
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stdout.contains("FAIL") && ran.stdout.contains("ulimit -n"), "{}", ran.stdout);
    // A keeper that is stopped takes connections still, until the master misses it; then it is dead.
    let dead = cluster.keeper_id(0);
    cluster.keeper(0).kill();
    cluster.wait_live(2);
    let ran = cluster.dfs(&["--json", "doctor"]);
    assert_eq!(ran.status.code(), Some(1));
    ran.one_line_error("dfs", &["doctor", "failed"]);
    let checks: Value = serde_json::from_str(&ran.stdout).unwrap();
    let keeper = find(&checks, &format!("keeper {dead}"));
    assert_eq!(keeper["state"], "fail");
    assert!(keeper["remedy"].as_str().unwrap().contains("dfs forget"), "{keeper}");
    cluster.master.kill();
    let ran = cluster.dfs(&["doctor"]);
    ran.one_line_error("dfs", &["doctor"]);
    assert!(ran.stdout.contains("FAIL   master") && ran.stdout.contains("/dev/fuse"), "{}", ran.stdout);
}
