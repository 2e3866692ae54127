//! What things cost in processor time, which hardly depends on what else the machine does: to see a regression.
//!
//! - [`apply`]: the master's pure core, for each command.
//! - [`data`]: bytes through a real cluster, for each GiB, over all of its processes.
//! - here: the figures, and how two sets of them are compared.
//!
//! Of several rounds the least counts: whatever disturbs only adds. Figures of two machines must not be compared, so a
//! comparison needs both versions of the programs on one (`tests/regress.sh`).

pub mod apply;
pub mod data;

use std::collections::BTreeMap;
use std::fmt::Write;

/// What is still no regression: 30 % more.
pub const ALLOWED: f64 = 1.3;

/// Processor time, by what it was used for: nanoseconds for a command (`apply ...`), seconds for a GiB.
pub type Costs = BTreeMap<String, f64>;

/// The least of each.
pub fn least(rounds: impl IntoIterator<Item = Costs>) -> Costs {
    let mut all = Costs::new();
    for (name, cost) in rounds.into_iter().flatten() {
        all.entry(name).and_modify(|least| *least = least.min(cost)).or_insert(cost);
    }
    all
}

/// A table of what `now` costs, beside what `before` did, and the names of what costs more than [`ALLOWED`] times as
/// much. What one of them lacks is shown, and is no regression.
pub fn compare(now: &Costs, before: Option<&Costs>) -> (String, Vec<String>) {
    let mut table = String::from("| what | before | now | ratio |\n|---|---|---|---|\n");
    let mut worse = Vec::new();
    for (name, cost) in now {
        let was = before.and_then(|before| before.get(name)).copied();
        let ratio = was.filter(|was| *was > 0.0).map(|was| cost / was);
        if ratio.is_some_and(|ratio| ratio > ALLOWED) {
            worse.push(name.clone());
        }
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let _ = writeln!(table, "| {name} | {} | {cost:.2} | {} |", shown(was), shown(ratio));
    }
    (table, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(all: &[(&str, f64)]) -> Costs {
        all.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect()
    }

    #[test]
    fn the_least_of_all_rounds_counts() {
        let rounds = [costs(&[("a", 3.0), ("b", 1.0)]), costs(&[("a", 2.0), ("c", 5.0)])];
        assert_eq!(least(rounds), costs(&[("a", 2.0), ("b", 1.0), ("c", 5.0)]));
    }

    #[test]
    fn what_costs_over_30_percent_more_is_named_and_nothing_else() {
        let before = costs(&[("a", 100.0), ("b", 100.0), ("gone", 1.0)]);
        let now = costs(&[("a", 129.0), ("b", 131.0), ("new", 7.0)]);
        let (table, worse) = compare(&now, Some(&before));
        assert_eq!(worse, ["b"]);
        assert!(table.contains("| a | 100.00 | 129.00 | 1.29 |") && table.contains("| new | - | 7.00 | - |"));
        assert!(compare(&now, None).1.is_empty());
    }
}
