//! What the commands print: tables with aligned columns, and JSON.

use std::io::{BufWriter, Stdout, Write};

use serde::Serialize;

use super::CliError;

/// Rows whose columns are aligned together; a longer table is aligned anew in each such part.
const ALIGNED_ROWS: usize = 1000;

/// Stdout, buffered; its errors as ours.
pub(super) struct Output {
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { out: BufWriter::new(std::io::stdout()) }
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.out.write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
    }

    /// Must be called at the end: what is still buffered may fail to be written.
    pub(super) fn finish(mut self) -> Result<(), CliError> {
        self.out.flush().map_err(|error| CliError::stdout(&error))
    }

    /// One JSON value and a line's end.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = to_json(value)?;
        self.text(&text)?;
        self.text("\n")
    }
}

fn to_json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string(value)
        .map_err(|error| CliError::Local(format!("writing JSON: {error}; report this")))
}

/// Prints rows as they come: a table, or an array of JSON objects.
pub(super) struct Rows<const N: usize> {
    output: Output,
    json: bool,
    count: u64,
    table: Table<N>,
}

impl<const N: usize> Rows<N> {
    pub(super) fn new(json: bool, columns: [&'static str; N]) -> Self {
        Self { output: Output::new(), json, count: 0, table: Table::new(columns) }
    }

    pub(super) fn row(
        &mut self,
        cells: impl FnOnce() -> [Cell; N],
        value: &impl Serialize,
    ) -> Result<(), CliError> {
        self.count += 1;
        if self.json {
            self.output.text(if self.count == 1 { "[\n" } else { ",\n" })?;
            return self.output.text(&to_json(value)?);
        }
        self.table.rows.push(cells());
        if self.table.rows.len() == ALIGNED_ROWS {
            let text = self.table.take();
            self.output.text(&text)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), CliError> {
        let text = match (self.json, self.count) {
            (true, 0) => "[]\n".to_owned(),
            (true, _) => "\n]\n".to_owned(),
            (false, _) => self.table.take(),
        };
        self.output.text(&text)?;
        self.output.finish()
    }
}

/// One cell of a table.
pub(super) enum Cell {
    /// Aligned to the left.
    Text(String),
    /// Aligned to the right.
    Number(String),
}

impl Cell {
    fn content(&self) -> &str {
        match self {
            Cell::Text(content) | Cell::Number(content) => content,
        }
    }
}

/// A table, or a part of one.
struct Table<const N: usize> {
    columns: [&'static str; N],
    header_due: bool,
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    fn new(columns: [&'static str; N]) -> Self {
        Self { columns, header_due: true, rows: Vec::new() }
    }

    /// The rows so far as text, below the header the first time.
    fn take(&mut self) -> String {
        let width = |text: &str| text.chars().count();
        let mut widths = self.columns.map(width);
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell.content()));
            }
        }
        let mut text = String::new();
        if std::mem::take(&mut self.header_due) && !self.columns.iter().all(|name| name.is_empty()) {
            let header = self.columns.map(|name| Cell::Text(name.to_owned()));
            push_line(&mut text, &header, &widths);
        }
        for row in self.rows.drain(..) {
            push_line(&mut text, &row, &widths);
        }
        text
    }
}

fn push_line(text: &mut String, row: &[Cell], widths: &[usize]) {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        // A column in which nothing is.
        .filter(|&(_, &width)| width > 0)
        .map(|(cell, &width)| match cell {
            Cell::Text(content) => format!("{content:<width$}"),
            Cell::Number(content) => format!("{content:>width$}"),
        })
        .collect();
    text.push_str(cells.join("  ").trim_end());
    text.push('\n');
}

/// A whole table, as text.
pub(super) fn table<const N: usize>(
    columns: [&'static str; N],
    rows: impl Iterator<Item = [Cell; N]>,
) -> String {
    let mut table = Table::new(columns);
    table.rows.extend(rows);
    table.take()
}

/// A name or path for people: what is not UTF-8, or would move the cursor, is shown as a replacement.
pub(super) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Bytes for people: three digits and a unit.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `2024-02-29 13:05`, UTC. The calendar is Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
pub(super) fn minute(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_on_the_calendar() {
        assert_eq!(minute(0), "1970-01-01 00:00");
        assert_eq!(minute(-1), "1969-12-31 23:59");
        assert_eq!(minute(1_709_211_900), "2024-02-29 13:05");
        assert_eq!(minute(4_102_444_799), "2099-12-31 23:59");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["NAME", "SIZE"]);
        table.rows.push([Cell::Text("a long name".into()), Cell::Number("5".into())]);
        table.rows.push([Cell::Text("ä".into()), Cell::Number("12345".into())]);
        assert_eq!(table.take(), "NAME         SIZE\na long name      5\nä            12345\n");
        assert_eq!(table.take(), "");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable(b"a\x1b[2J\nb\xff"), "a?[2J?b\u{fffd}");
    }

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_240, "10.0 KiB"),
            (1_023_000, "999 KiB"),
            (1_048_000, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
