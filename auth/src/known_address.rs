//! Known addresses: those from which a user has signed in or refreshed a session within the last 90 days.
//! Wrong passwords from elsewhere do not limit a login from one of them, so that no stranger can lock a user
//! out.

use std::time::Duration;

use db::Tx;
use proto::UserId;
use uuid::Uuid;

use crate::{App, Error, client::Network, microseconds, store};

/// Addresses that are kept for a user. One more replaces the one that was used least recently.
const KNOWN_MAX: i64 = 20;
/// Time for which an address is known after its last sign-in.
const AGE_MAX: Duration = DAY.saturating_mul(90);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Returns true if the user has signed in from this network. `None` in place of the user is an unknown
/// login; it costs the same statement, so that the time does not tell whether a login exists.
///
/// # Errors
/// [`Error::Database`].
pub(crate) async fn contains(
    app: &App,
    user: Option<UserId>,
    network: Option<Network>,
) -> Result<bool, Error> {
    let Some(network) = network else { return Ok(false) };
    let user = user.unwrap_or_else(|| UserId::new(Uuid::nil()));
    Ok(store::known_address::contains(&app.db, user, &hash(user, network), max_age_us()).await?)
}

/// Remembers that the user has signed in from this network. Requires the lock on the user's row.
pub(crate) async fn remember(tx: &mut Tx, user: UserId, network: Option<Network>) -> Result<(), db::Error> {
    let Some(network) = network else { return Ok(()) };
    store::known_address::upsert(tx, user, &hash(user, network)).await?;
    store::known_address::keep_newest(tx, user, KNOWN_MAX).await
}

/// Remembers an address from which a session was refreshed, which proves as much as a password, unless it is
/// known and was used within a day. A failure is logged: the refresh has succeeded.
pub(crate) async fn refreshed(app: &App, user: UserId, network: Option<Network>) {
    if let Err(error) = try_refreshed(app, user, network).await {
        tracing::warn!(%error, "the address of a refresh could not be remembered");
    }
}

async fn try_refreshed(app: &App, user: UserId, network: Option<Network>) -> Result<(), Error> {
    let Some(known) = network else { return Ok(()) };
    if store::known_address::contains(&app.db, user, &hash(user, known), microseconds(DAY)).await? {
        return Ok(());
    }
    // A transaction of its own: the one of the refresh holds the session, and the user's row is locked first.
    let db = app.db.clone();
    let write = async move {
        let mut tx = db.begin().await?;
        if store::account::lock(&mut tx, user).await?.is_some() {
            remember(&mut tx, user, network).await?;
            tx.commit().await?;
        }
        Ok(())
    };
    app.db.detach(write).await
}

/// Returns the age beyond which an address is forgotten.
pub(crate) fn max_age_us() -> i64 {
    microseconds(AGE_MAX)
}

fn hash(user: UserId, network: Network) -> Vec<u8> {
    network.hash(user.uuid().as_bytes())
}
