//! Changing the password: whoever was signed in by the old one is signed in no more.

use events::{Headers, outbox};
use proto::{SessionId, UserId};

use crate::{
    App, Error, event,
    password::Password,
    session::{self, Opening, Session},
    store,
};

/// The old password and the new one. What cannot be anybody's password is no old one.
#[derive(Debug)]
pub(crate) struct Change {
    pub old: Option<Password>,
    pub new: Password,
}

/// Ends every session of a person and opens a new one.
///
/// # Errors
/// [`Error::OldPassword`] where it is wrong, also because it was changed at the same instant; [`Error::SessionEnded`];
/// [`Error::Busy`].
#[tracing::instrument(name = "auth.password.change", skip_all, fields(user_id = %user, session_id = %session))]
pub(crate) async fn change(
    app: &App,
    (user, session): (UserId, SessionId),
    change: Change,
    opening: Opening,
    headers: Headers,
) -> Result<Session, Error> {
    let before = store::session::password_hash(&app.db, user, session).await?.ok_or(Error::SessionEnded)?;
    let old = change.old.unwrap_or_else(Password::nobodys);
    if !app.passwords.verify(old, Some(before.clone())).await? {
        return Err(Error::OldPassword);
    }
    let hash = app.passwords.hash(change.new).await?;
    let (db, app) = (app.db.clone(), app.clone());
    let write = async move {
        let mut tx = app.db.begin().await?;
        let (user, now) = store::account::lock(&mut tx, user).await?.ok_or(Error::SessionEnded)?;
        let ended = store::session::end_all(&mut tx, user.id).await?;
        if !ended.contains(&session) {
            return Err(Error::SessionEnded);
        }
        if now != before {
            return Err(Error::OldPassword);
        }
        store::account::set_password(&mut tx, user.id, &hash).await?;
        outbox::append(&mut tx, event::revoked(user.id, &ended, &headers).as_slice()).await?;
        session::open(&app, &mut tx, user.id, &opening, &headers).await?;
        tx.commit().await?;
        Ok(session::granted(&app, user, opening.id, &opening.token, opening.now_us))
    };
    db.detach(write).await
}
