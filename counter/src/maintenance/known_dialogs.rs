//! All dialogs that the dialog service or the counter knows, page by page in the order of their ids.

use std::collections::BTreeSet;

use proto::DialogId;

use super::Maintenance;
use crate::{Error, derived::source, store};

/// Maximum number of dialogs that each side contributes to a page.
const PAGE_MAX: usize = 1_000;

/// Page of dialogs.
#[derive(Debug)]
pub(super) struct Page {
    /// Dialogs by id.
    pub(super) dialogs: BTreeSet<DialogId>,
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
    let known = heads.into_iter().map(|(id, _)| id).chain(counted);
    let dialogs = known.filter(|id| next.is_none_or(|next| *id <= next)).collect();
    Ok(Page { dialogs, next })
}
