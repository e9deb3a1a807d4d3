//! Unread counters of the caller, and read receipts of the participants of a dialog.

use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use proto::{DialogId, UserId, counter};

use crate::{error::Error, version::Version};

use super::{
    Dialog, Message, MessageConnection, Scope, User,
    cursor::List,
    loaders::{MessageKey, UnreadMessagesPage},
    page::{self, PAGE_DEFAULT, PAGE_MAX},
};

/// The caller's counters at one version.
#[derive(Debug)]
pub struct Unread {
    pub(super) total: i64,
    /// The version of the counters.
    pub version: Version,
    rows: Vec<DialogUnread>,
    pub(super) stale: bool,
}

impl Unread {
    /// Returns the first rows, [`PAGE_MAX`] by default.
    ///
    /// # Errors
    /// BAD_USER_INPUT if the number is out of range.
    pub(super) fn first(&self, first: Option<i32>) -> Result<&[DialogUnread], Error> {
        let first = usize::try_from(page::size("first", first, PAGE_MAX)?).unwrap_or_default();
        Ok(self.rows.get(..first).unwrap_or(&self.rows))
    }
}

/// The caller's counter of one dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogUnread {
    /// The dialog.
    pub dialog: DialogId,
    /// The number of unread messages.
    pub unread: i64,
    /// The `seq` of the newest message that the caller has read; 0 if none.
    pub read_seq: i64,
    /// The `seq` of the newest counted message; 0 if none.
    pub last_seq: i64,
    /// True if the numbers may be wrong.
    pub stale: bool,
}

/// The read position of one participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// The participant.
    pub user: UserId,
    /// The `seq` of the newest message that the participant has read; 0 if none.
    pub read_seq: i64,
}

/// The caller's counters after a `markRead`.
#[derive(Debug)]
pub struct MarkReadPayload {
    /// The version of the counters.
    pub version: Version,
    total: i64,
    dialog: DialogUnread,
    stale: bool,
}

impl TryFrom<counter::UnreadReply> for Unread {
    type Error = Error;

    fn try_from(reply: counter::UnreadReply) -> Result<Self, Error> {
        let version = reply.version.ok_or_else(|| Error::internal("counters without a version"))?;
        let rows = reply.rows.into_iter().map(DialogUnread::try_from).collect::<Result<_, _>>()?;
        Ok(Self { total: reply.total, version: version.into(), rows, stale: reply.stale })
    }
}

impl TryFrom<counter::MarkReadReply> for MarkReadPayload {
    type Error = Error;

    fn try_from(reply: counter::MarkReadReply) -> Result<Self, Error> {
        let (Some(version), Some(row)) = (reply.version, reply.row) else {
            return Err(Error::internal("reply to MarkRead without counters"));
        };
        let dialog = row.try_into()?;
        Ok(Self { version: version.into(), total: reply.total, dialog, stale: reply.stale })
    }
}

impl TryFrom<counter::Row> for DialogUnread {
    type Error = Error;

    fn try_from(row: counter::Row) -> Result<Self, Error> {
        let dialog = DialogId::parse(&row.dialog_id)?;
        let counter::Row { unread, read_seq, last_seq, stale, .. } = row;
        Ok(Self { dialog, unread, read_seq, last_seq, stale })
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
    /// The number of unread messages in all of the caller's dialogs. Exact, even if `dialogs` omits some.
    async fn total(&self) -> i64 {
        self.total
    }

    /// The version of the counters, `epoch-number`. It increases whenever one of the caller's counters
    /// changes. Pass it as `since` to the subscription `unread`, or as `atLeast` to the query `unread`.
    async fn version(&self) -> String {
        self.version.to_string()
    }

    /// True if `total` may be wrong, because the counter service misses events of one of the caller's
    /// dialogs, which it then fetches. `DialogUnread.stale` tells of which.
    async fn stale(&self) -> Option<bool> {
        Some(self.stale)
    }

    /// The dialogs that have unread messages, newest activity first.
    #[graphql(complexity = "page::cost(first, PAGE_MAX, child_complexity)")]
    async fn dialogs(
        &self,
        #[graphql(desc = "The maximum number of dialogs, 1 to 100.", default_with = "Some(PAGE_MAX)")]
        first: Option<i32>,
    ) -> Result<Vec<DialogUnread>, Error> {
        Ok(self.first(first)?.to_vec())
    }
}

/// The caller's counter of one dialog.
#[Object]
impl DialogUnread {
    /// The id of the dialog.
    async fn dialog_id(&self) -> ID {
        ID(self.dialog.to_string())
    }

    /// The dialog. Null with an UNAVAILABLE error while the dialog service is unavailable.
    async fn dialog(&self, ctx: &Context<'_>) -> Result<Option<Arc<Dialog>>, Error> {
        Scope::of(ctx).loaders.dialogs.load(self.dialog).await
    }

    /// The number of messages by other participants that the caller has not read.
    async fn unread(&self) -> i64 {
        self.unread
    }

    /// Exactly the messages that `unread` counts, oldest first. Null with an UNAVAILABLE error while the
    /// counter service or the dialog service is unavailable.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The page size, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Returns the items after this cursor.")] after: Option<String>,
    ) -> Result<Option<MessageConnection>, Error> {
        let parent = self.dialog.to_string();
        let list = List::new("unread", &parent);
        let first = page::size("first", first, PAGE_DEFAULT)?;
        let after = after.map(|cursor| list.position::<i64>(&cursor)).transpose()?.unwrap_or(0);
        let loaders = &Scope::of(ctx).loaders;
        let page = UnreadMessagesPage { dialog: self.dialog, first, after };
        let Some(unread) = loaders.unread_messages.load(page).await? else { return Ok(None) };
        let keys = unread.ids.iter().map(|id| MessageKey::Id(*id));
        let messages = loaders.messages.load_all(keys).await?;
        let cursor = |message: &Message| list.cursor(&message.seq.to_string());
        Ok(Some(MessageConnection::new(messages, unread.has_next, after > 0, cursor)))
    }

    /// The `Message.seq` of the newest message that the caller has read; 0 if none. It never decreases.
    async fn read_seq(&self) -> i64 {
        self.read_seq
    }

    /// The `Message.seq` of the newest message that the counter service has seen; 0 if none.
    async fn last_seq(&self) -> i64 {
        self.last_seq
    }

    /// True if the numbers may be wrong, because the counter service misses events of the dialog, which it
    /// then fetches.
    async fn stale(&self) -> Option<bool> {
        Some(self.stale)
    }
}

/// A read receipt: the position up to which one participant has read a dialog.
#[Object]
impl ReadState {
    /// The id of the participant.
    async fn user_id(&self) -> ID {
        ID(self.user.to_string())
    }

    /// The participant. Null with an UNAVAILABLE error while the auth service is unavailable.
    async fn user(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>, Error> {
        Scope::of(ctx).loaders.users.load(self.user).await
    }

    /// The `Message.seq` of the newest message that the participant has read; 0 if none.
    async fn read_seq(&self) -> i64 {
        self.read_seq
    }
}

/// The caller's counters after a `markRead`.
#[Object]
impl MarkReadPayload {
    /// The version of the caller's counters, `epoch-number`. These counters include every frame of the
    /// subscription `unread` up to this version.
    async fn version(&self) -> String {
        self.version.to_string()
    }

    /// The number of unread messages in all of the caller's dialogs.
    async fn total(&self) -> i64 {
        self.total
    }

    /// The counter of the dialog that was read.
    async fn dialog(&self) -> DialogUnread {
        self.dialog
    }

    /// True if `total` may be wrong. See `Unread.stale`.
    async fn stale(&self) -> Option<bool> {
        Some(self.stale)
    }
}
