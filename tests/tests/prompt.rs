//! Passwords that are typed on a terminal.
//!
//! Covers: what is typed is not shown; a new one is asked for twice, and two that differ are refused and change nothing; an empty
//! one is refused; ^C, ^\, SIGTERM and SIGHUP at a prompt end the command, and the terminal shows again what is typed.

use std::fs;

use dfs_tests::auth::cluster;
use dfs_tests::terminal::Terminal;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, wait_until};
use rustix::process::Signal;

const TYPED: &str = "a long secret 4711";
const OTHER: &str = "another secret 4712";

fn locked() -> Cluster {
    cluster(Cluster::builder(), 0, &[])
}

/// `dfs ARGS` on a terminal, at its first prompt.
fn dfs(cluster: &Cluster, args: &[&str], prompt: &str) -> Terminal {
    let mut command = cluster.scratch.command("dfs");
    command.args(["--master", cluster.address()]).args(args);
    let terminal = Terminal::run(&command);
    terminal.wait_shown(prompt, 1);
    assert!(!terminal.echoes(), "the prompt is there, and what is typed is shown");
    terminal
}

/// Waits for its end; the exit code.
#[track_caller]
fn ended(terminal: &mut Terminal) -> Option<i32> {
    let status = terminal.wait_exit(secs(20));
    assert!(terminal.echoes(), "the terminal was left without echo");
    status.code()
}

fn users(cluster: &Cluster) -> String {
    cluster.dfs(&["user", "ls"]).ok().stdout
}

#[test]
fn what_is_typed_is_not_shown() {
    let cluster = locked();
    let password = fs::read_to_string(cluster.scratch.path("master/initial-admin-password")).unwrap();
    let file = cluster.scratch.path("typed");
    let mut terminal =
        dfs(&cluster, &["--token-file", file.to_str().unwrap(), "login", "admin"], "password: ");
    terminal.types(password.trim());
    terminal.types("\n");
    assert_eq!(ended(&mut terminal), Some(0));
    terminal.wait_shown("logged in", 1);
    assert!(!terminal.shown().contains(password.trim()), "it was shown");
    assert!(file.is_file());
    // An end of input, and nothing but Enter, are no password.
    for typed in ["\n", "\u{4}"] {
        let mut terminal = dfs(&cluster, &["login", "admin"], "password: ");
        terminal.types(typed);
        assert_eq!(ended(&mut terminal), Some(1));
        terminal.wait_shown("there is no password", 1);
    }
}

#[test]
fn a_new_one_is_typed_twice() {
    let cluster = locked();
    let add = ["user", "add", "anna", "--role", "rw"];
    let prompt = "password of the new user: ";
    let mut terminal = dfs(&cluster, &add, prompt);
    terminal.types(&format!("{TYPED}\n"));
    terminal.wait_shown("password of the new user, again: ", 1);
    terminal.types(&format!("{OTHER}\n"));
    assert_eq!(ended(&mut terminal), Some(1));
    terminal.wait_shown("typed in two ways", 1);
    assert!(!users(&cluster).contains("anna"), "the user was made");

    let mut terminal = dfs(&cluster, &add, prompt);
    terminal.types(&format!("{TYPED}\n"));
    terminal.wait_shown("again: ", 1);
    assert!(!terminal.echoes());
    terminal.types(&format!("{TYPED}\n"));
    assert_eq!(ended(&mut terminal), Some(0));
    wait_until(secs(5), "the row is shown", || terminal.shown().contains("anna"));
    assert!(!terminal.shown().contains(TYPED), "it was shown");

    // Another one: the old one, and the new one twice.
    let file = cluster.scratch.path("anna");
    let as_anna = ["--token-file", file.to_str().unwrap()];
    let login = |password: &str| {
        let mut terminal = dfs(&cluster, &[&as_anna[..], &["login", "anna"]].concat(), "password: ");
        terminal.types(&format!("{password}\n"));
        ended(&mut terminal)
    };
    assert_eq!(login(TYPED), Some(0));
    let mut terminal = dfs(&cluster, &[&as_anna[..], &["user", "passwd"]].concat(), "old password: ");
    terminal.types(&format!("{TYPED}\n"));
    for prompt in ["new password: ", "new password, again: "] {
        terminal.wait_shown(prompt, 1);
        wait_until(secs(5), "it is hidden", || !terminal.echoes());
        terminal.types(&format!("{OTHER}\n"));
    }
    assert_eq!(ended(&mut terminal), Some(0));
    let shown = terminal.shown();
    assert!(!shown.contains(TYPED) && !shown.contains(OTHER), "it was shown");
    assert_eq!((login(TYPED), login(OTHER)), (Some(1), Some(0)));
}

#[test]
fn whoever_ends_it_at_a_prompt_has_his_terminal_back() {
    let cluster = locked();
    let at_login = || dfs(&cluster, &["login", "admin"], "password: ");
    for key in ["\u{3}", "half of it\u{3}", "\u{1c}"] {
        let mut terminal = at_login();
        terminal.types(key);
        assert_eq!(ended(&mut terminal), Some(130), "{key:?}");
    }
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal = at_login();
        terminal.signal(signal);
        assert_eq!(ended(&mut terminal), Some(130), "{signal:?}");
    }
    // At the second prompt, too, and nothing was changed.
    let mut terminal = dfs(&cluster, &["user", "add", "anna"], "password of the new user: ");
    terminal.types(&format!("{TYPED}\n"));
    terminal.wait_shown("again: ", 1);
    terminal.types("\u{3}");
    assert_eq!(ended(&mut terminal), Some(130));
    assert!(!users(&cluster).contains("anna"), "the user was made");
}
