//! Programs as a machine's owner meets them: settings files, the service manager, the Debian package.
//!
//! Covers: a flag wins over the environment, that over the file; what is wrong in a file is named; readiness and end are told to the
//! service manager by master, keeper and mount; the package has programs that run, a page with every flag, completions that
//! the shell takes, units that systemd takes, settings that the programs take, and the helper of mount(8).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use dfs_tests::process::binary_dir;
use dfs_tests::wait::secs;
use dfs_tests::{Process, Scratch, require_root, run, wait_for, wait_until};
use rustix::process::Signal;

fn config(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = scratch.path(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let scratch = Scratch::new();
    let data = |name: &str| scratch.path(name);
    let text = format!("data = '{}'\nlisten = '127.0.0.1:0'\n", data("of-file").display());
    let file = config(&scratch, "master.toml", &text);
    for (variable, flag, used) in [
        (None, None, "of-file"),
        (Some("of-variable"), None, "of-variable"),
        (Some("unused"), Some("of-flag"), "of-flag"),
    ] {
        let mut command = scratch.command("dfs-master");
        command.env("DFS_CONFIG", &file);
        if let Some(name) = variable {
            command.env("DFS_DATA", data(name));
        }
        if let Some(name) = flag {
            command.arg("--data").arg(data(name));
        }
        let mut child = command.spawn().unwrap();
        wait_until(secs(20), used, || data(used).join("address").exists());
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }
    assert!(!data("unused").exists());
}

#[test]
fn what_is_wrong_in_a_file_stops_the_program_and_is_named() {
    let scratch = Scratch::new();
    let file = config(&scratch, "wrong.toml", "mastre = 'h:1'\n");
    for program in ["dfs-master", "dfs-keeper", "dfs-mount", "dfs"] {
        let ran = run(scratch.command(program).arg("--config").arg(&file).arg("x"), secs(20));
        assert_eq!(ran.status.code(), Some(2), "{program}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("wrong.toml") && ran.stderr.contains("'mastre'"),
            "{program}: {}",
            ran.stderr
        );
    }
}

/// The next thing that is said to the service manager.
fn said(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let read = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[test]
fn the_service_manager_hears_when_each_is_ready_and_when_it_ends() {
    require_root();
    let scratch = Scratch::new();
    let socket = UnixDatagram::bind(scratch.path("notify")).unwrap();
    socket.set_read_timeout(Some(secs(30))).unwrap();
    let notify = scratch.path("notify");
    let start = |name: &str, args: Vec<String>| {
        let command = {
            let (program, notify) = (binary_dir().join(name), notify.clone());
            let environment = scratch.environment();
            move || {
                let mut command = Command::new(&program);
                for (name, value) in &environment {
                    match value {
                        Some(value) => command.env(name, value),
                        None => command.env_remove(name),
                    };
                }
                command.env("NOTIFY_SOCKET", &notify).args(&args);
                command
            }
        };
        let process = Process::start(&scratch, name, command);
        let ready = said(&socket);
        assert!(ready.contains("READY=1") && ready.contains("STATUS="), "{name}: {ready}");
        process
    };
    let path = |name: &str| scratch.path(name).display().to_string();
    let master =
        start("dfs-master", vec!["--listen=127.0.0.1:0".into(), format!("--data={}", path("master"))]);
    let address = fs::read_to_string(scratch.path("master").join("address")).unwrap().trim().to_owned();
    let keeper =
        start("dfs-keeper", vec![format!("--master={address}"), format!("--data={}", path("keeper"))]);
    let mount = start("dfs-mount", vec!["-f".into(), format!("--master={address}"), path("mnt")]);
    fs::write(scratch.path("mnt").join("f"), "usable when it says so").unwrap();
    for mut process in [mount, keeper, master] {
        process.signal(Signal::TERM);
        assert!(said(&socket).contains("STOPPING=1"));
        wait_until(secs(20), "its end", || !process.is_running());
    }
}

fn output(command: &mut Command) -> String {
    run(command, secs(120)).ok().stdout
}

fn package(scratch: &Scratch) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/deb.sh");
    run(Command::new(script).arg(binary_dir()).arg(scratch.dir()), secs(240)).ok();
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let deb =
        fs::read_dir(scratch.dir()).unwrap().map(|entry| entry.unwrap().path()).find(is_package).unwrap();
    let root = scratch.path("root");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root), secs(60)).ok();
    let fields = output(Command::new("dpkg-deb").arg("--field").arg(&deb));
    assert!(fields.contains("Package: dfs") && fields.contains("Version: 0."), "{fields}");
    let files = output(Command::new("dpkg-deb").arg("--contents").arg(&deb));
    assert!(files.lines().all(|line| line.contains(" root/root ")), "{files}");
    root
}

#[test]
fn the_package_has_all_that_a_machine_needs() {
    let scratch = Scratch::new();
    let root = package(&scratch);
    for program in ["dfs", "dfs-master", "dfs-keeper", "dfs-mount"] {
        let path = root.join("usr/bin").join(program);
        let help = output(Command::new(&path).arg("--help"));
        let page = root.join(format!("usr/share/man/man1/{program}.1.gz"));
        let page = output(Command::new("zcat").arg(page)).replace("\\-", "-");
        let flags: Vec<&str> =
            help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 3).collect();
        let flags = flags.iter().map(|flag| flag.trim_end_matches([',', '.', ']', ')', ';', '\'']));
        let missing: Vec<&str> = flags.filter(|flag| !page.contains(flag)).collect();
        assert!(missing.is_empty(), "{program}.1 lacks {missing:?}");
        let completion = root.join("usr/share/bash-completion/completions").join(program);
        run(Command::new("bash").arg("-n").arg(completion), secs(20)).ok();
        assert!(root.join(format!("usr/share/zsh/vendor-completions/_{program}")).is_file());
        assert!(root.join(format!("usr/share/fish/vendor_completions.d/{program}.fish")).is_file());
    }
    assert_eq!(fs::read_link(root.join("usr/sbin/mount.fuse.dfs")).unwrap(), Path::new("../bin/dfs-mount"));
    takes_its_settings(&scratch, &root);
    units_are_right(&root);
}

/// With each line that is commented out as an example.
fn takes_its_settings(scratch: &Scratch, root: &Path) {
    for (file, program) in [
        ("master.toml", "dfs-master"),
        ("keeper.toml.example", "dfs-keeper"),
        ("mount.toml", "dfs-mount"),
        ("dfs.toml", "dfs"),
    ] {
        let text = fs::read_to_string(root.join("etc/dfs").join(file)).unwrap();
        let line = |line: &str| {
            line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned()
        };
        let all: String = text.lines().map(|text| line(text) + "\n").collect();
        assert!(all.lines().any(|line| !line.is_empty() && !line.starts_with('#')), "{file}");
        let all = config(scratch, "all.toml", &all);
        for settings in [root.join("etc/dfs").join(file), all] {
            run(
                Command::new(root.join("usr/bin").join(program))
                    .arg("--config")
                    .arg(settings)
                    .arg("--version"),
                secs(20),
            )
            .ok();
        }
    }
}

fn units_are_right(root: &Path) {
    let units = root.join("usr/lib/systemd/system");
    let names: Vec<String> = fs::read_dir(&units)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        let text = fs::read_to_string(units.join(name)).unwrap();
        assert!(text.contains("Type=notify"), "{name}");
        let program = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let program = program.split_whitespace().next().unwrap().trim_start_matches('/');
        assert!(root.join(program).is_file(), "{name}: {program}");
    }
    let analyze =
        wait_for(secs(5), "systemd-analyze, or its absence", || Some(Path::new("/usr/bin/systemd-analyze")));
    if !analyze.exists() {
        eprintln!("systemd-analyze is not here: units are not verified");
        return;
    }
    // An instance of each template, in a tree that has the programs.
    for instance in ["dfs-master.service", "dfs-keeper@one.service", "dfs-mount@mnt-dfs.service"] {
        let ran = run(
            Command::new(analyze)
                .args(["verify", "--man=no", "--generators=no", "--recursive-errors=no"])
                .arg(format!("--root={}", root.display()))
                .arg(instance),
            secs(60),
        );
        let wrong: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("dfs-")).collect();
        assert!(wrong.is_empty() && ran.status.success(), "{instance}: {}", ran.stderr);
    }
}
