//! A bounded queue of work for threads, and the sign that tells threads to end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Says that the keeper is shutting down. Checked by every loop that waits.
#[derive(Debug, Default)]
pub(crate) struct Stop(AtomicBool);

impl Stop {
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// First in, first out; never waits to take in, waits to give out.
#[derive(Debug)]
pub(crate) struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    capacity: usize,
}

impl<T> WorkQueue<T> {
    pub fn new(capacity: usize) -> WorkQueue<T> {
        let state = State { items: VecDeque::new(), closed: false };
        WorkQueue { state: Mutex::new(state), wake: Condvar::new(), capacity }
    }

    /// Gives the item back when the queue is full or closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.items.len() >= self.capacity {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for the next item; `None` when the queue is closed. What is left then is dropped.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_in_order_and_ends_when_closed() {
        let queue = WorkQueue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(queue.pop(), Some(1));
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| (queue.pop(), queue.pop()));
            while !queue.lock().items.is_empty() {
                std::thread::yield_now();
            }
            queue.close();
            assert_eq!(taker.join().unwrap(), (Some(2), None));
        });
        assert_eq!(queue.push(4), Err(4));
    }
}
