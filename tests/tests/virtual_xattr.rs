//! user.dfs.copies, user.dfs.locations, user.dfs.md5: read-only attributes for scripts.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::thread;

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, run, run_ok, wait_until};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde_json::Value;

fn get(path: &Path, name: &str) -> Result<String, Errno> {
    let mut buffer = vec![0; 64 * 1024];
    let length = rustix::fs::getxattr(path, name, &mut buffer[..])?;
    Ok(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

/// `getfattr -n user.dfs.md5 --only-values` and `md5sum` say the same.
#[track_caller]
fn check_md5(path: &Path) {
    let path = path.to_str().unwrap();
    let ours = run_ok(&["getfattr", "-n", "user.dfs.md5", "--only-values", path]).stdout;
    let theirs = run_ok(&["md5sum", path]).stdout;
    assert_eq!(Some(ours.as_str()), theirs.split(' ').next(), "{path}");
}

#[test]
fn md5_is_that_of_md5sum_after_every_change_and_on_every_mount() {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let bytes = Rng::new(5).bytes(3_000_001);
    fs::write(mount.path("empty"), b"").unwrap();
    fs::write(mount.path("small"), b"small").unwrap();
    fs::write(mount.path("large"), &bytes).unwrap();
    let sparse = fs::File::create(mount.path("sparse")).unwrap();
    sparse.set_len(20_000_000).unwrap();
    sparse.write_all_at(b"in the middle", 9_000_000).unwrap();
    drop(sparse);
    for name in ["empty", "small", "large", "sparse"] {
        check_md5(&mount.path(name));
        check_md5(&other.path(name));
    }
    let before = fs::metadata(mount.path("large")).unwrap();
    check_md5(&mount.path("large"));
    let after = fs::metadata(mount.path("large")).unwrap();
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));

    // Not closed: what only this mount has is in it too.
    let large = OpenOptions::new().write(true).open(mount.path("large")).unwrap();
    large.write_all_at(b"overwritten", 1_234_567).unwrap();
    check_md5(&mount.path("large"));
    large.set_len(2_000_000).unwrap();
    check_md5(&mount.path("large"));
    drop(large);
    check_md5(&other.path("large"));
    fs::write(other.path("small"), b"another").unwrap();
    check_md5(&mount.path("small"));
}

#[test]
fn md5_is_remembered_and_the_keepers_are_not_read_again() {
    let mut cluster = Cluster::builder().keepers(2).chunk_size("256KiB").start();
    let mount = cluster.mount();
    fs::write(mount.path("file"), Rng::new(6).bytes(1_000_000)).unwrap();
    fs::write(mount.path("unasked"), b"never asked for").unwrap();
    let md5 = get(&mount.path("file"), "user.dfs.md5").unwrap();
    assert_eq!(md5.len(), 32);
    mount.unmount();
    for keeper in 0..2 {
        cluster.keeper(keeper).kill();
    }
    let again = cluster.mount();
    assert_eq!(get(&again.path("file"), "user.dfs.md5").unwrap(), md5, "nobody is there to be read");
    assert_eq!(get(&again.path("unasked"), "user.dfs.md5"), Err(Errno::IO));
    cluster.master.kill();
    cluster.restart_master();
    wait_until(secs(20), "the restarted master remembers", || {
        get(&again.path("file"), "user.dfs.md5").as_deref() == Ok(&md5)
    });
}

#[test]
fn md5_of_a_file_that_changes_is_that_of_one_content_or_an_error() {
    let mut cluster = Cluster::builder().keepers(2).start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let contents = [vec![b'a'; 100_000], vec![b'b'; 100_000]];
    let file = mount.path("file");
    let md5s: Vec<String> = contents
        .iter()
        .map(|content| {
            fs::write(&file, content).unwrap();
            get(&file, "user.dfs.md5").unwrap()
        })
        .collect();
    let writer = {
        let (file, contents) = (other.path("file"), contents.clone());
        thread::spawn(move || {
            for n in 0..60 {
                let open = OpenOptions::new().write(true).open(&file).unwrap();
                open.write_all_at(&contents[n % 2], 0).unwrap();
            }
        })
    };
    while !writer.is_finished() {
        match get(&file, "user.dfs.md5") {
            Ok(md5) => assert!(md5s.contains(&md5), "{md5} is of no content that there ever was"),
            Err(error) => assert_eq!(error, Errno::BUSY),
        }
    }
    writer.join().unwrap();
    assert_eq!(get(&file, "user.dfs.md5").unwrap(), md5s[1]);
}

#[test]
fn they_cannot_be_set_listed_or_copied_and_directories_have_none() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let (file, dir) = (mount.path("file"), mount.path("dir"));
    fs::write(&file, b"bytes").unwrap();
    fs::create_dir(&dir).unwrap();
    rustix::fs::setxattr(&file, "user.mine", b"1", XattrFlags::empty()).unwrap();
    get(&file, "user.dfs.md5").unwrap();
    for name in ["user.dfs.copies", "user.dfs.locations", "user.dfs.md5", "user.dfs.new"] {
        assert_eq!(rustix::fs::setxattr(&file, name, b"1", XattrFlags::empty()), Err(Errno::PERM));
        assert_eq!(rustix::fs::removexattr(&file, name), Err(Errno::PERM));
        assert_eq!(get(&dir, name), Err(Errno::NODATA));
    }
    assert_eq!(get(&file, "user.dfs.new"), Err(Errno::NODATA));
    let path = file.to_str().unwrap();
    assert_eq!(
        run_ok(&["getfattr", "-d", "-m", "-", "--absolute-names", path]).stdout.matches('=').count(),
        1
    );
    sh("cp -a \"$1\" \"$1.copy\" && rsync -aX \"$1\" \"$1.synced\"", &[&file]);
    for copy in ["file.copy", "file.synced"] {
        assert_eq!(get(&mount.path(copy), "user.mine").unwrap(), "1");
        check_md5(&mount.path(copy));
    }
    // Whoever asks can be stopped.
    let endless = fs::File::create(mount.path("endless")).unwrap();
    endless.set_len(1 << 60).unwrap();
    let mut asking =
        Command::new("getfattr").args(["-n", "user.dfs.md5"]).arg(mount.path("endless")).spawn().unwrap();
    assert!(asking.try_wait().unwrap().is_none());
    asking.kill().unwrap();
    wait_until(secs(10), "a killed program ends", || asking.try_wait().unwrap().is_some());
}

#[test]
fn copies_and_locations_follow_the_keepers() {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let mount = cluster.mount();
    let file = mount.path("file");
    fs::write(&file, Rng::new(7).bytes(600_000)).unwrap();
    fs::write(mount.path("empty"), b"").unwrap();
    let copies = |path: &Path| get(path, "user.dfs.copies").unwrap();
    wait_until(secs(20), "three copies", || copies(&file) == "3");
    assert_eq!(copies(&mount.path("empty")), "3", "nothing can be lost: as many as are wanted");

    let locations = || serde_json::from_str::<Value>(&get(&file, "user.dfs.locations").unwrap()).unwrap();
    let all = locations();
    assert_eq!((all["size"].as_u64(), all["complete"].as_bool()), (Some(600_000), Some(true)));
    let chunks = all["chunks"].as_array().unwrap();
    let mut next = 0;
    let table: Vec<String> =
        cluster.lookup("/file").iter().map(|row| row["chunk"].as_str().unwrap().to_owned()).collect();
    for chunk in chunks {
        assert!(table.contains(&chunk["chunk"].as_str().unwrap().to_owned()));
        assert_eq!(chunk["keepers"].as_array().unwrap().len(), 3);
        for extent in chunk["extents"].as_array().unwrap() {
            assert_eq!(extent["offset"].as_u64(), Some(next));
            next += extent["length"].as_u64().unwrap();
        }
    }
    assert_eq!(next, 600_000);

    let dead = cluster.keeper_row(0)["address"].as_str().unwrap().to_owned();
    cluster.keeper(0).kill();
    wait_until(secs(15), "a dead keeper is no copy", || copies(&file) == "2");
    let all = locations();
    for keeper in
        all["chunks"].as_array().unwrap().iter().flat_map(|chunk| chunk["keepers"].as_array().unwrap())
    {
        assert_eq!(keeper["live"].as_bool(), Some(keeper["address"].as_str() != Some(&dead)), "{all}");
    }
    cluster.add_keeper();
    wait_until(secs(20), "the copies are made up", || copies(&file) == "3");
    let shown =
        run(Command::new("getfattr").args(["-n", "user.dfs.copies", "--only-values"]).arg(&file), secs(20))
            .ok();
    assert_eq!(shown.stdout, "3");
}
