//! Reads. Those that answer with a version run in a snapshot transaction, so that rows and version belong together.

use db::{Db, Error, Row, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::lock;
use crate::{kernel::applied::Missing, unread};

/// The epoch of versions.
pub(crate) async fn epoch(tx: &mut Tx) -> Result<i64, Error> {
    query("select number from epoch").one(tx).await?.get("number")
}

/// The user's version, and the exact total of the user's unread.
pub(crate) async fn version(tx: &mut Tx, user_id: UserId) -> Result<(unread::Version, i64), Error> {
    let select = query(
        "select e.number as epoch, coalesce(v.version, 0) as version,
             (select coalesce(cast(sum(m.unread) as bigint), 0) from member_counter m
              where m.user_id = $1 and m.unread > 0) as total
         from epoch e left join user_version v on v.user_id = $1",
    );
    let row = select.bind(user_id.uuid()).one(tx).await?;
    Ok((unread::Version { epoch: row.get("epoch")?, number: row.get("version")? }, row.get("total")?))
}

/// The user's dialogs with something unread, newest activity first.
pub(crate) async fn unread(tx: &mut Tx, user_id: UserId, limit: i64) -> Result<Vec<unread::Row>, Error> {
    let select = query(
        "select m.dialog_id, m.unread, m.read_seq, a.last_seq
         from member_counter m join dialog_applied a on a.dialog_id = m.dialog_id
         where m.user_id = $1 and m.unread > 0
         order by a.last_at_us desc, m.dialog_id limit $2",
    );
    let rows = select.bind(user_id.uuid()).bind(limit).all(tx).await?;
    rows.iter().map(row).collect()
}

/// The user's rows of these dialogs; those in which the user does not take part are left out.
pub(crate) async fn rows_of(
    tx: &mut Tx,
    user_id: UserId,
    dialogs: &[DialogId],
) -> Result<Vec<unread::Row>, Error> {
    let select = query(
        "select m.dialog_id, m.unread, m.read_seq, a.last_seq
         from (select distinct id from rows($2: id uuid) as r) as d
         join member_counter m on m.user_id = $1 and m.dialog_id = d.id
         join dialog_applied a on a.dialog_id = m.dialog_id
         where m.joined_seq is not null and not m.has_left",
    );
    let dialogs = lock::ids(dialogs.iter().map(|id| id.uuid()));
    let rows = select.bind(user_id.uuid()).bind(dialogs).all(tx).await?;
    rows.iter().map(row).collect()
}

/// The user's row of a dialog, whether the user takes part or not; zeros where there is none.
pub(crate) async fn pointer(tx: &mut Tx, user_id: UserId, dialog_id: DialogId) -> Result<unread::Row, Error> {
    let select = query(
        "select $2 as dialog_id, coalesce(m.unread, 0) as unread, coalesce(m.read_seq, 0) as read_seq,
             coalesce(a.last_seq, 0) as last_seq
         from epoch e
         left join member_counter m on m.user_id = $1 and m.dialog_id = $2
         left join dialog_applied a on a.dialog_id = $2",
    );
    row(&select.bind(user_id.uuid()).bind(dialog_id.uuid()).one(tx).await?)
}

fn row(row: &Row) -> Result<unread::Row, Error> {
    Ok(unread::Row {
        dialog_id: DialogId::new(row.get("dialog_id")?),
        unread: row.get("unread")?,
        read_seq: row.get("read_seq")?,
        last_seq: row.get("last_seq")?,
    })
}

/// Versions and totals of these users, in no order; a user that nobody knows has version 0.
pub(crate) async fn versions(
    tx: &mut Tx,
    users: &[UserId],
) -> Result<Vec<(UserId, unread::Version, i64)>, Error> {
    let select = query(
        "select u.id, (select number from epoch) as epoch, coalesce(v.version, 0) as version,
             (select coalesce(cast(sum(m.unread) as bigint), 0) from member_counter m
              where m.user_id = u.id and m.unread > 0) as total
         from (select distinct id from rows($1: id uuid) as r) as u
         left join user_version v on v.user_id = u.id",
    );
    let rows = select.bind(lock::ids(users.iter().map(|id| id.uuid()))).all(tx).await?;
    rows.iter()
        .map(|row| {
            let version = unread::Version { epoch: row.get("epoch")?, number: row.get("version")? };
            Ok((UserId::new(row.get("id")?), version, row.get("total")?))
        })
        .collect()
}

/// The dialogs with something unread of many users, newest activity first, at most `limit` of each.
pub(crate) async fn unread_of_many(
    tx: &mut Tx,
    users: &[UserId],
    limit: i64,
) -> Result<Vec<(UserId, unread::Row)>, Error> {
    let select = query(
        "select user_id, dialog_id, unread, read_seq, last_seq from (
             select m.user_id, m.dialog_id, m.unread, m.read_seq, a.last_seq,
                 row_number() over (partition by m.user_id order by a.last_at_us desc, m.dialog_id) as place
             from (select distinct id from rows($1: id uuid) as r) as u
             join member_counter m on m.user_id = u.id
             join dialog_applied a on a.dialog_id = m.dialog_id
             where m.unread > 0
         ) as ranked
         where place <= $2 order by user_id, place",
    );
    let rows = select.bind(lock::ids(users.iter().map(|id| id.uuid()))).bind(limit).all(tx).await?;
    rows.iter().map(|each| Ok((UserId::new(each.get("user_id")?), row(each)?))).collect()
}

/// Which of these dialogs the user takes part in.
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

/// Pages of who has read up to where, by user: the page's place, the user, the pointer.
pub(crate) async fn read_states(
    tx: &mut Tx,
    pages: &[(usize, &unread::StatesPage)],
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
    let pages = pages.iter().map(|(place, page)| {
        json!({
            "place": place, "dialog_id": page.dialog_id.uuid(), "size": page.first,
            "above": page.after.map(UserId::uuid),
        })
    });
    let rows = select.bind(Value::Array(pages.collect())).all(tx).await?;
    rows.iter()
        .map(|row| {
            let place = usize::try_from(row.get::<i64>("place")?).unwrap_or(usize::MAX);
            Ok((place, UserId::new(row.get("user_id")?), row.get("read_seq")?))
        })
        .collect()
}

/// Dialogs with missing versions after this one, by id.
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
        .map(|row| Ok((DialogId::new(row.get("dialog_id")?), lock::missing(&row.get::<String>("missing")?))))
        .collect()
}
