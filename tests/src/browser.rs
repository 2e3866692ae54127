//! Chromium without a window, where it is installed.

use std::path::PathBuf;
use std::process::Command;

use crate::cluster::Cluster;
use crate::run::run;
use crate::wait::{secs, wait_for};

/// Chromium without a window.
pub struct Browser(PathBuf);

impl Browser {
    /// None, with words, where there is none.
    pub fn find() -> Option<Browser> {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).find_map(|dir| {
            ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"]
                .iter()
                .map(|name| dir.join(name))
                .find(|path| path.is_file())
        });
        if found.is_none() {
            println!(
                "no Chromium is installed: what a browser shows is not looked at (apt-get install chromium)"
            );
        }
        found.map(Browser)
    }

    fn command(&self, cluster: &Cluster, flags: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        // Root must not use its sandbox; and it shows nothing here but our own page.
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            // Only tests have its key, and it is not among those that this machine trusts.
            "--ignore-certificate-errors",
        ]);
        command.arg(format!("--user-data-dir={}", cluster.scratch.path("browser").display()));
        command.env("HOME", cluster.scratch.dir()).args(flags);
        command
    }

    /// What became of the page, with `place` behind its address, once all of these are in it.
    pub fn dom(&self, cluster: &Cluster, at: &str, place: &str, until: &[&str]) -> String {
        let url = url(at, place);
        let flags = ["--virtual-time-budget=6000", "--dump-dom", &url];
        wait_for(secs(120), "the page shows the files", || {
            let shown = run(&mut self.command(cluster, &flags), secs(100)).ok().stdout;
            until.iter().all(|text| shown.contains(text)).then_some(shown)
        })
    }

    /// A picture of it.
    pub fn shot(
        &self,
        cluster: &Cluster,
        at: &str,
        place: &str,
        name: &str,
        size: &str,
        dark: bool,
    ) -> PathBuf {
        let file = cluster.scratch.path(&format!("{name}.png"));
        let (shot, size, url) =
            (format!("--screenshot={}", file.display()), format!("--window-size={size}"), url(at, place));
        let mut flags = vec!["--virtual-time-budget=6000", &shot, &size];
        if dark {
            flags.push("--blink-settings=preferredColorScheme=0");
        }
        flags.push(&url);
        run(&mut self.command(cluster, &flags), secs(100)).ok();
        file
    }
}

/// `at`: HOST:PORT, or with https:// before it.
fn url(at: &str, place: &str) -> String {
    if at.contains("://") { format!("{at}/{place}") } else { format!("http://{at}/{place}") }
}
