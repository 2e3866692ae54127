//! What people get wrong, and what they are told.
//!
//! Covers the list "Bad input": each with a one-line error that names the thing and the remedy, a non-zero exit, and nothing
//! lost. Unknown master address; port in use; data directory of another cluster, of a newer format, of another running
//! process, not writable; a mount point that is a file, is not empty, is already mounted; no /dev/fuse; not root and no
//! fusermount3; a keeper with another cluster's id; unknown flags. (A dead mount: embedded.rs. Hostile bytes: hostile.rs.
//! put and get of what is not there: cli.rs. Tickets: the keeper's own tests.)

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use dfs_tests::mount::mounted;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Ran, Scratch, film, require_root, run};

fn ours(scratch: &Scratch, binary: &str, args: &[&str]) -> Ran {
    run(scratch.command(binary).args(args), secs(45))
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

#[test]
fn an_unknown_master_is_named_by_everybody() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("mnt/x")).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for master in [free.as_str(), "no-such-host.invalid:3000"] {
        let (data, point) = (text(scratch.path("keeper")), text(scratch.path("mnt/x")));
        ours(&scratch, "dfs", &["--master", master, "status"]).one_line_error("dfs", &[master]);
        ours(&scratch, "dfs-keeper", &["--data", &data, "--master", master, "--join-timeout", "1s"])
            .one_line_error("dfs-keeper", &[master]);
        for flags in [&[][..], &["-f"]] {
            let args = [&["--master", master, "--master-timeout", "1s", point.as_str()][..], flags].concat();
            ours(&scratch, "dfs-mount", &args).one_line_error("dfs-mount", &[master]);
        }
        assert!(mounted(&scratch.path("mnt/x")).is_none());
    }
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let scratch = &cluster.scratch;
    let data = text(scratch.path("other"));
    ours(scratch, "dfs-master", &["--data", &data, "--listen", &taken])
        .one_line_error("dfs-master", &[&taken]);
    let args = ["--data", &data, "--master", cluster.address(), "--listen", &taken];
    ours(scratch, "dfs-keeper", &args).one_line_error("dfs-keeper", &[&taken]);
}

#[test]
fn a_keeper_of_another_cluster_is_refused_and_both_clusters_are_named() {
    let (mut one, two) = (Cluster::builder().keepers(1).start(), Cluster::builder().keepers(1).start());
    one.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    let clusters = [&one, &two].map(|c| c.json(&["status"])["cluster"].as_str().unwrap().to_owned());
    let (data, before) = (one.keeper_data(0), one.chunk_files(0));
    one.keeper(0).kill();
    let ran = ours(&one.scratch, "dfs-keeper", &["--data", &text(data), "--master", two.address()]);
    ran.one_line_error("dfs-keeper", &[&clusters[0], &clusters[1]]);
    assert_eq!(one.chunk_files(0), before, "its chunks are untouched");
    assert_eq!(two.status("keepers_live"), 1);
    // Nothing is lost: at home it serves again.
    one.keeper(0).restart();
    one.wait_live(1);
    one.dfs(&["get", "/movie.mp4", &text(one.scratch.path("back"))]).ok();
    film::same(&film::small(), &one.scratch.path("back"));
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused() {
    let mut cluster = Cluster::builder().keepers(1).start();
    cluster.keeper(0).kill();
    let identity = cluster.keeper_data(0).join("IDENTITY");
    let old = fs::read_to_string(&identity).unwrap();
    let new: String = old
        .lines()
        .map(|l| if l.starts_with("format") { "format = 99\n".into() } else { format!("{l}\n") })
        .collect();
    assert_ne!(old, new, "no format in {old}");
    fs::write(&identity, &new).unwrap();
    let data = text(cluster.keeper_data(0));
    let start =
        |data: &str| ours(&cluster.scratch, "dfs-keeper", &["--data", data, "--master", cluster.address()]);
    start(&data).one_line_error("dfs-keeper", &[&data, "99", "newer"]);
    assert_eq!(fs::read_to_string(&identity).unwrap(), new, "it was written to");
    fs::write(&identity, "rubbish").unwrap();
    start(&data).one_line_error("dfs-keeper", &[&data, "IDENTITY"]);
}

#[test]
fn a_damaged_store_of_the_master_is_refused_and_left_alone() {
    let mut cluster = Cluster::builder().keepers(1).start();
    cluster.master.kill();
    let store = cluster.scratch.path("master/master.redb");
    let rubbish = vec![0x5a; 100_000];
    fs::write(&store, &rubbish).unwrap();
    let data = text(cluster.scratch.path("master"));
    ours(&cluster.scratch, "dfs-master", &["--data", &data, "--listen", "127.0.0.1:0"])
        .one_line_error("dfs-master", &["master.redb"]);
    assert!(fs::read(&store).unwrap() == rubbish);
}

#[test]
fn the_data_directory_of_a_running_process_is_refused() {
    let cluster = Cluster::builder().keepers(1).start();
    let scratch = &cluster.scratch;
    let (master, keeper) = (text(scratch.path("master")), text(cluster.keeper_data(0)));
    ours(scratch, "dfs-master", &["--data", &master, "--listen", "127.0.0.1:0"])
        .one_line_error("dfs-master", &[&master, "in use"]);
    ours(scratch, "dfs-keeper", &["--data", &keeper, "--master", cluster.address()])
        .one_line_error("dfs-keeper", &[&keeper, "in use"]);
    assert_eq!(cluster.live(), 1, "the running ones are as they were");
}

#[test]
fn a_data_directory_that_is_not_writable_is_named() {
    require_root();
    let cluster = Cluster::builder().keepers(1).start();
    let scratch = &cluster.scratch;
    let closed = scratch.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::create_dir(scratch.path("home/mnt")).unwrap();
    chown(scratch.path("home/mnt"), Some(65_534), Some(65_534)).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
    for data in [text(&closed), text(closed.join("below"))] {
        let address = cluster.address();
        for (binary, args) in [
            ("dfs-master", vec!["--data", &data, "--listen", "127.0.0.1:0"]),
            ("dfs-keeper", vec!["--data", &data, "--master", address, "--join-timeout", "2s"]),
            ("dfs-mount", vec!["--data", &data, "-f", "home/mnt"]),
        ] {
            let mut command = scratch.as_nobody(binary);
            run(command.args(args).current_dir(scratch.dir()), secs(45)).one_line_error(binary, &[&data]);
        }
    }
}

#[test]
fn a_mount_point_that_is_a_file_is_refused() {
    let cluster = Cluster::builder().keepers(1).start();
    let file = cluster.scratch.path("file");
    fs::write(&file, b"content").unwrap();
    for flags in [&[][..], &["-f"]] {
        let args = [&["--master", cluster.address(), file.to_str().unwrap()], flags].concat();
        ours(&cluster.scratch, "dfs-mount", &args)
            .one_line_error("dfs-mount", &[&text(&file), "not a directory"]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"content");
}

#[test]
fn a_mount_point_that_is_not_empty_is_used_with_a_note_and_hidden_only_meanwhile() {
    let cluster = Cluster::builder().keepers(1).start();
    let dir = cluster.scratch.path("mnt/full");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("below"), b"content").unwrap();
    let ran =
        ours(&cluster.scratch, "dfs-mount", &["--master", cluster.address(), dir.to_str().unwrap()]).ok();
    assert!(ran.stderr.contains("not empty"), "no note: {ran:#?}");
    assert!(!dir.join("below").exists());
    dfs_tests::mount::unmount(&dir);
    assert_eq!(fs::read(dir.join("below")).unwrap(), b"content");
}

#[test]
fn a_mount_point_that_is_already_mounted_is_refused() {
    let mut cluster = Cluster::builder().keepers(1).start();
    let mount = cluster.mount();
    fs::write(mount.path("file"), b"content").unwrap();
    let dir = text(mount.dir());
    ours(&cluster.scratch, "dfs-mount", &["--master", cluster.address(), &dir])
        .one_line_error("dfs-mount", &[&dir, "mounted", cluster.address()]);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
    mount.unmount();
}

/// Runs a script in a mount namespace of its own, where /dev is as the script makes it.
fn in_own_namespace(scratch: &Scratch, script: &str, args: &[&str]) -> Ran {
    require_root();
    let mut command = scratch.program("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-euc", script, "sh"]).args(args);
    run(&mut command, secs(45))
}

#[test]
fn without_dev_fuse_the_remedy_is_told() {
    let cluster = Cluster::builder().keepers(1).start();
    let script = r#"
        mkdir "$2" "$3"; mount --bind /dev "$3"; mount -t tmpfs none /dev
        for device in null urandom random zero; do : >/dev/$device; mount --bind "$3/$device" /dev/$device; done
        exec dfs-mount --master "$1" "$2""#;
    let (dir, dev) = (text(cluster.scratch.path("mnt/x")), text(cluster.scratch.path("dev")));
    in_own_namespace(&cluster.scratch, script, &[cluster.address(), &dir, &dev])
        .one_line_error("dfs-mount", &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn not_root_and_without_fusermount3_the_remedy_is_told() {
    let cluster = Cluster::builder().keepers(1).start();
    cluster.scratch.as_nobody("dfs-mount");
    let script = r#"
        mkdir "$2"; chown 65534:65534 "$2"
        for dir in /usr/bin /bin /usr/local/bin /usr/sbin /sbin; do
            for name in fusermount3 fusermount; do
                [ ! -f "$dir/$name" ] || mount --bind /dev/null "$(readlink -f "$dir/$name")"
            done
        done
        PATH=/nowhere exec "$3" --reuid=65534 --regid=65534 --clear-groups "$4" --master "$1" "$2""#;
    let (dir, program) = (text(cluster.scratch.path("home/x")), text(cluster.scratch.path("bin/dfs-mount")));
    let setpriv = run(std::process::Command::new("sh").args(["-c", "command -v setpriv"]), secs(5)).ok();
    in_own_namespace(&cluster.scratch, script, &[cluster.address(), &dir, setpriv.stdout.trim(), &program])
        .one_line_error("dfs-mount", &["fusermount3", "install fuse3", "root"]);
}

#[test]
fn unknown_flags_and_values_are_named_and_the_exit_is_2() {
    let scratch = Scratch::new();
    for binary in ["dfs-master", "dfs-keeper", "dfs-mount", "dfs"] {
        let ran = ours(&scratch, binary, &["--no-such-flag"]);
        assert_eq!(ran.status.code(), Some(2), "{ran:#?}");
        assert!(ran.stderr.contains("--no-such-flag"), "{ran:#?}");
        let help = ours(&scratch, binary, &["--help"]).ok();
        assert!(help.stdout.contains("Usage") && help.stdout.contains("DFS_"), "{help:#?}");
        assert!(ours(&scratch, binary, &["--version"]).ok().stdout.starts_with(binary));
    }
    let data = text(scratch.path("data"));
    for (args, named) in [
        (["--chunk-size", "8 apples"], "8 apples"),
        (["--replicate-every", "10"], "10"),
        (["--copies", "0"], "copies"),
        (["--min-copies", "4"], "min-copies"),
        (["--chunk-size", "100"], "chunk-size"),
        (["--listen", "nowhere"], "nowhere"),
    ] {
        let ran = ours(&scratch, "dfs-master", &[&["--data", &data][..], &args].concat());
        assert!(!ran.status.success() && ran.stderr.contains(named), "{args:?}: {ran:#?}");
    }
    let ran = ours(&scratch, "dfs-mount", &["-o", "alow_other", &text(scratch.path("mnt/x"))]);
    assert_eq!(ran.status.code(), Some(2), "{ran:#?}");
    assert!(ran.stderr.contains("alow_other"), "{ran:#?}");
}
