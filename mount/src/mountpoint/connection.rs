//! Our connection with the kernel, as the fusectl file system shows it: a directory for each, named by the minor
//! device number (Documentation/filesystems/fuse.rst). Its files belong to whoever mounted.

use std::path::PathBuf;
use std::{fs, io};

use super::mountinfo::DeviceNo;

fn abort_file(device: DeviceNo) -> PathBuf {
    PathBuf::from(format!("/sys/fs/fuse/connections/{}/abort", device.minor))
}

/// Ends the connection: everybody who waits for us gets an error, and so does everybody who asks later.
///
/// # Errors
/// fusectl is not mounted, or the connection has ended already.
pub fn abort(device: DeviceNo) -> io::Result<()> {
    fs::write(abort_file(device), b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_named_by_the_minor_number() {
        let file = abort_file(DeviceNo { major: 0, minor: 45 });
        assert_eq!(file, PathBuf::from("/sys/fs/fuse/connections/45/abort"));
        assert!(abort(DeviceNo { major: 0, minor: 1_048_575 }).is_err());
    }
}
