//! Statements that read the changes after a version. Each result comes from one statement, and so from
//! one snapshot.

use db::{Db, Error, Row, query};
use proto::{DialogId, MessageId, TransactionId, UserId};
use uuid::Uuid;

use super::{message, set};
use crate::message::{Message, Status};

/// Current version of a dialog, and messages that changed after a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Messages {
    pub epoch: i64,
    /// Current version of the dialog.
    pub head: i64,
    /// Current state of the messages, ordered by version.
    pub changed: Vec<Message>,
}

/// Returns at most `limit` messages that changed after a version, as `user` sees them; `None` if `user`
/// does not take part.
pub(crate) async fn messages(
    db: &Db,
    dialog: DialogId,
    user: UserId,
    after: i64,
    limit: i64,
) -> Result<Option<Messages>, Error> {
    let select = query(
        "select (select number from epoch) as epoch, d.version as head, m.*
         from membership p join dialog d on d.id = p.dialog_id
         left join (
             select * from message where dialog_id = $1 and changed_version > $3
             order by changed_version limit $4
         ) as m on true
         where p.dialog_id = $1 and p.user_id = $2 and not p.has_left
         order by m.changed_version",
    );
    let rows = select.bind(dialog.uuid()).bind(user.uuid()).bind(after).bind(limit).all(db).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let epoch = first.get("epoch")?;
    let head = first.get("head")?;
    let mut changed = Vec::new();
    for row in &rows {
        changed.extend(message::from_joined_row(row)?.map(|message| message.seen_by(user)));
    }
    Ok(Some(Messages { epoch, head, changed }))
}

/// Current state of a row, at the version of its last change. Without the text of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Version of the dialog at the row's last change.
    pub version: i64,
    pub row: ChangedRow,
}

/// Row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChangedRow {
    Message {
        id: MessageId,
        seq: i64,
        author_id: UserId,
        transaction_id: TransactionId,
        status: Status,
        deleted: bool,
        created_at_us: i64,
        /// Seq up to which the author had read; 0 if not stated.
        read_up_to: i64,
    },
    Membership {
        user_id: UserId,
        /// Messages with a greater seq count for the user.
        joined_seq: i64,
        left: bool,
    },
}

/// Changes of a dialog after a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    /// Current version of the dialog.
    pub head: i64,
    /// Changed rows, ordered by version.
    pub changes: Vec<Change>,
}

/// Returns at most `limit` rows that changed after `since`; `None` if there is no such dialog.
pub(crate) async fn rows(
    db: &Db,
    dialog: DialogId,
    since: i64,
    limit: i64,
) -> Result<Option<Changes>, Error> {
    let select = query(
        "select d.version as head, c.*
         from dialog d left join (
             select * from (
                 select m.changed_version, m.id as message_id, m.seq, m.author_id, m.transaction_id, m.status,
                        m.deleted_at_us is not null as deleted, m.created_at_us,
                        m.read_up_to,
                        cast(null as uuid) as user_id, cast(null as bigint) as joined_seq, false as has_left
                 from message m where m.dialog_id = $1 and m.changed_version > $2
                 order by m.changed_version limit $3
             ) as messages
             union all
             select * from (
                 select p.changed_version, cast(null as uuid), cast(null as bigint), cast(null as uuid),
                        cast(null as uuid), cast(null as text), false, cast(null as bigint),
                        cast(null as bigint),
                        p.user_id, p.joined_seq, p.has_left
                 from membership p where p.dialog_id = $1 and p.changed_version > $2
                 order by p.changed_version limit $3
             ) as memberships
         ) as c on true
         where d.id = $1
         order by c.changed_version limit $3",
    );
    let rows = select.bind(dialog.uuid()).bind(since).bind(limit).all(db).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let head = first.get("head")?;
    let mut changes = Vec::new();
    for row in &rows {
        if let Some(version) = row.get::<Option<i64>>("changed_version")? {
            changes.push(Change { version, row: changed_from_row(row)? });
        }
    }
    Ok(Some(Changes { head, changes }))
}

fn changed_from_row(row: &Row) -> Result<ChangedRow, Error> {
    let Some(id) = row.get::<Option<Uuid>>("message_id")? else {
        return Ok(ChangedRow::Membership {
            user_id: UserId::new(row.get("user_id")?),
            joined_seq: row.get("joined_seq")?,
            left: row.get("has_left")?,
        });
    };
    Ok(ChangedRow::Message {
        id: MessageId::new(id),
        seq: row.get("seq")?,
        author_id: UserId::new(row.get("author_id")?),
        transaction_id: TransactionId::new(row.get("transaction_id")?),
        status: Status::parse(&row.get::<String>("status")?),
        deleted: row.get("deleted")?,
        created_at_us: row.get("created_at_us")?,
        read_up_to: row.get("read_up_to")?,
    })
}

/// Current state of messages of a dialog, and participants among some users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Live {
    pub epoch: i64,
    /// Current version of the dialog; 0 if there is no such dialog.
    pub head: i64,
    /// Requested messages as their authors see them, ordered by version.
    pub messages: Vec<Message>,
    /// Current participants among the requested users.
    pub members: Vec<UserId>,
}

/// Returns messages of a dialog as their authors see them, and those of `users` that take part.
pub(crate) async fn live(
    db: &Db,
    dialog: DialogId,
    messages: &[MessageId],
    users: &[UserId],
) -> Result<Live, Error> {
    let select = query(
        "select e.number as epoch, coalesce(d.version, 0) as head,
             (select string_agg(cast(p.user_id as text), ',') from rows($3: id uuid) as r
              join membership p on p.dialog_id = $1 and p.user_id = r.id and not p.has_left) as member_ids,
             m.*
         from epoch e left join dialog d on d.id = $1
         left join (
             select m.* from rows($2: id uuid) as r join message m on m.id = r.id where m.dialog_id = $1
         ) as m on true
         order by m.changed_version",
    );
    let select = select.bind(dialog.uuid()).bind(set(messages.iter().map(|id| id.uuid())));
    let rows = select.bind(set(users.iter().map(|id| id.uuid()))).all(db).await?;
    let first = rows.first().ok_or_else(Error::row_missing)?;
    let members: Option<String> = first.get("member_ids")?;
    let mut found = Live {
        epoch: first.get("epoch")?,
        head: first.get("head")?,
        messages: Vec::new(),
        members: members.iter().flat_map(|ids| ids.split(',')).filter_map(|id| id.parse().ok()).collect(),
    };
    for row in &rows {
        found.messages.extend(message::from_joined_row(row)?);
    }
    Ok(found)
}
