//! fcntl(2) and flock(2) locks between two mounts.
//!
//! Covers: exclusive and shared locks, byte ranges, EAGAIN, waits that end when the holder unlocks, closes or is
//! killed, EDEADLK across mounts, a waiter that is killed or gets a signal, a mount that is killed, a restart of the
//! master; what was written under a lock is seen under the next; flock lives as long as the open file description, and
//! does not see fcntl's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, wait_for, wait_until};
use rustix::process::{Pid, Signal};

/// Takes orders on its input: `sh|ex|un START LEN WAIT`, `flock sh|ex|un WAIT`, `close`, `close-another`, `add N`; says
/// what came of each. SIGUSR1 ends a wait.
const PROGRAM: &str = r#"
import fcntl, os, sys, errno, signal
def interrupt(*_):
    raise InterruptedError(errno.EINTR, 'signal')
signal.signal(signal.SIGUSR1, interrupt)
fd = os.open(sys.argv[1], os.O_RDWR)
kinds = {'sh': fcntl.LOCK_SH, 'ex': fcntl.LOCK_EX, 'un': fcntl.LOCK_UN}
for line in sys.stdin:
    words = line.split()
    try:
        if words[0] == 'close':
            os.close(fd)
        elif words[0] == 'close-another':
            os.close(os.dup(fd))
            os.close(os.open(sys.argv[1], os.O_RDWR))
        elif words[0] == 'flock':
            nb = 0 if words[2] == '1' or words[1] == 'un' else fcntl.LOCK_NB
            fcntl.flock(fd, kinds[words[1]] | nb)
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
    assert_eq!(holder.ask("flock ex 1"), "ok");
    let (mut waiter, mut other) = (Locker::new(&b.path("f")), Locker::new(&b.path("f")));
    a.kill();
    waiter.order("ex 0 0 1");
    other.order("flock ex 1");
    waiter.still_waits();
    other.still_waits();
    assert_eq!(waiter.answer(secs(15)), "ok");
    assert_eq!(other.answer(secs(5)), "ok");
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
fn a_signal_ends_a_wait() {
    let (_cluster, a, b) = two();
    let mut holder = Locker::new(&a.path("f"));
    for lock in ["flock ex 1", "ex 0 0 1"] {
        assert_eq!(holder.ask(lock), "ok");
        let mut waiter = Locker::new(&b.path("f"));
        // It has begun, and so takes the signal.
        assert_eq!(waiter.ask("un 0 0 0"), "ok");
        waiter.order(lock);
        waiter.still_waits();
        rustix::process::kill_process(Pid::from_child(&waiter.child), Signal::USR1).unwrap();
        assert_eq!(waiter.answer(secs(5)), "EINTR", "{lock}");
    }
}

#[test]
fn flock_holds_across_mounts_and_ends_with_its_holder() {
    let (_cluster, a, b) = two();
    let mut waiter = Locker::new(&b.path("f"));
    for way in ["unlock", "close", "kill"] {
        let mut holder = Locker::new(&a.path("f"));
        assert_eq!(holder.ask("flock sh 0"), "ok");
        assert_eq!(waiter.ask("flock sh 0"), "ok");
        assert_eq!(waiter.ask("flock ex 0"), "EAGAIN");
        assert_eq!(waiter.ask("flock un 0"), "ok");
        assert_eq!(holder.ask("flock ex 0"), "ok");
        waiter.order("flock ex 1");
        waiter.still_waits();
        match way {
            "unlock" => assert_eq!(holder.ask("flock un 0"), "ok"),
            "close" => assert_eq!(holder.ask("close"), "ok"),
            _ => holder.kill(),
        }
        assert_eq!(waiter.answer(secs(5)), "ok", "{way}");
        assert_eq!(waiter.ask("flock un 0"), "ok");
    }
}

#[test]
fn flock_and_fcntl_do_not_see_each_other_and_only_fcntl_ends_with_any_close() {
    let (_cluster, a, b) = two();
    let (mut a, mut b) = (Locker::new(&a.path("f")), Locker::new(&b.path("f")));
    assert_eq!(a.ask("ex 0 0 0"), "ok");
    assert_eq!(b.ask("flock ex 0"), "ok");
    assert_eq!(b.ask("sh 0 0 0"), "EAGAIN");
    assert_eq!(a.ask("flock sh 0"), "EAGAIN");
    assert_eq!(b.ask("close-another"), "ok");
    assert_eq!(a.ask("flock sh 0"), "EAGAIN");
    assert_eq!(a.ask("close-another"), "ok");
    assert_eq!(b.ask("sh 0 0 0"), "ok");
    assert_eq!(b.ask("close"), "ok");
    wait_until(secs(5), "the last close has freed it", || a.ask("flock ex 0") == "ok");
}

#[test]
fn flock_of_a_process_that_ended_is_free_for_the_next_at_once() {
    let (_cluster, a, _b) = two();
    sh(
        r#"exec 9>>"$1"; flock -x 9; ! flock -n "$1" true; flock -u 9; for n in $(seq 50); do flock -n "$1" true; done"#,
        &[a.path("f")],
    );
}
