//! At home: what a new user does on a fresh machine, from the package to its removal, as OPERATIONS.md says it.
//!
//! Covers: the package installs and starts nothing; master and keepers start under systemd, as the user dfs, with certificates, and are
//! active when they are ready; a login, join tokens, a user; a film is copied into a mount that /etc/fstab and systemd's automount
//! made, and is the same there, by `mount -a` and by dfs-mount@; it is watched in a browser, by ranges with a cookie; a keeper that is
//! killed is started again; one is retired, and the film is whole; every name of the dashboard is in a scrape; all ends well when it is told
//! to; a purge leaves what users stored, and nothing of the package.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dfs_tests::process::binary_dir;
use dfs_tests::wait::secs;
use dfs_tests::{Machine, Scratch, film, run, wait_until};
use serde_json::Value;

/// Every file that is not of the running system itself.
const FILES: &str = "find /etc /usr /var /opt /root /home -xdev ! -path '/var/log/journal*' ! -path '/var/lib/dpkg/*' \
    ! -path '/var/log/dpkg.log' ! -path '/var/lib/systemd/*' ! -path '/var/tmp/*' ! -path '/var/cache/*' ! -path '/etc/*-' \
    ! -path '/work*' -printf '%p\\n' | sort";

fn package(to: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/deb.sh");
    run(Command::new(script).arg(binary_dir()).arg(to), secs(240)).ok();
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    fs::read_dir(to).unwrap().map(|entry| entry.unwrap().path()).find(is_package).unwrap()
}

#[test]
fn from_the_package_to_its_removal() {
    let scratch = Scratch::new();
    let Some(machine) = Machine::boot(&scratch) else { return };
    fs::rename(package(scratch.dir()), machine.share().join("dfs.deb")).unwrap();
    fs::copy(film::small(), machine.share().join("film.mp4")).unwrap();
    let before = machine.sh(FILES);
    it_installs(&machine);
    a_cluster_starts(&machine);
    users_log_in_and_keepers_join(&machine);
    a_film_is_copied_in(&machine);
    it_is_watched_in_a_browser(&machine);
    a_killed_keeper_is_started_again(&machine);
    a_keeper_is_retired(&machine);
    the_dashboards_have_what_they_show(&machine);
    all_ends_well(&machine);
    a_purge_leaves_what_users_stored(&machine, &before);
}

fn it_installs(machine: &Machine) {
    let said = machine.sh("dpkg -i /media/dfs.deb 2>&1");
    assert!(!said.to_lowercase().contains("warning"), "{said}");
    assert_eq!(
        machine.sh("systemctl list-units --plain --no-legend 'dfs-*.service'"),
        "",
        "it starts something"
    );
    machine.sh("getent passwd dfs; test \"$(stat -c %U:%a /var/lib/dfs)\" = dfs:755; dfs --version; man -w dfs || test -e /usr/share/man/man1/dfs.1.gz");
}

/// What a unit says of itself.
fn shown(machine: &Machine, unit: &str, property: &str) -> String {
    machine.sh(&format!("systemctl show --value -p {property} {unit}")).trim().to_owned()
}

fn a_cluster_starts(machine: &Machine) {
    machine.sh(r#"
        dfs tls init --dir dfs-tls --host fresh
        install -d -o dfs -g dfs -m 0700 /etc/dfs/tls-master /etc/dfs/tls-keeper
        install -o dfs -g dfs -m 0600 dfs-tls/master/* /etc/dfs/tls-master/
        install -o dfs -g dfs -m 0600 dfs-tls/keeper/* /etc/dfs/tls-keeper/
        install -D -m 0644 dfs-tls/client/ca.pem /etc/dfs/tls-client/ca.pem
        dfs tls issue --dir dfs-tls --role mount --host fresh
        install -m 0600 dfs-tls/mount-fresh/cert.pem dfs-tls/mount-fresh/key.pem /etc/dfs/tls-client/
        cat >/etc/dfs/master.toml <<'TOML'
listen = "0.0.0.0:3000"
tls-dir = "/etc/dfs/tls-master"
http = "127.0.0.1:9100"
copies = 2
TOML
        for file in dfs mount; do
            printf 'master = "fresh:3000"\ntls-dir = "/etc/dfs/tls-client"\n' >/etc/dfs/$file.toml
        done
        systemctl enable --now dfs-master
        "#);
    // 'start' came back: it has said that it is ready.
    assert_eq!(shown(machine, "dfs-master", "ActiveState"), "active");
    assert_ne!(shown(machine, "dfs-master", "StatusText"), "");
    assert_eq!(machine.sh("ps -o user= -C dfs-master").trim(), "dfs");
    assert_eq!(machine.sh("export SSL_CERT_FILE=/etc/dfs/tls-client/ca.pem; curl -sf --cacert $SSL_CERT_FILE https://127.0.0.1:9100/readyz || python3 -c 'import urllib.request as u; u.urlopen(\"https://127.0.0.1:9100/readyz\")'; stat -c %U:%a /var/lib/dfs/master").lines().last(), Some("dfs:700"));
}

fn users_log_in_and_keepers_join(machine: &Machine) {
    machine.sh(
        r#"
        dfs login admin --password-file /var/lib/dfs/master/initial-admin-password
        (umask 077; dfs keeper token keepers >/etc/dfs/keeper.token; echo 'a long password of anna' >anna; echo 'another long one' >mine)
        chown dfs: /etc/dfs/keeper.token
        dfs user passwd --old-password-file /var/lib/dfs/master/initial-admin-password --password-file mine
        dfs login admin --password-file mine
        dfs user add anna --role rw --password-file anna
        dfs --token-file /etc/dfs/mount.token login anna --password-file anna
        test "$(stat -c %a /etc/dfs/mount.token)" = 600
        echo 'token-file = "/etc/dfs/mount.token"' >>/etc/dfs/mount.toml
        for name in a b c; do
            sed "s/^master = .*/master = \"fresh:3000\"/" /etc/dfs/keeper.toml.example >/etc/dfs/keeper-$name.toml
            case $name in a) n=1 ;; b) n=2 ;; c) n=3 ;; esac
            cat >>/etc/dfs/keeper-$name.toml <<TOML
listen = "0.0.0.0:300$n"
advertise = "fresh:300$n"
tls-dir = "/etc/dfs/tls-keeper"
token-file = "/etc/dfs/keeper.token"
http = "127.0.0.1:910$n"
TOML
        done
        systemctl enable --now dfs-keeper@a dfs-keeper@b dfs-keeper@c
        "#,
    );
    for name in ["a", "b", "c"] {
        assert_eq!(shown(machine, &format!("dfs-keeper@{name}"), "ActiveState"), "active");
    }
    let status: Value = serde_json::from_str(&machine.sh("dfs --json status")).unwrap();
    assert_eq!(status["keepers_live"], 3, "active means that it joined: {status}");
}

fn a_film_is_copied_in(machine: &Machine) {
    machine.sh(r#"
        mkdir -p /srv/film /mnt/dfs
        echo 'fresh:3000  /srv/film  fuse.dfs  _netdev,nofail,x-systemd.automount  0 0' >>/etc/fstab
        echo 'fresh:3000  /mnt/dfs  fuse.dfs  _netdev,nofail,noauto,http=127.0.0.1:9104  0 0' >>/etc/fstab
        systemctl daemon-reload
        systemctl start srv-film.automount
        "#);
    assert_eq!(machine.sh("findmnt -nt fuse.dfs || true"), "", "nobody has looked yet");
    machine.sh("ls /srv/film; cp /media/film.mp4 /srv/film/; cmp /media/film.mp4 /srv/film/film.mp4; findmnt -nt fuse.dfs /srv/film");
    assert_eq!(shown(machine, "srv-film.mount", "ActiveState"), "active");
    // Another mount, by hand: it has nothing of it yet.
    machine.sh("mount /mnt/dfs; cmp /media/film.mp4 /mnt/dfs/film.mp4");
    // And as a service, as a user who is not root sees it.
    machine.sh(r#"
        mkdir -p /srv/service
        systemctl enable --now dfs-mount@srv-service
        systemctl is-active dfs-mount@srv-service
        setpriv --reuid=65534 --regid=65534 --clear-groups cmp /media/film.mp4 /srv/service/film.mp4
        systemctl disable --now dfs-mount@srv-service
        ! findmnt /srv/service
        "#);
}

fn it_is_watched_in_a_browser(machine: &Machine) {
    // As the page does it: a token for a cookie, and then what a player asks for.
    machine.sh(r#"cat >watch.py <<'PY'
import sys, urllib.error, urllib.request as u
at, film = 'https://localhost:9100', open('/media/film.mp4', 'rb').read()
def ask(path, method='GET', **headers):
    return u.urlopen(u.Request(at + path, method=method, headers=headers), timeout=20)
try:
    ask('/files/film.mp4')
    sys.exit('nobody asked who it is')
except urllib.error.HTTPError as e:
    assert e.code == 401, e.code
assert b'<html' in ask('/').read()
token = open('/etc/dfs/mount.token').read().strip()
session = ask('/api/v1/session', 'POST', Authorization='Bearer ' + token)
cookie = session.headers['Set-Cookie'].split(';')[0]
assert ask('/files/film.mp4', Cookie=cookie).read() == film
for start in (len(film) - 5000, 0, 9_000_000, 1_000_000):
    part = ask('/files/film.mp4', Cookie=cookie, Range='bytes=%d-%d' % (start, start + 499_999))
    assert part.status == 206 and part.read() == film[start:start + 500_000], start
PY
SSL_CERT_FILE=/etc/dfs/tls-client/ca.pem python3 watch.py"#);
}

fn a_killed_keeper_is_started_again(machine: &Machine) {
    machine.sh("systemctl kill --kill-whom=main -s KILL dfs-keeper@a");
    wait_until(secs(20), "systemd has started it again", || {
        shown(machine, "dfs-keeper@a", "NRestarts") == "1"
            && shown(machine, "dfs-keeper@a", "ActiveState") == "active"
    });
    machine.sh("cmp /media/film.mp4 /srv/film/film.mp4");
}

fn a_keeper_is_retired(machine: &Machine) {
    machine.sh("dfs drain fresh:3003; systemctl disable --now dfs-keeper@c; dfs forget fresh:3003; rm -r /var/lib/dfs/keeper-c");
    let keepers: Value = serde_json::from_str(&machine.sh("dfs --json keepers")).unwrap();
    assert_eq!(keepers.as_array().unwrap().len(), 2, "{keepers}");
    let rows: Value = serde_json::from_str(&machine.sh("dfs --json lookup /film.mp4")).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 4 && rows.iter().all(|row| row["alive"] == true), "{rows:?}");
    // Read from who is left.
    unmount(machine);
    machine.sh("mount /mnt/dfs; cmp /media/film.mp4 /mnt/dfs/film.mp4");
}

/// Until its process has ended, too: the next one wants its port.
fn unmount(machine: &Machine) {
    machine.sh("umount /mnt/dfs");
    let begun = std::time::Instant::now();
    wait_until(secs(35), "the mount's process has ended", || {
        machine.attempt("ps -eo args | grep '[m]ount.fuse.dfs.*/mnt/dfs'").stdout.is_empty()
    });
    println!("the mount's process ended {:.1?} after umount", begun.elapsed());
}

fn the_dashboards_have_what_they_show(machine: &Machine) {
    let missing = machine.sh(
        r#"
        export SSL_CERT_FILE=/etc/dfs/tls-client/ca.pem
        for port in 9100 9101 9102 9104; do
            python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())' https://localhost:$port/metrics
        done >scrape
        cat /usr/share/doc/dfs/grafana/* | grep -oE '\bdfs_(master|keeper|mount)_[a-z0-9_]+' | sort -u >names
        test "$(wc -l <names)" -ge 20
        while read -r name; do grep -q "^$name[ {]" scrape || echo "$name"; done <names
        "#,
    );
    // Counters that begin with the first of what they count.
    let missing: Vec<&str> = missing.lines().filter(|name| !name.contains("_errors_")).collect();
    assert!(missing.is_empty(), "the dashboard shows what nobody exports: {missing:?}");
}

fn all_ends_well(machine: &Machine) {
    unmount(machine);
    machine.sh("systemctl stop srv-film.automount srv-film.mount dfs-keeper@a dfs-keeper@b dfs-master");
    for unit in ["dfs-keeper@a", "dfs-keeper@b", "dfs-keeper@c", "dfs-master", "srv-film.mount"] {
        assert_eq!(shown(machine, unit, "ActiveState"), "inactive", "{unit}");
        assert_eq!(shown(machine, unit, "Result"), "success", "{unit}");
    }
    let left = machine.sh("ps -eo args | grep '[d]fs-' || true");
    assert_eq!(left, "", "something runs still");
    // As after the next boot: the film is there.
    machine.sh("systemctl start dfs-master dfs-keeper@a dfs-keeper@b; mount /mnt/dfs; cmp /media/film.mp4 /mnt/dfs/film.mp4; umount /mnt/dfs");
}

fn a_purge_leaves_what_users_stored(machine: &Machine, before: &str) {
    let said = machine.sh("dpkg --remove dfs 2>&1; systemctl is-active dfs-master dfs-keeper@a || true");
    assert_eq!(said.lines().filter(|line| *line == "inactive").count(), 2, "{said}");
    machine.sh("test -e /etc/dfs/master.toml; dpkg --purge dfs 2>&1");
    let after = machine.sh(FILES);
    let before: BTreeSet<&str> = before.lines().collect();
    let left: Vec<&str> = after
        .lines()
        .filter(|line| !before.contains(line))
        // Empty, and made by 'systemctl enable'.
        .filter(|line| *line != "/etc/systemd/system/multi-user.target.wants")
        // What users stored, and what the user of this machine made himself.
        .filter(|line| !["/var/lib/dfs", "/etc/dfs", "/root/"].iter().any(|kept| line.starts_with(kept)))
        .collect();
    assert!(left.is_empty(), "a purge leaves {left:?}");
    machine.sh("test -d /var/lib/dfs/keeper-a/chunks; test -e /etc/dfs/keeper-a.toml; ! test -e /etc/dfs/master.toml");
}
