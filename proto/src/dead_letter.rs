//! Constructor of dead letters: events that no retry can apply, kept on `tidings.dead` for operators.
//! Every consumer builds its dead letters here, so that they all state an event's origin in the same way.

use crate::events::DeadLetter;

/// Partition and offset of an event that did not come from the event log. Kafka assigns no negative numbers.
const NOT_IN_LOG: i32 = -1;

/// Origin and content of an event that cannot be applied.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Topic of the event, or the topic that it would be on.
    pub topic: &'a str,
    /// Partition and offset in the event log; `None` for an event that arrived in a call between services.
    pub position: Option<(i64, i64)>,
    /// Key of the event.
    pub key: &'a str,
    /// Encoded event; empty if there is none.
    pub payload: &'a [u8],
}

impl DeadLetter {
    /// Creates the dead letter of an event that `consumer` cannot apply because of `error`. Partition and
    /// offset are -1 if the event has no position in the log.
    pub fn new(consumer: &str, origin: Origin<'_>, error: impl Into<String>) -> Self {
        let Origin { topic, position, key, payload } = origin;
        let (partition, offset) = position.unwrap_or((NOT_IN_LOG.into(), NOT_IN_LOG.into()));
        Self {
            topic: topic.to_owned(),
            // Lossless: Kafka's partitions are 32-bit and the local log has only partition 0.
            partition: i32::try_from(partition).unwrap_or(NOT_IN_LOG),
            offset,
            consumer: consumer.to_owned(),
            error: error.into(),
            key: key.to_owned(),
            payload: payload.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_outside_the_log_has_partition_and_offset_minus_one() {
        let origin =
            Origin { topic: "tidings.dialog", position: Some((3, 1 << 40)), key: "k", payload: b"p" };
        let letter = DeadLetter::new("counter", origin, "malformed");
        assert_eq!((letter.partition, letter.offset), (3, 1 << 40));
        assert_eq!((&*letter.topic, &*letter.key, &*letter.payload), ("tidings.dialog", "k", &b"p"[..]));
        assert_eq!((&*letter.consumer, &*letter.error), ("counter", "malformed"));
        let letter = DeadLetter::new("counter", Origin { position: None, ..origin }, "malformed");
        assert_eq!((letter.partition, letter.offset), (-1, -1));
    }
}
