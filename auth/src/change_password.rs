//! Change of password: ends every session of the user and opens a new one for the caller, in one
//! transaction.

use events::{Headers, outbox};
use tokio::time::Instant;

use crate::{
    App, Error, event,
    password::{EnteredPassword, Origin, Password, Requester},
    session::{self, Caller, NewSession, Session},
    store,
    verify_password::verify,
};

/// Old and new password.
#[derive(Debug)]
pub(crate) struct Change {
    pub old: EnteredPassword,
    pub new: Password,
    /// Time after which the caller no longer waits for the answer.
    pub deadline: Option<Instant>,
}

/// Changes the caller's password and appends SessionRevoked and UserLoggedIn. The new session has the device
/// of the caller's.
///
/// # Errors
/// [`Error::OldPassword`] if the old password is wrong, or was changed concurrently;
/// [`Error::SessionEnded`]; [`Error::Busy`].
#[tracing::instrument(
    name = "auth.password.change",
    skip_all,
    fields(user_id = %caller.user, session_id = %caller.session)
)]
pub(crate) async fn change(
    app: &App,
    caller: Caller,
    change: Change,
    mut new: NewSession,
    headers: Headers,
) -> Result<Session, Error> {
    let stored = store::session::password_hash(&app.db, caller).await?.ok_or(Error::SessionEnded)?;
    let origin = Origin::User(caller.user);
    let requester = Requester { origin, is_known: true, deadline: change.deadline };
    let account = Some((caller.user, stored));
    let verified = verify(app, change.old, account, &requester).await?.ok_or(Error::OldPassword)?;
    let hash = app.passwords.hash(change.new, &requester).await?;
    let db = app.db.clone();
    let app = app.clone();
    let write = async move {
        let mut tx = app.db.begin().await?;
        let account = store::account::lock(&mut tx, caller.user).await?.ok_or(Error::SessionEnded)?;
        let user = account.user;
        let mut ended = store::session::end_all(&mut tx, user.id).await?;
        // Both checks are repeated under the lock: the session may have ended, and the password may have
        // been changed, since the verification above.
        if !ended.iter().any(|ended| ended.session == caller.session) {
            return Err(Error::SessionEnded);
        }
        if account.password_hash != verified.hash {
            return Err(Error::OldPassword);
        }
        new.device = store::open_session::device(&mut tx, caller.session).await?;
        store::account::set_password(&mut tx, user.id, &hash).await?;
        outbox::append(&mut tx, event::revoked(user.id, &ended, &headers).as_slice()).await?;
        ended.extend(session::open(&app, &mut tx, user.id, &new, &headers).await?);
        tx.commit().await?;
        Ok(Session { ended, ..session::issue(&app, user, new.id, &new.token, new.now_us) })
    };
    db.detach(write).await
}
