//! `dfs find`: what is below a directory and is as was asked. Its flags may be typed with one dash, as find(1) has them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use dfs_proto::pb;
use dfs_proto::units::{Period, Size};
use serde::Serialize;

use super::glob::matches;
use super::names::Names;
use super::row::{Row, type_of};
use super::walk::Walk;
use crate::cli::CliError;
use crate::cli::output::{Cell, Rows, printable};
use crate::cli::path::{name_it, resolve};
use crate::client::Client;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Args, Debug)]
pub(in crate::cli) struct Find {
    /// A directory, or a file
    #[arg(default_value = "/", add = crate::cli::complete::paths())]
    path: OsString,
    /// Names that match, as a shell has it: '*.mp4'
    #[arg(long, value_name = "PATTERN")]
    name: Option<OsString>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "PATTERN")]
    iname: Option<OsString>,
    /// f: files, d: directories, l: symbolic links, p: FIFOs, s: sockets, b and c: devices
    #[arg(long = "type", value_name = "LETTER", value_parser = letter)]
    kind: Option<char>,
    /// Files of exactly this many bytes, of more (+1GiB) or of fewer (-4096)
    #[arg(long, value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    size: Option<Compared<Size>>,
    /// Changed this many days ago, longer ago (+7), or since then (-1); also periods: -2h
    #[arg(long, value_name = "[+|-]DAYS", allow_hyphen_values = true)]
    mtime: Option<Compared<Age>>,
    /// Look no deeper; 0 is PATH alone
    #[arg(long, value_name = "LEVELS")]
    maxdepth: Option<usize>,
}

/// As find(1) has them: with one dash.
pub(in crate::cli) fn with_two_dashes(args: Vec<OsString>) -> Vec<OsString> {
    const FLAGS: [&str; 6] = ["-name", "-iname", "-type", "-size", "-mtime", "-maxdepth"];
    let find = args.iter().position(|arg| arg == "find").unwrap_or(args.len());
    let two = |(at, arg): (usize, OsString)| match FLAGS.iter().any(|flag| arg == *flag) && at > find {
        true => OsString::from_iter([OsStr::new("-"), &arg]),
        false => arg,
    };
    args.into_iter().enumerate().map(two).collect()
}

fn letter(text: &str) -> Result<char, String> {
    match text.chars().next() {
        Some(letter) if text.len() == 1 && "fdlpsbc".contains(letter) => Ok(letter),
        _ => Err("it is one of f, d, l, p, s, b, c".to_owned()),
    }
}

/// Something with a `+` or a `-` before it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Compared<T> {
    order: std::cmp::Ordering,
    to: T,
}

impl<T: FromStr<Err: std::fmt::Display>> FromStr for Compared<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let (order, rest) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (Greater, rest),
            (_, Some(rest)) => (Less, rest),
            _ => (Equal, text),
        };
        Ok(Compared { order, to: rest.parse().map_err(|error: T::Err| error.to_string())? })
    }
}

/// How long ago, and in what steps that is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Age {
    age: Duration,
    step: Duration,
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse::<u32>(), text.parse::<Period>()) {
            (Ok(days), _) => Ok(Age { age: DAY * days, step: DAY }),
            (_, Ok(Period(age))) => Ok(Age { age, step: Duration::from_secs(1) }),
            _ => Err(format!("'{text}' is no number of days and no period; write it as 7 or 2h")),
        }
    }
}

impl Find {
    fn wants(&self, name: &[u8], attr: &pb::Attr, now: pb::Time) -> bool {
        let lower = |text: &[u8]| String::from_utf8_lossy(text).to_lowercase().into_bytes();
        let kind = match type_of(attr.mode).1 {
            '-' => 'f',
            letter => letter,
        };
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.name.as_ref().is_none_or(|pattern| matches(pattern.as_bytes(), name))
            && self.iname.as_ref().is_none_or(|pattern| matches(&lower(pattern.as_bytes()), &lower(name)))
            && self.size.is_none_or(|size| attr.size.cmp(&size.to.0) == size.order && kind == 'f')
            && self.mtime.is_none_or(|mtime| {
                // Whole steps, as find(1) counts days: a fraction is no step. What is in the future is not old.
                let ns = |time: pb::Time| i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
                let old_ns = (ns(now) - ns(attr.mtime.unwrap_or_default())).max(0);
                let steps = |ns: i128| ns / mtime.to.step.as_nanos() as i128;
                steps(old_ns).cmp(&steps(mtime.to.age.as_nanos() as i128)) == mtime.order
            })
    }
}

#[derive(Serialize)]
struct FoundRow<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(flatten)]
    row: Row<'a>,
}

pub(super) async fn find(client: &Client, wanted: &Find, json: bool) -> Result<(), CliError> {
    let path = wanted.path.as_bytes();
    let found = resolve(client, path, false).await.map_err(|error| name_it(error, "find", path))?;
    let mut walk = Walk::new(client, "find", found, path).at_most(wanted.maxdepth.unwrap_or(usize::MAX));
    let (names, mut rows) = (Names::of_machine(), Rows::new(json, [""]));
    let now = client.now();
    while let Some(entry) = walk.next_entry().await? {
        if wanted.wants(&entry.name, &entry.attr, now) {
            let row = Row::new(&entry.name, &entry.attr, &names);
            let value = FoundRow { path: String::from_utf8_lossy(&entry.path), row };
            rows.row(|| [Cell::Text(printable(&entry.path))], &value)?;
        }
    }
    rows.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        find: Find,
    }

    fn parse(args: &[&str]) -> Find {
        let args = ["find", "/x"].iter().chain(args).map(OsString::from).collect();
        Line::try_parse_from(with_two_dashes(args)).map(|line| line.find).unwrap_or_else(|e| panic!("{e}"))
    }

    fn attr(mode: u32, size: u64, mtime_s: i64) -> pb::Attr {
        let mtime = Some(pb::Time { sec: mtime_s, nsec: 0 });
        pb::Attr { mode, size, mtime, ..pb::Attr::default() }
    }

    #[test]
    fn flags_mean_what_they_mean_to_find() {
        let now = pb::Time { sec: 100 * 86_400, nsec: 0 };
        let ago = |seconds: i64| now.sec - seconds;
        let file = |size, seconds| attr(libc::S_IFREG, size, ago(seconds));
        for (args, attr, is_wanted) in [
            (&["-name", "*.mp4"][..], file(1, 0), true),
            (&["-name", "*.MP4"], file(1, 0), false),
            (&["-iname", "*.MP4"], file(1, 0), true),
            (&["-type", "f"], file(1, 0), true),
            (&["--type", "d"], file(1, 0), false),
            (&["-type", "d"], attr(libc::S_IFDIR, 0, 0), true),
            (&["-size", "+1KiB"], file(1024, 0), false),
            (&["-size", "+1KiB"], file(1025, 0), true),
            (&["-size", "-1KiB"], file(1023, 0), true),
            (&["-size", "1KiB"], file(1024, 0), true),
            (&["-size", "-1KiB"], attr(libc::S_IFDIR, 0, 0), false),
            (&["-mtime", "-1"], file(1, 3600), true),
            (&["-mtime", "-1"], file(1, 90_000), false),
            (&["-mtime", "1"], file(1, 90_000), true),
            (&["-mtime", "+1"], file(1, 90_000), false),
            (&["-mtime", "+1"], file(1, 2 * 86_400), true),
            (&["-mtime", "-2h"], file(1, 7_199), true),
            (&["-mtime", "+2h"], file(1, 7_201), true),
            (&["-mtime", "-1"], file(1, -500), true),
        ] {
            assert_eq!(parse(args).wants(b"a.mp4", &attr, now), is_wanted, "{args:?} {attr:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for args in [["-type", "q"], ["-size", "+much"], ["-mtime", "yesterday"], ["-maxdepth", "x"]] {
            let args = ["find", "/x"].iter().chain(&args).map(OsString::from).collect();
            assert!(Line::try_parse_from(with_two_dashes(args)).is_err());
        }
    }
}
