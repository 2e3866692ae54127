//! What a transfer has done so far, and the bar that shows it: on a terminal, and nowhere else.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::output::human;

const REDRAW_EVERY: Duration = Duration::from_millis(100);
const BAR: usize = 24;

/// Counted by whoever moves something.
#[derive(Debug)]
pub(super) struct Tally {
    /// Of files that are whole by now.
    pub(super) files: AtomicU64,
    /// That were moved, of all files.
    pub(super) bytes: AtomicU64,
    /// What was there already: whole files, and bytes of them and of others.
    pub(super) files_there: AtomicU64,
    pub(super) bytes_there: AtomicU64,
    pub(super) directories: AtomicU64,
    /// Symbolic links and the like.
    pub(super) others: AtomicU64,
    /// Bytes in all, where that is known.
    total: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl Tally {
    pub(super) fn new(total: Option<u64>) -> Arc<Tally> {
        let total = total.unwrap_or(UNKNOWN).into();
        let [files, bytes, files_there, bytes_there, directories, others] = Default::default();
        Arc::new(Tally { files, bytes, files_there, bytes_there, directories, others, total })
    }

    pub(super) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    fn line(&self, elapsed: Duration) -> String {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let total = Some(get(&self.total)).filter(|total| *total != UNKNOWN);
        let files = get(&self.files) + get(&self.files_there);
        let line = line(get(&self.bytes), get(&self.bytes_there), total, elapsed);
        if files > 1 { format!("{line}  {files} files") } else { line }
    }
}

/// Is there anybody to see it?
pub(super) fn is_shown() -> bool {
    std::io::stderr().is_terminal()
}

/// Shows a tally until it is ended, or dropped.
pub(super) struct Progress {
    tally: Arc<Tally>,
    began: Instant,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Progress {
    /// Of a transfer that begins now.
    pub(super) fn of(tally: &Arc<Tally>) -> Progress {
        let (tally, began) = (tally.clone(), Instant::now());
        let task = is_shown().then(|| {
            let tally = tally.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(REDRAW_EVERY).await;
                    draw(&tally.line(began.elapsed()), "");
                }
            })
        });
        Progress { tally, began, task }
    }

    /// The transfer is over, well or not: leaves the last line standing.
    pub(super) async fn end(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
            draw(&self.tally.line(self.began.elapsed()), "\n");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn draw(line: &str, end: &str) {
    // A terminal that went away is no reason to stop the transfer.
    let _ = write!(std::io::stderr(), "\r{line}\x1b[K{end}");
}

/// `[=====>   ]  45 %  1.20 GiB of 2.60 GiB  110 MiB/s  0:12 left`; what needs the total is left out without one. What was there
/// before took no time.
fn line(moved: u64, there: u64, total: Option<u64>, elapsed: Duration) -> String {
    let done = moved + there;
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = moved as f64 / seconds;
    let speed = format!("{}/s", human(rate as u64));
    let Some(total) = total else {
        return format!("{}  {speed}  {}", human(done), clock(seconds));
    };
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (share * BAR as f64) as usize;
    let head = if filled < BAR { ">" } else { "" };
    let bar = format!("{}{head}", "=".repeat(filled));
    let time = if done >= total {
        format!("in {}", clock(seconds))
    } else if moved == 0 {
        "-:-- left".to_owned()
    } else {
        format!("{} left", clock((total - done) as f64 / rate))
    };
    let (percent, done, total) = ((share * 100.0) as u64, human(done), human(total));
    format!("[{bar:<BAR$}] {percent:>3} %  {done} of {total}  {speed}  {time}")
}

/// `1:02:03` or `2:03`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// One line on a terminal that is written anew as things go on.
pub(super) struct Line {
    shown: bool,
    last: String,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), last: String::new() }
    }

    pub(super) fn show(&mut self, text: &str) {
        if self.shown && self.last != text {
            // A terminal that went away is no reason to stop.
            let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
            text.clone_into(&mut self.last);
        }
    }

    /// Leaves the last one standing.
    pub(super) fn end(&mut self) {
        if !std::mem::take(&mut self.last).is_empty() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_line_shows_bytes_rate_and_time_left() {
        assert_eq!(
            line(25 * MIB, 0, Some(100 * MIB), Duration::from_secs(5)),
            "[======>                 ]  25 %  25.0 MiB of 100 MiB  5.00 MiB/s  0:15 left"
        );
    }

    #[test]
    fn at_the_end_it_shows_how_long_it_took() {
        assert_eq!(
            line(100 * MIB, 0, Some(100 * MIB), Duration::from_secs(3_700)),
            "[========================] 100 %  100 MiB of 100 MiB  27.7 KiB/s  in 1:01:40"
        );
    }

    #[test]
    fn nothing_divides_by_zero() {
        assert!(line(0, 0, Some(0), Duration::ZERO).contains("100 %"));
        assert!(line(0, 0, Some(5), Duration::ZERO).contains("-:-- left"));
        assert_eq!(line(0, 0, None, Duration::ZERO), "0 B  0 B/s  0:00");
    }

    #[test]
    fn what_was_there_before_counts_for_the_bar_and_not_for_the_rate() {
        let line = line(10 * MIB, 80 * MIB, Some(100 * MIB), Duration::from_secs(10));
        assert!(line.contains("90 %") && line.contains("1.00 MiB/s  0:10 left"), "{line}");
    }

    #[test]
    fn a_file_that_grew_does_not_break_the_bar() {
        assert!(line(10, 0, Some(5), Duration::from_secs(1)).contains("100 %"));
    }
}
