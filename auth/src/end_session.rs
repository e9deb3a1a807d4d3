//! End of one session by its user, from any device: a lost phone is signed out without its cooperation.

use events::{Headers, outbox};
use proto::SessionId;

use crate::{
    App, Error, event,
    session::{Caller, Ended},
    store,
};

/// Ends an open session of the caller, also the caller's own, and appends SessionRevoked.
///
/// # Errors
/// [`Error::UnknownSession`] if the session is unknown, another user's, or has ended;
/// [`Error::SessionEnded`] if the caller's own session has ended.
#[tracing::instrument(
    name = "auth.session.end",
    skip_all,
    fields(user_id = %caller.user, session_id = %caller.session)
)]
pub(crate) async fn end(
    app: &App,
    caller: Caller,
    session: SessionId,
    headers: Headers,
) -> Result<Ended, Error> {
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        // Locked before both sessions. Of two that end each other at the same time, the second finds that it
        // has ended itself.
        store::account::lock(&mut tx, caller.user).await?;
        if !store::open_session::is_open(&mut tx, caller).await? {
            return Err(Error::SessionEnded);
        }
        let ended = store::session::end(&mut tx, caller.user, session).await?;
        let ended = ended.ok_or(Error::UnknownSession)?;
        outbox::append(&mut tx, event::revoked(caller.user, &[ended], &headers).as_slice()).await?;
        tx.commit().await?;
        Ok(ended)
    };
    app.db.detach(write).await
}
