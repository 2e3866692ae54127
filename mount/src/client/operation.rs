//! For the sake of which operation something is asked of the master or of a keeper. The number goes with the request, and all three
//! write it into their logs, so that one search follows an operation of a program through them (docs/OPERATIONS.md).
//!
//! It belongs to the task that works for the operation; whoever starts another task for it takes the number along.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_proto::ids::OperationNo;

tokio::task_local! {
    static CURRENT: OperationNo;
}

/// Begins anywhere, so that those of two mounts differ.
static NEXT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(getrandom::u64().unwrap_or_default() & !0xff_ffff));

/// A number that no other operation of this process has.
pub fn next() -> OperationNo {
    OperationNo(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// That of the operation that this task works for; 0 when it works for none.
pub fn current() -> OperationNo {
    CURRENT.try_with(|number| *number).unwrap_or_default()
}

/// `work`, done for the operation of this number.
pub fn within<T>(number: OperationNo, work: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT.scope(number, work)
}

/// The same for work that waits for nothing.
pub fn during<T>(number: OperationNo, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(number, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_works_for_the_operation_that_it_was_told() {
        assert_eq!(current(), OperationNo(0));
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        let nested =
            within(first, async move { (current(), within(second, async { current() }).await, current()) });
        assert_eq!(nested.await, (first, second, first));
        assert_eq!((during(second, current), current()), (second, OperationNo(0)));
    }
}
