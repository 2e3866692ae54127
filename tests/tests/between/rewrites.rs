//! A file that one mount writes anew again and again, while others read it: no byte that nobody wrote is ever seen.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dfs_tests::wait::secs;

use crate::two;

/// Bytes asked for at once: more than the file ever has.
const AT_ONCE: usize = 64 << 10;

/// The contents of a round: one letter, each time another one and another length.
fn contents(round: usize) -> Vec<u8> {
    vec![b'a' + (round % 26) as u8; 10 + round * 997 % 9000]
}

/// Looks at what `read` finds until `stop`; returns how often it found something.
fn look(stop: &AtomicBool, mut read: impl FnMut() -> Vec<u8>) -> usize {
    let mut found = 0;
    while !stop.load(Ordering::Relaxed) {
        let bytes = read();
        let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
        assert_eq!(zeroes, 0, "{zeroes} of {} bytes are zero, and nobody wrote a zero", bytes.len());
        found += usize::from(!bytes.is_empty());
    }
    found
}

/// At most `most` bytes, asked for at once; as everybody does it, again after EINTR.
fn read_at_once(file: &File, most: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; most];
    let length = loop {
        match file.read_at(&mut bytes, 0) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result.unwrap(),
        }
    };
    bytes.truncate(length);
    bytes
}

/// As `tail -c` does: it goes by the size that it was told.
fn read_by_size(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
    read_at_once(&file, size)
}

// DESIGN.md, 3: "a reader never sees bytes nobody wrote: not zeroes where an earlier chunk is still on its way".
#[test]
fn a_file_that_another_mount_writes_anew_never_shows_zeroes() {
    let (_cluster, a, b) = two();
    let (written, seen) = (a.path("f"), b.path("f"));
    // The other mount has never heard of the file when it is opened there.
    fs::write(&written, contents(1)).unwrap();
    let stop = AtomicBool::new(false);
    // Opened once, and read while it is written anew.
    let kept = File::open(&seen).unwrap();
    std::thread::scope(|threads| {
        let readers = [
            threads.spawn(|| look(&stop, || read_at_once(&kept, AT_ONCE))),
            threads.spawn(|| look(&stop, || fs::read(&seen).unwrap())),
            threads.spawn(|| look(&stop, || read_by_size(&seen))),
        ];
        let (begun, mut round) = (Instant::now(), 1);
        while begun.elapsed() < secs(4) && !readers.iter().any(|reader| reader.is_finished()) {
            round += 1;
            fs::write(&written, contents(round)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let found = readers.map(|reader| reader.join().unwrap());
        println!("{round} times written; read {found:?} times with something in it");
        assert!(found.iter().all(|found| *found > 0), "{found:?}");
    });
}
