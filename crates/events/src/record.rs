//! Events as a producer writes them and records as a consumer reads them.

use bytes::Bytes;
use uuid::Uuid;

/// Request that caused an event. Consumers write it to their log lines and traces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Request id; `None` if no request is the cause.
    pub request_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl From<&telemetry::Call> for Headers {
    fn from(call: &telemetry::Call) -> Self {
        Self {
            request_id: Some(call.request_id.to_string()),
            traceparent: Some(call.traceparent.to_string()),
        }
    }
}

/// Event to be written to the outbox.
#[derive(Debug, Clone)]
pub struct Event {
    /// Identity of the event. Stays the same when the event is delivered again.
    pub event_id: Uuid,
    /// Topic that the event is published on.
    pub topic: &'static str,
    /// Id of the entity that the event is about. Records with the same key stay in order.
    pub key: String,
    /// Version of that entity; 0 if it has none.
    pub version: i64,
    /// Name of the event, for operators and filters.
    pub kind: &'static str,
    /// Encoded event.
    pub payload: Vec<u8>,
    /// Request that caused the event.
    pub headers: Headers,
}

/// Event as it is read from the log.
#[derive(Debug, Clone)]
pub struct Record {
    /// Topic of the record.
    pub topic: &'static str,
    /// Partition of the topic; 0 in the local log.
    pub partition: i64,
    /// Offset in the partition. Offsets increase and have gaps.
    pub offset: i64,
    /// Identity of the event; nil if the record is malformed.
    pub event_id: Uuid,
    /// Id of the entity that the event is about.
    pub key: String,
    /// Version of that entity; 0 if it has none.
    pub version: i64,
    /// Name of the event; empty if the record is malformed.
    pub kind: String,
    /// Encoded event.
    pub payload: Bytes,
    /// Request that caused the event.
    pub headers: Headers,
    /// Time of writing by the clock of the producer's database, in microseconds since the Unix epoch.
    pub created_at_us: i64,
}

impl Record {
    /// Returns `true` if the record was not written by a relay: a header is missing or malformed, or key
    /// or payload are too large. Handlers move such a record to the dead letters.
    pub fn is_malformed(&self) -> bool {
        self.event_id.is_nil()
    }

    /// Writes a line at DEBUG that says that a consumer has applied the record, with the ids of its request.
    pub fn log_applied(&self, consumer: &'static str) {
        let Self { topic, kind, key, headers, .. } = self;
        let request_id = headers.request_id.as_deref();
        tracing::debug!(consumer, topic, kind, key, request_id, trace_id = headers.trace_id(), "applied");
    }
}
