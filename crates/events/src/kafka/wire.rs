//! An event as a record of Kafka: the key and the payload are its own, everything else travels in headers, as text.

#![warn(clippy::indexing_slicing, clippy::panic)]

use bytes::Bytes;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::FutureRecord,
};
use uuid::Uuid;

use crate::{Headers, Record, outbox::Pending};

/// The most bytes of a payload: ours are far below, and a dead letter around one stays within a broker's 1 MB.
const PAYLOAD_MAX_BYTES: usize = 512 * 1024;
/// The bytes of a malformed record's payload that are kept: enough for people to see what it is.
const MALFORMED_KEPT_BYTES: usize = 64 * 1024;
/// The most bytes of a key: ours are ids.
const KEY_MAX_BYTES: usize = 256;
/// The most bytes of a header: the longest of ours is a request id.
const HEADER_MAX_BYTES: usize = 256;

/// The headers of an event.
pub(crate) fn headers(event: &Pending) -> OwnedHeaders {
    let (event_id, version) = (event.event_id.to_string(), event.version.to_string());
    let created_at_us = event.created_at_us.to_string();
    let mut headers = OwnedHeaders::new_with_capacity(6)
        .insert(Header { key: "event_id", value: Some(&event_id) })
        .insert(Header { key: "type", value: Some(&event.kind) })
        .insert(Header { key: "version", value: Some(&version) })
        .insert(Header { key: "created_at_us", value: Some(&created_at_us) });
    let Headers { request_id, traceparent } = &event.headers;
    for (key, value) in [("request_id", request_id), ("traceparent", traceparent)] {
        if let Some(value) = value {
            headers = headers.insert(Header { key, value: Some(value) });
        }
    }
    headers
}

/// What is produced for an event.
pub(crate) fn produced(event: &Pending) -> FutureRecord<'_, str, [u8]> {
    FutureRecord::to(&event.topic)
        .key(event.key.as_str())
        .payload(event.payload.as_slice())
        .headers(headers(event))
}

/// A record that was read. Without our headers, or larger than any of ours, it is [malformed](Record::is_malformed) and has
/// no identity; only its beginning is kept then, so that many of them still fit among the dead letters.
pub(crate) fn record(topic: &'static str, message: &BorrowedMessage<'_>) -> Record {
    let (key, whole_key) = bounded(message.key(), KEY_MAX_BYTES);
    let (payload, whole_payload) = bounded(message.payload(), PAYLOAD_MAX_BYTES);
    let written_us = message.timestamp().to_millis().map_or(0, |millis| millis.saturating_mul(1000));
    let read = identity(message).filter(|_| whole_key && whole_payload);
    if read.is_none() {
        metrics::counter!("consumer_malformed_total", "topic" => topic).increment(1);
    }
    let (payload, _) =
        if read.is_none() { bounded(Some(payload), MALFORMED_KEPT_BYTES) } else { (payload, true) };
    let (key, payload) = (shown(key), Bytes::copy_from_slice(payload));
    let (event_id, kind, version, created_at_us) =
        read.unwrap_or((Uuid::nil(), String::new(), 0, written_us));
    let headers =
        Headers { request_id: header(message, "request_id"), traceparent: header(message, "traceparent") };
    let (partition, offset) = (i64::from(message.partition()), message.offset());
    Record { topic, partition, offset, event_id, key, version, kind, payload, headers, created_at_us }
}

/// At most so many bytes, and whether they are all.
fn bounded(bytes: Option<&[u8]>, max: usize) -> (&[u8], bool) {
    let bytes = bytes.unwrap_or_default();
    bytes.split_at_checked(max).map_or((bytes, true), |(kept, rest)| (kept, rest.is_empty()))
}

/// The headers without which a record is none of ours.
fn identity(message: &BorrowedMessage<'_>) -> Option<(Uuid, String, i64, i64)> {
    let event_id = header(message, "event_id")?.parse().ok()?;
    let version = header(message, "version")?.parse().ok()?;
    let created_at_us = header(message, "created_at_us")?.parse().ok()?;
    Some((event_id, header(message, "type")?, version, created_at_us))
}

fn header(message: &BorrowedMessage<'_>, key: &str) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == key)?;
    text(header.value?)
}

/// A header's value, where it is one that we would write: short, and without control characters.
fn text(value: &[u8]) -> Option<String> {
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= HEADER_MAX_BYTES)?;
    (!value.contains(char::is_control)).then(|| value.to_owned())
}

/// A key as text that every database takes: Postgres has no NUL in a text.
fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_its_bound_is_cut_and_known_to_be() {
        assert_eq!(bounded(None, 3), (&[][..], true));
        assert_eq!(bounded(Some(b"abc"), 3), (&b"abc"[..], true));
        assert_eq!(bounded(Some(b"abcd"), 3), (&b"abc"[..], false));
    }

    #[test]
    fn a_strangers_key_and_headers_hold_nothing_that_a_database_refuses() {
        assert_eq!(shown(b"a\0b\xff"), "a\u{fffd}b\u{fffd}");
        assert_eq!(text(b"r-1").as_deref(), Some("r-1"));
        for refused in [&b"\0"[..], b"r\0", b"r\n1", b"\xff", "r\u{85}".as_bytes(), &[b'r'; 257]] {
            assert_eq!(text(refused), None, "{refused:?}");
        }
    }
}
