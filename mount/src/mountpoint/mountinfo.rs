//! The kernel's mount table, `/proc/self/mountinfo`. Reading it touches no mounted file system, so it
//! answers even where one is dead or hangs.
//!
//! Format (proc_pid_mountinfo(5)), one mount a line, in the order in which they were mounted:
//! `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS`. Space, tab, newline and
//! backslash in names are written as a backslash and three octal digits.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A device number, as the mount table and sysfs show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceNo {
    /// Which driver; 0 for file systems without a disk.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// One line of the mount table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// The mount's number. It may be used again after the mount is gone.
    pub id: u64,
    /// The mounted file system's device number; `st_dev` of every file in it.
    pub device: DeviceNo,
    /// Where it is mounted, unescaped.
    pub path: PathBuf,
    /// `ext4`, `fuse.dfs`, ...
    pub fs_type: String,
    /// What is mounted, unescaped; free text for FUSE.
    pub source: String,
    /// Options of the mount, then those of the file system, with commas between them.
    pub options: String,
}

/// Reads the mount table of this process. Lines that cannot be read are left out.
///
/// # Errors
/// When `/proc` is not there.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mount that a path lookup of `path` ends in, if something is mounted right on it: the last one there.
pub fn topmost<'a>(table: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    table.iter().rev().find(|e| e.path == path)
}

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let mut device = fields.nth(1)?.split(|&b| b == b':');
    let device = DeviceNo { major: number(device.next()?)?, minor: number(device.next()?)? };
    let path = unescape(fields.nth(1)?);
    let mount_options = String::from_utf8_lossy(fields.next()?);
    // Any number of tags, up to a lone dash.
    fields.find(|&f| f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let options = format!("{mount_options},{}", String::from_utf8_lossy(fields.next().unwrap_or_default()));
    Some(MountEntry { id, device, path: PathBuf::from(OsString::from_vec(path)), fs_type, source, options })
}

fn number<N: std::str::FromStr>(field: &[u8]) -> Option<N> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3).and_then(octal_byte)).flatten();
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn octal_byte(digits: &[u8]) -> Option<u8> {
    // from_str_radix alone would also take a sign.
    let text = std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    u8::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n\
        30 22 0:45 / /mnt/my\\040films rw,nosuid - fuse.dfs dfs:127.0.0.1:3000 rw,user_id=0\n\
        nonsense\n\
        31 22 0:46 /sub /mnt/b rw - tmpfs none rw\n\
        32 31 0:47 / /mnt/b rw shared:3 - fuse.dfs a\\134b\\011c rw\n";

    #[test]
    fn lines_are_read_with_and_without_tags() {
        let table = parse(TABLE);
        assert_eq!(table.iter().map(|e| e.id).collect::<Vec<_>>(), [22, 30, 31, 32]);
        let wanted = MountEntry {
            id: 30,
            device: DeviceNo { major: 0, minor: 45 },
            path: PathBuf::from("/mnt/my films"),
            fs_type: "fuse.dfs".to_owned(),
            source: "dfs:127.0.0.1:3000".to_owned(),
            options: "rw,nosuid,rw,user_id=0".to_owned(),
        };
        assert_eq!(table[1], wanted);
        assert_eq!(table[3].source, "a\\b\tc");
    }

    #[test]
    fn the_last_mount_on_a_path_is_the_one_in_effect() {
        let table = parse(TABLE);
        assert_eq!(topmost(&table, Path::new("/mnt/b")).map(|e| e.id), Some(32));
        assert_eq!(topmost(&table, Path::new("/mnt")), None);
        assert_eq!(topmost(&table, Path::new("/mnt/my films")).map(|e| e.id), Some(30));
    }

    #[test]
    fn escapes_that_are_none_are_kept() {
        assert_eq!(unescape(b"a\\040b\\12"), b"a b\\12");
        assert_eq!(unescape(b"\\999\\400"), b"\\999\\400");
        assert_eq!(unescape(b"\\+12"), b"\\+12");
        assert_eq!(unescape(b"\\303\\274"), "\u{fc}".as_bytes());
    }

    #[test]
    fn the_real_table_has_a_root_and_proc() {
        let table = read().unwrap();
        assert!(topmost(&table, Path::new("/")).is_some());
        assert_eq!(topmost(&table, Path::new("/proc")).map(|e| e.fs_type.as_str()), Some("proc"));
    }
}
