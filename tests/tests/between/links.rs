//! Names of one file that come and go on one mount while it is looked at there and changed on another.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::two;

/// Ends the other threads also when this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// The kernel counts a file's names down by itself, and was told the lower count by a look that came between.
#[test]
fn a_file_can_be_linked_whatever_looked_at_it_while_a_name_was_taken_away() {
    let (_cluster, a, b) = two();
    let (file, name, elsewhere) = (b.path("file"), b.path("name"), a.path("file"));
    File::create(&file).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        let _ends = Ends(&over);
        threads.spawn(|| {
            for mode in [0o600, 0o644].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                fs::set_permissions(&elsewhere, Permissions::from_mode(mode)).unwrap();
            }
        });
        for _ in 0..2 {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_ne!(fs::metadata(&file).unwrap().nlink(), 0);
                }
            });
        }
        for turn in 0..600 {
            fs::hard_link(&file, &name).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
            fs::remove_file(&name).unwrap();
        }
    });
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
}
