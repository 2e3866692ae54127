//! The page: families of samples, as text.

use std::fmt::{Display, Write};

use super::{Counter, Counters, Gauge, Histogram, Label, bound_ns};

/// What Prometheus is told that a family is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The text, as far as it is written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    family: String,
}

impl Page {
    /// What the text is to whoever gets it.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family; samples follow. Each name once.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        debug_assert!(is_name(name), "{name}: no name of a metric");
        debug_assert!(!self.text.contains(&format!("# TYPE {name} ")), "{name}: a family twice");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        name.clone_into(&mut self.family);
    }

    /// A value of the family that was begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let series = series(&self.family, "", labels, None);
        self.line(format_args!("{series} {value}"));
    }

    /// A family of one counter.
    pub fn counter(&mut self, name: &str, help: &str, value: &Counter) {
        self.family(name, Kind::Counter, help);
        self.sample(&[], value.get());
    }

    /// A family of one gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: &Gauge) {
        self.value(name, Kind::Gauge, help, value.get());
    }

    /// A family of one value that was counted elsewhere.
    pub fn value(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// A family of counters with one label.
    pub fn counters<L: Label>(&mut self, name: &str, help: &str, label: &str, values: &Counters<L>) {
        self.family(name, Kind::Counter, help);
        for (value, counter) in L::NAMES.iter().zip(&values.each) {
            self.sample(&[(label, value)], counter.get());
        }
    }

    /// The buckets, the sum and the count of a histogram, which belongs to the family that was begun last.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let family = std::mem::take(&mut self.family);
        let mut so_far = 0;
        for (bucket, count) in histogram.buckets.iter().enumerate() {
            so_far += count.load(std::sync::atomic::Ordering::Relaxed);
            let bound = match bucket {
                super::BOUNDS => "+Inf".to_owned(),
                _ => format!("{}", bound_ns(bucket) as f64 / 1e9),
            };
            let series = series(&family, "_bucket", labels, Some(&bound));
            self.line(format_args!("{series} {so_far}"));
        }
        let sum = histogram.sum().as_secs_f64();
        self.line(format_args!("{} {sum}", series(&family, "_sum", labels, None)));
        self.line(format_args!("{} {so_far}", series(&family, "_count", labels, None)));
        self.family = family;
    }

    /// All of it.
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = writeln!(self.text, "{line}");
    }
}

fn series(family: &str, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>) -> String {
    let mut text = format!("{family}{suffix}");
    let mut begin = '{';
    for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{begin}{name}=\"{value}\"");
        begin = ',';
    }
    if begin == ',' {
        text.push('}');
    }
    text
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}
