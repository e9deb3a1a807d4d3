//! Sessions: one sign-in of a user on a device. A session starts with a password and ends with a
//! log-out, by its user from another device, with a change of password, the reuse of a refresh token, or
//! when its refresh token expires. Access tokens carry its id as `sid`.

use std::fmt;

use access::Claims;
use db::Tx;
use events::{Headers, outbox};
use proto::{SessionId, UserId};

use crate::{App, Error, Settings, device::Device, event, refresh_token::Token, store, user::User};

/// Open sessions per user. Opening one more ends the oldest.
pub(crate) const SESSIONS_MAX: i64 = 100;

/// Authenticated user and session of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub user: UserId,
    pub session: SessionId,
}

/// New session: its device, and the id, first refresh token and opening time that the gRPC layer generates.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub id: SessionId,
    pub token: Token,
    pub device: Device,
    pub now_us: i64,
}

/// Session that has ended. No access token of it expires later than `expires_at_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub session: SessionId,
    pub expires_at_us: i64,
}

/// Open session with its current tokens. `Debug` omits the tokens.
pub(crate) struct Session {
    pub user: User,
    pub id: SessionId,
    pub access_token: String,
    pub refresh_token: String,
    /// Expiry of the access token.
    pub expires_at_us: i64,
    /// Sessions that ended when this one was opened.
    pub ended: Vec<Ended>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", &self.user.id).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Opens a session, ends the oldest ones beyond 100 and returns these. Requires the lock on the user's row.
pub(crate) async fn open(
    app: &App,
    tx: &mut Tx,
    user: UserId,
    new: &NewSession,
    headers: &Headers,
) -> Result<Vec<Ended>, db::Error> {
    let ended = store::session::end_oldest(tx, user, SESSIONS_MAX - 1, new.now_us).await?;
    let expires_at_us = new.now_us.saturating_add(app.settings.refresh_ttl_us());
    let access_expires_at_us = access_expires_at_us(app, new.now_us);
    store::session::insert(tx, user, new, expires_at_us, access_expires_at_us).await?;
    let events: Vec<_> = event::revoked(user, &ended, headers)
        .into_iter()
        .chain([event::logged_in(user, new.id, headers)])
        .collect();
    outbox::append(tx, &events).await?;
    Ok(ended)
}

/// Signs an access token and returns it with the session. Its expiry must have been recorded.
pub(crate) fn issue(app: &App, user: User, id: SessionId, token: &Token, now_us: i64) -> Session {
    let Settings { issuer, .. } = &*app.settings;
    let claims = Claims::new(issuer, user.id.uuid(), id.uuid(), now_us / 1_000_000, lifetime_s(app));
    Session {
        expires_at_us: claims.exp.saturating_mul(1_000_000),
        access_token: app.keys.sign(&claims),
        refresh_token: token.text(),
        user,
        id,
        ended: Vec::new(),
    }
}

/// Returns the expiry of an access token that is issued at `now_us`.
pub(crate) fn access_expires_at_us(app: &App, now_us: i64) -> i64 {
    (now_us / 1_000_000).saturating_add(lifetime_s(app)).saturating_mul(1_000_000)
}

fn lifetime_s(app: &App) -> i64 {
    i64::try_from(app.settings.access_ttl.as_secs()).unwrap_or(i64::MAX)
}

/// Ends the caller's session, or all sessions of the user, appends SessionRevoked and returns what ended.
///
/// # Errors
/// [`Error::SessionEnded`] if the caller's session has already ended.
#[tracing::instrument(
    name = "auth.session.logout",
    skip_all,
    fields(user_id = %caller.user, session_id = %caller.session)
)]
pub(crate) async fn logout(
    app: &App,
    caller: Caller,
    everywhere: bool,
    headers: Headers,
) -> Result<Vec<Ended>, Error> {
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        let ended = if everywhere {
            // The user's row is locked before sessions, in the same order as opening a session does.
            store::account::lock(&mut tx, caller.user).await?;
            store::session::end_all(&mut tx, caller.user).await?
        } else {
            store::session::end(&mut tx, caller.user, caller.session).await?.into_iter().collect()
        };
        if !ended.iter().any(|ended| ended.session == caller.session) {
            return Err(Error::SessionEnded);
        }
        outbox::append(&mut tx, event::revoked(caller.user, &ended, &headers).as_slice()).await?;
        tx.commit().await?;
        Ok(ended)
    };
    app.db.detach(write).await
}

/// Fixture of the tests of sessions.
#[cfg(test)]
pub(crate) mod fixture {
    use std::time::Duration;

    use access::{ServiceToken, SigningKeys};

    use crate::{App, Settings};

    /// Creates the service with tokens that live for an hour.
    pub(crate) fn app(db: &db::Db) -> App {
        let hour = Duration::from_secs(3_600);
        let settings = Settings { issuer: "tidings".to_owned(), access_ttl: hour, refresh_ttl: hour };
        App::new(db.clone(), SigningKeys::generate(), ServiceToken::generate(), settings)
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::app, *};
    use crate::{cleanup, revoked, store::fixture};

    async fn revoked_sessions(app: &App) -> Vec<SessionId> {
        let page = revoked::since(app, 0, None).await.unwrap();
        page.sessions.iter().map(|ended| ended.session).collect()
    }

    async fn sign_in(app: &App, user: UserId, now_us: i64) -> SessionId {
        let device = Device::default();
        let new = NewSession { id: SessionId::now(), token: Token::random(), device, now_us };
        let mut tx = app.db.begin().await.unwrap();
        open(app, &mut tx, user, &new, &Headers::default()).await.unwrap();
        tx.commit().await.unwrap();
        new.id
    }

    #[tokio::test]
    async fn opening_the_101st_session_ends_the_oldest_and_revokes_it() {
        for test in fixture::databases().await {
            let app = app(&test.db);
            let ann = fixture::insert_user(&test.db, "ann", "Ann").await;
            let mut tail = events::Local::new(vec![(proto::topic::AUTH, test.db.clone())])
                .tail(&[proto::topic::AUTH])
                .await
                .unwrap();
            let mut ids = Vec::new();
            for _ in 0..SESSIONS_MAX + 1 {
                ids.push(sign_in(&app, ann, fixture::FAR_FUTURE_US).await);
            }
            assert_eq!(revoked_sessions(&app).await, ids[..1], "{}", test.name);
            let mut kinds = Vec::new();
            while kinds.len() < ids.len() + 1 {
                kinds.extend(tail.next().await.unwrap().records);
            }
            let revoked = proto::events::SessionRevoked {
                user_id: ann.bytes(),
                session_ids: vec![ids[0].bytes()],
                expires_at_us: access_expires_at_us(&app, fixture::FAR_FUTURE_US),
            };
            let (last, before) = kinds.split_last().unwrap();
            assert_eq!(last.kind, "UserLoggedIn", "{}", test.name);
            let before = before.last().unwrap();
            let expected = proto::events::event::Kind::SessionRevoked(revoked);
            assert_eq!(proto::events::event::Kind::decode(&before.payload), Some(expected));
        }
    }

    #[tokio::test]
    async fn cleanup_deletes_only_sessions_that_ended_or_expired_long_ago() {
        for test in fixture::databases().await {
            let app = app(&test.db);
            let ann = fixture::insert_user(&test.db, "ann", "Ann").await;
            let open = sign_in(&app, ann, fixture::FAR_FUTURE_US).await;
            sign_in(&app, ann, 0).await;
            let recently_ended = sign_in(&app, ann, fixture::FAR_FUTURE_US).await;
            fixture::end(&test.db, ann, recently_ended).await.unwrap();
            let shutdown = tokio_util::sync::CancellationToken::new();
            assert_eq!(
                cleanup::delete(&app, cleanup::Old::Sessions, &shutdown).await.unwrap(),
                1,
                "{}",
                test.name
            );
            assert_eq!(cleanup::delete(&app, cleanup::Old::Sessions, &shutdown).await.unwrap(), 0);
            assert_eq!(revoked_sessions(&app).await, [recently_ended], "kept for a token's lifetime");
            assert_eq!(fixture::end(&test.db, ann, open).await, Some(open));
            shutdown.cancel();
            app.run(shutdown).await;
        }
    }
}
