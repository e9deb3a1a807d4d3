//! Direct access to the database: reads the outbox, and creates states that the API cannot create.

use db::{Db, Dialect, Tx, query};
use proto::{DialogId, UserId, events::event::Kind, topic};

/// Event in the outbox.
#[derive(Debug, Clone)]
pub struct OutboxEvent {
    pub key: String,
    pub version: i64,
    pub name: String,
    pub kind: Kind,
    pub request_id: Option<String>,
}

/// Returns the outbox events of a topic, in the order of the log.
pub async fn outbox(db: &Db, topic: &str) -> Vec<OutboxEvent> {
    let rows =
        query("select key, version, type, payload, request_id from outbox where topic = $1 order by id");
    let rows = rows.bind(topic).all(db).await.unwrap();
    rows.iter()
        .map(|row| OutboxEvent {
            key: row.get("key").unwrap(),
            version: row.get("version").unwrap(),
            name: row.get("type").unwrap(),
            kind: Kind::decode(&row.get::<Vec<u8>>("payload").unwrap())
                .expect("the outbox holds valid events"),
            request_id: row.get("request_id").unwrap(),
        })
        .collect()
}

/// Returns the names of the events on topic `tidings.dialog` so far.
pub async fn event_names(db: &Db) -> Vec<String> {
    outbox(db, topic::DIALOG).await.into_iter().map(|event| event.name).collect()
}

/// Empties the outbox, as the relay does after it has published the events.
pub async fn mark_published(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    query("delete from outbox").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Increments the epoch, as a restore does.
pub async fn increment_epoch(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    query("update epoch set number = number + 1").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Gives all dialogs the same time of last activity.
pub async fn set_equal_activity(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    query("update dialog set last_activity_us = 7").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Sets the database's clock back by an hour.
pub async fn set_clock_back(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    let create = match tx.dialect() {
        Dialect::Sqlite => {
            "create view clock as
             select cast(unixepoch('subsec') * 1000000 as integer) - 3600000000 as now_us"
        }
        Dialect::Postgres => {
            "create view clock as
             select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) - 3600000000 as now_us"
        }
    };
    query("drop view clock").execute(&mut tx).await.unwrap();
    query(create).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Counts the claimed client keys.
pub async fn client_keys(db: &Db) -> i64 {
    let count =
        query("select (select count(*) from message_key) + (select count(*) from dialog_key) as keys");
    count.one(db).await.unwrap().get("keys").unwrap()
}

/// Adds a rule to the database that refuses messages with the text "refused".
pub async fn refuse_text(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    let create = match tx.dialect() {
        Dialect::Sqlite => {
            "create trigger refused_text before insert on message
             when new.text = 'refused' begin select raise(abort, 'refused'); end"
        }
        Dialect::Postgres => {
            "alter table message add constraint message_refused_text check (text <> 'refused')"
        }
    };
    query(create).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Begins a transaction in which a user leaves a dialog, as `Leave` does, without the event.
pub async fn begin_leave(db: &Db, dialog: &[u8], user: UserId) -> Tx {
    let dialog = DialogId::parse(dialog).unwrap().uuid();
    let mut tx = db.begin().await.unwrap();
    let update = query("update dialog set version = version + 1 where id = $1 returning version");
    let version: i64 = update.bind(dialog).one(&mut tx).await.unwrap().get("version").unwrap();
    let update = query(
        "update membership set has_left = true, changed_version = $3 where dialog_id = $1 and user_id = $2",
    );
    update.bind(dialog).bind(user.uuid()).bind(version).execute(&mut tx).await.unwrap();
    tx
}
