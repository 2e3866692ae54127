//! How long a reader or a writer waits when a keeper is killed or stands still in the middle of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng};

const READER: Duration = secs(2);
const WRITER: Duration = secs(4);

const PIECE: usize = 128 * 1024;

/// What is done to keeper 0 in the middle.
type Harm = fn(&mut Cluster);

const HARMS: [(&str, Harm); 2] =
    [("killed", |cluster| cluster.keeper(0).kill()), ("stopped", |cluster| cluster.keeper(0).stop())];

fn heal(cluster: &mut Cluster) {
    if cluster.keeper(0).is_running() {
        cluster.keeper(0).cont();
    } else {
        cluster.keeper(0).restart();
    }
    cluster.wait_live(3);
}

fn three() -> (Cluster, Vec<u8>) {
    let cluster = Cluster::builder().chunk_size("2MiB").start();
    (cluster, Rng::new(3).bytes(48 << 20))
}

fn read_whole(cluster: &mut Cluster, mount: &Mount, right: &[u8], harm: Harm) -> Duration {
    let mut file = File::open(mount.path("f")).unwrap();
    let (mut piece, mut at, mut longest, mut harmed) = (vec![0; PIECE], 0, Duration::ZERO, false);
    loop {
        if !harmed && at > right.len() / 3 {
            harm(cluster);
            harmed = true;
        }
        let begun = Instant::now();
        let read = file.read(&mut piece).unwrap();
        longest = longest.max(begun.elapsed());
        if read == 0 {
            break;
        }
        assert!(piece[..read] == right[at..at + read], "other bytes at {at}");
        at += read;
    }
    assert!(harmed && at == right.len());
    longest
}

#[test]
fn a_reader_waits_less_than_2_s_when_a_keeper_is_killed_or_stopped() {
    let (mut cluster, right) = three();
    let mount = cluster.mount();
    fs::write(mount.path("f"), &right).unwrap();
    mount.unmount();
    cluster.wait_copies("/f", 3, secs(30));
    for (name, harm) in HARMS {
        // A new mount, with nothing in its caches.
        let mount = cluster.mount();
        let longest = read_whole(&mut cluster, &mount, &right, harm);
        println!("the longest that a reader waited when a keeper was {name}: {longest:?}");
        assert!(longest < READER, "{name}: {longest:?}");
        heal(&mut cluster);
        mount.unmount();
    }
}

#[test]
fn a_writer_waits_less_than_4_s_when_a_keeper_is_killed_or_stopped() {
    let (mut cluster, bytes) = three();
    let mount = cluster.mount();
    for (name, harm) in HARMS {
        let path = mount.path(name);
        let mut file = File::create(&path).unwrap();
        let mut longest = Duration::ZERO;
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            if number == bytes.len() / PIECE / 3 {
                harm(&mut cluster);
            }
            let begun = Instant::now();
            file.write_all(piece).unwrap();
            longest = longest.max(begun.elapsed());
        }
        let begun = Instant::now();
        file.sync_all().unwrap();
        longest = longest.max(begun.elapsed());
        println!("the longest that a writer waited when a keeper was {name}: {longest:?}");
        assert!(longest < WRITER, "{name}: {longest:?}");
        drop(file);
        assert!(fs::read(&path).unwrap() == bytes, "{name}: other bytes");
        heal(&mut cluster);
    }
}
