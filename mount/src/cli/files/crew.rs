//! Work on a tree, many entries side by side.
//!
//! What must hold: no more than so many are under way at once; a directory's end is worked on when all below it is done, and not when
//! something below it failed; one failure stops nothing but what hangs on it, unless it says that nothing can succeed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cli::CliError;
use crate::cli::stop::Stop;
use crate::lock::lock;

/// So many failures are no accident.
const ENOUGH: u64 = 100;

/// What is done.
pub(super) trait Job: Send + Sync + 'static {
    /// Of a directory, what its entries need.
    type Dir: Send + Sync + 'static;
    /// Of an entry.
    type Item: Send + 'static;

    /// The beginning of a directory, which is in `above`.
    fn enter(
        &self,
        above: Option<&Self::Dir>,
        item: Self::Item,
    ) -> impl Future<Output = Result<Self::Dir, CliError>> + Send;

    /// An entry that is no directory.
    fn one(&self, dir: &Self::Dir, item: Self::Item) -> impl Future<Output = Result<(), CliError>> + Send;

    /// The end of a directory.
    fn leave(&self, dir: &Self::Dir) -> impl Future<Output = Result<(), CliError>> + Send;
}

/// What a walk comes by.
#[derive(Debug)]
pub(super) enum Step<I> {
    /// A directory. What follows is in it, until it is left.
    Enter(I),
    /// Anything else.
    One(I),
    /// All below the directory that was entered last, and not left yet, has been seen.
    Left,
    /// Something could not be looked at.
    Failed(CliError),
}

/// A walk.
pub(super) trait Steps {
    type Item;

    /// The next step; `None` when there is none any more. An error ends the walk.
    fn next(&mut self) -> impl Future<Output = Result<Option<Step<Self::Item>>, CliError>> + Send;
}

/// A directory that is being worked on.
struct Node<D> {
    dir: D,
    above: Option<Arc<Node<D>>>,
    /// Entries that are not done, and one for whoever walks through it.
    left: AtomicUsize,
    has_failed: AtomicBool,
}

/// How it went.
#[derive(Default)]
pub(super) struct Failures {
    pub(super) count: u64,
    pub(super) first: Option<CliError>,
    is_hopeless: bool,
}

impl Failures {
    fn note(&mut self, error: CliError) {
        self.count += 1;
        // The cluster cannot be reached, or somebody wants the end.
        self.is_hopeless |= matches!(error, CliError::Dfs(_) | CliError::Interrupted) || self.count >= ENOUGH;
        // An interruption is what ends it, whatever came before.
        if self.first.is_none() || matches!(error, CliError::Interrupted) {
            self.first = Some(error);
        }
    }

    /// One line for all of them: `what` did not succeed with so many.
    pub(super) fn into_result(self, what: &str) -> Result<(), CliError> {
        match (self.count, self.first) {
            (_, None) => Ok(()),
            (_, Some(error @ (CliError::Interrupted | CliError::Dfs(_)))) | (1, Some(error)) => Err(error),
            (count, Some(error)) => {
                Err(CliError::Local(format!("{what}: {count} failed, the first: {error}")))
            }
        }
    }
}

/// See the module.
pub(super) struct Crew<J: Job> {
    job: Arc<J>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
    failures: Arc<Mutex<Failures>>,
}

impl<J: Job> Crew<J> {
    /// For so many entries at once.
    pub(super) fn new(job: Arc<J>, at_once: usize) -> Crew<J> {
        let places = Arc::new(Semaphore::new(at_once));
        Crew { job, places, tasks: JoinSet::new(), failures: Arc::default() }
    }

    /// Works on all that the walk comes by. What is in a directory that could not be entered is left out.
    pub(super) async fn work(mut self, mut steps: impl Steps<Item = J::Item>, stop: &Stop) -> Failures {
        let mut within: Vec<Option<Arc<Node<J::Dir>>>> = Vec::new();
        while !self.is_hopeless() {
            let step = tokio::select! {
                step = steps.next() => step,
                () = stop.wait() => Err(CliError::Interrupted),
            };
            let here = within.last().cloned();
            match (step, here) {
                (Ok(Some(Step::Enter(_))), Some(None)) => within.push(None),
                (Ok(Some(Step::Enter(item))), here) => {
                    let above = here.flatten();
                    let node = self.enter(above, item).await;
                    within.push(node);
                }
                (Ok(Some(Step::One(item))), Some(Some(node))) => self.add(&node, item).await,
                (Ok(Some(Step::Left)), Some(Some(node))) => {
                    within.pop();
                    self.leave(node).await;
                }
                (Ok(Some(Step::Left)), _) => drop(within.pop()),
                (Ok(Some(Step::Failed(error))), here) => self.failed(here.flatten().as_ref(), error),
                (Ok(Some(Step::One(_))), _) => {}
                (Ok(None), _) => break,
                (Err(error), here) => {
                    self.failed(here.flatten().as_ref(), error);
                    break;
                }
            }
        }
        self.end().await
    }

    async fn enter(&self, above: Option<Arc<Node<J::Dir>>>, item: J::Item) -> Option<Arc<Node<J::Dir>>> {
        match self.job.enter(above.as_ref().map(|node| &node.dir), item).await {
            Ok(dir) => {
                if let Some(above) = &above {
                    above.left.fetch_add(1, Ordering::AcqRel);
                }
                let (left, has_failed) = (AtomicUsize::new(1), AtomicBool::new(false));
                Some(Arc::new(Node { dir, above, left, has_failed }))
            }
            Err(error) => {
                self.failed(above.as_ref(), error);
                None
            }
        }
    }

    /// Begins with an entry, when there is a place.
    async fn add(&mut self, node: &Arc<Node<J::Dir>>, item: J::Item) {
        node.left.fetch_add(1, Ordering::AcqRel);
        let (job, node, failures) = (self.job.clone(), node.clone(), self.failures.clone());
        self.spawn(async move {
            if let Err(error) = job.one(&node.dir, item).await {
                node.has_failed.store(true, Ordering::Release);
                lock(&failures).note(error);
            }
            settle(&*job, node, &failures).await;
        })
        .await;
    }

    /// No more entries of this directory come.
    async fn leave(&mut self, node: Arc<Node<J::Dir>>) {
        let (job, failures) = (self.job.clone(), self.failures.clone());
        self.spawn(async move { settle(&*job, node, &failures).await }).await;
    }

    async fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        // Only what is under way has to be kept.
        while self.tasks.try_join_next().is_some() {}
        let place = self.places.clone().acquire_owned().await;
        self.tasks.spawn(async move {
            let _place = place;
            work.await;
        });
    }

    /// Something of the walk itself, which belongs to this directory.
    fn failed(&self, node: Option<&Arc<Node<J::Dir>>>, error: CliError) {
        if let Some(node) = node {
            node.has_failed.store(true, Ordering::Release);
        }
        lock(&self.failures).note(error);
    }

    /// Is there no point in going on?
    fn is_hopeless(&self) -> bool {
        lock(&self.failures).is_hopeless
    }

    /// Waits for all that is under way.
    async fn end(mut self) -> Failures {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                lock(&self.failures).note(CliError::Local(format!("a task broke: {error}; report this")));
            }
        }
        std::mem::take(&mut *lock(&self.failures))
    }
}

/// One less is left of a directory; its end, and that of those above it, when it was the last.
async fn settle<J: Job>(job: &J, mut node: Arc<Node<J::Dir>>, failures: &Mutex<Failures>) {
    while node.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        let mut has_failed = node.has_failed.load(Ordering::Acquire);
        if !has_failed && let Err(error) = job.leave(&node.dir).await {
            has_failed = true;
            lock(failures).note(error);
        }
        let Some(above) = node.above.clone() else { return };
        if has_failed {
            above.has_failed.store(true, Ordering::Release);
        }
        node = above;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Writes down what is done; an item that begins with `!` fails.
    #[derive(Default)]
    struct Log(Mutex<Vec<String>>, AtomicUsize, AtomicUsize);

    impl Job for Log {
        type Dir = &'static str;
        type Item = &'static str;

        async fn enter(
            &self,
            _: Option<&&'static str>,
            item: &'static str,
        ) -> Result<&'static str, CliError> {
            match item {
                "!closed" => Err(CliError::Local(item.to_owned())),
                item => Ok(item),
            }
        }

        async fn one(&self, dir: &&'static str, item: &'static str) -> Result<(), CliError> {
            let now = self.1.fetch_add(1, Ordering::SeqCst) + 1;
            self.2.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.1.fetch_sub(1, Ordering::SeqCst);
            lock(&self.0).push(format!("{dir}/{item}"));
            match item.starts_with('!') {
                true => Err(CliError::Local(item.to_owned())),
                false => Ok(()),
            }
        }

        async fn leave(&self, dir: &&'static str) -> Result<(), CliError> {
            lock(&self.0).push(format!("left {dir}"));
            Ok(())
        }
    }

    struct Script(std::vec::IntoIter<Step<&'static str>>);

    impl Steps for Script {
        type Item = &'static str;

        async fn next(&mut self) -> Result<Option<Step<&'static str>>, CliError> {
            Ok(self.0.next())
        }
    }

    async fn run(items: &[&'static str]) -> (Vec<String>, usize, Failures) {
        let log = Arc::new(Log::default());
        let mut steps = vec![Step::Enter("top"), Step::Enter("below")];
        steps.extend(items.iter().map(|item| Step::One(*item)));
        steps.extend([
            Step::Left,
            Step::One("x"),
            Step::Enter("!closed"),
            Step::Enter("deep"),
            Step::One("y"),
        ]);
        steps.extend([Step::Left, Step::Left, Step::One("z"), Step::Left]);
        // The directory that cannot be entered is there only where something else fails.
        if items.iter().all(|item| !item.starts_with('!')) {
            steps.drain(items.len() + 4..items.len() + 9);
        }
        let failures = Crew::new(log.clone(), 3).work(Script(steps.into_iter()), &Stop::on_signal()).await;
        let done = lock(&log.0).clone();
        (done, log.2.load(Ordering::SeqCst), failures)
    }

    #[tokio::test]
    async fn a_directory_ends_after_all_below_it() {
        let (done, at_once, failures) = run(&["a", "b", "c", "d", "e"]).await;
        assert_eq!(failures.count, 0);
        assert!((2..=3).contains(&at_once), "{at_once}");
        let at = |what: &str| done.iter().position(|line| line == what).unwrap();
        assert!(["a", "b", "c", "d", "e"].iter().all(|name| at(&format!("below/{name}")) < at("left below")));
        assert!(at("left below") < at("left top") && at("top/x") < at("left top"), "{done:?}");
    }

    #[tokio::test]
    async fn a_failure_keeps_its_directory_and_those_above_and_nothing_else() {
        let (done, _, failures) = run(&["a", "!b", "c"]).await;
        for there in ["below/c", "top/x", "top/z"] {
            assert!(done.contains(&there.to_owned()), "{there}: {done:?}");
        }
        assert!(!done.iter().any(|line| line.starts_with("left") || line.starts_with("deep")), "{done:?}");
        assert_eq!(failures.count, 2);
        let told = failures.into_result("w").unwrap_err().to_string();
        assert!(told.starts_with("w: 2 failed, the first: !"), "{told}");
    }
}
