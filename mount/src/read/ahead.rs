//! The question for a file's layout, also before the file is open.

use std::pin::Pin;
use std::time::Instant;

use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::client::Client;
use crate::client::lanes::Lane;
use crate::client::operation;

/// When it was asked, and the answer.
pub(super) type Answered = (Instant, Result<pb::FileLayout, DfsError>);

/// Download steps 1 and 2, from `start` to the end of the file.
pub(super) fn ask_layout(
    client: &Client,
    inode: InodeNo,
    start: u64,
) -> impl Future<Output = Answered> + Send + use<> {
    let client = client.clone();
    async move {
        let asked_at = Instant::now();
        let length = MAX_FILE_SIZE - start.min(MAX_FILE_SIZE - 1);
        (asked_at, client.layout(inode, start, length).await)
    }
}

/// The layout of a file that is about to be opened, on its way: asked for together with the open, so that the first
/// read need not wait for it.
pub struct LayoutAhead(pub(super) Pin<Box<dyn Future<Output = Answered> + Send>>);

impl LayoutAhead {
    /// Asks.
    pub fn ask(client: &Client, inode: InodeNo) -> LayoutAhead {
        let lost = |_| DfsError::new(ErrorCode::Io, "a question for a layout was lost; see the log");
        let asked_at = Instant::now();
        let asking = operation::within(operation::current(), ask_layout(client, inode, 0));
        let asking = client.lanes().of(Lane::Control).spawn(asking);
        LayoutAhead(Box::pin(
            async move { asking.await.unwrap_or_else(|error| (asked_at, Err(lost(error)))) },
        ))
    }
}
