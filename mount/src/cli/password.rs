//! Where passwords come from: a file, a terminal (without showing it), or the first line of stdin. Never a flag, which others
//! could see in the list of processes.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use dfs_proto::secret::Secret;
use dfs_proto::token_file;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::CliError;

/// Reads one. `what` is asked for on a terminal; `twice`, since nobody sees what he types.
pub(super) async fn read(file: Option<&Path>, what: &str, twice: bool) -> Result<Secret, CliError> {
    let (file, asked) = (file.map(Path::to_owned), what.to_owned());
    let read = move || match file {
        Some(file) => token_file::read(&file).map_err(|error| CliError::Local(error.to_string())),
        None if io::stdin().is_terminal() => ask(&asked, twice),
        None => line(&asked),
    };
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|error| Err(CliError::Local(format!("reading the {what}: {error}"))))
}

fn ask(what: &str, twice: bool) -> Result<Secret, CliError> {
    let _hidden = Hidden::begin(what)?;
    let prompt = |text: &str| {
        // Where stderr leads does not matter.
        let _ = write!(io::stderr(), "{text}: ");
        let answer = line(what);
        let _ = writeln!(io::stderr());
        answer
    };
    let secret = prompt(what)?;
    if twice && prompt(&format!("{what}, again"))? != secret {
        return Err(CliError::Local(format!("the {what} was typed in two ways; try again")));
    }
    Ok(secret)
}

fn line(what: &str) -> Result<Secret, CliError> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| CliError::Local(format!("reading the {what} from stdin: {error}")))?;
    let text = line.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        let message = format!("there is no {what} on stdin; type it, or name a file with --password-file");
        return Err(CliError::Local(message));
    }
    Ok(Secret::new(text))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin(what: &str) -> Result<Hidden, CliError> {
        let failed = |error| {
            CliError::Local(format!(
                "hiding the {what} on the terminal: {error}; name a file with --password-file"
            ))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).map_err(failed)?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
