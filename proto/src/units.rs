//! Sizes, periods and addresses as people type them: `8MiB`, `10s`, `localhost:3000`. For flags and their help.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes. Reads `512MiB`, `1G`, `10KB`, `4096`; K, M, G, T alone and with `iB` are powers
/// of 1024, with `B` powers of 1000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// A length of time. Reads `10s`, `250ms`, `2m`, `1h`, `7d`; a unit is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Period(pub Duration);

/// What a person typed is no size or period.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}' is no {what}; write it as {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let parse = || {
            let (number, unit) = split(text)?;
            let scale: u64 = match unit.to_ascii_lowercase().as_str() {
                "" | "b" => 1,
                "k" | "kib" => 1 << 10,
                "m" | "mib" => 1 << 20,
                "g" | "gib" => 1 << 30,
                "t" | "tib" => 1 << 40,
                "kb" => 1_000,
                "mb" => 1_000_000,
                "gb" => 1_000_000_000,
                "tb" => 1_000_000_000_000,
                _ => return None,
            };
            number.checked_mul(scale).map(Size)
        };
        parse().ok_or(UnitError { text: text.to_owned(), what: "size", example: "8MiB, 1GiB or 4096" })
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let parse = || {
            let (number, unit) = split(text)?;
            let millis: u64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return None,
            };
            number.checked_mul(millis).map(|ms| Period(Duration::from_millis(ms)))
        };
        parse().ok_or(UnitError { text: text.to_owned(), what: "period", example: "10s, 250ms or 2m" })
    }
}

impl fmt::Display for Size {
    /// The largest binary unit that is exact, so that it reads back as the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let exact = units.iter().find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match exact {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1_000) { write!(f, "{}s", millis / 1_000) } else { write!(f, "{millis}ms") }
    }
}

/// A period; zero for what switches it off.
///
/// # Errors
/// What is wrong with the text, for a person.
pub fn period_or_off(text: &str) -> Result<Period, String> {
    match text {
        "0" | "off" => Ok(Period(Duration::ZERO)),
        _ => text.parse().map_err(|error| format!("{error}, or off")),
    }
}

/// An address to listen on: `127.0.0.1:3000`, or a name of this machine with a port (`localhost:3000`).
///
/// # Errors
/// What is wrong with the text, for a person.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = |why: String| format!("{why}; write it as HOST:PORT, such as 127.0.0.1:3000");
    let mut found = text.to_socket_addrs().map_err(|why| wrong(why.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_type_them() {
        assert_eq!(socket_address("127.0.0.1:3000").map(|a| a.port()), Ok(3000));
        assert_eq!(socket_address("localhost:3000").map(|a| a.ip().is_loopback()), Ok(true));
        for text in ["", "nowhere", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536"] {
            assert!(socket_address(text).is_err_and(|why| why.contains("HOST:PORT")), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_type_them() {
        for (text, bytes) in [
            ("8MiB", 8 << 20),
            ("1g", 1 << 30),
            ("4096", 4096),
            ("10KB", 10_000),
            ("3 GiB", 3 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5G", "8MiBs", "99999999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        let message = "many".parse::<Size>().map_err(|e| e.to_string());
        assert_eq!(message, Err("'many' is no size; write it as 8MiB, 1GiB or 4096".to_owned()));
    }

    #[test]
    fn periods_as_people_type_them() {
        assert_eq!("10s".parse(), Ok(Period(Duration::from_secs(10))));
        assert_eq!("250ms".parse(), Ok(Period(Duration::from_millis(250))));
        assert_eq!("2m".parse(), Ok(Period(Duration::from_secs(120))));
        assert_eq!("7d".parse(), Ok(Period(Duration::from_secs(604_800))));
        assert_eq!(period_or_off("off"), Ok(Period(Duration::ZERO)));
        assert!("10".parse::<Period>().is_err());
        assert!("s".parse::<Period>().is_err());
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [0, 1, 1023, 8 << 20, 3 << 30, (1 << 40) + 1] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Period(Duration::from_millis(1500)).to_string(), "1500ms");
    }
}
