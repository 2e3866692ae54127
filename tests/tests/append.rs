//! O_APPEND from several mounts at once.
//!
//! Covers: no record is lost, torn or out of order, while three mounts append and while one of them is killed; writes
//! larger than one FUSE request; a mount that lost the lease without knowing it; one who appends alone asks the master for the append lease once; what was appended
//! is read back in the right place, also where the kernel had older pages and an older size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, wait_until};

/// Appends numbered records of random length until its input ends; says after each fsync how many are safe.
const PROGRAM: &str = r#"
import os, random, select, sys
path, who = sys.argv[1], int(sys.argv[2])
rng = random.Random(who)
fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
n = 0
try:
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(10):
            length = rng.randint(1, 8000)
            record = b'%d %d %d %s\n' % (who, n, length, bytes([97 + who]) * length)
            assert os.write(fd, record) == len(record)
            n += 1
        os.fsync(fd)
        print(n, flush=True)
    os.close(fd)
    print('end', flush=True)
except OSError as e:
    print('error', e.errno, flush=True)
"#;

/// A process that appends.
struct Appender {
    child: Child,
    /// Records that fsync has returned for.
    safe: Arc<AtomicU64>,
    output: Option<std::thread::JoinHandle<String>>,
}

impl Appender {
    fn start(file: &Path, who: u64) -> Appender {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(file).arg(who.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let safe = Arc::new(AtomicU64::new(0));
        let counter = safe.clone();
        let output = std::thread::spawn(move || {
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                if let Ok(count) = line.parse() {
                    counter.store(count, Ordering::SeqCst);
                }
                last = line;
            }
            last
        });
        Appender { child, safe, output: Some(output) }
    }

    fn safe(&self) -> u64 {
        self.safe.load(Ordering::SeqCst)
    }

    /// Ends it; returns the last that it said.
    fn stop(&mut self) -> String {
        drop(self.child.stdin.take());
        self.output.take().unwrap().join().unwrap()
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two processes on each mount.
fn start_all(mounts: &[Mount]) -> Vec<Appender> {
    let each = |who: usize| Appender::start(&mounts[who / 2].path("log"), who as u64);
    (0..mounts.len() * 2).map(each).collect()
}

#[track_caller]
fn wait_for_more(appenders: &[Appender], records: u64) {
    let before: Vec<u64> = appenders.iter().map(Appender::safe).collect();
    wait_until(secs(40), "everybody gets ahead", || {
        appenders.iter().zip(&before).all(|(appender, before)| appender.safe() >= before + records)
    });
}

/// The number of whole records of each process. All must be whole, and in the order in which it wrote them.
#[track_caller]
fn count_records(content: &[u8]) -> BTreeMap<u64, u64> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    assert!(content.ends_with(b"\n"), "the last record is torn");
    for (line, record) in content[..content.len() - 1].split(|byte| *byte == b'\n').enumerate() {
        let begin = String::from_utf8_lossy(&record[..record.len().min(60)]).into_owned();
        let mut words = begin.splitn(4, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(who), Some(n), Some(length)) = (number(), number(), number()) else {
            panic!("record {line} is torn: {begin:?}")
        };
        let head = format!("{who} {n} {length} ").len();
        let body = &record[head.min(record.len())..];
        let whole = body.len() as u64 == length && body.iter().all(|byte| u64::from(*byte) == 97 + who);
        assert!(whole, "record {line} is torn: {} bytes of {begin:?}", record.len());
        let count = counts.entry(who).or_default();
        assert_eq!(n, *count, "record {line} of process {who} is lost, double or out of order");
        *count += 1;
    }
    counts
}

fn cluster(mounts: usize) -> (Cluster, Vec<Mount>) {
    let mut cluster = Cluster::builder().keepers(2).copies(2).start();
    let mounts = (0..mounts).map(|_| cluster.mount()).collect();
    (cluster, mounts)
}

#[test]
fn three_mounts_append_and_no_record_is_lost_or_torn() {
    let (_cluster, mounts) = cluster(3);
    let mut appenders = start_all(&mounts);
    wait_for_more(&appenders, 100);
    for appender in &mut appenders {
        assert_eq!(appender.stop(), "end");
    }
    let counts = count_records(&fs::read(mounts[0].path("log")).unwrap());
    for (who, appender) in appenders.iter().enumerate() {
        assert_eq!(counts.get(&(who as u64)), Some(&appender.safe()), "records of process {who}");
    }
    assert_eq!(fs::read(mounts[2].path("log")).unwrap(), fs::read(mounts[0].path("log")).unwrap());
}

#[test]
fn a_mount_that_is_killed_while_it_appends_tears_and_loses_nothing_that_was_safe() {
    let (_cluster, mut mounts) = cluster(3);
    let mut appenders = start_all(&mounts);
    wait_for_more(&appenders, 20);
    mounts[2].kill();
    wait_for_more(&appenders[..4], 20);
    let last: Vec<String> = appenders.iter_mut().map(Appender::stop).collect();
    assert_eq!(&last[..4], ["end"; 4], "{last:?}");
    let counts = count_records(&fs::read(mounts[0].path("log")).unwrap());
    for (who, appender) in appenders.iter().enumerate() {
        let (count, safe) = (counts[&(who as u64)], appender.safe());
        assert!(count == safe || who >= 4 && count > safe, "process {who}: {count} records, {safe} safe");
    }
}

#[test]
fn writes_larger_than_a_fuse_request_stay_in_one_piece() {
    let (_cluster, mounts) = cluster(2);
    const LENGTH: usize = 3 * 1024 * 1024 + 77;
    std::thread::scope(|scope| {
        for (who, mount) in mounts.iter().enumerate() {
            let path = mount.path("big");
            scope.spawn(move || {
                let mut file = File::options().append(true).create(true).open(path).unwrap();
                let record = vec![b'a' + who as u8; LENGTH];
                for _ in 0..6 {
                    assert_eq!(file.write(&record).unwrap(), LENGTH);
                }
            });
        }
    });
    let content = fs::read(mounts[0].path("big")).unwrap();
    assert_eq!(content.len(), 12 * LENGTH);
    let whole = |record: &[u8]| record.iter().all(|byte| *byte == record[0]);
    assert!(content.chunks(LENGTH).all(whole), "a write is torn");
}

#[test]
fn one_who_appends_alone_asks_for_the_lease_once() {
    let mut cluster = Cluster::builder().keepers(2).copies(2).log("info,dfs_mount=debug").start();
    let (a, b) = (cluster.mount(), cluster.mount());
    let asked = |mount: &Mount| mount.process.log().matches("append lease asked for").count();
    let mut file = File::options().append(true).create(true).open(a.path("log")).unwrap();
    for n in 0..2000 {
        file.write_all(format!("{n:06}\n").as_bytes()).unwrap();
    }
    file.sync_all().unwrap();
    assert_eq!(asked(&a), 1);
    // Another mount waits for as long as an upload and two messages take, not longer.
    let began = Instant::now();
    let mut other = File::options().append(true).open(b.path("log")).unwrap();
    file.write_all(b"000001\n").unwrap();
    other.write_all(b"000002\n").unwrap();
    assert!(began.elapsed() < secs(5), "it took {:?}", began.elapsed());
    file.write_all(b"000003\n").unwrap();
    assert_eq!((asked(&a), asked(&b)), (2, 1));
    drop((file, other));
    let text = fs::read_to_string(b.path("log")).unwrap();
    assert_eq!(text.lines().count(), 2003);
    assert!(text.ends_with("000001\n000002\n000003\n"));
}

#[test]
fn what_is_appended_behind_an_older_size_is_read_back_in_its_place() {
    let (_cluster, mounts) = cluster(2);
    let (ours, theirs) = (mounts[0].path("f"), mounts[1].path("f"));
    fs::write(&ours, b"begin\n").unwrap();
    let reader = File::open(&ours).unwrap();
    let mut both = File::options().read(true).append(true).open(&ours).unwrap();
    // Not opened to append: it becomes so afterwards, with the kernel's pages in use.
    let mut turned = File::options().write(true).open(&ours).unwrap();
    rustix::fs::fcntl_setfl(&turned, rustix::fs::OFlags::APPEND).unwrap();
    let mut expected = b"begin\n".to_vec();
    let mut page = vec![0; 4096];
    for n in 0..20 {
        let length = reader.read_at(&mut page, 0).unwrap();
        assert_eq!(&page[..length], &expected[..length], "round {n}");
        let mut other = File::options().append(true).open(&theirs).unwrap();
        let line = format!("the other mount {n}\n");
        other.write_all(line.as_bytes()).unwrap();
        expected.extend_from_slice(line.as_bytes());
        drop(other);
        let line = format!("both {n}\n");
        both.write_all(line.as_bytes()).unwrap();
        let at = expected.len() as u64;
        expected.extend_from_slice(line.as_bytes());
        let mut back = vec![0; line.len()];
        both.read_exact_at(&mut back, at).unwrap();
        assert_eq!(back, line.as_bytes(), "round {n}: not read back where it is");
        let line = format!("turned {n}\n");
        turned.write_all(line.as_bytes()).unwrap();
        expected.extend_from_slice(line.as_bytes());
        wait_until(Duration::from_secs(5), "the kernel's pages are right again", || {
            fs::read(&ours).unwrap() == expected
        });
    }
    drop((both, turned));
    assert_eq!(fs::read(&theirs).unwrap(), expected);
}

/// Appends what it is told to: `write TEXT`, `fsync`; says what came of each.
const ORDERLY: &str = r#"
import errno, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print('ready', flush=True)
for line in sys.stdin:
    try:
        if line.startswith('write '):
            os.write(fd, line[6:].encode())
        else:
            os.fsync(fd)
        print('ok', flush=True)
    except OSError as e:
        print(errno.errorcode[e.errno], flush=True)
"#;

/// A process that appends when told. The test itself must not have files open on a mount that it stops: a program
/// that it starts then would close them, and wait for the mount, before it runs.
struct Orderly {
    child: Child,
    answers: std::io::Lines<BufReader<ChildStdout>>,
}

impl Orderly {
    fn start(file: &Path) -> Orderly {
        let mut command = Command::new("python3");
        command.args(["-c", ORDERLY]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(answers.next().unwrap().unwrap(), "ready");
        Orderly { child, answers }
    }

    #[track_caller]
    fn ask(&mut self, order: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{order}").unwrap();
        self.answers.next().expect("it has ended").unwrap()
    }
}

impl Drop for Orderly {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_mount_that_comes_back_too_late_overwrites_nothing_and_is_told() {
    let (mut cluster, mounts) = cluster(2);
    let (mut late, mut other) =
        (Orderly::start(&mounts[0].path("log")), Orderly::start(&mounts[1].path("log")));
    assert_eq!((late.ask("write safe"), late.ask("fsync")), ("ok".into(), "ok".into()));
    cluster.master.kill();
    // Under the lease, and nobody can take it.
    assert_eq!(late.ask("write late"), "ok");
    mounts[0].process.stop();
    cluster.restart_master();
    // Waits until the new master has given up on the holder.
    assert_eq!((other.ask("write other"), other.ask("fsync")), ("ok".into(), "ok".into()));
    mounts[0].process.cont();
    assert_eq!(late.ask("fsync"), "EIO");
    assert_eq!((late.ask("write again"), late.ask("fsync")), ("ok".into(), "ok".into()));
    assert_eq!(fs::read_to_string(mounts[1].path("log")).unwrap(), "safe\nother\nagain\n");
}
