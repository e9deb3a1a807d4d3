//! A session: one sign-in of a person on a device, from a password to a log-out. It is known by its id, carried by access
//! tokens as `sid`, and goes on for as long as its refresh token is exchanged in time.

use std::fmt;

use access::Claims;
use db::Tx;
use events::{Headers, outbox};
use proto::{SessionId, UserId};

use crate::{App, Error, event, refresh::Token, store, user::User};

/// The sessions of one person; the next one ends the oldest.
const SESSIONS_MAX: i64 = 100;
/// The revoked sessions of one answer: what it holds within the 4 MB of a gRPC message.
const REVOKED_MAX: usize = 200_000;

/// What a new session is made of: an id, randomness and the time, given by the edge.
#[derive(Debug)]
pub(crate) struct Opening {
    pub id: SessionId,
    pub token: Token,
    pub now_us: i64,
}

/// What a person gets who signs in or refreshes. It holds secrets and does not show them.
pub(crate) struct Session {
    pub user: User,
    pub id: SessionId,
    pub access_token: String,
    pub refresh_token: String,
    /// Of the access token.
    pub expires_at_us: i64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", &self.user.id).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Opens a session for a person whose row is locked; beyond 100 the oldest end.
pub(crate) async fn open(
    app: &App,
    tx: &mut Tx,
    user: UserId,
    opening: &Opening,
    headers: &Headers,
) -> Result<(), db::Error> {
    let Opening { id, token, now_us } = opening;
    let ended = store::session::end_oldest(tx, user, SESSIONS_MAX - 1, *now_us).await?;
    let expires_at_us = now_us.saturating_add(app.settings.refresh_ttl_us());
    store::session::insert(tx, *id, user, token, expires_at_us).await?;
    let events: Vec<_> = event::revoked(user, &ended, headers)
        .into_iter()
        .chain([event::logged_in(user, *id, headers)])
        .collect();
    outbox::append(tx, &events).await
}

/// The session with an access token of its own.
pub(crate) fn granted(app: &App, user: User, id: SessionId, token: &Token, now_us: i64) -> Session {
    let lifetime_s = i64::try_from(app.settings.access_ttl.as_secs()).unwrap_or(i64::MAX);
    let claims = Claims::new(&app.settings.issuer, user.id.uuid(), id.uuid(), now_us / 1_000_000, lifetime_s);
    Session {
        expires_at_us: claims.exp.saturating_mul(1_000_000),
        access_token: app.keys.sign(&claims),
        refresh_token: token.text(),
        user,
        id,
    }
}

/// Ends this session of a person, or all of them.
///
/// # Errors
/// [`Error::SessionEnded`] where this one is over already.
#[tracing::instrument(name = "auth.session.logout", skip_all, fields(user_id = %user, session_id = %session))]
pub(crate) async fn logout(
    app: &App,
    (user, session): (UserId, SessionId),
    everywhere: bool,
    headers: Headers,
) -> Result<(), Error> {
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        let ended = if everywhere {
            store::account::lock(&mut tx, user).await?;
            store::session::end_all(&mut tx, user).await?
        } else {
            store::session::end(&mut tx, user, session).await?.into_iter().collect()
        };
        if !ended.contains(&session) {
            return Err(Error::SessionEnded);
        }
        outbox::append(&mut tx, event::revoked(user, &ended, &headers).as_slice()).await?;
        Ok(tx.commit().await?)
    };
    app.db.detach(write).await
}

/// The sessions revoked within the last lifetime of an access token, and a minute for clocks that differ.
///
/// # Errors
/// [`Error::TooManyRevoked`] beyond 200,000.
#[tracing::instrument(name = "auth.session.revoked", skip_all)]
pub(crate) async fn revoked(app: &App) -> Result<Vec<SessionId>, Error> {
    let revoked =
        store::session::revoked(&app.db, app.settings.remembered_us(), REVOKED_MAX as i64 + 1).await?;
    if revoked.len() > REVOKED_MAX { Err(Error::TooManyRevoked(REVOKED_MAX as i64)) } else { Ok(revoked) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use access::{ServiceToken, SigningKeys};
    use db::query;
    use serde_json::json;

    use super::*;
    use crate::{Settings, housekeeping, store::fixture};

    fn app(db: &db::Db) -> App {
        let hour = Duration::from_secs(3_600);
        let settings = Settings { issuer: "tidings".to_owned(), access_ttl: hour, refresh_ttl: hour };
        App::new(db.clone(), SigningKeys::generate(), ServiceToken::generate(), settings)
    }

    async fn sign_in(app: &App, user: UserId, now_us: i64) -> SessionId {
        let opening = Opening { id: SessionId::now(), token: Token::random(), now_us };
        let mut tx = app.db.begin().await.unwrap();
        open(app, &mut tx, user, &opening, &Headers::default()).await.unwrap();
        tx.commit().await.unwrap();
        opening.id
    }

    #[tokio::test]
    async fn the_hundred_and_first_session_ends_the_oldest_and_says_so() {
        for test in fixture::databases().await {
            let app = app(&test.db);
            let ann = fixture::person(&test.db, "ann", "Ann").await;
            let mut tail = events::Local::new(vec![(proto::topic::AUTH, test.db.clone())])
                .tail(&[proto::topic::AUTH])
                .await
                .unwrap();
            let mut ids = Vec::new();
            for _ in 0..SESSIONS_MAX + 1 {
                ids.push(sign_in(&app, ann, fixture::FAR_US).await);
            }
            assert_eq!(revoked(&app).await.unwrap(), ids[..1], "{}", test.name);
            let mut kinds = Vec::new();
            while kinds.len() < ids.len() + 1 {
                kinds.extend(tail.next().await.unwrap().records);
            }
            let revoked =
                proto::events::SessionRevoked { user_id: ann.bytes(), session_ids: vec![ids[0].bytes()] };
            let (last, before) = kinds.split_last().unwrap();
            assert_eq!(last.kind, "UserLoggedIn", "{}", test.name);
            let before = before.last().unwrap();
            let expected = proto::events::event::Kind::SessionRevoked(revoked);
            assert_eq!(proto::events::event::Kind::read(&before.payload), Some(expected));
        }
    }

    #[tokio::test]
    async fn two_hundred_thousand_revoked_sessions_are_listed_and_not_one_more() {
        for test in fixture::databases().await {
            let app = app(&test.db);
            let ann = fixture::person(&test.db, "ann", "Ann").await;
            let mut tx = test.db.begin().await.unwrap();
            let ids = (0..REVOKED_MAX).map(|_| SessionId::now().uuid());
            let ids: serde_json::Value =
                ids.map(|id| json!({ "id": id, "hash": id.simple().to_string() })).collect();
            let insert = query(
                "insert into session (id, user_id, family_hash, newest_hash, expires_at_us, ended_at_us)
                 select r.id, $2, r.hash, r.hash, $3, now_us from rows($1: id uuid, hash bytea) as r cross join clock",
            );
            insert.bind(ids).bind(ann.uuid()).bind(fixture::FAR_US).execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            let all = revoked(&app).await.unwrap();
            assert_eq!(all.len(), REVOKED_MAX, "{}", test.name);
            let one_more = sign_in(&app, ann, fixture::FAR_US).await;
            fixture::end(&test.db, ann, one_more).await.unwrap();
            assert!(matches!(revoked(&app).await, Err(Error::TooManyRevoked(200_000))));
        }
    }

    #[tokio::test]
    async fn housekeeping_removes_what_is_over_for_long_and_nothing_else() {
        for test in fixture::databases().await {
            let app = app(&test.db);
            let ann = fixture::person(&test.db, "ann", "Ann").await;
            let live = sign_in(&app, ann, fixture::FAR_US).await;
            sign_in(&app, ann, 0).await;
            let lately = sign_in(&app, ann, fixture::FAR_US).await;
            fixture::end(&test.db, ann, lately).await.unwrap();
            let shutdown = tokio_util::sync::CancellationToken::new();
            assert_eq!(housekeeping::remove(&app, &shutdown).await.unwrap(), 1, "{}", test.name);
            assert_eq!(housekeeping::remove(&app, &shutdown).await.unwrap(), 0);
            assert_eq!(revoked(&app).await.unwrap(), [lately], "it is remembered for a token's lifetime");
            assert_eq!(fixture::end(&test.db, ann, live).await, Some(live));
            shutdown.cancel();
            app.run(shutdown).await;
        }
    }
}
