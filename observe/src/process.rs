//! What the operating system knows of this process, under the names that Prometheus' own libraries give it.

use std::fs;

use crate::metrics::{Kind, Page};

/// Ticks of the clock in which /proc counts; Linux has no other.
const TICKS_PER_S: f64 = 100.0;
/// Bytes of what /proc calls a page: asked of the system it would be the same on all that we run on.
const PAGE_BYTES: u64 = 4096;

/// Memory, processor time, open files. What /proc does not tell is left out.
pub fn write(page: &mut Page) {
    if let Some(pages) = fs::read_to_string("/proc/self/statm").ok().and_then(|text| number(&text, 1)) {
        page.value(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory",
            pages.saturating_mul(PAGE_BYTES),
        );
    }
    // The name of the program comes before these, in brackets, and may hold blanks.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    if let (Some(user), Some(system)) = (number(fields, 11), number(fields, 12)) {
        page.value(
            "process_cpu_seconds_total",
            Kind::Counter,
            "Processor time, of the user and of the system",
            user.saturating_add(system) as f64 / TICKS_PER_S,
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The directory that is being read is one of them.
        let open = open.count().saturating_sub(1);
        page.value("process_open_fds", Kind::Gauge, "Open file descriptors", open);
    }
}

fn number(text: &str, at: usize) -> Option<u64> {
    text.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_it() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.into_text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
