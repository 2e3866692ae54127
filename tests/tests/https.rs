//! HTTP over TLS, and logging in on the page.
//!
//! Covers: figures of master, keeper and mount, and a film from `/files`, over TLS with a certificate that a browser is asked nothing for; plain HTTP is
//! told so; `--http-plain`; a mount without a certificate of its own; `dfs top` over TLS; who is refused an address that others reach. A
//! password on the page: the cookie, wrong ones, too many, the audit log, other sites, odd bodies, logging out, nothing in a log; the form in Chromium.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dfs_tests::browser::Browser;
use dfs_tests::http::{Answer, address, get, send, send_tls};
use dfs_tests::process::binary;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, auth, film, run, run_ok};

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

fn request(at: &str, path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{headers}\r\n")
}

/// The clients' directory gets a certificate for a mount.
fn certify_mounts(cluster: &Cluster) {
    let (ca, out) = (cluster.tls_dir(""), cluster.tls_dir("client"));
    let (ca, to) = (ca.to_str().unwrap(), out.to_str().unwrap());
    let args = ["tls", "issue", "--dir", ca, "--role", "mount", "--host", "127.0.0.1", "--out", to];
    run_ok(&[&[binary("dfs").to_str().unwrap()], &args[..]].concat());
}

#[test]
fn figures_and_films_are_served_over_tls_alone() {
    let builder = Cluster::builder().tls().keepers(2).copies(2).keeper_flags(&HTTP).master_flags(&HTTP);
    let mut cluster = builder.start();
    certify_mounts(&cluster);
    let mount = cluster.mount_with(&HTTP);
    let client = cluster.tls_dir("client");
    let at = address(&cluster.master);
    for (at, role) in
        [(at.clone(), "master"), (address(cluster.keeper(0)), "keeper"), (address(&mount.process), "mount")]
    {
        let figures = send_tls(&client, &at, &request(&at, "/metrics", ""));
        assert_eq!(figures.status, 200, "{role}");
        assert!(figures.text().contains(&format!("dfs_build_info{{role=\"{role}\"")), "{role}");
        let plain = get(&at, "/metrics");
        assert_eq!(plain.status, 400, "{role}");
        assert!(plain.text().contains("https://") && !plain.text().contains("dfs_"), "{role}: {plain:?}");
        let top = ["top", "--once", "--every", "100ms", &at];
        cluster.dfs(&top).ok();
        let top = ["top", "--once", &format!("http://{at}")];
        cluster.dfs(&top).one_line_error("dfs", &["400", "https://"]);
        let url = format!("https://{at}");
        let unsure = run(
            Command::new(binary("dfs")).env_remove("DFS_TLS_DIR").args(["top", "--once", &url]),
            secs(20),
        );
        unsure.one_line_error("dfs", &["--tls-dir"]);
    }
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    let film = fs::read(film::small()).unwrap();
    let whole = send_tls(&client, &at, &request(&at, "/files/movie.mp4", ""));
    assert!(whole.status == 200 && whole.body == film, "{} {}", whole.status, whole.body.len());
    let part = send_tls(&client, &at, &request(&at, "/files/movie.mp4", "Range: bytes=70000-300000\r\n"));
    assert!(part.status == 206 && part.body == film[70_000..=300_000], "{}", part.status);
    // As anybody else checks a certificate, and with what nobody should believe.
    let curl = |ca: &Path| {
        let (ca, url) = (ca.join("ca.pem"), format!("https://{at}/healthz"));
        run(Command::new("curl").args(["-sS", "--noproxy", "*", "--cacert"]).arg(ca).arg(url), secs(20))
    };
    assert_eq!(curl(&client).ok().stdout, "ok\n");
    let other = cluster.scratch.path("other");
    let args = ["tls", "init", "--dir", other.to_str().unwrap(), "--host", "127.0.0.1"];
    run_ok(&[&[binary("dfs").to_str().unwrap()], &args[..]].concat());
    assert!(!curl(&other).status.success());
}

#[test]
fn whoever_wants_plain_http_says_so() {
    let plain = [&HTTP[..], &["--http-plain"]].concat();
    let mut cluster = Cluster::builder()
        .tls()
        .keepers(1)
        .copies(1)
        .min_copies(1)
        .keeper_flags(&plain)
        .master_flags(&plain)
        .start();
    let mount = cluster.mount_with(&plain);
    let by_word = cluster.mount_with(&["-o", "http=127.0.0.1:0,http-plain"]);
    for at in [
        address(&cluster.master),
        address(cluster.keeper(0)),
        address(&mount.process),
        address(&by_word.process),
    ] {
        assert_eq!(get(&at, "/healthz").status, 200);
    }
    // Without a certificate there is no TLS, and it is not done without in silence.
    let (dir, point) = (cluster.tls_dir("client"), cluster.scratch.path("point"));
    fs::create_dir(&point).unwrap();
    let mut command = Command::new(binary("dfs-mount"));
    command.args(["-f", "--master", cluster.address(), "--tls-dir"]).arg(dir).args(HTTP).arg(&point);
    run(&mut command, secs(60)).one_line_error("dfs-mount", &["cert.pem", "--role mount", "--http-plain"]);
    // Others may come to a port with TLS where everybody is asked who he is; figures of a keeper name no file.
    let (tls, data) = (cluster.tls_dir("master"), cluster.scratch.path("another"));
    let exposed = |more: &[&str]| {
        let mut command = Command::new(binary("dfs-master"));
        command.arg("--data").arg(&data).arg("--tls-dir").arg(&tls);
        run(command.args(["--listen", "127.0.0.1:0", "--http", "0.0.0.0:0"]).args(more), secs(20))
    };
    exposed(&["--auth", "off"]).one_line_error("dfs-master", &["--http", "--insecure"]);
    exposed(&["--auth", "on", "--http-plain"]).one_line_error("dfs-master", &["--http", "--insecure"]);
}

/// POST of JSON to the page's login.
fn post(cluster: &Cluster, at: &str, path: &str, headers: &str, body: &str) -> Answer {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let dir = cluster.tls_dir("client");
    if dir.exists() { send_tls(&dir, at, &request) } else { send(at, &request) }
}

const JSON: &str = "Content-Type: application/json\r\n";

fn login(user: &str, password: &str) -> String {
    format!(r#"{{"user": "{user}", "password": "{password}"}}"#)
}

#[test]
fn a_password_opens_the_page_and_guesses_are_counted() {
    let cluster = auth::cluster(Cluster::builder().log("trace"), 0, &HTTP);
    auth::add_user(&cluster, "anna", &["--role", "ro"]);
    let at = address(&cluster.master);
    let enter = |headers: &str, body: &str| post(&cluster, &at, "/api/v1/login", headers, body);
    let right = login("anna", auth::PASSWORD);
    let entered = enter(JSON, &right);
    assert_eq!(entered.status, 200, "{entered:?}");
    assert_eq!(entered.json()["user"], "anna");
    let cookie = entered.header("set-cookie").unwrap().to_owned();
    for word in ["dfs_token=", "HttpOnly", "SameSite=Strict", "Max-Age=", "Path=/"] {
        assert!(cookie.contains(word), "{word}: {cookie}");
    }
    assert!(!cookie.contains("Secure"), "there is no TLS: {cookie}");
    let pair = cookie.split(';').next().unwrap().to_owned();
    let seen = send(&at, &request(&at, "/api/v1/overview", &format!("Cookie: {pair}\r\n")));
    assert_eq!(seen.status, 200, "{seen:?}");
    // What a browser posts for another site, a form, and what is no login.
    let other = format!("{JSON}Origin: https://evil.example\r\n");
    assert_eq!(enter(&other, &right).status, 403);
    assert_eq!(enter(&format!("{JSON}Origin: http://{at}\r\n"), &right).status, 200);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(enter(form, &format!("user=anna&password={}", auth::PASSWORD)).status, 415);
    for odd in ["", "{}", "[1]", r#"{"user": "anna"}"#, r#"{"user": 1, "password": 2}"#, &"x".repeat(9_000)] {
        let refused = enter(JSON, odd);
        assert_eq!(refused.status, 400, "{odd:.20}");
    }
    let asked = send(&at, &request(&at, "/api/v1/login?user=anna", ""));
    assert_eq!(asked.status, 405, "a password in an address is not even looked at");
    // Guesses: whether there is such a user is not told.
    let guess = |user: &str| enter(JSON, &login(user, "guessed wrongly"));
    let (anna, nobody) = (guess("anna"), guess("nobody"));
    assert_eq!((anna.status, nobody.status), (401, 401));
    assert_eq!(anna.text(), nobody.text());
    for _ in 0..4 {
        assert_eq!(guess("anna").status, 401);
    }
    let late = guess("anna");
    assert_eq!(late.status, 429, "{late:?}");
    assert_eq!(enter(JSON, &right).status, 429, "one who knows it has to wait, too");
    // It is one limit, however somebody asks.
    let file = cluster.scratch.path("password");
    let args = ["login", "anna", "--password-file", file.to_str().unwrap()];
    cluster.dfs(&args).one_line_error("dfs", &["too many failed logins"]);
    // Logging out.
    let out = post(&cluster, &at, "/api/v1/logout", "", "");
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().starts_with("dfs_token=; Max-Age=0"), "{out:?}");
    assert_eq!(post(&cluster, &at, "/api/v1/logout", "Origin: null\r\n", "").status, 403);
    // What was done is written down, and no password anywhere.
    let audit = || fs::read_to_string(cluster.scratch.path("master/audit.jsonl")).unwrap();
    dfs_tests::wait_until(secs(10), "the audit log has it", || audit().contains("too many tries"));
    let audit = audit();
    let lines: Vec<_> = audit.lines().filter(|line| line.contains(r#""user":"anna""#)).collect();
    assert!(
        lines.iter().any(|line| line.contains(r#""event":"login""#) && line.contains("the page")),
        "{audit}"
    );
    assert!(lines.iter().any(|line| line.contains(r#""ok":false"#) && line.contains("wrong")), "{audit}");
    assert!(
        lines.iter().all(|line| line.contains(r#""from":"127.0.0.1:"#) || line.contains("add")),
        "{audit}"
    );
    for secret in [auth::PASSWORD, "guessed wrongly", pair.split_once('=').unwrap().1] {
        assert!(!audit.contains(secret) && !cluster.master.log().contains(secret), "{secret}");
    }
}

#[test]
fn over_tls_the_cookie_is_for_tls_alone_and_the_form_is_there() {
    let cluster =
        Cluster::builder().tls().keepers(0).master_flags(&[&HTTP[..], &["--auth", "on"]].concat()).start();
    let at = address(&cluster.master);
    let initial = fs::read_to_string(cluster.scratch.path("master/initial-admin-password")).unwrap();
    let entered = post(&cluster, &at, "/api/v1/login", JSON, &login("admin", initial.trim()));
    assert_eq!(entered.status, 200, "{entered:?}");
    let cookie = entered.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; Secure"), "{cookie}");

    let Some(browser) = Browser::find() else { return };
    let url = format!("https://{at}");
    let shown = browser.dom(&cluster, &url, "", &["This cluster wants to know who you are"]);
    let form = shown.split("id=\"login\"").nth(1).unwrap();
    assert!(!form.split('>').next().unwrap().contains("hidden"), "the form is hidden: {form:.200}");
    let out = std::env::var_os("DFS_TEST_SHOTS").map(PathBuf::from);
    for (name, size, dark) in [
        ("login-light", "1200,800", false),
        ("login-dark", "1200,800", true),
        ("login-phone", "390,844", false),
    ] {
        let shot = browser.shot(&cluster, &url, "", name, size, dark);
        assert!(fs::metadata(&shot).unwrap().len() > 5_000, "{name}");
        if let Some(out) = &out {
            fs::copy(&shot, out.join(format!("{name}.png"))).unwrap();
        }
    }
}
