//! Open sessions of a user, for the list in which the user recognises devices. A session that has ended or
//! expired is not open.

use proto::SessionId;

use crate::{
    App, Error,
    session::{Caller, SESSIONS_MAX},
    store,
};

/// Open session, as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenSession {
    pub id: SessionId,
    pub device_name: Option<String>,
    pub user_agent: Option<String>,
    /// Time of the sign-in, in microseconds since the Unix epoch, from the database's clock.
    pub created_at_us: i64,
    /// Time of the last refresh, or of the sign-in if there was none, from the same clock.
    pub last_used_at_us: i64,
}

/// Returns the open sessions of the caller, newest use first, at most 100: more are never open.
///
/// # Errors
/// [`Error::SessionEnded`] if the caller's session has ended.
#[tracing::instrument(
    name = "auth.session.list",
    skip_all,
    fields(user_id = %caller.user, session_id = %caller.session)
)]
pub(crate) async fn list(app: &App, caller: Caller, now_us: i64) -> Result<Vec<OpenSession>, Error> {
    let sessions = store::open_session::list(&app.db, caller, now_us, SESSIONS_MAX).await?;
    if sessions.is_empty() { Err(Error::SessionEnded) } else { Ok(sessions) }
}
