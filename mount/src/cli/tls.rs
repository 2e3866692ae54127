//! `dfs tls`: a cluster's CA, and certificates that it signs. Works on files alone, and needs no cluster.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use dfs_tls::authority::{self, DEFAULT_DAYS, Request};
use dfs_tls::{Role, TlsError};

use super::CliError;
use super::output::Output;

/// The longest that a certificate may be good: as long as its CA.
const MAX_DAYS: i64 = 3_650;

#[derive(Subcommand, Debug)]
pub(super) enum Tls {
    /// Make a CA, and certificates for the master and for keepers
    Init {
        /// Where to; made when missing
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// A name or address under which the master or keepers are reached, as keeper1.example, 10.0.0.7 or *.dfs.example
        #[arg(long = "host", value_name = "NAME_OR_IP", num_args = 1.., required = true)]
        hosts: Vec<String>,
        /// How long the certificates are good; the CA is for ten years
        #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_DAYS, value_parser = days())]
        days: u32,
    },
    /// Make one more certificate, with a key of its own, or renew one
    Issue {
        /// Where 'dfs tls init' made the CA
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// For whom
        #[arg(long, value_name = "master|keeper|mount")]
        role: Role,
        /// A name or address under which it is reached
        #[arg(long = "host", value_name = "NAME_OR_IP", num_args = 1.., required = true)]
        hosts: Vec<String>,
        /// Where to; what is there is replaced [default: DIR/ROLE-HOST]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How long it is good
        #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_DAYS, value_parser = days())]
        days: u32,
    },
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX_DAYS)
}

pub(super) fn tls(command: &Tls) -> Result<(), CliError> {
    let made = match command {
        Tls::Init { dir, hosts, days } => init(dir, hosts, *days),
        Tls::Issue { dir, role, hosts, out, days } => {
            let request = Request { role: *role, hosts: hosts.clone(), days: *days };
            issue(dir, request, out.as_deref())
        }
    };
    let mut output = Output::new();
    output.text(&made.map_err(|error| CliError::Local(error.to_string()))?)?;
    output.finish()
}

fn init(dir: &Path, hosts: &[String], days: u32) -> Result<String, TlsError> {
    authority::init(dir, hosts, days)?;
    let at = dir.display();
    Ok(format!(
        "{at}: a CA, and certificates for {hosts} that are good for {days} days\n\
         copy {at}/master to the master's machine:    dfs-master --tls-dir master\n\
         copy {at}/keeper to each keeper's machine:   dfs-keeper --tls-dir keeper\n\
         copy {at}/client to whoever mounts or asks:  dfs-mount --tls-dir client, dfs --tls-dir client\n\
         keep {at}/ca-key.pem here, and from everybody: who has it can be the master\n",
        hosts = hosts.join(", "),
    ))
}

fn issue(dir: &Path, request: Request, out: Option<&Path>) -> Result<String, TlsError> {
    let host = request.hosts.first().map_or("any", String::as_str).replace('*', "any");
    let named = dir.join(format!("{}-{host}", request.role));
    let out = out.unwrap_or(&named);
    authority::issue(dir, &request, out)?;
    Ok(format!(
        "{at}: a {role}'s certificate for {hosts} that is good for {days} days\n\
         copy {at} to its machine:  dfs-{role} --tls-dir {name}; start it again if it runs\n",
        at = out.display(),
        role = request.role,
        hosts = request.hosts.join(", "),
        days = request.days,
        name = out
            .file_name()
            .map_or_else(|| out.display().to_string(), |name| name.to_string_lossy().into_owned()),
    ))
}
