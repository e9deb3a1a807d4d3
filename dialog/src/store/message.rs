//! Statements on table `message`. History omits other users' failed messages, `(status <> 'failed' or
//! author_id = …)`. A failed message that is requested by id is returned to others without its text.

use std::collections::BTreeMap;

use db::{Db, Error, Executor, Row, Tx, query};
use proto::{DialogId, MessageId, TransactionId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::set;
use crate::message::{Message, Status};

/// Author of a new message, to be checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authorship {
    /// Id of the new message.
    pub id: MessageId,
    pub dialog_id: DialogId,
    pub author_id: UserId,
    /// Newest message of the dialog that the author has read.
    pub read_up_to: Option<MessageId>,
}

/// Result of the check of an author who takes part in the dialog.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author {
    /// Seq of the newest message that the author has read; 0 if there is none or it is not in the dialog.
    pub read_up_to: i64,
    /// Time of the check, in microseconds since the Unix epoch.
    pub now_us: i64,
}

/// Returns the authors that take part in their dialogs, by the ids of their new messages. Requires the
/// locks of the dialogs.
pub(crate) async fn authors(
    tx: &mut Tx,
    new: impl Iterator<Item = Authorship>,
) -> Result<BTreeMap<MessageId, Author>, Error> {
    let select = query(
        "select r.id, (select now_us from clock) as now_us,
             coalesce((select m.seq from message m
                       where m.id = r.read_up_to and m.dialog_id = r.dialog_id), 0) as read_up_to
         from rows($1: id uuid, dialog_id uuid, author_id uuid, read_up_to uuid) as r
         join membership p on p.dialog_id = r.dialog_id and p.user_id = r.author_id and not p.has_left",
    );
    let row = |new: Authorship| {
        json!({
            "id": new.id.uuid(),
            "dialog_id": new.dialog_id.uuid(),
            "author_id": new.author_id.uuid(),
            "read_up_to": new.read_up_to.map(MessageId::uuid),
        })
    };
    let rows = select.bind(new.map(row).collect::<Value>()).all(tx).await?;
    rows.iter()
        .map(|row| {
            let author = Author { read_up_to: row.get("read_up_to")?, now_us: row.get("now_us")? };
            Ok((MessageId::new(row.get("id")?), author))
        })
        .collect()
}

/// Inserts pending messages.
pub(crate) async fn insert_all(tx: &mut Tx, messages: impl Iterator<Item = &Message>) -> Result<(), Error> {
    let row = |message: &Message| {
        json!({
            "id": message.id.uuid(),
            "dialog_id": message.dialog_id.uuid(),
            "seq": message.seq,
            "author_id": message.author_id.uuid(),
            "text": message.text,
            "transaction_id": message.transaction_id.uuid(),
            "version": message.version,
            "created_at_us": message.created_at_us,
            "read_up_to": message.read_up_to,
        })
    };
    let rows: Vec<Value> = messages.map(row).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let insert = query(
        "insert into message (id, dialog_id, seq, author_id, text, transaction_id, changed_version,
             created_at_us, read_up_to)
         select id, dialog_id, seq, author_id, text, transaction_id, version, created_at_us, read_up_to
         from rows($1: id uuid, dialog_id uuid, seq bigint, author_id uuid, text text, \
                       transaction_id uuid, version bigint, created_at_us bigint, read_up_to bigint) as r",
    );
    insert.bind(Value::Array(rows)).execute(tx).await.map(drop)
}

/// Erases the text of a message and marks it as deleted. Returns `None` if it is deleted already, is not
/// the author's, or the author does not take part in the dialog.
pub(crate) async fn delete(
    tx: &mut Tx,
    id: MessageId,
    author: UserId,
    version: i64,
) -> Result<Option<Message>, Error> {
    let update = query(
        "update message set text = '', deleted_at_us = (select now_us from clock), changed_version = $3
         where id = $1 and author_id = $2 and deleted_at_us is null and exists (
             select 1 from membership p
             where p.dialog_id = message.dialog_id and p.user_id = $2 and not p.has_left
         )
         returning *",
    );
    let row = update.bind(id.uuid()).bind(author.uuid()).bind(version).optional(tx).await?;
    row.as_ref().map(from_row).transpose()
}

/// Returns the dialog of a message.
pub(crate) async fn dialog_of(on: impl Into<Executor<'_>>, id: MessageId) -> Result<Option<DialogId>, Error> {
    let row = query("select dialog_id from message where id = $1").bind(id.uuid()).optional(on).await?;
    row.map(|row| row.get("dialog_id").map(DialogId::new)).transpose()
}

/// Returns messages by message id or transaction id as `user` sees them. Omits those in dialogs that
/// `user` does not take part in.
pub(crate) async fn by_ids(
    on: impl Into<Executor<'_>>,
    user: UserId,
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
    let select = select.bind(user.uuid()).bind(set(ids.iter().map(|id| id.uuid())));
    let rows = select.bind(set(transactions.iter().map(|id| id.uuid()))).all(on).await?;
    rows.iter().map(|row| Ok(from_row(row)?.seen_by(user))).collect()
}

/// Returns at most `limit` visible messages after a seq, oldest first.
pub(crate) async fn after(
    on: impl Into<Executor<'_>>,
    dialog: DialogId,
    user: UserId,
    seq: i64,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let select = query(
        "select m.* from message m
         where m.dialog_id = $1 and m.seq > $3 and (m.status <> 'failed' or m.author_id = $2)
         order by m.seq limit $4",
    );
    let rows = select.bind(dialog.uuid()).bind(user.uuid()).bind(seq).bind(limit).all(on).await?;
    rows.iter().map(from_row).collect()
}

/// Returns at most `limit` visible messages before a seq, newest first.
pub(crate) async fn before(
    on: impl Into<Executor<'_>>,
    dialog: DialogId,
    user: UserId,
    seq: i64,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let select = query(
        "select m.* from message m
         where m.dialog_id = $1 and m.seq < $3 and (m.status <> 'failed' or m.author_id = $2)
         order by m.seq desc limit $4",
    );
    let rows = select.bind(dialog.uuid()).bind(user.uuid()).bind(seq).bind(limit).all(on).await?;
    rows.iter().map(from_row).collect()
}

/// Range of seqs of a dialog, both ends exclusive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeqRange {
    pub dialog_id: DialogId,
    pub low: i64,
    pub high: i64,
}

/// Returns, for each range in order, true if it has a visible message.
pub(crate) async fn any_in_ranges(
    on: impl Into<Executor<'_>>,
    user: UserId,
    ranges: &[SeqRange],
) -> Result<Vec<bool>, Error> {
    let select = query(
        "select exists (
             select 1 from message m
             where m.dialog_id = r.dialog_id and m.seq > r.low and m.seq < r.high
             and (m.status <> 'failed' or m.author_id = $1)
         ) as found
         from rows($2: ordinal bigint, dialog_id uuid, low bigint, high bigint) as r order by r.ordinal",
    );
    let row = |(ordinal, range): (usize, &SeqRange)| {
        json!({
            "ordinal": ordinal,
            "dialog_id": range.dialog_id.uuid(),
            "low": range.low,
            "high": range.high,
        })
    };
    let rows: Value = ranges.iter().enumerate().map(row).collect();
    let rows = select.bind(user.uuid()).bind(rows).all(on).await?;
    rows.iter().map(|row| row.get("found")).collect()
}

/// Returns the seq of `message`, or 0 if it is not in the dialog; without a `message`, the seq of the
/// newest one. Returns `None` if `user` does not take part.
pub(crate) async fn seq_of(
    db: &Db,
    dialog: DialogId,
    user: UserId,
    message: Option<MessageId>,
) -> Result<Option<i64>, Error> {
    let select = query(
        "select case when $3 then coalesce(m.seq, 0) else d.head_seq end as seq
         from membership p join dialog d on d.id = p.dialog_id
         left join message m on m.id = $4 and m.dialog_id = d.id
         where p.dialog_id = $1 and p.user_id = $2 and not p.has_left",
    );
    let select = select.bind(dialog.uuid()).bind(user.uuid()).bind(message.is_some());
    let row = select.bind(message.map(MessageId::uuid)).optional(db).await?;
    row.map(|row| row.get("seq")).transpose()
}

/// Decodes a row of `message`.
pub(super) fn from_row(row: &Row) -> Result<Message, Error> {
    Ok(Message {
        id: MessageId::new(row.get("id")?),
        dialog_id: DialogId::new(row.get("dialog_id")?),
        seq: row.get("seq")?,
        author_id: UserId::new(row.get("author_id")?),
        text: row.get("text")?,
        status: Status::parse(&row.get::<String>("status")?),
        failure_reason: row.get("failure_reason")?,
        transaction_id: TransactionId::new(row.get("transaction_id")?),
        created_at_us: row.get("created_at_us")?,
        deleted_at_us: row.get("deleted_at_us")?,
        version: row.get("changed_version")?,
        read_up_to: row.get("read_up_to")?,
    })
}

/// Decodes the message columns of an outer join; `None` if they are null.
pub(super) fn from_joined_row(row: &Row) -> Result<Option<Message>, Error> {
    row.get::<Option<Uuid>>("id")?.map(|_| from_row(row)).transpose()
}
