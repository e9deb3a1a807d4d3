//! Login: signs in with a password. An unknown login and a wrong password get the same response after
//! the same work, so that neither text nor timing reveals which logins exist.

use events::Headers;

use crate::{
    App, Error,
    client::Client,
    known_address,
    password::EnteredPassword,
    session::{self, NewSession, Session},
    store,
    user::Login,
    verify_password::verify,
};

/// An attempt to sign in.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// `None` if it is malformed: the work of a verification is done all the same.
    pub login: Option<Login>,
    pub password: EnteredPassword,
    pub client: Client,
    /// Refuses an address that has not signed in to this login before.
    pub known_address_only: bool,
}

/// Opens a session, appends UserLoggedIn and remembers the client's address.
///
/// # Errors
/// [`Error::Credentials`] for an unknown login or a wrong password,
/// [`Error::CredentialsFromKnownAddress`] for a wrong password from a known address;
/// [`Error::UnknownAddress`]; [`Error::Busy`].
#[tracing::instrument(name = "auth.login", skip_all)]
pub(crate) async fn login(
    app: &App,
    attempt: Attempt,
    new: NewSession,
    headers: Headers,
) -> Result<Session, Error> {
    let Attempt { login, password, client, known_address_only } = attempt;
    let account = match &login {
        Some(login) => store::account::find(&app.db, login).await?,
        None => None,
    };
    let user = account.as_ref().map(|(user, _)| *user);
    let is_known = known_address::contains(app, user, client.network).await?;
    if known_address_only && !is_known {
        return Err(Error::UnknownAddress);
    }
    let verified = verify(app, password, account, &client.requester(is_known)).await?;
    let wrong = || if is_known { Error::CredentialsFromKnownAddress } else { Error::Credentials };
    let verified = verified.ok_or_else(wrong)?;
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
        known_address::remember(&mut tx, user, client.network).await?;
        tx.commit().await?;
        Ok(Session { ended, ..session::issue(&app, account.user, new.id, &new.token, new.now_us) })
    };
    db.detach(write).await
}
