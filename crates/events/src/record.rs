//! An event on its way: what the producer writes and what the consumer reads.

use bytes::Bytes;
use uuid::Uuid;

/// The request that caused an event, for log lines and traces on the other side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// The request's id, where a request is the cause.
    pub request_id: Option<String>,
    /// W3C trace context, where there is one.
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

/// An event to be written to the outbox.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its identity, the same in every repetition.
    pub event_id: Uuid,
    /// Where it goes.
    pub topic: &'static str,
    /// What it is about: records of one key stay in order.
    pub key: String,
    /// The version of what it is about, 0 where there is none.
    pub version: i64,
    /// Its name, for people and filters.
    pub kind: &'static str,
    /// Its content.
    pub payload: Vec<u8>,
    /// Its cause.
    pub headers: Headers,
}

/// An event as the log gives it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it came from.
    pub topic: &'static str,
    /// The part of the topic; 0 in the local log.
    pub partition: i64,
    /// Its place in the part; grows, with holes.
    pub offset: i64,
    /// Its identity.
    pub event_id: Uuid,
    /// What it is about.
    pub key: String,
    /// The version of what it is about.
    pub version: i64,
    /// Its name.
    pub kind: String,
    /// Its content.
    pub payload: Bytes,
    /// Its cause.
    pub headers: Headers,
    /// When it was written, by the producer's database: microseconds since the epoch.
    pub created_at_us: i64,
}

impl Record {
    /// Whether the log holds something that no relay of ours wrote: a record without our headers. It has no identity and no
    /// kind; whoever applies records puts it among the dead letters.
    pub fn is_malformed(&self) -> bool {
        self.event_id.is_nil()
    }
}
