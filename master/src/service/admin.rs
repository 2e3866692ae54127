//! What operators ask. All of it is answered from memory; the look-up table in pages, so that nobody else
//! waits for a long listing.

use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb::{self, admin_service_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::core::row::QuotaRow;
use crate::core::{Duty, LookupCursor};
use crate::runtime::{Engine, Stopped};

/// Rows of the look-up table that are made at a time, under the engine's lock.
const PAGE_ROWS: usize = 1000;
/// A listing that is not read for this long is given up.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The service.
pub(super) struct Admin {
    engine: Engine,
}

type Page = (Vec<pb::LookupRow>, Option<LookupCursor>);

impl Admin {
    pub fn new(engine: Engine) -> Admin {
        Admin { engine }
    }

    async fn change_duty(&self, keeper: String, duty: Duty) -> Result<Response<pb::KeeperRow>, Status> {
        let answer = self.engine.change_duty(keeper, duty).await.map_err(stopped)?;
        answer.map(Response::new).map_err(status)
    }
}

#[tonic::async_trait]
impl admin_service_server::AdminService for Admin {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::ClusterStatus>, Status> {
        self.engine.read(|state, now| state.status(now)).await.map(Response::new).map_err(stopped)
    }

    async fn keepers(&self, _: Request<pb::KeepersRequest>) -> Result<Response<pb::KeeperList>, Status> {
        let keepers = self.engine.read(|state, now| state.keepers(now)).await.map_err(stopped)?;
        Ok(Response::new(pb::KeeperList { keepers }))
    }

    async fn quotas(&self, request: Request<pb::QuotasRequest>) -> Result<Response<pb::QuotaList>, Status> {
        let path = request.into_inner().path;
        let found = self.engine.read(|state, _| state.quotas(&path)).await.map_err(stopped)?;
        found.map(Response::new).map_err(status)
    }

    async fn set_quota(
        &self,
        request: Request<pb::SetQuotaRequest>,
    ) -> Result<Response<pb::QuotaList>, Status> {
        let pb::SetQuotaRequest { path, max_bytes, max_inodes } = request.into_inner();
        let limits = Some(QuotaRow { max_bytes, max_inodes });
        let answer = self.engine.change_quota(path, limits).await.map_err(stopped)?;
        answer.map(Response::new).map_err(status)
    }

    async fn clear_quota(
        &self,
        request: Request<pb::ClearQuotaRequest>,
    ) -> Result<Response<pb::QuotaList>, Status> {
        let answer = self.engine.change_quota(request.into_inner().path, None).await.map_err(stopped)?;
        answer.map(Response::new).map_err(status)
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::KeeperRow>, Status> {
        let pb::DrainRequest { keeper, cancel } = request.into_inner();
        self.change_duty(keeper, if cancel { Duty::CancelDrain } else { Duty::Drain }).await
    }

    async fn maintenance(
        &self,
        request: Request<pb::MaintenanceRequest>,
    ) -> Result<Response<pb::KeeperRow>, Status> {
        let pb::MaintenanceRequest { keeper, for_ms } = request.into_inner();
        self.change_duty(keeper, Duty::Maintenance { for_ms }).await
    }

    async fn forget(&self, request: Request<pb::ForgetRequest>) -> Result<Response<pb::KeeperRow>, Status> {
        self.change_duty(request.into_inner().keeper, Duty::Forget).await
    }

    async fn rebalance(
        &self,
        request: Request<pb::RebalanceRequest>,
    ) -> Result<Response<pb::RebalanceStatus>, Status> {
        use pb::rebalance_request::Action;
        let status = match request.into_inner().action() {
            Action::Status => self.engine.read(|state, _| state.rebalance_status()).await,
            Action::Start => self.engine.change_rebalance(true).await,
            Action::Stop => self.engine.change_rebalance(false).await,
        };
        status.map(Response::new).map_err(stopped)
    }

    type LookupTableStream = ReceiverStream<Result<pb::LookupRow, Status>>;

    async fn lookup_table(
        &self,
        request: Request<pb::LookupTableRequest>,
    ) -> Result<Response<Self::LookupTableStream>, Status> {
        let path = request.into_inner().path;
        // A path that is not there is an error of the call, not of the stream.
        let first = page(&self.engine, &path, None).await?;
        let (sender, rows) = mpsc::channel(PAGE_ROWS);
        let engine = self.engine.clone();
        tokio::spawn(async move {
            if let Err(status) = send_pages(&engine, &path, first, &sender).await {
                let _ = tokio::time::timeout(READ_DEADLINE, sender.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rows)))
    }
}

async fn page(engine: &Engine, path: &[u8], after: Option<LookupCursor>) -> Result<Page, Status> {
    let page = engine.read(|state, _| state.lookup_rows(path, after, PAGE_ROWS)).await.map_err(stopped)?;
    page.map_err(status)
}

/// Ends early when the operator does.
async fn send_pages(
    engine: &Engine,
    path: &[u8],
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

fn stopped(error: Stopped) -> Status {
    Status::unavailable(error.to_string())
}

fn status(error: DfsError) -> Status {
    match error.code {
        ErrorCode::NotFound => Status::not_found(error.message),
        ErrorCode::NotDirectory | ErrorCode::Invalid | ErrorCode::NameTooLong => {
            Status::invalid_argument(error.message)
        }
        _ => Status::internal(error.message),
    }
}
