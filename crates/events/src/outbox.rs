//! The producer's side: events written in the transaction of their cause, in the order in which they are given.
//!
//! Whoever appends holds the lock of the row that gives the event its version; ids and versions then rise together, and no
//! reader in id order sees two events of one key swapped.

use std::fmt::Write;

use db::{Db, Error, Row, Tx, query};
use serde_json::json;
use uuid::Uuid;

use crate::{Event, Headers};

/// Events that go into one statement; more are split.
const CHUNK: usize = 500;

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
