//! Files in a browser: `/files/...` of the master's HTTP.
//!
//! Covers: a film by ranges, whole, by its tag and with HEAD, and what no range gives; holes, odd names, directories in pages; types, and
//! that nothing is a page of the master's origin; a copy that rots and a keeper that dies on the way are not noticed; a file that changes, and a token
//! that is revoked, end an answer early; a login is wanted where auth is on, by header or cookie, and a bound user sees his directory alone; ffmpeg
//! plays from there, with seeks; headless Chromium shows the film, where it is installed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dfs_tests::browser::Browser;
use dfs_tests::http::{Answer, address, get, send, send_tls};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, auth, film, run, run_ok, wait_until};

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

fn cluster() -> (Cluster, String) {
    let cluster = Cluster::builder().keepers(2).copies(2).chunk_size("1MiB").master_flags(&HTTP).start();
    let at = address(&cluster.master);
    (cluster, at)
}

fn ask(at: &str, method: &str, path: &str, headers: &[&str]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    send(at, &format!("{head}\r\n"))
}

#[test]
fn a_film_is_read_by_ranges() {
    let (cluster, at) = cluster();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    let film = fs::read(film::small()).unwrap();
    let size = film.len();
    let whole = get(&at, "/files/movie.mp4");
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("video/mp4")));
    assert_eq!((whole.header("accept-ranges"), whole.body == film), (Some("bytes"), true));
    let tag = whole.header("etag").unwrap().to_owned();
    let range = |range: &str| ask(&at, "GET", "/files/movie.mp4", &[&format!("Range: bytes={range}")]);
    let mut random = Rng::new(7);
    let mut parts =
        vec![(0, 1), (0, size), (size - 1, size), (1 << 20, (1 << 20) + 1), ((1 << 20) - 1, (1 << 20) + 1)];
    for _ in 0..20 {
        let from = random.below(size as u64) as usize;
        parts.push((from, (from + 1 + random.below(3_000_000) as usize).min(size)));
    }
    for (from, to) in parts {
        let part = range(&format!("{from}-{}", to - 1));
        assert_eq!(part.status, 206, "{from}-{to}");
        assert_eq!(part.header("content-range"), Some(&*format!("bytes {from}-{}/{size}", to - 1)));
        assert_eq!(part.header("content-length"), Some(&*(to - from).to_string()));
        assert!(part.body == film[from..to], "{from}-{to}");
    }
    assert!(
        range("-1000").body == film[size - 1000..]
            && range(&format!("{}-", size - 5)).body == film[size - 5..]
    );
    let beyond = range(&format!("{size}-"));
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(&*format!("bytes */{size}"))));
    let head = ask(&at, "HEAD", "/files/movie.mp4", &[]);
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, Some(&*size.to_string()), 0)
    );
    let same = ask(&at, "GET", "/files/movie.mp4", &[&format!("If-None-Match: {tag}")]);
    assert_eq!((same.status, same.body.len()), (304, 0));
    let if_range =
        |tag: &str| ask(&at, "GET", "/files/movie.mp4", &["Range: bytes=0-9", &format!("If-Range: {tag}")]);
    assert_eq!((if_range(&tag).status, if_range("\"other\"").status), (206, 200));
    // Another content has another tag.
    cluster.dfs(&["put", "-f", film::small().to_str().unwrap(), "/movie.mp4"]);
    cluster.dfs(&["rm", "/movie.mp4"]).ok();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    assert_ne!(get(&at, "/files/movie.mp4").header("etag"), Some(&*tag));

    // A player does the same.
    let url = format!("http://{at}/files/movie.mp4");
    assert!((film::duration_s(Path::new(&url)) - film::duration_s(&film::small())).abs() < 0.1);
    for start in ["12", "1", "7"] {
        let args = ["-nostdin", "-v", "error", "-ss", start, "-i", &url, "-t", "2", "-f", "null", "-"];
        let ran = run_ok(&[&["ffmpeg"], &args[..]].concat());
        assert!(ran.stderr.is_empty(), "{ran:#?}");
    }
}

#[test]
fn whatever_is_in_a_directory_is_shown_and_nothing_of_it_runs() {
    let (mut cluster, at) = cluster();
    let mount = cluster.mount();
    fs::create_dir(mount.path("dir")).unwrap();
    let odd: [&[u8]; 4] =
        [b"a b%20?#&.txt", b"<script>.html", "\u{e4}\u{202e}.svg".as_bytes(), b"no text \xff.bin"];
    for name in odd {
        fs::write(mount.path("dir").join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", mount.path("dir/link")).unwrap();
    let sparse = File::create(mount.path("dir/sparse.mp4")).unwrap();
    sparse.write_all_at(b"middle", 2_000_000).unwrap();
    sparse.set_len(5_000_000).unwrap();
    drop(sparse);
    File::create(mount.path("dir/empty.txt")).unwrap();

    let list = get(&at, "/files/dir/").json();
    let entries = list["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 7, "{list:#}");
    for entry in entries.iter().filter(|entry| entry["kind"] == "file") {
        let answer = get(&at, &format!("/files/dir/{}", entry["href"].as_str().unwrap()));
        assert_eq!(answer.status, 200, "{entry}");
        assert_eq!(answer.body.len() as u64, entry["size"].as_u64().unwrap(), "{entry}");
        let kind = answer.header("content-type").unwrap();
        let harmless = ["video/", "audio/", "image/png", "text/plain", "application/octet-stream"];
        assert!(harmless.iter().any(|start| kind.starts_with(start)), "{entry} is {kind}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("content-security-policy").unwrap().starts_with("sandbox;"), "{answer:?}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(
            answer.header("content-disposition").unwrap() == "attachment",
            kind.starts_with("application/")
        );
    }
    let mut holes = vec![0; 5_000_000];
    holes[2_000_000..2_000_006].copy_from_slice(b"middle");
    assert!(get(&at, "/files/dir/sparse.mp4").body == holes);
    assert_eq!(ask(&at, "GET", "/files/dir/empty.txt", &["Range: bytes=0-"]).status, 416);
    for (path, status) in [
        ("/files/dir/link", 404),
        ("/files/dir/none", 404),
        ("/files/dir/empty.txt/x", 404),
        ("/files/../etc/passwd", 404),
        ("/files/%2e%2e/x", 404),
        ("/files/dir/%zz", 400),
        ("/files/dir/?after=%25z", 400),
    ] {
        assert_eq!(get(&at, path).status, status, "{path}");
    }
    // Many, in pages.
    fs::create_dir(mount.path("many")).unwrap();
    for n in 0..1003 {
        File::create(mount.path(format!("many/{n:04} %"))).unwrap();
    }
    let first = get(&at, "/files/many/").json();
    let next = first["next"].as_str().unwrap().replace('%', "%25");
    let second = get(&at, &format!("/files/many/?after={next}")).json();
    let count = |page: &serde_json::Value| page["entries"].as_array().unwrap().len();
    assert_eq!((count(&first), count(&second), second["next"].is_null()), (1000, 3, true));
}

#[test]
fn keepers_that_speak_tls_are_read_too() {
    let cluster = Cluster::builder().keepers(2).copies(2).tls().master_flags(&HTTP).start();
    let at = address(&cluster.master);
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    let request = format!("GET /files/movie.mp4 HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    assert!(send_tls(&cluster.tls_dir("client"), &at, &request).body == fs::read(film::small()).unwrap());
}

/// A connection on which a film is on its way, that has been read up to here.
fn begun(at: &str, headers: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(secs(20))).unwrap();
    let head = format!("GET /files/film HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = vec![0; 100_000];
    stream.read_exact(&mut first).unwrap();
    (stream, first)
}

fn rest_of(mut stream: TcpStream, mut first: Vec<u8>) -> Vec<u8> {
    let _ = stream.read_to_end(&mut first);
    let body = first.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    first.split_off(body)
}

#[test]
fn rotten_copies_and_dead_keepers_are_not_noticed() {
    let (mut cluster, at) = cluster();
    let bytes = Rng::new(5).bytes(60 << 20);
    let mount = cluster.mount();
    fs::write(mount.path("film"), &bytes).unwrap();
    cluster.wait_copies("/film", 2, secs(30));
    // Every copy that is read first has a chance to be the bad one: of each chunk one is, on the one keeper or the other.
    for (n, chunk) in cluster.chunk_files(0).iter().enumerate() {
        let name = chunk.file_name().unwrap();
        let held =
            cluster.chunk_files(n % 2).into_iter().find(|path| path.file_name() == Some(name)).unwrap();
        let file = File::options().write(true).open(held).unwrap();
        file.write_all_at(b"rot", 4096 + 300_000).unwrap();
    }
    assert!(get(&at, "/files/film").body == bytes, "something rotten was sent");
    // One keeper goes while a film is on its way. What only it has whole is gone with it: put right before.
    let (mut cluster, at) = self::cluster();
    let mount = cluster.mount();
    fs::write(mount.path("film"), &bytes).unwrap();
    cluster.wait_copies("/film", 2, secs(30));
    let (stream, first) = begun(&at, "");
    cluster.keeper(0).kill();
    assert!(rest_of(stream, first) == bytes, "it was cut off, or something else was sent");
}

#[test]
fn what_may_not_go_on_ends_early() {
    let mut cluster = auth::cluster(Cluster::builder(), 2, &HTTP);
    let at = address(&cluster.master);
    let mount = cluster.mount();
    let size = 150 << 20;
    let film = Rng::new(5).bytes(size);
    fs::write(mount.path("film"), &film).unwrap();
    auth::add_user(&cluster, "anna", &["--role", "ro"]);
    let header = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let token = auth::token(&cluster, "anna");
    let (stream, first) = begun(&at, &header(token.expose()));
    cluster.dfs(&["user", "revoke", "anna"]).ok();
    let got = rest_of(stream, first).len();
    assert!(got < size / 2, "{got} bytes were sent to whom nothing is to be sent");
    // Another content is not sent in the middle of the first.
    let token = auth::token(&cluster, "anna");
    let (stream, first) = begun(&at, &header(token.expose()));
    File::options().write(true).open(mount.path("film")).unwrap().write_all_at(b"new", 140 << 20).unwrap();
    let got = rest_of(stream, first);
    assert!(got.len() < size && film.starts_with(&got), "{} bytes", got.len());
}

#[test]
fn a_login_is_wanted_and_a_bound_user_sees_his_directory() {
    let mut cluster = auth::cluster(Cluster::builder(), 2, &HTTP);
    let at = address(&cluster.master);
    let mount = cluster.mount();
    fs::create_dir_all(mount.path("x/d")).unwrap();
    fs::write(mount.path("x/d/f.txt"), "anna's").unwrap();
    fs::write(mount.path("secret"), "berta's").unwrap();
    auth::add_user(&cluster, "anna", &["--role", "ro", "--dir", "/x"]);
    let token = auth::token(&cluster, "anna");
    for path in ["/files/", "/files/d/", "/files/d/f.txt", "/files/none"] {
        let refused = get(&at, path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.json()["error"].as_str().unwrap().contains("log in"));
        assert_eq!(ask(&at, "GET", path, &["Cookie: dfs_token=x.y.z"]).status, 401, "{path}");
    }
    assert_eq!(ask(&at, "POST", "/api/v1/session", &["Content-Length: 0"]).status, 401);
    let bearer = format!("Authorization: Bearer {}", token.expose());
    let begun = ask(&at, "POST", "/api/v1/session", &["Content-Length: 0", &bearer]);
    let cookie = begun.header("set-cookie").unwrap();
    for word in ["dfs_token=", "HttpOnly", "SameSite=Strict", "Max-Age=", "Path=/"] {
        assert!(cookie.contains(word), "no {word} in the cookie");
    }
    assert_eq!(begun.json()["user"], "anna");
    let cookie = format!("Cookie: other=1; {}", cookie.split(';').next().unwrap());
    for shown in [&bearer, &cookie] {
        let list = ask(&at, "GET", "/files/", &[shown]).json();
        assert_eq!(list["entries"].as_array().unwrap().len(), 1, "{list}");
        assert_eq!(list["entries"][0]["name"], "d");
        assert_eq!(ask(&at, "GET", "/files/d/f.txt", &[shown]).text(), "anna's");
        for outside in ["/files/secret", "/files/x/d/f.txt", "/files/../secret", "/files/d/../../secret"] {
            assert_eq!(ask(&at, "GET", outside, &[shown]).status, 404, "{outside}");
        }
        assert!(!ask(&at, "GET", "/api/v1/lookup", &[shown]).text().contains("secret"));
    }
    // It is renewed with itself, and is worth nothing when the user's tokens are.
    assert_eq!(ask(&at, "POST", "/api/v1/session", &["Content-Length: 0", &cookie]).status, 200);
    cluster.dfs(&["user", "revoke", "anna"]).ok();
    assert_eq!(ask(&at, "GET", "/files/d/f.txt", &[&cookie]).status, 401);
    let ended = ask(&at, "POST", "/api/v1/logout", &["Content-Length: 0"]);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    let log = cluster.master.log();
    assert!(!log.contains(token.expose()), "a token is in the log");
}

#[test]
fn in_a_browser_a_film_plays() {
    let Some(browser) = Browser::find() else { return };
    let (mut cluster, at) = cluster();
    let mount = cluster.mount();
    fs::create_dir(mount.path("films")).unwrap();
    // What every Chromium can play.
    let clip = cluster.scratch.path("clip.webm");
    let args = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=4"];
    let to = ["-c:v", "libvpx", "-b:v", "1M", clip.to_str().unwrap()];
    run(std::process::Command::new("ffmpeg").args(args).args(to), secs(120)).ok();
    fs::copy(&clip, mount.path("films/Test film.webm")).unwrap();
    fs::write(mount.path("films/notes.txt"), "a note").unwrap();
    cluster.wait_copies("/", 2, secs(20));
    let place = "#/films/Test%20film.webm";
    let shown = browser.dom(&cluster, &at, place, &["data-seconds"]);
    assert!(shown.contains("data-seconds=\"4"), "{shown}");
    assert!(
        shown.contains("notes.txt") && shown.contains("src=\"/files/films/Test%20film.webm\""),
        "{shown}"
    );
    let shot = browser.shot(&cluster, &at, place, "film", "1280,2400", false);
    wait_until(secs(1), "a picture", || fs::metadata(&shot).is_ok_and(|meta| meta.len() > 20_000));
    if let Some(keep) = std::env::var_os("DFS_TEST_SHOTS") {
        fs::copy(&shot, Path::new(&keep).join("film.png")).unwrap();
    }
}
