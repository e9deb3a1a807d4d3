//! Verification of an entered password against the stored hash of a user. A hash from before passwords
//! were normalised matches the text as entered, once: it is then replaced by one of the normalised form.

use proto::UserId;

use crate::{
    App, Error,
    password::{EnteredPassword, Form, Hash, Password, Requester},
    store,
};

/// User whose password was verified, with the stored hash that the password matches.
#[derive(Debug)]
pub(crate) struct Verified {
    pub user: UserId,
    pub hash: Hash,
}

/// Verifies a password against the hash of a user and replaces a hash of an unnormalised form. Returns
/// `None` for a wrong password, or without an account, after the same work.
///
/// # Errors
/// [`Error::Busy`]; [`Error::Hashing`]; [`Error::Database`].
pub(crate) async fn verify(
    app: &App,
    entered: EnteredPassword,
    account: Option<(UserId, Hash)>,
    requester: &Requester,
) -> Result<Option<Verified>, Error> {
    let hash = account.as_ref().map(|(_, hash)| hash.clone());
    let form = app.passwords.verify_entered(&entered, hash, requester).await?;
    let Some((form, (user, hash))) = form.zip(account) else {
        return Ok(None);
    };
    match (form, entered.into_normalised()) {
        (Form::Unnormalised, Some(password)) => renew(app, user, hash, password, requester).await,
        // Without a normalised form that is a valid password, the old hash stays.
        (Form::Normalised, _) | (Form::Unnormalised, None) => Ok(Some(Verified { user, hash })),
    }
}

/// Replaces a hash by a new one of the normalised password. If another call has replaced it first, that
/// hash counts: the password is verified again, because it may have been changed.
async fn renew(
    app: &App,
    user: UserId,
    old: Hash,
    password: Password,
    requester: &Requester,
) -> Result<Option<Verified>, Error> {
    let new = app.passwords.hash(password.clone(), requester).await?;
    let Some(hash) = replace(app, user, old, new.clone()).await? else {
        return Ok(None);
    };
    let matches = hash == new || app.passwords.verify(password, Some(hash.clone()), requester).await?;
    Ok(matches.then_some(Verified { user, hash }))
}

/// Replaces the hash `old` by `new`, unless another hash is stored by now. Returns the stored hash, or
/// `None` if there is no such user.
async fn replace(app: &App, user: UserId, old: Hash, new: Hash) -> Result<Option<Hash>, Error> {
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        let Some(account) = store::account::lock(&mut tx, user).await? else {
            return Ok(None);
        };
        if account.password_hash != old {
            return Ok(Some(account.password_hash));
        }
        store::account::set_password(&mut tx, user, &new).await?;
        tx.commit().await?;
        Ok(Some(new))
    };
    app.db.detach(write).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use access::{ServiceToken, SigningKeys};
    use db::Db;
    use events::Headers;
    use proto::SessionId;
    use telemetry::Call;

    use super::*;
    use crate::{
        Settings,
        change_password::{self, Change},
        client::Client,
        login::{self, Attempt},
        refresh_token::Token,
        session::{Caller, NewSession, Session},
        store::fixture::{FAR_FUTURE_US, databases, insert_user, login as parsed, session},
    };

    const COMPOSED: &str = "caf\u{e9} au lait";
    const DECOMPOSED: &str = "caf\u{65}\u{301} au lait";

    fn app(db: &Db) -> App {
        let settings = Settings {
            issuer: "tidings".to_owned(),
            access_ttl: Duration::from_secs(600),
            refresh_ttl: Duration::from_secs(3_600),
        };
        App::new(db.clone(), SigningKeys::generate(), ServiceToken::generate(), settings)
    }

    fn new_session() -> NewSession {
        NewSession {
            id: SessionId::now(),
            token: Token::random(),
            device: crate::device::Device::default(),
            now_us: 1,
        }
    }

    fn headers() -> Headers {
        Headers::from(&Call::new())
    }

    async fn sign_in(app: &App, text: &str) -> Result<Session, Error> {
        let attempt = Attempt {
            login: Some(parsed("ann")),
            password: EnteredPassword::parse(text.to_owned()),
            client: Client::default(),
            known_address_only: false,
        };
        login::login(app, attempt, new_session(), headers()).await
    }

    async fn stored(app: &App) -> Hash {
        store::account::find(&app.db, &parsed("ann")).await.unwrap().unwrap().1
    }

    /// Inserts the user ann with a hash of the text as it is, not normalised, and returns both.
    async fn insert_old_user(app: &App, text: &str) -> (UserId, Hash) {
        let user = insert_user(&app.db, "ann", "Ann").await;
        let hash = app
            .passwords
            .hash(Password::unnormalised(text.to_owned()).unwrap(), &Requester::any())
            .await
            .unwrap();
        let mut tx = app.db.begin().await.unwrap();
        store::account::set_password(&mut tx, user, &hash).await.unwrap();
        tx.commit().await.unwrap();
        (user, hash)
    }

    #[tokio::test]
    async fn a_hash_of_an_unnormalised_password_signs_in_once_and_is_replaced() {
        for test in databases().await {
            let app = app(&test.db);
            let (user, old) = insert_old_user(&app, DECOMPOSED).await;
            for wrong in [COMPOSED, "wrong horse", "wrong e\u{301}"] {
                let refused = sign_in(&app, wrong).await;
                assert!(matches!(refused, Err(Error::Credentials)), "{}: {wrong:?}", test.name);
            }
            assert_eq!(stored(&app).await, old, "a failed login replaces nothing");
            assert_eq!(sign_in(&app, DECOMPOSED).await.unwrap().user.id, user);
            let new = stored(&app).await;
            assert_ne!(new, old);
            let password = Password::parse(COMPOSED).unwrap();
            assert!(app.passwords.verify(password, Some(new.clone()), &Requester::any()).await.unwrap());
            for text in [COMPOSED, DECOMPOSED] {
                assert_eq!(sign_in(&app, text).await.unwrap().user.id, user, "{text:?}");
            }
            assert_eq!(stored(&app).await, new, "a hash of the normalised form stays");
        }
    }

    #[tokio::test]
    async fn an_old_password_without_a_valid_normalised_form_keeps_its_hash() {
        for test in databases().await {
            let app = app(&test.db);
            // OpaqueString refuses the variation selector.
            let text = "correct horse ❤\u{fe0f}";
            let (_, old) = insert_old_user(&app, text).await;
            for _ in 0..2 {
                assert!(sign_in(&app, text).await.is_ok(), "{}", test.name);
                assert_eq!(stored(&app).await, old);
            }
        }
    }

    #[tokio::test]
    async fn concurrent_logins_with_an_unnormalised_password_all_succeed() {
        for test in databases().await {
            let app = app(&test.db);
            insert_old_user(&app, DECOMPOSED).await;
            let (one, two, three) =
                tokio::join!(sign_in(&app, DECOMPOSED), sign_in(&app, DECOMPOSED), sign_in(&app, DECOMPOSED));
            for session in [one, two, three] {
                assert!(session.is_ok(), "{}: {session:?}", test.name);
            }
        }
    }

    #[tokio::test]
    async fn a_concurrent_change_of_password_wins_over_the_replacement() {
        for test in databases().await {
            let app = app(&test.db);
            let (user, old) = insert_old_user(&app, DECOMPOSED).await;
            let changed = app
                .passwords
                .hash(Password::parse("battery staple").unwrap(), &Requester::any())
                .await
                .unwrap();
            let mut tx = app.db.begin().await.unwrap();
            store::account::set_password(&mut tx, user, &changed).await.unwrap();
            tx.commit().await.unwrap();
            let password = Password::parse(COMPOSED).unwrap();
            let renewed = renew(&app, user, old, password, &Requester::any()).await.unwrap();
            assert!(renewed.is_none(), "{}", test.name);
            assert_eq!(stored(&app).await, changed);
        }
    }

    #[tokio::test]
    async fn a_change_of_password_accepts_the_unnormalised_old_password() {
        for test in databases().await {
            let app = app(&test.db);
            let (user, _) = insert_old_user(&app, DECOMPOSED).await;
            let (id, _) = session(&test.db, user, FAR_FUTURE_US).await;
            let caller = Caller { user, session: id };
            let change = Change {
                old: EnteredPassword::parse(DECOMPOSED.to_owned()),
                new: Password::parse("nai\u{308}ve horse").unwrap(),
                deadline: None,
            };
            let changed = change_password::change(&app, caller, change, new_session(), headers()).await;
            assert!(changed.is_ok(), "{}: {changed:?}", test.name);
            assert!(sign_in(&app, "na\u{ef}ve horse").await.is_ok());
            assert!(matches!(sign_in(&app, DECOMPOSED).await, Err(Error::Credentials)));
        }
    }
}
