//! List: the caller's dialogs, newest activity first, one page per call.

use db::Db;
use proto::UserId;

use crate::{
    Error,
    dialog::Dialog,
    page::{Cursor, PageSize, ParticipantsFirst},
    store,
};

/// Page of dialogs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DialogPage {
    pub dialogs: Vec<Dialog>,
    pub has_next: bool,
}

/// Returns the caller's dialogs after a cursor, each with this many participants.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.list", skip_all, fields(user_id = %caller))]
pub(crate) async fn list(
    db: &Db,
    caller: UserId,
    first: PageSize,
    after: Cursor,
    participants: ParticipantsFirst,
) -> Result<DialogPage, Error> {
    let mut dialogs = store::dialog::list(db, caller, after, first.plus_one(), participants).await?;
    let has_next = dialogs.len() > first.get();
    dialogs.truncate(first.get());
    Ok(DialogPage { dialogs, has_next })
}
