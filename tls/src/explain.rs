//! Why a handshake failed, in words that say what to do.

use std::io;
use std::path::Path;

use rustls::{AlertDescription, CertificateError, Error as Tls};

use crate::dir::{AUTHORITY, day};

/// As the one who connects sees it; `dir` is his `--tls-dir`.
pub fn explain(error: &io::Error, dir: &Path) -> String {
    match cause(error) {
        Some(Tls::InvalidCertificate(why)) => certificate(why, dir),
        // What comes first from whoever speaks TLS cannot be misread.
        Some(Tls::InvalidMessage(_)) => "it speaks no TLS; give it --tls-dir, or do without here".to_owned(),
        Some(Tls::AlertReceived(alert)) => format!("it refused: {}", refusal(*alert)),
        Some(other) => other.to_string(),
        None if closed(error) => format!("it closed the connection in the TLS handshake ({error})"),
        None => error.to_string(),
    }
}

fn cause(error: &io::Error) -> Option<&Tls> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>())
}

fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn certificate(why: &CertificateError, dir: &Path) -> String {
    let renew = "make a new one for it with 'dfs tls issue'";
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!(
                "its certificate is not of the CA in {}; take the file of its cluster",
                dir.join(AUTHORITY).display()
            )
        }
        CertificateError::Expired => format!("its certificate expired; {renew}"),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on {}; {renew}", day(*not_after))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not good yet; set the clocks of both machines".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for other hosts ({why}); {renew}, with --host")
        }
        other => format!("its certificate is not good: {other}"),
    }
}

fn refusal(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "our certificate is not of its CA; take certificates of one 'dfs tls init'".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "our certificate expired; make a new one with 'dfs tls issue'".to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "it serves something else there; check the port".to_owned()
        }
        other => format!("{other:?}"),
    }
}
