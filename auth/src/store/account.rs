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
    let row = query("select id, password_hash from account where login = $1")
        .bind(login.as_str())
        .optional(db)
        .await?;
    row.map(|row| Ok((UserId::new(row.get("id")?), Hash::stored(row.get("password_hash")?)))).transpose()
}

/// The person of this id, who is there.
pub(crate) async fn get(tx: &mut Tx, id: UserId) -> Result<User, Error> {
    let row = query("select id, login, name, created_at_us from account where id = $1")
        .bind(id.uuid())
        .one(tx)
        .await?;
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
pub(crate) async fn rename(
    tx: &mut Tx,
    id: UserId,
    session: SessionId,
    name: &Name,
) -> Result<Option<User>, Error> {
    let update = query(
        "update account set name = $3, name_lower = $4
         where id = $1 and exists (select 1 from session where id = $2 and user_id = $1 and ended_at_us is null)
         returning id, login, name, created_at_us",
    );
    let update = update.bind(id.uuid()).bind(session.uuid()).bind(name.as_str()).bind(name.lower());
    update.optional(tx).await?.as_ref().map(read_user).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{FAR_US, databases, end, hash, login, person, session};

    #[tokio::test]
    async fn a_person_is_found_by_login_and_a_login_is_one_persons() {
        for test in databases().await {
            let db = &test.db;
            let (id, name) = (UserId::now(), Name::parse("Ann Ö.").unwrap());
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
    async fn a_locked_person_is_read_with_the_password_of_now() {
        for test in databases().await {
            let db = &test.db;
            let ann = person(db, "ann", "Ann").await;
            let bob = person(db, "bob", "Bob").await;
            let mut tx = db.begin().await.unwrap();
            assert_eq!(lock(&mut tx, UserId::now()).await.unwrap(), None);
            set_password(&mut tx, ann, &hash("new")).await.unwrap();
            let (user, password) = lock(&mut tx, ann).await.unwrap().unwrap();
            assert_eq!((user.login.as_str(), password), ("ann", hash("new")), "{}", test.name);
            assert_eq!(lock(&mut tx, bob).await.unwrap().unwrap().1, hash("hash"), "another's stays");
            tx.commit().await.unwrap();
        }
    }

    #[tokio::test]
    async fn who_holds_the_lock_is_waited_for() {
        for test in databases().await {
            let db = &test.db;
            let ann = person(db, "ann", "Ann").await;
            let mut first = db.begin().await.unwrap();
            lock(&mut first, ann).await.unwrap().unwrap();
            let second = tokio::spawn({
                let db = db.clone();
                async move {
                    let mut tx = db.begin().await.unwrap();
                    lock(&mut tx, ann).await.unwrap().unwrap().1
                }
            });
            tokio::task::yield_now().await;
            set_password(&mut first, ann, &hash("new")).await.unwrap();
            first.commit().await.unwrap();
            assert_eq!(second.await.unwrap(), hash("new"), "{}", test.name);
        }
    }

    #[tokio::test]
    async fn a_person_is_renamed_by_a_session_of_theirs_that_is_not_over() {
        for test in databases().await {
            let db = &test.db;
            let (ann, bob) = (person(db, "ann", "Ann").await, person(db, "bob", "Bob").await);
            let (here, _) = session(db, ann, FAR_US).await;
            let (over, _) = session(db, ann, FAR_US).await;
            let (foreign, _) = session(db, bob, FAR_US).await;
            end(db, ann, over).await.unwrap();
            let name = Name::parse("ÄNNE").unwrap();
            let mut tx = db.begin().await.unwrap();
            for other in [over, foreign, SessionId::now()] {
                assert_eq!(rename(&mut tx, ann, other, &name).await.unwrap(), None, "{}", test.name);
            }
            assert_eq!(get(&mut tx, ann).await.unwrap().name, "Ann");
            let renamed = rename(&mut tx, ann, here, &name).await.unwrap().unwrap();
            assert_eq!((renamed.id, renamed.name.as_str()), (ann, "ÄNNE"));
            tx.commit().await.unwrap();
            let prefix = crate::user::Prefix::parse("änn").unwrap();
            let found = crate::store::user::search(db, &prefix, "", 9).await.unwrap();
            assert_eq!(found, [renamed], "{}: the new name is found", test.name);
        }
    }
}
