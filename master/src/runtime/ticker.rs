//! Lets time pass in the core, ten times a second.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Engine;
use super::clock::StallDetector;

const TICK: Duration = Duration::from_millis(100);
/// Ticks further apart than this mean that this process, not its peers, stood still.
const STALL: Duration = Duration::from_secs(1);
/// What the peers then get to be heard again: a heartbeat, and some.
const RECOVERY: Duration = Duration::from_millis(1_500);

/// Ticks until the engine stops.
pub async fn tick_forever(engine: Engine) {
    let mut stalls = StallDetector::new(STALL);
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Some(gap) = stalls.look() {
            tracing::warn!(
                "the master stood still for {} ms; keepers get time to be heard again",
                gap.as_millis()
            );
            tokio::time::sleep(RECOVERY).await;
            stalls = StallDetector::new(STALL);
        }
        if engine.tick().is_err() {
            return;
        }
    }
}
