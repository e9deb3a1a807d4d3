//! What has changed above a version, each answer from one statement and so from one snapshot.

use db::{Db, Error, On, Row, query};
use proto::{DialogId, MessageId, TransactionId, UserId};
use uuid::Uuid;

use super::message;
use crate::message::{Message, Status};

/// Where a dialog stands, and messages changed above a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    /// The epoch of all versions.
    pub epoch: i64,
    /// The dialog's version.
    pub head: i64,
    /// The messages in their present state, by version.
    pub changed: Vec<Message>,
}

/// The messages changed above a version, at most `limit`, as a participant sees them. `None`: the person takes no part.
///
/// # Errors
/// As the database has them.
pub async fn messages(
    db: &Db,
    dialog: DialogId,
    person: UserId,
    above: i64,
    limit: i64,
) -> Result<Option<Messages>, Error> {
    let select = query(
        "select (select number from epoch) as epoch, d.version as head, m.*
         from membership p join dialog d on d.id = p.dialog_id
         left join (
             select * from message where dialog_id = $1 and changed_version > $3 order by changed_version limit $4
         ) as m on true
         where p.dialog_id = $1 and p.user_id = $2 and not p.has_left
         order by m.changed_version",
    );
    let rows = select.bind(dialog.uuid()).bind(person.uuid()).bind(above).bind(limit).all(db).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (epoch, head) = (first.get("epoch")?, first.get("head")?);
    let mut changed = Vec::new();
    for row in &rows {
        changed.extend(message::read_joined(row)?.map(|message| message.seen_by(person)));
    }
    Ok(Some(Messages { epoch, head, changed }))
}

/// What a row looks like now, at the version of its last change. Ids only, no words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The dialog's version at the row's last change.
    pub version: i64,
    /// The row.
    pub row: Changed,
}

/// A row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// A message.
    Message {
        /// Its id.
        id: MessageId,
        /// Its place.
        seq: i64,
        /// Who said it.
        author_id: UserId,
        /// The saga that counts it.
        transaction_id: TransactionId,
        /// Where it stands.
        status: Status,
        /// Whether its author has deleted it.
        deleted: bool,
        /// When it was stored, in microseconds since the epoch.
        created_at_us: i64,
    },
    /// Somebody's taking part.
    Membership {
        /// Who.
        user_id: UserId,
        /// What was said after it counts for the person.
        joined_seq: i64,
        /// Whether the person has left.
        left: bool,
    },
}

/// A dialog's version and the rows changed above `since`, by version, at most `limit`. `None`: there is no such dialog.
///
/// # Errors
/// As the database has them.
pub async fn rows(
    db: &Db,
    dialog: DialogId,
    since: i64,
    limit: i64,
) -> Result<Option<(i64, Vec<Change>)>, Error> {
    let select = query(
        "select d.version as head, c.*
         from dialog d left join (
             select * from (
                 select m.changed_version, m.id as message_id, m.seq, m.author_id, m.transaction_id, m.status,
                        m.deleted_at_us is not null as deleted, m.created_at_us,
                        cast(null as uuid) as user_id, cast(null as bigint) as joined_seq, false as has_left
                 from message m where m.dialog_id = $1 and m.changed_version > $2
                 order by m.changed_version limit $3
             ) as messages
             union all
             select * from (
                 select p.changed_version, cast(null as uuid), cast(null as bigint), cast(null as uuid),
                        cast(null as uuid), cast(null as text), false, cast(null as bigint),
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
            changes.push(Change { version, row: changed(row)? });
        }
    }
    Ok(Some((head, changes)))
}

fn changed(row: &Row) -> Result<Changed, Error> {
    let Some(id) = row.get::<Option<Uuid>>("message_id")? else {
        return Ok(Changed::Membership {
            user_id: UserId::new(row.get("user_id")?),
            joined_seq: row.get("joined_seq")?,
            left: row.get("has_left")?,
        });
    };
    Ok(Changed::Message {
        id: MessageId::new(id),
        seq: row.get("seq")?,
        author_id: UserId::new(row.get("author_id")?),
        transaction_id: TransactionId::new(row.get("transaction_id")?),
        status: Status::read(&row.get::<String>("status")?),
        deleted: row.get("deleted")?,
        created_at_us: row.get("created_at_us")?,
    })
}

/// A dialog's version; 0 where there is no such dialog.
///
/// # Errors
/// As the database has them.
pub async fn head(on: impl Into<On<'_>>, dialog: DialogId) -> Result<i64, Error> {
    let row = query("select version from dialog where id = $1").bind(dialog.uuid()).optional(on).await?;
    row.map_or(Ok(0), |row| row.get("version"))
}
