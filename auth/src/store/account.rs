//! Statements about one person's own row.

use db::{Db, Error, Tx, query};
use proto::{SessionId, UserId};

use super::read_user;
use crate::{
    password::Hash,
    user::{Login, Name, User},
};

/// Makes a person.
///
/// # Errors
/// [`Error::Unique`] by `account_login` where the login is taken.
pub(crate) async fn insert(
    tx: &mut Tx,
    id: UserId,
    login: &Login,
    name: &Name,
    password: &Hash,
) -> Result<User, Error> {
    let insert = query(
        "insert into account (id, login, name, name_lower, password_hash) values ($1, $2, $3, $4, $5)
         returning id, login, name, created_at_us",
    );
    let insert = insert.bind(id.uuid()).bind(login.as_str()).bind(name.as_str()).bind(name.lower());
    read_user(&insert.bind(password.as_str()).one(tx).await?)
}

/// The person of this login, with the hash of the password.
pub(crate) async fn find(db: &Db, login: &Login) -> Result<Option<(UserId, Hash)>, Error> {
    let row = query("select id, password_hash from account where login = $1").bind(login.as_str()).optional(db).await?;
    row.map(|row| Ok((UserId::new(row.get("id")?), Hash::stored(row.get("password_hash")?)))).transpose()
}

/// The person of this id, who is there.
pub(crate) async fn get(tx: &mut Tx, id: UserId) -> Result<User, Error> {
    let row = query("select id, login, name, created_at_us from account where id = $1").bind(id.uuid()).one(tx).await?;
    read_user(&row)
}

/// Locks a person's row, where it is there.
pub(crate) async fn lock(tx: &mut Tx, id: UserId) -> Result<Option<(User, Hash)>, Error> {
    let lock = query(
        "update account set login = login where id = $1
         returning id, login, name, created_at_us, password_hash",
    );
    let row = lock.bind(id.uuid()).optional(tx).await?;
    row.map(|row| Ok((read_user(&row)?, Hash::stored(row.get("password_hash")?)))).transpose()
}

/// Sets a person's password.
pub(crate) async fn set_password(tx: &mut Tx, id: UserId, password: &Hash) -> Result<(), Error> {
    let update = query("update account set password_hash = $2 where id = $1");
    update.bind(id.uuid()).bind(password.as_str()).execute(tx).await.map(drop)
}

/// Sets the name of a person, where this session of that person is not over.
pub(crate) async fn rename(tx: &mut Tx, id: UserId, session: SessionId, name: &Name) -> Result<Option<User>, Error> {
    let update = query(
        "update account set name = $3, name_lower = $4
         where id = $1 and exists (select 1 from session where id = $2 and user_id = $1 and ended_at_us is null)
         returning id, login, name, created_at_us",
    );
    let update = update.bind(id.uuid()).bind(session.uuid()).bind(name.as_str()).bind(name.lower());
    update.optional(tx).await?.as_ref().map(read_user).transpose()
}
