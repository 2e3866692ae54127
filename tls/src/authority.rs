//! Makes a cluster's CA, and certificates that it signs.
//!
//! In the directory of the CA:
//!
//! ```text
//! ca.pem, ca-key.pem          the key stays here, and is for whoever makes certificates
//! master/  ca.pem cert.pem key.pem
//! keeper/  ca.pem cert.pem key.pem
//! client/  ca.pem             for mounts and dfs
//! ```
//!
//! What must hold: keys are for their owner alone from the moment that their file is there.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::dir::{AUTHORITY, CERTIFICATE, KEY, TlsDir};
use crate::error::TlsError;
use crate::role::Role;

/// The CA's key.
pub const AUTHORITY_KEY: &str = "ca-key.pem";
/// How long a CA is good, in days.
const AUTHORITY_DAYS: u32 = 3_650;
/// How long a certificate is good unless somebody says otherwise, in days.
pub const DEFAULT_DAYS: u32 = 365;
/// Clocks differ: what is made now is good from a little earlier.
const BACKDATED: Duration = Duration::hours(1);
/// Every host has these, and nobody else's are reached under them.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate that is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose.
    pub role: Role,
    /// The names and addresses under which others reach it, beside those of the loopback interface.
    pub hosts: Vec<String>,
    /// How long it is good.
    pub days: u32,
}

/// Makes a CA in `dir`, and certificates for a master and for keepers on these hosts.
///
/// # Errors
/// [`TlsError`]: `Exists`, `Host`, `Write`.
pub fn init(dir: &Path, hosts: &[String], days: u32) -> Result<(), TlsError> {
    let (certificate, key_path) = (dir.join(AUTHORITY), dir.join(AUTHORITY_KEY));
    if certificate.exists() || key_path.exists() {
        return Err(TlsError::Exists { path: dir.to_owned() });
    }
    // Before anything is written.
    hosts.iter().try_for_each(|host| name(host).map(drop))?;
    let key = KeyPair::generate().map_err(broken)?;
    let now = OffsetDateTime::now_utc();
    let made = authority_params(now).self_signed(&key).map_err(broken)?;
    make_dir(dir)?;
    write(&key_path, &key.serialize_pem(), 0o600)?;
    write(&certificate, &made.pem(), 0o644)?;
    for role in [Role::Master, Role::Keeper] {
        let request = Request { role, hosts: hosts.to_vec(), days };
        issue_at(dir, &request, &dir.join(role.to_string()), now)?;
    }
    let client = dir.join("client");
    make_dir(&client)?;
    write(&client.join(AUTHORITY), &made.pem(), 0o644)
}

/// Makes a certificate with a key of its own, signed by the CA in `dir`, in the directory `out`. One that is there is
/// replaced.
///
/// # Errors
/// [`TlsError`].
pub fn issue(dir: &Path, request: &Request, out: &Path) -> Result<(), TlsError> {
    issue_at(dir, request, out, OffsetDateTime::now_utc())?;
    // Does the key belong to the CA? Nobody would believe what it signed.
    TlsDir::load(out, Some(request.role)).map(drop)
}

/// The same, made at this time.
pub(crate) fn issue_at(
    dir: &Path,
    request: &Request,
    out: &Path,
    now: OffsetDateTime,
) -> Result<(), TlsError> {
    let authority = read(&dir.join(AUTHORITY))?;
    let key_path = dir.join(AUTHORITY_KEY);
    let authority_key = KeyPair::from_pem(&read(&key_path)?)
        .map_err(|_| TlsError::NotPem { path: key_path, what: "private key" })?;
    let issuer = Issuer::new(authority_params(now), authority_key);
    let key = KeyPair::generate().map_err(broken)?;
    let certificate = params(request, now)?.signed_by(&key, &issuer).map_err(broken)?;
    make_dir(out)?;
    write(&out.join(KEY), &key.serialize_pem(), 0o600)?;
    write(&out.join(CERTIFICATE), &certificate.pem(), 0o644)?;
    write(&out.join(AUTHORITY), &authority, 0o644)
}

/// Its name is always the same, so that it is known when certificates are made later.
fn authority_params(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("dfs certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(i64::from(AUTHORITY_DAYS));
    params
}

fn params(request: &Request, now: OffsetDateTime) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("dfs {}", request.role));
    let mut names = Vec::new();
    for host in request.hosts.iter().map(String::as_str).chain(LOOPBACK) {
        let name = name(host)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.push(SanType::URI(request.role.uri().try_into().map_err(broken)?));
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A keeper connects to the master and to other keepers, too.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(i64::from(request.days));
    Ok(params)
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "dfs");
    name.push(DnType::CommonName, common);
    name
}

/// An address, or a name, of which the first label may be `*`.
fn name(host: &str) -> Result<SanType, TlsError> {
    let wrong = || TlsError::Host(host.to_owned());
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let plain = host.strip_prefix("*.").unwrap_or(host);
    rustls::pki_types::DnsName::try_from(plain).map_err(|_| wrong())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| wrong())?))
}

fn broken(error: rcgen::Error) -> TlsError {
    TlsError::Broken(error.to_string())
}

fn make_dir(dir: &Path) -> Result<(), TlsError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|why| TlsError::Write { path: dir.to_owned(), why })
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|why| TlsError::Read { path: path.to_owned(), why })
}

/// Whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let part: PathBuf = path.with_extension("part");
    let written = (|| {
        // Of one who was interrupted.
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    written.map_err(|why| TlsError::Write { path: path.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn keys_are_for_their_owner_and_the_authoritys_goes_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tls");
        init(&dir, &["a.example".to_owned(), "10.0.0.1".to_owned()], 1).unwrap();
        for key in ["ca-key.pem", "master/key.pem", "keeper/key.pem"] {
            assert_eq!(fs::metadata(dir.join(key)).unwrap().mode() & 0o777, 0o600, "{key}");
        }
        for role in ["master", "keeper", "client"] {
            assert!(!dir.join(role).join(AUTHORITY_KEY).exists());
            assert_eq!(read(&dir.join(role).join(AUTHORITY)).unwrap(), read(&dir.join(AUTHORITY)).unwrap());
        }
        assert!(!dir.join("client/key.pem").exists());
        assert!(matches!(init(&dir, &[], 1), Err(TlsError::Exists { .. })));
    }

    #[test]
    fn further_certificates_have_keys_of_their_own_and_are_replaced_when_they_are_renewed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tls");
        init(&dir, &[], 1).unwrap();
        let request = Request { role: Role::Keeper, hosts: vec!["*.keepers.example".to_owned()], days: 30 };
        let out = dir.join("second");
        issue(&dir, &request, &out).unwrap();
        let first = read(&out.join(KEY)).unwrap();
        assert_ne!(first, read(&dir.join("keeper/key.pem")).unwrap());
        issue(&dir, &request, &out).unwrap();
        assert_ne!(first, read(&out.join(KEY)).unwrap());
        // A key that is not this CA's.
        let other = temp.path().join("other");
        init(&other, &[], 1).unwrap();
        fs::copy(other.join(AUTHORITY_KEY), dir.join(AUTHORITY_KEY)).unwrap();
        assert!(matches!(issue(&dir, &request, &out), Err(TlsError::NotOfAuthority { .. })));
    }

    #[test]
    fn what_is_no_host_is_named_and_nothing_is_written() {
        let temp = tempfile::tempdir().unwrap();
        for bad in ["", "a b", "*", "a.*.b", "host:3000", "http://x"] {
            let dir = temp.path().join("tls");
            let error = init(&dir, &[bad.to_owned()], 1).unwrap_err();
            assert!(matches!(&error, TlsError::Host(host) if host == bad), "{error}");
            assert!(!dir.exists());
        }
    }
}
