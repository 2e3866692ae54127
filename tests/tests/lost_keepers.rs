//! More keepers dead at once than there are copies: what is lost gives EIO in bounded time and is named, the rest is
//! read as ever, and all of it comes back by itself with the keepers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, wait_until};

const FILES: u64 = 16;

#[test]
fn files_without_a_live_copy_give_eio_soon_are_named_and_come_back() {
    let mut cluster = Cluster::builder().keepers(4).copies(2).chunk_size("256KiB").start();
    let mount = cluster.mount();
    let mut rng = Rng::seeded(8);
    let contents: BTreeMap<String, Vec<u8>> =
        (0..FILES).map(|number| (format!("file-{number}"), rng.bytes(150_000))).collect();
    for (name, bytes) in &contents {
        fs::write(mount.path(name), bytes).unwrap();
    }
    mount.unmount();
    wait_until(secs(30), "two copies of everything", || {
        cluster.status("chunks") == FILES && cluster.status("under_replicated") == 0
    });
    let mount = cluster.mount();
    for keeper in 1..4 {
        cluster.keeper(keeper).kill();
    }
    let dir = mount.dir().to_owned();
    let read = |name: &String| {
        let begun = Instant::now();
        (fs::read(dir.join(name)), begun.elapsed())
    };
    let results: BTreeMap<&String, (std::io::Result<Vec<u8>>, Duration)> = std::thread::scope(|scope| {
        let reads: Vec<_> = contents.keys().map(|name| (name, scope.spawn(|| read(name)))).collect();
        reads.into_iter().map(|(name, read)| (name, read.join().unwrap())).collect()
    });
    let mut lost = BTreeSet::new();
    let mut longest = Duration::ZERO;
    for (name, (result, took)) in results {
        longest = longest.max(took);
        match result {
            Ok(bytes) => assert!(bytes == contents[name], "{name}: other bytes than were written"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{name}");
                lost.insert(format!("/{name}"));
            }
        }
    }
    println!("{} of {FILES} files without a live copy, longest read {longest:?}", lost.len());
    assert!(!lost.is_empty() && lost.len() < contents.len(), "{lost:?}");
    assert!(longest < secs(12), "a read of a lost file took {longest:?}");
    wait_until(secs(15), "dfs status names the lost files", || {
        let status = cluster.json(&["status"]);
        let named = status["lost_files"].as_array().unwrap().iter();
        named.map(|file| file.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>() == lost
    });

    for keeper in 1..4 {
        cluster.keeper(keeper).restart();
    }
    wait_until(secs(20), "nothing is lost any more", || cluster.status("lost") == 0);
    for (name, bytes) in &contents {
        assert!(fs::read(mount.path(name)).unwrap() == *bytes, "{name}: other bytes than were written");
    }
    assert_eq!(cluster.json(&["status"])["lost_files"].as_array().unwrap().len(), 0);
}
