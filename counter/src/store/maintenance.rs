//! Statements of the maintenance: lists of dialogs and users, the position of a rebuild, and notes of what
//! was repaired.

use db::{Db, Error, Tx, query};
use proto::{DialogId, MessageId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    derived::{Drift, Subject},
    maintenance::Progress,
};

/// Returns dialogs that the counter knows, after this one, by id.
pub(crate) async fn dialogs_after(
    db: &Db,
    after: Option<DialogId>,
    limit: i64,
) -> Result<Vec<DialogId>, Error> {
    let select =
        query("select dialog_id from dialog_applied where dialog_id > $1 order by dialog_id limit $2");
    let after = after.map_or(Uuid::nil(), DialogId::uuid);
    let rows = select.bind(after).bind(limit).all(db).await?;
    rows.iter().map(|row| row.get("dialog_id").map(DialogId::new)).collect()
}

/// Returns the number of dialogs that the counter knows.
pub(crate) async fn dialog_count(db: &Db) -> Result<u64, Error> {
    let row = query("select count(*) as dialogs from dialog_applied").one(db).await?;
    Ok(u64::try_from(row.get::<i64>("dialogs")?).unwrap_or_default())
}

/// Returns the dialogs of a user that the counter knows.
pub(crate) async fn dialogs_of(db: &Db, user_id: UserId) -> Result<Vec<DialogId>, Error> {
    let select = query("select dialog_id from member_counter where user_id = $1 order by dialog_id");
    let rows = select.bind(user_id.uuid()).all(db).await?;
    rows.iter().map(|row| row.get("dialog_id").map(DialogId::new)).collect()
}

/// Returns users after this one, by id.
pub(crate) async fn users_after(db: &Db, after: Uuid, limit: i64) -> Result<Vec<UserId>, Error> {
    let select = query("select user_id from user_version where user_id > $1 order by user_id limit $2");
    let rows = select.bind(after).bind(limit).all(db).await?;
    rows.iter().map(|row| row.get("user_id").map(UserId::new)).collect()
}

/// Returns the state of a `seq` in the ledger, and the message that has it.
pub(crate) async fn entry(
    db: &Db,
    dialog_id: DialogId,
    seq: i64,
) -> Result<Option<(MessageId, String)>, Error> {
    let select = query("select state, why, message_id from ledger where dialog_id = $1 and seq = $2");
    let Some(row) = select.bind(dialog_id.uuid()).bind(seq).optional(db).await? else { return Ok(None) };
    let why: Option<String> = row.get("why")?;
    Ok(Some((MessageId::new(row.get("message_id")?), why.unwrap_or(row.get("state")?))))
}

/// Notes what differed, in the transaction that mends it.
pub(crate) async fn note(tx: &mut Tx, drift: &[Drift]) -> Result<(), Error> {
    if drift.is_empty() {
        return Ok(());
    }
    let rows = drift.iter().map(|drift| {
        let (user_id, seq) = match drift.subject {
            Subject::Count(user_id) | Subject::Membership(user_id) | Subject::Cache(user_id) => {
                (Some(user_id), None)
            }
            Subject::Message(seq) => (None, Some(seq)),
            Subject::Events => (None, None),
        };
        json!({
            "id": Uuid::now_v7(), "dialog_id": drift.dialog_id.uuid(), "kind": drift.subject.kind(),
            "user_id": user_id.map(UserId::uuid), "seq": seq, "stored": drift.stored,
            "expected": drift.expected,
        })
    });
    let insert = query(
        "insert into repaired_drift
             (id, dialog_id, kind, user_id, seq, stored, expected, repaired_at_us)
         select r.id, r.dialog_id, r.kind, r.user_id, r.seq, r.stored, r.expected, clock.now_us
         from rows($1: id uuid, dialog_id uuid, kind text, user_id uuid, seq bigint, stored text, \
                       expected text) as r cross join clock",
    );
    insert.bind(Value::Array(rows.collect())).execute(tx).await.map(drop)
}

/// Returns the position of an interrupted rebuild.
pub(crate) async fn load_progress(db: &Db) -> Result<Option<(DialogId, Progress)>, Error> {
    let row = query("select last_dialog_id, dialogs, messages from rebuild_progress").optional(db).await?;
    let Some(row) = row else { return Ok(None) };
    let number = |name| row.get::<i64>(name).map(|number| u64::try_from(number).unwrap_or_default());
    let progress = Progress { dialogs: number("dialogs")?, messages: number("messages")?, known_dialogs: 0 };
    Ok(Some((DialogId::new(row.get("last_dialog_id")?), progress)))
}

/// Stores the position of a rebuild.
pub(crate) async fn save_progress(db: &Db, last: DialogId, progress: &Progress) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    let upsert = query(
        "insert into rebuild_progress (last_dialog_id, dialogs, messages) values ($1, $2, $3)
         on conflict (only_one) do update set last_dialog_id = excluded.last_dialog_id,
             dialogs = excluded.dialogs, messages = excluded.messages",
    );
    let upsert = upsert.bind(last.uuid()).bind(progress.dialogs as i64).bind(progress.messages as i64);
    upsert.execute(&mut tx).await?;
    tx.commit().await
}

/// Deletes the position of a rebuild that is done.
pub(crate) async fn clear_progress(db: &Db) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    query("delete from rebuild_progress").execute(&mut tx).await?;
    tx.commit().await
}
