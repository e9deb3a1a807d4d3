//! All dialogs that the dialog service or the counter knows, page by page in the order of their ids.

use proto::DialogId;

use super::Maintenance;
use crate::{Error, derived::source, store};

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
    let counted = store::maintenance::dialogs_after(db, after, PAGE_MAX as i64).await?;
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
