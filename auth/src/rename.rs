//! Rename: changes the caller's display name.

use events::{Headers, outbox};

use crate::{
    App, Error, event,
    session::Caller,
    store,
    user::{Name, User},
};

/// Changes the caller's display name and appends UserRenamed.
///
/// # Errors
/// [`Error::SessionEnded`] if the caller's session has ended.
#[tracing::instrument(
    name = "auth.user.rename",
    skip_all,
    fields(user_id = %caller.user, session_id = %caller.session)
)]
pub(crate) async fn rename(app: &App, caller: Caller, name: Name, headers: Headers) -> Result<User, Error> {
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        let renamed = store::account::rename(&mut tx, caller, &name).await?.ok_or(Error::SessionEnded)?;
        outbox::append(&mut tx, &[event::renamed(caller.user, &headers)]).await?;
        tx.commit().await?;
        Ok(renamed)
    };
    app.db.detach(write).await
}
