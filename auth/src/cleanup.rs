//! Cleanup: deletes sessions that ended or expired before the revocation window, once their access tokens
//! have expired too, and addresses that are no longer known.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{App, Error, known_address, store};

/// Time between two runs.
const INTERVAL: Duration = Duration::from_secs(600);
/// Rows deleted per transaction. Bounds the time that the rows stay locked.
const BATCH: u64 = 1_000;

/// Deletes old sessions and addresses every ten minutes until shutdown. A failed run is logged, and the next
/// one tries again.
pub(crate) async fn run(app: &App, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match delete(app, Old::Sessions, &shutdown).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old sessions deleted"),
            Err(error) => tracing::warn!(%error, "old sessions could not be deleted"),
        }
        if let Err(error) = delete(app, Old::Addresses, &shutdown).await {
            tracing::warn!(%error, "old addresses could not be deleted");
        }
        shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
}

/// Rows that [`delete`] removes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Old {
    /// Sessions that ended or expired before the revocation window.
    Sessions,
    /// Addresses that were last used too long ago to be known.
    Addresses,
}

/// Deletes old rows in batches, each in a transaction of its own, and returns their number.
pub(crate) async fn delete(app: &App, old: Old, shutdown: &CancellationToken) -> Result<u64, Error> {
    let mut deleted = 0;
    while !shutdown.is_cancelled() {
        let mut tx = app.db.begin().await?;
        let batch = match old {
            Old::Sessions => {
                let window_us = app.settings.revocation_window_us();
                store::session::delete_old(&mut tx, window_us, BATCH as i64).await?
            }
            Old::Addresses => {
                let age_us = known_address::max_age_us();
                store::known_address::delete_old(&mut tx, age_us, BATCH as i64).await?
            }
        };
        tx.commit().await?;
        deleted += batch;
        if batch < BATCH {
            break;
        }
    }
    Ok(deleted)
}
