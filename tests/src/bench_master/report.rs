//! The figures: what each is, what it is to reach, a table for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::Plan;

/// What a figure is to reach.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// At most this.
    Most(f64),
    /// At least this.
    Least(f64),
    /// It is for knowing.
    None,
}

impl Goal {
    /// Does the value reach it?
    pub fn is_reached(self, value: f64) -> bool {
        match self {
            Goal::Most(most) => value <= most,
            Goal::Least(least) => value >= least,
            Goal::None => true,
        }
    }
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In JSON.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// Of the value.
    pub unit: &'static str,
    /// What it is to reach.
    pub goal: Goal,
}

const fn case(name: &'static str, what: &'static str, unit: &'static str, goal: Goal) -> Case {
    Case { name, what, unit, goal }
}

/// All figures, in the order of the table.
pub const CASES: [Case; 18] = [
    case("memory", "memory for each file", "bytes", Goal::Most(250.0)),
    case("memory_peak", "the most it was since the start, for each file", "bytes", Goal::None),
    case("start", "from the start to the first answer", "s", Goal::Most(60.0)),
    case("join", "until all keepers have said what they have", "s", Goal::None),
    case("heartbeats", "heartbeats of all keepers, of one core", "%", Goal::Most(20.0)),
    case("lookup_x1", "look-ups, 1 client", "/s", Goal::None),
    case("lookup_x16", "look-ups, 16 clients", "/s", Goal::None),
    case("lookup_x64", "look-ups, 64 clients", "/s", Goal::None),
    case("create_x1", "creates, 1 client", "/s", Goal::None),
    case("create_x16", "creates, 16 clients", "/s", Goal::None),
    case("create_x64", "creates, 64 clients", "/s", Goal::None),
    case("rename_x1", "renames, 1 client", "/s", Goal::None),
    case("rename_x16", "renames, 16 clients", "/s", Goal::None),
    case("rename_x64", "renames, 64 clients", "/s", Goal::None),
    case("file", "files of one chunk made whole, 16 clients", "/s", Goal::None),
    case("pause", "the longest look-up while 16 clients create", "ms", Goal::Most(50.0)),
    case("create_longest", "the longest of those creates", "ms", Goal::None),
    case("list", "entries of the large directory listed", "/s", Goal::Least(200_000.0)),
];

/// What was measured with one number of files.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Files of one chunk, each on three keepers.
    pub files: u64,
    /// Simulated keepers.
    pub keepers: u64,
    /// Entries of the large directory.
    pub entries: u64,
    /// How long each case took.
    pub seconds: f64,
    /// By the names of [`CASES`].
    pub figures: BTreeMap<&'static str, f64>,
}

impl Figures {
    /// None yet.
    pub fn new(plan: &Plan) -> Figures {
        Figures {
            files: plan.files,
            keepers: plan.keepers,
            entries: plan.entries.min(plan.files / 2),
            seconds: plan.each.as_secs_f64(),
            figures: BTreeMap::new(),
        }
    }

    /// Notes one, and says so to whoever watches.
    ///
    /// # Panics
    /// When there is no such case.
    pub fn set(&mut self, name: &str, value: f64) {
        let case = CASES.iter().find(|case| case.name == name).expect("a figure that is in CASES");
        eprintln!("{} files: {}: {} {}", self.files, case.what, shown(value), case.unit);
        self.figures.insert(case.name, value);
    }
}

/// With about three digits that count.
pub fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// For people, in Markdown: a column for each number of files.
pub fn table(all: &[Figures]) -> String {
    let columns: String = all.iter().map(|figures| format!(" {} files |", figures.files)).collect();
    let mut out = format!("| what | unit |{columns} to reach |\n|---|---|{}---|\n", "---|".repeat(all.len()));
    for case in CASES {
        let cell = |figures: &Figures| match figures.figures.get(case.name) {
            None => " - |".to_owned(),
            Some(&value) if case.goal.is_reached(value) => format!(" {} |", shown(value)),
            Some(&value) => format!(" **{}** |", shown(value)),
        };
        let cells: String = all.iter().map(cell).collect();
        let goal = match case.goal {
            Goal::Most(most) => format!("{most} or less"),
            Goal::Least(least) => format!("{least} or more"),
            Goal::None => "-".to_owned(),
        };
        // A String takes all that is written to it.
        let _ = writeln!(out, "| {} | {} |{cells} {goal} |", case.what, case.unit);
    }
    if let Some(last) = all.last() {
        let _ = writeln!(
            out,
            "\n{} keepers; the large directory has {} entries (with {} files). Bold: what was to be reached was not.",
            last.keepers, last.entries, last.files
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_reached_is_bold() {
        let plan = Plan { files: 10, keepers: 3, entries: 100, each: Duration::from_secs(1) };
        let mut figures = Figures::new(&plan);
        figures.set("memory", 251.0);
        figures.set("start", 60.0);
        figures.set("list", 199_999.0);
        let table = table(&[figures]);
        for line in [
            "| memory for each file | bytes | **251** | 250 or less |",
            "| from the start to the first answer | s | 60.0 | 60 or less |",
            "| entries of the large directory listed | /s | **199999** | 200000 or more |",
            "| renames, 1 client | /s | - | - |",
            "the large directory has 5 entries (with 10 files)",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }
}
