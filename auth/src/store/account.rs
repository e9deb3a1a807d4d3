//! Statements on table `account` that change a user or read the password hash.

use db::{Db, Error, Row, Tx, query};
use proto::UserId;

use super::user_from_row;
use crate::{
    password::Hash,
    session::Caller,
    user::{Login, Name, User},
};

/// User with the stored hash of the password.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub user: User,
    pub password_hash: Hash,
}

/// Inserts a user.
///
/// # Errors
/// [`Error::Unique`] with constraint `account_login` if the login is taken.
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
    user_from_row(&insert.bind(password.as_str()).one(tx).await?)
}

/// Returns the user with this login and the hash of the password, without a lock.
pub(crate) async fn find(db: &Db, login: &Login) -> Result<Option<(UserId, Hash)>, Error> {
    let row = query("select id, password_hash from account where login = $1")
        .bind(login.as_str())
        .optional(db)
        .await?;
    row.map(|row| Ok((UserId::new(row.get("id")?), Hash::from_stored(row.get("password_hash")?)))).transpose()
}

/// Returns an existing user.
pub(crate) async fn get(tx: &mut Tx, id: UserId) -> Result<User, Error> {
    let row = query("select id, login, name, created_at_us from account where id = $1")
        .bind(id.uuid())
        .one(tx)
        .await?;
    user_from_row(&row)
}

/// Locks a user's row and returns it. Returns `None` if there is no such user.
pub(crate) async fn lock(tx: &mut Tx, id: UserId) -> Result<Option<Account>, Error> {
    let lock = query(
        "update account set login = login where id = $1
         returning id, login, name, created_at_us, password_hash",
    );
    let row = lock.bind(id.uuid()).optional(tx).await?;
    let account = |row: &Row| {
        Ok(Account { user: user_from_row(row)?, password_hash: Hash::from_stored(row.get("password_hash")?) })
    };
    row.as_ref().map(account).transpose()
}

/// Sets a user's password hash.
pub(crate) async fn set_password(tx: &mut Tx, id: UserId, password: &Hash) -> Result<(), Error> {
    let update = query("update account set password_hash = $2 where id = $1");
    update.bind(id.uuid()).bind(password.as_str()).execute(tx).await.map(drop)
}

/// Sets the caller's name. Returns `None` if the session has ended: the check and the update are one
/// statement.
pub(crate) async fn rename(tx: &mut Tx, caller: Caller, name: &Name) -> Result<Option<User>, Error> {
    let update = query(
        "update account set name = $3, name_lower = $4
         where id = $1 and exists (
             select 1 from session where id = $2 and user_id = $1 and ended_at_us is null
         )
         returning id, login, name, created_at_us",
    );
    let update =
        update.bind(caller.user.uuid()).bind(caller.session.uuid()).bind(name.as_str()).bind(name.lower());
    update.optional(tx).await?.as_ref().map(user_from_row).transpose()
}

#[cfg(test)]
mod tests {
    use proto::SessionId;

    use super::*;
    use crate::store::fixture::{FAR_FUTURE_US, databases, end, hash, insert_user, login, session};

    #[tokio::test]
    async fn a_user_is_found_by_the_unique_login() {
        for test in databases().await {
            let db = &test.db;
            let id = UserId::now();
            let name = Name::parse("Ann Ö.").unwrap();
            let mut tx = db.begin().await.unwrap();
            let ann = insert(&mut tx, id, &login("ann"), &name, &hash("secret")).await.unwrap();
            assert_eq!(
                (ann.id, ann.login.as_str(), ann.name.as_str()),
                (id, "ann", "Ann Ö."),
                "{}",
                test.name
            );
            let now: i64 =
                query("select now_us from clock").one(&mut tx).await.unwrap().get("now_us").unwrap();
            assert!((now - ann.created_at_us).abs() < 60_000_000, "{now} {}", ann.created_at_us);
            assert_eq!(get(&mut tx, id).await.unwrap(), ann);
            tx.commit().await.unwrap();
            assert_eq!(find(db, &login("ann")).await.unwrap(), Some((id, hash("secret"))));
            assert_eq!(find(db, &login("bob")).await.unwrap(), None);
            let mut tx = db.begin().await.unwrap();
            let again = insert(&mut tx, UserId::now(), &login("ann"), &name, &hash("other")).await;
            assert!(matches!(again, Err(Error::Unique(rule)) if rule == "account_login"), "{}", test.name);
        }
    }

    #[tokio::test]
    async fn a_locked_account_has_the_current_password_hash() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            let mut tx = db.begin().await.unwrap();
            assert_eq!(lock(&mut tx, UserId::now()).await.unwrap(), None);
            set_password(&mut tx, ann, &hash("new")).await.unwrap();
            let account = lock(&mut tx, ann).await.unwrap().unwrap();
            assert_eq!(account.user.login, "ann", "{}", test.name);
            assert_eq!(account.password_hash, hash("new"));
            assert_eq!(lock(&mut tx, bob).await.unwrap().unwrap().password_hash, hash("hash"), "unchanged");
            tx.commit().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_second_lock_waits_for_the_first() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let mut first = db.begin().await.unwrap();
            lock(&mut first, ann).await.unwrap().unwrap();
            let second = tokio::spawn({
                let db = db.clone();
                async move {
                    let mut tx = db.begin().await.unwrap();
                    lock(&mut tx, ann).await.unwrap().unwrap().password_hash
                }
            });
            tokio::task::yield_now().await;
            set_password(&mut first, ann, &hash("new")).await.unwrap();
            first.commit().await.unwrap();
            assert_eq!(second.await.unwrap(), hash("new"), "{}", test.name);
        }
    }

    #[tokio::test]
    async fn only_an_open_session_of_the_user_can_rename() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            let (open, _) = session(db, ann, FAR_FUTURE_US).await;
            let (ended, _) = session(db, ann, FAR_FUTURE_US).await;
            let (foreign, _) = session(db, bob, FAR_FUTURE_US).await;
            end(db, ann, ended).await.unwrap();
            let name = Name::parse("ÄNNE").unwrap();
            let mut tx = db.begin().await.unwrap();
            for session in [ended, foreign, SessionId::now()] {
                assert_eq!(
                    rename(&mut tx, Caller { user: ann, session }, &name).await.unwrap(),
                    None,
                    "{}",
                    test.name
                );
            }
            assert_eq!(get(&mut tx, ann).await.unwrap().name, "Ann");
            let renamed = rename(&mut tx, Caller { user: ann, session: open }, &name).await.unwrap().unwrap();
            assert_eq!((renamed.id, renamed.name.as_str()), (ann, "ÄNNE"));
            tx.commit().await.unwrap();
            let prefix = crate::user::Prefix::parse("änn").unwrap();
            let found = crate::store::user::search(db, &prefix, "", 9).await.unwrap();
            assert_eq!(found, [renamed], "{}: found by the new name", test.name);
        }
    }
}
