//! Whose a certificate is: it says so in a name that no host has, a URI.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Who may show a certificate. To master and keepers mounts and operators show none: their tokens say who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The master.
    Master,
    /// A keeper.
    Keeper,
    /// A mount, to whoever reads its metrics.
    Mount,
}

impl Role {
    /// The URI among the names of such a certificate.
    pub fn uri(self) -> &'static str {
        match self {
            Role::Master => "dfs:master",
            Role::Keeper => "dfs:keeper",
            Role::Mount => "dfs:mount",
        }
    }

    /// What a certificate says. `None`: nothing, or nothing that is known.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Role> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let is = |role: &Role| certificate.valid_uri_names().any(|uri| uri == role.uri());
        [Role::Master, Role::Keeper, Role::Mount].into_iter().find(is)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Master => "master",
            Role::Keeper => "keeper",
            Role::Mount => "mount",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "master" => Ok(Role::Master),
            "keeper" => Ok(Role::Keeper),
            "mount" => Ok(Role::Mount),
            _ => Err("say master, keeper or mount".to_owned()),
        }
    }
}
