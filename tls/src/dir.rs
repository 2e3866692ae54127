//! What `--tls-dir` names: `ca.pem`, and for a master and keepers `cert.pem` and `key.pem`. It is read once, at the start,
//! and checked then: what is wrong with it is said before anybody connects.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::config::{self, Own, Protocol};
use crate::error::TlsError;
use crate::role::Role;
use crate::stream::{Acceptor, Connector};

/// The CA's certificate.
pub const AUTHORITY: &str = "ca.pem";
/// One's own.
pub const CERTIFICATE: &str = "cert.pem";
/// And its key.
pub const KEY: &str = "key.pem";

/// No file of ours is longer, in bytes.
const MAX_LEN: u64 = 1 << 20;
/// So long before its certificate expires, a process says so at its start.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// A directory that was read and found right.
pub struct TlsDir {
    path: PathBuf,
    roots: Arc<RootCertStore>,
    own: Option<Own>,
}

impl fmt::Debug for TlsDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsDir").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TlsDir {
    /// Reads the CA's certificate, and one's own, when one is of a role.
    ///
    /// # Errors
    /// [`TlsError`] names the file that is not as it has to be.
    pub fn load(path: &Path, role: Option<Role>) -> Result<TlsDir, TlsError> {
        let authority = path.join(AUTHORITY);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authority)? {
            roots
                .add(certificate)
                .map_err(|_| TlsError::NotPem { path: authority.clone(), what: "certificate of a CA" })?;
        }
        let own = role.map(|role| own(path, &roots, role)).transpose()?;
        Ok(TlsDir { path: path.to_owned(), roots: Arc::new(roots), own })
    }

    /// For connecting to the master.
    ///
    /// # Errors
    /// [`TlsError::Broken`].
    pub fn to_master(&self) -> Result<Connector, TlsError> {
        let config = config::client(&self.roots, self.own.as_ref(), Protocol::Control, Some(Role::Master))?;
        Ok(Connector::new(config, &self.path))
    }

    /// For connecting to keepers.
    ///
    /// # Errors
    /// [`TlsError::Broken`].
    pub fn to_keepers(&self) -> Result<Connector, TlsError> {
        let config = config::client(&self.roots, self.own.as_ref(), Protocol::Data, Some(Role::Keeper))?;
        Ok(Connector::new(config, &self.path))
    }

    /// For connecting to what any process of the cluster shows over HTTP. We show nothing there.
    ///
    /// # Errors
    /// [`TlsError::Broken`].
    pub fn to_pages(&self) -> Result<Connector, TlsError> {
        Ok(Connector::new(config::client(&self.roots, None, Protocol::Http, None)?, &self.path))
    }

    /// For a port.
    ///
    /// # Errors
    /// [`TlsError::Broken`], also when this was loaded without a role.
    pub fn acceptor(&self, protocol: Protocol) -> Result<Acceptor, TlsError> {
        let own = self.own.as_ref();
        let own = own.ok_or_else(|| TlsError::Broken("a port without a certificate".to_owned()))?;
        Ok(Acceptor::new(config::server(&self.roots, own, protocol)?))
    }
}

fn own(dir: &Path, roots: &RootCertStore, role: Role) -> Result<Own, TlsError> {
    let (path, key_path) = (dir.join(CERTIFICATE), dir.join(KEY));
    let chain = certificates(&path)?;
    let text = read(&key_path, true)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| TlsError::NotPem { path: key_path.clone(), what: "private key" })?;
    check(&path, dir, &chain, roots, role)?;
    let own = Own { chain, key };
    match config::server(&Arc::new(roots.clone()), &own, Protocol::Control) {
        Ok(_) => Ok(own),
        // All else was checked above.
        Err(_) => Err(TlsError::OtherKey { path: key_path }),
    }
}

/// Would others believe it?
fn check(
    path: &Path,
    dir: &Path,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    role: Role,
) -> Result<(), TlsError> {
    let not_pem = || TlsError::NotPem { path: path.to_owned(), what: "certificate" };
    let (first, between) = chain.split_first().ok_or_else(not_pem)?;
    let certificate = EndEntityCert::try_from(first).map_err(|_| not_pem())?;
    let at = |now: UnixTime| {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let usage = KeyUsage::server_auth();
        certificate.verify_for_usage(algorithms, &roots.roots, between, now, usage, None, None).map(drop)
    };
    let now = UnixTime::now();
    match at(now) {
        Ok(()) => {}
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            return Err(TlsError::Expired { path: path.to_owned(), on: day(not_after) });
        }
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            return Err(TlsError::NotYet { path: path.to_owned(), from: day(not_before) });
        }
        Err(_) => {
            return Err(TlsError::NotOfAuthority { path: path.to_owned(), authority: dir.join(AUTHORITY) });
        }
    }
    if Role::of(first) != Some(role) {
        return Err(TlsError::WrongRole { path: path.to_owned(), wanted: role });
    }
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + WARN_BEFORE);
    if let Err(webpki::Error::CertExpired { not_after, .. }) = at(soon) {
        tracing::warn!(
            "TLS: {} expires on {}; make a new one with 'dfs tls issue' before",
            path.display(),
            day(not_after)
        );
    }
    Ok(())
}

/// As people write it.
pub(crate) fn day(time: UnixTime) -> String {
    let time =
        i64::try_from(time.as_secs()).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.map_or_else(|| "a day beyond all calendars".to_owned(), |time| time.date().to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, false)?;
    let not_pem = || TlsError::NotPem { path: path.to_owned(), what: "certificate" };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|_| not_pem())?;
    // One that cannot be read is refused here, by name, and not at the first handshake.
    let good = |one: &CertificateDer<'_>| anchor_from_trusted_cert(one).is_ok();
    if all.is_empty() || !all.iter().all(good) { Err(not_pem()) } else { Ok(all) }
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, TlsError> {
    let failed = |why| TlsError::Read { path: path.to_owned(), why };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    // Its group may: that is how services that are not root are given keys.
    if secret && meta.is_file() && meta.mode() & 0o027 != 0 {
        return Err(TlsError::KeyReadable { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let mut text = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LEN {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::authority::{self, Request};

    fn made(days: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        authority::init(&dir.path().join("tls"), &["h".to_owned()], days).unwrap();
        dir
    }

    #[test]
    fn what_init_makes_is_right() {
        let dir = made(365);
        let at = |name: &str| dir.path().join("tls").join(name);
        TlsDir::load(&at("master"), Some(Role::Master)).unwrap().acceptor(Protocol::Control).unwrap();
        TlsDir::load(&at("keeper"), Some(Role::Keeper)).unwrap().to_keepers().unwrap();
        TlsDir::load(&at("client"), None).unwrap().to_master().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let (dir, other) = (made(365), made(365));
        let at = |name: &str| dir.path().join("tls").join(name);
        let load = |name: &str, role| TlsDir::load(&at(name), role).unwrap_err();
        let says = |error: &TlsError, words: &str| assert!(error.to_string().contains(words), "{error}");
        let error = load("nowhere", None);
        says(&error, "nowhere/ca.pem");
        assert!(matches!(error, TlsError::Read { .. }), "{error}");
        // A client's directory where a keeper's is needed; a master's certificate.
        says(&load("client", Some(Role::Keeper)), "client/cert.pem");
        let error = load("master", Some(Role::Keeper));
        assert!(matches!(error, TlsError::WrongRole { wanted: Role::Keeper, .. }), "{error}");
        // The key is not for everybody.
        fs::set_permissions(at("keeper/key.pem"), Permissions::from_mode(0o644)).unwrap();
        let error = load("keeper", Some(Role::Keeper));
        assert!(matches!(error, TlsError::KeyReadable { mode: 0o644, .. }), "{error}");
        fs::set_permissions(at("keeper/key.pem"), Permissions::from_mode(0o600)).unwrap();
        // Another's key, another CA, no PEM.
        fs::copy(at("master/key.pem"), at("keeper/key.pem")).unwrap();
        let error = load("keeper", Some(Role::Keeper));
        assert!(matches!(error, TlsError::OtherKey { .. }), "{error}");
        fs::copy(other.path().join("tls/ca.pem"), at("master/ca.pem")).unwrap();
        let error = load("master", Some(Role::Master));
        assert!(matches!(error, TlsError::NotOfAuthority { .. }), "{error}");
        fs::write(at("client/ca.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        assert!(matches!(load("client", None), TlsError::NotPem { .. }));
        fs::write(at("client/ca.pem"), "").unwrap();
        assert!(matches!(load("client", None), TlsError::NotPem { .. }));
    }

    #[test]
    fn a_certificate_that_expired_is_refused_with_its_day() {
        let dir = made(365);
        let tls = dir.path().join("tls");
        let request = Request { role: Role::Keeper, hosts: vec!["h".to_owned()], days: 1 };
        let out = tls.join("old");
        authority::issue_at(&tls, &request, &out, time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(1))
            .unwrap();
        let error = TlsDir::load(&out, Some(Role::Keeper)).unwrap_err();
        assert!(matches!(&error, TlsError::Expired { on, .. } if on == "1970-01-03"), "{error}");
        assert!(error.to_string().contains("dfs tls issue"), "{error}");
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let dir = made(365);
        let loaded = TlsDir::load(&dir.path().join("tls/keeper"), Some(Role::Keeper)).unwrap();
        let key = loaded.own.as_ref().unwrap().key.secret_der().to_vec();
        let shown = format!("{loaded:?} {:?}", loaded.own);
        assert!(!shown.contains(&format!("{:?}", &key[..8]).replace(['[', ']'], "")), "{shown}");
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
