//! How often somebody may guess a password. Pure: the clock is given.
//!
//! Two budgets are charged for each try, before the password is looked at, and given back when it was right: one of
//! the name and the address together, and one of the address. A name alone has none, so that a stranger cannot lock somebody out.
//! What must hold: the memory is bounded; when it is full of budgets that are not whole again, nobody new is let in.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// Budgets of each kind that are remembered.
const MAX_KEPT: usize = 10_000;

/// What may be spent at once, and how long it takes until one more may be.
struct Budget {
    most: i64,
    one_more_ms: i64,
}

const OF_NAME: Budget = Budget { most: 5, one_more_ms: 12_000 };
const OF_ADDRESS: Budget = Budget { most: 30, one_more_ms: 2_000 };

/// Until when each has nothing owing: each try moves it on by `one_more_ms`.
#[derive(Debug)]
struct Spent<K>(HashMap<K, i64>);

impl<K: Hash + Eq + Clone> Spent<K> {
    fn spend(&mut self, key: &K, budget: &Budget, now_ms: i64) -> Result<(), i64> {
        let whole_at = self.0.get(key).copied().unwrap_or(now_ms).max(now_ms);
        let next = whole_at + budget.one_more_ms;
        let over_ms = next - now_ms - budget.most * budget.one_more_ms;
        if over_ms > 0 {
            return Err(over_ms);
        }
        if self.0.len() >= MAX_KEPT && !self.0.contains_key(key) {
            self.0.retain(|_, whole_at| *whole_at > now_ms);
            if self.0.len() >= MAX_KEPT {
                return Err(budget.one_more_ms);
            }
        }
        self.0.insert(key.clone(), next);
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Limiter {
    by_name: Spent<(String, Option<IpAddr>)>,
    by_address: Spent<Option<IpAddr>>,
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter { by_name: Spent(HashMap::new()), by_address: Spent(HashMap::new()) }
    }
}

impl Limiter {
    /// Somebody tries.
    ///
    /// # Errors
    /// Not now: how many ms to wait.
    pub fn try_once(&mut self, name: &str, from: Option<IpAddr>, now_ms: i64) -> Result<(), i64> {
        self.by_address.spend(&from, &OF_ADDRESS, now_ms)?;
        self.by_name.spend(&(name.to_owned(), from), &OF_NAME, now_ms)
    }

    /// And was right.
    pub fn succeeded(&mut self, name: &str, from: Option<IpAddr>) {
        self.by_name.0.remove(&(name.to_owned(), from));
        if let Some(whole_at) = self.by_address.0.get_mut(&from) {
            *whole_at -= OF_ADDRESS.one_more_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn five_tries_then_one_in_twelve_seconds() {
        let mut limiter = Limiter::default();
        for _ in 0..5 {
            limiter.try_once("anna", address(1), 1_000).unwrap();
        }
        assert_eq!(limiter.try_once("anna", address(1), 1_000), Err(12_000));
        assert_eq!(limiter.try_once("anna", address(1), 12_999), Err(1));
        assert_eq!(limiter.try_once("anna", address(1), 13_000), Ok(()));
        assert_eq!(limiter.try_once("anna", address(1), 13_000), Err(12_000));
        // Whoever else, and the same from elsewhere, is not held up.
        assert_eq!(limiter.try_once("berta", address(1), 1_000), Ok(()));
        assert_eq!(limiter.try_once("anna", address(2), 1_000), Ok(()));
    }

    #[test]
    fn who_is_right_begins_anew() {
        let mut limiter = Limiter::default();
        for _ in 0..200 {
            limiter.try_once("anna", address(1), 0).unwrap();
            limiter.succeeded("anna", address(1));
        }
    }

    #[test]
    fn one_address_cannot_try_many_names() {
        let mut limiter = Limiter::default();
        let tried = (0..1_000).filter(|n| limiter.try_once(&n.to_string(), address(1), 0).is_ok()).count();
        assert_eq!(tried, 30);
        assert_eq!(limiter.try_once("x", address(2), 0), Ok(()));
    }

    #[test]
    fn the_memory_is_bounded_and_comes_back() {
        let mut limiter = Limiter::default();
        let from = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let let_in = (0..20_000).filter(|n| limiter.try_once("a", from(*n), 0).is_ok()).count();
        assert_eq!((let_in, limiter.by_address.0.len()), (MAX_KEPT, MAX_KEPT));
        assert!(limiter.try_once("a", from(50_000), 100_000).is_ok());
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out_for_longer_than_it_was_set() {
        let mut limiter = Limiter::default();
        limiter.try_once("a", address(1), 100_000).unwrap();
        assert!(limiter.try_once("a", address(1), 90_000).is_ok());
    }
}
