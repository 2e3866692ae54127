//! What programs on a mount see while the master is away, and when it is back.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, mount, wait_for, wait_until};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// In the time that the issue grants, and a busy machine needs.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// A program on the mount that is ready for its one line of input, and then does what it is to do.
struct Program {
    what: String,
    child: Child,
}

impl Program {
    /// A script that gets the mount as `$1`, and calls `go` where the master goes.
    fn start(what: &str, script: &str, dir: &Path) -> Program {
        let script = format!("go() {{ echo ready; read -r _ || true; }}\n{script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(dir);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{what}");
        Program { what: what.to_owned(), child }
    }

    fn go(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }

    #[track_caller]
    fn still_waits(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} did not wait for the master: {ended:?}", self.what);
    }

    #[track_caller]
    fn ends_by(&mut self, signal: Signal) {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        wait_for(secs(20), &format!("{} ends by {signal:?}", self.what), || self.child.try_wait().unwrap());
        let took = begun.elapsed();
        println!("{}: ended {took:?} after {signal:?}", self.what);
        assert!(took < AT_ONCE, "{}: ended {took:?} after {signal:?}", self.what);
    }
}

/// Each asks for something of another kind. The last command of each replaces the shell, so that it gets the signal.
const WAITING: [(&str, &str); 12] = [
    ("lookup", r#"go; exec stat "$1/missing""#),
    ("readdir", r#"go; exec ls "$1/other""#),
    ("open", r#"go; exec cat "$1/file""#),
    ("create", r#"go; exec touch "$1/dir1/new""#),
    ("mkdir", r#"go; exec mkdir "$1/dir2/new""#),
    ("rename", r#"go; exec mv -T "$1/dir3" "$1/dir3b""#),
    ("unlink", r#"go; exec rm -f "$1/dir4/file""#),
    ("statfs", r#"go; exec df "$1/dir5""#),
    ("write", r#"exec 3>"$1/dir6/full"; go; exec head -c 100M /dev/zero >&3"#),
    ("fsync", r#"exec 3>"$1/dir7/sync"; go; exec dd if=/dev/zero bs=1k count=1 conv=fsync >&3"#),
    ("close", r#"exec 3>"$1/dir8/close"; go; echo x >&3; exit"#),
    ("truncate", r#"go; exec truncate -s 5 "$1/dir9/file""#),
];

fn prepare(mount: &Mount) {
    fs::create_dir(mount.path("other")).unwrap();
    fs::write(mount.path("file"), "text").unwrap();
    for n in 1..10 {
        fs::create_dir(mount.path(format!("dir{n}"))).unwrap();
        fs::write(mount.path(format!("dir{n}/file")), "text").unwrap();
    }
}

fn programs_can_be_ended(signal: Signal) {
    let mut cluster = Cluster::builder().keepers(2).start();
    let mount = cluster.mount_with(&["--write-buffer", "4MiB"]);
    prepare(&mount);
    let mut programs: Vec<Program> =
        WAITING.iter().map(|(what, script)| Program::start(what, script, mount.dir())).collect();
    // One that waits for nothing of ours, and has something to lose.
    let script = r#"exec 3>"$1/idle"; go; exec tail -f -n +1 /etc/passwd >&3"#;
    let mut idle = Program::start("exit", script, mount.dir());
    cluster.master.kill();
    programs.iter_mut().for_each(Program::go);
    idle.go();
    std::thread::sleep(secs(1));
    for program in &mut programs {
        program.still_waits();
        // dd handles SIGINT, and then closes its file, which waits anew.
        let dd = program.what == "fsync";
        program.ends_by(if dd { Signal::KILL } else { signal });
    }
    idle.ends_by(signal);
    // And the mount is as good as before.
    cluster.restart_master();
    wait_until(secs(20), "the mount answers", || mount.path("file").exists());
    fs::write(mount.path("after"), "fine").unwrap();
    assert_eq!(fs::read_to_string(mount.path("after")).unwrap(), "fine");
    wait_until(secs(5), "no name is known that is not there", || {
        let names =
            |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        names(&mount.path("dir1")).iter().chain(&names(&mount.path("dir2"))).all(|path| path.exists())
    });
    mount.unmount();
}

#[test]
fn who_waits_for_the_master_can_be_interrupted() {
    programs_can_be_ended(Signal::INT);
}

#[test]
fn who_waits_for_the_master_can_be_killed() {
    programs_can_be_ended(Signal::KILL);
}

#[test]
fn who_waits_for_the_master_gets_an_error_after_the_time_that_was_set() {
    let mut cluster = Cluster::builder().keepers(1).start();
    let mount = cluster.mount_with(&["-o", "master_timeout=2s"]);
    fs::write(mount.path("file"), "text").unwrap();
    let mut open = File::options().append(true).open(mount.path("file")).unwrap();
    open.write_all(b" ").unwrap();
    cluster.master.kill();
    let timed_out = |what: &str, work: &dyn Fn() -> std::io::Result<()>| {
        let begun = Instant::now();
        let error = work().expect_err(what);
        println!("{what}: {error} after {:?}", begun.elapsed());
        let errno = error.raw_os_error();
        assert!(
            errno == Some(Errno::TIMEDOUT.raw_os_error()) || errno == Some(Errno::IO.raw_os_error()),
            "{what}: {error}"
        );
        assert!((secs(1)..secs(8)).contains(&begun.elapsed()), "{what}: {:?}", begun.elapsed());
    };
    timed_out("open", &|| fs::read(mount.path("file")).map(drop));
    timed_out("mkdir", &|| fs::create_dir(mount.path("dir")));
    cluster.restart_master();
    wait_until(secs(20), "the mount answers", || mount.path("file").exists());
    drop(open);
    mount.unmount();
}

#[test]
fn with_the_master_gone_for_good_a_mount_ends_in_time_and_says_what_is_lost() {
    let mut cluster = Cluster::builder().keepers(2).start();
    let flags = ["-o", "master_timeout=3s"];
    let (mut told, mut unmounted) = (cluster.mount_with(&flags), cluster.mount_with(&flags));
    fs::write(told.path("file"), "text").unwrap();
    let script = r#"exec 3<>"$1/file"; go; echo more >&3; echo written; exec sleep 1000"#;
    let mut writer = Program::start("writer", script, told.dir());
    cluster.master.kill();
    writer.go();
    let mut line = String::new();
    BufReader::new(writer.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();

    let begun = Instant::now();
    told.process.signal(Signal::TERM);
    let status = told.process.wait_exit(secs(50));
    println!("ended {:?} after SIGTERM", begun.elapsed());
    assert!(!status.success(), "something was lost");
    assert!(told.process.log().contains("lost: bytes that were written"), "{}", told.process.log());
    assert!(mount::mounted(told.dir()).is_none(), "a dead mount is left");

    let begun = Instant::now();
    mount::unmount(unmounted.dir());
    assert!(unmounted.process.wait_exit(secs(50)).success(), "nothing was lost");
    println!("unmounted {:?} after umount", begun.elapsed());
    assert!(begun.elapsed() < secs(60), "not within a minute");
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
}
