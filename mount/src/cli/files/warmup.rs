//! `dfs warmup`: reads files of a mount, so that its cache has them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;

use super::crew::{Crew, Job};
use super::get::blocking;
use super::local::{Local, LocalWalk, bytes_below};
use super::moving::count;
use crate::cli::output::{Output, human};
use crate::cli::progress::{Progress, Tally, is_shown};
use crate::cli::stop::Stop;
use crate::cli::{CliError, mounts};

/// Files read at once; each is read ahead by the mount, from several keepers.
const AT_ONCE: usize = 4;
/// Bytes read at a time.
const PIECE: usize = 1024 * 1024;
const REMEDY: &str = "see that it is there and readable";

#[derive(Serialize)]
struct Warmed {
    files: u64,
    bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
}

pub(super) async fn warmup(path: &Path, json: bool) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::local("warmup", path, &error, REMEDY);
    let place = path.to_owned();
    let (top, meta) = mounts::within_deadline("warmup", path, move || {
        let top = place.canonicalize()?;
        let meta = top.metadata()?;
        Ok((top, meta))
    })
    .await?;
    mounts::holding("warmup", &top)?;
    let tally = Tally::new(meta.is_file().then_some(meta.len()));
    if is_shown() && meta.is_dir() {
        let (top, tally) = (top.clone(), tally.clone());
        tokio::task::spawn_blocking(move || tally.set_total(bytes_below(&top)));
    }
    let began = Instant::now();
    let progress = Progress::of(&tally);
    let stop = Stop::on_signal();
    let job = Arc::new(Warming { tally: tally.clone(), stop: stop.clone() });
    let warmed = match meta.is_dir() {
        true => {
            let walk = LocalWalk::begin("warmup", top, meta);
            Crew::new(job, AT_ONCE).work(walk, &stop).await.into_result("warmup")
        }
        false => job.read(top).await.map_err(failed),
    };
    progress.end().await;
    if stop.is_set() {
        return Err(CliError::Interrupted);
    }
    warmed?;
    let (files, bytes) = (tally.files.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
    let seconds = began.elapsed().as_secs_f64().max(1e-6);
    let bytes_per_second = bytes as f64 / seconds;
    let mut output = Output::new();
    match json {
        true => output.json(&Warmed { files, bytes, seconds, bytes_per_second })?,
        false => {
            let (size, rate) = (human(bytes), human(bytes_per_second as u64));
            output.text(&format!("{files} files, {size} in {seconds:.1} s, {rate}/s\n"))?;
        }
    }
    output.finish()
}

struct Warming {
    tally: Arc<Tally>,
    stop: Stop,
}

impl Job for Warming {
    type Dir = ();
    type Item = Local;

    async fn enter(&self, _: Option<&()>, _: Local) -> Result<(), CliError> {
        Ok(())
    }

    async fn one(&self, (): &(), item: Local) -> Result<(), CliError> {
        if !item.meta.is_file() {
            return Ok(());
        }
        let path = item.path.clone();
        self.read(path).await.map_err(|error| CliError::local("warmup", &item.path, &error, REMEDY))
    }

    async fn leave(&self, (): &()) -> Result<(), CliError> {
        Ok(())
    }
}

impl Warming {
    /// To the end, or until it is to stop.
    async fn read(&self, path: PathBuf) -> std::io::Result<()> {
        let (tally, stop) = (self.tally.clone(), self.stop.clone());
        blocking(move || {
            let (mut file, mut piece) = (std::fs::File::open(path)?, vec![0; PIECE]);
            while !stop.is_set() {
                match file.read(&mut piece)? {
                    0 => {
                        count(&tally.files, 1);
                        break;
                    }
                    read => count(&tally.bytes, read as u64),
                }
            }
            Ok(())
        })
        .await
    }
}
