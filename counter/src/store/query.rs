//! Queries, without locks. A query that returns a version runs in a snapshot transaction, so that its
//! rows belong to that version.

use db::{Db, Error, Row, Tx, query};
use proto::{DialogId, MessageId, UserId};
use serde_json::{Value, json};

use super::{Epoch, lock};
use crate::{kernel::applied::Missing, unread};

/// Returns the epoch of versions.
pub(crate) async fn epoch(tx: &mut Tx) -> Result<Epoch, Error> {
    let row = query("select number, exists (select 1 from log_cut) as is_cut from epoch").one(tx).await?;
    Ok(Epoch { number: row.get("number")?, is_cut: row.get("is_cut")? })
}

/// Returns a user's version, exact total, and if it is stale. A user without a row has version 0.
pub(crate) async fn version(tx: &mut Tx, user_id: UserId) -> Result<unread::Head, Error> {
    let select = query(
        "select e.number as epoch, coalesce(v.version, 0) as version,
             (select coalesce(cast(sum(m.unread) as bigint), 0) from member_counter m
              where m.user_id = $1 and m.unread > 0) as total,
             (exists (select 1 from log_cut) or exists (
                 select 1 from dialog_applied a
                 join member_counter m on m.dialog_id = a.dialog_id and m.user_id = $1
                 where a.missing <> '[]' and m.joined_seq is not null and not m.has_left)) as stale
         from epoch e left join user_version v on v.user_id = $1",
    );
    head(&select.bind(user_id.uuid()).one(tx).await?)
}

fn head(row: &Row) -> Result<unread::Head, Error> {
    let version = unread::Version { epoch: row.get("epoch")?, number: row.get("version")? };
    Ok(unread::Head { version, total: row.get("total")?, stale: row.get("stale")? })
}

/// Returns a user's dialogs with unread messages, newest activity first.
pub(crate) async fn unread(tx: &mut Tx, user_id: UserId, limit: i64) -> Result<Vec<unread::Row>, Error> {
    let select = query(
        "select m.dialog_id, m.unread, m.read_seq, a.last_seq,
             (a.missing <> '[]' or exists (select 1 from log_cut)) as stale
         from member_counter m join dialog_applied a on a.dialog_id = m.dialog_id
         where m.user_id = $1 and m.unread > 0
         order by a.last_at_us desc, m.dialog_id limit $2",
    );
    let rows = select.bind(user_id.uuid()).bind(limit).all(tx).await?;
    rows.iter().map(decode).collect()
}

/// Returns a user's rows of these dialogs, without dialogs that the user is not a participant of.
pub(crate) async fn rows(
    tx: &mut Tx,
    user_id: UserId,
    dialogs: &[DialogId],
) -> Result<Vec<unread::Row>, Error> {
    let select = query(
        "select m.dialog_id, m.unread, m.read_seq, a.last_seq,
             (a.missing <> '[]' or exists (select 1 from log_cut)) as stale
         from (select distinct id from rows($2: id uuid) as r) as d
         join member_counter m on m.user_id = $1 and m.dialog_id = d.id
         join dialog_applied a on a.dialog_id = m.dialog_id
         where m.joined_seq is not null and not m.has_left",
    );
    let dialogs = lock::ids(dialogs.iter().map(|id| id.uuid()));
    let rows = select.bind(user_id.uuid()).bind(dialogs).all(tx).await?;
    rows.iter().map(decode).collect()
}

/// Returns a user's row of a dialog, participant or not; zeros if there is none.
pub(crate) async fn row(tx: &mut Tx, user_id: UserId, dialog_id: DialogId) -> Result<unread::Row, Error> {
    let select = query(
        "select $2 as dialog_id, coalesce(m.unread, 0) as unread, coalesce(m.read_seq, 0) as read_seq,
             coalesce(a.last_seq, 0) as last_seq,
             (coalesce(a.missing, '[]') <> '[]' or exists (select 1 from log_cut)) as stale
         from epoch e
         left join member_counter m on m.user_id = $1 and m.dialog_id = $2
         left join dialog_applied a on a.dialog_id = $2",
    );
    decode(&select.bind(user_id.uuid()).bind(dialog_id.uuid()).one(tx).await?)
}

fn decode(row: &Row) -> Result<unread::Row, Error> {
    Ok(unread::Row {
        dialog_id: DialogId::new(row.get("dialog_id")?),
        unread: row.get("unread")?,
        read_seq: row.get("read_seq")?,
        last_seq: row.get("last_seq")?,
        stale: row.get("stale")?,
    })
}

/// Returns versions and totals of these users, in no particular order. A user without a row has version
/// 0.
pub(crate) async fn versions(tx: &mut Tx, users: &[UserId]) -> Result<Vec<(UserId, unread::Head)>, Error> {
    let select = query(
        "select u.id, (select number from epoch) as epoch, coalesce(v.version, 0) as version,
             (select coalesce(cast(sum(m.unread) as bigint), 0) from member_counter m
              where m.user_id = u.id and m.unread > 0) as total,
             (exists (select 1 from log_cut) or exists (
                 select 1 from dialog_applied a
                 join member_counter m on m.dialog_id = a.dialog_id and m.user_id = u.id
                 where a.missing <> '[]' and m.joined_seq is not null and not m.has_left)) as stale
         from (select distinct id from rows($1: id uuid) as r) as u
         left join user_version v on v.user_id = u.id",
    );
    let rows = select.bind(lock::ids(users.iter().map(|id| id.uuid()))).all(tx).await?;
    rows.iter().map(|row| Ok((UserId::new(row.get("id")?), head(row)?))).collect()
}

/// Returns the dialogs with unread messages of many users, newest activity first, at most `limit` for
/// each user.
pub(crate) async fn unread_of_many(
    tx: &mut Tx,
    users: &[UserId],
    limit: i64,
) -> Result<Vec<(UserId, unread::Row)>, Error> {
    let select = query(
        "select user_id, dialog_id, unread, read_seq, last_seq, stale from (
             select m.user_id, m.dialog_id, m.unread, m.read_seq, a.last_seq,
                 (a.missing <> '[]' or exists (select 1 from log_cut)) as stale,
                 row_number() over (partition by m.user_id order by a.last_at_us desc, m.dialog_id) as place
             from (select distinct id from rows($1: id uuid) as r) as u
             join member_counter m on m.user_id = u.id
             join dialog_applied a on a.dialog_id = m.dialog_id
             where m.unread > 0
         ) as ranked
         where place <= $2 order by user_id, place",
    );
    let rows = select.bind(lock::ids(users.iter().map(|id| id.uuid()))).bind(limit).all(tx).await?;
    rows.iter().map(|each| Ok((UserId::new(each.get("user_id")?), decode(each)?))).collect()
}

/// Returns those of the dialogs that the user is a participant of.
pub(crate) async fn memberships(
    tx: &mut Tx,
    user_id: UserId,
    dialogs: &[DialogId],
) -> Result<Vec<DialogId>, Error> {
    let select = query(
        "select m.dialog_id from (select distinct id from rows($2: id uuid) as r) as d
         join member_counter m on m.user_id = $1 and m.dialog_id = d.id
         where m.joined_seq is not null and not m.has_left",
    );
    let rows =
        select.bind(user_id.uuid()).bind(lock::ids(dialogs.iter().map(|id| id.uuid()))).all(tx).await?;
    rows.iter().map(|row| Ok(DialogId::new(row.get("dialog_id")?))).collect()
}

/// Returns pages of read pointers: for each row the index of its page, the user and the pointer. Sorted
/// by page and user.
pub(crate) async fn read_states(
    tx: &mut Tx,
    pages: &[(usize, &unread::ReadStatesPage)],
) -> Result<Vec<(usize, UserId, i64)>, Error> {
    let select = query(
        "select place, user_id, read_seq from (
             select r.place, r.size, m.user_id, m.read_seq,
                 row_number() over (partition by r.place order by m.user_id) as number
             from rows($1: place bigint, dialog_id uuid, size bigint, above uuid) as r
             join member_counter m on m.dialog_id = r.dialog_id
             where m.joined_seq is not null and not m.has_left and (r.above is null or m.user_id > r.above)
         ) as ranked
         where number <= size order by place, user_id",
    );
    let pages = pages.iter().map(|(index, page)| {
        json!({
            "place": index, "dialog_id": page.dialog_id.uuid(), "size": page.first,
            "above": page.after.map(UserId::uuid),
        })
    });
    let rows = select.bind(Value::Array(pages.collect())).all(tx).await?;
    rows.iter()
        .map(|row| {
            let index = usize::try_from(row.get::<i64>("place")?).unwrap_or(usize::MAX);
            Ok((index, UserId::new(row.get("user_id")?), row.get("read_seq")?))
        })
        .collect()
}

/// Returns pages of the messages that a user's counts consist of, sorted by page and seq, each with the
/// index of its page; one message more than the page has room for, if there is one.
pub(crate) async fn unread_messages(
    db: &Db,
    user_id: UserId,
    pages: &[unread::MessagesPage],
) -> Result<Vec<(usize, MessageId)>, Error> {
    let select = query(
        "select place, message_id from (
             select r.place, r.size, l.message_id,
                 row_number() over (partition by r.place order by l.seq) as number
             from rows($2: place bigint, dialog_id uuid, size bigint, above bigint) as r
             join member_counter m on m.user_id = $1 and m.dialog_id = r.dialog_id
             join ledger l on l.dialog_id = r.dialog_id and l.seq > r.above and l.seq > m.read_seq
                 and l.seq > m.joined_seq
             where m.joined_seq is not null and not m.has_left and l.state = 'counted' and l.author_id <> $1
         ) as ranked
         where number <= size order by place, number",
    );
    let pages = pages.iter().enumerate().map(|(index, page)| {
        json!({
            "place": index, "dialog_id": page.dialog_id.uuid(), "size": page.first + 1, "above": page.after,
        })
    });
    let rows = select.bind(user_id.uuid()).bind(Value::Array(pages.collect())).all(db).await?;
    rows.iter()
        .map(|row| {
            let index = usize::try_from(row.get::<i64>("place")?).unwrap_or(usize::MAX);
            Ok((index, MessageId::new(row.get("message_id")?)))
        })
        .collect()
}

/// Returns dialogs with missing versions, by id, after this one.
pub(crate) async fn incomplete(
    db: &Db,
    after: DialogId,
    limit: i64,
) -> Result<Vec<(DialogId, Missing)>, Error> {
    let select = query(
        "select dialog_id, missing from dialog_applied
         where missing <> '[]' and dialog_id > $1 order by dialog_id limit $2",
    );
    let rows = select.bind(after.uuid()).bind(limit).all(db).await?;
    rows.iter()
        .map(|row| {
            Ok((DialogId::new(row.get("dialog_id")?), lock::parse_missing(&row.get::<String>("missing")?)))
        })
        .collect()
}
