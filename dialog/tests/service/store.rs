//! What tests read and write behind the service's back.

use db::{Db, query};
use proto::{events::event::Kind, topic};

/// An event of the outbox.
#[derive(Debug, Clone)]
pub struct Written {
    pub key: String,
    pub version: i64,
    pub name: String,
    pub kind: Kind,
    pub request_id: Option<String>,
}

/// Everything in the outbox of a topic, in the order of the log.
pub async fn outbox(db: &Db, topic: &str) -> Vec<Written> {
    let rows =
        query("select key, version, type, payload, request_id from outbox where topic = $1 order by id");
    let rows = rows.bind(topic).all(db).await.unwrap();
    rows.iter()
        .map(|row| Written {
            key: row.get("key").unwrap(),
            version: row.get("version").unwrap(),
            name: row.get("type").unwrap(),
            kind: Kind::read(&row.get::<Vec<u8>>("payload").unwrap()).expect("an event of ours"),
            request_id: row.get("request_id").unwrap(),
        })
        .collect()
}

/// The names of the events of dialogs so far.
pub async fn names(db: &Db) -> Vec<String> {
    outbox(db, topic::DIALOG).await.into_iter().map(|event| event.name).collect()
}

/// The relay has sent everything.
pub async fn publish(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    query("delete from outbox").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// A restore has raised the epoch.
pub async fn raise_epoch(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    query("update epoch set number = number + 1").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Everything was said at the same time.
pub async fn at_one_instant(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    query("update dialog set last_activity_us = 7").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// How many rows a client's keys have made.
pub async fn keys(db: &Db) -> i64 {
    let count =
        query("select (select count(*) from message_key) + (select count(*) from dialog_key) as keys");
    count.one(db).await.unwrap().get("keys").unwrap()
}
