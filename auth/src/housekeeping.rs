//! Removes sessions that nobody can use and nobody asks about any more.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{App, Error, store};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(600);
/// Sessions removed in one transaction.
const BATCH: u64 = 1_000;

/// Removes old sessions from time to time, until shut down.
pub(crate) async fn run(app: &App, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match remove(app, &shutdown).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "old sessions are removed"),
            Err(error) => tracing::warn!(%error, "old sessions are not removed"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await;
    }
}

/// Removes the sessions that have been over for longer than an access token lives, a batch per transaction.
pub(crate) async fn remove(app: &App, shutdown: &CancellationToken) -> Result<u64, Error> {
    let mut removed = 0;
    while !shutdown.is_cancelled() {
        let mut tx = app.db.begin().await?;
        let batch = store::session::remove(&mut tx, app.settings.remembered_us(), BATCH as i64).await?;
        tx.commit().await?;
        removed += batch;
        if batch < BATCH {
            break;
        }
    }
    Ok(removed)
}
