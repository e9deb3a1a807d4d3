//! Outbox table: a producer appends events in the transaction that causes them, and a relay or the local
//! log reads them in the order of their ids.
//!
//! A producer must hold the lock of the row from which an event takes its version. Ids and versions of a
//! key then increase together, and a reader in id order sees the events of a key in the order of their
//! versions.

use db::{Db, Dialect, Error, Row, Tx, query};
use serde_json::json;
use uuid::Uuid;

use crate::{Event, Headers};

/// Channel in which commits are announced that append events, in addition to the channels of their topics.
pub(crate) const CHANNEL: &str = "outbox";
/// Maximum number of events per insert statement.
const CHUNK_MAX: usize = 500;
/// Maximum size of the payloads per insert statement, unless a single event is larger. The rows are one
/// JSON document, which Postgres limits to 256 MB.
const CHUNK_MAX_BYTES: usize = 1024 * 1024;

/// Event that is not published yet.
#[derive(Debug)]
pub(crate) struct PendingEvent {
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

/// Appends events to the outbox in the given order, with one statement per 500 events or 1 MiB of
/// payloads.
///
/// # Errors
/// Any error of the database.
pub async fn append(tx: &mut Tx, events: &[Event]) -> Result<(), Error> {
    let mut rest = events;
    while !rest.is_empty() {
        let (chunk, remaining) = rest.split_at(chunk_len(rest));
        rest = remaining;
        let rows: Vec<_> = chunk.iter().enumerate().map(|(ordinal, event)| row(ordinal, event)).collect();
        let insert = query(
            "insert into outbox (event_id, topic, key, version, type, payload, request_id, traceparent)
             select event_id, topic, key, version, type, payload, request_id, traceparent
             from rows($1: ordinal bigint, event_id uuid, topic text, key text, version bigint, \
                type text, payload bytea, request_id text, traceparent text) as r
             order by ordinal",
        );
        insert.bind(serde_json::Value::Array(rows)).execute(&mut *tx).await?;
    }
    for event in events {
        tx.announce(event.topic);
    }
    if !events.is_empty() {
        tx.announce(CHANNEL);
    }
    Ok(())
}

/// Returns the number of leading events that fit into one statement, at least one.
fn chunk_len(events: &[Event]) -> usize {
    let mut bytes = 0;
    let fits = |event: &&Event| {
        bytes += event.payload.len();
        bytes <= CHUNK_MAX_BYTES
    };
    events.iter().take(CHUNK_MAX).take_while(fits).count().max(1).min(events.len())
}

fn row(ordinal: usize, event: &Event) -> serde_json::Value {
    json!({
        "ordinal": ordinal,
        "event_id": event.event_id,
        "topic": event.topic,
        "key": event.key,
        "version": event.version,
        "type": event.kind,
        "payload": db::hexadecimal(&event.payload),
        "request_id": event.headers.request_id,
        "traceparent": event.headers.traceparent,
    })
}

/// Deletes published events from an outbox and loads the pending events with the lowest ids: on
/// PostgreSQL, where a relay works, in one statement. The deletion completes even if the caller's future
/// is dropped.
pub(crate) async fn replace(db: &Db, published: &[i64], limit: i64) -> Result<Vec<PendingEvent>, Error> {
    if published.is_empty() {
        return pending(db, limit).await;
    }
    let rows = serde_json::Value::Array(published.iter().map(|id| json!({ "id": id })).collect());
    let writer = db.clone();
    match db.dialect() {
        Dialect::Sqlite => {
            let delete = async move {
                let mut tx = writer.begin().await?;
                let delete =
                    query("delete from outbox where id in (select r.id from rows($1: id bigint) as r)");
                delete.bind(rows).execute(&mut tx).await?;
                tx.commit().await
            };
            db.detach(delete).await?;
            pending(db, limit).await
        }
        Dialect::Postgres => {
            let replace = async move {
                // Both parts see the outbox as it is before the deletion.
                let statement = query(
                    "with deleted as (
                         delete from outbox where id in (select r.id from rows($1: id bigint) as r)
                     )
                     select * from outbox where id not in (select r.id from rows($1: id bigint) as r)
                     order by id limit $2",
                );
                statement.bind(rows).bind(limit).all(&writer).await
            };
            db.detach(replace).await?.iter().map(decode).collect()
        }
    }
}

async fn pending(db: &Db, limit: i64) -> Result<Vec<PendingEvent>, Error> {
    let rows = query("select * from outbox order by id limit $1").bind(limit).all(db).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<PendingEvent, Error> {
    Ok(PendingEvent {
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

/// Returns true while an event waits in the outbox: in Kafka until it is published, in the local log until
/// it is pruned.
///
/// # Errors
/// Any error of the database.
pub async fn holds(db: &Db, event_id: Uuid) -> Result<bool, Error> {
    let select = query("select id from outbox where event_id = $1 limit 1").bind(event_id);
    Ok(select.optional(db).await?.is_some())
}

/// Pending events of an outbox.
pub(crate) struct Backlog {
    pub(crate) events: i64,
    /// Age of the oldest event, in microseconds.
    pub(crate) age_us: i64,
}

/// Measures the backlog of an outbox.
pub(crate) async fn backlog(db: &Db) -> Result<Backlog, Error> {
    let row = query(
        "select count(*) as pending,
            cast(coalesce((select now_us from clock) - min(created_at_us), 0) as bigint) as age_us
         from outbox",
    );
    let row = row.one(db).await?;
    Ok(Backlog { events: row.get("pending")?, age_us: row.get("age_us")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_limited_in_events_and_bytes() {
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
        assert_eq!(chunk_len(&events(&[])), 0);
        assert_eq!(chunk_len(&events(&[10; 3])), 3);
        assert_eq!(chunk_len(&events(&[10; 501])), 500);
        assert_eq!(chunk_len(&events(&[512 * 1024; 500])), 2);
        assert_eq!(chunk_len(&events(&[10, 1024 * 1024, 10])), 1);
        assert_eq!(
            chunk_len(&events(&[2 * 1024 * 1024, 10])),
            1,
            "an event above the limit is sent by itself"
        );
    }
}
