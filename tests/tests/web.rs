//! The master's page in a browser.
//!
//! Covers: its JSON agrees with `dfs status`, `dfs keepers` and `dfs lookup`; paging and search; names with markup, quotes and
//! bytes that are no text stay names, in JSON and in a real browser; files in danger by name; events, and throughput; what is
//! asked wrongly; a token is wanted where auth is on; no scripts from elsewhere. In headless Chromium, where one is installed: what the page shows, light, dark and
//! on a phone (`DFS_TEST_SHOTS=DIRECTORY` keeps the pictures).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dfs_proto::pb;
use dfs_proto::pb::auth_service_client::AuthServiceClient;
use dfs_tests::browser::Browser;
use dfs_tests::http::{address, get, send};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, wait_until};
use serde_json::Value;

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];
/// What a name can do at worst.
const HOSTILE: [&str; 4] = [
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'<",
    "\"'><b>&amp;&#60;",
    "line\nand\ttab\u{202e}gnp.",
];

fn cluster(keepers: usize) -> Cluster {
    Cluster::builder().keepers(keepers).copies(2).master_flags(&HTTP).start()
}

#[track_caller]
fn json(at: &str, path: &str) -> Value {
    let answer = get(at, path);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    answer.json()
}

#[track_caller]
fn rows(at: &str, query: &str) -> Vec<Value> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let page = json(at, &format!("/api/v1/lookup?{query}&after={after}"));
        rows.extend(page["rows"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => {
                assert!(next != after && rows.len() < 10_000, "the pages have no end");
                after = next.to_owned();
            }
            None => return rows,
        }
    }
}

#[test]
fn its_json_is_what_the_command_line_says() {
    let mut cluster = cluster(3);
    let at = address(&cluster.master);
    let mount = cluster.mount();
    fs::create_dir(mount.path("dir")).unwrap();
    for n in 0..25 {
        fs::write(mount.path(format!("dir/file-{n:02}")), Rng::new(n).bytes(100 + n as usize)).unwrap();
    }
    fs::write(mount.path("Film.MP4"), Rng::new(99).bytes(9 << 20)).unwrap();
    cluster.wait_copies("/", 2, secs(20));

    let told = cluster.json(&["lookup", "/"]);
    assert_eq!(Value::Array(rows(&at, "limit=1000")), told);
    // Pages of any length have the same rows, in the same order.
    for limit in [1, 7] {
        assert_eq!(Value::Array(rows(&at, &format!("limit={limit}"))), told, "pages of {limit}");
    }
    assert_eq!(Value::Array(rows(&at, "path=/dir")), cluster.json(&["lookup", "/dir"]));
    let found = rows(&at, "search=film.mp4&limit=1");
    assert_eq!(Value::Array(found.clone()), cluster.json(&["lookup", "/Film.MP4"]));
    assert!(found.len() >= 4, "two chunks with two copies each: {found:?}");
    assert_eq!(rows(&at, "search=nothing-has-this"), Vec::<Value>::new());

    // The status may be a second old, and requests go on.
    let steady = |mut status: Value| {
        for moving in ["requests", "free_bytes", "total_bytes"] {
            assert!(status[moving].is_u64());
            status.as_object_mut().unwrap().remove(moving);
        }
        status
    };
    wait_until(secs(10), "the status is the same", || {
        steady(json(&at, "/api/v1/status")) == steady(cluster.json(&["status"]))
    });
    let keys = |keepers: &Value| -> Vec<(BTreeSet<String>, Value, Value, Value)> {
        let keepers = keepers.as_array().unwrap().iter();
        keepers
            .map(|keeper| {
                let names = keeper.as_object().unwrap().keys().cloned().collect();
                (names, keeper["keeper"].clone(), keeper["address"].clone(), keeper["chunks"].clone())
            })
            .collect()
    };
    assert_eq!(keys(&json(&at, "/api/v1/keepers")), keys(&cluster.json(&["keepers"])));
    let overview = json(&at, "/api/v1/overview");
    assert_eq!(overview["figures"]["keepers_live"], 3);
    assert_eq!(overview["status"]["files"], 26);
    assert_eq!(overview["trouble"]["files"], Value::Array(Vec::new()));
}

#[test]
fn what_is_asked_wrongly_is_refused_with_words() {
    let cluster = cluster(1);
    let at = address(&cluster.master);
    for (path, status) in [
        ("/api/v1/lookup?path=/nothing", 404),
        ("/api/v1/lookup?after=zz", 400),
        ("/api/v1/lookup?after=1:0", 400),
        ("/api/v1/lookup?limit=many", 400),
        ("/api/v1/lookup?unknown=1", 400),
        ("/api/v1/nothing", 404),
    ] {
        assert_eq!(get(&at, path).status, status, "{path}");
    }
    let error = get(&at, "/api/v1/lookup?path=/nothing").json();
    assert!(error["error"].as_str().unwrap().contains("nothing"), "{error}");
    assert_eq!(get(&at, &format!("/api/v1/lookup?search={}", "x".repeat(5000))).status, 400);
}

#[test]
fn the_page_is_whole_and_takes_nothing_from_elsewhere() {
    let cluster = cluster(1);
    let at = address(&cluster.master);
    let page = get(&at, "/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let mut linked = 0;
    for part in page.text().split(['"', '\'']).filter(|part| is_link(part)) {
        assert_eq!(get(&at, part).status, 200, "{part}");
        linked += 1;
    }
    assert!(linked >= 3, "style, script and icon");
    for file in ["/", "/app.js", "/style.css"] {
        let text = get(&at, file).text().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{file} names another site");
    }
    let script = get(&at, "/app.js");
    for how in [".innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.text().contains(how), "{how}");
    }
}

#[test]
fn where_auth_is_on_a_token_is_wanted() {
    let flags = [&HTTP[..], &["--auth", "on"]].concat();
    let cluster = Cluster::builder().keepers(0).master_flags(&flags).start();
    let at = address(&cluster.master);
    let password = fs::read_to_string(cluster.scratch.path("master/initial-admin-password")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let token = runtime.block_on(async {
        let mut service = AuthServiceClient::connect(format!("http://{}", cluster.address())).await.unwrap();
        let login = pb::LoginRequest { user: "admin".to_owned(), password: password.trim().to_owned() };
        service.login(login).await.unwrap().into_inner().token
    });
    let with = |path: &str, token: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
        send(&at, &format!("{head}Authorization: Bearer {token}\r\n\r\n"))
    };
    for path in ["/api/v1/status", "/api/v1/keepers", "/api/v1/lookup", "/api/v1/overview"] {
        let refused = get(&at, path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.json()["error"].as_str().unwrap().contains("dfs login"), "{path}");
        assert_eq!(with(path, &format!("{token}x")).status, 401, "{path}");
        assert_eq!(with(path, &token).status, 200, "{path}");
    }
    for open in ["/", "/app.js", "/metrics", "/healthz"] {
        assert_eq!(get(&at, open).status, 200, "{open}");
    }
}

fn is_link(text: &str) -> bool {
    let name = text.strip_prefix('/').unwrap_or("");
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
}

#[test]
fn files_in_danger_are_named_and_what_happens_is_told() {
    let mut cluster = cluster(2);
    let at = address(&cluster.master);
    let mount = cluster.mount();
    fs::write(mount.path("film"), Rng::new(1).bytes(3_000_000)).unwrap();
    cluster.wait_copies("/film", 2, secs(20));
    let overview = || json(&at, "/api/v1/overview");
    wait_until(secs(30), "the write is in the throughput", || {
        let history = overview()["history"].as_array().unwrap().clone();
        let all = |name: &str| history.iter().map(|sample| sample[name].as_f64().unwrap()).sum::<f64>();
        // Both keepers took all of it, and a sample is the mean of ten seconds.
        all("written") > 500_000.0 && all("requests") > 0.1
    });
    cluster.keeper(0).kill();
    let in_danger = |lost: u64, endangered: u64| {
        wait_until(secs(20), "the file is named", || {
            let trouble = &overview()["trouble"];
            let files = trouble["files"].as_array().unwrap();
            trouble["lost"] == lost
                && trouble["endangered"] == lost + endangered
                && files.len() == 1
                && files[0]["file"] == "/film"
                && files[0]["lost"] == lost
                && files[0]["endangered"] == endangered
        });
    };
    in_danger(0, 1);
    cluster.keeper(1).kill();
    in_danger(1, 0);
    wait_until(secs(10), "all of it is told", || {
        let events = overview()["events"].clone();
        let texts: Vec<&str> =
            events.as_array().unwrap().iter().map(|event| event["text"].as_str().unwrap()).collect();
        ["joined", "a mount came", "is dead", "chunks endangered: 1", "chunks lost: 1"]
            .iter()
            .all(|what| texts.iter().any(|text| text.contains(what)))
    });
    for keeper in 0..2 {
        cluster.keeper(keeper).restart();
    }
    wait_until(secs(30), "all is well again", || {
        let overview = overview();
        overview["trouble"]["files"] == Value::Array(Vec::new()) && overview["figures"]["keepers_live"] == 2
    });
}

#[test]
fn names_with_markup_stay_names() {
    let mut cluster = cluster(2);
    let at = address(&cluster.master);
    let mount = cluster.mount();
    for name in HOSTILE {
        fs::write(mount.path(name), b"bytes").unwrap();
    }
    fs::write(mount.path(OsStr::from_bytes(b"no text \xff\xfe")), b"bytes").unwrap();
    cluster.wait_copies("/", 2, secs(20));
    let page = get(&at, "/api/v1/lookup?limit=1000");
    let names: BTreeSet<String> = page.json()["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["file"].as_str().unwrap().to_owned())
        .collect();
    for name in HOSTILE {
        assert!(names.contains(&format!("/{name}")), "{name:?} in {names:?}");
    }
    // Whoever opens it as a page does not get one, either.
    assert_eq!(page.header("content-type"), Some("application/json"));
    assert_eq!(Value::Array(rows(&at, "limit=1")), cluster.json(&["lookup", "/"]));

    let Some(browser) = Browser::find() else { return };
    let shown = browser.dom(&cluster, &at, "", &["data-shown", "<details>"]);
    assert!(shown.contains("<title>dfs</title>"), "a name became a script");
    for markup in ["<img", "<b>&"] {
        assert!(!shown.contains(markup), "a name became markup: {markup}");
    }
    assert!(shown.contains("&lt;img src=x onerror="), "the name is not shown as it is: {shown}");
}

#[test]
fn in_a_browser_it_shows_the_cluster() {
    let Some(browser) = Browser::find() else { return };
    let mut cluster = cluster(4);
    let at = address(&cluster.master);
    let mount = cluster.mount();
    for (name, len) in
        [("films/Metropolis (1927).mkv", 21 << 20), ("films/Nosferatu.mp4", 9 << 20), ("notes.txt", 1200)]
    {
        let path = mount.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, Rng::new(len as u64).bytes(len)).unwrap();
    }
    cluster.wait_copies("/", 2, secs(60));
    cluster.keeper(3).kill();
    wait_until(secs(60), "the keeper is dead, its chunks have new copies, and that is an event", || {
        let overview = json(&at, "/api/v1/overview");
        let figures = &overview["figures"];
        // Events are found by looking once a second.
        let told = overview["events"].to_string().contains("is dead");
        figures["keepers_dead"] == 1 && figures["under_replicated"] == 0 && told
    });
    let shown = browser.dom(&cluster, &at, "", &["data-shown", "<details>"]);
    for text in ["1 keeper dead", "Metropolis (1927).mkv", "is dead", "live keepers", "keeper 1"] {
        assert!(shown.contains(text), "no '{text}' in {shown}");
    }
    assert!(shown.contains("id=\"offline\" class=\"banner\" hidden"), "it believes that the master is away");
    for (name, size, dark) in
        [("light", "1280,1500", false), ("dark", "1280,1500", true), ("phone", "390,2600", false)]
    {
        let shot = browser.shot(&cluster, &at, "", name, size, dark);
        let bytes = fs::read(&shot).unwrap();
        assert!(
            bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000,
            "{}: {} bytes",
            shot.display(),
            bytes.len()
        );
        if let Some(keep) = std::env::var_os("DFS_TEST_SHOTS") {
            fs::copy(&shot, Path::new(&keep).join(format!("{name}.png"))).unwrap();
        }
    }
}
