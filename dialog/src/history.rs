//! History: pages of messages in both directions, many per call, from one snapshot. One statement finds
//! the dialogs that the caller takes part in, one reads each page, and one more checks for messages on
//! the far side of all pages. The snapshot may be of a replica.

use db::{Db, Tx};
use proto::UserId;

use crate::{
    Error,
    message::Message,
    page::{Page, Window},
    store::{
        membership,
        message::{self, SeqRange},
    },
};

/// Page of history, oldest message first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// Messages that the caller may see.
    pub messages: Vec<Message>,
    /// True if there are newer ones.
    pub has_next: bool,
    /// True if there are older ones.
    pub has_previous: bool,
}

/// Returns the pages in the order of the request; `None` for a dialog that the caller does not take part
/// in.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.history", skip_all, fields(user_id = %caller, pages = pages.len()))]
pub(crate) async fn history(db: &Db, caller: UserId, pages: &[Page]) -> Result<Vec<Option<History>>, Error> {
    if let Some(mut replica) = db.replica().await {
        let histories = load_pages(replica.tx(), caller, pages).await;
        if let Some(histories) = replica.confirm(histories).await {
            return histories;
        }
    }
    let mut tx = db.snapshot().await?;
    let histories = load_pages(&mut tx, caller, pages).await?;
    tx.rollback().await?;
    Ok(histories)
}

async fn load_pages(tx: &mut Tx, caller: UserId, pages: &[Page]) -> Result<Vec<Option<History>>, Error> {
    let visible =
        membership::dialogs_among(&mut *tx, caller, pages.iter().map(|page| page.dialog_id)).await?;
    let mut histories = Vec::new();
    for page in pages {
        histories.push(if visible.contains(&page.dialog_id) {
            Some(load_page(tx, caller, page).await?)
        } else {
            None
        });
    }
    load_far_sides(tx, caller, pages, &mut histories).await?;
    Ok(histories)
}

/// Loads one page. It sets `has_next` or `has_previous`, whichever is in the direction of reading.
async fn load_page(tx: &mut Tx, caller: UserId, page: &Page) -> Result<History, Error> {
    match page.window {
        Window::First { size, after } => {
            let mut messages = message::after(tx, page.dialog_id, caller, after, size.plus_one()).await?;
            let has_next = messages.len() > size.get();
            messages.truncate(size.get());
            Ok(History { messages, has_next, has_previous: false })
        }
        Window::Last { size, before } => {
            let mut messages = message::before(tx, page.dialog_id, caller, before, size.plus_one()).await?;
            let has_previous = messages.len() > size.get();
            messages.truncate(size.get());
            messages.reverse();
            Ok(History { messages, has_next: false, has_previous })
        }
    }
}

/// Sets the other of `has_next` and `has_previous`, for all pages in one statement.
async fn load_far_sides(
    tx: &mut Tx,
    caller: UserId,
    pages: &[Page],
    histories: &mut [Option<History>],
) -> Result<(), Error> {
    let mut indices = Vec::new();
    let mut ranges = Vec::new();
    for (index, page) in pages.iter().enumerate() {
        let (low, high) = match page.window {
            // A page from either end has nothing on its far side.
            Window::First { after: 0, .. } | Window::Last { before: i64::MAX, .. } => continue,
            Window::First { after, .. } => (0, after.saturating_add(1)),
            Window::Last { before, .. } => (before - 1, i64::MAX),
        };
        if histories[index].is_some() {
            indices.push(index);
            ranges.push(SeqRange { dialog_id: page.dialog_id, low, high });
        }
    }
    if ranges.is_empty() {
        return Ok(());
    }
    let found = message::any_in_ranges(tx, caller, &ranges).await?;
    for (index, found) in indices.into_iter().zip(found) {
        let Some(history) = &mut histories[index] else { continue };
        match pages[index].window {
            Window::First { .. } => history.has_previous = found,
            Window::Last { .. } => history.has_next = found,
        }
    }
    Ok(())
}
