//! Messages: stored, deleted, and read as a participant sees them. `(status <> 'failed' or author_id = …)` is what a person
//! finds; what a person names by id is shown without the text where it failed.

use db::{Db, Error, On, Row, Tx, query};
use proto::{DialogId, MessageId, TransactionId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::set;
use crate::message::{Message, Status};

/// A message to be stored.
pub struct New<'a> {
    /// Its id.
    pub id: MessageId,
    /// Where it is said.
    pub dialog_id: DialogId,
    /// Its place.
    pub seq: i64,
    /// Who says it.
    pub author_id: UserId,
    /// What is said.
    pub text: &'a str,
    /// The saga that will count it.
    pub transaction_id: TransactionId,
    /// The dialog's version with it.
    pub version: i64,
}

/// Stores a pending message. `None`: its author takes no part in the dialog.
///
/// # Errors
/// As the database has them.
pub async fn insert(tx: &mut Tx, new: New<'_>) -> Result<Option<Message>, Error> {
    let insert = query(
        "insert into message (id, dialog_id, seq, author_id, text, transaction_id, changed_version, created_at_us)
         select $1, $2, $3, $4, $5, $6, $7, now_us from clock
         where exists (select 1 from membership where dialog_id = $2 and user_id = $4 and not has_left)
         returning *",
    );
    let insert =
        insert.bind(new.id.uuid()).bind(new.dialog_id.uuid()).bind(new.seq).bind(new.author_id.uuid());
    let row = insert.bind(new.text).bind(new.transaction_id.uuid()).bind(new.version).optional(tx).await?;
    row.as_ref().map(read).transpose()
}

/// Deletes what a participant has said, at this version. `None`: nothing of that person is there to be deleted.
///
/// # Errors
/// As the database has them.
pub async fn delete(
    tx: &mut Tx,
    id: MessageId,
    author: UserId,
    version: i64,
) -> Result<Option<Message>, Error> {
    let update = query(
        "update message set text = '', deleted_at_us = (select now_us from clock), changed_version = $3
         where id = $1 and author_id = $2 and deleted_at_us is null and exists (
             select 1 from membership p where p.dialog_id = message.dialog_id and p.user_id = $2 and not p.has_left
         )
         returning *",
    );
    let row = update.bind(id.uuid()).bind(author.uuid()).bind(version).optional(tx).await?;
    row.as_ref().map(read).transpose()
}

/// The dialog that a message is in.
///
/// # Errors
/// As the database has them.
pub async fn dialog_of(on: impl Into<On<'_>>, id: MessageId) -> Result<Option<DialogId>, Error> {
    let row = query("select dialog_id from message where id = $1").bind(id.uuid()).optional(on).await?;
    row.map(|row| row.get("dialog_id").map(DialogId::new)).transpose()
}

/// Messages by ids and by their sagas' ids, as a participant sees them; absent and foreign ones are left out.
///
/// # Errors
/// As the database has them.
pub async fn by_ids(
    on: impl Into<On<'_>>,
    person: UserId,
    ids: &[MessageId],
    transactions: &[TransactionId],
) -> Result<Vec<Message>, Error> {
    let select = query(
        "with wanted as (
             select r.id from rows($2: id uuid) as r
             union
             select t.id from message t where t.transaction_id in (select id from rows($3: id uuid) as r)
         )
         select m.* from wanted join message m on m.id = wanted.id
         join membership p on p.dialog_id = m.dialog_id and p.user_id = $1 and not p.has_left",
    );
    let select = select.bind(person.uuid()).bind(set(ids.iter().map(|id| id.uuid())));
    let rows = select.bind(set(transactions.iter().map(|id| id.uuid()))).all(on).await?;
    rows.iter().map(|row| Ok(read(row)?.seen_by(person))).collect()
}

/// Messages of a dialog by ids, as their authors see them.
///
/// # Errors
/// As the database has them.
pub async fn of_dialog(
    on: impl Into<On<'_>>,
    dialog: DialogId,
    ids: &[MessageId],
) -> Result<Vec<Message>, Error> {
    let select = query(
        "select m.* from message m where m.dialog_id = $1 and m.id in (select id from rows($2: id uuid) as r)
         order by m.changed_version",
    );
    let rows = select.bind(dialog.uuid()).bind(set(ids.iter().map(|id| id.uuid()))).all(on).await?;
    rows.iter().map(read).collect()
}

/// The oldest messages behind a seq that a person finds, oldest first.
///
/// # Errors
/// As the database has them.
pub async fn after(
    on: impl Into<On<'_>>,
    dialog: DialogId,
    person: UserId,
    seq: i64,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let select = query(
        "select m.* from message m
         where m.dialog_id = $1 and m.seq > $3 and (m.status <> 'failed' or m.author_id = $2)
         order by m.seq limit $4",
    );
    let rows = select.bind(dialog.uuid()).bind(person.uuid()).bind(seq).bind(limit).all(on).await?;
    rows.iter().map(read).collect()
}

/// The newest messages before a seq that a person finds, newest first.
///
/// # Errors
/// As the database has them.
pub async fn before(
    on: impl Into<On<'_>>,
    dialog: DialogId,
    person: UserId,
    seq: i64,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let select = query(
        "select m.* from message m
         where m.dialog_id = $1 and m.seq < $3 and (m.status <> 'failed' or m.author_id = $2)
         order by m.seq desc limit $4",
    );
    let rows = select.bind(dialog.uuid()).bind(person.uuid()).bind(seq).bind(limit).all(on).await?;
    rows.iter().map(read).collect()
}

/// A part of a dialog's history between two seqs, both exclusive.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Whose history.
    pub dialog_id: DialogId,
    /// Above this.
    pub low: i64,
    /// Below this.
    pub high: i64,
}

/// Whether a person finds anything in each of these spans, in the order asked.
///
/// # Errors
/// As the database has them.
pub async fn any_within(on: impl Into<On<'_>>, person: UserId, spans: &[Span]) -> Result<Vec<bool>, Error> {
    let select = query(
        "select exists (
             select 1 from message m
             where m.dialog_id = r.dialog_id and m.seq > r.low and m.seq < r.high
             and (m.status <> 'failed' or m.author_id = $1)
         ) as found
         from rows($2: place bigint, dialog_id uuid, low bigint, high bigint) as r order by r.place",
    );
    let row = |(place, span): (usize, &Span)| json!({ "place": place, "dialog_id": span.dialog_id.uuid(), "low": span.low, "high": span.high });
    let rows: Value = spans.iter().enumerate().map(row).collect();
    let rows = select.bind(person.uuid()).bind(rows).all(on).await?;
    rows.iter().map(|row| row.get("found")).collect()
}

/// The seq that a person has in mind: a message's, where one is named and is of this dialog (0 where it is not), else the
/// newest stored. `None`: the person takes no part.
///
/// # Errors
/// As the database has them.
pub async fn seq_of(
    db: &Db,
    dialog: DialogId,
    person: UserId,
    message: Option<MessageId>,
) -> Result<Option<i64>, Error> {
    let select = query(
        "select case when $3 then coalesce(m.seq, 0) else d.head_seq end as seq
         from membership p join dialog d on d.id = p.dialog_id
         left join message m on m.id = $4 and m.dialog_id = d.id
         where p.dialog_id = $1 and p.user_id = $2 and not p.has_left",
    );
    let select = select.bind(dialog.uuid()).bind(person.uuid()).bind(message.is_some());
    let row = select.bind(message.map(MessageId::uuid)).optional(db).await?;
    row.map(|row| row.get("seq")).transpose()
}

/// Reads a message's row.
pub(super) fn read(row: &Row) -> Result<Message, Error> {
    Ok(Message {
        id: MessageId::new(row.get("id")?),
        dialog_id: DialogId::new(row.get("dialog_id")?),
        seq: row.get("seq")?,
        author_id: UserId::new(row.get("author_id")?),
        text: row.get("text")?,
        status: Status::read(&row.get::<String>("status")?),
        failure_reason: row.get("failure_reason")?,
        transaction_id: TransactionId::new(row.get("transaction_id")?),
        created_at_us: row.get("created_at_us")?,
        deleted_at_us: row.get("deleted_at_us")?,
        version: row.get("changed_version")?,
    })
}

/// Reads the message of an outer join, where there is one.
pub(super) fn read_joined(row: &Row) -> Result<Option<Message>, Error> {
    row.get::<Option<Uuid>>("id")?.map(|_| read(row)).transpose()
}
