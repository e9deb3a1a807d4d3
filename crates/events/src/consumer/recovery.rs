//! Recovery: what a consumer does when its offset does not match the log. The handler decides if it can
//! make the loss good. If it can, its effect and the new offsets share a transaction, and the consumer
//! goes on.

use super::{Apply, BoxError, Consumer};
use crate::{
    Mismatch, Stopped,
    offset::{self, Offset},
};

/// Mismatch of a partition that a handler may make good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Topic.
    pub topic: &'static str,
    /// Partition of the topic.
    pub partition: i64,
    /// What was lost.
    pub kind: LossKind,
    /// First offset that is not applied.
    pub from: i64,
    /// Offset at which the consumer goes on.
    pub to: i64,
    /// Reason of the stop if the handler does not make it good.
    pub(super) reason: Mismatch,
}

/// Kind of a [`Loss`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// The log was cut: its records between the two offsets were deleted before they were applied.
    Cut,
    /// The handler's database was restored from a backup: Kafka knows that this group was further. The
    /// log has the records since then.
    Restored,
    /// The producer's database was restored from a backup, and with it the log that its outbox is. Only
    /// in the local log; in Kafka it cannot be told from a topic that was recreated, which nothing makes
    /// good.
    Replaced,
}

/// Losses of one partition.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Losses to be made good.
    pub(super) losses: Vec<Loss>,
    /// The consumer has no stored offset, and starts after records that were deleted. It may do so even
    /// if the handler does not make them good.
    pub(super) is_new: bool,
}

impl Loss {
    /// Returns the error of a consumer that cannot make the loss good.
    fn stopped(&self, consumer: &'static str) -> Stopped {
        let Self { topic, partition, from, reason, .. } = *self;
        Stopped { consumer, topic, partition, next: from, reason }
    }
}

impl<A: Apply> Consumer<A> {
    /// Lets the handler make the losses good and moves the offsets, in one transaction. Returns the error
    /// of the consumer if the handler does not.
    pub(super) async fn recover(&self, found: &[Losses]) -> Result<Result<(), Stopped>, BoxError> {
        let losses: Vec<Loss> = found.iter().flat_map(|found| &found.losses).copied().collect();
        if losses.is_empty() {
            return Ok(Ok(()));
        }
        let mut tx = self.db.begin().await?;
        if !self.handler.recover(&mut tx, &losses).await? {
            tx.rollback().await?;
            let fatal = found.iter().filter(|found| !found.is_new).find_map(|found| found.losses.first());
            return Ok(fatal.map_or(Ok(()), |loss| Err(loss.stopped(self.name))));
        }
        for Loss { topic, partition, kind, from, to, .. } in &losses {
            // The record before a restored offset is still compared with the log.
            if matches!(kind, LossKind::Restored) {
                continue;
            }
            if !offset::reset(&mut tx, (self.name, topic, *partition), *from, *to).await? {
                return Err("another process has moved the offset".into());
            }
        }
        tx.commit().await?;
        for Loss { topic, partition, kind, from, to, .. } in losses {
            let label = format!("{kind:?}").to_lowercase();
            metrics::counter!("consumer_recoveries_total", "consumer" => self.name, "loss" => label)
                .increment(1);
            tracing::warn!(consumer = self.name, topic, partition, ?kind, from, to, "going on after a loss");
        }
        Ok(Ok(()))
    }
}

/// Returns the offset after a recovery.
pub(super) fn offset_after(offset: Offset, losses: &[Loss]) -> Offset {
    let moved = losses.iter().find(|loss| !matches!(loss.kind, LossKind::Restored));
    moved.map_or(offset, |loss| Offset { next: loss.to, last_event_id: None })
}
