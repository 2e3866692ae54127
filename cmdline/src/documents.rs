//! Man pages and completions, for packages: `PROGRAM --documents DIR` writes `PROGRAM.1` (a page for each subcommand, too),
//! and the scripts with which bash, zsh and fish ask it for completions, into a directory that is there.

use std::ffi::OsString;
use std::path::Path;
use std::process::exit;

use crate::completion;
use clap::Command;

const FLAG: &str = "--documents";

/// Asked for documents and for nothing else, the program writes them and ends: with 0, or with 1 when it could not.
pub fn write_if_asked(command: &Command, args: &[OsString]) {
    let [_, flag, directory] = args else { return };
    if flag != FLAG {
        return;
    }
    match write(command.clone(), Path::new(directory)) {
        Ok(()) => exit(0),
        Err(error) => {
            eprintln!(
                "{}: write documents to {}: {error}",
                command.get_name(),
                Path::new(directory).display()
            );
            exit(1)
        }
    }
}

/// Writes them.
///
/// # Errors
/// The directory is missing, or cannot be written to.
pub fn write(command: Command, directory: &Path) -> std::io::Result<()> {
    completion::write_scripts(command.get_name(), directory)?;
    clap_mangen::generate_to(command, directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(name = "program")]
    struct Flags {
        /// How many there shall be
        #[arg(long)]
        copies: u32,
        #[command(subcommand)]
        what: What,
    }

    #[derive(clap::Subcommand)]
    enum What {
        /// Shows it
        Status,
    }

    #[test]
    fn every_flag_and_subcommand_is_in_the_page_and_each_script_asks_the_program() {
        let directory = tempfile::tempdir().unwrap();
        write(<Flags as clap::CommandFactory>::command(), directory.path()).unwrap();
        let read = |file: &str| std::fs::read_to_string(directory.path().join(file)).unwrap();
        assert!(read("program.1").contains("How many there shall be"));
        assert!(read("program-status.1").contains("Shows it"));
        for file in ["program.bash", "_program", "program.fish"] {
            let text = read(file);
            assert!(text.contains("program") && text.contains(completion::VARIABLE), "{file}");
        }
        assert!(write(<Flags as clap::CommandFactory>::command(), &directory.path().join("none")).is_err());
    }
}
