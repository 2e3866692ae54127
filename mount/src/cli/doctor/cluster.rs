//! The cluster, as it is seen from this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dfs_proto::pb;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Check;
use crate::cli::in_session;
use crate::cli::output::human;
use crate::client::{Master, admin};

/// For a connection to a keeper.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Clocks that differ by less differ by nothing that matters.
const CLOCK_NEAR_MS: i128 = 1000;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What was looked at, and the keepers that the master knows.
pub(super) async fn checks(master: &Master) -> (Vec<Check>, Vec<pb::KeeperRow>) {
    let status = match admin::status(master).await {
        Ok(status) => status,
        Err(error) => {
            let remedy = "see that it runs, that --master names it, and that you are logged in (dfs login)";
            return (vec![Check::fail("master", error.to_string(), remedy)], Vec::new());
        }
    };
    let mut checks =
        vec![Check::ok("master", format!("{} answers", master.address)), version("master", &status.version)];
    checks.push(clock(master).await);
    checks.extend(health(&status));
    match admin::keepers(master).await {
        Ok(keepers) => {
            checks.extend(ports(&keepers).await);
            checks.extend(keepers.iter().flat_map(keeper));
            (checks, keepers)
        }
        Err(error) => {
            checks.push(Check::warn("keepers", error.to_string(), "ask somebody who may see them"));
            (checks, Vec::new())
        }
    }
}

fn version(who: &str, version: &str) -> Check {
    let check = format!("version of {who}");
    match version == VERSION {
        true => Check::ok(check, version),
        false => {
            Check::warn(check, format!("{version}, and this program is {VERSION}"), "update the older one")
        }
    }
}

/// Times of files are the master's, and so are those by which logins end.
async fn clock(master: &Master) -> Check {
    let theirs = in_session(master, async |client| Ok(client.now())).await;
    let theirs = match theirs {
        Ok(now) => i128::from(now.sec) * 1000 + i128::from(now.nsec / 1_000_000),
        Err(error) => return Check::fail("clock", error.to_string(), "see the master's log"),
    };
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    clock_check(ours as i128 - theirs)
}

fn clock_check(ahead_ms: i128) -> Check {
    let (apart, side) = (ahead_ms.abs(), if ahead_ms < 0 { "behind" } else { "ahead of" });
    let found = format!("{}.{:03} s {side} the master's", apart / 1000, apart % 1000);
    match apart < CLOCK_NEAR_MS {
        true => Check::ok("clock", found),
        false => Check::warn(
            "clock",
            found,
            "times of files are the master's; let NTP set both clocks (timedatectl)",
        ),
    }
}

fn health(status: &pb::ClusterStatus) -> Vec<Check> {
    let chunks = match (status.lost, status.endangered) {
        (0, 0) => Check::ok("chunks", format!("{} of them, none lost or endangered", status.chunks)),
        (0, endangered) => {
            let remedy = "it is being repaired; if it stays so, start keepers or make room (dfs keepers)";
            Check::warn(
                "chunks",
                format!("{endangered} have fewer than {} live copies", status.min_copies),
                remedy,
            )
        }
        (lost, _) => {
            let remedy = "dfs status names the files; start the keepers that are dead";
            Check::fail("chunks", format!("{lost} have no live copy"), remedy)
        }
    };
    let (free, total) = (status.free_bytes, status.total_bytes);
    let found = format!("{} free of {}", human(free), human(total));
    let remedy = "add keepers, or delete something (also from the trash)";
    let room = match (status.keepers_live, free) {
        (0, _) => Check::fail("keepers", "none is live", "start keepers"),
        (_, free) if free < total / 100 => Check::fail("room", found, remedy),
        (_, free) if free < total / 10 => Check::warn("room", found, remedy),
        _ => Check::ok("room", found),
    };
    vec![chunks, room]
}

/// Can the data ports of the live ones be reached from here?
async fn ports(keepers: &[pb::KeeperRow]) -> Vec<Check> {
    let mut trying = JoinSet::new();
    for keeper in keepers.iter().filter(|keeper| keeper.alive) {
        let (id, address) = (keeper.keeper, keeper.address.clone());
        trying.spawn(async move {
            let connected = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(&address)).await;
            let why = match connected {
                Ok(Ok(_)) => return (id, Check::ok(format!("port of keeper {id}"), format!("{address} answers"))),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", CONNECT_WITHIN.as_secs()),
            };
            let remedy = "open its port in firewalls, and see that --advertise names an address that is reached from here";
            (id, Check::fail(format!("port of keeper {id}"), format!("{address}: {why}"), remedy))
        });
    }
    let mut checks = trying.join_all().await;
    checks.sort_by_key(|(id, _)| *id);
    checks.into_iter().map(|(_, check)| check).collect()
}

fn keeper(keeper: &pb::KeeperRow) -> Vec<Check> {
    let name = format!("keeper {}", keeper.keeper);
    if !keeper.alive {
        let found = format!("{} was not heard for {} s", keeper.address, keeper.last_heard_ms / 1000);
        let remedy = format!("start it, or 'dfs forget {}' when it is gone for good", keeper.keeper);
        return vec![match keeper.maintenance_left_ms {
            0 => Check::fail(name, found, remedy),
            _ => Check::warn(name, format!("{found}, and is in maintenance"), remedy),
        }];
    }
    let mut checks = vec![version(&name, &keeper.version)];
    if keeper.read_only {
        let remedy = "see its log: the disk is full, read-only or failing";
        checks.push(Check::fail(name.clone(), "it takes no chunks", remedy));
    }
    if keeper.quarantine_files > 0 {
        let found = format!("{} bad copies in quarantine", keeper.quarantine_files);
        checks.push(Check::warn(name, found, "if they become more, its disk or memory fails: drain it"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_clock_that_is_near_is_right() {
        assert_eq!(clock_check(-999).state, State::Ok);
        let far = clock_check(90_500);
        assert_eq!((far.state, &*far.found), (State::Warn, "90.500 s ahead of the master's"));
    }

    #[test]
    fn what_is_lost_and_full_fails() {
        let status = |lost, endangered, free| {
            let (total, live) = (1000, 3);
            pb::ClusterStatus {
                lost,
                endangered,
                free_bytes: free,
                total_bytes: total,
                keepers_live: live,
                ..Default::default()
            }
        };
        let states =
            |status: &pb::ClusterStatus| health(status).iter().map(|check| check.state).collect::<Vec<_>>();
        assert_eq!(states(&status(0, 0, 500)), [State::Ok, State::Ok]);
        assert_eq!(states(&status(0, 1, 99)), [State::Warn, State::Warn]);
        assert_eq!(states(&status(1, 1, 9)), [State::Fail, State::Fail]);
    }

    #[test]
    fn a_keeper_that_is_dead_fails_unless_it_is_in_maintenance() {
        let dead = pb::KeeperRow { keeper: 3, ..Default::default() };
        assert_eq!(keeper(&dead)[0].state, State::Fail);
        assert_eq!(keeper(&pb::KeeperRow { maintenance_left_ms: 1, ..dead.clone() })[0].state, State::Warn);
        let live = pb::KeeperRow { alive: true, version: VERSION.to_owned(), ..dead };
        assert_eq!(keeper(&live)[0].state, State::Ok);
        assert_eq!(keeper(&pb::KeeperRow { read_only: true, ..live })[1].state, State::Fail);
    }
}
