//! Statements on table `dialog`. A page of dialogs, with participants and newest messages, is read by
//! one statement.

use db::{Db, Error, Executor, Query, Row, Tx, query};
use proto::{DialogId, UserId};

use super::{message, set};
use crate::{
    dialog::Dialog,
    locked_dialog::LockedDialog,
    page::{Cursor, ParticipantsFirst},
    participants::Pair,
    text::Title,
};

/// Expands to a query of the dialogs of a subquery, with their participants and the newest message that
/// user `$1` may see. `limit` ends the query of one dialog's participants.
macro_rules! dialogs {
    ($subquery:literal, participants $limit:literal) => {
        concat!(
            "select d.id as own_id, d.title, d.direct, d.created_at_us as own_created_at_us,
                    d.last_activity_us,
                    (select string_agg(cast(p.user_id as text), ',' order by p.user_id)
                     from (select q.user_id from membership q where q.dialog_id = d.id and not q.has_left
                           order by q.user_id ",
            $limit,
            ") as p) as participant_ids,
                    m.*
             from (",
            $subquery,
            ") as d
             left join message m on m.dialog_id = d.id and m.seq = (
                 select v.seq from message v
                 where v.dialog_id = d.id and (v.status <> 'failed' or v.author_id = $1)
                 order by v.seq desc limit 1
             )
             order by d.last_activity_us desc, d.id desc"
        )
    };
}

/// Inserts a dialog at version 0 and returns it locked; `None` if the pair already has a direct dialog.
pub(crate) async fn insert(
    tx: &mut Tx,
    id: DialogId,
    title: Option<&Title>,
    pair: Option<Pair>,
) -> Result<Option<LockedDialog>, Error> {
    let insert = query(
        "insert into dialog (id, title, direct, low_user_id, high_user_id, version, head_seq, created_at_us,
             last_activity_us)
         select $1, $2, $3, $4, $5, 0, 0, now_us, now_us from clock where true
         on conflict (low_user_id, high_user_id) do nothing
         returning created_at_us",
    );
    let low = pair.map(|pair| pair.low.uuid());
    let high = pair.map(|pair| pair.high.uuid());
    let insert = insert.bind(id.uuid()).bind(title.map(Title::as_str)).bind(pair.is_some());
    let row = insert.bind(low).bind(high).optional(tx).await?;
    row.map(|row| Ok(LockedDialog::new(id, pair.is_some(), 0, 0, row.get("created_at_us")?))).transpose()
}

/// Sets the title of a dialog. Returns false if it has this title already.
pub(crate) async fn rename(tx: &mut Tx, id: DialogId, title: &Title) -> Result<bool, Error> {
    let update = query("update dialog set title = $2 where id = $1 and (title is null or title <> $2)");
    Ok(update.bind(id.uuid()).bind(title.as_str()).execute(tx).await? == 1)
}

/// Returns the direct dialog of a pair.
pub(crate) async fn of_pair(on: impl Into<Executor<'_>>, pair: Pair) -> Result<Option<DialogId>, Error> {
    let select = query("select id from dialog where low_user_id = $1 and high_user_id = $2");
    let row = select.bind(pair.low.uuid()).bind(pair.high.uuid()).optional(on).await?;
    row.map(|row| row.get("id").map(DialogId::new)).transpose()
}

/// Returns true for a direct dialog and false for a group; `None` if `user` does not take part.
pub(crate) async fn is_direct(db: &Db, id: DialogId, user: UserId) -> Result<Option<bool>, Error> {
    let select = query(
        "select d.direct from membership p join dialog d on d.id = p.dialog_id
         where p.dialog_id = $1 and p.user_id = $2 and not p.has_left",
    );
    let row = select.bind(id.uuid()).bind(user.uuid()).optional(db).await?;
    row.map(|row| row.get("direct")).transpose()
}

/// Returns at most `limit` dialogs after one, by id, with their versions.
pub(crate) async fn versions(
    db: &Db,
    after: Option<DialogId>,
    limit: i64,
) -> Result<Vec<(DialogId, i64)>, Error> {
    let after = after.map_or(uuid::Uuid::nil(), DialogId::uuid);
    let select = query("select id, version from dialog where id > $1 order by id limit $2");
    let rows = select.bind(after).bind(limit).all(db).await?;
    rows.iter().map(|row| Ok((DialogId::new(row.get("id")?), row.get("version")?))).collect()
}

/// Returns at most `limit` dialogs of a user after a cursor, newest activity first, each with at most this
/// many participants. May read a replica.
pub(crate) async fn list(
    db: &Db,
    user: UserId,
    after: Cursor,
    limit: i64,
    participants: ParticipantsFirst,
) -> Result<Vec<Dialog>, Error> {
    let select = query(dialogs!(
        "select d.* from membership p join dialog d on d.id = p.dialog_id
         where p.user_id = $1 and not p.has_left and (d.last_activity_us, d.id) < ($2, $3)
         order by d.last_activity_us desc, d.id desc limit $4",
        participants "limit $5"
    ));
    let select = select.bind(user.uuid()).bind(after.last_activity_us).bind(after.dialog_id.uuid());
    let select = select.bind(limit).bind(participants.get());
    select.read(db).await?.iter().map(dialog_from_row).collect()
}

/// Returns those of the dialogs that the user takes part in.
pub(crate) async fn by_ids(
    on: impl Into<Executor<'_>>,
    user: UserId,
    ids: impl IntoIterator<Item = DialogId>,
) -> Result<Vec<Dialog>, Error> {
    select_by_ids(user, ids).all(on).await?.iter().map(dialog_from_row).collect()
}

/// Returns the same as [`by_ids`]. May read a replica.
pub(crate) async fn read_by_ids(db: &Db, user: UserId, ids: Vec<DialogId>) -> Result<Vec<Dialog>, Error> {
    select_by_ids(user, ids).read(db).await?.iter().map(dialog_from_row).collect()
}

fn select_by_ids(user: UserId, ids: impl IntoIterator<Item = DialogId>) -> Query {
    let select = query(dialogs!(
        "select d.* from membership p join dialog d on d.id = p.dialog_id
         where p.user_id = $1 and not p.has_left and p.dialog_id in (select id from rows($2: id uuid) as r)",
        participants ""
    ));
    select.bind(user.uuid()).bind(set(ids.into_iter().map(DialogId::uuid)))
}

fn dialog_from_row(row: &Row) -> Result<Dialog, Error> {
    Ok(Dialog {
        id: DialogId::new(row.get("own_id")?),
        title: row.get("title")?,
        direct: row.get("direct")?,
        participants: parse_ids(row.get("participant_ids")?),
        created_at_us: row.get("own_created_at_us")?,
        last_activity_us: row.get("last_activity_us")?,
        last_message: message::from_joined_row(row)?,
    })
}

/// Parses the result of `string_agg` over user ids.
fn parse_ids(list: Option<String>) -> Vec<UserId> {
    let list = list.unwrap_or_default();
    list.split(',').filter_map(|id| id.parse().ok()).collect()
}
