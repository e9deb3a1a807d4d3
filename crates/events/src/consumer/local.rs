//! The consumer on the local log: a cursor per topic, woken by commits.

use tokio_util::sync::CancellationToken;

use super::{Apply, BACKOFF_MIN, BATCH, BoxError, Consumer, Duration, Move, lag};
use crate::{
    Local, Stopped,
    offset::{self, Offset},
};

/// Reads and applies until shut down or until an error. After an error the offsets are read again: whether a commit that
/// failed took place is known to the database alone.
pub(super) async fn session<A: Apply>(
    consumer: &Consumer<A>,
    log: &Local,
    shutdown: &CancellationToken,
    backoff: &mut Duration,
) -> Result<Result<(), Stopped>, BoxError> {
    let mut wake = log.wake(consumer.topics);
    let mut offsets = match offsets(consumer, log).await? {
        Ok(offsets) => offsets,
        Err(stopped) => return Ok(Err(stopped)),
    };
    while !shutdown.is_cancelled() {
        wake.reset();
        if round(consumer, log, &mut offsets).await? == 0 {
            shutdown.run_until_cancelled(wake.woken()).await;
        } else {
            *backoff = BACKOFF_MIN;
        }
    }
    Ok(Ok(()))
}

/// Where to begin in each topic, after a look whether the log is the known one.
async fn offsets<A: Apply>(
    consumer: &Consumer<A>,
    log: &Local,
) -> Result<Result<Vec<Offset>, Stopped>, db::Error> {
    let mut offsets = Vec::new();
    for topic in consumer.topics {
        let offset = match offset::load(&consumer.db, consumer.name, topic, 0).await? {
            Some(offset) => offset,
            None => {
                let (low, _) = log.bounds(topic).await?;
                offset::begin(&consumer.db, consumer.name, topic, 0, low).await?
            }
        };
        if let Some(why) = log.mismatch(topic, offset).await? {
            return Ok(Err(Stopped { consumer: consumer.name, topic, partition: 0, next: offset.next, why }));
        }
        offsets.push(offset);
    }
    Ok(Ok(offsets))
}

/// One batch of every topic; how many records were applied.
async fn round<A: Apply>(
    consumer: &Consumer<A>,
    log: &Local,
    offsets: &mut [Offset],
) -> Result<usize, BoxError> {
    let mut applied = 0;
    for (topic, offset) in consumer.topics.iter().zip(offsets) {
        let records = log.read(topic, offset.next, i64::try_from(BATCH)?).await?;
        let Some(last) = records.last() else { continue };
        let to = Offset::after(last);
        consumer.apply(&records, &[Move { topic, partition: 0, from: *offset, to }]).await?;
        *offset = to;
        applied += records.len();
        let (_, high) = if records.len() < BATCH { (0, to.next) } else { log.bounds(topic).await? };
        lag(consumer.name, topic, high - to.next);
    }
    Ok(applied)
}
