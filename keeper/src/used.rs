//! Tickets to write that were used: each is for one upload or copy.
//!
//! Remembered are parts of the tickets' MACs, which only the master can make, in two generations: one that takes new ones, and
//! the one before. A ticket is remembered for longer than it is good; by this machine's monotonic clock, which nobody sets.
//!
//! What must hold: what is remembered is bounded. When there is no room, tickets are refused and not forgotten. A keeper that
//! starts remembers nothing, so it takes no ticket that was made before its first welcome.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;
use dfs_proto::ticket::WRITE_LIFETIME_MS;

/// Longer than a ticket is good.
const GENERATION: Duration = Duration::from_millis(WRITE_LIFETIME_MS as u64 + 10_000);
/// Of one generation: so many uploads in that time are more than a keeper's disk takes. At most 20 MiB for both.
const MOST: usize = 512 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct UsedTickets {
    most: usize,
    inner: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<u64>,
    /// When the first of them was used.
    young_since: Option<Instant>,
    old: HashSet<u64>,
    /// The master's clock at the first welcome, in milliseconds since 1970; the least of them, where it was set back.
    joined_ms: Option<i64>,
}

impl Default for UsedTickets {
    fn default() -> UsedTickets {
        UsedTickets { most: MOST, inner: Mutex::default() }
    }
}

impl UsedTickets {
    /// A welcome came, at this time by the master's clock.
    pub fn welcomed(&self, now_ms: i64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.joined_ms = Some(inner.joined_ms.map_or(now_ms, |joined| joined.min(now_ms)));
    }

    /// Uses a ticket that was checked, and its MAC.
    ///
    /// # Errors
    /// `TicketUsed`, and `Busy` when no more can be remembered. In both cases another ticket is needed.
    pub fn take(&self, ticket: &pb::Ticket, mac: &[u8], now: Instant) -> Result<(), DfsError> {
        let chunk = ChunkId(ticket.chunk);
        let refused = |code, why: &str| {
            let message = format!("ticket for chunk {chunk} refused: {why}; ask the master for a new one");
            Err(DfsError::new(code, message))
        };
        // It is never shorter: the check of the MAC looks at all of it.
        let key = mac.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.joined_ms.is_none_or(|joined| ticket.expires_ms < joined.saturating_add(WRITE_LIFETIME_MS)) {
            return refused(
                ErrorCode::TicketUsed,
                "it was made before this keeper started, and may have been used then",
            );
        }
        if inner.young_since.is_some_and(|since| now.duration_since(since) >= GENERATION) {
            inner.old = std::mem::take(&mut inner.young);
            inner.young_since = None;
        }
        if inner.young.contains(&key) || inner.old.contains(&key) {
            return refused(ErrorCode::TicketUsed, "it was used before, and is good for one upload");
        }
        if inner.young.len() >= self.most {
            return refused(ErrorCode::Busy, "this keeper took so many of late that it can remember no more");
        }
        inner.young_since.get_or_insert(now);
        inner.young.insert(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOINED_MS: i64 = 1_000_000;

    fn used(most: usize) -> UsedTickets {
        let used = UsedTickets { most, ..UsedTickets::default() };
        used.welcomed(JOINED_MS);
        used
    }

    fn take(used: &UsedTickets, number: u8, expires_ms: i64, now: Instant) -> Result<(), ErrorCode> {
        let ticket = pb::Ticket { chunk: 7, expires_ms, ..Default::default() };
        used.take(&ticket, &[number; 16], now).map_err(|error| error.code)
    }

    #[test]
    fn a_ticket_is_taken_once_for_as_long_as_it_is_good() {
        let (used, begin, good) = (used(10), Instant::now(), JOINED_MS + WRITE_LIFETIME_MS);
        assert_eq!(take(&used, 1, good, begin), Ok(()));
        // Others come all the time, so that generations follow one another.
        for second in 1..60u8 {
            let now = begin + Duration::from_secs(u64::from(second));
            assert_eq!(take(&used, 1, good, now), Err(ErrorCode::TicketUsed), "after {second} s");
        }
        // One that comes late in a generation is in the one before when it is tried again.
        let at = |second| begin + Duration::from_secs(second);
        assert_eq!(take(&used, 2, good, at(65)), Ok(()));
        assert_eq!(take(&used, 3, good, at(75)), Ok(()));
        assert_eq!(take(&used, 2, good, at(125)), Err(ErrorCode::TicketUsed));
    }

    #[test]
    fn without_room_tickets_are_refused_and_none_is_forgotten() {
        let (used, begin, good) = (used(3), Instant::now(), JOINED_MS + WRITE_LIFETIME_MS);
        for number in 0..3 {
            assert_eq!(take(&used, number, good, begin), Ok(()));
        }
        assert_eq!(take(&used, 3, good, begin), Err(ErrorCode::Busy));
        assert_eq!(take(&used, 0, good, begin), Err(ErrorCode::TicketUsed));
        assert_eq!(take(&used, 3, good, begin + GENERATION), Ok(()), "there is room again");
        assert_eq!(take(&used, 0, good, begin + GENERATION), Err(ErrorCode::TicketUsed));
    }

    #[test]
    fn what_was_made_before_the_keeper_joined_is_not_taken() {
        let (used, now) = (used(10), Instant::now());
        assert_eq!(take(&used, 1, JOINED_MS + WRITE_LIFETIME_MS - 1, now), Err(ErrorCode::TicketUsed));
        // A later welcome changes nothing, but for one by a clock that was set back: its tickets are good, too.
        used.welcomed(JOINED_MS + 5_000);
        assert_eq!(take(&used, 2, JOINED_MS + WRITE_LIFETIME_MS, now), Ok(()));
        used.welcomed(JOINED_MS - 5_000);
        assert_eq!(take(&used, 3, JOINED_MS - 5_000 + WRITE_LIFETIME_MS, now), Ok(()));
        assert_eq!(
            take(&UsedTickets::default(), 4, i64::MAX, now),
            Err(ErrorCode::TicketUsed),
            "no welcome yet"
        );
    }
}
