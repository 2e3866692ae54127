//! Names that are being taken away, and the link counts that are told meanwhile.
//!
//! When the kernel hears that a name is gone, by an unlink or a rename onto it, it counts the file's names down by
//! itself (`fuse_entry_unlinked`). A look that was answered a moment before with the lower count makes it count down
//! twice; a file of no names, as it then thinks, it refuses to link (`vfs_link`: ENOENT), and shows with 0 names.
//!
//! What must hold: a count that is lower than the one last told is told while no removal is on its way. So a look waits
//! for those that the kernel may not have counted yet when it was answered; what the kernel had asked for before such a
//! removal was done it then does not believe (its `attr_version`), and counts once. The thread that removed a name asks
//! after the kernel has counted, so it never waits for itself. A wait has an end: at worst the count is wrong until the
//! next look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// After its answer, the kernel may take this long to count down: the thread that waits has to get a processor.
const COUNTS_DOWN: Duration = Duration::from_millis(20);
/// A look waits for removals at most so long.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

struct Running {
    thread: u32,
    answered: Option<Instant>,
}

impl Running {
    fn is_counted(&self) -> bool {
        self.answered.is_some_and(|answered| answered.elapsed() >= COUNTS_DOWN)
    }
}

/// By number, in the order in which they began.
#[derive(Default)]
struct All {
    next: u64,
    removals: BTreeMap<u64, Running>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Removals(Arc<watch::Sender<All>>);

/// A removal, until the kernel has its answer.
pub struct Removal {
    all: Arc<watch::Sender<All>>,
    number: u64,
}

impl Removals {
    /// To be called before the master is asked, and kept until the kernel was answered. `thread`: which waits for that.
    pub fn begin(&self, thread: u32) -> Removal {
        let mut number = 0;
        self.0.send_modify(|all| {
            while all.removals.first_entry().is_some_and(|first| first.get().is_counted()) {
                all.removals.pop_first();
            }
            number = all.next;
            all.next += 1;
            all.removals.insert(number, Running { thread, answered: None });
        });
        Removal { all: self.0.clone(), number }
    }

    /// Is none known, so that nobody has to wait?
    pub fn is_none(&self) -> bool {
        self.0.borrow().removals.is_empty()
    }

    /// Returns when the kernel has counted those that are on their way now, but for those of `thread` itself.
    pub async fn counted(&self, thread: u32) {
        // That it takes too long is borne.
        let _ = tokio::time::timeout(LONGEST_WAIT, self.all_counted(thread)).await;
    }

    async fn all_counted(&self, thread: u32) {
        let mut all = self.0.subscribe();
        let next = all.borrow().next;
        let others = |all: &All| {
            let open = all.removals.range(..next).map(|(_, running)| running);
            open.filter(|running| running.thread != thread && !running.is_counted())
                .map(|running| running.answered)
                .collect::<Vec<_>>()
        };
        // The sender lives as long as this.
        let _ = all.wait_for(|all| others(all).iter().all(Option::is_some)).await;
        let last = others(&all.borrow()).into_iter().flatten().max();
        if let Some(last) = last {
            tokio::time::sleep_until(last + COUNTS_DOWN).await;
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.all.send_modify(|all| {
            if let Some(running) = all.removals.get_mut(&self.number) {
                running.answered = Some(Instant::now());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// Is it over without waiting?
    async fn at_once(counted: impl Future<Output = ()>) -> bool {
        timeout(Duration::ZERO, counted).await.is_ok()
    }

    #[tokio::test]
    async fn a_look_waits_for_the_removals_that_were_on_their_way_and_for_no_others() {
        let removals = Removals::default();
        assert!(at_once(removals.counted(9)).await);
        let (first, second) = (removals.begin(1), removals.begin(2));
        let looks = removals.clone();
        let mut look = tokio::spawn(async move {
            let began = Instant::now();
            looks.counted(9).await;
            began.elapsed()
        });
        tokio::task::yield_now().await;
        let _third = removals.begin(3);
        drop(second);
        assert!(timeout(COUNTS_DOWN * 2, &mut look).await.is_err(), "the first is on its way");
        drop(first);
        assert!(look.await.unwrap() < LONGEST_WAIT, "it does not wait for the third");
    }

    #[tokio::test]
    async fn a_look_waits_until_the_kernel_has_counted_but_not_for_what_its_own_thread_did() {
        let removals = Removals::default();
        let answered = Instant::now();
        drop(removals.begin(1));
        assert!(at_once(removals.counted(1)).await);
        removals.counted(2).await;
        assert!(answered.elapsed() >= COUNTS_DOWN);
        assert!(at_once(removals.counted(2)).await);
    }

    #[tokio::test]
    async fn a_look_does_not_wait_for_ever() {
        let removals = Removals::default();
        let _stuck = removals.begin(1);
        assert!(timeout(LONGEST_WAIT * 20, removals.counted(9)).await.is_ok());
    }

    #[tokio::test]
    async fn what_was_counted_is_forgotten() {
        let removals = Removals::default();
        for thread in 0..50 {
            drop(removals.begin(thread));
            tokio::time::sleep(COUNTS_DOWN / 4).await;
        }
        assert!(removals.0.borrow().removals.len() <= 6);
    }
}
