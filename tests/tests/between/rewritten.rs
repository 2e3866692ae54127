//! A file that one mount writes anew again and again, in place, while another reads it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dfs_tests::wait::secs;

use crate::two;

/// Each content is of one letter, and as long as no other.
fn content(round: usize) -> Vec<u8> {
    vec![b'a' + (round % 26) as u8; 10 + round * 997 % 9000]
}

/// Checks that nobody was shown a byte that nobody wrote.
fn check(seen: &[u8], how: &str) {
    let zeroes = seen.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeroes, 0, "{how}: {zeroes} zeroes among {} bytes", seen.len());
}

fn read_again_and_again(file: &Path, ended: &AtomicBool) -> (u64, u64) {
    let open = File::open(file).unwrap();
    let (mut reads, mut not_empty) = (0, 0);
    let mut buffer = vec![0; 16_384];
    while !ended.load(Ordering::Relaxed) {
        let length = open.read_at(&mut buffer, 0).unwrap();
        check(&buffer[..length], "through a file that stays open");
        let whole = fs::read(file).unwrap();
        check(&whole, "through a file that was opened anew");
        reads += 1;
        not_empty += u64::from(!whole.is_empty());
    }
    (reads, not_empty)
}

// SEMANTICS.md: "never filled up with zeroes that nobody wrote".
#[test]
fn a_file_that_is_written_anew_in_place_never_shows_zeroes() {
    let (_cluster, a, b) = two();
    fs::write(a.path("f"), content(0)).unwrap();
    let (ended, theirs) = (AtomicBool::new(false), b.path("f"));
    std::thread::scope(|threads| {
        let readers: Vec<_> =
            (0..2).map(|_| threads.spawn(|| read_again_and_again(&theirs, &ended))).collect();
        let until = Instant::now() + secs(4);
        let mut rounds = 0;
        while Instant::now() < until && !readers.iter().any(|reader| reader.is_finished()) {
            rounds += 1;
            fs::write(a.path("f"), content(rounds)).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        for reader in readers {
            let (reads, not_empty) = reader.join().unwrap();
            println!("{rounds} contents, {reads} reads, {not_empty} of them not empty");
            assert!(not_empty > 0);
        }
    });
}
