//! A newer token on a socket that is open: it comes in the `extensions` of any operation, and from then on the socket, its
//! running subscriptions included, lives on with it. It must be of the same user and the same session, as a refresh gives
//! it; a new sign-in is a new session and takes a socket of its own. Whatever does not hold is UNAUTHENTICATED for that
//! operation, and the socket lives on with the token that it has.

use crate::{
    error::{Code, Error},
    viewer::{Authenticator, Viewer},
};

use super::message::Token;

/// Puts a newer token into the place of the one that the viewer of a socket has. One as old changes nothing.
///
/// # Errors
/// UNAUTHENTICATED where it is malformed, expired or revoked, of somebody else or another session, or older than the one
/// that the socket has; and where the socket is nobody's. UNAVAILABLE where nobody can say.
pub async fn renew(
    authenticator: &Authenticator,
    token: &Token,
    viewer: Option<&Viewer>,
) -> Result<(), Error> {
    let refused = |message: &str| Error::new(Code::Unauthenticated, message);
    let viewer =
        viewer.ok_or_else(|| refused("nobody is signed in on this socket: open another with this token"))?;
    let newer = authenticator.token(token.expose()).await?;
    if newer.user != viewer.user {
        return Err(refused("this is the token of another user than the socket's"));
    }
    if newer.session != viewer.session {
        return Err(refused(
            "this is the token of another session than the socket's: open another socket with it",
        ));
    }
    if newer.expires_at_s < viewer.authorization.expires_at_s() {
        return Err(refused("this token is older than the one that the socket has"));
    }
    viewer.authorization.renew(&newer.authorization);
    Ok(())
}
