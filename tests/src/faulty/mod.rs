//! One process of a cluster whose disk fails, or whose clock is another: by a small library in C that is loaded into it
//! before its own (`preload.c`, which says how). The machine's disk and clock are left alone.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::run;
use crate::scratch::Scratch;
use crate::wait::secs;

/// What is to be wrong with processes, by their names: `master`, `keeper-0`, ..., `mount-0`, ...
#[derive(Clone, Debug, Default)]
pub struct Faulty {
    clocks: Vec<(String, i64)>,
    disks: Vec<String>,
}

impl Faulty {
    /// This one's clock is so many seconds ahead.
    pub(crate) fn clock(&mut self, name: &str, ahead_s: i64) {
        self.clocks.push((name.to_owned(), ahead_s));
    }

    /// This one's disk can fail: see [`Disk`].
    pub(crate) fn disk(&mut self, name: &str) {
        self.disks.push(name.to_owned());
    }

    /// What the process of this name needs in its environment. Builds the library, if it is the first.
    pub(crate) fn environment(&self, scratch: &Scratch, name: &str) -> Vec<(OsString, Option<OsString>)> {
        let clock = self.clocks.iter().find(|(of, _)| of == name);
        let disk = self.disks.iter().any(|of| of == name);
        let mut environment = Vec::new();
        if clock.is_some() || disk {
            environment.push(("LD_PRELOAD".into(), Some(library(scratch).into())));
        }
        if let Some((_, ahead_s)) = clock {
            environment.push(("DFS_TEST_CLOCK_S".into(), Some(ahead_s.to_string().into())));
        }
        if disk {
            environment.push(("DFS_TEST_DISK".into(), Some(Disk::of(scratch, name).rules.into())));
        }
        environment
    }
}

/// The disk of a process that was started for it ([`crate::cluster::Builder::faulty_disk`]).
#[derive(Clone, Debug)]
pub struct Disk {
    rules: PathBuf,
}

impl Disk {
    pub(crate) fn of(scratch: &Scratch, name: &str) -> Disk {
        Disk { rules: scratch.path(&format!("{name}.disk")) }
    }

    /// From now on, reads of files with `part` in their paths fail.
    pub fn fails_to_read(&self, part: &str) {
        self.rule(&format!("read EIO {part}"));
    }

    /// From now on, each read of files with `part` in their paths takes so much longer.
    pub fn is_slow_to_read(&self, part: &str, ms: u32) {
        self.rule(&format!("slow {ms} {part}"));
    }

    /// From now on, everything below `dir` can only be read.
    pub fn is_read_only(&self, dir: &Path) {
        self.rule(&format!("write EROFS {}", dir.display()));
    }

    /// From now on, writes below `dir` fail as on a broken disk.
    pub fn fails_to_write(&self, dir: &Path) {
        self.rule(&format!("write EIO {}", dir.display()));
    }

    /// All is well again.
    pub fn works(&self) {
        self.rule("");
    }

    fn rule(&self, rule: &str) {
        let new = self.rules.with_extension("new");
        fs::write(&new, format!("{rule}\n")).unwrap();
        fs::rename(new, &self.rules).unwrap();
    }
}

fn library(scratch: &Scratch) -> PathBuf {
    let (source, library) = (scratch.path("preload.c"), scratch.path("preload.so"));
    if !library.exists() {
        fs::write(&source, include_str!("preload.c")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        let ran = run(&mut compiler, secs(60));
        assert!(ran.status.success(), "cannot build {}: {ran:#?}", source.display());
    }
    library
}
