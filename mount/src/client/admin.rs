//! The operators' calls: state of the cluster, its keepers, the look-up table. They need no session.

use std::time::Duration;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb::admin_service_client::AdminServiceClient;
use dfs_proto::{MAX_MESSAGE_LEN, pb};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::tokens::Carrier;
use super::{Master, channel};

/// For the connection, for each call, and for each next row.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For the connection alone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

async fn connect(
    master: &Master,
) -> Result<AdminServiceClient<InterceptedService<Channel, Carrier>>, DfsError> {
    let carrier = master.tokens.carrier().await?;
    let channel = channel::open(&master.address, master.tls.as_ref(), CONNECT_TIMEOUT).await?;
    Ok(AdminServiceClient::with_interceptor(channel, carrier).max_decoding_message_size(MAX_MESSAGE_LEN))
}

async fn within<T>(
    master: &Master,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, DfsError> {
    channel::within(&master.address, TIMEOUT, call).await
}

/// The state of the cluster.
///
/// # Errors
/// `Unavailable`, `TimedOut`, or what the master refused it with.
pub async fn status(master: &Master) -> Result<pb::ClusterStatus, DfsError> {
    let mut client = connect(master).await?;
    Ok(within(master, client.status(pb::StatusRequest {})).await?.into_inner())
}

/// Every keeper that the master knows.
///
/// # Errors
/// As [`status`].
pub async fn keepers(master: &Master) -> Result<Vec<pb::KeeperRow>, DfsError> {
    let mut client = connect(master).await?;
    Ok(within(master, client.keepers(pb::KeepersRequest {})).await?.into_inner().keepers)
}

/// Has keepers read all that they have; none: every live one. Their rows say how far they are.
///
/// # Errors
/// As [`status`]; `NotFound` or `Io` for a keeper that is unknown or not live.
pub async fn scrub(master: &Master, keepers: &[u64]) -> Result<pb::ScrubStarted, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::ScrubRequest { keepers: keepers.to_vec() };
    Ok(within(master, client.scrub(request)).await?.into_inner())
}

/// Begins to set the table against what keepers have; [`fsck_report`] says how far that is.
///
/// # Errors
/// As [`status`]; `Io` when another is under way, or no keeper is live.
pub async fn fsck(master: &Master, repair: bool) -> Result<u64, DfsError> {
    let mut client = connect(master).await?;
    Ok(within(master, client.fsck(pb::FsckRequest { repair })).await?.into_inner().number)
}

/// How an fsck stands.
///
/// # Errors
/// As [`status`]; `NotFound` when the master does not know it.
pub async fn fsck_report(master: &Master, number: u64) -> Result<pb::FsckReport, DfsError> {
    let mut client = connect(master).await?;
    Ok(within(master, client.fsck_report(pb::FsckReportRequest { number })).await?.into_inner())
}

/// A page of the trash, the oldest first: files that were at or below `path` (empty or "/": all). `next` leads to the
/// next page.
///
/// # Errors
/// As [`status`].
pub async fn trash(
    master: &Master,
    path: &[u8],
    after: Option<pb::TrashCursor>,
) -> Result<pb::TrashList, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::TrashRequest { path: Bytes::copy_from_slice(path), after };
    Ok(within(master, client.trash(request)).await?.into_inner())
}

/// Gives a file in the trash a name again, `to` (absolute; empty: the one that it had). It is there when this returns.
///
/// # Errors
/// As [`status`]; `NotFound`, `Io` when the name is taken or a quota leaves no room.
pub async fn restore_trash(master: &Master, entry: u64, to: &[u8]) -> Result<pb::TrashList, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::RestoreTrashRequest { entry, to: Bytes::copy_from_slice(to) };
    Ok(within(master, client.restore_trash(request)).await?.into_inner())
}

/// Lets a file in the trash go; 0: all of them, soon.
///
/// # Errors
/// As [`status`]; `NotFound`.
pub async fn purge_trash(master: &Master, entry: u64) -> Result<pb::TrashList, DfsError> {
    let mut client = connect(master).await?;
    Ok(within(master, client.purge_trash(pb::PurgeTrashRequest { entry })).await?.into_inner())
}

/// The look-up table from `path` down (empty or "/": all), a row per copy, by file name. Rows are handed to
/// `each` as they come; its error ends the listing.
///
/// # Errors
/// As [`status`], `NotFound` for a path that is not there, and whatever `each` returned.
pub async fn lookup_table(
    master: &Master,
    path: &[u8],
    mut each: impl FnMut(pb::LookupRow) -> Result<(), DfsError>,
) -> Result<(), DfsError> {
    let mut client = connect(master).await?;
    let request = pb::LookupTableRequest { path: Bytes::copy_from_slice(path) };
    let mut rows = within(master, client.lookup_table(request)).await?.into_inner();
    while let Some(row) = within(master, rows.message()).await? {
        each(row)?;
    }
    Ok(())
}

/// A dump of all metadata. Its bytes are handed to `each` as they come, in order; its error ends the backup. Returns
/// how many rows it has.
///
/// # Errors
/// As [`status`], and whatever `each` returned. What was handed out is no dump then.
pub async fn backup(
    master: &Master,
    mut each: impl FnMut(&[u8]) -> Result<(), DfsError>,
) -> Result<u64, DfsError> {
    let mut client = connect(master).await?;
    let mut parts = within(master, client.backup(pb::BackupRequest {})).await?.into_inner();
    while let Some(part) = within(master, parts.message()).await? {
        if part.last {
            return Ok(part.rows);
        }
        each(&part.data)?;
    }
    let message = format!("the master at {master} ended the backup before its end; try again");
    Err(DfsError::new(ErrorCode::Unavailable, message))
}

/// Every quota by path, or with a path (absolute) that of one directory, if it has one.
///
/// # Errors
/// As [`lookup_table`]; `Invalid` for what is no directory.
pub async fn quotas(master: &Master, path: &[u8]) -> Result<Vec<pb::QuotaInfo>, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::QuotasRequest { path: Bytes::copy_from_slice(path) };
    Ok(within(master, client.quotas(request)).await?.into_inner().quotas)
}

/// Sets the limits that are given, of a directory's bytes and inodes; the other stays. It holds when this returns.
///
/// # Errors
/// As [`quotas`].
pub async fn set_quota(
    master: &Master,
    path: &[u8],
    max_bytes: Option<u64>,
    max_inodes: Option<u64>,
) -> Result<(), DfsError> {
    let mut client = connect(master).await?;
    let request = pb::SetQuotaRequest { path: Bytes::copy_from_slice(path), max_bytes, max_inodes };
    within(master, client.set_quota(request)).await.map(drop)
}

/// Takes a directory's quota away. False: it had none.
///
/// # Errors
/// As [`quotas`].
pub async fn clear_quota(master: &Master, path: &[u8]) -> Result<bool, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::ClearQuotaRequest { path: Bytes::copy_from_slice(path) };
    Ok(!within(master, client.clear_quota(request)).await?.into_inner().quotas.is_empty())
}

/// Has a keeper (its id, or its address) emptied, or not any more. Returns it as it is now.
///
/// # Errors
/// As [`status`]; `NotFound`: there is no such keeper.
pub async fn drain(master: &Master, keeper: &str, cancel: bool) -> Result<pb::KeeperRow, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::DrainRequest { keeper: keeper.to_owned(), cancel };
    Ok(within(master, client.drain(request)).await?.into_inner())
}

/// A keeper may be away for so long without being missed; zero: it may not. Returns it as it is now.
///
/// # Errors
/// As [`drain`]; `Invalid`: that is too long.
pub async fn maintenance(master: &Master, keeper: &str, period: Duration) -> Result<pb::KeeperRow, DfsError> {
    let mut client = connect(master).await?;
    let for_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    let request = pb::MaintenanceRequest { keeper: keeper.to_owned(), for_ms };
    Ok(within(master, client.maintenance(request)).await?.into_inner())
}

/// Takes a keeper out of the cluster. Returns it as it was.
///
/// # Errors
/// As [`drain`]; `Invalid`: it is in use, or has what is needed.
pub async fn forget(master: &Master, keeper: &str) -> Result<pb::KeeperRow, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::ForgetRequest { keeper: keeper.to_owned() };
    Ok(within(master, client.forget(request)).await?.into_inner())
}

/// Starts or stops rebalancing, or looks at it.
///
/// # Errors
/// As [`status`].
pub async fn rebalance(
    master: &Master,
    action: pb::rebalance_request::Action,
) -> Result<pb::RebalanceStatus, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::RebalanceRequest { action: action as i32 };
    Ok(within(master, client.rebalance(request)).await?.into_inner())
}
