//! Where figures are had from.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_tls::Connector;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::figures::Figures;
use crate::cli::{CliError, mounts};

/// For a whole answer.
const WITHIN: Duration = Duration::from_secs(5);
/// No page is as long.
const MAX_PAGE: u64 = 16 * 1024 * 1024;
/// The longest value of an attribute (XATTR_SIZE_MAX).
const MAX_VALUE: usize = 64 * 1024;
const ATTRIBUTE: &str = "user.dfs.metrics";

/// A process of the cluster.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// HOST:PORT of its HTTP server, and what it takes to speak TLS to it.
    Http(String, Option<Connector>),
    /// What it has mounted.
    Mount(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Http(address, None) => write!(f, "http://{address}"),
            Source::Http(address, Some(_)) => write!(f, "https://{address}"),
            Source::Mount(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Source {
    /// What somebody typed: a directory that is there, or an address. An address alone is spoken to as the cluster is: over
    /// TLS with `--tls-dir`.
    pub(super) fn new(what: &str, typed: &OsStr, tls: Option<&Connector>) -> Result<Source, CliError> {
        let text = typed.to_string_lossy();
        let (address, tls) = if let Some(rest) = text.strip_prefix("https://") {
            let none = || {
                CliError::Local(format!(
                    "{what} {text}: there is no CA to check its certificate with; give --tls-dir DIR"
                ))
            };
            (rest, Some(tls.ok_or_else(none)?))
        } else if let Some(rest) = text.strip_prefix("http://") {
            (rest, None)
        } else if text.contains(':') && !text.starts_with(['/', '.']) {
            (&*text, tls)
        } else {
            return Source::mount(what, Path::new(typed));
        };
        let address = address.split('/').next().unwrap_or(address);
        Ok(Source::Http(address.to_owned(), tls.cloned()))
    }

    /// The mount that has this path.
    pub(super) fn mount(what: &str, path: &Path) -> Result<Source, CliError> {
        // Not asked of the mount, which may not answer: by its name, or as a path from here.
        let failed = |error: io::Error| CliError::local(what, path, &error, "see that it is there");
        let whole = std::path::absolute(path).map_err(failed)?;
        let whole = mounts::all()
            .into_iter()
            .map(|mount| mount.path)
            .find(|mount| whole.starts_with(mount))
            .map_or_else(|| path.canonicalize().map_err(failed), Ok)?;
        Ok(Source::Mount(mounts::holding(what, &whole)?.path))
    }

    /// Its figures now.
    pub(super) async fn look(&self, what: &str) -> Result<Figures, CliError> {
        match self {
            Source::Http(address, tls) => {
                let page = tokio::time::timeout(WITHIN, page(address, tls.as_ref())).await;
                let page = page.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                let remedy = "see that a process of the cluster runs there with --http";
                let failed = |error: io::Error| CliError::Local(format!("{what} {self}: {error}; {remedy}"));
                Ok(Figures::parse(&page.map_err(failed)?))
            }
            Source::Mount(path) => {
                let place = path.clone();
                let text = mounts::within_deadline(what, path, move || attribute(&place)).await?;
                Ok(Figures::parse(&text))
            }
        }
    }
}

fn attribute(path: &Path) -> io::Result<String> {
    let mut value = vec![0; MAX_VALUE];
    let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..])?;
    value.truncate(length);
    Ok(String::from_utf8_lossy(&value).into_owned())
}

/// One request, as plain as can be.
async fn page(address: &str, tls: Option<&Connector>) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    match tls {
        Some(tls) => ask(address, tls.connect(address, stream).await?).await,
        None => ask(address, stream).await,
    }
}

async fn ask(address: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    // In HTTP/1.0 an answer comes in one piece, and the connection ends with it.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_PAGE).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("this is no HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!(
            "it answers '{status}': {}",
            body.lines().next().unwrap_or_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_directories() {
        let shown =
            |typed: &str| Source::new("top", OsStr::new(typed), None).ok().map(|source| source.to_string());
        assert_eq!(shown("http://h:1/metrics").as_deref(), Some("http://h:1"));
        assert_eq!(shown("127.0.0.1:9100").as_deref(), Some("http://127.0.0.1:9100"));
        assert_eq!(shown("/"), None);
        assert_eq!(shown("/a:b"), None);
        // Nobody is believed without a CA.
        assert_eq!(shown("https://h:1/metrics"), None);
    }
}
