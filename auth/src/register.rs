//! Registration: creates a user and opens the first session, in one transaction.

use events::{Headers, outbox};
use proto::UserId;

use crate::{
    App, Error, event,
    password::Password,
    session::{self, NewSession, Session},
    store,
    user::{Login, Name},
};

/// Validated input of a registration.
#[derive(Debug)]
pub(crate) struct Registration {
    pub id: UserId,
    pub login: Login,
    pub name: Name,
    pub password: Password,
}

/// Creates a user, signs in, and appends UserRegistered and UserLoggedIn.
///
/// # Errors
/// [`Error::LoginTaken`], also for the loser of two concurrent registrations; [`Error::Busy`].
#[tracing::instrument(name = "auth.register", skip_all, fields(user_id = %registration.id))]
pub(crate) async fn register(
    app: &App,
    registration: Registration,
    new: NewSession,
    headers: Headers,
) -> Result<Session, Error> {
    let Registration { id, login, name, password } = registration;
    // Hash before the transaction: it takes tens of milliseconds, and would hold a connection for that
    // time.
    let hash = app.passwords.hash(password).await?;
    let db = app.db.clone();
    let app = app.clone();
    let write = async move {
        let mut tx = app.db.begin().await?;
        let user =
            store::account::insert(&mut tx, id, &login, &name, &hash).await.map_err(|error| match error {
                db::Error::Unique(constraint) if constraint == "account_login" => Error::LoginTaken,
                error => error.into(),
            })?;
        outbox::append(&mut tx, &[event::registered(id, &headers)]).await?;
        session::open(&app, &mut tx, id, &new, &headers).await?;
        tx.commit().await?;
        Ok(session::issue(&app, user, new.id, &new.token, new.now_us))
    };
    db.detach(write).await
}
