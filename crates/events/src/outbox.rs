//! The producer's side: events written in the transaction of their cause, in the order in which they are given.
//!
//! Whoever appends holds the lock of the row that gives the event its version; ids and versions then rise together, and no
//! reader in id order sees two events of one key swapped.

use std::fmt::Write;

use db::{Error, Tx, query};
use serde_json::json;

use crate::Event;

/// Events that go into one statement; more are split.
const CHUNK: usize = 500;

/// Appends events to the outbox, in one statement for up to 500.
///
/// # Errors
/// As the database has them.
pub async fn append(tx: &mut Tx, events: &[Event]) -> Result<(), Error> {
    for chunk in events.chunks(CHUNK) {
        let rows: Vec<_> = chunk.iter().enumerate().map(|(place, event)| row(place, event)).collect();
        let insert = query(
            "insert into outbox (event_id, topic, key, version, type, payload, request_id, traceparent)
             select event_id, topic, key, version, type, payload, request_id, traceparent
             from rows($1: place bigint, event_id uuid, topic text, key text, version bigint, type text, payload bytea, request_id text, traceparent text) as r
             order by place",
        );
        insert.bind(serde_json::Value::Array(rows)).execute(&mut *tx).await?;
    }
    Ok(())
}

fn row(place: usize, event: &Event) -> serde_json::Value {
    json!({
        "place": place,
        "event_id": event.event_id,
        "topic": event.topic,
        "key": event.key,
        "version": event.version,
        "type": event.kind,
        "payload": hexadecimal(&event.payload),
        "request_id": event.headers.request_id,
        "traceparent": event.headers.traceparent,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every write");
        text
    })
}
