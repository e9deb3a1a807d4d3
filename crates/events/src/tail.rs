//! Following the log from its end, with the place kept in memory.

use crate::{Error, Record, kafka, local};

/// What comes next in the log.
#[derive(Debug, Default)]
pub struct Next {
    /// The log no longer had the reader's place: between what it was given before and these records some may be missing.
    /// Told once, and at once: there may be no record yet.
    pub skipped: bool,
    /// The records, in order within a key.
    pub records: Vec<Record>,
}

/// A reader that begins at the log's end and keeps its place in memory.
#[derive(Debug)]
pub struct Tail(Inner);

#[derive(Debug)]
enum Inner {
    Local(local::Tail),
    Kafka(kafka::Tail),
}

impl Tail {
    pub(crate) fn local(tail: local::Tail) -> Self {
        Self(Inner::Local(tail))
    }

    pub(crate) fn kafka(tail: kafka::Tail) -> Self {
        Self(Inner::Kafka(tail))
    }

    /// The next records; waits until there are some. Dropped while it waits, it loses none. After an error there may be
    /// none at first: then the log can be read again.
    ///
    /// # Errors
    /// Where the log cannot be read; the place is kept.
    pub async fn next(&mut self) -> Result<Next, Error> {
        match &mut self.0 {
            Inner::Local(tail) => {
                // This process writes its log itself, and none of it goes within a day: no place is ever lost.
                Ok(Next { skipped: false, records: tail.next().await? })
            }
            Inner::Kafka(tail) => tail.next().await,
        }
    }
}
