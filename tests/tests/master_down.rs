//! Reads of open files while the master is down, and while nobody can say whether it is.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, wait_for, wait_until};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;

const MIB: usize = 1 << 20;
/// A read that the master has no part in takes less, also on a busy machine.
const GOES_ON: Duration = Duration::from_secs(2);

/// A file of 24 MiB, open and read to its half.
fn half_read(mount: &Mount) -> (File, Vec<u8>) {
    let text = Rng::new(24).bytes(24 * MIB);
    fs::write(mount.path("film"), &text).unwrap();
    let mut file = File::open(mount.path("film")).unwrap();
    let mut half = vec![0; text.len() / 2];
    file.read_exact(&mut half).unwrap();
    assert!(half == text[..half.len()]);
    (file, text)
}

/// What a thread of its own comes to, so that it may wait for ever.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (to, from) = mpsc::channel();
    std::thread::spawn(move || to.send(work()));
    from
}

// SEMANTICS.md, "When something is away": "While the master is down ... reads of open files go on".
#[test]
fn while_the_master_is_down_reads_of_open_files_go_on() {
    let mut cluster = Cluster::builder().keepers(2).start();
    // Little is kept, so that the keepers are asked.
    let mount = cluster.mount_with(&["--cache-size", "4MiB"]);
    let (file, text) = half_read(&mount);
    let program =
        r#"exec 3<"$1/film"; head -c 1000000 <&3 >/dev/null; echo ready; read -r _; tail -c +1 <&3 | md5sum"#;
    let mut command = Command::new("bash");
    command.args(["-c", program, "bash"]).arg(mount.dir()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = command.spawn().unwrap();
    let mut line = [0; 6];
    reader.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();

    cluster.master.signal(Signal::KILL);
    let killed = Instant::now();
    let (mut rest, mut longest) = (Vec::new(), Duration::ZERO);
    let mut buffer = vec![0; MIB];
    loop {
        let begun = Instant::now();
        let file = file.try_clone().unwrap();
        let mut mine = std::mem::take(&mut buffer);
        let (length, back) = apart(move || ((&file).read(&mut mine).unwrap(), mine))
            .recv_timeout(secs(20))
            .expect("a read waits while the master is down");
        longest = longest.max(begun.elapsed());
        buffer = back;
        if length == 0 {
            break;
        }
        rest.extend_from_slice(&buffer[..length]);
    }
    println!("the longest read took {longest:?}, all {:?} after the kill", killed.elapsed());
    assert!(rest == text[text.len() / 2..], "other bytes");
    assert!(longest < GOES_ON, "a read took {longest:?}");
    cluster.master.kill();

    // Again, at any place, by another program, and what is asked for with it.
    let size = apart({
        let file = file.try_clone().unwrap();
        move || file.metadata().unwrap().len()
    });
    assert_eq!(size.recv_timeout(GOES_ON).expect("fstat waits"), text.len() as u64);
    drop(reader.stdin.take());
    let summed = apart(move || reader.wait_with_output().unwrap());
    let summed = summed.recv_timeout(secs(20)).expect("a program waits").stdout;
    let there = mount.dir().parent().unwrap().join("copy");
    fs::write(&there, &text[1_000_000..]).unwrap();
    let right = Command::new("md5sum").arg(&there).output().unwrap().stdout;
    assert_eq!(summed[..32], right[..32], "other bytes through a pipe");

    // What is not open is not known: it waits, and goes on when the master is back.
    let path = mount.path("film");
    let opened = apart(move || fs::read(path).unwrap());
    opened.recv_timeout(secs(1)).expect_err("opened without a master");
    cluster.restart_master();
    assert!(opened.recv_timeout(secs(20)).unwrap() == text);
    let mut some = vec![0; 1000];
    file.read_exact_at(&mut some, 5_000_000).unwrap();
    assert!(some == text[5_000_000..5_001_000]);
    drop(file);
    mount.unmount();
}

// "Silence says nothing": the master may live, and others may change what is read.
#[test]
fn while_the_master_is_silent_reads_wait_and_show_what_was_changed_meanwhile() {
    let mut cluster = Cluster::builder().keepers(2).network().start();
    let (a, b) = (cluster.mount(), cluster.mount());
    let (file, text) = half_read(&b);
    cluster.network().cut("mount-1", "master");
    let changed = Rng::new(1).bytes(1000);
    let other = File::options().write(true).open(a.path("film")).unwrap();
    other.write_all_at(&changed, 20_000_000).unwrap();
    // Held up until b is given up.
    other.sync_all().unwrap();
    drop(other);
    wait_for(secs(10), "the mount notices", || {
        b.process.log().contains("session with the master lost").then_some(())
    });
    // The keepers could be asked.
    let read = apart({
        let file = file.try_clone().unwrap();
        move || {
            let mut some = vec![0; 3000];
            file.read_exact_at(&mut some, 19_999_000).unwrap();
            some
        }
    });
    read.recv_timeout(secs(1)).expect_err("read though it could not know");
    // That it is refused later says nothing of what happened before.
    cluster.master.kill();
    cluster.network().heal_all();
    read.recv_timeout(secs(2)).expect_err("read though it could not know");
    cluster.restart_master();
    let seen = read.recv_timeout(secs(20)).unwrap();
    assert!(seen[..1000] == text[19_999_000..20_000_000]);
    assert!(seen[1000..2000] == changed, "stale");
    drop(file);
    b.unmount();
    a.unmount();
}

#[test]
fn while_the_master_is_stopped_reads_wait_and_go_on_after_it() {
    let mut cluster = Cluster::builder().keepers(2).start();
    let mount = cluster.mount();
    let (file, text) = half_read(&mount);
    cluster.master.stop();
    wait_for(secs(10), "the mount notices", || {
        mount.process.log().contains("session with the master lost").then_some(())
    });
    let read = apart(move || {
        let mut some = vec![0; 3000];
        file.read_exact_at(&mut some, 20_000_000).unwrap();
        some
    });
    read.recv_timeout(secs(1)).expect_err("read though it could not know");
    cluster.master.cont();
    assert!(read.recv_timeout(secs(20)).unwrap() == text[20_000_000..20_003_000]);
    mount.unmount();
}

/// Reads one byte of `file` again and again, until it is part of a hole. What it returns: when the last read that found it began.
fn watch(file: File, at: u64) -> mpsc::Receiver<Instant> {
    apart(move || {
        let mut last = Instant::now();
        loop {
            let (begun, mut byte) = (Instant::now(), [0]);
            file.read_exact_at(&mut byte, at).unwrap();
            if byte == [0] {
                return last;
            }
            last = begun;
        }
    })
}

// SEMANTICS.md, "When something is away": "a master that starts takes no change for its first 0.9 s".
#[test]
fn after_a_quick_restart_nobody_sees_what_was_before_a_change_that_is_done() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).network().start();
    let (a, b) = (cluster.mount(), cluster.mount());
    fs::write(a.path("file"), "0123456789").unwrap();
    for round in 1..=4 {
        let changed = File::options().write(true).open(a.path("file")).unwrap();
        let watched = File::open(b.path("file")).unwrap();
        // What was not read before is not known.
        watched.read_exact_at(&mut [0], round).unwrap();
        let last = watch(watched, round);
        cluster.master.kill();
        for mount in [&a, &b] {
            wait_until(secs(10), "the mount knows", || {
                mount.process.log().matches("nobody listens there").count() == round as usize
            });
        }
        let known = Instant::now();
        let change = apart(move || {
            // It needs no keeper, nor does the size change.
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&changed, hole, round, 1).unwrap();
            Instant::now()
        });
        std::thread::sleep(Duration::from_millis(100));
        // From now on its looks find nothing out: the worst that can be.
        cluster.network().cut_one_way("mount-1", "master");
        cluster.restart_master();
        let done = change.recv_timeout(secs(20)).unwrap();
        cluster.network().heal("mount-1", "master");
        let last = last.recv_timeout(secs(20)).unwrap();
        println!(
            "round {round}: the last read of old bytes {:?} after it was known, the change {:?}",
            last - known,
            done - known
        );
        assert!(last > known, "round {round}: nothing was read while the master was down");
        assert!(last < done, "round {round}: old bytes {:?} after the change was done", last - done);
    }
    b.unmount();
    a.unmount();
}
