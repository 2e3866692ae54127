//! What can be wrong with a directory of certificates, and with making one.

use std::io;
use std::path::PathBuf;

use crate::role::Role;

/// See the module.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TlsError {
    #[error("TLS: {}: {why}; --tls-dir names a directory that 'dfs tls init' made, or a copy of one", path.display())]
    Read { path: PathBuf, why: io::Error },
    #[error("TLS: {}: there is no {what} in it, in PEM form; copy the file of 'dfs tls init' anew", path.display())]
    NotPem { path: PathBuf, what: &'static str },
    #[error("TLS: {}: others than its owner can read this key (mode {mode:o}); run chmod 600 on it, and make a new one with 'dfs tls issue' if somebody may have read it", path.display())]
    KeyReadable { path: PathBuf, mode: u32 },
    #[error("TLS: {}: this certificate expired on {on}; make a new one with 'dfs tls issue', and copy it here", path.display())]
    Expired { path: PathBuf, on: String },
    #[error("TLS: {}: this certificate is good from {from} on, and this machine's clock is before that; set the clock", path.display())]
    NotYet { path: PathBuf, from: String },
    #[error("TLS: {}: not signed by the CA in {}; take both from one 'dfs tls init'", path.display(), authority.display())]
    NotOfAuthority { path: PathBuf, authority: PathBuf },
    #[error("TLS: {}: this is no {wanted}'s certificate; make one with 'dfs tls issue --role {wanted}'", path.display())]
    WrongRole { path: PathBuf, wanted: Role },
    #[error("TLS: {}: the key is not that of the certificate beside it; copy both from one directory", path.display())]
    OtherKey { path: PathBuf },
    #[error("TLS: '{0}' is no name of a host and no IP address; give --host one of these, without a port")]
    Host(String),
    #[error("TLS: {}: there is a CA already; 'dfs tls issue' makes certificates of it, and for a new CA name another directory", path.display())]
    Exists { path: PathBuf },
    #[error("TLS: {}: cannot be written: {why}; see that the directory is there and writable", path.display())]
    Write { path: PathBuf, why: io::Error },
    #[error("TLS: {0}; please report this")]
    Broken(String),
}
