//! README command 1: a directory with a whole cluster inside.
//!
//! Covers: dfs-mount goes to the background when the mount is usable and returns 0; it creates a missing mount point;
//! without --master it runs an embedded cluster, kept under --data, and the next mount finds everything again, also after
//! SIGKILL; a second mount of the same data directory is refused with a clear message; umount ends the process; SIGTERM
//! unmounts; `-f` stays in the foreground; mounting as another user than root; DFS_ variables; another user of the machine gets neither at its
//! files nor through its ports, and its own user needs no login.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use dfs_proto::{frame, pb};
use dfs_tests::mount::{is_usable, mounted, unmount};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Ran, Scratch, film, require_root, run, run_ok, wait_until};
use prost::Message;
use rustix::process::Signal;

fn dfs_mount(scratch: &Scratch, args: &[&str]) -> Ran {
    run(scratch.command("dfs-mount").args(args), secs(60))
}

fn point(scratch: &Scratch) -> (PathBuf, String) {
    let dir = scratch.path("mnt/dfs");
    let text = dir.display().to_string();
    (dir, text)
}

fn wait_gone(scratch: &Scratch) {
    wait_until(secs(35), "dfs-mount has ended", || scratch.pids("dfs-mount").is_empty());
}

#[test]
fn readme_command_1_then_cp_mpv_umount_and_the_next_mount_finds_the_film() {
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    assert!(!dir.exists());
    dfs_mount(&scratch, &[&text]).ok();
    assert!(is_usable(&dir), "dfs-mount returned before the mount was usable");
    assert_eq!(mounted(&dir).unwrap(), ("fuse.dfs".into(), "dfs:embedded".into()));
    // It, and the small one that ends what it leaves when it is killed.
    // The guard has its name a moment after it was started.
    wait_until(secs(5), "one process in the background, and its guard", || {
        (scratch.pids("dfs-mount").len(), scratch.guards().len()) == (1, 1)
    });
    run_ok(&[PathBuf::from("cp"), film::small(), dir.join("movie.mp4")]);
    film::play(&dir.join("movie.mp4"), &[]);
    unmount(&dir);
    wait_gone(&scratch);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert!(scratch.path("home/share/dfs/master").is_dir(), "kept under the user's data directory");

    dfs_mount(&scratch, &[&text]).ok();
    film::same(&film::small(), &dir.join("movie.mp4"));
    film::play_with_seeks(&dir.join("movie.mp4"));
    unmount(&dir);
    wait_gone(&scratch);
}

#[test]
fn a_shell_that_reads_what_dfs_mount_says_is_not_held_up() {
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    // The daemon must close the pipe, or the shell would wait for ever.
    let mut command = scratch.program("sh");
    command.args(["-euc", r#"out=$(dfs-mount "$1" 2>&1); [ -d "$1" ]; echo "said: $out""#, "sh", &text]);
    let ran = run(&mut command, secs(60)).ok();
    assert!(is_usable(&dir), "{ran:#?}");
    unmount(&dir);
}

#[test]
fn after_sigkill_the_next_mount_recovers_the_dead_mount_point_and_finds_everything() {
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    let data = scratch.path("data").display().to_string();
    dfs_mount(&scratch, &["--data", &data, &text]).ok();
    run_ok(&[PathBuf::from("cp"), film::small(), dir.join("movie.mp4")]);
    scratch.signal("dfs-mount", Signal::KILL);
    wait_until(secs(10), "the mount is dead", || fs::metadata(&dir).is_err());
    assert!(mounted(&dir).is_some(), "a dead mount point is left");
    let ran = dfs_mount(&scratch, &["--data", &data, &text]).ok();
    assert!(ran.stderr.contains("dead mount"), "no note about the dead mount: {ran:#?}");
    film::same(&film::small(), &dir.join("movie.mp4"));
    unmount(&dir);
    wait_gone(&scratch);
    assert!(mounted(&dir).is_none(), "something is still mounted below");
}

#[test]
fn sigterm_unmounts_and_loses_nothing() {
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    for signal in [Signal::TERM, Signal::INT] {
        dfs_mount(&scratch, &[&text]).ok();
        let file = dir.join("file");
        fs::write(&file, format!("{signal:?}").repeat(100_000)).unwrap();
        scratch.signal("dfs-mount", signal);
        wait_gone(&scratch);
        assert!(mounted(&dir).is_none(), "still mounted after {signal:?}");
        dfs_mount(&scratch, &[&text]).ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{signal:?}").repeat(100_000));
        unmount(&dir);
        wait_gone(&scratch);
    }
}

#[test]
fn a_second_mount_of_the_same_data_is_refused_and_the_first_goes_on() {
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    let data = scratch.path("data").display().to_string();
    dfs_mount(&scratch, &["--data", &data, &text]).ok();
    let second = scratch.path("mnt/second");
    fs::create_dir(&second).unwrap();
    let ran = dfs_mount(&scratch, &["--data", &data, &second.display().to_string()]);
    ran.one_line_error("dfs-mount", &[&data, "--master"]);
    assert!(mounted(&second).is_none());
    fs::write(dir.join("file"), b"still here").unwrap();

    // The remedy that it names works.
    let address = fs::read_to_string(scratch.path("data/master/address")).unwrap();
    assert!(ran.stderr.contains(address.trim()), "the running one's address {address} is not in {ran:#?}");
    dfs_mount(&scratch, &["--master", address.trim(), &second.display().to_string()]).ok();
    assert_eq!(fs::read(second.join("file")).unwrap(), b"still here");
    unmount(&second);
    unmount(&dir);
    wait_gone(&scratch);
}

#[test]
fn the_operators_command_works_on_an_embedded_cluster_and_its_flags_count() {
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    let data = scratch.path("data").display().to_string();
    dfs_mount(&scratch, &["--data", &data, "--keepers", "4", "--copies", "2", "--chunk-size", "1MiB", &text])
        .ok();
    fs::write(dir.join("file"), vec![1; 3 << 20]).unwrap();
    let address = fs::read_to_string(scratch.path("data/master/address")).unwrap();
    let json = |args: &[&str]| -> serde_json::Value {
        let ran =
            run(scratch.command("dfs").args(["--master", address.trim(), "--json"]).args(args), secs(20))
                .ok();
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let status = json(&["status"]);
    assert_eq!((&status["keepers_live"], &status["chunks"]), (&4.into(), &3.into()), "{status:#}");
    assert_eq!((&status["files"], &status["bytes"]), (&1.into(), &(3u64 << 20).into()), "{status:#}");
    wait_until(secs(15), "two copies of each chunk", || {
        json(&["lookup", "/file"]).as_array().unwrap().len() == 6
    });
    unmount(&dir);
    wait_gone(&scratch);
}

#[test]
fn values_come_from_the_environment_too() {
    let cluster = Cluster::start();
    let dir = cluster.scratch.path("mnt/env");
    let mut command = cluster.scratch.command("dfs-mount");
    command.env("DFS_MASTER", cluster.address()).env("DFS_CACHE_SIZE", "32MiB").arg(&dir);
    run(&mut command, secs(30)).ok();
    assert_eq!(mounted(&dir).unwrap().1, format!("dfs:{}", cluster.address()));
    unmount(&dir);
    let mut command = cluster.scratch.command("dfs-mount");
    let ran =
        run(command.env("DFS_MASTER", cluster.address()).env("DFS_CACHE_SIZE", "many").arg(&dir), secs(30));
    assert_eq!(ran.status.code(), Some(2), "{ran:#?}");
    assert!(ran.stderr.contains("many"), "{ran:#?}");
}

#[test]
fn a_user_who_is_not_root_mounts_with_fusermount3() {
    let cluster = Cluster::start();
    let root = cluster.scratch.path("mnt/root");
    run(cluster.scratch.command("dfs-mount").args(["--master", cluster.address()]).arg(&root), secs(30)).ok();
    run_ok(&["chmod", "1777", root.to_str().unwrap()]);
    cluster.scratch.as_nobody("dfs-mount");
    // In a mount namespace of its own, where /dev/fuse is open to all, as it is on most machines.
    let script = r#"
        cd /; mkdir "$1/dev"; mount -t tmpfs none "$1/dev"; mknod "$1/dev/fuse" c 10 229; chmod 666 "$1/dev/fuse"
        mount --bind "$1/dev/fuse" /dev/fuse
        exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -euc "$3" sh "$1" "$2""#;
    let user = r#"
        point=$1/home/mnt
        "$1/bin/dfs-mount" --master "$2" "$point"
        grep " $point " /proc/self/mountinfo | grep -q nosuid,nodev
        echo mine >"$point/file"; [ "$(cat "$point/file")" = mine ]; [ "$(stat -c %u "$point/file")" = 65534 ]
        fusermount3 -u "$point"
        [ ! -e "$point/file" ]"#;
    let mut command = cluster.scratch.program("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-euc", script, "sh"]).arg(cluster.scratch.dir());
    run(command.args([cluster.address(), user]), secs(60)).ok();
    assert_eq!(fs::read(root.join("file")).unwrap(), b"mine\n");
    unmount(&root);
    wait_gone(&cluster.scratch);
}

#[test]
fn in_the_foreground_it_stays_and_ends_with_umount() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    assert!(mount.process.is_running());
    mount.process.signal(Signal::TERM);
    assert!(mount.process.wait_exit(secs(35)).success());
    assert!(mounted(mount.dir()).is_none());
    cluster.mount().unmount();
}

/// A whole address, as `dfs --json keepers` has it.
fn data_ports(scratch: &Scratch, address: &str) -> Vec<String> {
    let ran = run(scratch.command("dfs").args(["--master", address, "--json", "keepers"]), secs(20)).ok();
    let keepers: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    keepers.as_array().unwrap().iter().map(|k| k["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn another_user_of_the_machine_gets_at_nothing() {
    require_root();
    let scratch = Scratch::new();
    let (dir, text) = point(&scratch);
    // It was there, and open to everybody.
    let data = scratch.path("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let shown = data.display().to_string();
    dfs_mount(&scratch, &["--data", &shown, "--http", "127.0.0.1:0", &text]).ok();
    fs::write(dir.join("secret"), vec![7; 100_000]).unwrap();
    let address = fs::read_to_string(data.join("master/address")).unwrap().trim().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");

    // Its own user: without a word, as long as it runs, and the next time.
    let status =
        |scratch: &Scratch| run(scratch.command("dfs").args(["--master", &address, "status"]), secs(20));
    status(&scratch).ok();
    let login = scratch.path("home/state/dfs").read_dir().unwrap().next().unwrap().unwrap().path();
    for file in
        ["token", "join-token", "master/initial-admin-password", "master/master.redb", "master/audit.jsonl"]
    {
        let mode = fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(&login).unwrap().permissions().mode() & 0o777, 0o600);

    // Another user: the files...
    let as_nobody = |words: &[&str]| {
        let mut command = scratch.program("setpriv");
        run(command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words), secs(30))
    };
    let found = as_nobody(&["find", &shown, "-readable"]);
    assert!(found.stdout.trim().is_empty() && !found.status.success(), "{found:#?}");
    for file in ["token", "keeper-1/IDENTITY", "lock"] {
        assert!(!as_nobody(&["cat", data.join(file).to_str().unwrap()]).status.success(), "{file}");
    }
    // ... the master's port ...
    let ports = data_ports(&scratch, &address);
    assert_eq!(ports.len(), 3);
    for args in [
        vec!["status"],
        vec!["lookup"],
        vec!["get", "/secret", "-"],
        vec!["user", "ls"],
        vec!["keeper", "token", "x"],
    ] {
        let mut command = scratch.as_nobody("dfs");
        let ran = run(command.args(["--master", &address]).args(&args), secs(30));
        ran.one_line_error("dfs", &["log in"]);
    }
    let token = data.join("token").display().to_string();
    let stolen = run(
        scratch.as_nobody("dfs").args(["--master", &address, "--token-file", &token, "status"]),
        secs(30),
    );
    stolen.one_line_error("dfs", &["token file", "denied"]);
    let joined = scratch.path("home/keeper").display().to_string();
    let keeper = run(
        scratch.as_nobody("dfs-keeper").args([
            "--data",
            &joined,
            "--master",
            &address,
            "--join-timeout",
            "2s",
        ]),
        secs(60),
    );
    assert!(!keeper.status.success() && keeper.stderr.contains("wants to know who you are"), "{keeper:#?}");
    // ... and each data port: a ticket that nobody signed opens nothing.
    for port in &ports {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
        let script =
            r#"exec 3<>"/dev/tcp/127.0.0.1/$1"; cat "$2" >&3; timeout 10 dd bs=4096 count=1 status=none <&3"#;
        let request = scratch.path("request");
        fs::write(&request, forged_read()).unwrap();
        let number = port.rsplit_once(':').unwrap().1;
        let answer = as_nobody(&["bash", "-c", script, "bash", number, request.to_str().unwrap()]);
        assert!(answer.stdout.contains("DFS1") && answer.stdout.contains("ticket"), "{answer:#?}");
    }
    unmount(&dir);
    wait_gone(&scratch);
    dfs_mount(&scratch, &["--data", &shown, &text]).ok();
    status(&scratch).ok();
    assert_eq!(fs::read(dir.join("secret")).unwrap(), vec![7; 100_000]);
    unmount(&dir);
    wait_gone(&scratch);

    // Whoever wants it open says so.
    dfs_mount(&scratch, &["--data", &shown, "--auth", "off", &text]).ok();
    fs::remove_file(&login).unwrap();
    run(scratch.as_nobody("dfs").args(["--master", &address, "status"]), secs(30)).ok();
    unmount(&dir);
    wait_gone(&scratch);
}

/// A read as a client asks for it, with a ticket that is right but for its signature.
fn forged_read() -> Vec<u8> {
    let ticket =
        pb::Ticket { chunk: 1, op: 1, keepers: vec![1, 2, 3], expires_ms: i64::MAX, ..pb::Ticket::default() };
    let ticket = ticket.encode_to_vec().into();
    let request = pb::ReadRequest {
        ticket,
        mac: vec![7; 16].into(),
        offset: 0,
        length: 65_536,
        want_sums: true,
        ..pb::ReadRequest::default()
    };
    frame::encode(frame::Kind::Read, 1, &request, 0).to_vec()
}
