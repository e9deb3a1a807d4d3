//! SQL statements of auth, for PostgreSQL and SQLite. A row is locked by an update that changes nothing,
//! because SQLite has no `select … for update`. Lock order: the user's row before any of its sessions.

pub(crate) mod account;
pub(crate) mod known_address;
pub(crate) mod open_session;
pub(crate) mod session;
pub(crate) mod user;

use db::{Error, Row};
use proto::UserId;

use crate::user::User;

fn user_from_row(row: &Row) -> Result<User, Error> {
    Ok(User {
        id: UserId::new(row.get("id")?),
        login: row.get("login")?,
        name: row.get("name")?,
        created_at_us: row.get("created_at_us")?,
    })
}

/// Fixtures of the statement tests.
#[cfg(test)]
pub(crate) mod fixture {
    use db::Db;
    use proto::{SessionId, UserId};
    use testkit::TestDb;

    use super::{account, session};
    use crate::{
        device::Device,
        password::Hash,
        refresh_token::Token,
        session::NewSession,
        user::{Login, Name},
    };

    /// Expiry far in the future.
    pub(crate) const FAR_FUTURE_US: i64 = 1 << 60;

    /// Creates an empty database of each engine.
    pub(crate) async fn databases() -> Vec<TestDb> {
        testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &crate::MIGRATIONS]).await
    }

    pub(crate) fn login(text: &str) -> Login {
        Login::parse(text).unwrap()
    }

    pub(crate) fn hash(text: &str) -> Hash {
        Hash::from_stored(text.to_owned())
    }

    /// Inserts a user with this login and name, and the password hash `hash`.
    pub(crate) async fn insert_user(db: &Db, text: &str, name: &str) -> UserId {
        let mut tx = db.begin().await.unwrap();
        let id = UserId::now();
        let name = Name::parse(name).unwrap();
        account::insert(&mut tx, id, &login(text), &name, &hash("hash")).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Inserts a session of a user whose tokens all expire at the same time.
    pub(crate) async fn session(db: &Db, user: UserId, expires_at_us: i64) -> (SessionId, Token) {
        session_on(db, user, Device::default(), expires_at_us).await
    }

    /// Inserts a session of a user on this device, whose tokens all expire at the same time.
    pub(crate) async fn session_on(
        db: &Db,
        user: UserId,
        device: Device,
        expires_at_us: i64,
    ) -> (SessionId, Token) {
        let new = NewSession { id: SessionId::now(), token: Token::random(), device, now_us: 0 };
        let mut tx = db.begin().await.unwrap();
        session::insert(&mut tx, user, &new, expires_at_us, expires_at_us).await.unwrap();
        tx.commit().await.unwrap();
        (new.id, new.token)
    }

    pub(crate) async fn end(db: &Db, user: UserId, id: SessionId) -> Option<SessionId> {
        let mut tx = db.begin().await.unwrap();
        let ended = session::end(&mut tx, user, id).await.unwrap();
        tx.commit().await.unwrap();
        ended.map(|ended| ended.session)
    }
}
