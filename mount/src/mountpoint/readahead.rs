//! How far the kernel reads ahead on our mount. Its default of 128 KiB is made for disks; a range that is
//! spread over several keepers wants to be asked for well before it is read.

use std::path::PathBuf;
use std::{fs, io};

use super::mountinfo::DeviceNo;

/// What we ask for, in KiB.
pub const READAHEAD_KIB: u32 = 4096;

/// The kernel's control file for the device (Documentation/ABI/testing/sysfs-class-bdi).
pub fn control_file(device: DeviceNo) -> PathBuf {
    PathBuf::from(format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor))
}

/// Sets the mount's readahead to [`READAHEAD_KIB`].
///
/// # Errors
/// Whoever is not root may not, and sysfs may be missing or read-only; reading is slower then, not wrong.
pub fn raise(device: DeviceNo) -> io::Result<()> {
    fs::write(control_file(device), READAHEAD_KIB.to_string())
}

/// The mount's readahead in KiB, if it is told.
pub fn get(device: DeviceNo) -> Option<u32> {
    fs::read_to_string(control_file(device)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_is_that_of_the_device() {
        let file = control_file(DeviceNo { major: 0, minor: 45 });
        assert_eq!(file, PathBuf::from("/sys/class/bdi/0:45/read_ahead_kb"));
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_no_more() {
        assert!(raise(DeviceNo { major: 4095, minor: 1_048_575 }).is_err());
    }
}
