//! Recognition of a restored database. Whatever notices one raises the epoch, so that no version has two
//! meanings:
//!
//! * at start and every second, the identity of the database ([`events::epoch::Identity`]);
//! * the consumer, when Kafka knows of a later offset ([`crate::count`]);
//! * a gateway that has received a version which the database does not know ([`seen`]). Versions that
//!   clients send are no evidence: a client may invent one.

use std::time::Duration;

use db::{Db, Dialect, Error};
use events::epoch::{Comparison, Identity};
use proto::UserId;
use tokio_util::sync::CancellationToken;

use crate::{cache::loader::Loader, store, unread::Version};

/// Interval between two checks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Raises the epoch if the identity of the database is another one than at the last check.
pub(crate) async fn recognise(db: &Db, loader: &Loader) -> Result<(), Error> {
    let Some(identity) = Identity::of(db).await else { return Ok(()) };
    let comparison = identity.compare(db).await?;
    if comparison == Comparison::Same {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    store::cut::wait_for_writers(&mut tx).await?;
    if identity.store(&mut tx).await? && comparison == Comparison::Differs {
        let epoch = store::cut::raise_epoch(&mut tx).await?;
        events::epoch::log_raised(db.dialect(), epoch);
        loader.raise_epoch(epoch);
    }
    tx.commit().await
}

/// Checks the identity at intervals, and follows the epoch that other processes raise.
pub(crate) async fn watch(db: &Db, loader: &Loader, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        if let Err(error) = check(db, loader).await {
            tracing::debug!(%error, "the epoch could not be checked");
        }
    }
}

async fn check(db: &Db, loader: &Loader) -> Result<(), Error> {
    // A SQLite file is not replaced while it is open.
    if db.dialect() == Dialect::Postgres {
        recognise(db, loader).await?;
    }
    let mut tx = db.snapshot().await?;
    let epoch = store::epoch(&mut tx).await?;
    tx.rollback().await?;
    loader.raise_epoch(epoch.number);
    Ok(())
}

/// Raises the epoch if a gateway has received a version of a user that this database has not given out.
/// Returns the epoch.
///
/// # Errors
/// Any error of the database.
#[tracing::instrument(name = "counter.seen", skip_all, fields(%user_id))]
pub(crate) async fn seen(db: &Db, loader: &Loader, user_id: UserId, version: Version) -> Result<i64, Error> {
    let mut tx = db.snapshot().await?;
    let epoch = store::epoch(&mut tx).await?.number;
    let is_unknown = store::cut::is_unknown(&mut tx, user_id, version).await?;
    tx.rollback().await?;
    if !is_unknown {
        return Ok(epoch);
    }
    let epoch = db.detach(raise(db.clone(), user_id, version)).await?;
    loader.raise_epoch(epoch);
    Ok(epoch)
}

async fn raise(db: Db, user_id: UserId, version: Version) -> Result<i64, Error> {
    let mut tx = db.begin().await?;
    store::cut::wait_for_writers(&mut tx).await?;
    if !store::cut::is_unknown(&mut tx, user_id, version).await? {
        return Ok(store::epoch(&mut tx).await?.number);
    }
    let epoch = store::cut::raise_epoch(&mut tx).await?;
    tx.commit().await?;
    tracing::warn!(epoch, "a gateway knows a version that the database has lost: the epoch is raised");
    Ok(epoch)
}
