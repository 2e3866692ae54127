//! The command line in all the forms in which people, mount(8) and fstab give it.

use super::*;

fn caller(is_root: bool) -> Caller {
    Caller {
        is_root,
        home: Some(PathBuf::from("/home/me")),
        xdg_data_home: None,
        memory_bytes: Some(4 << 30),
    }
}

fn parse_as(is_root: bool, line: &str) -> Result<Settings, OptionsError> {
    parse(line.split_whitespace().map(OsString::from).collect(), &caller(is_root))
}

fn root(line: &str) -> Settings {
    parse_as(true, line).unwrap()
}

fn fails(line: &str) -> String {
    parse_as(true, line).unwrap_err().to_string()
}

fn embedded(settings: &Settings) -> &EmbeddedSettings {
    match &settings.cluster {
        Cluster::Embedded(e) => e,
        Cluster::Join { master } => panic!("joins {master}"),
    }
}

fn joins(settings: &Settings) -> &str {
    match &settings.cluster {
        Cluster::Join { master } => master,
        Cluster::Embedded(_) => panic!("embedded"),
    }
}

#[test]
fn the_command_is_well_formed() {
    Flags::command().debug_assert();
}

#[test]
fn defaults_are_those_of_the_help() {
    let s = root("dfs-mount /mnt/dfs");
    assert_eq!(s.mountpoint, Path::new("/mnt/dfs"));
    let wanted = EmbeddedSettings {
        data: PathBuf::from("/home/me/.local/share/dfs"),
        keepers: 3,
        copies: 3,
        min_copies: 2,
        chunk_size: 8 << 20,
        replicate_every: Duration::from_secs(10),
        auth: true,
    };
    assert_eq!(embedded(&s), &wanted);
    assert_eq!((s.cache_bytes, s.write_buffer_bytes), (512 << 20, 256 << 20));
    assert_eq!((s.foreground, s.pretend), (false, false));
    assert_eq!(s.master_timeout, Duration::from_secs(30));
    assert_eq!(s.mount.fsname, "dfs:embedded");
}

#[test]
fn root_and_users_get_their_own_defaults() {
    let s = root("dfs-mount /mnt/dfs").mount;
    assert_eq!((s.allow_other, s.dev, s.suid), (true, true, true));
    let s = parse_as(false, "dfs-mount /mnt/dfs").unwrap().mount;
    assert_eq!((s.allow_other, s.dev, s.suid), (false, false, false));
    let s = parse_as(false, "dfs-mount /mnt/dfs -o allow_other,dev").unwrap();
    assert_eq!((s.mount.allow_other, s.mount.dev, s.notes.len()), (true, false, 1));
}

#[test]
fn allow_root_lets_nobody_else_in() {
    assert!(!root("dfs-mount /m -o allow_root").mount.allow_other);
    let s = parse_as(false, "dfs-mount /m -o allow_root").unwrap();
    assert_eq!((s.mount.allow_other, s.notes.len()), (false, 1));
}

#[test]
fn every_flag_reaches_its_setting() {
    let s = root(
        "dfs-mount --data /d --keepers 5 --copies 4 --min-copies 3 --chunk-size 1MiB --replicate-every 2s --auth off -f \
         --cache-size 1GiB --write-buffer 64MiB --master-timeout 5s --log debug --log-file /l/x.log /m",
    );
    let wanted = EmbeddedSettings {
        data: PathBuf::from("/d"),
        keepers: 5,
        copies: 4,
        min_copies: 3,
        chunk_size: 1 << 20,
        replicate_every: Duration::from_secs(2),
        auth: false,
    };
    assert_eq!(embedded(&s), &wanted);
    assert_eq!((s.cache_bytes, s.write_buffer_bytes), (1 << 30, 64 << 20));
    assert!(s.foreground);
    assert_eq!((s.log_filter.as_str(), s.log_file.as_deref()), ("debug", Some(Path::new("/l/x.log"))));
    assert_eq!(s.master_timeout, Duration::from_secs(5));
}

#[test]
fn the_master_can_be_flag_source_or_option() {
    for line in [
        "dfs-mount --master h:3000 /m",
        "dfs-mount h:3000 /m",
        "dfs-mount h:3000 /m -o rw",
        "dfs-mount -o rw h:3000 /m",
        "dfs-mount h:3000 -o rw /m",
        "dfs-mount dfs:h:3000 /m",
        "dfs-mount /m -o master=h:3000",
        "dfs-mount none /m -o master=h:3000",
        "dfs-mount h:3000 /m --master h:3000",
        "dfs-mount --master h:3000 /m -o master=other:1",
        "mount.fuse.dfs h:3000 /m -o rw,dev,suid",
        "/sbin/mount.fuse.dfs h:3000 /m -s -n -v -v -w -o rw -t fuse.dfs",
    ] {
        let s = root(line);
        assert_eq!((joins(&s), s.mountpoint.as_path()), ("h:3000", Path::new("/m")), "{line}");
        assert_eq!(s.mount.fsname, "dfs:h:3000");
    }
    for line in
        ["mount.fuse.dfs none /m", "dfs-mount dfs /m -o rw", "dfs-mount dfs:embedded /m", "dfs-mount /m"]
    {
        embedded(&root(line));
    }
}

#[test]
fn the_environment_names_a_master_unless_the_source_says_none() {
    let environment = || Some(("env:1".to_owned(), false));
    assert_eq!(choose_master(None, environment()).unwrap().as_deref(), Some("env:1"));
    assert_eq!(choose_master(Some(Path::new("none")), environment()).unwrap(), None);
    assert_eq!(choose_master(Some(Path::new("h:2")), environment()).unwrap().as_deref(), Some("h:2"));
    assert!(choose_master(Some(Path::new("h:2")), Some(("t:1".to_owned(), true))).is_err());
}

#[test]
fn bad_masters_are_named() {
    for bad in ["h", "h:", ":1", "h:0", "h:70000", "a:b:1", "http://h:1", "[]:1"] {
        let error = fails(&format!("dfs-mount --master {bad} /m"));
        assert!(error.contains(bad) && error.contains("HOST:PORT"), "{error}");
    }
    assert_eq!(joins(&root("dfs-mount --master [::1]:3000 /m")), "[::1]:3000");
}

#[test]
fn options_may_come_more_than_once_and_glued() {
    let s = root("dfs-mount -oro,noatime /m -o nodev -f -o cache_size=1MiB,write-buffer=2MiB");
    assert!(s.mount.read_only && s.mount.noatime && !s.mount.dev && s.foreground);
    assert_eq!((s.cache_bytes, s.write_buffer_bytes), (1 << 20, 2 << 20));
    assert!(root("dfs-mount -r /m").mount.read_only);
}

#[test]
fn root_is_squashed_on_demand() {
    let squash = |line: &str| root(line).mount.squash;
    let to = |uid, gid| Some(Squash { uid, gid });
    assert_eq!(squash("dfs-mount /m"), None);
    assert_eq!(squash("dfs-mount -o anonuid=5 /m"), None);
    assert_eq!(squash("dfs-mount --root-squash /m"), to(65_534, 65_534));
    assert_eq!(squash("dfs-mount -o root_squash,anonuid=5,anongid=6 /m"), to(5, 6));
    assert_eq!(squash("dfs-mount --root-squash -o no_root_squash /m"), None);
    assert!(fails("dfs-mount -o anonuid=0 /m").contains("anonuid"));
}

#[test]
fn the_command_line_wins_over_o() {
    for line in ["dfs-mount --keepers 4 -o keepers=2 /m", "dfs-mount -o keepers=2 --keepers 4 /m"] {
        assert_eq!(embedded(&root(line)).keepers, 4, "{line}");
    }
}

#[test]
fn called_by_mount_f_means_pretend() {
    let s = root("mount.fuse.dfs h:1 /m -f -o rw");
    assert_eq!((s.foreground, s.pretend), (false, true));
}

#[test]
fn mistakes_are_usage_errors_that_name_the_thing() {
    assert!(fails("dfs-mount /m -o alow_other").contains("alow_other"));
    assert!(fails("dfs-mount /m --cache-size many").contains("many"));
    assert!(fails("dfs-mount /m -o keepers=0").contains("--keepers"));
    assert!(fails("dfs-mount").contains("MOUNTPOINT"));
    assert!(fails("dfs-mount /m --frobnicate").contains("--frobnicate"));
    assert!(fails("dfs-mount a:1 /m extra").contains("extra"));
    assert!(fails("dfs-mount /m --chunk-size 5GiB").contains("5GiB"));
}

#[test]
fn flags_of_the_embedded_cluster_are_noted_when_there_is_a_master() {
    let s = root("dfs-mount --master h:1 --keepers 5 /m");
    assert_eq!(s.notes.len(), 1);
    assert!(s.notes[0].contains("--keepers"));
}

#[test]
fn relative_paths_become_absolute() {
    let s = root("dfs-mount m --data d");
    assert!(s.mountpoint.is_absolute() && embedded(&s).data.is_absolute());
}

#[test]
fn a_directory_of_the_cluster_can_be_named_in_many_ways() {
    for line in [
        "dfs-mount h:1 /m -o subdir=/x/y",
        "dfs-mount h:1 /m -o ro,subdir=x/y/",
        "dfs-mount h:1 /m --subdir /x//y",
        "dfs-mount h:1/x/y /m",
        "dfs-mount dfs:h:1/x/y /m -o subdir=/x/y",
        "mount.fuse.dfs h:1/x/y /m -o rw",
    ] {
        let s = root(line);
        assert_eq!((joins(&s), s.subdir.to_string().as_str()), ("h:1", "/x/y"), "{line}");
        assert_eq!(s.mount.fsname, "dfs:h:1/x/y", "the mount table shows it");
    }
    let s = root("dfs-mount dfs:embedded/x /m");
    assert_eq!((embedded(&s).keepers, s.mount.fsname.as_str()), (3, "dfs:embedded/x"));
    assert!(root("dfs-mount h:1/ /m").subdir.is_root());
    assert!(fails("dfs-mount h:1/x /m -o subdir=/y").contains("two directories"));
    assert!(fails("dfs-mount h:1 /m -o subdir=/x/../..").contains("'..'"));
    assert!(fails("dfs-mount h:1 /m -o subdir=").contains("--subdir"));
    assert!(fails("dfs-mount h:1 /m -o subdir").contains("needs a value"));
}

#[test]
fn atime_options_are_those_of_mount() {
    use AtimePolicy::{Always, Never, Relative};
    for (words, files, directories) in [
        ("rw", Relative, Relative),
        ("relatime", Relative, Relative),
        ("noatime", Never, Never),
        ("nodiratime", Relative, Never),
        ("strictatime", Always, Always),
        ("strictatime,nodiratime", Always, Never),
        ("noatime,strictatime", Always, Always),
        ("strictatime,noatime,atime", Relative, Relative),
        ("ro,strictatime", Never, Never),
    ] {
        let s = root(&format!("dfs-mount h:1 /m -o {words}"));
        assert_eq!(s.mount.atime(), AtimeOptions { files, directories }, "{words}");
    }
}

#[test]
fn budgets_that_make_no_sense_are_refused() {
    for flag in ["cache-size", "write-buffer"] {
        for size in ["0", "1000KiB", "5GiB"] {
            let error = fails(&format!("dfs-mount h:1 /m --{flag} {size}"));
            assert!(error.contains(flag) && error.contains(size), "{error}");
            assert!(fails(&format!("dfs-mount h:1 /m -o {flag}={size}")).contains(flag));
        }
        root(&format!("dfs-mount h:1 /m --{flag} 4GiB"));
    }
}

#[test]
fn remount_is_known_by_its_word() {
    let remount = |line: &str| {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse_remount(&args)
    };
    let shown = "rw,relatime,user_id=0,group_id=0,allow_other,max_read=1048576,cache-size=1GiB,remount,ro";
    let wanted = remount(&format!("mount.fuse.dfs films /m -o {shown}")).unwrap().unwrap();
    assert_eq!((wanted.mountpoint.as_path(), wanted.subtype.as_str()), (Path::new("/m"), "dfs"));
    assert!(wanted.words.contains(&"ro".to_owned()) && !wanted.pretend);
    assert_eq!(remount("dfs-mount h:1 /m -o ro").unwrap(), None);
    assert!(remount("dfs-mount /m -o remount,alow_other").unwrap_err().to_string().contains("alow_other"));
}
