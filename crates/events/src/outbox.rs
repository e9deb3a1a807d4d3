//! The producer's side: events written in the transaction of their cause, in the order in which they are given.
//!
//! Whoever appends holds the lock of the row that gives the event its version; ids and versions then rise together, and no
//! reader in id order sees two events of one key swapped.

use std::fmt::Write;

use db::{Db, Error, Row, Tx, query};
use serde_json::json;
use uuid::Uuid;

use crate::{Event, Headers};

/// Events that go into one statement, and the bytes of their payloads: more are split, and a larger one goes alone. A statement
/// is one document of JSON, of which Postgres takes 256 MB.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 1024 * 1024;

/// An event that waits for the relay.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) version: i64,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: Headers,
    pub(crate) created_at_us: i64,
}

/// Appends events to the outbox, in one statement for up to 500 of them or 1 MiB of payloads.
///
/// # Errors
/// As the database has them.
pub async fn append(tx: &mut Tx, events: &[Event]) -> Result<(), Error> {
    let mut rest = events;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(fitting(rest));
        rest = later;
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

/// How many of the first events go into one statement: one at least.
fn fitting(events: &[Event]) -> usize {
    let mut bytes = 0;
    let fits = |event: &&Event| {
        bytes += event.payload.len();
        bytes <= CHUNK_BYTES
    };
    events.iter().take(CHUNK).take_while(fits).count().max(1).min(events.len())
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

/// The events that wait, those of the lowest ids.
pub(crate) async fn pending(db: &Db, limit: i64) -> Result<Vec<Pending>, Error> {
    let rows = query("select * from outbox order by id limit $1").bind(limit).all(db).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Pending, Error> {
    Ok(Pending {
        id: row.get("id")?,
        event_id: row.get("event_id")?,
        topic: row.get("topic")?,
        key: row.get("key")?,
        version: row.get("version")?,
        kind: row.get("type")?,
        payload: row.get("payload")?,
        headers: Headers { request_id: row.get("request_id")?, traceparent: row.get("traceparent")? },
        created_at_us: row.get("created_at_us")?,
    })
}

/// Removes exactly these events, even where the caller goes away meanwhile.
pub(crate) async fn remove(db: &Db, ids: &[i64]) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows = serde_json::Value::Array(ids.iter().map(|id| json!({ "id": id })).collect());
    let writer = db.clone();
    db.detach(async move {
        let mut tx = writer.begin().await?;
        let delete = query("delete from outbox where id in (select r.id from rows($1: id bigint) as r)");
        delete.bind(rows).execute(&mut tx).await?;
        tx.commit().await
    })
    .await
}

/// How many events wait, and for how long the oldest has waited, in microseconds.
pub(crate) async fn backlog(db: &Db) -> Result<(i64, i64), Error> {
    let row = query(
        "select count(*) as pending, cast(coalesce((select now_us from clock) - min(created_at_us), 0) as bigint) as age_us
         from outbox",
    );
    let row = row.one(db).await?;
    Ok((row.get("pending")?, row.get("age_us")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_bounded_by_events_and_by_bytes() {
        let event = |bytes| Event {
            event_id: Uuid::nil(),
            topic: "t",
            key: String::new(),
            version: 0,
            kind: "Tested",
            payload: vec![0; bytes],
            headers: Headers::default(),
        };
        let events = |sizes: &[usize]| sizes.iter().copied().map(event).collect::<Vec<_>>();
        assert_eq!(fitting(&events(&[])), 0);
        assert_eq!(fitting(&events(&[10; 3])), 3);
        assert_eq!(fitting(&events(&[10; 501])), 500);
        assert_eq!(fitting(&events(&[512 * 1024; 500])), 2);
        assert_eq!(fitting(&events(&[10, 1024 * 1024, 10])), 1);
        assert_eq!(fitting(&events(&[2 * 1024 * 1024, 10])), 1, "a larger one goes alone");
    }
}
