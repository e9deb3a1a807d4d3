//! Encoding of events as Kafka records. Key and payload are those of the event; all other fields are
//! headers, as text.

#![warn(clippy::indexing_slicing, clippy::panic)]

use bytes::Bytes;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::FutureRecord,
};
use telemetry::trace::Span;
use uuid::Uuid;

use crate::{Headers, Record, outbox::PendingEvent};

/// Maximum size of a payload. Valid payloads are far smaller. A dead letter that contains a payload of
/// this size stays below the broker's limit of 1 MB.
const PAYLOAD_MAX_BYTES: usize = 512 * 1024;
/// Size to which the payload of a malformed record is truncated: enough for operators to recognise it,
/// and small enough to store many as dead letters.
const MALFORMED_MAX_BYTES: usize = 64 * 1024;
/// Maximum size of a key. Valid keys are ids.
const KEY_MAX_BYTES: usize = 256;
/// Maximum size of a header value. The longest valid value is a request id.
const HEADER_MAX_BYTES: usize = 256;

/// Encodes the headers of an event.
fn encode_headers(event: &PendingEvent, span: Option<&Span>) -> OwnedHeaders {
    let event_id = event.event_id.to_string();
    let version = event.version.to_string();
    let created_at_us = event.created_at_us.to_string();
    let mut headers = OwnedHeaders::new_with_capacity(6)
        .insert(Header { key: "event_id", value: Some(&event_id) })
        .insert(Header { key: "type", value: Some(&event.kind) })
        .insert(Header { key: "version", value: Some(&version) })
        .insert(Header { key: "created_at_us", value: Some(&created_at_us) });
    let within = span.map(|span| event.headers.within(span));
    let Headers { request_id, traceparent } = within.as_ref().unwrap_or(&event.headers);
    for (key, value) in [("request_id", request_id), ("traceparent", traceparent)] {
        if let Some(value) = value {
            headers = headers.insert(Header { key, value: Some(value) });
        }
    }
    headers
}

/// Encodes an event as a record to be sent, within the span of the sending.
pub(crate) fn encode<'a>(event: &'a PendingEvent, span: Option<&Span>) -> FutureRecord<'a, str, [u8]> {
    FutureRecord::to(&event.topic)
        .key(event.key.as_str())
        .payload(event.payload.as_slice())
        .headers(encode_headers(event, span))
}

/// Required headers of a record.
struct RequiredHeaders {
    event_id: Uuid,
    kind: String,
    version: i64,
    created_at_us: i64,
}

/// Decodes a record. If a required header is missing or malformed, or key or payload are too large, the
/// record is [malformed](Record::is_malformed): its event id is nil, its kind is empty, and its payload is
/// truncated.
pub(crate) fn decode(topic: &'static str, message: &BorrowedMessage<'_>) -> Record {
    let (key, whole_key) = truncate(message.key(), KEY_MAX_BYTES);
    let (payload, whole_payload) = truncate(message.payload(), PAYLOAD_MAX_BYTES);
    let required = decode_headers(message).filter(|_| whole_key && whole_payload);
    let payload = match required {
        Some(_) => payload,
        None => {
            metrics::counter!("consumer_malformed_total", "topic" => topic).increment(1);
            truncate(Some(payload), MALFORMED_MAX_BYTES).0
        }
    };
    let written_us = message.timestamp().to_millis().map_or(0, |millis| millis.saturating_mul(1000));
    let malformed = || RequiredHeaders {
        event_id: Uuid::nil(),
        kind: String::new(),
        version: 0,
        created_at_us: written_us,
    };
    let RequiredHeaders { event_id, kind, version, created_at_us } = required.unwrap_or_else(malformed);
    Record {
        topic,
        partition: i64::from(message.partition()),
        offset: message.offset(),
        event_id,
        key: key_text(key),
        version,
        kind,
        payload: Bytes::copy_from_slice(payload),
        headers: Headers {
            request_id: header(message, "request_id"),
            traceparent: header(message, "traceparent"),
        },
        created_at_us,
    }
}

/// Returns at most `max` bytes, and `true` if these are all.
fn truncate(bytes: Option<&[u8]>, max: usize) -> (&[u8], bool) {
    let bytes = bytes.unwrap_or_default();
    bytes.split_at_checked(max).map_or((bytes, true), |(kept, rest)| (kept, rest.is_empty()))
}

fn decode_headers(message: &BorrowedMessage<'_>) -> Option<RequiredHeaders> {
    Some(RequiredHeaders {
        event_id: header(message, "event_id")?.parse().ok()?,
        kind: header(message, "type")?,
        version: header(message, "version")?.parse().ok()?,
        created_at_us: header(message, "created_at_us")?.parse().ok()?,
    })
}

fn header(message: &BorrowedMessage<'_>, key: &str) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == key)?;
    header_text(header.value?)
}

/// Decodes a header value. Returns `None` if it is too long, not UTF-8, or contains control characters.
fn header_text(value: &[u8]) -> Option<String> {
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= HEADER_MAX_BYTES)?;
    (!value.contains(char::is_control)).then(|| value.to_owned())
}

/// Decodes a key. Invalid UTF-8 and NUL, which Postgres does not store in text, are replaced.
fn key_text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_above_the_limit_are_truncated() {
        assert_eq!(truncate(None, 3), (&[][..], true));
        assert_eq!(truncate(Some(b"abc"), 3), (&b"abc"[..], true));
        assert_eq!(truncate(Some(b"abcd"), 3), (&b"abc"[..], false));
    }

    #[test]
    fn keys_and_headers_contain_nothing_that_a_database_rejects() {
        assert_eq!(key_text(b"a\0b\xff"), "a\u{fffd}b\u{fffd}");
        assert_eq!(header_text(b"r-1").as_deref(), Some("r-1"));
        for rejected in [&b"\0"[..], b"r\0", b"r\n1", b"\xff", "r\u{85}".as_bytes(), &[b'r'; 257]] {
            assert_eq!(header_text(rejected), None, "{rejected:?}");
        }
    }
}
