//! Renaming of groups by their participants.

use db::Db;
use events::Headers;
use proto::{
    DialogId, UserId,
    events::{DialogRenamed, event::Kind},
};
use telemetry::Call;

use crate::{Error, dialog::Dialog, membership::lock_group, store, text::Title};

/// Gives a group another title and appends DialogRenamed. The same title again changes nothing.
///
/// # Errors
/// [`Error::NoDialog`]; [`Error::Direct`]; [`Error::Database`].
#[tracing::instrument(name = "dialog.rename", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub(crate) async fn rename(
    db: &Db,
    call: &Call,
    caller: UserId,
    id: DialogId,
    title: Title,
) -> Result<Dialog, Error> {
    let writer = db.clone();
    let cause = Headers::from(call);
    let write = async move {
        let mut tx = writer.begin().await?;
        let mut group = lock_group(&mut tx, id, caller).await?;
        if store::dialog::rename(&mut tx, id, &title).await? {
            let renamed = DialogRenamed { dialog_id: id.bytes(), version: group.next_version() };
            group.record(Kind::DialogRenamed(renamed), &cause);
            store::save(&mut tx, group).await?;
        }
        let dialog = store::dialog::by_ids(&mut tx, caller, [id]).await?.pop().ok_or(Error::NoDialog)?;
        tx.commit().await?;
        Ok(dialog)
    };
    db.detach(write).await
}
