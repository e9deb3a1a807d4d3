//! Joining and leaving a group. What is said after a person joins counts for that person; the whole history is visible to
//! everybody who takes part, and nothing to those who do not.

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
    create::join,
    dialog::Dialog,
    held::Held,
    participants::{PARTICIPANTS_MAX, must_exist, too_many},
    store,
};

/// Adds people to a group. Those who take part already stay as they are.
///
/// # Errors
/// [`Error::NoDialog`], [`Error::Direct`]; [`Error::Invalid`] for people whom auth does not know and for more than 1,000
/// participants; [`Error::Auth`] and [`Error::Database`].
#[tracing::instrument(name = "dialog.participants.add", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub async fn add(
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
    let present = store::membership::present(db, id).await?;
    must_exist(auth, call, invited.difference(&present).copied().collect()).await?;
    let (writer, cause) = (db.clone(), Headers::from(call));
    let write = async move {
        let mut tx = writer.begin().await?;
        let mut held = group(&mut tx, id, caller).await?;
        let present = store::membership::present(&mut tx, id).await?;
        let new: Vec<_> = invited.difference(&present).copied().collect();
        if present.len() + new.len() > PARTICIPANTS_MAX {
            return Err(too_many());
        }
        let people = join(&mut held, new, &cause);
        store::membership::join(&mut tx, id, held.head_seq, people).await?;
        store::save(&mut tx, held).await?;
        let dialog = store::dialog::by_ids(&mut tx, caller, [id]).await?.pop().ok_or(Error::NoDialog)?;
        tx.commit().await?;
        Ok(dialog)
    };
    db.detach(write).await
}

/// Leaves a group: from then on it does not exist for the person.
///
/// # Errors
/// [`Error::NoDialog`], [`Error::Direct`] and [`Error::Database`].
#[tracing::instrument(name = "dialog.leave", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub async fn leave(db: &Db, call: &Call, caller: UserId, id: DialogId) -> Result<(), Error> {
    let (writer, cause) = (db.clone(), Headers::from(call));
    let write = async move {
        let mut tx = writer.begin().await?;
        let mut held = group(&mut tx, id, caller).await?;
        let version = held.next_version();
        if !store::membership::leave(&mut tx, id, caller, version).await? {
            return Err(Error::NoDialog);
        }
        let left = ParticipantLeft { dialog_id: id.bytes(), version, user_id: caller.bytes() };
        held.record(Kind::ParticipantLeft(left), &cause);
        store::save(&mut tx, held).await?;
        Ok(tx.commit().await?)
    };
    db.detach(write).await
}

/// Locks a group in which the caller takes part.
async fn group(tx: &mut Tx, id: DialogId, caller: UserId) -> Result<Held, Error> {
    let held = store::lock_one(tx, id).await?.ok_or(Error::NoDialog)?;
    if !store::membership::is_present(tx, id, caller).await? {
        return Err(Error::NoDialog);
    }
    if held.direct { Err(Error::Direct) } else { Ok(held) }
}
