//! Refresh: exchanges a refresh token for a new access and refresh token, in one transaction.
//!
//! Tokens rotate with reuse detection. A client whose response was lost repeats the call with its old
//! token and receives the same successor again. A token whose successor was used indicates theft and
//! ends the session (docs/decisions/0003-refresh-tokens.md).

mod lineage;
mod salt;
mod token;
mod verdict;

use events::{Headers, outbox};
use proto::SessionId;

use self::verdict::Verdict;
pub(crate) use self::{
    lineage::{Lineage, Previous},
    salt::Salt,
    token::Token,
};
use crate::{
    App, Error,
    device::UserAgent,
    event,
    session::{self, Session},
    store,
    user::User,
};

/// Exchange of a refresh token.
#[derive(Debug)]
pub(crate) struct Refresh {
    pub token: Token,
    /// Used if the token is rotated.
    pub salt: Salt,
    /// User agent of the client; `None` keeps the one of the session.
    pub user_agent: Option<UserAgent>,
    /// Time of the call, in microseconds since the Unix epoch.
    pub now_us: i64,
}

/// Exchanges a refresh token, and records the use of the session.
///
/// # Errors
/// [`Error::RefreshToken`] if the token is unknown or expired, or its session has ended;
/// [`Error::RefreshTokenReused`].
#[tracing::instrument(name = "auth.session.refresh", skip_all)]
pub(crate) async fn refresh(app: &App, refresh: Refresh, headers: Headers) -> Result<Session, Error> {
    let now_us = refresh.now_us;
    let Exchange { user, session, successor } =
        app.db.detach(exchange(app.clone(), refresh, headers)).await?;
    Ok(session::issue(app, user, session, &successor, now_us))
}

/// Result of an exchange.
struct Exchange {
    user: User,
    session: SessionId,
    successor: Token,
}

/// Runs the transaction of [`refresh`].
async fn exchange(app: App, refresh: Refresh, headers: Headers) -> Result<Exchange, Error> {
    let Refresh { token, salt, user_agent, now_us } = refresh;
    let mut tx = app.db.begin().await?;
    // Lock the session before deciding: of two requests with the same token, the first rotates it and
    // the second, which waits here, finds it as the previous token and returns the same successor.
    let lineage = store::session::lock_lineage(&mut tx, &token.family_hash()).await?;
    let lineage = lineage.ok_or(Error::RefreshToken)?;
    let successor = match lineage.verdict(&token, now_us) {
        Verdict::Rotate => {
            let next = token.successor(&salt);
            let expires_at_us = now_us.saturating_add(app.settings.refresh_ttl_us());
            store::session::rotate(&mut tx, lineage.session, &next, &salt, expires_at_us).await?;
            next
        }
        Verdict::Repeat(salt) => token.successor(&salt),
        Verdict::Reused => {
            let ended = store::session::end(&mut tx, lineage.user, lineage.session).await?;
            let revoked = event::revoked(lineage.user, ended.as_slice(), &headers);
            outbox::append(&mut tx, revoked.as_slice()).await?;
            // Commit before the error is returned: the session must end although the request fails.
            tx.commit().await?;
            metrics::counter!("auth_refresh_reused_total").increment(1);
            tracing::warn!(
                user_id = %lineage.user,
                session_id = %lineage.session,
                "refresh token reused, session ended"
            );
            return Err(ended.map_or(Error::RefreshToken, |ended| Error::RefreshTokenReused(ended.into())));
        }
        Verdict::Refused => return Err(Error::RefreshToken),
    };
    let access_expires_at_us = session::access_expires_at_us(&app, now_us);
    let user_agent = user_agent.as_ref();
    store::session::record_refresh(&mut tx, lineage.session, access_expires_at_us, user_agent).await?;
    let user = store::account::get(&mut tx, lineage.user).await?;
    tx.commit().await?;
    Ok(Exchange { user, session: lineage.session, successor })
}

fn random_bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}
