//! Brings the program itself into memory at the start.
//!
//! A program's pages are read when they are first needed, a few at a time, and each time somebody waits for the disk: the
//! first open of a file on a fresh mount waited for up to five such reads. And pages that no process has in use are the
//! first to go when memory is short. So all of them are asked for once, by a thread that nobody waits for.

// One call of madvise(2), on mappings that the kernel has just listed; it changes no memory.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::thread;

/// Begins to do so. That it could not is no harm: pages are read when they are needed, then.
pub fn make() {
    let made = thread::Builder::new().name("resident".to_owned()).spawn(|| match read_all() {
        Ok(bytes) => tracing::debug!(bytes, "the program is in memory"),
        Err(error) => tracing::debug!("the program is read as it is needed: {error}"),
    });
    if let Err(error) = made {
        tracing::debug!("no thread to read the program: {error}");
    }
}

/// Returns how many bytes.
fn read_all() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for part in maps.lines().filter_map(unchanging) {
        populate(&part)?;
        bytes += part.len();
    }
    Ok(bytes)
}

/// The addresses of a line of /proc/self/maps (proc(5)), if it is a file that is mapped to be read or run and not to be
/// written.
fn unchanging(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let access = fields.next()?;
    let is_file = fields.nth(3)?.starts_with('/');
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    (access.starts_with("r-") && is_file).then_some(address(from)?..address(to)?)
}

/// Linux 5.14 and newer.
fn populate(part: &Range<usize>) -> io::Result<()> {
    let start: *mut c_void = std::ptr::without_provenance_mut(part.start);
    // SAFETY: populating only reads pages in, as touching them would; what is not mapped any more is refused (ENOMEM).
    match unsafe { libc::madvise(start, part.len(), libc::MADV_POPULATE_READ) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written_or_is_no_file_is_left_alone() {
        let text = "55d0c8a00000-55d0c8b00000 r-xp 00001000 fd:01 42                 /usr/bin/dfs mount";
        assert_eq!(unchanging(text), Some(0x55d0_c8a0_0000..0x55d0_c8b0_0000));
        for other in [
            "55d0c8b00000-55d0c8c00000 rw-p 00101000 fd:01 42                 /usr/bin/dfs-mount",
            "7ffd1000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]",
            "7ffd3000-7ffd4000 r--p 00000000 00:00 0 ",
            "7ffd5000-7ffd6000 ---p 00000000 fd:01 42                         /usr/bin/dfs-mount",
            "nonsense",
        ] {
            assert_eq!(unchanging(other), None, "{other}");
        }
    }

    #[test]
    fn this_program_is_read() {
        let here = this_program_is_read as *const () as usize;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.lines().filter_map(unchanging).any(|part| part.contains(&here)));
        assert!(read_all().unwrap() > 0);
    }
}
