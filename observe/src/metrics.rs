//! Counters, gauges and histograms of latencies, and the page on which Prometheus reads them (text format 0.0.4).
//!
//! What must hold: to count costs a few atomic additions, and never a lock, an allocation or the making of a string. That is
//! why what can be counted is known beforehand: the values of a label are the variants of an enum ([`labels!`]), and what
//! is counted of them is in an array with a place for each. Strings are made when somebody reads the page.
//!
//! Counts are relaxed: a page may show a request whose bytes it does not show yet.

mod page;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub use page::{Kind, Page};

/// Makes an enum whose variants are the values of a label.
#[macro_export]
macro_rules! labels {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        $vis enum $name { $($variant),+ }

        impl $crate::metrics::Label for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];
            fn index(self) -> usize { self as usize }
        }
    };
}

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// More, or less.
    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// It is so much now.
    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more for as long as what is returned lives.
    pub fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }
}

/// See [`Gauge::hold`].
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Bounds of a histogram: 16 us, 33 us, ... each twice the one before, up to 8.6 s.
pub const BOUNDS: usize = 20;
const FIRST_BOUND_BITS: u32 = 14;

/// The upper bound of a bucket, in nanoseconds.
fn bound_ns(bucket: usize) -> u64 {
    1 << (FIRST_BOUND_BITS as usize + bucket)
}

/// In which bucket this belongs; the last is for all that is longer than every bound.
fn bucket_of(ns: u64) -> usize {
    let doublings = u64::BITS - (ns.saturating_sub(1) >> FIRST_BOUND_BITS).leading_zeros();
    (doublings as usize).min(BOUNDS)
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }
}

/// The values of a label: an enum that [`labels!`] made.
pub trait Label: Copy + 'static {
    /// As they are shown, in the order of the variants.
    const NAMES: &'static [&'static str];
    /// Of this variant.
    fn index(self) -> usize;
    /// As it is shown.
    fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
pub struct Counters<L> {
    each: Box<[Counter]>,
    label: PhantomData<L>,
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Counters<L> {
        Counters { each: L::NAMES.iter().map(|_| Counter::default()).collect(), label: PhantomData }
    }
}

impl<L: Label> Counters<L> {
    /// Of this value.
    pub fn of(&self, value: L) -> &Counter {
        &self.each[value.index()]
    }
}

crate::labels! {
    /// What kind of error ended an operation: the errnos of Linux, in groups that somebody acts on.
    pub enum ErrorClass {
        NotFound = "not_found",
        Exists = "exists",
        Denied = "denied",
        Invalid = "invalid",
        NoSpace = "no_space",
        Busy = "busy",
        Interrupted = "interrupted",
        TimedOut = "timed_out",
        Io = "io",
    }
}

impl ErrorClass {
    /// Of an errno of Linux (errno(3); the same on every architecture that we build for).
    pub fn of_errno(errno: i32) -> ErrorClass {
        match errno {
            // ENOENT, ENODATA
            2 | 61 => ErrorClass::NotFound,
            // EEXIST, ENOTDIR, EISDIR, ENOTEMPTY
            17 | 20 | 21 | 39 => ErrorClass::Exists,
            // EPERM, EACCES, EROFS
            1 | 13 | 30 => ErrorClass::Denied,
            // EFBIG, ENOSPC, EDQUOT
            27 | 28 | 122 => ErrorClass::NoSpace,
            // EAGAIN, EBUSY, EDEADLK
            11 | 16 | 35 => ErrorClass::Busy,
            // EINTR
            4 => ErrorClass::Interrupted,
            // ETIMEDOUT
            110 => ErrorClass::TimedOut,
            // EIO, EPROTO, ESTALE
            5 | 71 | 116 => ErrorClass::Io,
            _ => ErrorClass::Invalid,
        }
    }
}

/// Requests by operation: how many, how long they took, and which errors they ended with.
#[derive(Debug)]
pub struct Operations<O> {
    took: Box<[Histogram]>,
    /// Of an operation one after the other, by class.
    errors: Box<[Counter]>,
    label: PhantomData<O>,
}

const CLASSES: usize = ErrorClass::NAMES.len();

impl<O: Label> Default for Operations<O> {
    fn default() -> Operations<O> {
        Operations {
            took: O::NAMES.iter().map(|_| Histogram::default()).collect(),
            errors: (0..O::NAMES.len() * CLASSES).map(|_| Counter::default()).collect(),
            label: PhantomData,
        }
    }
}

impl<O: Label> Operations<O> {
    /// One is over.
    pub fn done(&self, operation: O, took: Duration) {
        self.took[operation.index()].observe(took);
    }

    /// One ended with an error; that it is over, and how long it took, is said with [`Operations::done`].
    pub fn failed(&self, operation: O, class: ErrorClass) {
        self.errors[operation.index() * CLASSES + class.index()].inc();
    }

    /// How many there were of an operation.
    pub fn count(&self, operation: O) -> u64 {
        self.took[operation.index()].count()
    }

    /// Three families: `{name}s_total`, `{name}_errors_total` and `{name}_seconds`. Of the last two those are left out that
    /// never were, which are most.
    pub fn write(&self, page: &mut Page, name: &str, what: &str) {
        page.family(&format!("{name}s_total"), Kind::Counter, what);
        for (operation, took) in O::NAMES.iter().zip(&self.took) {
            page.sample(&[("op", operation)], took.count());
        }
        page.family(
            &format!("{name}_errors_total"),
            Kind::Counter,
            &format!("{what}, that ended with an error"),
        );
        for (at, count) in self.errors.iter().enumerate().filter(|(_, count)| count.get() > 0) {
            let (operation, error) = (O::NAMES[at / CLASSES], ErrorClass::NAMES[at % CLASSES]);
            page.sample(&[("op", operation), ("error", error)], count.get());
        }
        page.family(&format!("{name}_seconds"), Kind::Histogram, &format!("{what}: how long they took"));
        for (operation, took) in O::NAMES.iter().zip(&self.took).filter(|(_, took)| took.count() > 0) {
            page.histogram(&[("op", operation)], took);
        }
    }
}
