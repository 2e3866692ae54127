//! One span, made of the fields of an event (docs/OPERATIONS.md, Logs).

use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tracing::Event;
use tracing::field::{Field, Visit};

/// OTLP's own numbers.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const FAILED: u8 = 2;
/// The only program whose lines have this target is the one where an operation begins.
const BEGINS: &str = "dfs::operations";

/// Begins anywhere, so that those of two processes differ.
static NEXT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish()));

/// Something that is over.
#[derive(Debug)]
pub(super) struct Span {
    operation: u64,
    /// 0 for the mount's own, which has the operation's number.
    number: u64,
    name: String,
    ended: SystemTime,
    took: Duration,
    failed: bool,
    attributes: Vec<(&'static str, String)>,
}

impl Span {
    /// `None`: it is about no operation.
    pub fn of(event: &Event<'_>) -> Option<Span> {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let begins = event.metadata().target() == BEGINS;
        Some(Span {
            operation: fields.operation.filter(|&operation| operation != 0)?,
            number: if begins { 0 } else { NEXT.fetch_add(1, Ordering::Relaxed).max(1) },
            name: fields.name,
            ended: SystemTime::now(),
            took: Duration::from_micros(fields.took_us),
            failed: fields.failed,
            attributes: fields.attributes,
        })
    }

    /// As OTLP has it in JSON: ids in hex, 64-bit numbers as text.
    pub fn json(&self) -> Value {
        let ns =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        let began = self.ended.checked_sub(self.took).unwrap_or(self.ended);
        let text = |(key, value): &(&str, String)| json!({ "key": key, "value": { "stringValue": value } });
        let operation = format!("{:016x}", self.operation);
        let mut span = json!({
            "traceId": format!("{:032x}", self.operation),
            "spanId": operation,
            "name": self.name,
            "kind": INTERNAL,
            "startTimeUnixNano": ns(began),
            "endTimeUnixNano": ns(self.ended),
            "attributes": self.attributes.iter().map(text).collect::<Vec<_>>(),
        });
        if self.number != 0 {
            span["spanId"] = json!(format!("{:016x}", self.number));
            span["parentSpanId"] = json!(operation);
            span["kind"] = json!(SERVER);
        }
        if self.failed {
            span["status"] = json!({ "code": FAILED });
        }
        span
    }
}

/// What is read from an event.
#[derive(Default)]
struct Fields {
    operation: Option<u64>,
    name: String,
    took_us: u64,
    failed: bool,
    attributes: Vec<(&'static str, String)>,
}

impl Fields {
    fn take(&mut self, field: &'static str, value: String) {
        match field {
            "operation" => self.operation = u64::from_str_radix(&value, 16).ok(),
            "call" | "op" => self.name = value,
            // Where nothing better is said.
            "message" if self.name.is_empty() => self.name = value,
            "message" => {}
            "took_us" => self.took_us = value.parse().unwrap_or_default(),
            "errno" | "error" => {
                if !["0", "None"].contains(&&*value) {
                    self.failed = true;
                    self.attributes.push((field, value));
                }
            }
            _ => self.attributes.push((field, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(number: u64) -> Value {
        let ended = UNIX_EPOCH + Duration::from_nanos(5_000_000_000);
        let (name, took) = ("open".to_owned(), Duration::from_micros(7));
        let attributes = vec![("inode", "4".to_owned())];
        Span { operation: 0xab, number, name, ended, took, failed: number != 0, attributes }.json()
    }

    #[test]
    fn what_was_done_for_an_operation_is_below_it() {
        let (above, below) = (span(0), span(9));
        assert_eq!(above["traceId"], "000000000000000000000000000000ab");
        assert_eq!(above["spanId"], "00000000000000ab");
        assert!(above.get("parentSpanId").is_none() && above.get("status").is_none());
        assert_eq!(below["traceId"], above["traceId"]);
        assert_eq!(below["parentSpanId"], above["spanId"]);
        assert_eq!((&below["spanId"], &below["status"]["code"]), (&json!("0000000000000009"), &json!(2)));
        assert_eq!(above["startTimeUnixNano"], "4999993000");
        assert_eq!(above["endTimeUnixNano"], "5000000000");
        assert_eq!(above["attributes"][0]["value"]["stringValue"], "4");
    }
}
