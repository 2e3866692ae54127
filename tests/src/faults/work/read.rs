//! Readers: whatever the writers write, at any time, and everything once more at the end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::root::Root;
use super::{FILES, Shared, append, failed, names, place, rest, whole};
use crate::faults::content::{self, BLOCK, Block, file_number, identify};
use crate::faults::log::{Action, How, Outcome, Records, Run, Value};
use crate::random::Rng;

/// What one read asks for.
const PIECE: usize = 128 * 1024;

const ENOENT: i32 = 2;

/// How long everything may take to be read at the end. What cannot be read is tried again until then.
const FINAL: Duration = Duration::from_secs(60);

pub(super) fn run(shared: &Shared, mut rng: Rng) {
    let mut root = Root::new(shared);
    let mut open: HashMap<String, File> = HashMap::new();
    while shared.going() && root.find() {
        let mount = rng.below(u64::from(shared.orders.mounts)) as u32;
        let number = rng.below(FILES);
        let good = match rng.below(10) {
            0 | 1 => file(shared, &root, &whole::path(How::Rename, mount, number)),
            2 => file(shared, &root, &whole::path(How::Truncate, mount, number)),
            3 => file(shared, &root, &place::path(number)),
            4 => through_open(shared, &root, &mut open, whole::path(How::Truncate, mount, number)),
            5 => through_open(shared, &root, &mut open, place::path(number)),
            6 | 7 => {
                let newest = shared.append_file.load(Ordering::Relaxed);
                records(shared, &root, &append::path(newest.saturating_sub(rng.below(2))))
            }
            _ => directory(shared, &root, &mut rng),
        };
        if !good {
            root.lost();
            open.clear();
        }
        if rng.below(50) == 0 {
            open.clear();
        }
        rest(&mut rng, 30);
    }
}

fn is_good(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed(..))
}

fn file(shared: &Shared, root: &Root, path: &str) -> bool {
    let action = Action::Read { path: path.to_owned() };
    is_good(&shared.log.run(action, || match root.open(path, OFlags::RDONLY) {
        Ok(opened) => look_at(&opened, path),
        Err(error) => absent_or_failed(&error),
    }))
}

fn through_open(shared: &Shared, root: &Root, open: &mut HashMap<String, File>, path: String) -> bool {
    if !open.contains_key(&path) {
        match root.open(&path, OFlags::RDONLY) {
            Ok(opened) => open.insert(path.clone(), opened),
            Err(error) => return error.raw_os_error() == Some(ENOENT),
        };
    }
    let action = Action::ReadOpen { path: path.clone() };
    is_good(&shared.log.run(action, || look_at(&open[&path], &path)))
}

fn absent_or_failed(error: &io::Error) -> Outcome {
    if error.raw_os_error() == Some(ENOENT) {
        return Outcome::Is(Ok(Value::Absent));
    }
    failed("open", error)
}

/// Reads a file to its end. Each piece is what one read gave, and its blocks are looked at, each byte.
fn look_at(opened: &File, path: &str) -> Outcome {
    let bytes = match to_the_end(opened) {
        Ok(bytes) => bytes,
        Err(error) => return failed("read", &error),
    };
    let mut runs: Vec<Run> = Vec::new();
    for (number, bytes) in bytes.chunks(BLOCK).enumerate() {
        let block = identify(bytes, file_number(path), number as u32);
        match runs.last_mut() {
            Some(run) if run.block == block => run.count += 1,
            _ => runs.push(Run { first: number as u32, count: 1, block }),
        }
    }
    Outcome::Blocks(runs)
}

fn to_the_end(opened: &File) -> io::Result<Vec<u8>> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let read = opened.read_at(&mut piece, bytes.len() as u64)?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece[..read]);
    }
}

fn records(shared: &Shared, root: &Root, path: &str) -> bool {
    let action = Action::ReadRecords { path: path.to_owned() };
    let outcome = shared.log.run(action, || {
        let bytes = match root.open(path, OFlags::RDONLY) {
            Ok(opened) => to_the_end(&opened),
            Err(error) => return absent_or_failed(&error),
        };
        match bytes {
            Ok(bytes) => look_at_records(&bytes, path),
            Err(error) => failed("read", &error),
        }
    });
    is_good(&outcome)
}

fn look_at_records(bytes: &[u8], path: &str) -> Outcome {
    let (found, rest) = content::records(bytes, file_number(path));
    let mut runs: Vec<Records> = Vec::new();
    for (writer, seq) in found {
        match runs.last_mut() {
            Some(run) if run.writer == writer && run.first + run.count == seq => run.count += 1,
            _ => runs.push(Records { writer, first: seq, count: 1 }),
        }
    }
    Outcome::Records(runs, rest)
}

fn directory(shared: &Shared, root: &Root, rng: &mut Rng) -> bool {
    let dir = format!("names/d{}", rng.below(names::DIRECTORIES));
    let names = match list(shared, root, &dir) {
        Outcome::Names(names) => names,
        _ => return false,
    };
    (0..names.len().min(3)).all(|_| {
        let name = &names[rng.below(names.len() as u64) as usize];
        look(shared, root, &format!("{dir}/{name}"))
    })
}

fn list(shared: &Shared, root: &Root, dir: &str) -> Outcome {
    shared.log.run(Action::List { path: dir.to_owned() }, || match root.list(dir) {
        Ok(names) => Outcome::Names(names),
        Err(error) => failed("list", &error),
    })
}

/// What a name stands for: a directory, or a file of one block that says which it is.
fn look(shared: &Shared, root: &Root, path: &str) -> bool {
    let outcome = shared.log.run(Action::Look { path: path.to_owned() }, || {
        match root.is_dir(path) {
            Ok(true) => return Outcome::Is(Ok(Value::Directory)),
            Ok(false) => {}
            Err(error) => return absent_or_failed(&error),
        }
        let opened = match root.open(path, OFlags::RDONLY) {
            Ok(opened) => opened,
            Err(error) => return absent_or_failed(&error),
        };
        match to_the_end(&opened) {
            Ok(bytes) => Outcome::Is(match identify(&bytes, file_number(names::OF), 0) {
                Block::Version(id, _) => Ok(Value::File(id)),
                other => Err(format!("{} bytes, {other:?}", bytes.len())),
            }),
            Err(error) => failed("read", &error),
        }
    });
    is_good(&outcome)
}

/// Everything once. What gives an error is tried again, and if it goes on doing so, the log says so.
pub(super) fn everything(shared: &Shared) {
    let paths = shared.orders.paths.as_ref().expect("final needs --paths");
    let paths: Vec<String> = serde_json::from_slice(&fs::read(paths).unwrap()).unwrap();
    let begun = Instant::now();
    let mut root = Root::new(shared);
    let directories = (0..names::DIRECTORIES).map(|number| format!("names/d{number}"));
    for path in directories.chain(paths) {
        while root.find() {
            let parts: Vec<&str> = path.split('/').collect();
            let good = match parts[..] {
                ["logs", _] => records(shared, &root, &path),
                ["names", _] => is_good(&list(shared, &root, &path)),
                ["names", ..] => look(shared, &root, &path),
                _ => file(shared, &root, &path),
            };
            if good || begun.elapsed() > FINAL {
                break;
            }
            root.lost();
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
