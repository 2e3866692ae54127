//! Who gets in, and who does not.
//!
//! Covers: every call of the .proto files without a token, with an expired, a forged, another cluster's, a revoked one and with
//! each lesser role is refused, and with the right role is not; a mount of the role ro cannot write, by the master's word; a token
//! that is revoked or expires stops a live mount with EACCES, and a login brings it back; a mount renews its token by itself; keepers
//! join with join tokens alone; a drain, a scrub and a rebalance that wait outlive their login; failed logins are slowed down; nothing secret is in a log, the audit log or a command line.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dfs_master::auth::rules::{RULES, Rule};
use dfs_proto::ids::ClusterId;
use dfs_proto::pb;
use dfs_proto::pb::auth_service_client::AuthServiceClient;
use dfs_proto::secret::Secret;
use dfs_proto::token::{Role, TokenKey, unchecked_claims};
use dfs_proto::token_file;
use dfs_tests::auth::{call, channel};
use dfs_tests::process::binary;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, wait_for, wait_until};
use rustix::io::Errno;
use tonic::Code;

const PASSWORD: &str = "correct horse battery";
/// What was promised is 60 s.
const STOPPED_WITHIN: Duration = secs(60);

/// A cluster with auth, whose admin has logged in, with `keepers` that joined.
fn cluster(keepers: usize, flags: &[&str]) -> Cluster {
    let flags = [&["--auth", "on"], flags].concat();
    let mut cluster = Cluster::builder().keepers(0).copies(2).min_copies(1).master_flags(&flags).start();
    let initial = cluster.scratch.path("master/initial-admin-password");
    cluster.dfs(&["login", "admin", "--password-file", initial.to_str().unwrap()]).ok();
    if keepers > 0 {
        let token = join_token(&cluster, "keepers");
        for _ in 0..keepers {
            cluster.add_keeper_with(&["--token-file", token.to_str().unwrap()]);
        }
    }
    cluster
}

fn join_token(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.scratch.path(&format!("join-{name}"));
    let token = cluster.dfs(&["keeper", "token", name]).ok().stdout;
    token_file::write(&path, &Secret::new(token.trim())).unwrap();
    path
}

fn password_file(cluster: &Cluster) -> String {
    let path = cluster.scratch.path("password");
    token_file::write(&path, &Secret::new(PASSWORD)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn add_user(cluster: &Cluster, name: &str, role: &str) {
    let file = password_file(cluster);
    cluster.dfs(&["user", "add", name, "--role", role, "--password-file", &file]).ok();
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn try_login(cluster: &Cluster, user: &str, password: &str) -> Result<Secret, tonic::Status> {
    let request = pb::LoginRequest { user: user.to_owned(), password: password.to_owned() };
    let reply = AuthServiceClient::new(channel(cluster).await).login(request).await?;
    Ok(Secret::new(reply.into_inner().token))
}

fn login(cluster: &Cluster, user: &str) -> Secret {
    run(try_login(cluster, user, PASSWORD)).unwrap()
}

/// Logs in into a file.
fn login_to(cluster: &Cluster, user: &str, file: &Path) {
    token_file::write(file, &login(cluster, user)).unwrap();
}

fn needed(path: &str) -> &'static [Role] {
    match RULES.iter().find(|(rule, _)| *rule == path) {
        Some((_, Rule::Roles(roles))) => roles,
        Some((_, Rule::Everybody)) => &[],
        None => panic!("no rule for {path}"),
    }
}

fn all_but_login() -> impl Iterator<Item = &'static str> {
    dfs_proto::METHODS.iter().copied().filter(|path| !path.ends_with("/Login"))
}

#[test]
fn no_call_is_taken_without_a_good_token_of_the_right_role() {
    let cluster = cluster(0, &["--token-lifetime", "10s"]);
    let other = self::cluster(0, &[]);
    for (name, role) in [("anna", "rw"), ("reader", "ro"), ("gone", "admin"), ("late", "admin")] {
        add_user(&cluster, name, role);
    }
    // The last users of the table may take longer than a token is good, so each is logged in when it is needed.
    let late = login(&cluster, "late");
    let gone = login(&cluster, "gone");
    cluster.dfs(&["user", "rm", "gone"]).ok();
    let claims = unchecked_claims(late.expose()).unwrap();
    let forged = TokenKey::derive(&[7; 32], ClusterId([5; 16])).sign(&claims);
    add_user(&other, "late", "admin");
    let others = login(&other, "late");
    let altered = {
        let (head, rest) = late.expose().split_once('.').unwrap();
        Secret::new(format!("{head}.{}{rest}", if rest.starts_with('e') { "f" } else { "e" }))
    };
    wait_until(secs(30), "the token expires", || pb::Time::now().sec > claims.expires_s);
    run(async {
        let channel = channel(&cluster).await;
        let bad = [
            ("no", None),
            ("a senseless", Some(Secret::new("x"))),
            ("a removed user's", Some(gone)),
            ("an expired", Some(late)),
            ("a forged", Some(forged)),
            ("an altered", Some(altered)),
            ("another cluster's", Some(others)),
        ];
        for path in all_but_login() {
            for (what, token) in &bad {
                let code = call(&channel, path, token.as_ref()).await;
                assert_eq!(code, Code::Unauthenticated, "{path} with {what} token");
            }
        }
        assert_eq!(call(&channel, "/dfs.v1.AdminService/Nothing", None).await, Code::Unimplemented);
        let keeper = fs::read_to_string(join_token_of(&cluster)).unwrap();
        let keeper = Secret::new(keeper.trim());
        let first = token_file::read(&cluster.scratch.path("master/initial-admin-password")).unwrap();
        for path in all_but_login() {
            for role in [Role::Rw, Role::Ro, Role::Keeper, Role::Admin] {
                let token = match role {
                    Role::Keeper => keeper.clone(),
                    Role::Rw => try_login(&cluster, "anna", PASSWORD).await.unwrap(),
                    Role::Ro => try_login(&cluster, "reader", PASSWORD).await.unwrap(),
                    Role::Admin => try_login(&cluster, "admin", first.expose()).await.unwrap(),
                };
                let code = call(&channel, path, Some(&token)).await;
                let allowed = !matches!(code, Code::PermissionDenied | Code::Unauthenticated);
                assert_eq!(allowed, needed(path).contains(&role), "{path} by {role:?}: {code:?}");
            }
        }
    });
}

fn join_token_of(cluster: &Cluster) -> PathBuf {
    // Whoever was logged in is not any more: tokens are short here.
    let initial = cluster.scratch.path("master/initial-admin-password");
    cluster.dfs(&["login", "admin", "--password-file", initial.to_str().unwrap()]).ok();
    join_token(cluster, "k")
}

#[track_caller]
fn refused<T>(result: io::Result<T>, with: Errno) {
    match result {
        Ok(_) => panic!("it was done"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(with.raw_os_error()), "{error}"),
    }
}

#[test]
fn who_may_read_alone_reads_alone() {
    let mut cluster = cluster(2, &[]);
    add_user(&cluster, "anna", "rw");
    add_user(&cluster, "reader", "ro");
    let (anna, reader) = (cluster.scratch.path("anna"), cluster.scratch.path("reader"));
    login_to(&cluster, "anna", &anna);
    login_to(&cluster, "reader", &reader);
    let writes = cluster.mount_with(&["--token-file", anna.to_str().unwrap()]);
    fs::write(writes.path("f"), "anna's").unwrap();
    fs::create_dir(writes.path("d")).unwrap();
    let reads = cluster.mount_with(&["--token-file", reader.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(reads.path("f")).unwrap(), "anna's");
    // The kernel believes that it may write: it is the master who refuses.
    refused(fs::write(reads.path("new"), "x"), Errno::ROFS);
    refused(fs::create_dir(reads.path("new")), Errno::ROFS);
    refused(fs::remove_file(reads.path("f")), Errno::ROFS);
    refused(fs::remove_dir(reads.path("d")), Errno::ROFS);
    refused(fs::rename(reads.path("f"), reads.path("g")), Errno::ROFS);
    refused(fs::hard_link(reads.path("f"), reads.path("g")), Errno::ROFS);
    refused(std::os::unix::fs::symlink("f", reads.path("g")), Errno::ROFS);
    refused(fs::set_permissions(reads.path("f"), fs::Permissions::from_mode(0o600)), Errno::ROFS);
    // At the open, not when much was written.
    for append in [false, true] {
        let open = fs::OpenOptions::new().write(!append).append(append).open(reads.path("f"));
        refused(open, Errno::ROFS);
    }
    assert!(fs::File::open(reads.path("f")).is_ok());
    assert_eq!(fs::read_to_string(writes.path("f")).unwrap(), "anna's");
    assert_eq!(fs::read_dir(writes.dir()).unwrap().count(), 2);
    // Promoted, it writes, without a new mount: at the next renewal, or with a new login.
    cluster.dfs(&["user", "grant", "reader", "rw"]).ok();
    login_to(&cluster, "reader", &reader);
    wait_until(secs(30), "the new role counts", || fs::write(reads.path("new"), "x").is_ok());
}

/// Waits until nothing works; each try is short, and fails with EACCES.
#[track_caller]
fn stops(mount: &Mount, within: Duration) {
    let begun = Instant::now();
    wait_until(within, "the mount stops", || {
        let tried = Instant::now();
        let result = fs::read_to_string(mount.path("f"));
        assert!(tried.elapsed() < secs(5), "a try took {:?}", tried.elapsed());
        match result {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()), "{error}");
                true
            }
        }
    });
    for _ in 0..3 {
        refused(fs::read_dir(mount.path("d")), Errno::ACCESS);
        refused(fs::write(mount.path("new"), "x"), Errno::ACCESS);
    }
    println!("stopped after {:?}", begun.elapsed());
}

/// `dfs ARGS` as a user whose login is in this file.
fn dfs_of(cluster: &Cluster, file: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary("dfs"));
    command.args(["--master", cluster.address(), "--token-file", file.to_str().unwrap()]).args(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a command that waits, until the token that it uses was renewed twice.
#[track_caller]
fn outlives_its_login(cluster: &Cluster, file: &Path, args: &[&str]) -> Child {
    let mut child = dfs_of(cluster, file, args).spawn().unwrap();
    let expires = || unchecked_claims(token_file::read(file).unwrap().expose()).unwrap().expires_s;
    let first = expires();
    wait_until(secs(60), "the token is renewed twice", || {
        assert_eq!(child.try_wait().unwrap(), None, "{args:?} ended");
        expires() > first + 6
    });
    child
}

#[test]
fn a_drain_that_waits_outlives_its_login() {
    let cluster = cluster(2, &["--token-lifetime", "4s"]);
    add_user(&cluster, "anna", "admin");
    let file = cluster.scratch.path("anna");
    login_to(&cluster, "anna", &file);
    let local = cluster.scratch.path("local");
    fs::write(&local, "bytes").unwrap();
    let done = |args: &[&str]| dfs_of(&cluster, &file, args).status().unwrap().success();
    assert!(done(&["put", local.to_str().unwrap(), "/f"]));
    // Both keepers are to have a copy, so it waits until somebody cancels it.
    let drain = outlives_its_login(&cluster, &file, &["drain", "1"]);
    assert!(done(&["drain", "1", "--cancel"]));
    let ended = drain.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&ended.stderr).contains("somebody else cancelled it"), "{ended:?}");
}

#[test]
fn a_scrub_and_a_rebalance_that_wait_outlive_their_login() {
    // Both have something to do for half a minute.
    let flags = ["--token-lifetime", "4s", "--repair-rate", "1MiB"];
    let mut cluster = cluster(0, &flags);
    let token = join_token(&cluster, "keepers");
    let keeper = ["--token-file", token.to_str().unwrap(), "--scrub-rate", "1MiB", "--scrub-every", "off"];
    for _ in 0..2 {
        cluster.add_keeper_with(&keeper);
    }
    add_user(&cluster, "anna", "admin");
    let file = cluster.scratch.path("anna");
    login_to(&cluster, "anna", &file);
    let local = cluster.scratch.path("local");
    fs::write(&local, dfs_tests::Rng::new(1).bytes(40 << 20)).unwrap();
    assert!(dfs_of(&cluster, &file, &["put", local.to_str().unwrap(), "/f"]).status().unwrap().success());
    let ends = |mut child: Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    ends(outlives_its_login(&cluster, &file, &["scrub"]));
    login_to(&cluster, "anna", &file);
    admin(&cluster, &["status"]);
    cluster.add_keeper_with(&keeper);
    login_to(&cluster, "anna", &file);
    ends(outlives_its_login(&cluster, &file, &["rebalance", "start", "--wait"]));
}

#[test]
fn a_mount_stops_with_its_token_and_goes_on_after_a_login() {
    let mut cluster = cluster(2, &["--token-lifetime", "6s"]);
    add_user(&cluster, "anna", "rw");
    let file = cluster.scratch.path("anna");
    login_to(&cluster, "anna", &file);
    let mount = cluster.mount_with(&["--token-file", file.to_str().unwrap()]);
    fs::write(mount.path("f"), "kept").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    // By itself it lives on, whatever a token's time is.
    let expires = || unchecked_claims(token_file::read(&file).unwrap().expose()).unwrap().expires_s;
    let first = expires();
    wait_until(secs(60), "the token is renewed thrice", || {
        assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "kept");
        fs::write(mount.path("g"), "x").unwrap();
        expires() > first + 9
    });
    // Expired: it slept for too long.
    mount.process.stop();
    let last = expires();
    wait_until(secs(60), "the token expires", || pb::Time::now().sec > last);
    mount.process.cont();
    stops(&mount, STOPPED_WITHIN);
    login_to(&cluster, "anna", &file);
    wait_until(secs(30), "it goes on", || {
        fs::read_to_string(mount.path("f")).is_ok_and(|text| text == "kept")
    });
    wait_until(secs(30), "it writes", || fs::write(mount.path("new"), "x").is_ok());
    // Revoked, while a file is open. The master has to find that out by itself: the mount has just told it of a good token.
    let last = expires();
    wait_until(secs(30), "the token is renewed", || expires() > last);
    let open = fs::File::create(mount.path("open")).unwrap();
    admin(&cluster, &["user", "revoke", "anna"]);
    stops(&mount, STOPPED_WITHIN);
    login_to(&cluster, "anna", &file);
    wait_until(secs(30), "it goes on", || {
        fs::read_to_string(mount.path("f")).is_ok_and(|text| text == "kept")
    });
    drop(open);
    mount.unmount();
}

/// As the admin, who has to log in anew where tokens are short.
fn admin(cluster: &Cluster, args: &[&str]) {
    let initial = cluster.scratch.path("master/initial-admin-password");
    cluster.dfs(&["login", "admin", "--password-file", initial.to_str().unwrap()]).ok();
    cluster.dfs(args).ok();
}

#[test]
fn keepers_join_with_a_join_token_alone() {
    let mut cluster = cluster(1, &[]);
    let good = join_token(&cluster, "second");
    let second = cluster.add_keeper_with(&["--token-file", good.to_str().unwrap()]);
    add_user(&cluster, "anna", "rw");
    let anna = cluster.scratch.path("anna");
    login_to(&cluster, "anna", &anna);
    cluster.keeper(second).kill();
    wait_until(secs(20), "it is dead", || cluster.live() == 1);
    // A person's token is none, and nor is none.
    let data = cluster.keeper_data(second);
    for flags in [vec!["--token-file", anna.to_str().unwrap()], vec![]] {
        cluster.restart_keeper_as(second, &data, &[flags, vec!["--join-timeout", "2s"]].concat());
        let status = cluster.keeper(second).wait_exit(secs(30));
        assert!(!status.success());
    }
    cluster.restart_keeper_as(second, &data, &["--token-file", good.to_str().unwrap()]);
    wait_until(secs(20), "it is live", || cluster.live() == 2);
    // Revoked, it is out, and stays there.
    cluster.dfs(&["keeper", "revoke", "second"]).ok();
    wait_until(secs(30), "it is out", || cluster.live() == 1);
    wait_until(secs(30), "its log says why", || {
        cluster.keeper(second).log().contains("user 'second' is not there")
    });
    assert_eq!(cluster.live(), 1);
}

#[test]
fn guessing_is_slow_and_nothing_secret_is_written_down() {
    let mut cluster = Cluster::builder().keepers(0).log("trace").master_flags(&["--auth", "on"]).start();
    let initial = cluster.scratch.path("master/initial-admin-password");
    assert_eq!(fs::metadata(&initial).unwrap().permissions().mode() & 0o777, 0o600);
    let first = token_file::read(&initial).unwrap();
    assert!(cluster.master.log().contains(initial.to_str().unwrap()), "the log says where");
    cluster.dfs(&["status"]).one_line_error("dfs", &["log in"]);
    cluster.dfs(&["login", "admin", "--password-file", initial.to_str().unwrap()]).ok();
    add_user(&cluster, "anna", "rw");
    // Somebody guesses.
    let codes: Vec<Code> = (0..8)
        .map(|n| run(try_login(&cluster, "anna", &format!("guess-{n}-wrong"))).unwrap_err().code())
        .collect();
    assert_eq!(codes[..5], [Code::Unauthenticated; 5]);
    assert_eq!(codes[5..], [Code::ResourceExhausted; 3]);
    let right = run(try_login(&cluster, "anna", PASSWORD)).unwrap_err();
    assert_eq!(right.code(), Code::ResourceExhausted, "not even the right one is looked at");
    let nobody = run(try_login(&cluster, "nobody", PASSWORD)).unwrap_err();
    assert_eq!(
        nobody.message(),
        "wrong user name or password; try again",
        "whoever is not there looks as anybody"
    );
    add_user(&cluster, "berta", "rw");
    let file = cluster.scratch.path("berta");
    login_to(&cluster, "berta", &file);
    let token = join_token(&cluster, "k");
    cluster.add_keeper_with(&["--token-file", token.to_str().unwrap()]);
    let mount = cluster.mount_with(&["--token-file", file.to_str().unwrap()]);
    fs::write(mount.path("f"), "x").unwrap();
    cluster.dfs(&["--log", "trace", "user", "ls"]).ok();
    // What was done is in the audit log, and no secret is anywhere.
    let audit = cluster.scratch.path("master/audit.jsonl");
    let text = wait_for(secs(10), "the audit log", || {
        fs::read_to_string(&audit)
            .ok()
            .filter(|text| text.contains("keeper token") && text.contains("too many tries"))
    });
    for event in ["\"event\":\"login\"", "\"event\":\"user add\"", "\"ok\":false", "\"user\":\"admin\""] {
        assert!(text.contains(event), "{event} is not in {text}");
    }
    let secrets = [PASSWORD, first.expose(), "guess-0-wrong", "eyJ", "argon2id"];
    let logs = fs::read_dir(cluster.scratch.path("log")).unwrap().map(|entry| entry.unwrap().path());
    for path in logs.chain([audit]) {
        let text = fs::read_to_string(&path).unwrap();
        for secret in secrets {
            assert!(!text.contains(secret), "'{secret}' is in {}", path.display());
        }
    }
    for pid in [cluster.master.pid(), mount.process.pid(), cluster.keeper(0).pid()] {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(secrets.iter().all(|secret| !line.contains(secret)), "{line}");
    }
    mount.unmount();
}

#[test]
fn an_open_door_has_to_be_asked_for() {
    let scratch = dfs_tests::Scratch::new();
    let data = scratch.path("data").display().to_string();
    let args = ["--data", &data, "--listen", "0.0.0.0:0", "--auth", "off"];
    let mut command = std::process::Command::new(dfs_tests::process::binary("dfs-master"));
    dfs_tests::run(command.args(args), secs(20)).one_line_error("dfs-master", &["0.0.0.0", "--insecure"]);
    assert!(!Path::new(&data).exists(), "nothing was made");
}
