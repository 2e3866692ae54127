//! `-o remount`: what is asked for when a mount is there already. Where the source and our other flags point to does
//! not matter then.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::words::{self, MountWords};
use super::{Flags, OptionsError, absolute, is_mount_helper, read};

/// `-o remount`: other options for a mount that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remount {
    /// As it was typed but absolute.
    pub mountpoint: PathBuf,
    /// The words of `-o`. All are known ones; those that say nothing to the kernel change nothing.
    pub words: Vec<String>,
    /// The mount's type in the mount table is `fuse.` and this.
    pub subtype: String,
    /// mount(8) asks only whether the words are right.
    pub pretend: bool,
}

/// What is asked for, when it is a remount.
///
/// # Errors
/// [`OptionsError`].
pub fn parse_remount(args: &[OsString]) -> Result<Option<Remount>, OptionsError> {
    let as_helper = args.first().is_some_and(|name| is_mount_helper(Path::new(name)));
    let (flags, _) = read(&Flags::command(), args.to_vec())?;
    let mut words: Vec<String> = flags.options.iter().flat_map(|o| words::split(o)).collect();
    if !words.iter().any(|word| word == "remount") {
        return Ok(None);
    }
    let said = [(flags.read_only, "ro"), (flags.read_write, "rw")];
    words.extend(said.iter().filter(|(said, _)| *said).map(|(_, word)| (*word).to_owned()));
    let mut known = MountWords { remount: true, ..MountWords::default() };
    for word in &words {
        known.take(word)?;
    }
    Ok(Some(Remount {
        mountpoint: absolute(&flags.second.unwrap_or(flags.first))?,
        words,
        subtype: known.subtype.unwrap_or_else(|| "dfs".to_owned()),
        pretend: as_helper && flags.foreground,
    }))
}
