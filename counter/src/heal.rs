//! Healing of a cut log: finds the dialogs that missed events, by comparing the versions of all dialogs
//! with the applied ones, and marks what each of them missed. The repair of gaps then fetches it. When
//! all are marked, the cut is closed: from then on only their counts are stale.

use std::collections::BTreeSet;

use access::ServiceToken;
use db::Db;
use proto::{DialogId, Peer};
use uuid::Uuid;

use crate::{Error, cache::loader::Loader, derived::source::versions, store::cut};

/// Maximum number of dialogs in one call.
const DIALOGS_MAX: i32 = 5_000;
/// Maximum number of dialogs marked in one transaction, because their writers wait for it.
const MARKED_MAX: usize = 200;

/// Marks the missing events of all dialogs, if the log was cut, and closes the cut.
///
/// # Errors
/// [`Error::Dialog`] and [`Error::Database`]. The next call starts again.
pub(crate) async fn heal(db: &Db, loader: &Loader, dialog: &Peer, token: &ServiceToken) -> Result<(), Error> {
    let cuts = cut::cuts(db).await?;
    metrics::gauge!("counter_log_cuts").set(cuts.len() as f64);
    if cuts.is_empty() {
        return Ok(());
    }
    let mut after = None;
    let mut marked = 0;
    loop {
        // After the cuts were loaded, so that every event that they lost is in the versions.
        let heads = versions(dialog, token, after, DIALOGS_MAX).await?;
        let behind = cut::behind(db, &heads).await?;
        for dialogs in behind.chunks(MARKED_MAX) {
            if !db.detach(mark(db.clone(), cuts.clone(), dialogs.to_vec())).await? {
                return Ok(());
            }
        }
        marked += behind.len();
        match heads.last() {
            Some((last, _)) if heads.len() == DIALOGS_MAX as usize => after = Some(*last),
            _ => break,
        }
    }
    if let Some(epoch) = db.detach(close(db.clone(), cuts)).await? {
        loader.raise_epoch(epoch);
        tracing::info!(epoch, dialogs = marked, "dialogs that missed events of the log are known");
    }
    Ok(())
}

async fn mark(db: Db, cuts: BTreeSet<Uuid>, heads: Vec<(DialogId, i64)>) -> Result<bool, Error> {
    let mut tx = db.begin().await?;
    let is_open = cut::mark_missing(&mut tx, &cuts, &heads).await?;
    tx.commit().await?;
    Ok(is_open)
}

async fn close(db: Db, cuts: BTreeSet<Uuid>) -> Result<Option<i64>, Error> {
    let mut tx = db.begin().await?;
    let epoch = cut::close(&mut tx, &cuts).await?;
    tx.commit().await?;
    Ok(epoch)
}
