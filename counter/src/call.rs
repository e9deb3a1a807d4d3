//! Changes by calls: `markRead` moves a user's read pointer in a dialog forward, never back, and `Leave`
//! applies a leave before its event arrives. The pointer may be ahead of the messages that the counter
//! has applied.

use db::Db;
use events::Headers;
use proto::{DialogId, UserId};

use crate::{
    Error,
    kernel::{Change, Input},
    publish, store,
    unread::{Head, Row},
};

/// State of a user after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserState {
    /// Version, and the unread messages of the user in all dialogs.
    pub(crate) head: Head,
    /// The user's counts in the dialog.
    pub(crate) row: Row,
}

/// Moves the user's read pointer to `seq` unless it is there already, and returns the state after the
/// call. Safe to repeat.
///
/// Membership is not checked: the dialog service has done that. If the join has not been applied yet,
/// the row keeps the pointer and counts nothing.
///
/// # Errors
/// [`Error::Blocked`], [`Error::Database`].
#[tracing::instrument(name = "counter.read.mark", skip_all, fields(%user_id, %dialog_id, seq))]
pub(crate) async fn mark_read(
    db: &Db,
    user_id: UserId,
    dialog_id: DialogId,
    seq: i64,
    headers: Headers,
) -> Result<UserState, Error> {
    // A pointer never goes back, so a read of what is already read needs no lock and no write.
    let mut tx = db.snapshot().await?;
    let row = store::row(&mut tx, user_id, dialog_id).await?;
    let head = store::version(&mut tx, user_id).await?;
    tx.rollback().await?;
    if seq <= row.read_seq {
        return Ok(UserState { head, row });
    }
    // Detached from the request: a client that disconnects must not cancel the transaction halfway
    // (docs/decisions/0002-no-begin-is-cancelled.md).
    let change = Change::Read { user_id, up_to: seq };
    db.detach(write(db.clone(), user_id, dialog_id, change, headers)).await
}

/// Applies that a user left a dialog at a version of the dialog, and returns the state after the call.
/// Safe to repeat: the event of the log that follows changes nothing any more.
///
/// # Errors
/// [`Error::Blocked`], [`Error::Database`].
#[tracing::instrument(name = "counter.leave", skip_all, fields(%user_id, %dialog_id, version))]
pub(crate) async fn leave(
    db: &Db,
    user_id: UserId,
    dialog_id: DialogId,
    version: i64,
    headers: Headers,
) -> Result<UserState, Error> {
    let change = Change::Left { user_id, version };
    db.detach(write(db.clone(), user_id, dialog_id, change, headers)).await
}

/// Applies one change of a user's row in a transaction of its own.
async fn write(
    db: Db,
    user_id: UserId,
    dialog_id: DialogId,
    change: Change,
    headers: Headers,
) -> Result<UserState, Error> {
    let mut tx = db.begin().await?;
    let input = Input::Dialog { dialog_id, version: None, change };
    let outcome = store::transact(&mut tx, &[input]).await?;
    // Read under the locks of this transaction: the answer is exactly the state that the events
    // announce.
    let head = store::version(&mut tx, user_id).await?;
    let row = store::row(&mut tx, user_id, dialog_id).await?;
    let epoch = store::epoch(&mut tx).await?;
    publish::append(&mut tx, epoch, outcome.effects, Vec::new(), |_, _| headers.clone()).await?;
    tx.commit().await?;
    Ok(UserState { head, row })
}
