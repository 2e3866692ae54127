//! A fresh machine for one test: systemd as the first process of namespaces of its own, over a root whose changes are in memory.
//!
//! Its `/etc`, `/usr` and `/var` begin as those of this machine and are its own from then on; it sees no network but its loopback, no
//! process but its own, and of this machine's files what is on the root file system. `/media` is shared with the test.
//!
//! What must hold: nothing is left when it is dropped, or when the test is killed. Its processes end with its first process, which has
//! the mark of the scratch directory; its mounts with the last of them; its cgroup is taken away by the shell that started it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{Ran, run};
use crate::scratch::{MARK, Scratch};
use crate::wait::{secs, wait_for, wait_until};

const BOOT: &str = include_str!("machine/boot.sh");
const KEEP: &str = include_str!("machine/keep.sh");

/// A machine that has booted.
pub struct Machine {
    keeper: Child,
    /// Of its first process, as this machine numbers it.
    pid: String,
    share: PathBuf,
    console: PathBuf,
}

impl Machine {
    /// None, with words, where there is no systemd, or its namespaces cannot be made.
    pub fn boot(scratch: &Scratch) -> Option<Machine> {
        crate::require_root();
        let places = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
        let Some(systemd) = places.into_iter().find(|path| Path::new(path).is_file()) else {
            println!(
                "no systemd is installed: nothing of a fresh machine is looked at (apt-get install systemd)"
            );
            return None;
        };
        let [dir, share] = ["machine", "media"].map(|name| scratch.path(name));
        for dir in [&dir, &share] {
            fs::create_dir(dir).unwrap();
        }
        let (boot, console) = (scratch.path("boot.sh"), scratch.path("log/console"));
        fs::write(&boot, BOOT).unwrap();
        let log = fs::File::create(&console).unwrap();
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", KEEP, "sh"]).args([&boot, &dir, &share]).arg(systemd).arg(scratch.dir());
        command.env_remove(MARK).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut keeper = command.spawn().unwrap();
        let told = share.join("pid");
        let console_text = || fs::read_to_string(&console).unwrap_or_default();
        let pid = wait_for(secs(40), "the machine's first process", || {
            if let Some(ended) = keeper.try_wait().unwrap() {
                return Some(Err(ended));
            }
            Some(Ok(fs::read_to_string(&told).ok()?.strip_suffix('\n')?.to_owned()))
        });
        let pid = match pid {
            Ok(pid) => pid,
            // A container that may not mount an overlay, say: its namespaces could not be made.
            Err(ended) => {
                println!(
                    "this machine takes no fresh one, so nothing of it is looked at: {ended}: {}",
                    console_text()
                );
                return None;
            }
        };
        let machine = Machine { keeper, pid, share, console: console.clone() };
        wait_until(secs(60), "the machine has booted", || {
            machine.attempt("systemctl is-active fresh.target").stdout.trim() == "active"
        });
        Some(machine)
    }

    /// What the machine sees as `/media`.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// Runs a script as root, as after a login on it.
    pub fn attempt(&self, script: &str) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--all"]);
        command
            .args(["timeout", "--kill-after=5", "60", "sh", "-euc", &format!("cd /root; {script}")])
            .env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("USER", "root").env("LC_ALL", "C.UTF-8");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command, secs(80))
    }

    /// The same, which must succeed; what it wrote.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.attempt(script).ok().stdout
    }

    /// What the journal has of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.attempt(&format!("journalctl --no-pager -o cat -u '{unit}'")).stdout
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- console ----\n{}", crate::process::tail(&self.console));
            for unit in ["dfs-*", "*.mount"] {
                let journal = self.journal(unit);
                let lines: Vec<&str> = journal.lines().collect();
                eprintln!("---- {unit} ----\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
        // The first process takes all others with it.
        if let Some(pid) = self.pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let begun = Instant::now();
        while matches!(self.keeper.try_wait(), Ok(None)) {
            if begun.elapsed() > secs(20) {
                eprintln!("the machine is not over yet");
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
