//! kill -9 of dfs-mount in the middle of everything.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dfs_tests::amount::amount;
use dfs_tests::mount::{abort, is_usable};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, wait_for, wait_until};
use rustix::process::{Signal, kill_process};

/// Keeps a directory busy with changes that another mount has to be told of, for as long as the test runs.
const BUSY: &str = r#"cd "$1" || exit 1
while kill -0 "$PPID"; do
    echo "$2" >"f$2"; mv "f$2" g; cat g; ln g "h$2"; ls -l; rm -f "h$2"
    mkdir "d$2"; rmdir "d$2"; echo more >>all; dd if=/dev/zero of="b$2" bs=64k count=8 conv=fsync
done"#;

fn busy(dir: &Path, number: u32) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", BUSY, "sh"]).arg(dir).arg(number.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn end(mut children: Vec<Child>) {
    for child in &mut children {
        child.kill().unwrap();
        wait_for(secs(10), "a program on the dead mount ends", || child.try_wait().unwrap());
    }
}

#[test]
fn a_mount_killed_at_any_moment_ends_and_can_be_mounted_again_at_once() {
    let rounds = amount("DFS_TEST_KILLS", 4);
    let mut cluster = Cluster::builder().keepers(2).start();
    let (a, mut b) = (cluster.mount(), cluster.mount());
    let others: Vec<Child> = (0..3).map(|n| busy(a.dir(), n)).collect();
    for round in 0..rounds {
        let programs: Vec<Child> = (3..7).map(|n| busy(b.dir(), n)).collect();
        let (kept, text) = (b.path(format!("kept{round}")), format!("round {round}"));
        std::thread::sleep(std::time::Duration::from_millis(700 + 130 * (round % 7)));
        fs::write(&kept, &text).unwrap();
        b.process.signal(Signal::KILL);
        b.process.wait_exit(secs(10));
        end(programs);
        b.process.restart();
        wait_until(secs(10), "it is mounted again", || is_usable(b.dir()));
        assert_eq!(fs::read_to_string(b.path(format!("kept{round}"))).unwrap(), text);
        assert_eq!(fs::read_to_string(a.path(format!("kept{round}"))).unwrap(), text);
        wait_until(secs(5), "one guard for each mount", || cluster.scratch.guards().len() == 2);
    }
    end(others);
    b.unmount();
    a.unmount();
    wait_until(secs(5), "no guard is left", || cluster.scratch.guards().is_empty());
}

/// The kernel goes on giving out what it has cached of a root whose process is gone.
#[test]
fn a_killed_mount_whose_root_is_cached_can_be_mounted_again_at_once() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mut mount = cluster.mount();
    fs::create_dir(mount.path("below")).unwrap();
    fs::metadata(mount.dir()).unwrap();
    mount.process.signal(Signal::KILL);
    mount.process.wait_exit(secs(10));
    assert!(fs::metadata(mount.dir()).is_ok(), "it is not cached, and this test shows nothing");
    mount.process.restart();
    wait_until(secs(10), "it is mounted again", || {
        assert!(mount.process.is_running(), "refused: {}", mount.process.log_since_start());
        mount.process.log_since_start().contains("taken away") && is_usable(mount.dir())
    });
    assert!(mount.path("below").is_dir());
    mount.unmount();
}

/// A directory's lock is held by a program that waits for our answer, which waits for the master; and our notice that the
/// directory's names are not to be trusted waits for that lock, in the kernel, where no signal reaches it.
fn tied_up(cluster: &mut Cluster, dir: &Path) -> Child {
    fs::create_dir(dir.join("dir")).unwrap();
    for n in 0..10 {
        fs::write(dir.join(format!("dir/{n}")), "text").unwrap();
        fs::metadata(dir.join(format!("dir/{n}"))).unwrap();
    }
    cluster.master.stop();
    Command::new("mkdir").arg(dir.join("dir/new")).stderr(Stdio::null()).spawn().unwrap()
}

/// Does a thread of the process wait in the kernel, deaf to signals?
fn is_stuck(pid: rustix::process::Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    let state = |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D'));
    tasks.into_iter().any(|task| fs::read_to_string(task.path().join("stat")).is_ok_and(state))
}

#[test]
fn a_mount_that_is_killed_while_it_waits_in_the_kernel_ends_by_its_guard_alone() {
    let mut cluster = Cluster::builder().keepers(1).start();
    let (mut guarded, mut alone) = (cluster.mount(), cluster.mount());
    let mkdir = tied_up(&mut cluster, guarded.dir());
    wait_until(secs(10), "a notice waits in the kernel", || is_stuck(guarded.process.pid()));
    guarded.process.signal(Signal::KILL);
    guarded.process.wait_exit(secs(5));
    end(vec![mkdir]);
    cluster.master.cont();
    guarded.process.restart();
    wait_until(secs(20), "it is mounted again", || is_usable(guarded.dir()));
    fs::remove_dir_all(guarded.path("dir")).unwrap();
    guarded.unmount();

    wait_until(secs(20), "the other mount is whole", || fs::metadata(alone.path("dir")).is_err());
    for guard in cluster.scratch.guards() {
        kill_process(guard, Signal::KILL).unwrap();
    }
    let mut mkdir = tied_up(&mut cluster, alone.dir());
    wait_until(secs(10), "a notice waits in the kernel", || is_stuck(alone.process.pid()));
    let ended = alone.process.kill_within(secs(3));
    let waits = mkdir.try_wait().unwrap().is_none();
    abort(alone.dir());
    assert!(!ended && waits, "the guard is not needed any more: ARCHITECTURE.md says why it was");
    assert!(alone.process.kill_within(secs(10)), "what the guard does helps");
    end(vec![mkdir]);
    cluster.master.cont();
    alone.kill();
}
