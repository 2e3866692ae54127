//! The audit log: `audit.jsonl` in the data directory, a JSON object a line, for its owner alone. Lines are only ever added.
//! A thread of its own writes it; what comes faster than the disk takes it is counted, and said in the next line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use dfs_proto::pb;
use serde::Serialize;

/// In the data directory.
pub const FILE_NAME: &str = "audit.jsonl";
/// Lines that may wait for the disk.
const MAX_WAITING: usize = 4096;

/// What somebody did.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Entry {
    pub event: &'static str,
    pub user: String,
    /// Address and port.
    pub from: String,
    /// It was done; or refused.
    pub ok: bool,
    pub detail: String,
}

#[derive(Serialize)]
struct Line<'a> {
    time_ms: i64,
    event: &'a str,
    user: &'a str,
    from: &'a str,
    ok: bool,
    detail: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    lines_lost_before: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Where entries go. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: mpsc::SyncSender<(i64, Entry)>,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// Opens the log in `data`, and starts its thread.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not be started.
    pub fn open(data: &Path) -> io::Result<Audit> {
        let path = data.join(FILE_NAME);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let (lines, waiting) = mpsc::sync_channel(MAX_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let audit = Audit { lines, lost: lost.clone() };
        std::thread::Builder::new()
            .name("dfs-audit".to_owned())
            .spawn(move || write_all(&path, file, &waiting, &lost))?;
        Ok(audit)
    }

    /// Adds a line, soon.
    pub fn write(&self, entry: Entry) {
        if self.lines.try_send((pb::Time::now().as_millis(), entry)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(path: &Path, mut file: File, waiting: &mpsc::Receiver<(i64, Entry)>, lost: &AtomicU64) {
    while let Ok((time_ms, entry)) = waiting.recv() {
        let Entry { event, user, from, ok, detail } = &entry;
        let lines_lost_before = lost.swap(0, Ordering::Relaxed);
        let line = Line { time_ms, event, user, from, ok: *ok, detail, lines_lost_before };
        // Texts and numbers: nothing that JSON cannot say.
        let mut line = serde_json::to_string(&line).unwrap_or_default();
        line.push('\n');
        if let Err(error) = file.write_all(line.as_bytes()) {
            lost.fetch_add(1 + lines_lost_before, Ordering::Relaxed);
            tracing::error!(
                "audit log {}: cannot be written: {error}; make room on that file system",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn lines_are_whole_whatever_is_in_them_and_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |detail: &str| Entry {
            event: "login",
            user: "anna\n{".to_owned(),
            from: "10.0.0.1:5".to_owned(),
            ok: false,
            detail: detail.to_owned(),
        };
        for detail in ["first", "second"] {
            Audit::open(dir.path()).unwrap().write(entry(detail));
        }
        let path = dir.path().join(FILE_NAME);
        let begun = Instant::now();
        let lines = loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.lines().count() == 2 || begun.elapsed() > Duration::from_secs(10) {
                break text;
            }
            std::thread::yield_now();
        };
        let mut details: Vec<String> = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .inspect(|line| assert_eq!((&line["user"], &line["ok"]), (&"anna\n{".into(), &false.into())))
            .map(|line| line["detail"].as_str().unwrap().to_owned())
            .collect();
        details.sort();
        assert_eq!(details, ["first", "second"]);
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
}
