//! What our programs share about being programs on somebody's machine. Knows nothing of what they do.
//!
//! - [`settings_file`]: flags over environment over a file, by the same names.
//! - [`documents`]: man pages and scripts for completion, made from the same definitions as `--help`.
//! - [`completion`]: what a shell gets from the program as somebody types.
//! - [`readiness`]: telling the service manager that a program is ready, or ends.
//! - here: [`parse`], which puts them together.

pub mod completion;
pub mod documents;
pub mod readiness;
pub mod settings_file;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

/// Reads the flags of a program that is called with `args` (its own name first): from the command line, else from the
/// environment, else from its settings file, `/etc/dfs/<name>.toml` unless `--config` or `DFS_CONFIG` names another.
///
/// `F` must have a flag `config`, so that `--help` shows it. Asked for its documents, or by a shell for completions, the program answers and ends.
///
/// # Errors
/// What clap finds (`--help` and `--version` among them), and what is wrong with the file: print it with
/// [`clap::Error::exit`].
pub fn parse<F: CommandFactory + FromArgMatches>(name: &str, args: Vec<OsString>) -> Result<F, clap::Error> {
    completion::answer_if_asked(F::command);
    let command = F::command();
    documents::write_if_asked(&command, &args);
    let command = settings_file::apply(command, name, &args)?;
    let matches = command.clone().try_get_matches_from(args)?;
    F::from_arg_matches(&matches).map_err(|error| error.format(&mut command.clone()))
}
