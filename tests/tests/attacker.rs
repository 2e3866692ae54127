//! Somebody who is on the network, and wants in.
//!
//! Covers, against one locked cluster (auth and TLS) with all its ports open: each port that a process listens on is one that we
//! know; each takes silence, garbage, its protocol without TLS, no certificate and one of another CA, and ends it in time without a
//! word about files, users or tokens; `/files` with paths that lead out, and with no, a forged and another user's cookie; tickets that
//! were used, altered in any field, are for another keeper or operation, or are expired; the mount of a bound user, from which
//! nothing leads out: "..", links, the kernel's file handles, numbers of inodes. The same for the ports of an embedded cluster, as another user.
//!
//! The tables over all calls are in auth.rs (tokens and roles), those of single bytes of a ticket in tickets.rs, certificates in tls.rs, what
//! a bound user may ask in bound.rs and master/src/core/bound.rs, hostile frames in hostile.rs and garbage.rs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use dfs_master::store::{DataDir, JournaledStore, Store};
use dfs_proto::error::ErrorCode;
use dfs_proto::frame::{self, Kind};
use dfs_proto::ids::KeeperId;
use dfs_proto::pb::mount_request::Op;
use dfs_proto::pb::{self, mount_reply};
use dfs_proto::ticket::TicketKey;
use dfs_tests::auth::{self, RawSession};
use dfs_tests::http::{Answer, address, send};
use dfs_tests::mount::unmount;
use dfs_tests::ports::{Port, listening};
use dfs_tests::wait::secs;
use dfs_tests::wire::{altered_in_each_field, answer_to, over_tls, read, upload};
use dfs_tests::{Cluster, Mount, Scratch, require_root, run, run_ok, wait_until};
use prost::Message;
use prost::bytes::Bytes;
use tonic::Code;

// Plain, so that all that an attacker could say there is said to HTTP itself.
const HTTP: [&str; 3] = ["--http", "127.0.0.1:0", "--http-plain"];
const SECRET_NAME: &str = "zz-nobodys-business";
const SECRET: &[u8] = b"what berta alone may read";
/// In no answer to somebody without a right: names of files and users, what is in files, tokens.
const NEVER: [&str; 6] = [SECRET_NAME, "what berta", "annaquist", "bertazzi", "eyJ", auth::PASSWORD];
/// Until a port has ended whoever does not speak as he should. The longest is HTTP's, for a request's head.
const REFUSED_WITHIN: Duration = secs(25);

/// What a port speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    Grpc,
    Data,
    Http,
}

/// A port that we know.
struct Row {
    port: Port,
    speaks: Speaks,
}

fn row(program: &'static str, address: &str, speaks: Speaks) -> Row {
    Row { port: Port { program, protocol: "tcp", address: address.to_owned() }, speaks }
}

#[track_caller]
fn says_nothing(what: &str, answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    for word in NEVER {
        assert!(!text.contains(word), "{what}: '{word}' is in {text}");
    }
}

/// /x/d/f for anna, who is bound to /x, and /y with what berta alone may read, who is bound to that.
fn world(cluster: &mut Cluster) -> Mount {
    let whole = cluster.mount_with(&HTTP);
    fs::create_dir_all(whole.path("x/d")).unwrap();
    fs::create_dir(whole.path("y")).unwrap();
    fs::write(whole.path("x/d/f"), "anna's").unwrap();
    fs::write(whole.path("y").join(SECRET_NAME), SECRET).unwrap();
    auth::add_user(cluster, "annaquist", &["--dir", "/x"]);
    auth::add_user(cluster, "bertazzi", &["--dir", "/y"]);
    whole
}

#[test]
fn nobody_gets_in() {
    require_root();
    let builder = Cluster::builder().tls().keeper_flags(&HTTP);
    let mut cluster = auth::cluster(builder, 2, &HTTP);
    let whole = world(&mut cluster);
    let other = cluster.scratch.path("other");
    let dfs = dfs_tests::process::binary("dfs").display().to_string();
    run_ok(&[&dfs, "tls", "init", "--dir", other.to_str().unwrap(), "--host", "127.0.0.1"]);

    let mut table = vec![
        row("dfs-master", cluster.address(), Speaks::Grpc),
        row("dfs-master", &address(&cluster.master), Speaks::Http),
        row("dfs-mount", &address(&whole.process), Speaks::Http),
    ];
    for index in 0..2 {
        table.push(row("dfs-keeper", cluster.keeper_row(index)["address"].as_str().unwrap(), Speaks::Data));
        table.push(row("dfs-keeper", &address(cluster.keeper(index)), Speaks::Http));
    }
    let known: BTreeSet<Port> = table.iter().map(|row| row.port.clone()).collect();
    assert_eq!(listening(&cluster.scratch), known, "left: ports that are open; right: those that are known");
    std::thread::scope(|scope| {
        for row in &table {
            strangers(scope, &cluster, row, &other);
        }
        // Meanwhile, for some of them are let wait.
        calls_without_a_token(&cluster);
        paths_of_http(&cluster);
    });
    from_the_mount_of_who_is_bound(&mut cluster, &whole);
    drop(whole);
    tickets(&mut cluster);
}

/// Whoever does not speak as he should, all at once.
fn strangers<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    cluster: &'scope Cluster,
    row: &'scope Row,
    other: &'scope Path,
) {
    let request = frame::encode(Kind::Read, 1, &pb::ReadRequest::default(), 0).to_vec();
    let random = dfs_tests::Rng::new(6).bytes(3000);
    let says: [(&str, Vec<u8>); 6] = [
        ("silence", Vec::new()),
        ("garbage", random.to_vec()),
        ("the head of a handshake, and garbage", [&[0x16, 3, 1, 0, 200][..], &random[..200]].concat()),
        ("gRPC without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0garbage-garbage".to_vec()),
        ("a frame without TLS", request.clone()),
        ("HTTP without an end", b"GET /files/y HTTP/1.1\r\nHost: x\r\nX: ".to_vec()),
    ];
    for (what, bytes) in says {
        scope.spawn(move || {
            let answer = answer_to(&row.port.address, &bytes, REFUSED_WITHIN);
            says_nothing(&format!("{:?}: {what}", row.port), &answer);
        });
    }
    if row.speaks == Speaks::Http {
        return;
    }
    let ca = cluster.tls_dir("ca.pem");
    let of_others = move |shown: Option<&Path>, bytes: &[u8]| {
        let mut stream = over_tls(&row.port.address, &ca, shown);
        let mut got = Vec::new();
        let ended = stream.write_all(bytes).and_then(|()| stream.read_to_end(&mut got));
        says_nothing(&format!("{:?} over TLS", row.port), &got);
        (ended, got)
    };
    scope.spawn(move || {
        for role in ["master", "keeper"] {
            let (ended, got) = of_others(Some(&other.join(role)), &request);
            // Its own CA has the same name, so it is the signature that is wrong.
            let error = ended.expect_err("a certificate of another CA was taken");
            assert!(error.to_string().contains("DecryptError"), "{:?}: {error}", row.port);
            assert!(got.is_empty(), "{:?}: {got:?}", row.port);
        }
        // Without a certificate one gets as far as the ticket, or the token, that one does not have.
        let (_, got) = of_others(None, &request);
        match row.speaks {
            Speaks::Data => assert!(String::from_utf8_lossy(&got).contains("not signed by"), "{got:?}"),
            _ => assert!(got.len() < 100, "{got:?}"),
        }
        let _ = of_others(None, &random);
    });
}

fn calls_without_a_token(cluster: &Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = auth::channel(cluster).await;
        for path in dfs_proto::METHODS.iter().filter(|path| !path.ends_with("/Login")) {
            // Whoever wants to be a keeper is first asked for a keeper's certificate.
            let keepers = path.contains(".KeeperService/");
            let code = if keepers { Code::PermissionDenied } else { Code::Unauthenticated };
            assert_eq!(auth::call(&channel, path, None).await, code, "{path}");
        }
    });
}

fn http(at: &str, path: &str, header: &str) -> Answer {
    send(at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{header}\r\n"))
}

fn paths_of_http(cluster: &Cluster) {
    let at = address(&cluster.master);
    let cookie = |token: &str| format!("Cookie: dfs_token={token}\r\n");
    let anna = cookie(auth::token(cluster, "annaquist").expose());
    let berta = auth::token(cluster, "bertazzi");
    let inside = format!("/files/{SECRET_NAME}");
    // His own is there, or the rest of this would say nothing.
    assert_eq!(http(&at, &inside, &cookie(berta.expose())).body, SECRET);
    let ways_out = [
        format!("/files/y/{SECRET_NAME}"),
        format!("/files/{SECRET_NAME}"),
        format!("/files/../y/{SECRET_NAME}"),
        format!("/files/d/../../y/{SECRET_NAME}"),
        format!("/files/%2e%2e/y/{SECRET_NAME}"),
        format!("/files/%2E%2E%2Fy%2F{SECRET_NAME}"),
        format!("/files/..%2fy/{SECRET_NAME}"),
        format!("/files/%252e%252e/y/{SECRET_NAME}"),
        format!("/files/..%5cy%5c{SECRET_NAME}"),
        format!("/files/%c0%ae%c0%ae/y/{SECRET_NAME}"),
        format!("/files//y/{SECRET_NAME}"),
        format!("/files/./../y/{SECRET_NAME}"),
        format!("/files/d/f/../../../y/{SECRET_NAME}"),
        format!("/files/%00/y/{SECRET_NAME}"),
        "/files/../..".to_owned(),
        "/files/..".to_owned(),
        "/files/%2e%2e/".to_owned(),
        "/files/../../etc/passwd".to_owned(),
        "//files/../../../etc/passwd".to_owned(),
        "/api/v1/lookup?path=/../y".to_owned(),
        "/api/v1/lookup?search=zz-nobodys".to_owned(),
        "/api/v1/lookup?path=/y".to_owned(),
    ];
    let forged = {
        let (body, signature) = berta.expose().rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        cookie(&format!("{body}.{first}{}", &signature[1..]))
    };
    let unsigned = cookie(&format!("{}.", berta.expose().rsplit_once('.').unwrap().0));
    for path in &ways_out {
        // Her name is in what she asked for, and may come back in an error.
        let bare = |answer: &Answer| String::from_utf8_lossy(&answer.body).replace(path.as_str(), "");
        let outside = http(&at, path, &anna);
        assert!(!bare(&outside).contains("what berta") && !bare(&outside).contains("root:"), "{path}");
        let found = outside.status == 200 && !path.starts_with("/api/");
        // What leads to her own directory, and no higher, may be shown.
        assert!(!found || !bare(&outside).contains("\"y\""), "{path}: {outside:?}");
        assert!(!found || !path.contains(SECRET_NAME), "{path}: {outside:?}");
        for (who, header) in [("no", ""), ("a forged", &forged), ("an unsigned", &unsigned)] {
            let refused = http(&at, path, header);
            assert!([400, 401, 404].contains(&refused.status), "{path} with {who} cookie: {refused:?}");
            assert_ne!(refused.body, SECRET, "{path} with {who} cookie");
        }
    }
    for (who, header) in [("no", ""), ("a forged", &forged), ("an unsigned", &unsigned)] {
        assert_eq!(http(&at, &inside, header).status, 401, "with {who} cookie");
    }
    // What everybody may ask names nothing, at no process.
    for port in listening(&cluster.scratch) {
        for path in ["/", "/metrics", "/healthz", "/nothing"] {
            if address_is_http(cluster, &port) {
                let answer = http(&port.address, path, "");
                says_nothing(
                    &format!("{port:?} {path}"),
                    format!("{answer:?} {}", String::from_utf8_lossy(&answer.body)).as_bytes(),
                );
            }
        }
    }
    cluster.dfs(&["user", "revoke", "bertazzi"]).ok();
    assert_eq!(http(&at, &inside, &cookie(berta.expose())).status, 401, "it was revoked");
}

/// All that is neither the master's gRPC nor a data port.
fn address_is_http(cluster: &Cluster, port: &Port) -> bool {
    port.address != cluster.address()
        && (0..2).all(|index| cluster.keeper_row(index)["address"] != port.address)
}

fn from_the_mount_of_who_is_bound(cluster: &mut Cluster, whole: &Mount) {
    let token = auth::login(cluster, "annaquist");
    let anna = cluster.mount_with(&["--token-file", token.to_str().unwrap()]);
    let number = |path: &str| fs::metadata(whole.path(path)).unwrap().ino();
    let secret_path = whole.path("y").join(SECRET_NAME);
    let secret = fs::metadata(&secret_path).unwrap().ino();
    // By name.
    let above = anna.dir().parent().unwrap();
    assert_eq!(fs::canonicalize(anna.path("d/../..")).unwrap(), above);
    for (n, to) in ["../y", "../../y", "/y", "d/../../y"].iter().enumerate() {
        let link = anna.path(format!("link-{n}"));
        symlink(format!("{to}/{SECRET_NAME}"), &link).unwrap();
        assert!(fs::read(&link).is_err(), "{to}");
    }
    assert!(fs::hard_link(&secret_path, anna.path("mine")).is_err(), "a link from one mount to the other");
    // By the kernel's handle of a file, with another number in it.
    let numbers = [number("x/d/f"), secret, number("y"), number("x")].map(|n| n.to_string());
    let script = cluster.scratch.path("handles.py");
    fs::write(&script, HANDLES).unwrap();
    let point = anna.dir().to_str().unwrap();
    let ran = run_ok(&[
        "python3",
        script.to_str().unwrap(),
        point,
        &numbers[0],
        &numbers[1],
        &numbers[2],
        &numbers[3],
    ]);
    assert_eq!(ran.stdout.trim(), "its own: open; others: refused, refused, refused", "{ran:#?}");
    // By number, all that there are.
    let mut session =
        RawSession::open(cluster, Some(&auth::token(cluster, "annaquist")), pb::MountHello::default());
    // Her directory has a number, too, beside that of a root.
    let mut hers = walk(&whole.path("x"));
    hers.insert(number("x"));
    let mut seen = BTreeSet::new();
    for inode in 2..secret.max(*hers.last().unwrap()) + 20 {
        if let mount_reply::Result::Attr(_) = session.ask(Op::Getattr(pb::Getattr { inode })) {
            seen.insert(inode);
        }
        let list = Op::Readdir(pb::Readdir { inode, after: Bytes::new(), limit: 0 });
        if !hers.contains(&inode) {
            assert!(matches!(session.ask(list), mount_reply::Result::Error(_)), "{inode}");
        }
    }
    assert_eq!(seen, hers);
    let link = pb::Link { inode: secret, parent: 1, name: "mine".into() };
    assert!(matches!(session.ask(Op::Link(link)), mount_reply::Result::Error(_)));
    anna.unmount();
}

/// The numbers of all that is below a directory.
fn walk(dir: &Path) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        numbers.insert(entry.metadata().unwrap().ino());
        if entry.file_type().unwrap().is_dir() {
            numbers.extend(walk(&entry.path()));
        }
    }
    numbers
}

/// Opens a file of a mount by its handle, and tries it again with each other number in its place.
const HANDLES: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
point, own, others = sys.argv[1], int(sys.argv[2]), [int(n) for n in sys.argv[3:]]
handle, mount = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0), 136), ctypes.c_int()
if libc.name_to_handle_at(-100, (point + '/d/f').encode(), handle, ctypes.byref(mount), 0):
    sys.exit('name_to_handle_at: ' + os.strerror(ctypes.get_errno()))
size, kind = struct.unpack('=Ii', handle.raw[:8])
words = list(struct.unpack('=%dI' % (size // 4), handle.raw[8:8 + size]))
assert (words[0] << 32 | words[1]) == own, (words, own)
root = os.open(point, os.O_RDONLY)
def opened(number):
    raw = struct.pack('=Ii', size, kind) + struct.pack('=%dI' % len(words), number >> 32, number & 0xffffffff, *words[2:])
    fd = libc.open_by_handle_at(root, ctypes.create_string_buffer(raw, 136), os.O_RDONLY)
    if fd < 0 and ctypes.get_errno() not in (116, 13, 2):
        sys.exit('open_by_handle_at: ' + os.strerror(ctypes.get_errno()))
    return 'open' if fd >= 0 else 'refused'
print('its own: ' + opened(own) + '; others: ' + ', '.join(opened(n) for n in others))
"#;

/// What a client has in hand that may write a chunk, and read one.
struct InHand {
    write: pb::WriteOpen,
    read: pb::WriteOpen,
    here: String,
    elsewhere: String,
    keeper: KeeperId,
}

const CONTENT: &[u8] = b"what is stored under the ticket";

fn in_hand(cluster: &Cluster) -> InHand {
    let token = auth::token(cluster, "annaquist");
    let mut session = RawSession::open(cluster, Some(&token), pb::MountHello::default());
    let create = pb::Create { parent: 1, name: "file".into(), mode: 0o644, ..Default::default() };
    let mount_reply::Result::Attr(file) = session.ask(Op::Create(create)) else { panic!("no file") };
    let mut place = |inode| {
        let runs = vec![pb::Run { file_offset: 0, length: CONTENT.len() as u64 }];
        let alloc = pb::Alloc { inode, runs, mtime: Some(pb::Time::now()), ..Default::default() };
        let mount_reply::Result::Placed(placed) = session.ask(Op::Alloc(alloc)) else { panic!("no place") };
        placed.grant.unwrap()
    };
    let grant = place(file.inode);
    let named = &grant.keepers[0];
    let rows = [cluster.keeper_row(0), cluster.keeper_row(1)];
    let elsewhere = rows.iter().find(|row| row["keeper"].as_u64() != Some(named.keeper)).unwrap();
    let write = pb::WriteOpen { ticket: grant.ticket.clone(), mac: named.mac.clone(), ..Default::default() };
    assert_eq!(upload(cluster, &named.address, write.clone(), CONTENT), Ok(()));
    let layout = Op::Layout(pb::Layout { inode: file.inode, offset: 0, length: 1 << 20 });
    let mut source = None;
    wait_until(secs(10), "the upload is in the file", || {
        let mount_reply::Result::Layout(layout) = session.ask(layout.clone()) else { panic!("no layout") };
        source = layout.chunks.into_iter().find_map(|chunk| chunk.grant);
        source.is_some()
    });
    let source = source.unwrap();
    let same = source.keepers.iter().find(|keeper| keeper.keeper == named.keeper).unwrap();
    let read = pb::WriteOpen { ticket: source.ticket.clone(), mac: same.mac.clone(), ..Default::default() };
    InHand {
        write,
        read,
        here: named.address.clone(),
        elsewhere: elsewhere["address"].as_str().unwrap().to_owned(),
        keeper: KeeperId(named.keeper),
    }
}

fn tickets(cluster: &mut Cluster) {
    let InHand { write, read: to_read, here, elsewhere, keeper } = in_hand(cluster);
    let read_with =
        |at: &str, open: &pb::WriteOpen| read(cluster, at, &open.ticket, &open.mac, CONTENT.len());
    assert_eq!(read_with(&here, &to_read), Ok(()));
    assert_eq!(upload(cluster, &here, write.clone(), CONTENT), Err(ErrorCode::TicketUsed), "replayed");
    assert_eq!(upload(cluster, &here, to_read.clone(), CONTENT), Err(ErrorCode::TicketWrong), "to read");
    assert_eq!(read_with(&here, &write), Err(ErrorCode::TicketWrong), "to write");
    assert_eq!(read_with(&elsewhere, &to_read), Err(ErrorCode::TicketForged), "another keeper");
    assert_eq!(
        upload(cluster, &elsewhere, write.clone(), CONTENT),
        Err(ErrorCode::TicketForged),
        "another keeper"
    );
    for (field, ticket) in altered_in_each_field(&write.ticket) {
        let open = pb::WriteOpen { ticket, ..write.clone() };
        assert_eq!(upload(cluster, &here, open, CONTENT), Err(ErrorCode::TicketForged), "{field}");
    }
    for (field, ticket) in altered_in_each_field(&to_read.ticket) {
        let open = pb::WriteOpen { ticket, ..to_read.clone() };
        assert_eq!(read_with(&here, &open), Err(ErrorCode::TicketForged), "{field}");
    }
    // Expired: signed with the right key, which the store of the master has. Keepers go on without it for a while.
    cluster.master.kill();
    let mut store = JournaledStore::open(DataDir::open(&cluster.scratch.path("master")).unwrap()).unwrap();
    let secret = store.snapshot().unwrap().identity().unwrap().secret;
    let key = TicketKey::derive(&secret, keeper);
    assert_eq!(key.sign(&write.ticket), write.mac, "the key is the right one");
    let expires_in = |open: &pb::WriteOpen, seconds: i64| {
        let ticket = pb::Ticket::decode(&open.ticket[..]).unwrap();
        let expires_ms = (pb::Time::now().sec + seconds) * 1000;
        let nonce = ticket.nonce ^ seconds as u64;
        let ticket: Bytes = pb::Ticket { expires_ms, nonce, ..ticket }.encode_to_vec().into();
        pb::WriteOpen { mac: key.sign(&ticket), ticket, ..open.clone() }
    };
    let read_with = |open: &pb::WriteOpen| read(cluster, &here, &open.ticket, &open.mac, CONTENT.len());
    assert_eq!(read_with(&expires_in(&to_read, 60)), Ok(()), "it is the time alone");
    assert_eq!(read_with(&expires_in(&to_read, -5)), Err(ErrorCode::TicketExpired));
    let late = expires_in(&write, -5);
    assert_eq!(upload(cluster, &here, late, CONTENT), Err(ErrorCode::TicketExpired));
}

#[test]
fn another_user_of_the_machine_gets_nothing_out_of_an_embedded_cluster() {
    require_root();
    let scratch = Scratch::new();
    let (point, data) = (scratch.path("mnt/dfs"), scratch.path("data"));
    let mut command = scratch.command("dfs-mount");
    command.args(HTTP).arg("--data").arg(&data).arg(&point);
    run(&mut command, secs(60)).ok();
    fs::write(point.join(SECRET_NAME), SECRET).unwrap();
    let master = fs::read_to_string(data.join("master/address")).unwrap().trim().to_owned();
    let ran = run(scratch.command("dfs").args(["--master", &master, "--json", "keepers"]), secs(20)).ok();
    let keepers: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut table = vec![row("dfs-mount", &master, Speaks::Grpc)];
    for keeper in keepers.as_array().unwrap() {
        table.push(row("dfs-mount", keeper["address"].as_str().unwrap(), Speaks::Data));
    }
    let known: BTreeSet<Port> = table.iter().map(|row| row.port.clone()).collect();
    let found = listening(&scratch);
    let more: Vec<&Port> = found.difference(&known).collect();
    // The one that is left has to be HTTP: it answers below.
    assert_eq!((known.difference(&found).count(), more.len()), (0, 1), "{found:?}");
    table.push(row("dfs-mount", &more[0].address, Speaks::Http));
    assert_eq!(http(&more[0].address, "/metrics", "").status, 200);

    let garbage = scratch.path("garbage");
    fs::write(&garbage, dfs_tests::Rng::new(7).bytes(3000)).unwrap();
    let asks = scratch.path("asks");
    fs::write(&asks, format!("GET /files/{SECRET_NAME} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        .unwrap();
    let script = r#"exec 3<>"/dev/tcp/127.0.0.1/$1"; cat "$2" >&3; timeout 25 cat <&3; [ $? != 124 ]"#;
    for row in &table {
        let number = row.port.address.strip_prefix("127.0.0.1:").expect("it is on loopback alone");
        for file in [&garbage, &asks] {
            let mut command = scratch.program("setpriv");
            command.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "bash",
                "-c",
                script,
                "bash",
                number,
            ]);
            let ran = run(command.arg(file), secs(40)).ok();
            says_nothing(
                &format!("{:?} {}", row.port, file.display()),
                ran.stdout.replace(&format!("/files/{SECRET_NAME}"), "").as_bytes(),
            );
            if row.speaks == Speaks::Http {
                assert!(ran.stdout.starts_with("HTTP/1.1 4"), "{ran:#?}");
            }
        }
    }
    unmount(&point);
    wait_until(secs(35), "dfs-mount has ended", || scratch.pids("dfs-mount").is_empty());
}
