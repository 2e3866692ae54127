//! Where a user's files go when nothing else is said: the XDG base directories, and the home directory even
//! where HOME is not set (mount(8) called by the boot scripts).

use std::env;
use std::path::PathBuf;

use super::{Caller, memory};

/// The caller of this process.
pub fn caller() -> Caller {
    Caller {
        is_root: rustix::process::geteuid().is_root(),
        home: home(),
        xdg_data_home: absolute_variable("XDG_DATA_HOME"),
        memory_bytes: std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory::total_of(&text)),
    }
}

/// `$XDG_STATE_HOME`, or `~/.local/state`: where logs go.
pub fn state_home() -> Option<PathBuf> {
    absolute_variable("XDG_STATE_HOME").or_else(|| home().map(|h| h.join(".local/state")))
}

/// The XDG base directory specification: a relative path is to be taken for none.
fn absolute_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute())
}

fn home() -> Option<PathBuf> {
    absolute_variable("HOME").or_else(|| {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        home_of(rustix::process::geteuid().as_raw(), &passwd)
    })
}

/// The home directory of `uid` in the text of passwd(5): `name:password:uid:gid:comment:home:shell`.
fn home_of(uid: u32, passwd: &str) -> Option<PathBuf> {
    let fields = |line: &str| -> Option<PathBuf> {
        let mut fields = line.split(':');
        (fields.nth(2)?.parse::<u32>().ok()? == uid).then(|| fields.nth(2).map(PathBuf::from))?
    };
    passwd.lines().find_map(fields).filter(|p| p.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_directory_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nme:x:1000:1000:Me,,:/home/me:/bin/sh\nno:x:7:7::nowhere:\n";
        assert_eq!(home_of(1000, passwd), Some(PathBuf::from("/home/me")));
        assert_eq!(home_of(0, passwd), Some(PathBuf::from("/root")));
        assert_eq!(home_of(7, passwd), None);
        assert_eq!(home_of(5, passwd), None);
    }
}
