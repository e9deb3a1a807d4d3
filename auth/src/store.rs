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

/// What the tests of statements begin with.
#[cfg(test)]
pub(crate) mod fixture {
    use db::Db;
    use proto::{SessionId, UserId};
    use testkit::TestDb;

    use super::{account, session};
    use crate::{
        password::Hash,
        refresh::Token,
        user::{Login, Name},
    };

    /// When the tests' tokens expire: in a far future.
    pub(crate) const FAR_US: i64 = 1 << 60;

    /// Every database, fresh.
    pub(crate) async fn databases() -> Vec<TestDb> {
        testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &crate::MIGRATIONS]).await
    }

    pub(crate) fn login(text: &str) -> Login {
        Login::parse(text.to_owned()).unwrap()
    }

    pub(crate) fn hash(text: &str) -> Hash {
        Hash::stored(text.to_owned())
    }

    /// A person with this login and name, whose password's hash is `hash`.
    pub(crate) async fn person(db: &Db, text: &str, name: &str) -> UserId {
        let mut tx = db.begin().await.unwrap();
        let (id, name) = (UserId::now(), Name::parse(name).unwrap());
        account::insert(&mut tx, id, &login(text), &name, &hash("hash")).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// A session of a person.
    pub(crate) async fn session(db: &Db, user: UserId, expires_at_us: i64) -> (SessionId, Token) {
        let (id, token) = (SessionId::now(), Token::random());
        let mut tx = db.begin().await.unwrap();
        session::insert(&mut tx, id, user, &token, expires_at_us).await.unwrap();
        tx.commit().await.unwrap();
        (id, token)
    }

    /// Ends a session.
    pub(crate) async fn end(db: &Db, user: UserId, id: SessionId) -> Option<SessionId> {
        let mut tx = db.begin().await.unwrap();
        let ended = session::end(&mut tx, user, id).await.unwrap();
        tx.commit().await.unwrap();
        ended
    }
}
