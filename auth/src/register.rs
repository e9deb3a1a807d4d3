//! Registration: creates a user and opens the first session, in one transaction.

use events::{Headers, outbox};
use proto::UserId;

use crate::{
    App, Error,
    client::Client,
    event, known_address,
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
    pub client: Client,
}

/// Creates a user, signs in, appends UserRegistered and UserLoggedIn, and remembers the client's address.
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
    let Registration { id, login, name, password, client } = registration;
    // A login that is taken is refused before the work. The constraint decides between two that are
    // registered at the same time.
    if store::account::find(&app.db, &login).await?.is_some() {
        return Err(Error::LoginTaken);
    }
    // Hash before the transaction: it takes tens of milliseconds, and would hold a connection for that
    // time.
    let hash = app.passwords.hash(password, &client.requester(false)).await?;
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
        known_address::remember(&mut tx, id, client.network).await?;
        tx.commit().await?;
        Ok(session::issue(&app, user, new.id, &new.token, new.now_us))
    };
    db.detach(write).await
}
