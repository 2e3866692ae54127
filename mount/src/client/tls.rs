//! What it takes to reach a cluster whose connections are encrypted: its CA's certificate. Who we are, a token says.
//!
//! What must hold: whoever has this connects to no master without it.

use std::path::Path;

use dfs_tls::{Connector, TlsDir, TlsError};

/// See the module. Cheap to clone; clones resume each other's TLS sessions.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(super) to_master: Connector,
    pub(super) to_keepers: Connector,
    /// To what processes of the cluster show over HTTP.
    pub(crate) to_pages: Connector,
}

impl Tls {
    /// With the `ca.pem` in `dir`.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(dir: &Path) -> Result<Tls, TlsError> {
        let dir = TlsDir::load(dir, None)?;
        Ok(Tls { to_master: dir.to_master()?, to_keepers: dir.to_keepers()?, to_pages: dir.to_pages()? })
    }

    /// The same, if a directory was named.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn load_if_named(dir: Option<&Path>) -> Result<Option<Tls>, TlsError> {
        dir.map(Tls::load).transpose()
    }
}
