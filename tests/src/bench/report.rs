//! Rounds of several systems, side by side: medians, the ratio of the first system to the best of the others, and the
//! geometric mean of those.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::{Figure, Figures};

/// So many of the cases are those with large files.
pub const LARGE: usize = 10;

/// The cases in the order in which they run: first those with large files, then those with small ones.
pub const ORDER: [&str; 19] = [
    "seq_write",
    "seq_read_cold",
    "seq_read_again",
    "first_byte",
    "seek",
    "rand_read_4k_x16",
    "seq_write_x4",
    "seq_read_x4_cold",
    "rand_write_4k",
    "append_fsync_4k",
    "create_16k",
    "stat",
    "ls_l",
    "read_16k_cold",
    "rename",
    "unlink",
    "create_x8",
    "rm_rf",
    "mkdir",
];

/// One case on one system, over all rounds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// The median.
    pub value: f64,
    /// As in [`Figure`].
    pub unit: &'static str,
    /// The median, of the rounds that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_s: Option<f64>,
    /// The median, of the rounds that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Every round's, in their order.
    pub rounds: Vec<f64>,
}

/// What one system did, by case.
pub type Summaries = BTreeMap<&'static str, Summary>;

/// The medians of a system's rounds.
pub fn summarize(rounds: &[Figures]) -> Summaries {
    let mut all: BTreeMap<&'static str, Vec<&Figure>> = BTreeMap::new();
    for (name, figure) in rounds.iter().flatten() {
        all.entry(name).or_default().push(figure);
    }
    let summary = |figures: Vec<&Figure>| Summary {
        value: median(figures.iter().map(|figure| figure.value)).unwrap_or_default(),
        unit: figures.first().map_or("", |figure| figure.unit),
        server_cpu_s: median(figures.iter().filter_map(|figure| figure.cpu_s)),
        p99: median(figures.iter().filter_map(|figure| figure.p99)),
        rounds: figures.iter().map(|figure| figure.value).collect(),
    };
    all.into_iter().map(|(name, figures)| (name, summary(figures))).collect()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// How much better the first system is than the best of the others, for each case that they have; over 1 is better.
pub fn ratios(systems: &[(String, Summaries)]) -> Vec<(&'static str, f64)> {
    let Some(((_, ours), peers)) = systems.split_first() else { return Vec::new() };
    let ratio = |name: &&'static str| {
        let own = ours.get(name)?;
        let less_is_better = own.unit == "ms";
        let theirs = peers.iter().filter_map(|(_, peer)| Some(peer.get(name)?.value));
        let best = theirs.reduce(if less_is_better { f64::min } else { f64::max })?;
        Some((*name, if less_is_better { best / own.value } else { own.value / best }))
    };
    ORDER.iter().filter_map(ratio).collect()
}

/// Of the ratios; `None` without any.
pub fn geometric_mean(ratios: &[(&'static str, f64)]) -> Option<f64> {
    let sum: f64 = ratios.iter().map(|(_, ratio)| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (sum / ratios.len() as f64).exp())
}

/// For people, in Markdown.
pub fn table(systems: &[(String, Summaries)]) -> String {
    let ratios = ratios(systems);
    let names: Vec<&str> = systems.iter().map(|(name, _)| name.as_str()).collect();
    let mut out = format!("| case | unit | {} | ratio | CPU s |\n", names.join(" | "));
    out.push_str(&format!("|---|---|{}---|---|\n", "---|".repeat(names.len())));
    for case in ORDER {
        let Some(unit) = systems.iter().find_map(|(_, all)| all.get(case)).map(|summary| summary.unit) else {
            continue;
        };
        let each = |show: &dyn Fn(&Summary) -> Option<String>| -> Vec<String> {
            let cell = |all: &Summaries| all.get(case).and_then(show).unwrap_or_else(|| "-".to_owned());
            systems.iter().map(|(_, all)| cell(all)).collect()
        };
        let values = each(&|summary| {
            let p99 = summary.p99.map_or(String::new(), |p99| format!(" ({p99:.1})"));
            Some(format!("{:.1}{p99}", summary.value))
        });
        let cpu = each(&|summary| Some(format!("{:.2}", summary.server_cpu_s?)));
        let ratio = ratios.iter().find(|(name, _)| *name == case);
        let ratio = ratio.map_or("-".to_owned(), |(_, ratio)| format!("{ratio:.2}"));
        // A String takes all that is written to it.
        let _ = writeln!(out, "| {case} | {unit} | {} | {ratio} | {} |", values.join(" | "), cpu.join(", "));
    }
    if let Some(mean) = geometric_mean(&ratios) {
        let _ =
            writeln!(out, "\nGeometric mean of the ratios: {mean:.2}. Medians; in brackets the 99th of 100.");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(name: &'static str, unit: &'static str, values: &[f64]) -> Vec<Figures> {
        let figure = |&value: &f64| Figures::from([(name, Figure { value, unit, cpu_s: None, p99: None })]);
        values.iter().map(figure).collect()
    }

    #[test]
    fn the_ratio_is_over_1_where_the_first_is_better_whichever_way_the_unit_runs() {
        let system = |speed: &[f64], wait: &[f64]| {
            let mut all = summarize(&rounds("mkdir", "/s", speed));
            all.append(&mut summarize(&rounds("seek", "ms", wait)));
            all
        };
        let systems = [
            ("ours".to_owned(), system(&[10.0, 400.0, 30.0], &[1.0, 2.0, 9.0])),
            ("slow".to_owned(), system(&[5.0], &[50.0])),
            ("best".to_owned(), system(&[15.0], &[8.0])),
        ];
        let ratios = ratios(&systems);
        assert_eq!(ratios, [("seek", 4.0), ("mkdir", 2.0)]);
        assert!((geometric_mean(&ratios).unwrap() - 8f64.sqrt()).abs() < 1e-9);
        let table = table(&systems);
        assert!(table.contains("| mkdir | /s | 30.0 | 5.0 | 15.0 | 2.00 |"), "{table}");
    }

    #[test]
    fn without_peers_there_is_no_ratio() {
        let systems = [("ours".to_owned(), summarize(&rounds("stat", "/s", &[7.0])))];
        assert!(ratios(&systems).is_empty());
        assert!(table(&systems).contains("| stat | /s | 7.0 | - | - |"));
    }
}
