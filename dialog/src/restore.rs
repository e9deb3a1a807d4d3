//! Recognition of a restored database. Whatever notices one raises the epoch, so that no version of a
//! dialog has two meanings: the identity of the database ([`events::epoch::Identity`]), at start and every
//! few seconds, and the consumer of replies, when Kafka knows of a later offset.

use std::time::Duration;

use db::{Db, Dialect, Error, Tx};
use events::{
    Event, Headers,
    epoch::{self, Comparison, Identity},
    outbox,
};
use proto::{
    events::{EpochRaised, event::Kind},
    topic,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Interval between two checks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Raises the epoch if the identity of the database is another one than at the last check.
pub(crate) async fn recognise(db: &Db) -> Result<(), Error> {
    let Some(identity) = Identity::of(db).await else { return Ok(()) };
    let comparison = identity.compare(db).await?;
    if comparison == Comparison::Same {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    if identity.store(&mut tx).await? && comparison == Comparison::Differs {
        let epoch = raise_epoch(&mut tx).await?;
        events::epoch::log_raised(db.dialect(), epoch);
    }
    tx.commit().await
}

/// Raises the epoch and announces it. Events carry no epoch, so no writer has to be waited for.
pub(crate) async fn raise_epoch(tx: &mut Tx) -> Result<i64, Error> {
    let epoch = epoch::raise(tx).await?;
    let kind = Kind::DialogEpochRaised(EpochRaised { epoch });
    let event = Event {
        event_id: Uuid::now_v7(),
        topic: topic::DIALOG,
        key: topic::DIALOG.to_owned(),
        version: 0,
        kind: kind.name(),
        payload: kind.payload(),
        headers: Headers::default(),
    };
    outbox::append(tx, &[event]).await?;
    Ok(epoch)
}

/// Checks the identity at intervals. A SQLite file is not replaced while it is open.
pub(crate) async fn watch(db: &Db, shutdown: CancellationToken) {
    if db.dialect() == Dialect::Sqlite {
        return;
    }
    while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        if let Err(error) = recognise(db).await {
            tracing::debug!(%error, "the identity of the database could not be checked");
        }
    }
}
