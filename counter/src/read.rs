//! Reading: a person's pointer of a dialog moves forward, never back, and may run ahead of what the counters have seen.

use db::Db;
use events::Headers;
use proto::{DialogId, UserId};

use crate::{
    Error,
    kernel::{Change, Input},
    publish, store,
    unread::{Row, Version},
};

/// The state after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// The user's version.
    pub version: Version,
    /// The user's total.
    pub total: i64,
    /// The dialog's row.
    pub row: Row,
}

/// Moves the pointer to `seq` where it is not there yet. Whether the person takes part is for the dialog service to say;
/// a row whose join is still on its way keeps the pointer and counts nothing.
///
/// # Errors
/// As the database has them; to be repeated without harm.
#[tracing::instrument(name = "counter.read.mark", skip_all, fields(%user_id, %dialog_id, seq))]
pub async fn mark(
    db: &Db,
    user_id: UserId,
    dialog_id: DialogId,
    seq: i64,
    headers: Headers,
) -> Result<Marked, Error> {
    // A pointer never goes back: what it has passed needs no lock and no write.
    let mut tx = db.snapshot().await?;
    let row = store::pointer(&mut tx, user_id, dialog_id).await?;
    let (version, total) = store::version(&mut tx, user_id).await?;
    tx.rollback().await?;
    if seq <= row.read_seq {
        return Ok(Marked { version, total, row });
    }
    db.detach(write(db.clone(), user_id, dialog_id, seq, headers)).await
}

async fn write(
    db: Db,
    user_id: UserId,
    dialog_id: DialogId,
    seq: i64,
    headers: Headers,
) -> Result<Marked, Error> {
    let mut tx = db.begin().await?;
    let input = Input::Dialog { dialog_id, version: None, change: Change::Read { user_id, up_to: seq } };
    let done = store::transact(&mut tx, &[input]).await?;
    if !done.refused.is_empty() {
        return Err(Error::Invalid(store::REFUSED));
    }
    let (version, total) = store::version(&mut tx, user_id).await?;
    let row = store::pointer(&mut tx, user_id, dialog_id).await?;
    publish::publish(&mut tx, version.epoch, done.effects, Vec::new(), |_, _| headers.clone()).await?;
    tx.commit().await?;
    Ok(Marked { version, total, row })
}
