//! All dialogs that the dialog service or the counter knows, page by page in the order of their ids.

use db::{Db, query};
use proto::DialogId;

use super::Maintenance;
use crate::{Error, derived::source};

/// Maximum number of dialogs that each side contributes to a page.
const PAGE_MAX: usize = 1_000;

/// Page of dialogs.
#[derive(Debug)]
pub(super) struct Page {
    /// Dialogs with their versions at the dialog service; 0 if it does not know the dialog.
    pub(super) dialogs: Vec<(DialogId, i64)>,
    /// Position of the next page; `None` after the last one.
    pub(super) next: Option<DialogId>,
}

/// Loads the page after a dialog.
pub(super) async fn page(maintenance: &Maintenance, after: Option<DialogId>) -> Result<Page, Error> {
    let Maintenance { db, dialog, service_token, .. } = maintenance;
    let heads = source::versions(dialog, service_token, after, PAGE_MAX as i32).await?;
    let counted = counted(db, after).await?;
    // A full list ends the page: what comes after its last dialog is not known.
    let full = |len: usize, last: Option<DialogId>| last.filter(|_| len == PAGE_MAX);
    let ends =
        [full(heads.len(), heads.last().map(|(id, _)| *id)), full(counted.len(), counted.last().copied())];
    let next = ends.into_iter().flatten().min();
    let is_within = |id: &DialogId| next.is_none_or(|next| *id <= next);
    let mut dialogs: Vec<(DialogId, i64)> = heads.into_iter().filter(|(id, _)| is_within(id)).collect();
    let unknown = counted.into_iter().filter(is_within);
    let unknown: Vec<(DialogId, i64)> = unknown
        .filter(|id| dialogs.binary_search_by_key(id, |(id, _)| *id).is_err())
        .map(|id| (id, 0))
        .collect();
    dialogs.extend(unknown);
    dialogs.sort_unstable();
    Ok(Page { dialogs, next })
}

/// Returns dialogs that the counter knows, after this one.
async fn counted(db: &Db, after: Option<DialogId>) -> Result<Vec<DialogId>, Error> {
    let select =
        query("select dialog_id from dialog_applied where dialog_id > $1 order by dialog_id limit $2");
    let after = after.map_or(uuid::Uuid::nil(), DialogId::uuid);
    let rows = select.bind(after).bind(PAGE_MAX as i64).all(db).await?;
    Ok(rows.iter().map(|row| row.get("dialog_id").map(DialogId::new)).collect::<Result<_, _>>()?)
}

/// Returns the number of dialogs that the counter knows, for reports of progress.
pub(super) async fn count(db: &Db) -> Result<u64, Error> {
    let row = query("select count(*) as dialogs from dialog_applied").one(db).await?;
    Ok(u64::try_from(row.get::<i64>("dialogs")?).unwrap_or_default())
}

/// Returns the dialogs of a user that the counter knows.
pub(super) async fn of_user(db: &Db, user_id: proto::UserId) -> Result<Vec<DialogId>, Error> {
    let select = query("select dialog_id from member_counter where user_id = $1 order by dialog_id");
    let rows = select.bind(user_id.uuid()).all(db).await?;
    Ok(rows.iter().map(|row| row.get("dialog_id").map(DialogId::new)).collect::<Result<_, _>>()?)
}
