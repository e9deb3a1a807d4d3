//! Every statement of auth. A session that must not change meanwhile is locked by an update that changes nothing, which both
//! databases know; who locks a person and sessions locks the person first.

pub(crate) mod account;
pub(crate) mod session;
pub(crate) mod user;

use db::{Error, Row};
use proto::UserId;

use crate::user::User;

fn read_user(row: &Row) -> Result<User, Error> {
    Ok(User {
        id: UserId::new(row.get("id")?),
        login: row.get("login")?,
        name: row.get("name")?,
        created_at_us: row.get("created_at_us")?,
    })
}
