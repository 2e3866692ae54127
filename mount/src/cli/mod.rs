//! The commands of `dfs`.
//!
//! - `admin`: status, lookup: what the master knows, as tables or as JSON.
//! - `keepers`: the keepers, and what is ordered of one.
//! - `files`: `ls`, `tree`, `du`, `find`, `info`, `cat`, `mv`, `cp`, `rm`, `put`, `get`: files of the cluster, without a mount.
//! - `backup`: a dump of all metadata.
//! - `bench`: what a mounted directory does. `watch`: what is done at the moment (`top`, `profile`). `mounts`: those of this machine.
//! - `rebalance`: evens out how full keepers are.
//! - `quota`: limits of what is below a directory.
//! - `scrub`: keepers check what they have. `fsck`: the look-up table is set against what they have.
//! - `trash`: files that were removed and are kept.
//! - `tls`: certificates.
//! - `users`: logging in, and who may. `password`: where passwords come from.
//! - `doctor`: what usually is the matter, and what to do.
//! - `complete`: names that a shell completes.
//! - `path`: from a path to an inode, by the session's calls.
//! - `output`: tables, JSON, and what to do when the reader of stdout goes away.
//! - `progress`: the bar that `put` and `get` show on a terminal. `stop`: whether somebody wants the end.
//!
//! Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 it looked for faults and found some (and mended them, where it mends);
//! 4 they are left; 130 ended by a signal.
//!
//! What must hold: a failed command says in one line on stderr what failed, on what, why, and what to do; a half-done transfer is never
//! seen under its name, neither here nor there.

mod admin;
mod backup;
mod bench;
mod complete;
mod doctor;
mod files;
mod fsck;
mod id_flags;
mod keepers;
mod mounts;
mod output;
mod password;
mod path;
mod progress;
mod quota;
mod rebalance;
mod scrub;
mod stop;
mod tls;
mod trash;
mod users;
mod watch;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand, ValueHint};
use dfs_proto::error::DfsError;
use dfs_proto::pb;
use dfs_proto::units::Period;

use crate::client::tls::Tls;
use crate::client::tokens::Tokens;
use crate::client::{Client, ClientConfig, Event, Master, renew};

/// How long the master is looked for.
const FIND_MASTER: Duration = Duration::from_secs(1);

/// Look at a cluster, and move files in and out of it without a mount.
#[derive(Parser, Debug)]
#[command(name = "dfs", version)]
struct Args {
    /// The master's address
    #[arg(
        long,
        env = "DFS_MASTER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:3000",
        global = true
    )]
    master: String,
    /// The file with the token that says who asks [default: that of 'dfs login']
    #[arg(long, env = "DFS_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Directory with the CA's certificate, as 'dfs tls init' makes it, for a cluster whose connections are encrypted
    #[arg(long, env = "DFS_TLS_DIR", value_name = "DIR", global = true)]
    tls_dir: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, env = "DFS_JSON", global = true, value_parser = FalseyValueParser::new())]
    json: bool,
    /// What to log on stderr, beside the one line of an error: off, error, warn, info, debug, trace, or a filter such as dfs_mount=debug
    #[arg(long, env = "DFS_LOG", value_name = "LEVEL", default_value = "off", global = true)]
    log: String,
    /// A file with settings: flags as TOML, without their dashes [default: /etc/dfs/dfs.toml, if it is there]
    #[arg(long, env = "DFS_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show how the cluster is doing
    Status,
    /// List the keepers
    Keepers,
    /// Print the look-up table: a row per copy of each chunk
    Lookup {
        /// A file, or a directory and all below it
        #[arg(default_value = "/", add = complete::paths())]
        path: OsString,
    },
    #[command(flatten)]
    Files(files::Files),
    /// Measure what a mounted directory does, in a minute
    Bench(bench::Bench),
    #[command(flatten)]
    Watch(watch::Watch),
    /// Look at what usually is the matter, and say what to do; leaves with 1 when something failed
    Doctor {
        /// Directories on this machine whose disks are looked at, too
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dirs: Vec<PathBuf>,
    },
    /// Write a dump of all metadata to a local file, for dfs-master --restore
    Backup {
        /// A local file; one that is there is replaced when the dump is whole
        #[arg(value_hint = ValueHint::FilePath)]
        file: OsString,
    },
    /// Empty a keeper: what it has is copied to others, and then it is safe to remove
    Drain {
        /// The id or the address of a keeper
        #[arg(add = complete::keepers())]
        keeper: String,
        /// Stop doing so; the keeper gets new chunks again
        #[arg(long)]
        cancel: bool,
        /// Do not wait for the end; 'dfs keepers' shows how far it is
        #[arg(long)]
        no_wait: bool,
    },
    /// Let a keeper be away for a while, without copying all that it has
    Maintenance {
        /// The id or the address of a keeper
        #[arg(add = complete::keepers())]
        keeper: String,
        #[command(subcommand)]
        switch: keepers::Switch,
    },
    /// Take a keeper out of the cluster that is drained, or dead for good and made up for
    Forget {
        /// The id or the address of a keeper
        #[arg(add = complete::keepers())]
        keeper: String,
    },
    /// Even out how full keepers are
    #[command(subcommand)]
    Rebalance(rebalance::Rebalance),
    /// Have keepers read and check all that they have; leaves with 3 when bad copies were found
    Scrub {
        /// Ids of keepers [default: every live one]
        #[arg(value_name = "KEEPER", add = complete::keepers())]
        keepers: Vec<u64>,
    },
    /// Set the look-up table against what keepers have; leaves with 3 when something was wrong and is mended, with 4
    /// when something is wrong
    Fsck {
        /// Mend what can be mended, and wait until it is
        #[arg(long)]
        repair: bool,
        /// How long to wait for the mending
        #[arg(long, value_name = "TIME", default_value = "10m")]
        timeout: Period,
    },
    /// Limit how much there may be below a directory
    #[command(subcommand)]
    Quota(quota::Quota),
    /// Files that were removed and are kept for a while
    #[command(subcommand)]
    Trash(trash::Trash),
    /// Log in: the password is asked for, or read from stdin, and the token is kept for this user's programs
    Login {
        /// Whom [default: $USER]
        user: Option<String>,
        /// Read the password from this file, which only its owner can read
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Send the password to another machine although nothing is encrypted
        #[arg(long)]
        insecure: bool,
    },
    /// Forget the token of the login
    Logout,
    /// Who may use the cluster
    #[command(subcommand)]
    User(users::User),
    /// Tokens with which keepers join
    #[command(subcommand)]
    Keeper(users::Keeper),
    /// Certificates, for connections that are encrypted
    #[command(subcommand)]
    Tls(tls::Tls),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The cluster's answer.
    #[error("{0}")]
    Dfs(#[from] DfsError),
    /// Something on this machine; the words say all.
    #[error("{0}")]
    Local(String),
    /// The command line is wrong in a way that its parser cannot see.
    #[error("{0}")]
    Usage(String),
    /// The command went well, and found what it looked for. It has said so.
    #[error("something is wrong; see what was printed")]
    Found,
    /// And it is wrong still.
    #[error("something is wrong; see what was printed")]
    LeftWrong,
    /// A signal.
    #[error("interrupted; nothing half-done has the name that it was to have")]
    Interrupted,
    /// Whoever read our stdout has seen enough.
    #[error("stdout was closed")]
    OutputClosed,
}

impl CliError {
    /// A local file that `what` was tried on.
    fn local(what: &str, file: &std::path::Path, error: &io::Error, remedy: &str) -> CliError {
        CliError::Local(format!("{what} {}: {error}; {remedy}", file.display()))
    }

    /// An error of writing to stdout.
    fn stdout(error: &io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::Local(format!("writing to stdout: {error}; see where it leads to")),
        }
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    complete::note_shell();
    let args = files::find::with_two_dashes(std::env::args_os().collect());
    let args = dfs_cmdline::parse::<Args>("dfs", args);
    let args = args.unwrap_or_else(|error| error.exit());
    if let Err(error) = dfs_proto::logging::init(&args.log, false) {
        return report(&CliError::Usage(format!("{error}; see dfs --help")));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return report(&CliError::Local(format!("starting: {error}; free some memory or threads")));
        }
    };
    let outcome = runtime.block_on(command(&args));
    // A thread that still waits for stdin must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &CliError) -> ExitCode {
    match error {
        // As for any program in a pipe whose reader went away: not worth a word.
        CliError::OutputClosed => return ExitCode::SUCCESS,
        CliError::Found => return ExitCode::from(3),
        CliError::LeftWrong => return ExitCode::from(4),
        _ => eprintln!("dfs: {}", one_line(&error.to_string())),
    }
    ExitCode::from(match error {
        CliError::Usage(_) => 2,
        // As a shell says it of a program that ^C ended.
        CliError::Interrupted => 130,
        _ => 1,
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn command(args: &Args) -> Result<(), CliError> {
    let Args { master: address, token_file, tls_dir, json, .. } = args;
    // The one command that needs no master, and makes what `--tls-dir` would name.
    if let Command::Tls(command) = &args.command {
        return tls::tls(command);
    }
    let tls = Tls::load_if_named(tls_dir.as_deref()).map_err(|error| CliError::Local(error.to_string()))?;
    let tokens = Arc::new(Tokens::at_or_of_login(token_file.as_deref(), address));
    let master = &Master { address: address.clone(), tokens, tls };
    if !matches!(args.command, Command::Login { .. } | Command::Logout) {
        renew::if_due(master).await;
    }
    match &args.command {
        Command::Status => admin::status(master, *json).await,
        Command::Keepers => keepers::keepers(master, *json).await,
        Command::Drain { keeper, cancel, no_wait } => {
            keepers::drain(master, keeper, *cancel, !*no_wait, *json).await
        }
        Command::Maintenance { keeper, switch } => keepers::maintenance(master, keeper, switch, *json).await,
        Command::Rebalance(command) => rebalance::rebalance(master, command, *json).await,
        Command::Forget { keeper } => keepers::forget(master, keeper, *json).await,
        Command::Lookup { path } => admin::lookup(master, path, *json).await,
        Command::Files(command) => files::files(master, command, *json).await,
        Command::Bench(wanted) => bench::bench(wanted, *json).await,
        Command::Doctor { dirs } => doctor::doctor(master, dirs, *json).await,
        Command::Watch(command) => watch::watch(master, command, *json).await,
        Command::Backup { file } => backup::backup(master, file.as_ref(), *json).await,
        Command::Scrub { keepers } => scrub::scrub(master, keepers, *json).await,
        Command::Fsck { repair, timeout } => fsck::fsck(master, *repair, timeout.0, *json).await,
        Command::Trash(command) => trash::trash(master, command, *json).await,
        Command::Quota(quota) => quota::quota(master, quota, *json).await,
        Command::Login { user, password_file, insecure } => {
            users::may_hear_a_password(master, *insecure).await?;
            users::login(master, user.as_deref(), password_file.as_deref(), token_file.as_deref()).await
        }
        Command::Logout => users::logout(address, token_file.as_deref()),
        Command::User(command) => users::user(master, command, *json).await,
        Command::Keeper(command) => users::keeper(master, command, *json).await,
        // Done before.
        Command::Tls(_) => Ok(()),
    }
}

/// Runs `work` in a session of its own, and ends that properly.
async fn in_session<T>(
    master: &Master,
    work: impl AsyncFnOnce(&Client) -> Result<T, CliError>,
) -> Result<T, CliError> {
    // A person waits: a master that is not there now is an error soon.
    let config = ClientConfig {
        connect_timeout: FIND_MASTER,
        tokens: master.tokens.clone(),
        tls: master.tls.clone(),
        ..ClientConfig::new(&master.address, session_name())
    };
    let (client, mut events) = Client::connect(config).await?;
    let client = client.on_behalf_of(own_caller());
    // Nothing is cached here that anybody must wait for; who changes what was looked at does wait to hear so.
    let forgets = client.clone();
    let forgetting = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Invalidate(change) = event {
                forgets.forgot(change.seq);
            }
        }
    });
    let outcome = work(&client).await;
    client.close().await;
    forgetting.abort();
    outcome
}

/// Where ids are mapped, it is for the master to say what this user may do.
fn own_caller() -> pb::Caller {
    let groups = rustix::process::getgroups().unwrap_or_default();
    pb::Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.iter().map(|gid| gid.as_raw()).collect(),
        check: false,
    }
}

fn session_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} pid {} dfs", host.trim(), std::process::id())
}

/// Ends when somebody wants this process to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_after_the_command() {
        let args = Args::try_parse_from(["dfs", "status", "--json", "--master", "h:1"]).unwrap();
        assert!(args.json);
        assert_eq!(args.master, "h:1");
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a\n  b\tc"), "a b c");
    }
}
