//! Following the log from its end, with the place kept in memory.

use crate::{Error, Record, kafka, local};

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

    /// The next records, in order within a key; waits until there are some. Dropped while it waits, it loses none. After an
    /// error there may be none at first: then the log can be read again.
    ///
    /// # Errors
    /// Where the log cannot be read; the place is kept.
    pub async fn next(&mut self) -> Result<Vec<Record>, Error> {
        match &mut self.0 {
            Inner::Local(tail) => Ok(tail.next().await?),
            Inner::Kafka(tail) => tail.next().await,
        }
    }
}
