//! Files that are written anew as a whole.

use std::io::{self, Write};

use rustix::fs::OFlags;

use super::root::{Root, close};
use super::{FILES, Shared, operate, rest};
use crate::faults::content::{blocks, file_number};
use crate::faults::log::{Action, How};
use crate::random::Rng;

/// What one write takes.
const PIECE: usize = 64 * 1024;

pub(super) fn path(how: How, mount: u32, number: u64) -> String {
    match how {
        How::Rename => format!("whole/m{mount}-{number}"),
        How::Truncate => format!("trunc/m{mount}-{number}"),
    }
}

pub(super) fn by_rename(shared: &Shared, rng: Rng) {
    run(shared, rng, How::Rename);
}

pub(super) fn by_truncation(shared: &Shared, rng: Rng) {
    run(shared, rng, How::Truncate);
}

fn run(shared: &Shared, mut rng: Rng, how: How) {
    let mut root = Root::new(shared);
    while shared.going() && root.find() {
        let path = path(how, shared.orders.mount, rng.below(FILES));
        let version = shared.next_version();
        // Now and then one of several chunks.
        let most = if rng.below(8) == 0 { 700 } else { 40 };
        let count = 1 + rng.below(most) as u32;
        let content = blocks(file_number(&path), version, 0..count, count);
        let action = Action::Replace { path: path.clone(), version, blocks: count, how };
        operate(shared, &mut root, action, |root| match how {
            How::Truncate => write(root, &path, OFlags::TRUNC, &content),
            How::Rename => {
                let temporary = format!("tmp/m{}-{version}", shared.orders.mount);
                write(root, &temporary, OFlags::EXCL, &content)?;
                root.rename(&temporary, &path).map_err(|error| ("rename", error))
            }
        });
        rest(&mut rng, 60);
    }
}

/// Makes or truncates a file, writes it, and closes it.
pub(super) fn write(
    root: &Root,
    path: &str,
    flags: OFlags,
    content: &[u8],
) -> Result<(), (&'static str, io::Error)> {
    let mut file =
        root.open(path, OFlags::WRONLY | OFlags::CREATE | flags).map_err(|error| ("open", error))?;
    for piece in content.chunks(PIECE) {
        file.write_all(piece).map_err(|error| ("write", error))?;
    }
    close(file).map_err(|error| ("close", error))
}
