//! What `dfs-mount` is told: its flags, the words of `-o`, the environment, and what follows from them.
//!
//! One value can be said in five places. The command line's flag wins over `-o`, `-o` over the environment,
//! the environment over the settings file, that over the default. [`parse`] gives [`Settings`], in which nothing is open any more: paths
//! are absolute, addresses are checked, defaults that depend on who mounts are filled in.
//!
//! The same program is the mount helper of mount(8): called as `mount.<type>`, `-f` means what mount(8)
//! means by it (pretend), not "stay in the foreground".

mod flags;
pub mod home;
pub mod memory;
mod remount;
pub mod subdir;
pub mod words;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use dfs_cmdline::{documents, settings_file};
use dfs_observe::http::check_exposure;

use self::flags::Flags;
pub use self::remount::{Remount, parse_remount};
use self::subdir::SubDir;
use crate::fs::caller::Squash;

use self::words::{Allow, MountWords, Word, WordError};
use crate::fs::atime::{AtimeOptions, AtimePolicy};

/// Which cluster to mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cluster {
    /// One that runs already.
    Join {
        /// HOST:PORT of its master.
        master: String,
    },
    /// Our own, inside this process.
    Embedded(EmbeddedSettings),
}

/// The embedded cluster, as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbeddedSettings {
    /// The directory that keeps it; absolute.
    pub data: PathBuf,
    /// How many keepers; at least 1.
    pub keepers: u32,
    /// Copies of each chunk.
    pub copies: u32,
    /// Copies before a write counts as done.
    pub min_copies: u32,
    /// Largest chunk, in bytes.
    pub chunk_size: u32,
    /// The period of the master's replication scan.
    pub replicate_every: Duration,
    /// It asks who somebody is.
    pub auth: bool,
}

/// The mount, with nothing left open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// No writes.
    pub read_only: bool,
    /// Everybody may use it whom the modes let in, not only the user who mounts.
    pub allow_other: bool,
    /// Device files work.
    pub dev: bool,
    /// Set-user-id and set-group-id bits work.
    pub suid: bool,
    /// Programs can be run.
    pub exec: bool,
    /// Reading changes no access time.
    pub noatime: bool,
    /// Reading a directory changes no access time.
    pub nodiratime: bool,
    /// Every read changes the access time.
    pub strictatime: bool,
    /// Each write goes to stable storage.
    pub sync: bool,
    /// So does each change of a directory.
    pub dirsync: bool,
    /// Root counts as this user.
    pub squash: Option<Squash>,
    /// The source that the mount table shows.
    pub fsname: String,
    /// The mount table's type is `fuse.` and this.
    pub subtype: String,
}

impl MountOptions {
    /// Which reads change an atime.
    pub fn atime(&self) -> AtimeOptions {
        let files = match () {
            () if self.noatime || self.read_only => AtimePolicy::Never,
            () if self.strictatime => AtimePolicy::Always,
            () => AtimePolicy::Relative,
        };
        AtimeOptions { files, directories: if self.nodiratime { AtimePolicy::Never } else { files } }
    }
}

/// All that `dfs-mount` is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where to mount, as it was typed but absolute. It may not exist yet.
    pub mountpoint: PathBuf,
    /// What to mount.
    pub cluster: Cluster,
    /// Which directory of it.
    pub subdir: SubDir,
    /// How to mount it.
    pub mount: MountOptions,
    /// Stay in the foreground.
    pub foreground: bool,
    /// mount(8) asks only whether the words are right: mount nothing.
    pub pretend: bool,
    /// Budget of the block cache, in bytes.
    pub cache_bytes: u64,
    /// Budget of what waits to be uploaded, in bytes.
    pub write_buffer_bytes: u64,
    /// How long an operation waits for a master that does not answer.
    pub master_timeout: Duration,
    /// The token file that was named; absolute.
    pub token_file: Option<PathBuf>,
    /// The directory with the CA's certificate; absolute.
    pub tls_dir: Option<PathBuf>,
    /// Where metrics are served over HTTP, if anywhere.
    pub http: Option<SocketAddr>,
    /// That port speaks no TLS, though there is a directory for it.
    pub http_plain: bool,
    /// As tracing's `EnvFilter` reads it.
    pub log_filter: String,
    /// Log in JSON.
    pub log_json: bool,
    /// The log file that was asked for.
    pub log_file: Option<PathBuf>,
    /// Things to tell the user that stop nothing.
    pub notes: Vec<String>,
}

/// Why the command line cannot be followed. All of these are usage errors.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// What clap finds, `--help` and `--version` among them; it prints itself.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// A word of `-o`.
    #[error(transparent)]
    Word(#[from] WordError),
    /// Anything else; the message is whole.
    #[error("{0}")]
    Usage(String),
}

/// Who calls: what the defaults depend on. In [`parse`]'s arguments, so that tests can be anybody.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The effective user is root.
    pub is_root: bool,
    /// The user's home directory, if one is known.
    pub home: Option<PathBuf>,
    /// `$XDG_DATA_HOME`, when set and absolute.
    pub xdg_data_home: Option<PathBuf>,
    /// The machine's memory, in bytes, when it is known.
    pub memory_bytes: Option<u64>,
}

/// Reads the arguments (the program's name first) and the environment.
///
/// # Errors
/// [`OptionsError`]: the caller prints it and exits with 2 (or 0, for clap's `--help`).
pub fn parse(args: Vec<OsString>, caller: &Caller) -> Result<Settings, OptionsError> {
    let as_helper = args.first().is_some_and(|name| is_mount_helper(Path::new(name)));
    documents::write_if_asked(&Flags::command(), &args);
    let command = settings_file::apply(Flags::command(), "mount", &args)?;
    let (first_pass, _) = read(&command, args.clone())?;

    let mut words = MountWords {
        read_only: first_pass.read_only,
        root_squash: first_pass.root_squash,
        insecure: first_pass.insecure,
        http_plain: first_pass.http_plain,
        ..MountWords::default()
    };
    let mut expanded: Vec<OsString> = args.iter().take(1).cloned().collect();
    for option in first_pass.options.iter().flat_map(|o| words::split(o)) {
        if let Word::Flag { name, value } = words.take(&option)? {
            expanded.push(format!("--{name}={value}").into());
        }
    }
    // Flags of -o go first, so that those of the command line override them.
    expanded.extend(args.into_iter().skip(1));
    let (flags, matches) = read(&command, expanded)?;
    resolve(flags, &matches, words, as_helper, caller)
}

fn read(command: &clap::Command, args: Vec<OsString>) -> Result<(Flags, ArgMatches), OptionsError> {
    let matches = command.clone().try_get_matches_from(args)?;
    let flags = Flags::from_arg_matches(&matches).map_err(|e| e.format(&mut command.clone()))?;
    Ok((flags, matches))
}

/// mount(8) calls its helpers `mount.<type>`.
fn is_mount_helper(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mount."))
}

fn resolve(
    flags: Flags,
    matches: &ArgMatches,
    words: MountWords,
    as_helper: bool,
    caller: &Caller,
) -> Result<Settings, OptionsError> {
    let (source, mountpoint) = match flags.second {
        Some(second) => (Some(flags.first), second),
        None => (None, flags.first),
    };
    let said = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    // An empty variable is one that is not set.
    let master = flags.master.filter(|m| !m.is_empty()).map(|m| (m, said("master")));
    let (source, source_subdir) = split_source(source);
    let master = choose_master(source.as_deref(), master)?;
    let subdir = choose_subdir(source_subdir.as_deref(), flags.subdir.as_deref())?;
    let asked = |id: &str| matches.value_source(id) != Some(ValueSource::DefaultValue);
    let budget = |id, flag, size| memory::budget(flag, size, asked(id), caller.memory_bytes);
    let mut notes = Vec::new();
    let cluster = match master {
        Some(master) => {
            let idle = ["data", "keepers", "copies", "min_copies", "chunk_size", "replicate_every", "auth"]
                .map(|id| (id, said(id)));
            for (id, _) in idle.iter().filter(|(_, said)| *said) {
                let flag = id.replace('_', "-");
                notes.push(format!("--{flag} is for the embedded cluster; with a master it does nothing"));
            }
            Cluster::Join { master }
        }
        None => Cluster::Embedded(EmbeddedSettings {
            data: absolute(&flags.data.map_or_else(|| default_data(caller), Ok)?)?,
            keepers: flags.keepers,
            copies: flags.copies,
            min_copies: flags.min_copies,
            chunk_size: u32::try_from(flags.chunk_size.0).map_err(|_| {
                OptionsError::Usage(format!(
                    "--chunk-size {}: too large; at most 64MiB is sensible",
                    flags.chunk_size
                ))
            })?,
            replicate_every: flags.replicate_every.0,
            auth: flags.auth,
        }),
    };
    let http_plain = words.http_plain;
    if let Some(http) = flags.http {
        let encrypted = flags.tls_dir.is_some() && !http_plain;
        check_exposure(http, encrypted, words.insecure)
            .map_err(|error| OptionsError::Usage(error.to_string()))?;
    }
    let squash = Squash { uid: flags.anonuid, gid: flags.anongid };
    let squash = words.root_squash.then_some(squash);
    let mount = resolve_mount(words, squash, &cluster, &subdir, caller.is_root, &mut notes)?;
    Ok(Settings {
        mountpoint: absolute(&mountpoint)?,
        cluster,
        subdir,
        mount,
        foreground: flags.foreground && !as_helper,
        pretend: flags.foreground && as_helper,
        cache_bytes: budget("cache_size", "--cache-size", flags.cache_size)?,
        write_buffer_bytes: budget("write_buffer", "--write-buffer", flags.write_buffer)?,
        master_timeout: flags.master_timeout.0,
        token_file: flags.token_file.map(|f| absolute(&f)).transpose()?,
        tls_dir: flags.tls_dir.map(|dir| absolute(&dir)).transpose()?,
        http: flags.http,
        http_plain,
        log_filter: flags.log,
        log_json: flags.log_json,
        log_file: flags.log_file.map(|f| absolute(&f)).transpose()?,
        notes,
    })
}

/// The directory in a source as the mount table shows it, `dfs:HOST:PORT/x/y`. A source that begins with a slash
/// is something else.
fn split_source(source: Option<PathBuf>) -> (Option<PathBuf>, Option<OsString>) {
    let Some(source) = source else { return (None, None) };
    let text = source.as_os_str().as_bytes();
    match text.iter().position(|byte| *byte == b'/') {
        Some(slash @ 1..) => {
            let (address, path) = text.split_at(slash);
            (Some(PathBuf::from(OsStr::from_bytes(address))), Some(OsStr::from_bytes(path).to_owned()))
        }
        _ => (Some(source), None),
    }
}

fn choose_subdir(source: Option<&OsStr>, flag: Option<&OsStr>) -> Result<SubDir, OptionsError> {
    let source = source.map(SubDir::parse).transpose()?;
    // An empty variable is one that is not set; an empty word was refused before.
    let flag = flag.map(SubDir::parse).transpose()?;
    match (source, flag) {
        (Some(source), Some(flag)) if source != flag => Err(OptionsError::Usage(format!(
            "two directories are named: {source} in the source and --subdir {flag}; name one"
        ))),
        (source, flag) => Ok(flag.or(source).unwrap_or_default()),
    }
}

/// The master's address from the source argument (`HOST:PORT`, `dfs:HOST:PORT` as the mount table shows it,
/// `none`, `dfs`, `dfs:embedded`) and from `--master` or the environment (`true` when typed).
fn choose_master(
    source: Option<&Path>,
    master: Option<(String, bool)>,
) -> Result<Option<String>, OptionsError> {
    let typed = master.as_ref().filter(|(_, typed)| *typed).map(|(m, _)| m.clone());
    let chosen = match source.map(|s| s.to_string_lossy().into_owned()) {
        None => master.map(|(m, _)| m),
        // `none` says that the source is not the place to look; only what was typed can still name a master.
        Some(s) if s.is_empty() || matches!(s.as_str(), "none" | "dfs" | "dfs:embedded") => typed,
        Some(s) => {
            let address = s.strip_prefix("dfs:").unwrap_or(&s).to_owned();
            if let Some(typed) = typed.filter(|t| *t != address) {
                let message =
                    format!("two masters are named: source {address} and --master {typed}; name one");
                return Err(OptionsError::Usage(message));
            }
            Some(address)
        }
    };
    chosen.map(check_address).transpose()
}

/// HOST:PORT, with brackets round an IPv6 address. Whether it resolves is the connection's business.
fn check_address(address: String) -> Result<String, OptionsError> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let plain = !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']);
        (bracketed || plain) && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if good {
        return Ok(address);
    }
    Err(OptionsError::Usage(format!(
        "master '{address}': no address; write it as HOST:PORT, as in 127.0.0.1:3000"
    )))
}

fn resolve_mount(
    words: MountWords,
    squash: Option<Squash>,
    cluster: &Cluster,
    subdir: &SubDir,
    is_root: bool,
    notes: &mut Vec<String>,
) -> Result<MountOptions, OptionsError> {
    for (asked, word) in [(words.dev, "dev"), (words.suid, "suid")] {
        if asked == Some(true) && !is_root {
            notes.push(format!("-o {word} is for root alone and does nothing; the mount is no{word}"));
        }
    }
    let below = if subdir.is_root() { String::new() } else { subdir.to_string() };
    let fsname = words.fsname.unwrap_or_else(|| match cluster {
        Cluster::Join { master } => format!("dfs:{master}{below}"),
        Cluster::Embedded(_) => format!("dfs:embedded{below}"),
    });
    let subtype = words.subtype.unwrap_or_else(|| "dfs".to_owned());
    if subtype.contains([',', '/', ' ']) {
        return Err(OptionsError::Usage(format!(
            "-o subtype={subtype}: must not hold a comma, a slash or a space"
        )));
    }
    if words.allow == Some(Allow::Root) && !is_root {
        notes.push("-o allow_root is not offered to users; only you may use the mount".to_owned());
    }
    // For root, letting in the owner and root is letting in the owner.
    let allow_other = words.allow.map_or(is_root, |allow| allow == Allow::Other);
    Ok(MountOptions {
        read_only: words.read_only,
        allow_other,
        dev: is_root && words.dev.unwrap_or(true),
        suid: is_root && words.suid.unwrap_or(true),
        exec: !words.noexec,
        noatime: words.noatime,
        nodiratime: words.nodiratime,
        strictatime: words.strictatime,
        sync: words.sync,
        dirsync: words.dirsync,
        squash,
        fsname,
        subtype,
    })
}

fn default_data(caller: &Caller) -> Result<PathBuf, OptionsError> {
    let base = caller.xdg_data_home.clone().or_else(|| caller.home.as_ref().map(|h| h.join(".local/share")));
    base.map(|b| b.join("dfs")).ok_or_else(|| {
        OptionsError::Usage(
            "no directory for the embedded cluster: HOME is not set; name one with --data DIR".to_owned(),
        )
    })
}

fn absolute(path: &Path) -> Result<PathBuf, OptionsError> {
    std::path::absolute(path)
        .map_err(|e| OptionsError::Usage(format!("path '{}': {e}; name another", path.display())))
}

#[cfg(test)]
mod tests;
