//! Creation of dialogs. A dialog of two users without a title is a direct dialog. Two users have at most
//! one direct dialog: creating it again, also concurrently, returns the existing dialog. Before the
//! transaction starts, auth is asked whether the users exist, unless the dialog is known to exist already.

use db::{Db, Tx};
use events::Headers;
use proto::{
    DialogId, Peer, UserId,
    events::{DialogCreated, ParticipantJoined, event::Kind},
};
use sha2::{Digest, Sha256};
use telemetry::Call;

use crate::{
    Error,
    dialog::Dialog,
    locked_dialog::LockedDialog,
    participants::{Pair, Participants, ensure_users_exist},
    store::{self, key::Claim, membership::Join},
    text::{ClientKey, Title},
};

/// Validated input of a creation.
#[derive(Debug)]
pub(crate) struct NewDialog {
    pub id: DialogId,
    /// Participants, with the caller.
    pub participants: Participants,
    pub title: Option<Title>,
    /// Makes the call idempotent.
    pub client_key: Option<ClientKey>,
}

impl NewDialog {
    /// Returns the two users of a direct dialog; `None` for a group.
    fn pair(&self) -> Option<Pair> {
        self.participants.pair().filter(|_| self.title.is_none())
    }

    /// Returns the hash that is stored with the client key, to recognise a key that is used for another
    /// request.
    fn hash(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        // The count separates the ids from the title.
        hash.update(self.participants.all().len().to_be_bytes());
        for user in self.participants.all() {
            hash.update(user.uuid().as_bytes());
        }
        hash.update(self.title.as_ref().map_or("", Title::as_str));
        hash.finalize().to_vec()
    }
}

/// Creates a dialog and appends DialogCreated and a ParticipantJoined per user, or returns the existing
/// dialog of the two users or of the client key.
///
/// # Errors
/// [`Error::Invalid`] for an unknown user; [`Error::KeyTaken`] if the key was used with other users or
/// another title; [`Error::Auth`] if auth does not answer; [`Error::Database`] if the database fails.
#[tracing::instrument(name = "dialog.create", skip_all, fields(user_id = %caller, dialog_id = %new.id))]
pub(crate) async fn create(
    db: &Db,
    auth: &Peer,
    call: &Call,
    caller: UserId,
    new: NewDialog,
) -> Result<Dialog, Error> {
    if let Some(key) = &new.client_key
        && let Some(claim) = store::key::dialog_claim(db, caller, key).await?
    {
        let id = repeated_dialog(&new, claim)?;
        return store::dialog::by_ids(db, caller, [id]).await?.pop().ok_or(Error::NoDialog);
    }
    let exists = match new.pair() {
        Some(pair) => store::dialog::of_pair(db, pair).await?.is_some(),
        None => false,
    };
    // Before the transaction: no lock is held during a call to another service.
    if !exists {
        let others = new.participants.all().iter().copied().filter(|user| *user != caller);
        ensure_users_exist(auth, call, others.collect()).await?;
    }
    let writer = db.clone();
    let cause = Headers::from(call);
    let write = async move {
        let mut tx = writer.begin().await?;
        let id = write(&mut tx, caller, &new, &cause).await?;
        let dialog = store::dialog::by_ids(&mut tx, caller, [id]).await?.pop().ok_or(Error::NoDialog)?;
        tx.commit().await?;
        Ok(dialog)
    };
    db.detach(write).await
}

/// Returns the dialog of a client key that was used before.
fn repeated_dialog(new: &NewDialog, claim: Claim<DialogId>) -> Result<DialogId, Error> {
    if claim.hash == new.hash() { Ok(claim.target) } else { Err(Error::KeyTaken) }
}

async fn write(tx: &mut Tx, caller: UserId, new: &NewDialog, cause: &Headers) -> Result<DialogId, Error> {
    if let Some(key) = &new.client_key
        && !store::key::claim_dialog(tx, caller, key, new.id, new.hash()).await?
    {
        let claim = store::key::dialog_claim(&mut *tx, caller, key).await?.ok_or(Error::KeyTaken)?;
        return repeated_dialog(new, claim);
    }
    if let Some(dialog) = store::dialog::insert(tx, new.id, new.title.as_ref(), new.pair()).await? {
        record_creation(tx, dialog, &new.participants, cause).await?;
        return Ok(new.id);
    }
    // The insert conflicts only for a direct dialog, which is never deleted: it can be found now.
    let pair = new.pair().ok_or(Error::NoDialog)?;
    let id = store::dialog::of_pair(&mut *tx, pair).await?.ok_or(Error::NoDialog)?;
    if let Some(key) = &new.client_key {
        store::key::set_dialog(tx, caller, key, id).await?;
    }
    Ok(id)
}

/// Writes the memberships and the first events of a new dialog.
async fn record_creation(
    tx: &mut Tx,
    mut dialog: LockedDialog,
    participants: &Participants,
    cause: &Headers,
) -> Result<(), Error> {
    let created = DialogCreated { dialog_id: dialog.id.bytes(), version: dialog.next_version() };
    dialog.record(Kind::DialogCreated(created), cause);
    let joins = record_joins(&mut dialog, participants.all().iter().copied(), cause);
    store::membership::join(tx, dialog.id, dialog.head_seq, joins).await?;
    Ok(store::save(tx, dialog).await?)
}

/// Records a ParticipantJoined event per user and returns the joins with their versions.
pub(crate) fn record_joins(
    dialog: &mut LockedDialog,
    users: impl IntoIterator<Item = UserId>,
    cause: &Headers,
) -> Vec<Join> {
    let mut joins = Vec::new();
    for user_id in users {
        let version = dialog.next_version();
        let event = ParticipantJoined {
            dialog_id: dialog.id.bytes(),
            version,
            user_id: user_id.bytes(),
            joined_seq: dialog.head_seq,
        };
        dialog.record(Kind::ParticipantJoined(event), cause);
        joins.push(Join { user_id, version });
    }
    joins
}
