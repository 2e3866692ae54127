//! The upload's seven steps, read back from the logs of several processes (dfs_proto::logging writes them).
//!
//! Every line has a chunk id, but for a client's step 1: it asks for a place before the chunk has an id. That line
//! has `inode` and `upload` instead, and so has the client's line of step 2, which makes the two one upload.

use std::collections::BTreeMap;

use crate::run::is_log_line;

/// One step of one upload, as one process logged it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Step {
    /// As logged: sorts by time.
    pub time: String,
    /// 1 to 7.
    pub number: u32,
    /// The process that logged it.
    pub process: String,
    /// The whole line.
    pub line: String,
}

/// Reads all steps out of (process, log) pairs: by chunk, each sorted by time.
pub fn steps(logs: &[(&str, String)]) -> BTreeMap<String, Vec<Step>> {
    let mut chunks: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for (process, log) in logs {
        // Step 1 of uploads that have no chunk yet, by inode and upload.
        let mut asked: BTreeMap<(&str, &str), Step> = BTreeMap::new();
        for line in log.lines().filter(|l| is_log_line(l) && l.contains(" dfs::upload: ")) {
            let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
            let number =
                field("step=").unwrap_or_else(|| panic!("a line of dfs::upload without a step: {line}"));
            let step = Step {
                time: line.split_whitespace().next().unwrap_or_default().to_owned(),
                number: number.parse().unwrap(),
                process: (*process).to_owned(),
                line: line.to_owned(),
            };
            let upload = field("inode=").zip(field("upload="));
            let Some(chunk) = field("chunk=") else {
                let upload = upload.unwrap_or_else(|| panic!("neither chunk nor upload in: {line}"));
                // Asked again: the first time counts.
                asked.entry(upload).or_insert(step);
                continue;
            };
            let is_id = chunk.len() == 16 && chunk.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_id, "chunk is not 16 hex digits: {line}");
            let of_chunk = chunks.entry(chunk.to_owned()).or_default();
            of_chunk.extend(upload.and_then(|upload| asked.remove(&upload)));
            of_chunk.push(step);
        }
    }
    chunks.values_mut().for_each(|steps| steps.sort());
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_sorted_by_time_over_processes() {
        let a =
            "2026-11-21T02:49:25.000002Z DEBUG dfs::upload: placed step=2 chunk=00000000000000ff\nnoise\n";
        let b = "2026-11-21T02:49:25.000001Z DEBUG dfs::upload: asks step=1 inode=5 upload=7\n\
                 2026-11-21T02:49:25.000003Z DEBUG dfs::upload: got step=2 chunk=00000000000000ff inode=5 upload=7\n\
                 2026-11-21T02:49:25.000004Z DEBUG dfs::upload: sends step=3 chunk=0000000000000100 x=1\n";
        let found = steps(&[("master", a.into()), ("mount", b.into())]);
        let of_first: Vec<_> =
            found["00000000000000ff"].iter().map(|s| (s.number, s.process.as_str())).collect();
        assert_eq!(of_first, [(1, "mount"), (2, "master"), (2, "mount")]);
        assert_eq!(found.len(), 2);
    }
}
