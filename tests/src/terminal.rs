//! A program on a terminal of its own: what it shows there, and what is typed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::wait::{secs, wait_for, wait_until};

/// The terminal, and the program that runs on it.
pub struct Terminal {
    /// What a person has before him.
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    /// The program's end; open here too, so that its modes can be looked at when the program is gone.
    device: File,
    child: Child,
}

impl Terminal {
    /// Runs `command` on a new terminal, which becomes the one that its ^C comes from.
    pub fn run(command: &Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        // Nobody leads a session here who could get it as his terminal by accident but setsid's program.
        let open = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let device = open();
        let mut words = Command::new("setsid");
        words.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => words.env(name, value),
                None => words.env_remove(name),
            };
        }
        let child = words.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let keyboard = File::from(master);
        let (shown, mut screen) = (Arc::<Mutex<Vec<u8>>>::default(), keyboard.try_clone().unwrap());
        let shows = shown.clone();
        // Ends with an error when nobody has the other end open any more.
        std::thread::spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(n @ 1..) = screen.read(&mut piece) {
                shows.lock().unwrap().extend_from_slice(&piece[..n]);
            }
        });
        Terminal { keyboard, shown, device, child }
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until this is shown, `times` times.
    #[track_caller]
    pub fn wait_shown(&self, text: &str, times: usize) {
        wait_until(secs(20), &format!("'{text}' is shown"), || self.shown().matches(text).count() >= times);
    }

    /// Types this.
    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Would it show what is typed?
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.device).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        wait_for(limit, "the program on the terminal ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- on the terminal ----\n{}", self.shown());
        }
    }
}
