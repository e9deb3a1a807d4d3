//! Pages of history, both ways, many in one call and all from one snapshot: a statement says in which of the dialogs the
//! caller takes part, one reads each page, and one more looks behind the pages.

use db::{Db, Tx};
use proto::UserId;

use crate::{
    Error,
    message::Message,
    page::{Page, Window},
    store::{
        membership,
        message::{self, Span},
    },
};

/// A page of history, oldest message first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The messages that the caller finds.
    pub messages: Vec<Message>,
    /// Whether there are newer ones.
    pub has_next: bool,
    /// Whether there are older ones.
    pub has_previous: bool,
}

/// Reads pages, answered in the order asked. `None`: the caller takes no part in that dialog.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.history", skip_all, fields(user_id = %caller, pages = pages.len()))]
pub async fn history(db: &Db, caller: UserId, pages: &[Page]) -> Result<Vec<Option<History>>, Error> {
    let mut tx = db.snapshot().await?;
    let histories = read(&mut tx, caller, pages).await?;
    tx.rollback().await?;
    Ok(histories)
}

async fn read(tx: &mut Tx, caller: UserId, pages: &[Page]) -> Result<Vec<Option<History>>, Error> {
    let own = membership::dialogs_among(&mut *tx, caller, pages.iter().map(|page| page.dialog_id)).await?;
    let mut histories = Vec::new();
    for page in pages {
        histories.push(if own.contains(&page.dialog_id) {
            Some(read_page(tx, caller, page).await?)
        } else {
            None
        });
    }
    look_behind(tx, caller, pages, &mut histories).await?;
    Ok(histories)
}

/// One page; of the two ends, the one in the direction of reading is known.
async fn read_page(tx: &mut Tx, caller: UserId, page: &Page) -> Result<History, Error> {
    match page.window {
        Window::First { size, after } => {
            let mut messages = message::after(tx, page.dialog_id, caller, after, size.and_one()).await?;
            let has_next = messages.len() > size.get();
            messages.truncate(size.get());
            Ok(History { messages, has_next, has_previous: false })
        }
        Window::Last { size, before } => {
            let mut messages = message::before(tx, page.dialog_id, caller, before, size.and_one()).await?;
            let has_previous = messages.len() > size.get();
            messages.truncate(size.get());
            messages.reverse();
            Ok(History { messages, has_next: false, has_previous })
        }
    }
}

/// Finds out whether there is something on the side that the pages come from, all in one statement.
async fn look_behind(
    tx: &mut Tx,
    caller: UserId,
    pages: &[Page],
    histories: &mut [Option<History>],
) -> Result<(), Error> {
    let (mut places, mut spans) = (Vec::new(), Vec::new());
    for (place, page) in pages.iter().enumerate() {
        let (low, high) = match page.window {
            Window::First { after: 0, .. } | Window::Last { before: i64::MAX, .. } => continue,
            Window::First { after, .. } => (0, after.saturating_add(1)),
            Window::Last { before, .. } => (before - 1, i64::MAX),
        };
        if histories[place].is_some() {
            places.push(place);
            spans.push(Span { dialog_id: page.dialog_id, low, high });
        }
    }
    if spans.is_empty() {
        return Ok(());
    }
    let found = message::any_within(tx, caller, &spans).await?;
    for (place, found) in places.into_iter().zip(found) {
        let Some(history) = &mut histories[place] else { continue };
        match pages[place].window {
            Window::First { .. } => history.has_previous = found,
            Window::Last { .. } => history.has_next = found,
        }
    }
    Ok(())
}
