//! How mounts look for a master that is down, and for how long a master that starts therefore takes no change. While its looks
//! are refused, a mount shows what it knows of open files (dfs-mount, `client::down`); nothing may change before it
//! knows that somebody is there.

use std::time::Duration;

/// Between two looks of a mount.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A look that takes longer finds nothing out. A host that is there refuses at once.
pub const LOOK_WITHIN: Duration = Duration::from_millis(200);

/// How long a refusal is believed, from the beginning of the look.
pub const REFUSAL_GOOD_FOR: Duration = Duration::from_millis(600);

/// What the kernel of a mount may have of this is forgotten within it, when the mount knows.
const FORGOTTEN_WITHIN: Duration = Duration::from_millis(50);

/// A master takes no change for this long after it began to listen: by then, all that mounts believed of the time before is over
/// and forgotten, also where the last look found nothing out. Since it is longer than a refusal is believed, no master that takes
/// changes comes and goes between two looks either.
pub const QUIET_AFTER_START: Duration = Duration::from_millis(
    (REFUSAL_GOOD_FOR.as_millis()
        + LOOK_EVERY.as_millis()
        + LOOK_WITHIN.as_millis()
        + FORGOTTEN_WITHIN.as_millis()) as u64,
);
