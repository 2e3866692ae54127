//! Names in directories that all mounts share. Each name is changed by one thread alone, which knows what it is.
//!
//! After a change that failed, the names in it may be either: they are never used again.

use rustix::fs::OFlags;

use super::root::Root;
use super::{Shared, operate, rest, whole};
use crate::faults::content::{blocks, file_number};
use crate::faults::log::{Action, Change, Value};
use crate::random::Rng;

/// How many directories there are.
pub(super) const DIRECTORIES: u64 = 3;

/// In the header of each block of these files, whatever their names are.
pub(super) const OF: &str = "names";

/// How many names a thread keeps at most.
const MOST: usize = 40;

struct Names<'a> {
    shared: &'a Shared,
    root: Root<'a>,
    rng: Rng,
    /// What is there, as far as this thread made it.
    files: Vec<(String, u64)>,
    directories: Vec<String>,
    /// How many names there ever were.
    count: u64,
}

pub(super) fn run(shared: &Shared, rng: Rng) {
    let root = Root::new(shared);
    let mut names = Names { shared, root, rng, files: Vec::new(), directories: Vec::new(), count: 0 };
    while shared.going() && names.root.find() {
        names.step();
        rest(&mut names.rng, 50);
    }
}

impl Names<'_> {
    fn step(&mut self) {
        let full = self.files.len() + self.directories.len() >= MOST;
        match self.rng.below(10) {
            0..=2 if !full => self.create(),
            3 if !full => self.mkdir(),
            4 if !full => self.link(),
            5 | 6 => self.rename(),
            7 => self.rename_over(),
            8 => self.rmdir(),
            _ => self.unlink(),
        }
    }

    fn new_name(&mut self) -> String {
        self.count += 1;
        format!("names/d{}/m{}-{}", self.rng.below(DIRECTORIES), self.shared.orders.mount, self.count)
    }

    /// Any file, which is taken out of the list.
    fn any_file(&mut self) -> Option<(String, u64)> {
        let count = self.files.len() as u64;
        (count > 0).then(|| self.files.swap_remove(self.rng.below(count) as usize))
    }

    fn change(
        &mut self,
        call: &str,
        changes: Vec<Change>,
        steps: impl FnOnce(&Root) -> Result<(), std::io::Error>,
    ) -> bool {
        let action = Action::Names { call: call.to_owned(), changes };
        operate(self.shared, &mut self.root, action, |root| steps(root).map_err(|error| ("the call", error)))
    }

    fn create(&mut self) {
        let (path, id) = (self.new_name(), self.shared.next_version());
        let temporary = format!("tmp/n{}-{id}", self.shared.orders.mount);
        let content = blocks(file_number(OF), id, 0..1, 1);
        let changes = vec![change(&path, Value::Absent, Value::File(id))];
        let done = self.change("create", changes, |root| {
            whole::write(root, &temporary, OFlags::EXCL, &content).map_err(|(_, error)| error)?;
            root.rename(&temporary, &path)
        });
        if done {
            self.files.push((path, id));
        }
    }

    fn mkdir(&mut self) {
        let path = self.new_name();
        let changes = vec![change(&path, Value::Absent, Value::Directory)];
        if self.change("mkdir", changes, |root| root.mkdir(&path)) {
            self.directories.push(path);
        }
    }

    fn link(&mut self) {
        let Some((from, id)) = self.any_file() else { return };
        let to = self.new_name();
        let changes = vec![change(&to, Value::Absent, Value::File(id))];
        if self.change("link", changes, |root| root.link(&from, &to)) {
            self.files.push((to, id));
        }
        self.files.push((from, id));
    }

    fn rename(&mut self) {
        let to = self.new_name();
        if self.rng.below(4) == 0
            && let Some(from) = self.directories.pop()
        {
            let changes = vec![
                change(&from, Value::Directory, Value::Absent),
                change(&to, Value::Absent, Value::Directory),
            ];
            if self.change("rename", changes, |root| root.rename(&from, &to)) {
                self.directories.insert(0, to);
            }
            return;
        }
        let Some((from, id)) = self.any_file() else { return };
        let changes =
            vec![change(&from, Value::File(id), Value::Absent), change(&to, Value::Absent, Value::File(id))];
        if self.change("rename", changes, |root| root.rename(&from, &to)) {
            self.files.push((to, id));
        }
    }

    fn rename_over(&mut self) {
        let (Some((from, id)), Some((to, old))) = (self.any_file(), self.any_file()) else { return };
        // Two names of one file: rename does nothing then, as POSIX has it.
        if id == old {
            self.files.extend([(from, id), (to, old)]);
            return;
        }
        let changes = vec![
            change(&from, Value::File(id), Value::Absent),
            change(&to, Value::File(old), Value::File(id)),
        ];
        if self.change("rename over", changes, |root| root.rename(&from, &to)) {
            self.files.push((to, id));
        }
    }

    fn rmdir(&mut self) {
        let Some(path) = self.directories.pop() else { return };
        let changes = vec![change(&path, Value::Directory, Value::Absent)];
        self.change("rmdir", changes, |root| root.rmdir(&path));
    }

    fn unlink(&mut self) {
        let Some((path, id)) = self.any_file() else { return };
        let changes = vec![change(&path, Value::File(id), Value::Absent)];
        self.change("unlink", changes, |root| root.unlink(&path));
    }
}

fn change(path: &str, before: Value, after: Value) -> Change {
    Change { path: path.to_owned(), before, after }
}
