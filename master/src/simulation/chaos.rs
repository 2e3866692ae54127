//! Misfortunes, until it is calm. Then everybody comes back.

use super::Bug;
use super::world::{Event, Peer, World};

/// One misfortune, and a time for the next.
pub(super) fn strike(world: &mut World) {
    if world.is_calm() {
        return world.operators_rest();
    }
    match world.rng.below(100) {
        0..22 => cut_mount(world),
        22..36 => cut_keeper(world),
        36..50 => {
            let (at, power) = (world.rng.below(world.keepers.len()), world.rng.percent(50));
            let down_ms = world.rng.between(50, 9_000);
            world.keeper_dies(at, power, down_ms);
        }
        50..62 => {
            let down_ms = if world.rng.percent(50) {
                world.rng.between(50, 500)
            } else {
                world.rng.between(500, 8_000)
            };
            world.master_crashes(down_ms);
        }
        62..68 => {
            let at = world.rng.below(world.mounts.len());
            if world.mounts[at].alive {
                world.mount_dies(at);
                world.add_mount();
            }
        }
        68..76 => rot(world),
        76..81 => {
            // A scrub.
            let at = world.rng.below(world.keepers.len());
            if world.keepers[at].up {
                world.keeper_scrubs(at);
            }
        }
        81..91 => world.an_operator_acts(),
        91 => everything_loses_power(world),
        92..95 if world.keepers.len() < 7 => world.add_keeper(),
        _ => {}
    }
    let ms = world.rng.between(world.plan.misfortune_ms / 4, world.plan.misfortune_ms * 2);
    world.after(ms, Event::Chaos);
}

/// Every machine but those of the mounts, at one moment.
fn everything_loses_power(world: &mut World) {
    for at in 0..world.keepers.len() {
        let down_ms = world.rng.between(50, 9_000);
        world.keeper_dies(at, true, down_ms);
    }
    let down_ms = world.rng.between(50, 8_000);
    world.master_crashes(down_ms);
}

fn cut_mount(world: &mut World) {
    let at = world.rng.below(world.mounts.len());
    let Some(link) = world.mounts[at].link else { return };
    let (master_ms, mount_ms) = (world.rng.between(0, 12_000), world.rng.between(0, 3_000));
    let master_ms = if world.rng.percent(60) { master_ms % 50 } else { master_ms };
    // Found after a long absence only.
    if world.rng.percent(20) || world.bug == Some(Bug::MountKeepsLostLocks) {
        world.mounts[at].away_until_ms = world.now_ms + world.rng.between(1_000, 75_000);
    }
    world.cut(link, master_ms, mount_ms);
}

fn cut_keeper(world: &mut World) {
    let at = world.rng.below(world.keepers.len());
    let Some(link) = world.keepers[at].link else { return };
    if world.links[link].peer == Peer::Keeper(at) {
        let (master_ms, keeper_ms) = (world.rng.between(0, 6_000), world.rng.between(0, 3_000));
        world.cut(link, master_ms, keeper_ms);
    }
}

/// One copy of a chunk goes bad: never two of the same.
fn rot(world: &mut World) {
    let at = world.rng.below(world.keepers.len());
    let chunks: Vec<u64> = world.keepers[at].disk.keys().copied().collect();
    let Some(chunk) = world.rng.pick(&chunks) else { return };
    if !world.rotted.contains_key(&chunk)
        && let Some(copy) = world.keepers[at].disk.get_mut(&chunk)
    {
        world.rotted.insert(chunk, at);
        copy.rotten = true;
        world.note_loss(chunk);
    }
}
