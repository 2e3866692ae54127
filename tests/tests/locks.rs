//! fcntl(2) locks between two mounts.
//!
//! Covers: exclusive and shared locks, byte ranges, EAGAIN, waits that end when the holder unlocks, closes or is
//! killed, EDEADLK across mounts, a waiter that is killed, a mount that is killed, a restart of the master; what was
//! written under a lock is seen under the next; flock within one mount.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, wait_for, wait_until};

/// Takes orders on its input: `sh|ex|un START LEN WAIT`, `close`, `add N`; says what came of each.
const PROGRAM: &str = r#"
import fcntl, os, sys, errno
fd = os.open(sys.argv[1], os.O_RDWR)
kinds = {'sh': fcntl.LOCK_SH, 'ex': fcntl.LOCK_EX, 'un': fcntl.LOCK_UN}
for line in sys.stdin:
    words = line.split()
    try:
        if words[0] == 'close':
            os.close(fd)
        elif words[0] == 'add':
            for _ in range(int(words[1])):
                fcntl.lockf(fd, fcntl.LOCK_EX)
                n = int(os.pread(fd, 20, 0) or b'0')
                os.pwrite(fd, b'%020d' % (n + 1), 0)
                fcntl.lockf(fd, fcntl.LOCK_UN)
        else:
            nb = 0 if words[3] == '1' or words[0] == 'un' else fcntl.LOCK_NB
            fcntl.lockf(fd, kinds[words[0]] | nb, int(words[2]), int(words[1]))
        print('ok', flush=True)
    except OSError as e:
        # Two names of one number.
        print(errno.errorcode[e.errno].replace('EDEADLOCK', 'EDEADLK'), flush=True)
"#;

/// A process that locks.
struct Locker {
    child: Child,
    orders: ChildStdin,
    answers: std::sync::mpsc::Receiver<String>,
}

impl Locker {
    fn new(file: &Path) -> Locker {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (orders, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Locker { child, orders, answers: lines(output) }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    #[track_caller]
    fn answer(&self, limit: Duration) -> String {
        self.answers.recv_timeout(limit).expect("no answer in time")
    }

    #[track_caller]
    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer(secs(20))
    }

    #[track_caller]
    fn still_waits(&self) {
        let answer = self.answers.recv_timeout(Duration::from_millis(300));
        assert!(answer.is_err(), "it had to wait, but: {answer:?}");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(output: ChildStdout) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Two mounts with one file, of which both know.
fn two() -> (Cluster, Mount, Mount) {
    let mut cluster = Cluster::builder().keepers(2).copies(2).start();
    let (a, b) = (cluster.mount(), cluster.mount());
    fs::write(a.path("f"), b"").unwrap();
    wait_until(secs(5), "the file is seen", || b.path("f").exists());
    (cluster, a, b)
}

#[test]
fn locks_conflict_across_mounts_by_range_and_mode() {
    let (_cluster, a, b) = two();
    let (mut a, mut b) = (Locker::new(&a.path("f")), Locker::new(&b.path("f")));
    assert_eq!(a.ask("ex 0 10 0"), "ok");
    assert_eq!(b.ask("sh 5 1 0"), "EAGAIN");
    assert_eq!(b.ask("ex 10 10 0"), "ok");
    assert_eq!(a.ask("sh 0 10 0"), "ok");
    assert_eq!(b.ask("sh 5 1 0"), "ok");
    assert_eq!(a.ask("ex 5 1 0"), "EAGAIN");
    assert_eq!(b.ask("un 0 0 0"), "ok");
    assert_eq!(a.ask("ex 0 0 0"), "ok");
}

#[test]
fn a_wait_ends_when_the_holder_unlocks_closes_or_dies() {
    let (_cluster, a, b) = two();
    let mut waiter = Locker::new(&b.path("f"));
    for way in ["unlock", "close", "kill"] {
        let mut holder = Locker::new(&a.path("f"));
        assert_eq!(holder.ask("ex 0 0 1"), "ok");
        waiter.order("ex 0 0 1");
        waiter.still_waits();
        match way {
            "unlock" => assert_eq!(holder.ask("un 0 0 0"), "ok"),
            "close" => assert_eq!(holder.ask("close"), "ok"),
            _ => holder.kill(),
        }
        assert_eq!(waiter.answer(secs(5)), "ok", "{way}");
        assert_eq!(waiter.ask("un 0 0 0"), "ok");
    }
}

#[test]
fn a_ring_across_mounts_gives_edeadlk() {
    let (_cluster, a, b) = two();
    let (mut a, mut b) = (Locker::new(&a.path("f")), Locker::new(&b.path("f")));
    assert_eq!(a.ask("ex 0 1 1"), "ok");
    assert_eq!(b.ask("ex 1 1 1"), "ok");
    a.order("ex 1 1 1");
    a.still_waits();
    assert_eq!(b.ask("ex 0 1 1"), "EDEADLK");
    assert_eq!(b.ask("un 0 0 0"), "ok");
    assert_eq!(a.answer(secs(5)), "ok");
}

#[test]
fn a_waiter_can_be_killed_and_holds_nothing_then() {
    let (_cluster, a, b) = two();
    let mut holder = Locker::new(&a.path("f"));
    assert_eq!(holder.ask("ex 0 0 1"), "ok");
    let mut waiter = Locker::new(&b.path("f"));
    waiter.order("ex 0 0 1");
    waiter.still_waits();
    waiter.kill();
    wait_for(secs(5), "the waiter has ended", || waiter.child.try_wait().unwrap());
    assert_eq!(holder.ask("un 0 0 0"), "ok");
    assert_eq!(Locker::new(&b.path("f")).ask("ex 0 0 0"), "ok");
}

#[test]
fn locks_of_a_killed_mount_are_free_after_their_grace() {
    let (_cluster, mut a, b) = two();
    let mut holder = Locker::new(&a.path("f"));
    assert_eq!(holder.ask("ex 0 0 1"), "ok");
    let mut waiter = Locker::new(&b.path("f"));
    a.kill();
    waiter.order("ex 0 0 1");
    waiter.still_waits();
    assert_eq!(waiter.answer(secs(15)), "ok");
}

#[test]
fn locks_survive_a_restart_of_the_master() {
    let (mut cluster, a, b) = two();
    let (mut holder, mut other) = (Locker::new(&a.path("f")), Locker::new(&b.path("f")));
    assert_eq!(holder.ask("ex 0 10 1"), "ok");
    cluster.master.kill();
    cluster.restart_master();
    assert_eq!(other.ask("ex 0 10 0"), "EAGAIN");
    assert_eq!(holder.ask("un 0 10 0"), "ok");
    assert_eq!(other.ask("ex 0 10 0"), "ok");
}

#[test]
fn what_was_written_under_a_lock_is_seen_under_the_next() {
    let (_cluster, a, b) = two();
    let (path, seen) = (a.path("f"), b.path("f"));
    let (mut a, mut b) = (Locker::new(&path), Locker::new(&seen));
    for locker in [&mut a, &mut b] {
        locker.order("add 100");
    }
    assert_eq!((a.answer(secs(60)), b.answer(secs(60))), ("ok".to_owned(), "ok".to_owned()));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{:020}", 200));
}

#[test]
fn flock_holds_within_a_mount() {
    let (_cluster, a, _b) = two();
    sh(r#"exec 9>>"$1"; flock -x 9; ! flock -n "$1" true; flock -u 9; flock -n "$1" true"#, &[a.path("f")]);
}
