//! Making a dialog. Two people without a title have one, found where it is there already, also when both make it at once.
//! Auth is asked whether the people exist before anything is written, and not at all where nothing will be.

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
    held::Held,
    participants::{Participants, must_exist},
    store::{self, key::Claimed},
    text::{ClientKey, Title},
};

/// A dialog to be made.
#[derive(Debug)]
pub struct New {
    /// Its id, where it is made.
    pub id: DialogId,
    /// Who takes part, the caller among them.
    pub participants: Participants,
    /// Its title, where it has one.
    pub title: Option<Title>,
    /// Repeats this call safely.
    pub client_key: Option<ClientKey>,
}

impl New {
    /// The two whose one dialog this is, where it is that.
    fn pair(&self) -> Option<(UserId, UserId)> {
        self.participants.pair().filter(|_| self.title.is_none())
    }

    /// What is kept of the request beside the client's key.
    fn hash(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(self.participants.all().len().to_be_bytes());
        for person in self.participants.all() {
            hash.update(person.uuid().as_bytes());
        }
        hash.update(self.title.as_ref().map_or("", Title::as_str));
        hash.finalize().to_vec()
    }
}

/// Makes a dialog, or finds the one that the two people or the client's key have already.
///
/// # Errors
/// [`Error::Invalid`] for people whom auth does not know, [`Error::KeyTaken`] where the key was used with other people or
/// another title, [`Error::Auth`] and [`Error::Database`].
#[tracing::instrument(name = "dialog.create", skip_all, fields(user_id = %caller, dialog_id = %new.id))]
pub async fn create(db: &Db, auth: &Peer, call: &Call, caller: UserId, new: New) -> Result<Dialog, Error> {
    if let Some(key) = &new.client_key
        && let Some(claimed) = store::key::claimed_dialog(db, caller, key).await?
    {
        let id = repeated(&new, claimed)?;
        return store::dialog::by_ids(db, caller, [id]).await?.pop().ok_or(Error::NoDialog);
    }
    let known = match new.pair() {
        Some(pair) => store::dialog::of_pair(db, pair).await?.is_some(),
        None => false,
    };
    if !known {
        let others = new.participants.all().iter().copied().filter(|person| *person != caller);
        must_exist(auth, call, others.collect()).await?;
    }
    let (writer, cause) = (db.clone(), Headers::from(call));
    let write = async move {
        let mut tx = writer.begin().await?;
        let id = write(&mut tx, caller, &new, &cause).await?;
        let dialog = store::dialog::by_ids(&mut tx, caller, [id]).await?.pop().ok_or(Error::NoDialog)?;
        tx.commit().await?;
        Ok(dialog)
    };
    db.detach(write).await
}

/// The dialog of a key that was used before.
fn repeated(new: &New, claimed: Claimed<DialogId>) -> Result<DialogId, Error> {
    if claimed.hash == new.hash() { Ok(claimed.made) } else { Err(Error::KeyTaken) }
}

async fn write(tx: &mut Tx, caller: UserId, new: &New, cause: &Headers) -> Result<DialogId, Error> {
    if let Some(key) = &new.client_key
        && !store::key::claim_dialog(tx, (caller, key), new.id, new.hash()).await?
    {
        let claimed = store::key::claimed_dialog(&mut *tx, caller, key).await?.ok_or(Error::KeyTaken)?;
        return repeated(new, claimed);
    }
    if let Some(held) = store::dialog::insert(tx, new.id, new.title.as_ref(), new.pair()).await? {
        begin(tx, held, &new.participants, cause).await?;
        return Ok(new.id);
    }
    // Only a pair can be there already, and never goes away again.
    let pair = new.pair().ok_or(Error::NoDialog)?;
    let id = store::dialog::of_pair(&mut *tx, pair).await?.ok_or(Error::NoDialog)?;
    if let Some(key) = &new.client_key {
        store::key::point_at(tx, caller, key, id).await?;
    }
    Ok(id)
}

/// The first events of a dialog: it is made, and everybody joins.
async fn begin(
    tx: &mut Tx,
    mut held: Held,
    participants: &Participants,
    cause: &Headers,
) -> Result<(), Error> {
    let created = DialogCreated { dialog_id: held.id.bytes(), version: held.next_version() };
    held.record(Kind::DialogCreated(created), cause);
    let people = join(&mut held, participants.all().iter().copied(), cause);
    store::membership::join(tx, held.id, held.head_seq, people).await?;
    Ok(store::save(tx, held).await?)
}

/// Records that people join, each at a version of its own.
pub fn join(
    held: &mut Held,
    people: impl IntoIterator<Item = UserId>,
    cause: &Headers,
) -> Vec<(UserId, i64)> {
    let mut joined = Vec::new();
    for person in people {
        let version = held.next_version();
        let event = ParticipantJoined {
            dialog_id: held.id.bytes(),
            version,
            user_id: person.bytes(),
            joined_seq: held.head_seq,
        };
        held.record(Kind::ParticipantJoined(event), cause);
        joined.push((person, version));
    }
    joined
}
