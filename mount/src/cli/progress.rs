//! The bar that `put` and `get` show while they work: on a terminal, and nowhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::output::human;

const REDRAW_EVERY: Duration = Duration::from_millis(100);
const BAR: usize = 24;

/// See the module.
pub(super) struct Progress {
    shown: bool,
    /// Bytes in all, where that is known.
    total: Option<u64>,
    began: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    /// For a transfer that begins now.
    pub(super) fn new(total: Option<u64>) -> Self {
        Self { shown: std::io::stderr().is_terminal(), total, began: Instant::now(), drawn: None }
    }

    /// How much it is turned out only now.
    pub(super) fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// `done` bytes are through.
    pub(super) fn at(&mut self, done: u64) {
        if self.shown && self.drawn.is_none_or(|last| last.elapsed() >= REDRAW_EVERY) {
            self.draw(done, "");
            self.drawn = Some(Instant::now());
        }
    }

    /// The transfer is over, well or not: leaves the last line standing.
    pub(super) fn end(&mut self, done: u64) {
        if std::mem::take(&mut self.shown) {
            self.draw(done, "\n");
        }
    }

    fn draw(&self, done: u64, end: &str) {
        let line = line(done, self.total, self.began.elapsed());
        // A terminal that went away is no reason to stop the transfer.
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K{end}");
    }
}

/// `[=====>   ]  45 %  1.20 GiB of 2.60 GiB  110 MiB/s  0:12 left`; what needs the total is left out without one.
fn line(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = done as f64 / seconds;
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
    } else if done == 0 {
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
            line(25 * MIB, Some(100 * MIB), Duration::from_secs(5)),
            "[======>                 ]  25 %  25.0 MiB of 100 MiB  5.00 MiB/s  0:15 left"
        );
    }

    #[test]
    fn at_the_end_it_shows_how_long_it_took() {
        assert_eq!(
            line(100 * MIB, Some(100 * MIB), Duration::from_secs(3_700)),
            "[========================] 100 %  100 MiB of 100 MiB  27.7 KiB/s  in 1:01:40"
        );
    }

    #[test]
    fn nothing_divides_by_zero() {
        assert!(line(0, Some(0), Duration::ZERO).contains("100 %"));
        assert!(line(0, Some(5), Duration::ZERO).contains("-:-- left"));
        assert_eq!(line(0, None, Duration::ZERO), "0 B  0 B/s  0:00");
    }

    #[test]
    fn a_file_that_grew_does_not_break_the_bar() {
        assert!(line(10, Some(5), Duration::from_secs(1)).contains("100 %"));
    }
}
