//! Login: signs in with a password. An unknown login and a wrong password get the same response after
//! the same work, so that neither text nor timing reveals which logins exist.

use events::Headers;

use crate::{
    App, Error,
    password::Password,
    session::{self, NewSession, Session},
    store,
    user::Login,
};

/// Opens a session and appends UserLoggedIn. `credentials` is `None` if login or password is malformed:
/// the work of a verification is done all the same.
///
/// # Errors
/// [`Error::Credentials`] for an unknown login or a wrong password; [`Error::Busy`].
#[tracing::instrument(name = "auth.login", skip_all)]
pub(crate) async fn login(
    app: &App,
    credentials: Option<(Login, Password)>,
    new: NewSession,
    headers: Headers,
) -> Result<Session, Error> {
    let (login, password) = match credentials {
        Some((login, password)) => (Some(login), password),
        None => (None, Password::dummy()),
    };
    let account = match &login {
        Some(login) => store::account::find(&app.db, login).await?,
        None => None,
    };
    let (user, hash) = account.unzip();
    let matches = app.passwords.verify(password, hash.clone()).await?;
    let (Some(user), Some(hash), true) = (user, hash, matches) else {
        return Err(Error::Credentials);
    };
    let db = app.db.clone();
    let app = app.clone();
    let write = async move {
        let mut tx = app.db.begin().await?;
        let account = store::account::lock(&mut tx, user).await?.ok_or(Error::Credentials)?;
        // The password was verified outside the transaction and may have been changed since. Without
        // this check, a session opened with the old password would survive the change, which ends all
        // others.
        if account.password_hash != hash {
            return Err(Error::Credentials);
        }
        session::open(&app, &mut tx, user, &new, &headers).await?;
        tx.commit().await?;
        Ok(session::issue(&app, account.user, new.id, &new.token, new.now_us))
    };
    db.detach(write).await
}
