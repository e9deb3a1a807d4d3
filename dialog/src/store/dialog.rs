//! Dialogs: made, and read as one of their participants sees them, a whole page in one statement.

use db::{Db, Error, On, Row, Tx, query};
use proto::{DialogId, UserId};

use super::{message, set};
use crate::{dialog::Dialog, held::Held, page::Cursor, text::Title};

/// Dialogs of a subquery `d` with their participants and the newest message that the person `$1` may see.
macro_rules! dialogs {
    ($of:literal) => {
        concat!(
            "select d.id as own_id, d.title, d.direct, d.created_at_us as own_created_at_us, d.last_activity_us,
                    (select string_agg(cast(p.user_id as text), ',' order by p.user_id)
                     from membership p where p.dialog_id = d.id and not p.has_left) as participant_ids,
                    m.*
             from (",
            $of,
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

/// Makes a dialog, held by this transaction and at version 0 still. `None`: these two have theirs already.
///
/// # Errors
/// As the database has them.
pub async fn insert(
    tx: &mut Tx,
    id: DialogId,
    title: Option<&Title>,
    pair: Option<(UserId, UserId)>,
) -> Result<Option<Held>, Error> {
    let insert = query(
        "insert into dialog (id, title, direct, low_user_id, high_user_id, version, head_seq, created_at_us, last_activity_us)
         select $1, $2, $3, $4, $5, 0, 0, now_us, now_us from clock where true
         on conflict (low_user_id, high_user_id) do nothing
         returning created_at_us",
    );
    let (low, high) = pair.unzip();
    let insert = insert.bind(id.uuid()).bind(title.map(Title::as_str)).bind(pair.is_some());
    let row = insert.bind(low.map(UserId::uuid)).bind(high.map(UserId::uuid)).optional(tx).await?;
    row.map(|row| Ok(Held::new(id, pair.is_some(), 0, 0, row.get("created_at_us")?))).transpose()
}

/// The one dialog of two people.
///
/// # Errors
/// As the database has them.
pub async fn of_pair(
    on: impl Into<On<'_>>,
    (low, high): (UserId, UserId),
) -> Result<Option<DialogId>, Error> {
    let select = query("select id from dialog where low_user_id = $1 and high_user_id = $2");
    let row = select.bind(low.uuid()).bind(high.uuid()).optional(on).await?;
    row.map(|row| row.get("id").map(DialogId::new)).transpose()
}

/// Whether a dialog is direct. `None`: the person takes no part in it.
///
/// # Errors
/// As the database has them.
pub async fn is_direct(db: &Db, id: DialogId, person: UserId) -> Result<Option<bool>, Error> {
    let select = query(
        "select d.direct from membership p join dialog d on d.id = p.dialog_id
         where p.dialog_id = $1 and p.user_id = $2 and not p.has_left",
    );
    let row = select.bind(id.uuid()).bind(person.uuid()).optional(db).await?;
    row.map(|row| row.get("direct")).transpose()
}

/// A page of a person's dialogs behind a cursor, newest activity first.
///
/// # Errors
/// As the database has them.
pub async fn list(db: &Db, person: UserId, after: Cursor, limit: i64) -> Result<Vec<Dialog>, Error> {
    let select = query(dialogs!(
        "select d.* from membership p join dialog d on d.id = p.dialog_id
         where p.user_id = $1 and not p.has_left and (d.last_activity_us, d.id) < ($2, $3)
         order by d.last_activity_us desc, d.id desc limit $4"
    ));
    let select =
        select.bind(person.uuid()).bind(after.last_activity_us).bind(after.dialog_id.uuid()).bind(limit);
    select.all(db).await?.iter().map(read).collect()
}

/// A person's dialogs among these; absent and foreign ones are left out.
///
/// # Errors
/// As the database has them.
pub async fn by_ids(
    on: impl Into<On<'_>>,
    person: UserId,
    ids: impl IntoIterator<Item = DialogId>,
) -> Result<Vec<Dialog>, Error> {
    let select = query(dialogs!(
        "select d.* from membership p join dialog d on d.id = p.dialog_id
         where p.user_id = $1 and not p.has_left and p.dialog_id in (select id from rows($2: id uuid) as r)"
    ));
    let rows = select.bind(person.uuid()).bind(set(ids.into_iter().map(DialogId::uuid))).all(on).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Dialog, Error> {
    Ok(Dialog {
        id: DialogId::new(row.get("own_id")?),
        title: row.get("title")?,
        direct: row.get("direct")?,
        participants: participants(row.get("participant_ids")?),
        created_at_us: row.get("own_created_at_us")?,
        last_activity_us: row.get("last_activity_us")?,
        last_message: message::read_joined(row)?,
    })
}

/// Reads the ids of the aggregate.
fn participants(list: Option<String>) -> Vec<UserId> {
    let list = list.unwrap_or_default();
    list.split(',').filter_map(|id| id.parse().ok()).collect()
}
