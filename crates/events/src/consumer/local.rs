//! Consumer of the local log: one cursor per topic, woken by commits that appended to it.

use std::time::Duration;

use resilience::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Apply, BATCH_MAX, BoxError, Consumer, Loss, LossKind,
    recovery::{Losses, offset_after},
    set_lag,
};
use crate::{
    Local, Mismatch, Record, Stopped,
    local::Wake,
    offset::{self, Offset},
};

/// Reads and applies records until shutdown or an error. After an error the next session loads the
/// offsets again, because only the database knows whether a failed commit took effect.
pub(super) async fn session<A: Apply>(
    consumer: &Consumer<A>,
    log: &Local,
    shutdown: &CancellationToken,
    backoff: &mut Backoff,
) -> Result<Result<(), Stopped>, BoxError> {
    let mut wake = log.follow(consumer.topics);
    let mut cursors: Vec<Cursor> = match load_offsets(consumer, log).await? {
        Ok(offsets) => offsets.into_iter().map(|offset| Cursor { offset, due_at: None }).collect(),
        Err(stopped) => return Ok(Err(stopped)),
    };
    while !shutdown.is_cancelled() {
        if apply_next(consumer, log, &mut cursors, &mut wake).await? > 0 {
            backoff.reset();
            continue;
        }
        let due_at = cursors.iter().filter_map(|cursor| cursor.due_at).min();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = wake.wait() => {}
            () = tokio::time::sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
        }
    }
    Ok(Ok(()))
}

/// Position in a topic.
struct Cursor {
    offset: Offset,
    /// Time at which the records that wait for others are applied; `None` if none wait.
    due_at: Option<Instant>,
}

impl Cursor {
    /// Returns true if records may wait, and notes for how long.
    fn delays<A: Apply>(&mut self, handler: &A, records: &[Record]) -> bool {
        let now = Instant::now();
        let delay = records.iter().map(|record| handler.max_delay(record)).min();
        let due_at = now + delay.unwrap_or(Duration::ZERO);
        let due_at = self.due_at.map_or(due_at, |earlier| earlier.min(due_at));
        self.due_at = Some(due_at).filter(|due_at| *due_at > now);
        self.due_at.is_some()
    }
}

/// Loads the offset of each topic and verifies that the log matches it.
async fn load_offsets<A: Apply>(
    consumer: &Consumer<A>,
    log: &Local,
) -> Result<Result<Vec<Offset>, Stopped>, BoxError> {
    let mut offsets = Vec::new();
    let mut found = Vec::new();
    for topic in consumer.topics {
        let (low, _) = log.watermarks(topic).await?;
        let offset = match offset::load(&consumer.db, consumer.name, topic, 0).await? {
            Some(offset) => offset,
            None => offset::create(&consumer.db, consumer.name, topic, 0, low).await?,
        };
        let losses = Vec::from_iter(log.mismatch(topic, offset).await?.map(|reason| {
            let is_cut = matches!(reason, Mismatch::StartsAt(_));
            let kind = if is_cut { LossKind::Cut } else { LossKind::Replaced };
            Loss { topic, partition: 0, kind, from: offset.next, to: low, reason }
        }));
        offsets.push(offset_after(offset, &losses));
        found.push(Losses { losses, is_new: false });
    }
    Ok(consumer.recover(&found).await?.map(|()| offsets))
}

/// Applies one batch per topic that is due. Returns the number of applied records.
async fn apply_next<A: Apply>(
    consumer: &Consumer<A>,
    log: &Local,
    cursors: &mut [Cursor],
    wake: &mut Wake,
) -> Result<usize, BoxError> {
    let mut applied = 0;
    for (index, (topic, cursor)) in consumer.topics.iter().zip(cursors).enumerate() {
        let has_waited = cursor.due_at.is_some_and(|due_at| due_at <= Instant::now());
        if !wake.is_due(index) && !has_waited {
            continue;
        }
        let records = log.read(topic, cursor.offset.next, i64::try_from(BATCH_MAX)?).await?;
        let is_read = records.len() < BATCH_MAX;
        if is_read && cursor.delays(&consumer.handler, &records) {
            wake.is_read(index);
            continue;
        }
        if let Some(last) = records.last() {
            let to = Offset::after(last);
            consumer
                .apply(&records, &[offset::Move { topic, partition: 0, from: cursor.offset, to }])
                .await?;
            cursor.offset = to;
            applied += records.len();
            // An incomplete batch reaches the end of the topic, so its watermarks need not be read.
            let high = if is_read { to.next } else { log.watermarks(topic).await?.1 };
            set_lag(consumer.name, topic, high - to.next);
        }
        if is_read {
            wake.is_read(index);
        }
    }
    Ok(applied)
}
