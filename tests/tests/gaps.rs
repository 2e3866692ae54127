//! How long readers and writers are held up when a keeper dies, stops or is cut off in the middle of things.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, wait_until};

/// What the issue asks for.
const READER: Duration = secs(2);
const WRITER: Duration = secs(4);

/// How long each keeper is away. Long enough that the master finds it dead.
const AWAY: Duration = Duration::from_millis(4500);

const MIB: usize = 1 << 20;
const SIZE: usize = 48 * MIB;

/// Does something again and again until told to stop; gives how often, and the longest that once took.
struct Runner {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Runner {
    fn start(mut once: impl FnMut() + Send + 'static) -> Runner {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                once();
                longest = longest.max(begun.elapsed());
                count += 1;
            }
            (count, longest)
        });
        Runner { stop, thread }
    }

    fn end(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Out of the kernel's cache.
fn drop_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Reads from the start to the end and again, a MiB at a time.
fn stream(path: PathBuf, right: Arc<Vec<u8>>) -> Runner {
    let mut file = File::open(&path).unwrap();
    let (mut piece, mut at) = (vec![0; MIB], 0);
    Runner::start(move || {
        if at == right.len() {
            drop_pages(&file);
            file = File::open(&path).unwrap();
            at = 0;
        }
        file.read_exact(&mut piece).unwrap();
        assert!(piece == right[at..at + MIB], "wrong bytes at {at}");
        at += MIB;
    })
}

/// Reads 64 KiB here and there.
fn pick(path: &Path, right: Arc<Vec<u8>>) -> Runner {
    let (file, mut rng, mut piece) = (File::open(path).unwrap(), Rng::new(7), vec![0; 65_536]);
    Runner::start(move || {
        let at = rng.below((SIZE / 65_536) as u64) as usize * 65_536;
        drop_pages(&file);
        file.read_exact_at(&mut piece, at as u64).unwrap();
        assert!(piece == right[at..at + 65_536], "wrong bytes at {at}");
    })
}

fn stored() -> Vec<u8> {
    Rng::new(3).bytes(3 * MIB)
}

/// Writes one file after the other and closes each, some with fsync.
fn store(dir: &Path) -> Runner {
    let (dir, bytes, mut count) = (dir.to_owned(), stored(), 0);
    Runner::start(move || {
        let path = dir.join(format!("w{}", count % 8));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all(&bytes).unwrap();
        if count % 4 == 0 {
            file.sync_all().unwrap();
        }
        drop(file);
        // What close(2) has to say std does not tell; the bytes are looked at in the end.
        count += 1;
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Kill,
    Stop,
    Cut,
}

fn go_through(fault: Fault) {
    let builder = Cluster::builder().replicate_every("60s").log("info,dfs::upload=debug");
    let mut cluster = if fault == Fault::Cut { builder.network().start() } else { builder.start() };
    let right = Arc::new(Rng::new(5).bytes(SIZE));
    // Little cache, so that nearly everything is fetched from keepers.
    let (reader, writer) = (cluster.mount_with(&["--cache-size", "16MiB"]), cluster.mount());
    fs::write(writer.path("big"), &*right).unwrap();
    cluster.wait_copies("/big", 3, secs(60));
    // The long form takes each keeper in turn.
    let every = std::env::var_os("DFS_TEST_GAPS").is_some();
    for index in if every { 0..3 } else { 1..2 } {
        let (streams, picks) =
            (stream(reader.path("big"), right.clone()), pick(&reader.path("big"), right.clone()));
        let stores = store(writer.dir());
        std::thread::sleep(secs(1));
        match fault {
            Fault::Kill => cluster.keeper(index).kill(),
            Fault::Stop => cluster.keeper(index).stop(),
            Fault::Cut => cluster.network().isolate(&format!("keeper-{index}")),
        }
        std::thread::sleep(AWAY);
        match fault {
            Fault::Kill => cluster.keeper(index).restart(),
            Fault::Stop => cluster.keeper(index).cont(),
            Fault::Cut => cluster.network().heal_all(),
        }
        cluster.wait_live(3);
        let all = [
            ("reading on", streams, READER),
            ("reading here and there", picks, READER),
            ("storing files", stores, WRITER),
        ];
        // All figures, before the first that is too large.
        let ended = all.map(|(who, runner, limit)| {
            let (count, longest) = runner.end();
            println!("{fault:?} of keeper {index}: {who}: {count} times, the longest took {longest:?}");
            (who, count, longest, limit)
        });
        for (who, count, longest, limit) in ended {
            assert!(count > 10, "{who}: only {count} times");
            assert!(longest < limit, "{who}: {longest:?}");
        }
        check_stored(&reader);
    }
}

#[track_caller]
fn check_stored(mount: &Mount) {
    for n in 0..8 {
        let path = mount.path(format!("w{n}"));
        assert!(fs::read(&path).unwrap() == stored(), "{} is not what was written", path.display());
    }
}

#[test]
fn nobody_waits_long_when_a_keeper_is_killed() {
    go_through(Fault::Kill);
}

#[test]
fn nobody_waits_long_when_a_keeper_stands_still() {
    go_through(Fault::Stop);
}

#[test]
fn nobody_waits_long_when_a_keeper_is_cut_off() {
    go_through(Fault::Cut);
}

// A keeper that sends heartbeats though nobody reaches its data port.
#[test]
fn a_keeper_that_only_the_master_reaches_holds_up_no_upload() {
    let mut cluster = Cluster::builder().copies(2).network().start();
    let mount = cluster.mount();
    fs::write(mount.path("before"), stored()).unwrap();
    for other in ["mount-0", "keeper-1", "keeper-2"] {
        cluster.network().cut("keeper-0", other);
    }
    let store = |name: &str| {
        let begun = Instant::now();
        fs::write(mount.path(name), stored()).unwrap();
        let took = begun.elapsed();
        println!("{name} took {took:?}");
        took
    };
    for n in 0..4 {
        assert!(store(&format!("first{n}")) < WRITER);
    }
    // By now the master has heard of it.
    for n in 0..6 {
        assert!(store(&format!("later{n}")) < secs(1));
    }
    assert_eq!(cluster.live(), 3, "its heartbeats come");
    assert_eq!(cluster.status("endangered"), 0);
    // Now it would be needed, and cannot be had.
    cluster.keeper(2).kill();
    cluster.wait_live(2);
    assert!(store("needed0") < secs(10));
    assert!(store("needed1") < WRITER);
    assert!(cluster.status("endangered") > 0);
    cluster.network().heal_all();
    wait_until(secs(60), "nothing is endangered any more", || cluster.status("endangered") == 0);
    assert!(fs::read(mount.path("needed1")).unwrap() == stored());
}
