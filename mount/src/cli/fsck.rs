//! `dfs fsck`: sets the look-up table against what keepers have, and with `--repair` mends what can be mended.

use std::time::{Duration, Instant};

use dfs_proto::ids::ChunkId;
use dfs_proto::pb;
use serde::Serialize;

use super::CliError;
use super::output::{Output, printable};
use crate::client::{Master, admin};

/// How often the report is asked for.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// So many reports in a row without any copy under way: nobody can make the copies that are missing.
const IDLE_POLLS: u32 = 20;

#[derive(Serialize)]
struct Finding {
    kind: &'static str,
    keeper: u64,
    chunk: String,
}

#[derive(Serialize)]
struct Report<'a> {
    clean: bool,
    repaired: bool,
    orphans: u64,
    missing: u64,
    wrong: u64,
    unrecorded: u64,
    findings: Vec<Finding>,
    keepers_checked: u64,
    keepers_unchecked: &'a [u64],
    chunks: u64,
    lost: u64,
    endangered: u64,
    under_replicated: u64,
    lost_files: &'a [String],
}

/// What is found is `CliError::Found` when it is mended, `CliError::LeftWrong` when it is not.
pub(super) async fn fsck(master: &Master, repair: bool, limit: Duration, json: bool) -> Result<(), CliError> {
    let by = Instant::now() + limit;
    let number = admin::fsck(master, repair).await?;
    let mut before = None;
    let mut idle = 0;
    let report = loop {
        let report = admin::fsck_report(master, number).await?;
        if report.done {
            let wrong_before = *before.get_or_insert_with(|| is_wrong_now(&report));
            idle = if report.copies_under_way == 0 { idle + 1 } else { 0 };
            let settled = !repair || !is_wrong_now(&report) || idle >= IDLE_POLLS;
            if settled || Instant::now() >= by {
                before = Some(wrong_before);
                break report;
            }
        }
        if Instant::now() >= by {
            break report;
        }
        tokio::time::sleep(POLL_EVERY).await;
    };
    let verdict = verdict(&report, repair, before.unwrap_or(true));
    show(&report, &verdict, json)?;
    match verdict {
        Verdict::Clean => Ok(()),
        Verdict::Mended => Err(CliError::Found),
        Verdict::Wrong => Err(CliError::LeftWrong),
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    Clean,
    Mended,
    Wrong,
}

/// Has some chunk too few copies?
fn is_wrong_now(report: &pb::FsckReport) -> bool {
    report.under_replicated > 0
}

/// `before`: there were chunks with too few copies when every keeper had answered.
fn verdict(report: &pb::FsckReport, repair: bool, before: bool) -> Verdict {
    let differs = report.orphans + report.missing + report.wrong + report.unrecorded > 0;
    let unsure = !report.done || !report.keepers_unchecked.is_empty();
    match (is_wrong_now(report) || unsure || differs && !repair, differs || before) {
        (true, _) => Verdict::Wrong,
        (false, true) => Verdict::Mended,
        (false, false) => Verdict::Clean,
    }
}

fn show(report: &pb::FsckReport, verdict: &Verdict, json: bool) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        output.json(&report_json(report, verdict))?;
    } else {
        output.text(&report_text(report, verdict))?;
    }
    output.finish()
}

fn kind(finding: &pb::FsckFinding) -> &'static str {
    match finding.kind() {
        pb::FsckKind::Orphan => "orphan",
        pb::FsckKind::Missing => "missing",
        pb::FsckKind::Wrong => "wrong",
        pb::FsckKind::Unrecorded => "unrecorded",
    }
}

fn report_json<'a>(report: &'a pb::FsckReport, verdict: &Verdict) -> Report<'a> {
    let finding = |finding: &pb::FsckFinding| Finding {
        kind: kind(finding),
        keeper: finding.keeper,
        chunk: ChunkId(finding.chunk).to_string(),
    };
    Report {
        clean: *verdict == Verdict::Clean,
        repaired: *verdict == Verdict::Mended,
        orphans: report.orphans,
        missing: report.missing,
        wrong: report.wrong,
        unrecorded: report.unrecorded,
        findings: report.findings.iter().map(finding).collect(),
        keepers_checked: report.keepers_checked,
        keepers_unchecked: &report.keepers_unchecked,
        chunks: report.chunks,
        lost: report.lost,
        endangered: report.endangered,
        under_replicated: report.under_replicated,
        lost_files: &report.lost_files,
    }
}

fn report_text(report: &pb::FsckReport, verdict: &Verdict) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| {
            format!("{:<11} chunk {} at keeper {}", kind(finding), ChunkId(finding.chunk), finding.keeper)
        })
        .collect();
    lines.extend(report.lost_files.iter().map(|file| format!("LOST        {}", printable(file.as_bytes()))));
    lines.extend(report.keepers_unchecked.iter().map(|keeper| format!("unchecked   keeper {keeper}")));
    lines.push(format!(
        "table       {} chunks: {} lost, {} endangered, {} with fewer copies than wanted",
        report.chunks, report.lost, report.endangered, report.under_replicated
    ));
    lines.push(format!(
        "keepers     {} checked: {} orphaned chunks, {} copies missing, {} wrong, {} not in the table",
        report.keepers_checked, report.orphans, report.missing, report.wrong, report.unrecorded
    ));
    lines.push(match verdict {
        Verdict::Clean => "clean".to_owned(),
        Verdict::Mended => "mended".to_owned(),
        Verdict::Wrong => "something is wrong; dfs fsck --repair mends what can be mended".to_owned(),
    });
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_clean_mended_or_wrong() {
        let clean = pb::FsckReport { done: true, ..pb::FsckReport::default() };
        assert_eq!(verdict(&clean, false, false), Verdict::Clean);
        assert_eq!(verdict(&clean, true, true), Verdict::Mended);
        let orphans = pb::FsckReport { orphans: 1, ..clean.clone() };
        assert_eq!(verdict(&orphans, true, false), Verdict::Mended);
        assert_eq!(verdict(&orphans, false, false), Verdict::Wrong);
        let lost = pb::FsckReport { lost: 1, under_replicated: 1, ..clean.clone() };
        assert_eq!(verdict(&lost, true, true), Verdict::Wrong);
        let unsure = pb::FsckReport { keepers_unchecked: vec![3], ..clean.clone() };
        assert_eq!(verdict(&unsure, true, false), Verdict::Wrong);
        assert_eq!(verdict(&pb::FsckReport { done: false, ..clean }, false, false), Verdict::Wrong);
    }

    #[test]
    fn a_report_names_chunks_files_and_keepers() {
        let finding = pb::FsckFinding { kind: pb::FsckKind::Missing as i32, keeper: 3, chunk: 255 };
        let report = pb::FsckReport {
            findings: vec![finding],
            lost_files: vec!["/a/b".into()],
            keepers_unchecked: vec![7],
            ..pb::FsckReport::default()
        };
        let text = report_text(&report, &Verdict::Wrong);
        for line in
            ["missing     chunk 00000000000000ff at keeper 3", "LOST        /a/b", "unchecked   keeper 7"]
        {
            assert!(text.contains(line), "{text}");
        }
    }
}
