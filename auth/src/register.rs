//! Registering: a person appears and is signed in, in one transaction.

use events::{Headers, outbox};
use proto::UserId;

use crate::{
    App, Error, event,
    password::Password,
    session::{self, Opening, Session},
    store,
    user::{Login, Name},
};

/// Who registers.
#[derive(Debug)]
pub(crate) struct Registration {
    pub id: UserId,
    pub login: Login,
    pub name: Name,
    pub password: Password,
}

/// Makes a person and signs in.
///
/// # Errors
/// [`Error::LoginTaken`], also where two register one login at the same instant: one of them wins; [`Error::Busy`].
#[tracing::instrument(name = "auth.register", skip_all, fields(user_id = %registration.id))]
pub(crate) async fn register(
    app: &App,
    registration: Registration,
    opening: Opening,
    headers: Headers,
) -> Result<Session, Error> {
    let Registration { id, login, name, password } = registration;
    let hash = app.passwords.hash(password).await?;
    let (db, app) = (app.db.clone(), app.clone());
    let write = async move {
        let mut tx = app.db.begin().await?;
        let user =
            store::account::insert(&mut tx, id, &login, &name, &hash).await.map_err(|error| match error {
                db::Error::Unique(rule) if rule == "account_login" => Error::LoginTaken,
                error => error.into(),
            })?;
        outbox::append(&mut tx, &[event::registered(id, &headers)]).await?;
        session::open(&app, &mut tx, id, &opening, &headers).await?;
        tx.commit().await?;
        Ok(session::granted(&app, user, opening.id, &opening.token, opening.now_us))
    };
    db.detach(write).await
}
