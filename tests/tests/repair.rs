//! Repair and moves, and what they leave to others.
//!
//! Covers: the periodic scan repairs what no event announced; chunks move into a rack that came later; `dfs rebalance`
//! evens out, and can be stopped; `--repair-rate` is kept; while much is being repaired, a film is read from the same
//! keepers without a stall, and a read keeps its speed. The last has 200 MiB to repair; DFS_TEST_REPAIR=20GiB is the long form,
//! which also asserts the 70 % that it prints.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use dfs_proto::units::Size;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, film, require_root, run_ok, wait_until};

const MIB: u64 = 1 << 20;

fn put_small(cluster: &Cluster) {
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
}

#[test]
fn the_periodic_scan_repairs_what_no_event_announced() {
    require_root();
    let mut cluster = Cluster::builder().keepers(2).chunk_size("1MiB").replicate_every("2s").start();
    // The third keeper's disk is full until a file of somebody else goes, of which nobody is told.
    let data = cluster.keeper_data(2);
    fs::create_dir(&data).unwrap();
    run_ok(&["mount", "-t", "tmpfs", "-o", "size=150m", "none", data.to_str().unwrap()]);
    fs::create_dir(data.join("lost+found")).unwrap();
    let other = data.join("lost+found/other");
    fs::write(&other, vec![1; 80 << 20]).unwrap();
    let third = cluster.add_keeper();
    put_small(&cluster);
    let chunks = cluster.live_copies("/movie.mp4").len();
    assert!(cluster.live_copies("/movie.mp4").iter().all(|(_, live)| *live == 2));
    assert_eq!(cluster.status("under_replicated"), chunks as u64);
    fs::remove_file(&other).unwrap();
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    assert_eq!(cluster.chunk_files(third).len(), chunks);
}

#[test]
fn chunks_move_into_a_rack_that_came_later() {
    let mut cluster = Cluster::builder().keepers(0).chunk_size("1MiB").start();
    for host in ["host=a", "host=b", "host=c"] {
        cluster.add_keeper_with(&["--label", "rack=1", "--label", host]);
    }
    put_small(&cluster);
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    let chunks = cluster.live_copies("/movie.mp4").len();
    let fourth = cluster.add_keeper_with(&["--label", "rack=2", "--label", "host=d"]);
    wait_until(secs(60), "every chunk has a copy in rack 2, and no copy too many", || {
        let files: usize = (0..4).map(|i| cluster.chunk_files(i).len()).sum();
        cluster.chunk_files(fourth).len() == chunks && files == 3 * chunks
    });
    cluster.wait_copies("/movie.mp4", 3, secs(10));
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));
}

#[test]
fn rebalancing_evens_out_and_can_be_stopped() {
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    put_small(&cluster);
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    let chunks = cluster.live_copies("/movie.mp4").len();
    let fourth = cluster.add_keeper();
    assert!(cluster.chunk_files(fourth).is_empty());
    cluster.dfs(&["rebalance", "start"]).ok();
    let stopped = cluster.json(&["rebalance", "stop"]);
    assert!(
        stopped["running"] == false && stopped["ended"].as_str().unwrap().contains("stopped"),
        "{stopped}"
    );
    let told = cluster.json(&["rebalance", "start", "--wait"]);
    assert!(told["running"] == false && told["ended"].as_str().unwrap().starts_with("done"), "{told}");
    assert!(told["moved_chunks"].as_u64().unwrap() > 0);
    let mean = 3 * chunks / 4;
    wait_until(secs(30), "keepers have as many chunks as the mean", || {
        let files: Vec<usize> = (0..4).map(|i| cluster.chunk_files(i).len()).collect();
        files.iter().sum::<usize>() == 3 * chunks && files.iter().all(|n| n.abs_diff(mean) <= 4)
    });
    let status = cluster.dfs(&["rebalance", "status"]).ok().stdout;
    assert!(status.starts_with("not rebalancing; the last one: done"), "{status}");
}

#[test]
fn the_repair_rate_is_kept() {
    let mut cluster = Cluster::builder().chunk_size("1MiB").master_flags(&["--repair-rate", "4MiB"]).start();
    put_small(&cluster);
    let length = fs::metadata(film::small()).unwrap().len();
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    cluster.keeper(0).kill();
    cluster.wait_live(2);
    let begun = Instant::now();
    cluster.add_keeper();
    cluster.wait_copies("/movie.mp4", 3, secs(120));
    let least_s = length as f64 / (4 * MIB) as f64;
    let took_s = begun.elapsed().as_secs_f64();
    println!("{} MiB were repaired in {took_s:.1} s, {least_s:.1} s at the least", length / MIB);
    assert!(took_s > 0.9 * least_s, "{took_s} s instead of {least_s} s");
}

/// Reads a file of a new mount from its start to its end. Returns MiB a second, and the longest that one read took.
fn read_cold(cluster: &mut Cluster, name: &str) -> (f64, Duration) {
    let mount = cluster.mount_with(&["--cache-size", "64MiB"]);
    let mut file = File::open(mount.path(name)).unwrap();
    let (mut piece, mut bytes, mut longest) = (vec![0; 1 << 20], 0, Duration::ZERO);
    let begun = Instant::now();
    loop {
        let before = Instant::now();
        let n = file.read(&mut piece).unwrap();
        longest = longest.max(before.elapsed());
        if n == 0 {
            break;
        }
        bytes += n;
    }
    let speed = bytes as f64 / MIB as f64 / begun.elapsed().as_secs_f64();
    drop(file);
    mount.unmount();
    (speed, longest)
}

/// Reads a film as fast as it is played, 16 Mbit/s. Returns the longest that a read took.
fn play(cluster: &mut Cluster, name: &str, period: Duration) -> Duration {
    const STEP: Duration = Duration::from_millis(125);
    let mount = cluster.mount_with(&["--cache-size", "64MiB"]);
    let mut file = File::open(mount.path(name)).unwrap();
    let (mut piece, mut longest) = (vec![0; 256 << 10], Duration::ZERO);
    let begun = Instant::now();
    let mut due = Duration::ZERO;
    while begun.elapsed() < period {
        let before = Instant::now();
        if file.read(&mut piece).unwrap() == 0 {
            break;
        }
        longest = longest.max(before.elapsed());
        due += STEP;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    drop(file);
    mount.unmount();
    longest
}

#[test]
fn while_much_is_repaired_a_film_plays_and_a_read_keeps_its_speed() {
    let asked = std::env::var("DFS_TEST_REPAIR").ok();
    let is_long = asked.is_some();
    let size: Size = asked.unwrap_or("200MiB".into()).parse().unwrap();
    let (rounds, period) = if is_long { (8, secs(60)) } else { (2, secs(4)) };
    let mut cluster = Cluster::start();
    let part = fs::metadata(film::medium()).unwrap().len();
    let films = size.0.div_ceil(part).max(2);
    for i in 0..films {
        cluster.dfs(&["put", film::medium().to_str().unwrap(), &format!("/film-{i}.mp4")]).ok();
    }
    let limit = secs(60 + 10 * size.0 / (100 * MIB));
    wait_until(limit, "all has three copies", || cluster.status("under_replicated") == 0);

    // Nobody misses the dead keeper until its maintenance is over; so both can be measured in turn.
    let dead = cluster.keeper_id(0).to_string();
    let maintenance = |cluster: &Cluster, switch| drop(cluster.dfs(&["maintenance", &dead, switch]).ok());
    maintenance(&cluster, "on");
    cluster.keeper(0).kill();
    cluster.wait_live(2);
    let fresh = cluster.add_keeper();
    let (mut alone, mut beside, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for round in 0..rounds {
        // What has been ordered ends first.
        wait_until(secs(60), "nothing is repaired", || cluster.status("copies_under_way") == 0);
        alone.push(read_cold(&mut cluster, "film-0.mp4").0);
        maintenance(&cluster, "off");
        wait_until(secs(30), "repair goes on", || cluster.status("copies_under_way") > 0);
        let (speed, stall) = read_cold(&mut cluster, "film-0.mp4");
        assert!(cluster.status("under_replicated") > 0, "round {round}: the repair was over too soon");
        beside.push(speed);
        longest = longest.max(stall);
        if round + 1 < rounds {
            maintenance(&cluster, "on");
        }
    }
    let begun = Instant::now();
    let before = cluster.chunk_files(fresh).len();
    let slowest = play(&mut cluster, "film-1.mp4", period);
    let repaired = (cluster.chunk_files(fresh).len() - before) as f64 * 8.0 / begun.elapsed().as_secs_f64();
    let mean = |speeds: &[f64]| speeds.iter().sum::<f64>() / speeds.len() as f64;
    let ratio = mean(&beside) / mean(&alone);
    println!("reads alone {alone:.0?} MiB/s, beside repair {beside:.0?} MiB/s: {:.0} %", ratio * 100.0);
    println!(
        "longest read {longest:?}; while a film played {slowest:?}, and {repaired:.0} MiB/s were repaired"
    );
    assert!(longest < secs(2) && slowest < secs(2), "a read took {longest:?}, one of the film {slowest:?}");
    if is_long {
        assert!(ratio >= 0.7, "a read keeps {:.0} % of its speed", ratio * 100.0);
    }
    wait_until(limit, "the repair is done", || cluster.status("under_replicated") == 0);
}
