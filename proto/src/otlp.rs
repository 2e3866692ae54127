//! Traces for OpenTelemetry: each line of `dfs::operations` and `dfs::requests` that names an operation is a span, sent as
//! OTLP/HTTP with a body of JSON. A mount's operation, and what master and keepers did for its sake, are one trace: its id, and
//! that of the mount's span, are made of the operation's number, so that nothing more has to be passed along.
//!
//! What must hold: nothing waits for it and nothing fails for it. Whoever does an operation puts a span into a queue of bounded
//! length; when that is full, the span is counted and let go. One thread sends what is there once a second, with deadlines; what
//! the collector does not take is counted and let go, too.

mod send;
mod span;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

pub use send::Endpoint;
use send::Service;
use span::Span;

/// Spans that wait.
const MAX_WAITING: usize = 8 * 1024;

/// There is one subscriber for a process, and so one of each of these.
static SENT: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Name, help and value of what a process counts of it.
pub fn counters() -> [(&'static str, &'static str, u64); 2] {
    [
        (
            "dfs_trace_spans_sent_total",
            "Spans that the collector of --otlp took",
            SENT.load(Ordering::Relaxed),
        ),
        (
            "dfs_trace_spans_dropped_total",
            "Spans that the collector of --otlp did not take, or that there was no room for",
            DROPPED.load(Ordering::Relaxed),
        ),
    ]
}

/// Turns events into spans.
struct Spans(SyncSender<Span>);

impl<S: Subscriber> Layer<S> for Spans {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(span) = Span::of(event)
            && self.0.try_send(span).is_err()
        {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// For the subscriber of a process; starts the thread that sends.
///
/// # Errors
/// There is no thread.
pub(crate) fn layer<S>(endpoint: Endpoint, service: &'static str) -> io::Result<impl Layer<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (spans, waiting) = sync_channel(MAX_WAITING);
    let service = Service::new(service);
    std::thread::Builder::new()
        .name("dfs-otlp".to_owned())
        .spawn(move || send::send_all(&endpoint, &service, &waiting))?;
    Ok(Spans(spans).with_filter(FilterFn::new(is_about_an_operation)))
}

fn is_about_an_operation(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::DEBUG && ["dfs::operations", "dfs::requests"].contains(&metadata.target())
}
