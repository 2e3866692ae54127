//! Blocks that are written in place, and made safe with fsync. All mounts write to each of these files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

use super::root::Root;
use super::{FILES, Shared, operate, rest, whole};
use crate::faults::content::{BLOCK, blocks, file_number};
use crate::faults::log::{Action, How};
use crate::random::Rng;

/// Blocks of each mount in each file.
const BLOCKS: u32 = 48;

pub(super) fn path(number: u64) -> String {
    format!("place/f{number}")
}

/// The file as it is at first. It never changes its length.
pub(super) fn make(shared: &Shared, root: &mut Root, number: u64) {
    let (path, version, count) = (path(number), shared.next_version(), BLOCKS * shared.orders.mounts);
    let content = blocks(file_number(&path), version, 0..count, count);
    let action = Action::Replace { path: path.clone(), version, blocks: count, how: How::Truncate };
    assert!(root.find());
    assert!(operate(shared, root, action, |root| whole::write(root, &path, OFlags::TRUNC, &content)));
}

pub(super) fn run(shared: &Shared, mut rng: Rng) {
    let mut root = Root::new(shared);
    let mut open: Vec<Option<File>> = (0..FILES).map(|_| None).collect();
    while shared.going() && root.find() {
        let number = rng.below(FILES);
        let path = path(number);
        let of = BLOCKS * shared.orders.mounts;
        let begin = rng.below(u64::from(BLOCKS)) as u32;
        let count = 1 + rng.below(u64::from(BLOCKS - begin).min(8)) as u32;
        let first = shared.orders.mount * BLOCKS + begin;
        let version = shared.next_version();
        let content = blocks(file_number(&path), version, first..first + count, of);
        let file = &mut open[number as usize];
        let action = Action::Overwrite { path: path.clone(), version, first, count };
        let done = operate(shared, &mut root, action, |root| {
            let file = keep_open(file, || root.open(&path, OFlags::RDWR)).map_err(|error| ("open", error))?;
            file.write_all_at(&content, u64::from(first) * BLOCK as u64).map_err(|error| ("write", error))?;
            file.sync_data().map_err(|error| ("fsync", error))
        });
        // Sometimes anew, so that not all is written through one old descriptor.
        if !done || rng.below(20) == 0 {
            open[number as usize] = None;
        }
        rest(&mut rng, 40);
    }
}

fn keep_open(file: &mut Option<File>, open: impl FnOnce() -> io::Result<File>) -> io::Result<&File> {
    if file.is_none() {
        *file = Some(open()?);
    }
    Ok(file.as_ref().unwrap())
}
