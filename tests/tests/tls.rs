//! TLS from the outside: who gets in with which certificate, and what everybody else is told.
//!
//! Covers: upload and film read over an encrypted cluster; a client without TLS at a port with it, and the other way
//! round; another CA; a keeper without a certificate, with the master's, and with another CA's; what expired and what
//! others can read is refused at the start; what a wire sees of file bytes, with TLS for all and for control alone; a
//! data-port client without TLS; keepers of both kinds among each other; an impostor at a keeper's port; a login without TLS says no password to a port with it, nor to another machine; whoever trickles; a keeper that passes
//! for the master; a keeper without TLS that others can reach needs somebody's word.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dfs_proto::frame::{self, HEADER_LEN, Header, Kind};
use dfs_proto::pb;
use dfs_proto::pb::keeper_service_client::KeeperServiceClient;
use dfs_tests::process::binary;
use dfs_tests::wait::secs;
use dfs_tests::wire::over_tls;
use dfs_tests::{Cluster, Ran, Scratch, film, run, run_ok, wait_until};
use dfs_tls::{Protocol, Role, TlsDir, grpc};
use prost::Message;
use tonic::Code;
use tonic::transport::Endpoint;

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

/// Passes what one client says on to `master`, and keeps a copy of it.
fn overheard(master: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (heard, master) = (Arc::<Mutex<Vec<u8>>>::default(), master.to_owned());
    let hears = heard.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, hears) = (client.unwrap(), hears.clone());
            let mut server = TcpStream::connect(&master).unwrap();
            let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(n @ 1..) = client.read(&mut piece) {
                    hears.lock().unwrap().extend_from_slice(&piece[..n]);
                    if server.write_all(&piece[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heard)
}

#[test]
fn a_password_is_said_to_nobody_who_has_not_answered_in_the_right_way() {
    const PASSWORD: &str = "never-to-be-overheard";
    let scratch = Scratch::new();
    let file = scratch.path("password");
    dfs_proto::token_file::write(&file, &dfs_proto::secret::Secret::new(PASSWORD)).unwrap();
    let file = file.to_str().unwrap();
    let login = |address: &str| {
        let token = scratch.path("token");
        let token = token.to_str().unwrap();
        program(
            "dfs",
            &["--master", address, "--token-file", token, "login", "anna", "--password-file", file],
        )
    };
    let has = |heard: &Mutex<Vec<u8>>| {
        let heard = heard.lock().unwrap();
        assert!(!heard.is_empty(), "nobody called");
        heard.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
    };
    let encrypted = Cluster::builder().keepers(0).tls().start();
    let (address, heard) = overheard(encrypted.address());
    login(&address).one_line_error("dfs", &["TLS", "--tls-dir"]);
    assert!(!has(&heard), "the password was said to a port with TLS, in plain text");
    // What the wire would have shown: where nothing is encrypted, on this machine alone, it is said.
    let plain = Cluster::builder().keepers(0).master_flags(&["--auth", "on"]).start();
    let (address, heard) = overheard(plain.address());
    login(&address).one_line_error("dfs", &["wrong user name or password"]);
    assert!(has(&heard));
    // To another machine it is not, whoever is there.
    login("192.0.2.1:9").one_line_error("dfs", &["unencrypted", "--tls-dir", "--insecure"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_cannot_pass_for_the_master() {
    let scratch = Scratch::new();
    let tls = scratch.path("tls");
    init(&tls);
    let acceptor = TlsDir::load(&tls.join("keeper"), Some(Role::Keeper)).unwrap();
    let acceptor = acceptor.acceptor(Protocol::Control).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let impostor = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            assert!(acceptor.accept(stream).await.is_err(), "somebody believed it");
        }
    });
    let client = tls.join("client");
    tokio::task::block_in_place(|| told(&address, Some(&client), &["no master's"]));
    assert!(!impostor.is_finished());
    impostor.abort();
}

/// The first bytes that the data port of keeper `index` answers these bytes with, up to its end.
fn answer(cluster: &Cluster, index: usize, bytes: &[u8]) -> Vec<u8> {
    let address = cluster.keeper_row(index)["address"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(secs(15))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut got = Vec::new();
    // A reset ends it, too.
    let _ = stream.read_to_end(&mut got);
    got
}

#[test]
fn the_data_port_speaks_tls_alone_and_says_so() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).tls().start();
    let mount = cluster.mount();
    let secret = b"nobody on the network reads this".repeat(1000);
    fs::write(mount.path("file"), &secret).unwrap();
    // A request as it is without TLS is refused before it is looked at; so are other bytes.
    let request = frame::encode(Kind::Read, 1, &pb::ReadRequest::default(), 0);
    let got = answer(&cluster, 0, &request);
    let header = Header::decode(got[..HEADER_LEN].try_into().unwrap()).unwrap();
    assert_eq!(header.kind, Kind::Error);
    let error = pb::Error::decode(&got[HEADER_LEN..HEADER_LEN + header.meta_len]).unwrap();
    assert!(error.message.contains("speaks TLS alone"), "{error:?}");
    answer(&cluster, 0, &[7; 1000]);
    // A handshake that never ends holds nobody up, and is cut off.
    answer(&cluster, 0, &[0x16, 3, 1, 2, 0, 1]);
    let other = cluster.mount();
    assert_eq!(fs::read(other.path("file")).unwrap(), secret);
}

/// Sends a byte each fifth of a second; how long until the peer closes.
fn closed_while_trickling(mut stream: &TcpStream, bytes: &[u8]) -> Duration {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let begun = Instant::now();
    for byte in bytes {
        let sent = stream.write_all(&[*byte]);
        let closed = match stream.read(&mut [0; 4096]) {
            Ok(n) => n == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        if sent.is_err() || closed || begun.elapsed() > secs(20) {
            break;
        }
    }
    begun.elapsed()
}

#[test]
fn whoever_trickles_is_cut_off_in_the_handshake_and_after_it() {
    let cluster = Cluster::builder().keepers(1).tls().start();
    let address = cluster.keeper_row(0)["address"].as_str().unwrap().to_owned();
    let connector = TlsDir::load(&cluster.tls_dir("client"), None).unwrap().to_keepers().unwrap();
    let in_handshake = std::thread::spawn({
        let address = address.clone();
        move || {
            let hello = [&[0x16, 3, 1, 2, 0][..], &[1; 500]].concat();
            closed_while_trickling(&TcpStream::connect(address).unwrap(), &hello)
        }
    });
    let mut session = connector.session(&address).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut stream).unwrap();
    }
    let record = [&[0x17, 3, 3, 2, 0][..], &[1; 500]].concat();
    let after = closed_while_trickling(&stream, &record);
    let within = in_handshake.join().unwrap();
    println!("closed after {within:?} in the handshake, {after:?} after it");
    // Ten seconds as promised, and room for a busy machine.
    assert!(within < secs(13) && after < secs(13), "{within:?} {after:?}");
}

/// Do the first connections between two processes carry these bytes as they are? Looks at what a relay between a mount and a
/// keeper sees.
fn seen_on_the_wire(tls_for: &str, content: &[u8]) -> bool {
    let mut cluster = Cluster::builder().keepers(0).copies(1).min_copies(1).tls().start();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = relay.local_addr().unwrap().to_string();
    let keeper = cluster.add_keeper_with(&["--advertise", &at, "--tls", tls_for]);
    let log = cluster.keeper(keeper).log();
    let port = log.split("data port ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let all = seen.clone();
    std::thread::spawn(move || {
        for near in relay.incoming().flatten() {
            let far = TcpStream::connect(&port).unwrap();
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let all = all.clone();
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        all.lock().unwrap().extend_from_slice(&buffer[..n]);
                        if to.write_all(&buffer[..n]).is_err() {
                            return;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    let mount = cluster.mount();
    fs::write(mount.path("file"), content).unwrap();
    let other = cluster.mount();
    assert_eq!(fs::read(other.path("file")).unwrap(), content);
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 2 * content.len(), "the relay was gone round");
    seen.windows(content.len()).any(|bytes| bytes == content)
}

#[test]
fn bytes_travel_as_they_are_only_where_tls_is_for_control_alone() {
    let content = b"what a wire has seen ".repeat(50);
    assert!(!seen_on_the_wire("all", &content));
    assert!(seen_on_the_wire("control", &content));
}

#[test]
fn keepers_of_both_kinds_copy_to_each_other() {
    let mut cluster = Cluster::builder().keepers(0).copies(3).min_copies(3).tls().start();
    for tls_for in ["all", "control", "all"] {
        cluster.add_keeper_with(&["--tls", tls_for]);
    }
    let mount = cluster.mount();
    run_ok(&[Path::new("cp"), &film::small(), &mount.path("movie.mp4")]);
    // Without the relays there would be copies too, later: the master ordered none.
    assert!(cluster.live_copies("/movie.mp4").iter().all(|(_, live)| *live == 3));
    for index in 0..3 {
        let log = cluster.keeper(index).log();
        assert!(!log.contains("goes on without the companion"), "{log}");
    }
    // A copy is made anew, by a push.
    cluster.keeper(1).kill();
    let index = cluster.add_keeper_with(&[]);
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    wait_until(secs(60), "copies are made on the new keeper", || !cluster.chunk_files(index).is_empty());
}

#[test]
fn a_keeper_of_another_ca_gets_no_bytes() {
    // Its master lets it in, as only its own certificate is another one: the CA of the cluster was made anew.
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).tls().start();
    let other = cluster.scratch.path("other");
    init(&other);
    let mount = cluster.mount();
    fs::write(mount.path("before"), "x").unwrap();
    // A mount that trusts another CA for keepers trusts it for masters, too, so what is left to try is an impostor at the
    // keeper's address: a port that shows another CA's certificate.
    let address = cluster.keeper_row(0)["address"].as_str().unwrap().to_owned();
    cluster.keeper(0).stop();
    cluster.keeper(0).kill();
    let listener = TcpListener::bind(&address).unwrap();
    let acceptor = TlsDir::load(&other.join("keeper"), Some(Role::Keeper)).unwrap();
    let acceptor = acceptor.acceptor(Protocol::Data).unwrap();
    let believed = Arc::new(AtomicBool::new(false));
    let seen = believed.clone();
    let came = Arc::new(AtomicBool::new(false));
    let there = came.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            there.store(true, Ordering::SeqCst);
            let mut session = acceptor.session().unwrap();
            if session.complete_io(&mut stream).is_ok() && !session.is_handshaking() {
                seen.store(true, Ordering::SeqCst);
            }
        }
    });
    // The layout is asked for while the keeper still counts as live.
    let other_mount = cluster.mount();
    let error = fs::read(other_mount.path("before")).unwrap_err();
    println!("{error}");
    assert!(came.load(Ordering::SeqCst), "nobody came");
    assert!(!believed.load(Ordering::SeqCst), "somebody believed it");
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

/// How the master answers who wants to be a keeper, and shows what is in this directory, whatever it is.
async fn as_keeper(cluster: &Cluster, shows: Option<(&Path, Role)>) -> Code {
    let dir = cluster.tls_dir("client");
    let (dir, role) = shows.map_or((dir.as_path(), None), |(dir, role)| (dir, Some(role)));
    let connector = TlsDir::load(dir, role).unwrap().to_master().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address())).unwrap();
    let channel = grpc::connect(&endpoint, cluster.address(), &connector).await.unwrap();
    let mut client = KeeperServiceClient::new(channel);
    let (_up, messages) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    // Nobody says anything, so one who is let in waits for his hello.
    match tokio::time::timeout(secs(3), client.session(stream)).await {
        Ok(answer) => answer.map_or_else(|status| status.code(), |_| Code::Ok),
        Err(_) => Code::Ok,
    }
}

#[tokio::test]
async fn the_master_itself_looks_at_what_a_keeper_shows() {
    let cluster = Cluster::builder().keepers(0).tls().start();
    let (master, keeper) = (cluster.tls_dir("master"), cluster.tls_dir("keeper"));
    assert_eq!(as_keeper(&cluster, None).await, Code::PermissionDenied);
    assert_eq!(as_keeper(&cluster, Some((&master, Role::Master))).await, Code::PermissionDenied);
    assert_eq!(as_keeper(&cluster, Some((&keeper, Role::Keeper))).await, Code::Ok);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_in_the_handshake() {
    let cluster = Cluster::builder().keepers(0).tls().start();
    let other = cluster.scratch.path("other");
    init(&other);
    let hand = |shown: &Path| {
        let mut stream = over_tls(cluster.address(), &cluster.tls_dir("ca.pem"), Some(shown));
        // The handshake's end is behind the first bytes that are read: HTTP/2 begins with the server's settings.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        stream.read_exact(&mut [0; 9])
    };
    assert!(hand(&cluster.tls_dir("keeper")).is_ok());
    let refused = hand(&other.join("keeper")).unwrap_err();
    // Two CAs of ours have the same name, so that it is the signature that is wrong.
    assert!(refused.to_string().contains("DecryptError"), "{refused}");
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

#[test]
fn a_keeper_without_tls_is_open_to_others_only_by_somebodys_word() {
    let mut cluster = Cluster::builder().keepers(0).start();
    let data = cluster.scratch.path("intruder");
    let args = ["--data", data.to_str().unwrap(), "--master", cluster.address(), "--listen", "0.0.0.0:0"];
    program("dfs-keeper", &args).one_line_error("dfs-keeper", &["0.0.0.0:0", "--tls-dir", "--insecure"]);
    assert!(!data.exists(), "something was made before the flags were looked at");
    let keeper = cluster.add_keeper_with(&["--listen", "0.0.0.0:0", "--host", "127.0.0.1", "--insecure"]);
    let log = cluster.keeper(keeper).log();
    assert!(log.contains("--insecure: there is no TLS"), "{log}");
}
