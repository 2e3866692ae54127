//! A walk over a local tree: every entry before what is below it, in no order. Links are seen and not followed.

use std::fs::{Metadata, ReadDir};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::crew::{Step, Steps};
use crate::cli::CliError;

/// Steps that wait.
const AHEAD: usize = 256;

/// A local entry.
pub(super) struct Local {
    pub(super) path: PathBuf,
    pub(super) meta: Metadata,
}

/// A walk on a thread of its own, a little ahead of whoever takes its steps.
pub(super) struct LocalWalk(mpsc::Receiver<Step<Local>>);

impl Steps for LocalWalk {
    type Item = Local;

    async fn next(&mut self) -> Result<Option<Step<Local>>, CliError> {
        Ok(self.0.recv().await)
    }
}

impl LocalWalk {
    pub(super) fn begin(what: &'static str, top: PathBuf, meta: Metadata) -> LocalWalk {
        let (sender, steps) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            walk(what, top, meta, &|step| sender.blocking_send(step).is_ok())
        });
        LocalWalk(steps)
    }
}

/// Hands every step to `each`, until that wants no more.
fn walk(what: &'static str, top: PathBuf, meta: Metadata, each: &dyn Fn(Step<Local>) -> bool) {
    let failed = |path: &Path, error: std::io::Error| {
        Step::Failed(CliError::local(what, path, &error, "see that it is readable"))
    };
    let mut within: Vec<Option<ReadDir>> = Vec::new();
    let mut enter = Some((top, meta));
    loop {
        if let Some((path, meta)) = enter.take() {
            let entries = std::fs::read_dir(&path);
            if !each(Step::Enter(Local { path: path.clone(), meta })) {
                return;
            }
            match entries {
                Ok(entries) => within.push(Some(entries)),
                Err(error) => {
                    within.push(None);
                    if !each(failed(&path, error)) {
                        return;
                    }
                }
            }
        }
        let Some(entries) = within.last_mut() else { return };
        let goes_on = match entries.as_mut().and_then(Iterator::next) {
            None => {
                within.pop();
                each(Step::Left)
            }
            Some(Err(error)) => {
                *entries = None;
                each(failed(Path::new("a directory"), error))
            }
            Some(Ok(entry)) => match entry.metadata() {
                Ok(meta) if meta.is_dir() => {
                    enter = Some((entry.path(), meta));
                    true
                }
                Ok(meta) => each(Step::One(Local { path: entry.path(), meta })),
                Err(error) => each(failed(&entry.path(), error)),
            },
        };
        if !goes_on {
            return;
        }
    }
}

/// Of regular files.
pub(super) fn bytes_below(top: &Path) -> u64 {
    let sum = std::cell::Cell::new(0);
    if let Ok(meta) = top.metadata() {
        walk("", top.to_owned(), meta, &|step| {
            if let Step::One(local) = step
                && local.meta.is_file()
            {
                sum.set(sum.get() + local.meta.len());
            }
            true
        });
    }
    sum.get()
}
