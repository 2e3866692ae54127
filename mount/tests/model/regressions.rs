//! Sequences that once failed.

use crate::operation::Operation::{Append, Create, Remount, RestartMaster, Truncate};
use crate::operation::{Operation, Step};
use crate::{Player, fails};

#[track_caller]
fn replay(steps: Vec<(u8, Operation)>) {
    let steps: Vec<Step> = steps.into_iter().map(|(mount, operation)| Step { mount, operation }).collect();
    if let Err(why) = Player::new().play(&steps) {
        fails(&why, &steps);
    }
}

/// The master did not know yet which keepers were alive, and reads gave EIO until they had called.
#[test]
fn a_read_right_after_the_master_was_started_waits_for_the_keepers() {
    replay(vec![
        (0, Create { dir: 3, name: 0, mode: 0o644, user: false, exclusive: true, truncate: false }),
        (1, Append { handle: 0, length: 9464, seed: 222 }),
        (1, Truncate { node: 0, size: 2735 }),
        (0, RestartMaster),
        (0, Remount { closes: true }),
    ]);
}
