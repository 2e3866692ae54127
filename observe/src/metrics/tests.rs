use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;

crate::labels! {
    enum Op { Look = "look", Write = "write" }
}

#[test]
fn each_time_is_in_the_bucket_whose_bound_is_next() {
    for bucket in 0..BOUNDS {
        assert_eq!(bucket_of(bound_ns(bucket)), bucket);
        assert_eq!(bucket_of(bound_ns(bucket) + 1), bucket + 1);
    }
    assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BOUNDS));
}

#[test]
fn a_histogram_is_shown_as_sums_up_to_each_bound() {
    let times = Histogram::default();
    for us in [1, 16, 17, 20_000_000] {
        times.observe(Duration::from_micros(us));
    }
    let mut page = Page::default();
    page.family("x_seconds", Kind::Histogram, "Waits");
    page.histogram(&[("op", "a")], &times);
    let text = page.into_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "# HELP x_seconds Waits",
            "# TYPE x_seconds histogram",
            r#"x_seconds_bucket{op="a",le="0.000016384"} 2"#,
            r#"x_seconds_bucket{op="a",le="0.000032768"} 3"#,
        ]
    );
    let end = [
        r#"x_seconds_bucket{op="a",le="+Inf"} 4"#,
        r#"x_seconds_sum{op="a"} 20.000034"#,
        r#"x_seconds_count{op="a"} 4"#,
    ];
    assert_eq!(lines[lines.len() - 3..], end);
}

#[test]
fn operations_are_counted_with_their_errors() {
    let operations = Operations::<Op>::default();
    operations.done(Op::Look, Duration::from_millis(1));
    operations.done(Op::Write, Duration::from_millis(1));
    operations.failed(Op::Look, ErrorClass::of_errno(2));
    operations.failed(Op::Write, ErrorClass::of_errno(5));
    let mut page = Page::default();
    operations.write(&mut page, "dfs_request", "Requests");
    let text = page.into_text();
    for line in [
        r#"dfs_requests_total{op="look"} 1"#,
        r#"dfs_requests_total{op="write"} 1"#,
        r#"dfs_request_errors_total{op="look",error="not_found"} 1"#,
        r#"dfs_request_errors_total{op="write",error="io"} 1"#,
        r#"dfs_request_seconds_count{op="write"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("dfs_request_errors_total{").count(), 2);
}

#[test]
fn whatever_a_label_holds_stays_within_its_quotes() {
    let mut page = Page::default();
    page.family("x", Kind::Gauge, "line\nand \\");
    page.sample(&[("name", "a\"}\n\\ 1")], 5);
    assert_eq!(page.into_text(), "# HELP x line\\nand \\\\\n# TYPE x gauge\nx{name=\"a\\\"}\\n\\\\ 1\"} 5\n");
}

#[test]
fn what_is_held_is_counted_while_it_lives() {
    let gauge = Gauge::default();
    let one = gauge.hold();
    assert_eq!(gauge.get(), 1);
    drop(one);
    assert_eq!(gauge.get(), 0);
}

/// Prints what an event costs. The bound is wide: it finds a lock, an allocation or a string, on a slow machine too.
#[test]
fn an_event_costs_next_to_nothing() {
    const EVENTS: u32 = 2_000_000;
    let operations = Operations::<Op>::default();
    let begin = Instant::now();
    for n in 0..EVENTS {
        let operation = if black_box(n) % 2 == 0 { Op::Look } else { Op::Write };
        operations.done(operation, Duration::from_nanos(u64::from(n)));
    }
    let each = begin.elapsed() / EVENTS;
    println!("one operation counted and timed: {} ns", each.as_nanos());
    assert_eq!(operations.count(Op::Look), u64::from(EVENTS / 2));
    assert!(each < Duration::from_micros(2), "{each:?}");
}
