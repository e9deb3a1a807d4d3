//! A person's dialogs, newest activity first, a page at a time.

use db::Db;
use proto::UserId;

use crate::{
    Error,
    dialog::Dialog,
    page::{Cursor, PageSize},
    store,
};

/// A page of the caller's dialogs behind a cursor, and whether something follows.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.list", skip_all, fields(user_id = %caller))]
pub async fn list(
    db: &Db,
    caller: UserId,
    first: PageSize,
    after: Cursor,
) -> Result<(Vec<Dialog>, bool), Error> {
    let mut dialogs = store::dialog::list(db, caller, after, first.and_one()).await?;
    let has_next = dialogs.len() > first.get();
    dialogs.truncate(first.get());
    Ok((dialogs, has_next))
}
