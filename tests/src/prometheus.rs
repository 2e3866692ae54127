//! The text format of Prometheus (0.0.4), read as strictly as can be.

use std::collections::{BTreeMap, BTreeSet};

/// One value.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// With its suffix, if the family is a histogram.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// NaN and infinity are not allowed here.
    pub value: f64,
}

/// A whole page.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Name and type of each family.
    pub families: BTreeMap<String, String>,
    /// In order.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Reads a page.
    ///
    /// # Panics
    /// At the first thing that is not as the format has it; the message has the line.
    #[track_caller]
    pub fn parse(text: &str) -> Scrape {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut scrape = Scrape::default();
        let (mut family, mut helped, mut seen) = (String::new(), String::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(!words.is_empty(), "{line}");
                helped = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                assert_eq!(name, helped, "its help has to come first: {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "as counters are named: {line}");
                let twice = scrape.families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(twice, None, "a family twice: {line}");
                family = name.to_owned();
            } else {
                let sample = sample(line);
                let of = match scrape.families.get(&family).map(String::as_str) {
                    Some("histogram") => {
                        let suffixes = ["_bucket", "_sum", "_count"];
                        suffixes.iter().find_map(|suffix| sample.name.strip_suffix(suffix)).unwrap_or("")
                    }
                    _ => &sample.name,
                };
                assert_eq!(of, family, "outside of its family: {line}");
                assert!(seen.insert(format!("{}{:?}", sample.name, sample.labels)), "twice: {line}");
                scrape.samples.push(sample);
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// The value with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.iter().find(|s| s.name == name && s.labels == labels).map(|s| s.value)
    }

    /// All values of this name together.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
    }

    /// Buckets grow, and the last is the count.
    fn check_histograms(&self) {
        type Buckets = Vec<(f64, f64)>;
        let mut histograms: BTreeMap<(String, Vec<(String, String)>), Buckets> = BTreeMap::new();
        for sample in &self.samples {
            let Some(name) = sample.name.strip_suffix("_bucket") else { continue };
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le").unwrap_or_else(|| panic!("a bucket without a bound: {sample:?}"));
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            let key = (name.to_owned(), labels.into_iter().collect());
            histograms.entry(key).or_default().push((bound, sample.value));
        }
        for ((name, labels), buckets) in histograms {
            for pair in buckets.windows(2) {
                assert!(pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1, "{name}{labels:?}: {pair:?}");
            }
            let last = buckets.last().unwrap();
            let labels: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(last.0, f64::INFINITY, "{name}");
            assert_eq!(self.value(&format!("{name}_count"), &labels), Some(last.1), "{name}");
            assert!(self.value(&format!("{name}_sum"), &labels).is_some(), "{name}");
        }
    }
}

fn sample(line: &str) -> Sample {
    let bad = || -> ! { panic!("no sample: {line:?}") };
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| bad());
    let value: f64 = value.parse().unwrap_or_else(|_| bad());
    assert!(value.is_finite() && value >= 0.0, "{line}");
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| bad())),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").unwrap_or_else(|| bad());
        assert!(is_name(label), "{line}");
        let (mut value, mut chars) = (String::new(), quoted.char_indices());
        let end = loop {
            match chars.next().unwrap_or_else(|| bad()) {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => value.push(c),
                    _ => bad(),
                },
                (_, c) => value.push(c),
            }
        };
        assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
        rest = &quoted[end + 1..];
        rest = match rest.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            None if rest.is_empty() => rest,
            _ => bad(),
        };
    }
    Sample { name: name.to_owned(), labels, value }
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total A\n# TYPE a_total counter\n";

    #[test]
    fn what_is_right_is_read() {
        let scrape = Scrape::parse(&format!("{HEAD}a_total{{x=\"\\\"}},\\n\",y=\"\"}} 5\n"));
        assert_eq!(scrape.value("a_total", &[("x", "\"},\n"), ("y", "")]), Some(5.0));
    }

    #[test]
    fn what_is_wrong_is_found() {
        for wrong in [
            "a_total 5",
            "b 5\n",
            "a_total{x=1} 5\n",
            "a_total{x=\"1\",} 5\n",
            "a_total 5\na_total 6\n",
            "a_total five\n",
        ] {
            let text = format!("{HEAD}{wrong}");
            assert!(std::panic::catch_unwind(|| Scrape::parse(&text)).is_err(), "{wrong:?}");
        }
        let histogram = "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 2\n";
        assert!(std::panic::catch_unwind(|| Scrape::parse(histogram)).is_err());
    }
}
