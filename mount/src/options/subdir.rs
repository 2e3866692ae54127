//! Which directory of the cluster is mounted: `--subdir /x/y`, or `HOST:PORT/x/y` as the source.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::MAX_NAME_LEN;

use super::OptionsError;

/// A directory by its names from the cluster's root down; none: the root itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubDir(Vec<Vec<u8>>);

impl SubDir {
    /// From a path. A slash in front may be left out.
    ///
    /// # Errors
    /// An empty path, `..`, a name that nothing can have.
    pub fn parse(path: &OsStr) -> Result<SubDir, OptionsError> {
        let shown = path.to_string_lossy();
        let usage = |why: &str| OptionsError::Usage(format!("--subdir '{shown}': {why}"));
        if path.is_empty() {
            return Err(usage("is empty; name a directory of the cluster, as in /films"));
        }
        let names: Vec<Vec<u8>> = path
            .as_bytes()
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .map(<[u8]>::to_vec)
            .collect();
        if names.iter().any(|name| name == b"..") {
            return Err(usage("must not hold '..'; name the directory from the cluster's root down"));
        }
        if names.iter().any(|name| name.len() > MAX_NAME_LEN) {
            return Err(usage("has a name of over 255 bytes, which nothing can have"));
        }
        Ok(SubDir(names))
    }

    /// From the root down.
    pub fn names(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Everything is mounted.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for SubDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.0 {
            write!(f, "/{}", String::from_utf8_lossy(name))?;
        }
        if self.is_root() { f.write_str("/") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<String, String> {
        SubDir::parse(OsStr::new(path)).map(|dir| dir.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_cleaned_and_the_way_up_is_refused() {
        assert_eq!(parse("/x//y/./z/").unwrap(), "/x/y/z");
        assert_eq!(parse("x").unwrap(), "/x");
        assert_eq!(parse("/").unwrap(), "/");
        assert_eq!(parse("/...").unwrap(), "/...");
        for bad in ["", "..", "/x/../y", "/x/.."] {
            assert!(parse(bad).unwrap_err().contains("--subdir"), "{bad}");
        }
        assert!(parse(&"n".repeat(256)).is_err());
    }
}
