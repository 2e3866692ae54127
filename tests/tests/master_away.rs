//! What programs on a mount see while the master is away, and when it is back.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, mount, wait_for, wait_until};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// In the time that the issue grants, and a busy machine needs.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// A program on the mount that is ready for its one line of input, and then does what it is to do. It ends with this.
struct Program {
    what: String,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// A script that gets the mount as `$1`, and calls `go` where the master goes.
    fn start(what: &str, script: &str, dir: &Path) -> Program {
        Program::start_with(what, script, &[dir.as_os_str()])
    }

    fn start_with(what: &str, script: &str, args: &[&OsStr]) -> Program {
        let script = format!("go() {{ echo ready; read -r _ || true; }}\n{script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Program { what: what.to_owned(), child, output };
        assert_eq!(program.says(), "ready\n", "{what}");
        program
    }

    /// The next line that it writes.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with(['S', 'D']))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
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
        self.signal(signal);
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

/// Makes the call `$2` in the directory `$1` past Python, which would make it again after EINTR; handles the signal `$3`, as
/// sigaction(2) does without SA_RESTART. Says how the call ended and how often the signal came.
const CALLER: &str = r#"
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
handled = []
signal.signal(getattr(signal, sys.argv[3]), lambda *_: handled.append(1))
path = lambda name: os.path.join(sys.argv[1], name).encode()
file = os.open(path('file'), os.O_RDWR)
os.write(file, b'more')
calls = {
    'mkdir': lambda: libc.mkdir(path('made'), 0o755),
    'open': lambda: libc.open(path('other'), os.O_RDONLY),
    'fsync': lambda: libc.fsync(file),
}
print('ready', flush=True)
sys.stdin.readline()
print('calling', flush=True)
result = calls[sys.argv[2]]()
print('done' if result >= 0 else errno.errorcode[ctypes.get_errno()], len(handled), flush=True)
os._exit(0)
"#;

/// In a directory of its own: who waits for a lock that another one holds is not heard.
fn caller(mount: &Mount, call: &str, signal: &str) -> Program {
    let dir = mount.path(format!("{call}-{signal}"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "text").unwrap();
    fs::write(dir.join("other"), "text").unwrap();
    let script = format!("exec python3 -c \"$2\" \"$1\" {call} {signal}");
    Program::start_with(&format!("{call}, {signal}"), &script, &[dir.as_os_str(), CALLER.as_ref()])
}

// SEMANTICS.md, "When something is away": "gets EINTR for them while the master is away, and waits on otherwise".
#[test]
fn who_handles_a_signal_gets_eintr_when_it_asks_to_end_and_waits_on_otherwise() {
    let mut cluster = Cluster::builder().keepers(2).start();
    let mount = cluster.mount();
    let calls = ["mkdir", "open", "fsync"];
    let mut asked: Vec<_> = [("SIGINT", Signal::INT), ("SIGTERM", Signal::TERM), ("SIGHUP", Signal::HUP)]
        .iter()
        .flat_map(|(name, signal)| calls.map(|call| (*signal, caller(&mount, call, name))))
        .collect();
    let mut others = calls.map(|call| caller(&mount, call, "SIGALRM"));
    cluster.master.stop();
    wait_until(secs(10), "the mount notices", || {
        mount.process.log().contains("session with the master lost")
    });
    asked.iter_mut().for_each(|(_, program)| program.go());
    others.iter_mut().for_each(Program::go);
    for program in asked.iter_mut().map(|(_, program)| program).chain(&mut others) {
        assert_eq!(program.says(), "calling\n", "{}", program.what);
        wait_until(secs(10), "it waits in the call", || program.sleeps());
    }

    for program in &mut others {
        program.signal(Signal::ALARM);
    }
    for (signal, program) in &mut asked {
        program.still_waits();
        let begun = Instant::now();
        program.signal(*signal);
        assert_eq!(program.says(), "EINTR 1\n", "{}", program.what);
        println!("{}: EINTR {:?} after it", program.what, begun.elapsed());
        assert!(begun.elapsed() < AT_ONCE, "{}: {:?}", program.what, begun.elapsed());
    }
    // They had at least as long.
    others.iter_mut().for_each(Program::still_waits);
    cluster.master.cont();
    for program in &mut others {
        assert_eq!(program.says(), "done 1\n", "{}", program.what);
    }
    assert!(mount.path("mkdir-SIGALRM/made").is_dir());
    drop((asked, others));
    mount.unmount();
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

/// Writes, and closes nothing.
const WRITER: &str = r#"
import os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
os.write(file, b'first')
print('ready', flush=True)
sys.stdin.readline()
os.write(file, b'more')
print('written', flush=True)
time.sleep(1000)
"#;

#[test]
fn with_the_master_gone_for_good_a_mount_ends_in_time_and_says_what_is_lost() {
    let mut cluster = Cluster::builder().keepers(2).start();
    // Who is told ends in time, however long programs are to wait; umount(8) is itself one that waits.
    let mut told = cluster.mount_with(&["-o", "master_timeout=10m"]);
    let mut unmounted = cluster.mount_with(&["-o", "master_timeout=3s"]);
    fs::write(told.path("file"), "text").unwrap();
    // It is written while the mount does not know yet that it cannot be uploaded.
    let script = r#"exec python3 -c "$2" "$1/file""#;
    let mut writer = Program::start_with("writer", script, &[told.dir().as_os_str(), WRITER.as_ref()]);
    cluster.master.stop();
    writer.go();
    assert_eq!(writer.says(), "written\n");
    cluster.master.kill();

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
}
