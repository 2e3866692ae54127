//! What operators ask. All of it is answered from memory; the look-up table in pages, so that nobody else
//! waits for a long listing. A backup is read from the store (`backup`).

use std::time::Duration;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, KeeperId};
use dfs_proto::pb::{self, admin_service_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::auth::Asker;
use super::backup;
use crate::auth::Gate;
use crate::core::LookupCursor;
use crate::core::duty::Duty;
use crate::core::operator::{Operation, OperatorReply};
use crate::core::row::QuotaRow;
use crate::core::trash::TrashOperation;
use crate::runtime::{Engine, Stopped};

/// Rows of the look-up table that are made at a time, under the engine's lock.
const PAGE_ROWS: usize = 1000;
/// A listing that is not read for this long is given up.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The service.
pub(super) struct Admin {
    engine: Engine,
    gate: Gate,
}

type Page = (Vec<pb::LookupRow>, Option<LookupCursor>);

impl Admin {
    pub fn new(engine: Engine, gate: Gate) -> Admin {
        Admin { engine, gate }
    }

    /// What is asked for here goes into the audit log before it is done.
    fn note<T>(
        &self,
        event: &'static str,
        request: &Request<T>,
        detail: impl Into<String>,
    ) -> Result<(), Status> {
        let Asker { bearer, from } = Asker::of(request)?;
        self.gate.note(event, &bearer, from, detail);
        Ok(())
    }

    async fn operate(&self, operation: Operation) -> Result<OperatorReply, Status> {
        self.engine.operate(operation).await.map_err(stopped)?.map_err(status)
    }

    async fn change_quota(
        &self,
        path: Bytes,
        limits: Option<QuotaRow>,
    ) -> Result<Response<pb::QuotaList>, Status> {
        match self.operate(Operation::Quota { path, limits }).await? {
            OperatorReply::Quotas(quotas) => Ok(Response::new(quotas)),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn change_duty(&self, keeper: String, duty: Duty) -> Result<Response<pb::KeeperRow>, Status> {
        match self.operate(Operation::Duty { keeper, duty }).await? {
            OperatorReply::Keeper(keeper) => Ok(Response::new(*keeper)),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn change_rebalance(&self, run: bool) -> Result<Response<pb::RebalanceStatus>, Status> {
        match self.operate(Operation::Rebalance { run }).await? {
            OperatorReply::Rebalance(status) => Ok(Response::new(status)),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn change_trash(&self, operation: TrashOperation) -> Result<Response<pb::TrashList>, Status> {
        match self.operate(Operation::Trash(operation)).await? {
            OperatorReply::Trash(list) => Ok(Response::new(list)),
            other => Err(wrong_answer(&other)),
        }
    }
}

fn wrong_answer(answer: &OperatorReply) -> Status {
    Status::internal(format!("the core answered something else than was asked (a bug): {answer:?}"))
}

#[tonic::async_trait]
impl admin_service_server::AdminService for Admin {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::ClusterStatus>, Status> {
        let root = root_of(&request)?;
        let status = self.engine.read(|state, now| state.status_below(root, now)).await;
        status.map(Response::new).map_err(stopped)
    }

    async fn keepers(&self, _: Request<pb::KeepersRequest>) -> Result<Response<pb::KeeperList>, Status> {
        let keepers = self.engine.read(|state, now| state.keepers(now)).await.map_err(stopped)?;
        Ok(Response::new(pb::KeeperList { keepers }))
    }

    async fn quotas(&self, request: Request<pb::QuotasRequest>) -> Result<Response<pb::QuotaList>, Status> {
        let (root, path) = (root_of(&request)?, request.into_inner().path);
        let found = self.engine.read(|state, _| state.quotas_below(root, &path)).await.map_err(stopped)?;
        found.map(Response::new).map_err(status)
    }

    async fn set_quota(
        &self,
        request: Request<pb::SetQuotaRequest>,
    ) -> Result<Response<pb::QuotaList>, Status> {
        let pb::SetQuotaRequest { path, max_bytes, max_inodes } = request.into_inner();
        let limits = Some(QuotaRow { max_bytes, max_inodes });
        self.change_quota(path, limits).await
    }

    async fn clear_quota(
        &self,
        request: Request<pb::ClearQuotaRequest>,
    ) -> Result<Response<pb::QuotaList>, Status> {
        self.change_quota(request.into_inner().path, None).await
    }

    async fn scrub(&self, request: Request<pb::ScrubRequest>) -> Result<Response<pb::ScrubStarted>, Status> {
        let keepers = request.into_inner().keepers.into_iter().map(KeeperId).collect();
        match self.operate(Operation::Scrub { keepers }).await? {
            OperatorReply::Scrub(started) => Ok(Response::new(started)),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn fsck(&self, request: Request<pb::FsckRequest>) -> Result<Response<pb::FsckStarted>, Status> {
        self.note("fsck", &request, format!("repair {}", request.get_ref().repair))?;
        match self.operate(Operation::Fsck { repair: request.into_inner().repair }).await? {
            OperatorReply::Fsck(started) => Ok(Response::new(started)),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn fsck_report(
        &self,
        request: Request<pb::FsckReportRequest>,
    ) -> Result<Response<pb::FsckReport>, Status> {
        let (root, number) = (root_of(&request)?, request.into_inner().number);
        let report = self.engine.read(|state, now| state.fsck_report(number, now)).await.map_err(stopped)?;
        let mut report = report.map_err(status)?;
        if root != InodeNo::ROOT {
            report.lost_files.clear();
        }
        Ok(Response::new(report))
    }

    async fn trash(&self, request: Request<pb::TrashRequest>) -> Result<Response<pb::TrashList>, Status> {
        let root = root_of(&request)?;
        let pb::TrashRequest { path, after } = request.into_inner();
        let after = after.map(|cursor| (cursor.deleted_ms, InodeNo(cursor.entry)));
        let list = self.engine.read(|state, _| state.list_trash_below(root, &path, after)).await;
        list.map(Response::new).map_err(stopped)
    }

    async fn restore_trash(
        &self,
        request: Request<pb::RestoreTrashRequest>,
    ) -> Result<Response<pb::TrashList>, Status> {
        self.note("trash restore", &request, format!("entry {}", request.get_ref().entry))?;
        let pb::RestoreTrashRequest { entry, to } = request.into_inner();
        self.change_trash(TrashOperation::Restore { entry: InodeNo(entry), to }).await
    }

    async fn purge_trash(
        &self,
        request: Request<pb::PurgeTrashRequest>,
    ) -> Result<Response<pb::TrashList>, Status> {
        self.note("trash purge", &request, format!("entry {} (0: all)", request.get_ref().entry))?;
        let pb::PurgeTrashRequest { entry } = request.into_inner();
        self.change_trash(TrashOperation::Purge((entry != 0).then_some(InodeNo(entry)))).await
    }

    type BackupStream = ReceiverStream<Result<pb::BackupPart, Status>>;

    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.note("backup", &request, "")?;
        let now = self.engine.read(|_, now| now.time).await.map_err(stopped)?;
        let snapshot = self.engine.snapshot().await.map_err(stopped)?;
        let snapshot = snapshot.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ReceiverStream::new(backup::send(snapshot, now))))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::KeeperRow>, Status> {
        let asked = request.get_ref();
        self.note("drain", &request, format!("keeper {}, cancel {}", asked.keeper, asked.cancel))?;
        let pb::DrainRequest { keeper, cancel } = request.into_inner();
        self.change_duty(keeper, if cancel { Duty::CancelDrain } else { Duty::Drain }).await
    }

    async fn maintenance(
        &self,
        request: Request<pb::MaintenanceRequest>,
    ) -> Result<Response<pb::KeeperRow>, Status> {
        let asked = request.get_ref();
        self.note("maintenance", &request, format!("keeper {}, for {} ms", asked.keeper, asked.for_ms))?;
        let pb::MaintenanceRequest { keeper, for_ms } = request.into_inner();
        self.change_duty(keeper, Duty::Maintenance { for_ms }).await
    }

    async fn forget(&self, request: Request<pb::ForgetRequest>) -> Result<Response<pb::KeeperRow>, Status> {
        self.note("forget", &request, format!("keeper {}", request.get_ref().keeper))?;
        self.change_duty(request.into_inner().keeper, Duty::Forget).await
    }

    async fn rebalance(
        &self,
        request: Request<pb::RebalanceRequest>,
    ) -> Result<Response<pb::RebalanceStatus>, Status> {
        use pb::rebalance_request::Action;
        match request.into_inner().action() {
            Action::Start => self.change_rebalance(true).await,
            Action::Stop => self.change_rebalance(false).await,
            Action::Status => {
                let status = self.engine.read(|state, _| state.rebalance_status()).await;
                status.map(Response::new).map_err(stopped)
            }
        }
    }

    type LookupTableStream = ReceiverStream<Result<pb::LookupRow, Status>>;

    async fn lookup_table(
        &self,
        request: Request<pb::LookupTableRequest>,
    ) -> Result<Response<Self::LookupTableStream>, Status> {
        let (root, path) = (root_of(&request)?, request.into_inner().path);
        // A path that is not there is an error of the call, not of the stream.
        let first = page(&self.engine, (root, &path), None).await?;
        let (sender, rows) = mpsc::channel(PAGE_ROWS);
        let engine = self.engine.clone();
        tokio::spawn(async move {
            if let Err(status) = send_pages(&engine, (root, &path), first, &sender).await {
                let _ = tokio::time::timeout(READ_DEADLINE, sender.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rows)))
    }
}

/// The directory that is all that the asker sees. Whoever answers with names of files needs it.
fn root_of<T>(request: &Request<T>) -> Result<InodeNo, Status> {
    Ok(Asker::of(request)?.bearer.root)
}

async fn page(
    engine: &Engine,
    (root, path): (InodeNo, &[u8]),
    after: Option<LookupCursor>,
) -> Result<Page, Status> {
    let page = engine.read(|state, _| state.lookup_rows_below(root, path, after, PAGE_ROWS)).await;
    page.map_err(stopped)?.map_err(status)
}

/// Ends early when the operator does.
async fn send_pages(
    engine: &Engine,
    path: (InodeNo, &[u8]),
    first: Page,
    sender: &mpsc::Sender<Result<pb::LookupRow, Status>>,
) -> Result<(), Status> {
    let (mut rows, mut cursor) = first;
    loop {
        for row in rows {
            let sent = tokio::time::timeout(READ_DEADLINE, sender.send(Ok(row))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return Ok(());
            }
        }
        if cursor.is_none() {
            return Ok(());
        }
        (rows, cursor) = page(engine, path, cursor).await?;
    }
}

pub(super) fn stopped(error: Stopped) -> Status {
    Status::unavailable(error.to_string())
}

pub(super) fn status(error: DfsError) -> Status {
    match error.code {
        ErrorCode::NotFound => Status::not_found(error.message),
        ErrorCode::Unavailable | ErrorCode::NoKeeper | ErrorCode::Busy => {
            Status::failed_precondition(error.message)
        }
        ErrorCode::Exists => Status::already_exists(error.message),
        ErrorCode::QuotaExceeded => Status::resource_exhausted(error.message),
        ErrorCode::NotDirectory | ErrorCode::Invalid | ErrorCode::NameTooLong => {
            Status::invalid_argument(error.message)
        }
        _ => Status::internal(error.message),
    }
}
