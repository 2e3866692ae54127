//! Settings files: TOML whose keys are the long flags of a program.
//!
//! ```toml
//! data = "/srv/dfs/keeper"
//! master = "master:3000"
//! label = ["rack=2", "disk=ssd"]
//! scrub-every = "7d"
//! ```
//!
//! What must hold: a flag on the command line wins over the environment, the environment over the file, the file over the
//! default. A key that is no flag is an error, for a misspelled limit must not be none. What is done once (a dump, a
//! restore) cannot be said in a file: a key is a flag that can come from the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Command};
use toml::Value;

/// Where the file of a program is, when nothing else is said.
pub const DIRECTORY: &str = "/etc/dfs";
const FLAG: &str = "--config";
const VARIABLE: &str = "DFS_CONFIG";

/// `command` with what the file of the program `name` says as its defaults. A file that nobody named may be missing.
///
/// # Errors
/// The file cannot be read, is no TOML, has a key that is no flag, or a value that no flag can have.
pub fn apply(command: Command, name: &str, args: &[OsString]) -> Result<Command, clap::Error> {
    let (path, named) = match named(args, std::env::var_os(VARIABLE)) {
        Some(path) => (path, true),
        None => (Path::new(DIRECTORY).join(name).with_extension("toml"), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(command),
        Err(error) => return Err(refused(command, &path, &format!("cannot be read: {error}"))),
    };
    match values(&command, &text) {
        Ok(values) => Ok(with_defaults(command, values)),
        Err(why) => Err(refused(command, &path, &why)),
    }
}

fn refused(mut command: Command, path: &Path, why: &str) -> clap::Error {
    command.error(ErrorKind::InvalidValue, format!("settings file {}: {why}", path.display()))
}

/// The file that the command line names, or else the environment.
fn named(args: &[OsString], variable: Option<OsString>) -> Option<PathBuf> {
    let mut args = args.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == FLAG {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix(FLAG)?.strip_prefix('=')) {
            return Some(PathBuf::from(path));
        }
    }
    variable.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The ids of flags, and what the file says of each.
fn values(command: &Command, text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        format!("line {line} is no TOML: {}", error.message())
    })?;
    table.iter().map(|(key, value)| one(command, key, value)).collect()
}

fn one(command: &Command, key: &str, value: &Value) -> Result<(String, Vec<String>), String> {
    let long = key.replace('_', "-");
    let known =
        |arg: &&clap::Arg| arg.get_long() == Some(&long) && arg.get_env().is_some() && long != "config";
    let Some(arg) = command.get_arguments().find(known) else {
        return Err(format!(
            "'{key}' is no setting; the settings are the flags that --help shows with [env: ...]"
        ));
    };
    let takes_many = matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some();
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let values = match value {
        Value::Boolean(on) if is_switch => vec![on.to_string()],
        Value::Array(all) if takes_many => {
            all.iter().map(|value| plain(key, value)).collect::<Result<_, _>>()?
        }
        _ if is_switch => return Err(format!("'{key}' is a switch: write true or false")),
        value => vec![plain(key, value)?],
    };
    Ok((arg.get_id().to_string(), values))
}

/// As it would be typed.
fn plain(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(on) => Ok(on.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            Err(format!("'{key}' has a value that no flag can have; write it as text, in quotes"))
        }
    }
}

/// What is read once at a start is kept for ever.
fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn with_defaults(command: Command, values: Vec<(String, Vec<String>)>) -> Command {
    values.into_iter().fold(command, |command, (id, values)| {
        let values: Vec<&'static str> = values.into_iter().map(keep).collect();
        command.mut_arg(id, |arg| arg.required(false).default_values(values))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Parser, Debug, PartialEq)]
    struct Flags {
        #[arg(long, env = "DFS_CMDLINE_DATA")]
        data: String,
        #[arg(long, env = "DFS_CMDLINE_COPIES", default_value_t = 3)]
        copies: u32,
        #[arg(long = "label", env = "DFS_CMDLINE_LABEL", value_delimiter = ',')]
        labels: Vec<String>,
        #[arg(long, env = "DFS_CMDLINE_LOG_JSON", value_parser = clap::builder::FalseyValueParser::new())]
        log_json: bool,
        #[arg(long, env = "DFS_CMDLINE_CONFIG")]
        config: Option<PathBuf>,
        #[arg(long)]
        dump: Option<String>,
    }

    fn parse(text: &str, args: &[&str]) -> Result<Flags, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = format!("--config={}", file.path().display());
        let args: Vec<OsString> =
            ["program", &config].iter().chain(args).map(|arg| OsString::from(*arg)).collect();
        let read = || {
            let command = apply(Flags::command(), "program", &args)?;
            Flags::from_arg_matches(&command.try_get_matches_from(&args)?)
        };
        let as_text = |error: clap::Error| error.to_string().replace(file.path().to_str().unwrap(), "FILE");
        read().map_err(as_text).map(|flags| Flags { config: None, ..flags })
    }

    fn flags(data: &str, copies: u32, labels: &[&str], log_json: bool) -> Flags {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Flags { data: data.to_owned(), copies, labels, log_json, config: None, dump: None }
    }

    const ALL: &str = "data = '/d'\ncopies = 2\nlabel = ['a=1', 'b=2']\nlog_json = true\n";

    #[test]
    fn the_file_says_what_nobody_else_does() {
        assert_eq!(parse(ALL, &[]).unwrap(), flags("/d", 2, &["a=1", "b=2"], true));
        assert_eq!(parse("data = '/d'", &[]).unwrap(), flags("/d", 3, &[], false));
    }

    #[test]
    fn the_command_line_wins() {
        let args = ["--data", "/e", "--copies=1", "--label", "c=3"];
        assert_eq!(parse(ALL, &args).unwrap(), flags("/e", 1, &["c=3"], true));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        for (text, says) in [
            ("copy = 2", "'copy' is no setting"),
            ("dump = 'x'", "'dump' is no setting"),
            ("config = 'x'", "'config' is no setting"),
            ("data = '/d'\ncopies = [", "line 2 is no TOML"),
            ("log-json = 1", "'log-json' is a switch"),
            ("copies = 1.5", "'copies' has a value"),
        ] {
            let error = parse(text, &["--data", "/d"]).unwrap_err();
            assert!(error.contains("settings file FILE: ") && error.contains(says), "{text}: {error}");
        }
        let error = parse("copies = 'many'", &["--data", "/d"]).unwrap_err();
        assert!(error.contains("'many'") && error.contains("--copies"), "{error}");
    }

    #[test]
    fn a_file_that_is_named_has_to_be_there() {
        let args = ["program", "--config", "/nowhere/x.toml"].map(OsString::from);
        let error = apply(Flags::command(), "program", &args).unwrap_err().to_string();
        assert!(error.contains("/nowhere/x.toml: cannot be read"), "{error}");
        assert!(apply(Flags::command(), "no-such-program", &args[..1]).is_ok());
    }

    #[test]
    fn the_command_line_names_the_file_before_the_environment() {
        let args = |args: &[&str]| args.iter().map(|arg| OsString::from(*arg)).collect::<Vec<_>>();
        let variable = Some(OsString::from("v"));
        assert_eq!(named(&args(&["p", "--config", "c"]), variable.clone()), Some(PathBuf::from("c")));
        assert_eq!(named(&args(&["p", "--config=c"]), variable.clone()), Some(PathBuf::from("c")));
        assert_eq!(named(&args(&["p", "--", "--config=c"]), variable), Some(PathBuf::from("v")));
        assert_eq!(named(&args(&["p"]), Some(OsString::new())), None);
    }
}
