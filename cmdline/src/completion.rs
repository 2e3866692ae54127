//! Completions that a shell gets from the program itself, as somebody types: so they know what only the program can know.
//!
//! The script of each shell ([`write_scripts`]) runs the program with [`VARIABLE`] set. What must hold: such a run writes candidates and nothing
//! else, and ends soon, whatever is wrong.

use std::ffi::OsString;
use std::io;

use clap::Command;
pub use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Zsh};

/// In the environment of such a run: the name of the shell.
pub const VARIABLE: &str = "DFS_COMPLETE";

/// Which shell asks, if this is such a run.
pub fn asked_by() -> Option<OsString> {
    std::env::var_os(VARIABLE).filter(|shell| !shell.is_empty() && shell != "0")
}

/// In such a run, answers and ends the process. To be called first of all.
pub fn answer_if_asked(command: impl Fn() -> Command) {
    if asked_by().is_some() {
        CompleteEnv::with_factory(command).var(VARIABLE).complete();
    }
}

/// The words that are on the line which is being completed, the program's name first. A shell may have cut them at colons.
pub fn words() -> Vec<OsString> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let mut whole: Vec<OsString> = Vec::new();
    let mut goes_on = false;
    for word in words {
        let is_cut = word == ":" || word == "=";
        match whole.last_mut().filter(|_| is_cut || goes_on) {
            Some(last) => last.push(word),
            None => whole.push(word),
        }
        goes_on = is_cut;
    }
    whole
}

/// Writes the scripts of a program that is found by its name, each under the name that its shell looks for.
///
/// # Errors
/// The directory cannot be written to.
pub fn write_scripts(name: &str, directory: &std::path::Path) -> io::Result<()> {
    let shells: [(&dyn EnvCompleter, String); 3] =
        [(&Bash, format!("{name}.bash")), (&Zsh, format!("_{name}")), (&Fish, format!("{name}.fish"))];
    for (shell, file) in shells {
        std::fs::write(directory.join(file), script(shell, name)?)?;
    }
    Ok(())
}

fn script(shell: &dyn EnvCompleter, name: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    shell.write_registration(VARIABLE, name, name, name, &mut text)?;
    Ok(text)
}
