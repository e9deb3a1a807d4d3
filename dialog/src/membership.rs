//! Membership of groups: adding participants and leaving. Messages count for a user from the join on. A
//! participant sees the whole history; a user who left sees nothing.

use std::collections::BTreeSet;

use db::{Db, Tx};
use events::Headers;
use proto::{
    DialogId, Peer, UserId,
    events::{ParticipantLeft, event::Kind},
};
use telemetry::Call;

use crate::{
    Error,
    create::record_joins,
    dialog::Dialog,
    locked_dialog::LockedDialog,
    participants::{PARTICIPANTS_MAX, ensure_users_exist, too_many_participants},
    store,
};

/// Adds users to a group and appends a ParticipantJoined per added user. Ignores those that take part
/// already.
///
/// # Errors
/// [`Error::NoDialog`]; [`Error::Direct`]; [`Error::Invalid`] for an unknown user and for more than
/// 1,000 participants; [`Error::Auth`]; [`Error::Database`].
#[tracing::instrument(name = "dialog.participants.add", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub(crate) async fn add(
    db: &Db,
    auth: &Peer,
    call: &Call,
    caller: UserId,
    id: DialogId,
    invited: BTreeSet<UserId>,
) -> Result<Dialog, Error> {
    if store::dialog::is_direct(db, id, caller).await?.ok_or(Error::NoDialog)? {
        return Err(Error::Direct);
    }
    // Before the transaction: no lock is held during a call to another service.
    let present = store::membership::present(db, id).await?;
    ensure_users_exist(auth, call, invited.difference(&present).copied().collect()).await?;
    let writer = db.clone();
    let cause = Headers::from(call);
    let write = async move {
        let mut tx = writer.begin().await?;
        let mut group = lock_group(&mut tx, id, caller).await?;
        // Read again under the lock: participants may have joined or left during the call to auth.
        let present = store::membership::present(&mut tx, id).await?;
        let new: Vec<_> = invited.difference(&present).copied().collect();
        if present.len() + new.len() > PARTICIPANTS_MAX {
            return Err(too_many_participants());
        }
        let joins = record_joins(&mut group, new, &cause);
        store::membership::join(&mut tx, id, group.head_seq, joins).await?;
        store::save(&mut tx, group).await?;
        let dialog = store::dialog::by_ids(&mut tx, caller, [id]).await?.pop().ok_or(Error::NoDialog)?;
        tx.commit().await?;
        Ok(dialog)
    };
    db.detach(write).await
}

/// Removes the caller from a group and appends ParticipantLeft. The group is NOT_FOUND for the caller
/// from then on. Returns the version of the dialog after the change.
///
/// # Errors
/// [`Error::NoDialog`], [`Error::Direct`] and [`Error::Database`].
#[tracing::instrument(name = "dialog.leave", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub(crate) async fn leave(db: &Db, call: &Call, caller: UserId, id: DialogId) -> Result<i64, Error> {
    let writer = db.clone();
    let cause = Headers::from(call);
    let write = async move {
        let mut tx = writer.begin().await?;
        let mut group = lock_group(&mut tx, id, caller).await?;
        let version = group.next_version();
        if !store::membership::leave(&mut tx, id, caller, version).await? {
            return Err(Error::NoDialog);
        }
        let left = ParticipantLeft { dialog_id: id.bytes(), version, user_id: caller.bytes() };
        group.record(Kind::ParticipantLeft(left), &cause);
        store::save(&mut tx, group).await?;
        tx.commit().await?;
        Ok(version)
    };
    db.detach(write).await
}

/// Locks a group that the caller takes part in.
pub(crate) async fn lock_group(tx: &mut Tx, id: DialogId, caller: UserId) -> Result<LockedDialog, Error> {
    let dialog = store::lock_one(tx, id).await?.ok_or(Error::NoDialog)?;
    // Checked after the lock, in a separate statement: the locking statement sees the state before it
    // waited.
    if !store::membership::is_present(tx, id, caller).await? {
        return Err(Error::NoDialog);
    }
    if dialog.direct { Err(Error::Direct) } else { Ok(dialog) }
}
