//! Where passwords come from: a file, a terminal (without showing it), or the first line of stdin. Never a flag, which others
//! could see in the list of processes.
//!
//! What must hold: a terminal shows again what is typed when this is over, also when a signal ends it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use dfs_proto::secret::Secret;
use dfs_proto::token_file;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;

/// Reads one. `what` is asked for on a terminal; `twice`, since nobody sees what he types.
pub(super) async fn read(file: Option<&Path>, what: &str, twice: bool) -> Result<Secret, CliError> {
    let asked = what.to_owned();
    if let Some(file) = file.map(Path::to_owned) {
        let read = move || token_file::read(&file).map_err(|error| CliError::Local(error.to_string()));
        return in_thread(what, read).await;
    }
    if !io::stdin().is_terminal() {
        return in_thread(what, move || line(&asked)).await;
    }
    // Kept here and not by the thread: that one may wait for a line for ever, and this has to go before the process does.
    let mut ends = Ends::watch()?;
    let hidden = Hidden::begin(what)?;
    let answer = tokio::select! {
        answer = in_thread(what, move || ask(&asked, twice)) => answer,
        () = ends.wait() => Err(CliError::Interrupted),
    };
    drop(hidden);
    answer
}

async fn in_thread(
    what: &str,
    read: impl FnOnce() -> Result<Secret, CliError> + Send + 'static,
) -> Result<Secret, CliError> {
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|error| Err(CliError::Local(format!("reading the {what}: {error}"))))
}

fn ask(what: &str, twice: bool) -> Result<Secret, CliError> {
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

/// The signals that end a program of a terminal: ^C and ^\, its window that is closed, and kill. By themselves they would end
/// it without a word, and the terminal would show nothing any more.
struct Ends([Signal; 4]);

impl Ends {
    fn watch() -> Result<Ends, CliError> {
        let watch = |kind| {
            signal(kind).map_err(|error| {
                CliError::Local(format!("watching for ^C: {error}; name a file with --password-file"))
            })
        };
        Ok(Ends([
            watch(SignalKind::interrupt())?,
            watch(SignalKind::quit())?,
            watch(SignalKind::hangup())?,
            watch(SignalKind::terminate())?,
        ]))
    }

    async fn wait(&mut self) {
        let [interrupt, quit, hangup, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
            _ = terminate.recv() => {}
        }
        // The prompt's line ends here.
        let _ = writeln!(io::stderr());
    }
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
