//! The words of `-o`, as mount(8), fstab(5) and mount.fuse(8) write them.
//!
//! Three kinds: words about the mount itself ([`MountWords`]), words that mount(8) keeps for itself and
//! that a mount helper passes over in silence (`nofail`, `_netdev`, `x-...`), and our own long flags
//! written as `key=value`. A word that is none of these is an error that names it: a typing mistake in
//! /etc/fstab must not be taken for consent.

/// Our long flags that take a value, without their dashes. `-o` knows each of them, also with `_` for `-`.
pub const LONG_FLAGS: &[&str] = &[
    "master",
    "subdir",
    "data",
    "keepers",
    "cache-size",
    "write-buffer",
    "master-timeout",
    "copies",
    "min-copies",
    "chunk-size",
    "replicate-every",
    "auth",
    "http",
    "log",
    "log-file",
    "tls-dir",
    "token-file",
    "anonuid",
    "anongid",
];

/// Words for mount(8), systemd or the boot scripts alone.
const FOR_OTHERS: &[&str] = &[
    "defaults", "auto", "noauto", "nofail", "user", "users", "nouser", "owner", "noowner", "group",
    "nogroup", "_netdev", "nonempty", "silent", "loud", "mand", "nomand",
];

/// Starts of such words that go on with a value.
const FOR_OTHERS_PREFIXES: &[&str] = &["x-", "X-", "user=", "comment=", "uhelper=", "helper="];

/// What the mount table shows of a FUSE mount beside our words; mount(8) hands it back when it remounts.
const KERNEL_SHOWS: &[&str] = &["user-id", "group-id", "max-read", "blksize"];

/// Who may use the mount besides its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allow {
    /// The owner and root.
    Root,
    /// Everybody whom the modes let in.
    Other,
}

/// What `-o` says about the mount itself. `None` where nothing was said, so that the default can depend
/// on who mounts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountWords {
    /// `ro`.
    pub read_only: bool,
    /// `allow_other`, `allow_root`.
    pub allow: Option<Allow>,
    /// `dev` or `nodev`.
    pub dev: Option<bool>,
    /// `suid` or `nosuid`.
    pub suid: Option<bool>,
    /// `noexec`.
    pub noexec: bool,
    /// `noatime`.
    pub noatime: bool,
    /// `nodiratime`.
    pub nodiratime: bool,
    /// `strictatime`.
    pub strictatime: bool,
    /// These are the words of a remount.
    pub remount: bool,
    /// `sync`: each write is on stable storage before write(2) returns.
    pub sync: bool,
    /// `dirsync`.
    pub dirsync: bool,
    /// `root_squash`.
    pub root_squash: bool,
    /// `insecure`: HTTP may be served on an address that others reach.
    pub insecure: bool,
    /// `http-plain`: HTTP is served without TLS.
    pub http_plain: bool,
    /// `fsname=`: what the mount table shows as the source.
    pub fsname: Option<String>,
    /// `subtype=`: what the mount table shows after `fuse.`.
    pub subtype: Option<String>,
}

/// One word of `-o`, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// It went into [`MountWords`], or is nobody's business here.
    Taken,
    /// One of [`LONG_FLAGS`] with its value.
    Flag {
        /// The flag without its dashes.
        name: &'static str,
        /// What stood after `=`.
        value: String,
    },
}

/// A word of `-o` that means nothing here. The message names it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WordError {
    /// Not known at all.
    #[error("-o {0}: no such mount option; `dfs-mount --help` lists those that there are")]
    Unknown(String),
    /// Known, but it needs `=value`, or must not have one.
    #[error("-o {0}: needs a value; write it as {0}=VALUE")]
    NeedsValue(String),
    /// `bind` and its kind.
    #[error("-o {0}: cannot be done to a running mount; unmount it and mount it again")]
    Running(String),
    /// A name for the mount table that the mount table cannot hold.
    #[error("-o {0}: must not be empty, and must hold no control character")]
    BadName(String),
}

/// Cuts the argument of `-o` at its commas. `\,` is a comma that belongs to the word, `\\` a backslash,
/// as in libfuse.
pub fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            ',' => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|w| !w.is_empty());
    words
}

impl MountWords {
    /// Takes one word in. A later word overrides an earlier one, as with mount(8).
    ///
    /// # Errors
    /// [`WordError`] for a word that is not known here, or is not rightly written.
    pub fn take(&mut self, word: &str) -> Result<Word, WordError> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow = Some(Allow::Other),
            "allow_root" => self.allow = Some(Allow::Root),
            // Always so: there is no mount on which the modes mean nothing.
            "default_permissions" => {}
            "dev" => self.dev = Some(true),
            "nodev" => self.dev = Some(false),
            "suid" => self.suid = Some(true),
            "nosuid" => self.suid = Some(false),
            "exec" => self.noexec = false,
            "noexec" => self.noexec = true,
            "noatime" => (self.noatime, self.strictatime) = (true, false),
            "relatime" => (self.noatime, self.strictatime) = (false, false),
            "strictatime" => (self.noatime, self.strictatime) = (false, true),
            "atime" => self.noatime = false,
            "nostrictatime" => self.strictatime = false,
            // For the kernel it is the same as nothing said, which is relatime.
            "norelatime" => {}
            "nodiratime" => self.nodiratime = true,
            "diratime" => self.nodiratime = false,
            "lazytime" | "nolazytime" => {}
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            "remount" if self.remount => {}
            "insecure" => self.insecure = true,
            "http-plain" | "http_plain" => self.http_plain = true,
            "root_squash" => self.root_squash = true,
            "no_root_squash" => self.root_squash = false,
            "remount" | "bind" | "rbind" | "move" => return Err(WordError::Running(word.to_owned())),
            other => return self.take_rest(other),
        }
        Ok(Word::Taken)
    }

    fn take_rest(&mut self, word: &str) -> Result<Word, WordError> {
        if FOR_OTHERS.contains(&word) || FOR_OTHERS_PREFIXES.iter().any(|p| word.starts_with(p)) {
            return Ok(Word::Taken);
        }
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        if key == "fsname" || key == "subtype" {
            let value = value.ok_or_else(|| WordError::NeedsValue(key.to_owned()))?;
            if value.is_empty() || value.chars().any(char::is_control) {
                return Err(WordError::BadName(word.to_owned()));
            }
            let place = if key == "fsname" { &mut self.fsname } else { &mut self.subtype };
            *place = Some(value.to_owned());
            return Ok(Word::Taken);
        }
        let key = key.replace('_', "-");
        let name = LONG_FLAGS.iter().find(|&&flag| flag == key);
        match (name, value) {
            (Some(&name), Some(value)) => Ok(Word::Flag { name, value: value.to_owned() }),
            (Some(&name), None) => Err(WordError::NeedsValue(name.to_owned())),
            // From the mount table: what the kernel shows of the mount that is to be changed.
            (None, _) if self.remount && KERNEL_SHOWS.contains(&key.as_str()) => Ok(Word::Taken),
            (None, _) => Err(WordError::Unknown(word.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(options: &str) -> Result<(MountWords, Vec<Word>), WordError> {
        let mut words = MountWords::default();
        let taken = split(options).iter().map(|w| words.take(w)).collect::<Result<_, _>>()?;
        Ok((words, taken))
    }

    #[test]
    fn words_are_cut_at_commas_that_are_not_escaped() {
        assert_eq!(split("ro,,fsname=a\\,b,dev"), ["ro", "fsname=a,b", "dev"]);
        assert_eq!(split(""), Vec::<String>::new());
        assert_eq!(split("a\\\\b\\"), ["a\\b"]);
    }

    #[test]
    fn the_last_word_wins() {
        let (words, _) = take_all("ro,rw,nodev,dev,sync,async,noexec,exec,noatime,relatime").unwrap();
        assert_eq!(words, MountWords { dev: Some(true), ..MountWords::default() });
    }

    #[test]
    fn each_word_does_what_it_says() {
        let (words, _) = take_all(
            "ro,allow_other,default_permissions,nodev,nosuid,noexec,noatime,nodiratime,sync,dirsync",
        )
        .unwrap();
        let wanted = MountWords {
            read_only: true,
            allow: Some(Allow::Other),
            dev: Some(false),
            suid: Some(false),
            noexec: true,
            noatime: true,
            nodiratime: true,
            sync: true,
            dirsync: true,
            ..MountWords::default()
        };
        assert_eq!(words, wanted);
    }

    #[test]
    fn words_for_mount_and_systemd_are_passed_over() {
        let (words, _) = take_all(
            "defaults,auto,nofail,noauto,user,user=me,_netdev,x-systemd.automount,X-mount.mkdir,comment=x",
        )
        .unwrap();
        assert_eq!(words, MountWords::default());
    }

    #[test]
    fn long_flags_are_known_with_dash_and_underscore() {
        for name in LONG_FLAGS {
            for key in [(*name).to_owned(), name.replace('-', "_")] {
                let (_, taken) = take_all(&format!("{key}=1")).unwrap();
                assert_eq!(taken, [Word::Flag { name, value: "1".to_owned() }]);
            }
        }
        assert_eq!(take_all("cache_size"), Err(WordError::NeedsValue("cache-size".to_owned())));
    }

    #[test]
    fn unknown_words_are_named() {
        for word in ["alow_other", "uid=5", "cache=1", "RO", "remounted", "ro=1"] {
            assert_eq!(take_all(word), Err(WordError::Unknown(word.to_owned())));
        }
        assert!(take_all("bind").unwrap_err().to_string().contains("unmount it"));
        assert_eq!(take_all("user_id=0"), Err(WordError::Unknown("user_id=0".to_owned())));
        let mut remount = MountWords { remount: true, ..MountWords::default() };
        for word in ["remount", "user_id=0", "group_id=0", "max_read=1048576"] {
            assert_eq!(remount.take(word), Ok(Word::Taken));
        }
    }

    #[test]
    fn root_is_squashed_when_the_last_word_says_so() {
        let squashes = |options: &str| take_all(options).unwrap().0.root_squash;
        assert!(!squashes("ro") && squashes("root_squash") && squashes("no_root_squash,root_squash"));
        assert!(!squashes("root_squash,no_root_squash"));
    }

    #[test]
    fn names_for_the_mount_table_are_checked() {
        let (words, _) = take_all("fsname=films\\, old,subtype=dfs2").unwrap();
        assert_eq!((words.fsname.as_deref(), words.subtype.as_deref()), (Some("films, old"), Some("dfs2")));
        assert_eq!(take_all("fsname="), Err(WordError::BadName("fsname=".to_owned())));
        assert_eq!(take_all("subtype"), Err(WordError::NeedsValue("subtype".to_owned())));
    }
}
