//! Statements that look people up.

use db::{Db, Error, query};
use proto::UserId;
use serde_json::json;

use super::read_user;
use crate::user::{Prefix, User};

/// The people of these ids, in no order; absent ones are left out.
pub(crate) async fn list(db: &Db, ids: &[UserId]) -> Result<Vec<User>, Error> {
    let select = query(
        "select id, login, name, created_at_us from account where id in (select r.id from rows($1: id uuid) as r)",
    );
    let ids = ids.iter().map(|id| json!({ "id": id.uuid() })).collect();
    select.bind(serde_json::Value::Array(ids)).all(db).await?.iter().map(read_user).collect()
}

/// The people whose login or lower-cased name begins so, by login. Each half reads a range of an index; that of logins ends
/// after a page, that of names reads index entries alone.
pub(crate) async fn search(db: &Db, prefix: &Prefix, after: &str, limit: i64) -> Result<Vec<User>, Error> {
    let select = query(
        "select id, login, name, created_at_us from account
         where login in (
             select login from (
                 select login from account where login >= $1 and login < $2 and login > $3 order by login limit $4
             ) as by_login
             union
             select login from (
                 select login from account where name_lower >= $1 and name_lower < $2 and login > $3
                 order by login limit $4
             ) as by_name
         )
         order by login limit $4",
    );
    let select = select.bind(prefix.low()).bind(prefix.high()).bind(after).bind(limit);
    select.all(db).await?.iter().map(read_user).collect()
}
