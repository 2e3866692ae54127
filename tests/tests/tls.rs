//! TLS from the outside: who gets in with which certificate, and what everybody else is told.
//!
//! Covers: upload and film read over an encrypted cluster; a client without TLS at a port with it, and the other way
//! round; another CA; a keeper without a certificate, with the master's, and with another CA's; what expired and what
//! others can read is refused at the start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use dfs_tests::process::binary;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Ran, Scratch, film, run, run_ok};

/// Runs one of our programs to its end.
fn program(name: &str, args: &[&str]) -> Ran {
    run(Command::new(binary(name)).env_remove("DFS_TLS_DIR").args(args), secs(60))
}

/// Makes a CA and certificates.
fn init(dir: &Path) {
    program("dfs", &["tls", "init", "--dir", dir.to_str().unwrap(), "--host", "127.0.0.1"]).ok();
}

#[test]
fn a_film_goes_in_and_comes_back_over_an_encrypted_cluster() {
    let mut cluster = Cluster::builder().tls().start();
    let mount = cluster.mount();
    run_ok(&[Path::new("cp"), &film::small(), &mount.path("movie.mp4")]);
    cluster.wait_copies("/movie.mp4", 3, secs(30));
    // Another mount, whose cache is empty.
    let other = cluster.mount();
    film::same(&film::small(), &other.path("movie.mp4"));
    // A master that comes back is believed again.
    cluster.master.kill();
    cluster.restart_master();
    fs::write(other.path("after"), "the restart").unwrap();
    assert_eq!(fs::read_to_string(mount.path("after")).unwrap(), "the restart");
}

/// What a client of the cluster at `address` is told.
fn told(address: &str, tls_dir: Option<&Path>, needles: &[&str]) {
    let tls = tls_dir.map(|dir| ["--tls-dir", dir.to_str().unwrap()]);
    let tls: &[&str] = tls.as_ref().map_or(&[], |flags| flags);
    let status = program("dfs", &[&["--master", address, "status"], tls].concat());
    status.one_line_error("dfs", needles);
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().to_str().unwrap();
    let mount = program("dfs-mount", &[&["-f", "--master", address], tls, &[point]].concat());
    mount.one_line_error("dfs-mount", needles);
}

#[test]
fn whoever_speaks_otherwise_is_told_so() {
    let encrypted = Cluster::builder().keepers(0).tls().start();
    let plain = Cluster::builder().keepers(0).start();
    // Nobody falls back.
    told(encrypted.address(), None, &["TLS", "--tls-dir"]);
    told(plain.address(), Some(&encrypted.tls_dir("client")), &["TLS"]);
    // Another cluster's CA, and then the right one.
    let scratch = Scratch::new();
    let other = scratch.path("other");
    init(&other);
    told(encrypted.address(), Some(&other.join("client")), &["not of the CA", "ca.pem"]);
    encrypted.dfs(&["status"]).ok();
    // A name that the certificate is not for.
    let port = encrypted.address().rsplit_once(':').unwrap().1;
    told(&format!("127.0.0.2:{port}"), Some(&encrypted.tls_dir("client")), &["127.0.0."]);
}

/// What a keeper is told that wants to join.
fn keeper_told(address: &str, data: &Path, tls_dir: Option<&Path>, needles: &[&str]) {
    let data = data.to_str().unwrap();
    let mut args = vec!["--data", data, "--master", address, "--join-timeout", "2s"];
    args.extend(tls_dir.iter().flat_map(|dir| ["--tls-dir", dir.to_str().unwrap()]));
    program("dfs-keeper", &args).one_line_error("dfs-keeper", needles);
}

#[test]
fn a_keeper_without_a_keepers_certificate_of_this_ca_is_not_let_in() {
    let cluster = Cluster::builder().keepers(0).tls().start();
    let (address, data) = (cluster.address(), cluster.scratch.path("intruder"));
    keeper_told(address, &data, None, &["TLS", "--tls-dir"]);
    // With what a client has, and with the master's: said before anybody is asked.
    keeper_told(address, &data, Some(&cluster.tls_dir("client")), &["client/cert.pem"]);
    keeper_told(address, &data, Some(&cluster.tls_dir("master")), &["no keeper's certificate"]);
    // Another CA's: we would not believe the master. With the right ca.pem, it does not believe us.
    let other = cluster.scratch.path("other");
    init(&other);
    keeper_told(address, &data, Some(&other.join("keeper")), &["not of the CA"]);
    fs::copy(cluster.tls_dir("ca.pem"), other.join("keeper/ca.pem")).unwrap();
    keeper_told(address, &data, Some(&other.join("keeper")), &["keeper/cert.pem", "not signed by the CA"]);
    assert_eq!(cluster.live(), 0);
}

#[test]
fn what_is_wrong_with_the_files_is_said_at_the_start() {
    let scratch = Scratch::new();
    let tls = scratch.path("tls");
    init(&tls);
    let start = |dir: &Path| {
        let data = scratch.path("data");
        let args = ["--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--tls-dir"];
        let ran = program("dfs-master", &[&args[..], &[dir.to_str().unwrap()]].concat());
        assert!(!data.exists(), "nothing was made");
        ran
    };
    start(&scratch.path("nowhere")).one_line_error("dfs-master", &["nowhere/ca.pem", "dfs tls init"]);
    start(&tls.join("keeper")).one_line_error("dfs-master", &["no master's certificate"]);
    fs::set_permissions(tls.join("master/key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    start(&tls.join("master")).one_line_error("dfs-master", &["key.pem", "chmod 600"]);
    let again = program("dfs", &["tls", "init", "--dir", tls.to_str().unwrap(), "--host", "h"]);
    again.one_line_error("dfs", &["there is a CA already", "dfs tls issue"]);
    let issue = ["tls", "issue", "--dir", tls.to_str().unwrap(), "--role", "keeper", "--host"];
    program("dfs", &[&issue[..], &["a b"]].concat()).one_line_error("dfs", &["'a b'"]);
    let made = program("dfs", &[&issue[..], &["k2.example"]].concat()).ok();
    assert!(made.stdout.contains("tls/keeper-k2.example"), "{}", made.stdout);
    assert!(tls.join("keeper-k2.example/key.pem").is_file());
}
