//! Signing in with a password. An unknown login and a wrong password get the same answer after the same work.

use events::Headers;

use crate::{
    App, Error,
    password::Password,
    session::{self, Opening, Session},
    store,
    user::Login,
};

/// Signs in. `None` stands for what can be nobody's login or password.
///
/// # Errors
/// [`Error::Credentials`] for an unknown login and a wrong password alike; [`Error::Busy`].
#[tracing::instrument(name = "auth.login", skip_all)]
pub(crate) async fn login(
    app: &App,
    credentials: Option<(Login, Password)>,
    opening: Opening,
    headers: Headers,
) -> Result<Session, Error> {
    let (login, password) = match credentials {
        Some((login, password)) => (Some(login), password),
        None => (None, Password::nobodys()),
    };
    let account = match &login {
        Some(login) => store::account::find(&app.db, login).await?,
        None => None,
    };
    let (user, hash) = account.unzip();
    let is_right = app.passwords.verify(password, hash.clone()).await?;
    let (Some(user), Some(hash), true) = (user, hash, is_right) else {
        return Err(Error::Credentials);
    };
    let (db, app) = (app.db.clone(), app.clone());
    let write = async move {
        let mut tx = app.db.begin().await?;
        let (user, now) = store::account::lock(&mut tx, user).await?.ok_or(Error::Credentials)?;
        if now != hash {
            return Err(Error::Credentials);
        }
        session::open(&app, &mut tx, user.id, &opening, &headers).await?;
        tx.commit().await?;
        Ok(session::granted(&app, user, opening.id, &opening.token, opening.now_us))
    };
    db.detach(write).await
}
