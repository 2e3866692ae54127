//! The figures that a process counts, at one moment: read from the page that Prometheus reads (text format 0.0.4), as far as they are
//! counters and histograms of operations.

use std::collections::BTreeMap;
use std::time::Duration;

/// What was counted of one operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Operation {
    pub(super) count: f64,
    pub(super) errors: f64,
    pub(super) sum_s: f64,
    /// Upper bound in seconds, and how many took no longer.
    buckets: Vec<(f64, f64)>,
}

/// Families of operations by their names without `_seconds`, and plain counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) families: BTreeMap<String, BTreeMap<String, Operation>>,
    pub(super) values: BTreeMap<String, f64>,
}

impl Figures {
    /// What makes no sense in it is left out.
    pub(super) fn parse(page: &str) -> Figures {
        let mut figures = Figures::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            figures.take(name, labels.trim_end_matches('}'), value);
        }
        figures
    }

    fn take(&mut self, name: &str, labels: &str, value: f64) {
        let Some(operation) = label(labels, "op") else {
            // Of one value each; those with other labels are of no use here.
            if labels.is_empty() {
                self.values.insert(name.to_owned(), value);
            }
            return;
        };
        let ends = ["_seconds_bucket", "_seconds_sum", "_seconds_count", "_errors_total", "s_total"];
        let Some((family, end)) = ends.iter().find_map(|end| Some((name.strip_suffix(end)?, *end))) else {
            return;
        };
        let of_family = self.families.entry(family.to_owned()).or_default();
        let operation = of_family.entry(operation.to_owned()).or_default();
        match end {
            "_seconds_bucket" => {
                let bound = label(labels, "le").and_then(|bound| match bound {
                    "+Inf" => Some(f64::INFINITY),
                    bound => bound.parse().ok(),
                });
                operation.buckets.extend(bound.map(|bound| (bound, value)));
            }
            "_seconds_sum" => operation.sum_s += value,
            "_seconds_count" => operation.count += value,
            "_errors_total" => operation.errors += value,
            _ => {}
        }
    }

    pub(super) fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(0.0)
    }

    /// What was done of a family since `before`, that of which most time was spent first. What was not done is not in it.
    pub(super) fn since(&self, before: &Figures, family: &str) -> Vec<(String, Operation)> {
        let none = BTreeMap::new();
        let (now, then) =
            (self.families.get(family).unwrap_or(&none), before.families.get(family).unwrap_or(&none));
        let mut done: Vec<_> = now
            .iter()
            .map(|(name, operation)| (name.clone(), operation.since(then.get(name))))
            .filter(|(_, operation)| operation.count > 0.0)
            .collect();
        done.sort_by(|(_, a), (_, b)| b.sum_s.total_cmp(&a.sum_s));
        done
    }
}

/// The value of a label. Those that we read have no quotes in them.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

impl Operation {
    fn since(&self, before: Option<&Operation>) -> Operation {
        // Another process was started meanwhile: all of it is new.
        let Some(before) = before.filter(|before| before.count <= self.count) else { return self.clone() };
        let mut bounds: Vec<f64> = self.buckets.iter().map(|(bound, _)| *bound).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        Operation {
            count: self.count - before.count,
            errors: (self.errors - before.errors).max(0.0),
            sum_s: (self.sum_s - before.sum_s).max(0.0),
            buckets: bounds
                .iter()
                .map(|bound| (*bound, self.within(*bound) - before.within(*bound)))
                .collect(),
        }
    }

    /// How many took no longer. Buckets that say nothing new may be left out, and several series may be in one.
    fn within(&self, bound: f64) -> f64 {
        let mut sum = 0.0;
        let mut series_max = 0.0_f64;
        let mut last_bound = f64::NEG_INFINITY;
        for (upper, count) in &self.buckets {
            if *upper <= last_bound {
                sum += series_max;
                series_max = 0.0;
            }
            last_bound = *upper;
            if *upper <= bound {
                series_max = *count;
            }
        }
        sum + series_max
    }

    pub(super) fn mean(&self) -> Duration {
        Duration::from_secs_f64((self.sum_s / self.count.max(1.0)).max(0.0))
    }

    /// An upper bound of how long this share of them took; `None` when that is longer than every bound.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = self.count * share;
        let mut buckets: Vec<f64> = self.buckets.iter().map(|(bound, _)| *bound).collect();
        buckets.sort_by(f64::total_cmp);
        let bound = buckets.into_iter().find(|bound| self.within(*bound) >= wanted)?;
        bound.is_finite().then(|| Duration::from_secs_f64(bound))
    }
}

/// A time for people.
pub(super) fn shown(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} us", s * 1e6),
    }
}

/// The same of a quantile.
pub(super) fn shown_at_most(time: Option<Duration>) -> String {
    time.map_or_else(|| "longer".to_owned(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE dfs_x_seconds histogram
dfs_xs_total{op=\"read\"} 5
dfs_x_errors_total{op=\"read\",error=\"io\"} 1
dfs_x_errors_total{op=\"read\",error=\"busy\"} 2
dfs_x_seconds_bucket{op=\"read\",le=\"0.001\"} 2
dfs_x_seconds_bucket{op=\"read\",le=\"0.004\"} 4
dfs_x_seconds_bucket{op=\"read\",le=\"+Inf\"} 5
dfs_x_seconds_sum{op=\"read\"} 1.5
dfs_x_seconds_count{op=\"read\"} 5
dfs_bytes_total 100
dfs_wait_seconds_bucket{op=\"a\",lane=\"1\",le=\"0.001\"} 1
dfs_wait_seconds_bucket{op=\"a\",lane=\"1\",le=\"+Inf\"} 1
dfs_wait_seconds_count{op=\"a\",lane=\"1\"} 1
dfs_wait_seconds_bucket{op=\"a\",lane=\"2\",le=\"0.002\"} 3
dfs_wait_seconds_bucket{op=\"a\",lane=\"2\",le=\"+Inf\"} 3
dfs_wait_seconds_count{op=\"a\",lane=\"2\"} 3
nonsense
";

    #[test]
    fn a_page_is_read() {
        let figures = Figures::parse(PAGE);
        let read = &figures.families["dfs_x"]["read"];
        assert_eq!((read.count, read.errors, read.sum_s), (5.0, 3.0, 1.5));
        assert_eq!(figures.value("dfs_bytes_total"), 100.0);
        assert_eq!(read.mean(), Duration::from_millis(300));
        assert_eq!(read.quantile(0.4), Some(Duration::from_millis(1)));
        assert_eq!(read.quantile(0.5), Some(Duration::from_millis(4)));
        assert_eq!(read.quantile(0.99), None);
        let both = &figures.families["dfs_wait"]["a"];
        assert_eq!(
            (both.count, both.quantile(0.2), both.quantile(0.9)),
            (4.0, Some(Duration::from_millis(1)), Some(Duration::from_millis(2)))
        );
    }

    #[test]
    fn what_happened_between_two_moments() {
        let (before, mut after) = (Figures::parse(PAGE), Figures::parse(PAGE));
        assert!(after.since(&before, "dfs_x").is_empty());
        let read = after.families.get_mut("dfs_x").unwrap().get_mut("read").unwrap();
        read.count += 3.0;
        read.sum_s += 0.003;
        read.buckets = vec![(0.001, 5.0), (0.004, 7.0), (f64::INFINITY, 8.0)];
        let done = after.since(&before, "dfs_x");
        assert_eq!(done[0].1.count, 3.0);
        assert_eq!(done[0].1.quantile(0.99), Some(Duration::from_millis(1)));
        // A process that was started anew.
        assert_eq!(before.since(&after, "dfs_x")[0].1.count, 5.0);
    }

    #[test]
    fn times_for_people() {
        let of = |ns| shown(Duration::from_nanos(ns));
        assert_eq!([of(16_384), of(1_500_000), of(2_000_000_000)], ["16 us", "1.50 ms", "2.00 s"]);
    }
}
