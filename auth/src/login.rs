//! Login: signs in with a password. An unknown login and a wrong password get the same response after
//! the same work, so that neither text nor timing reveals which logins exist.

use events::Headers;

use crate::{
    App, Error,
    password::EnteredPassword,
    session::{self, NewSession, Session},
    store,
    user::Login,
    verify_password::verify,
};

/// Opens a session and appends UserLoggedIn. `login` is `None` if it is malformed: the work of a
/// verification is done all the same.
///
/// # Errors
/// [`Error::Credentials`] for an unknown login or a wrong password; [`Error::Busy`].
#[tracing::instrument(name = "auth.login", skip_all)]
pub(crate) async fn login(
    app: &App,
    login: Option<Login>,
    password: EnteredPassword,
    new: NewSession,
    headers: Headers,
) -> Result<Session, Error> {
    let account = match &login {
        Some(login) => store::account::find(&app.db, login).await?,
        None => None,
    };
    let verified = verify(app, password, account).await?.ok_or(Error::Credentials)?;
    let user = verified.user;
    let db = app.db.clone();
    let app = app.clone();
    let write = async move {
        let mut tx = app.db.begin().await?;
        let account = store::account::lock(&mut tx, user).await?.ok_or(Error::Credentials)?;
        // The password was verified outside the transaction and may have been changed since. Without
        // this check, a session opened with the old password would survive the change, which ends all
        // others.
        if account.password_hash != verified.hash {
            return Err(Error::Credentials);
        }
        let ended = session::open(&app, &mut tx, user, &new, &headers).await?;
        tx.commit().await?;
        Ok(Session { ended, ..session::issue(&app, account.user, new.id, &new.token, new.now_us) })
    };
    db.detach(write).await
}
