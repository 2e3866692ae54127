//! `dfs ls`: a directory as `ls -lA` shows it, less what nobody reads.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use serde::Serialize;

use super::CliError;
use super::output::{Cell, Rows, printable};
use super::path::{is_directory, name_it, resolve};
use crate::client::Client;

/// Entries asked for at a time.
const PAGE: u32 = 1000;

#[derive(Serialize)]
struct Entry<'a> {
    name: std::borrow::Cow<'a, str>,
    r#type: &'static str,
    mode: String,
    size: u64,
    /// Seconds since 1970.
    mtime: i64,
    mtime_nsec: u32,
    inode: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
}

pub(super) async fn ls(client: &Client, path: &OsStr, json: bool) -> Result<(), CliError> {
    let path = path.as_bytes();
    let found = resolve(client, path, true).await.map_err(|error| name_it(error, "ls", path))?;
    let mut rows = Rows::new(json, ["", "", "", ""]);
    if !is_directory(&found.attr) {
        add(&mut rows, &found.name, &found.attr)?;
        return rows.finish();
    }
    let mut after = Vec::new();
    loop {
        let inode = InodeNo(found.attr.inode);
        let page = client.readdir(inode, &after, PAGE).await.map_err(|error| name_it(error, "ls", path))?;
        for entry in &page.entries {
            add(&mut rows, &entry.name, &entry.attr.unwrap_or_default())?;
        }
        match page.entries.last() {
            Some(last) if !page.end => after = last.name.to_vec(),
            _ => return rows.finish(),
        }
    }
}

fn add(rows: &mut Rows<4>, name: &[u8], attr: &pb::Attr) -> Result<(), CliError> {
    let mtime = attr.mtime.unwrap_or_default();
    let (type_name, _) = type_of(attr.mode);
    let value = Entry {
        name: String::from_utf8_lossy(name),
        r#type: type_name,
        mode: format!("{:04o}", attr.mode & 0o7777),
        size: attr.size,
        mtime: mtime.sec,
        mtime_nsec: mtime.nsec,
        inode: attr.inode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
    };
    let cells = || {
        [
            Cell::Text(mode_text(attr.mode)),
            Cell::Number(attr.size.to_string()),
            Cell::Text(minute(mtime.sec)),
            Cell::Text(printable(name)),
        ]
    };
    rows.row(cells, &value)
}

fn type_of(mode: u32) -> (&'static str, char) {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => ("directory", 'd'),
        libc::S_IFLNK => ("symlink", 'l'),
        libc::S_IFIFO => ("fifo", 'p'),
        libc::S_IFSOCK => ("socket", 's'),
        libc::S_IFCHR => ("char", 'c'),
        libc::S_IFBLK => ("block", 'b'),
        _ => ("file", '-'),
    }
}

/// As ls(1) writes it: `-rwxr-xr-x`.
fn mode_text(mode: u32) -> String {
    let mut text = String::from(type_of(mode).1);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `2024-02-29 13:05`, UTC. The calendar is Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
pub(super) fn minute(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_on_the_calendar() {
        assert_eq!(minute(0), "1970-01-01 00:00");
        assert_eq!(minute(-1), "1969-12-31 23:59");
        assert_eq!(minute(1_709_211_900), "2024-02-29 13:05");
        assert_eq!(minute(4_102_444_799), "2099-12-31 23:59");
    }

    #[test]
    fn modes_are_as_ls_writes_them() {
        assert_eq!(mode_text(libc::S_IFDIR | 0o755), "drwxr-xr-x");
        assert_eq!(mode_text(libc::S_IFREG | 0o4640), "-rwSr-----");
        assert_eq!(mode_text(libc::S_IFREG | 0o6755), "-rwsr-sr-x");
        assert_eq!(mode_text(libc::S_IFDIR | 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(libc::S_IFDIR | 0o1770), "drwxrwx--T");
    }
}
