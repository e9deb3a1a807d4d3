//! What has not been read: the caller's counters, and how far everybody has read.

use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use proto::{DialogId, UserId, counter};

use crate::{error::Error, version::Version};

use super::{
    Dialog, Scope, User,
    page::{self, PAGE_MAX},
};

/// The caller's counters at one version.
#[derive(Debug)]
pub struct Unread {
    total: i64,
    /// Of which version they are.
    pub version: Version,
    rows: Vec<DialogUnread>,
}

/// The caller's counter of one dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogUnread {
    /// Of which dialog.
    pub dialog: DialogId,
    /// How many messages the caller has not read.
    pub unread: i64,
    /// The number of the newest message that the caller has read; 0 where none.
    pub read_seq: i64,
    /// The number of the newest message that the counters have seen; 0 where none.
    pub last_seq: i64,
}

/// How far one participant has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// Who.
    pub user: UserId,
    /// The number of the newest message that the participant has read; 0 where none.
    pub read_seq: i64,
}

/// The caller's counters after a `markRead`.
#[derive(Debug)]
pub struct MarkReadPayload {
    /// Of which version they are.
    pub version: Version,
    total: i64,
    dialog: DialogUnread,
}

impl Unread {
    /// The counters that the service has answered with.
    ///
    /// # Errors
    /// INTERNAL where the answer is not whole.
    pub fn read(reply: counter::UnreadReply) -> Result<Self, Error> {
        let version = reply.version.ok_or_else(|| Error::internal("counters without a version"))?;
        let rows = reply.rows.into_iter().map(DialogUnread::try_from).collect::<Result<_, _>>()?;
        Ok(Self { total: reply.total, version: version.into(), rows })
    }
}

impl MarkReadPayload {
    /// The counters that the service has answered with.
    ///
    /// # Errors
    /// INTERNAL where the answer is not whole.
    pub fn read(reply: counter::MarkReadReply) -> Result<Self, Error> {
        let (Some(version), Some(row)) = (reply.version, reply.row) else {
            return Err(Error::internal("a read without its counters"));
        };
        Ok(Self { version: version.into(), total: reply.total, dialog: row.try_into()? })
    }
}

impl TryFrom<counter::Row> for DialogUnread {
    type Error = Error;

    fn try_from(row: counter::Row) -> Result<Self, Error> {
        let dialog = DialogId::parse(&row.dialog_id)?;
        Ok(Self { dialog, unread: row.unread, read_seq: row.read_seq, last_seq: row.last_seq })
    }
}

impl TryFrom<counter::ReadState> for ReadState {
    type Error = Error;

    fn try_from(state: counter::ReadState) -> Result<Self, Error> {
        Ok(Self { user: UserId::parse(&state.user_id)?, read_seq: state.read_seq })
    }
}

/// The caller's counters at one version.
#[Object]
impl Unread {
    /// How many messages the caller has not read in all dialogs together. Exact, also where there are more dialogs than
    /// are listed.
    async fn total(&self) -> i64 {
        self.total
    }

    /// The version of these numbers, "epoch-number". It grows with every change of any of the caller's counters; give it
    /// to the subscription `unread` as `since`, or to the query `unread` as `atLeast`.
    async fn version(&self) -> String {
        self.version.to_string()
    }

    /// The dialogs with something unread, newest activity first.
    #[graphql(complexity = "page::cost(first, PAGE_MAX, child_complexity)")]
    async fn dialogs(
        &self,
        #[graphql(desc = "How many, 1 to 100.", default_with = "Some(PAGE_MAX)")] first: Option<i32>,
    ) -> Result<Vec<DialogUnread>, Error> {
        let first = usize::try_from(page::size("first", first, PAGE_MAX)?).unwrap_or_default();
        Ok(self.rows.iter().take(first).copied().collect())
    }
}

/// The caller's counter of one dialog.
#[Object]
impl DialogUnread {
    /// Of which dialog.
    async fn dialog_id(&self) -> ID {
        ID(self.dialog.to_string())
    }

    /// The dialog. Null with an UNAVAILABLE error while dialogs cannot be had.
    async fn dialog(&self, ctx: &Context<'_>) -> Result<Option<Arc<Dialog>>, Error> {
        Scope::of(ctx).loaders.dialogs.load(self.dialog).await
    }

    /// How many messages of others the caller has not read.
    async fn unread(&self) -> i64 {
        self.unread
    }

    /// The number (`Message.seq`) of the newest message that the caller has read; 0 where none. Never goes back.
    async fn read_seq(&self) -> i64 {
        self.read_seq
    }

    /// The number of the newest message that the counters have seen; 0 where none.
    async fn last_seq(&self) -> i64 {
        self.last_seq
    }
}

/// How far one participant has read: a read receipt.
#[Object]
impl ReadState {
    /// Who.
    async fn user_id(&self) -> ID {
        ID(self.user.to_string())
    }

    /// Who. Null with an UNAVAILABLE error while names cannot be had.
    async fn user(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>, Error> {
        Scope::of(ctx).loaders.users.load(self.user).await
    }

    /// The number (`Message.seq`) of the newest message that this participant has read; 0 where none.
    async fn read_seq(&self) -> i64 {
        self.read_seq
    }
}

/// The caller's counters after a `markRead`, so that no second question is needed.
#[Object]
impl MarkReadPayload {
    /// The version of the caller's counters, "epoch-number". Frames of the subscription `unread` at or below it are
    /// contained already.
    async fn version(&self) -> String {
        self.version.to_string()
    }

    /// How many messages the caller has not read in all dialogs together.
    async fn total(&self) -> i64 {
        self.total
    }

    /// The counter of the dialog that was read.
    async fn dialog(&self) -> DialogUnread {
        self.dialog
    }
}
