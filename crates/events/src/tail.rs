//! Tail of the event log: follows topics from their ends, with the position in memory only.

use crate::{Error, Record, kafka, local};

/// Next records of a tail.
#[derive(Debug, Default)]
pub struct TailBatch {
    /// The log no longer contained the reader's position, so records before this batch may have been
    /// missed. Reported once and immediately, possibly without records.
    pub skipped: bool,
    /// Records, in order per key.
    pub records: Vec<Record>,
}

/// Reader that starts at the end of the log and keeps its position in memory.
#[derive(Debug)]
pub struct Tail(Source);

#[derive(Debug)]
enum Source {
    Local(local::Tail),
    Kafka(kafka::Tail),
}

impl Tail {
    pub(crate) fn local(tail: local::Tail) -> Self {
        Self(Source::Local(tail))
    }

    pub(crate) fn kafka(tail: kafka::Tail) -> Self {
        Self(Source::Kafka(tail))
    }

    /// Waits for the next records. Cancel-safe: no record is lost. An empty batch reports that the log
    /// can be read again after an error.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Kafka`] if the log cannot be read. The position is kept.
    pub async fn next(&mut self) -> Result<TailBatch, Error> {
        match &mut self.0 {
            Source::Local(tail) => {
                // This process writes the log itself and keeps records for a day, so the position is
                // always valid.
                Ok(TailBatch { skipped: false, records: tail.next().await? })
            }
            Source::Kafka(tail) => tail.next().await,
        }
    }
}
