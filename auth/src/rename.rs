//! Renaming oneself.

use events::{Headers, outbox};
use proto::{SessionId, UserId};

use crate::{
    App, Error, event, store,
    user::{Name, User},
};

/// Gives the caller another name.
///
/// # Errors
/// [`Error::SessionEnded`] where the caller's session is over.
#[tracing::instrument(name = "auth.user.rename", skip_all, fields(user_id = %user, session_id = %session))]
pub(crate) async fn rename(
    app: &App,
    (user, session): (UserId, SessionId),
    name: Name,
    headers: Headers,
) -> Result<User, Error> {
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        let renamed =
            store::account::rename(&mut tx, user, session, &name).await?.ok_or(Error::SessionEnded)?;
        outbox::append(&mut tx, &[event::renamed(user, &headers)]).await?;
        tx.commit().await?;
        Ok(renamed)
    };
    app.db.detach(write).await
}
