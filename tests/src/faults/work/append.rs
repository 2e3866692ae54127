//! Records at the end of files that all mounts append to.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use super::root::Root;
use super::{Shared, operate, rest};
use crate::faults::content::{RECORD_HEADER, append_record, file_number};
use crate::faults::log::Action;
use crate::random::Rng;

/// After so many records of a writer comes the next file.
const RECORDS_PER_FILE: u64 = 150;

pub(super) fn path(number: u64) -> String {
    format!("logs/g{number}")
}

pub(super) fn run(shared: &Shared, mut rng: Rng) {
    let mut root = Root::new(shared);
    let (mut seq, mut open) = (0, None);
    let writer = shared.orders.mount;
    while shared.going() && root.find() {
        let number = seq / RECORDS_PER_FILE;
        if shared.append_file.swap(number, Ordering::Relaxed) != number {
            open = None;
        }
        let path = path(number);
        let count = (1 + rng.below(6)).min(RECORDS_PER_FILE - seq % RECORDS_PER_FILE);
        let action = Action::Append { path: path.clone(), writer, first: seq, count };
        let done = operate(shared, &mut root, action, |root| {
            if open.is_none() {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
                open = Some(root.open(&path, flags).map_err(|error| ("open", error))?);
            }
            let file = open.as_mut().unwrap();
            for record in seq..seq + count {
                let length = RECORD_HEADER + rng.below(6000) as usize;
                append(file, &path, writer, record, length).map_err(|error| ("write", error))?;
            }
            file.sync_data().map_err(|error| ("fsync", error))
        });
        if !done || rng.below(20) == 0 {
            open = None;
        }
        seq += count;
        rest(&mut rng, 60);
    }
}

/// One record with one write: part of it would be a torn one.
fn append(file: &mut File, path: &str, writer: u32, seq: u64, length: usize) -> io::Result<()> {
    let mut record = Vec::with_capacity(length);
    append_record(&mut record, file_number(path), writer, seq, length);
    let written = file.write(&record)?;
    if written != length {
        return Err(io::Error::other("a short write"));
    }
    Ok(())
}
