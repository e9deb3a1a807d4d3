//! Participants named in a request: limits on their number, and the call to auth that checks that they
//! exist.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use proto::{
    Peer, UserId,
    auth::{UsersRequest, auth_client::AuthClient},
};
use telemetry::Call;
use tokio::time::Instant;

use crate::Error;

/// Participants per dialog.
pub(crate) const PARTICIPANTS_MAX: usize = 1_000;
/// Timeout of a call to auth, unless the request's deadline is earlier.
const AUTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Participants of a new dialog: 2 to 1,000 users, with the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Participants(BTreeSet<UserId>);

impl Participants {
    /// Parses the ids of a request, adds the caller and removes duplicates.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a malformed id, no user besides the caller, or more than 1,000 users.
    pub(crate) fn parse(caller: UserId, ids: &[Vec<u8>]) -> Result<Self, Error> {
        let mut users: BTreeSet<_> = UserId::parse_all(ids)?.into_iter().collect();
        users.insert(caller);
        match users.len() {
            ..2 => Err(Error::Invalid("a dialog needs at least one participant besides the caller")),
            2..=PARTICIPANTS_MAX => Ok(Self(users)),
            _ => Err(too_many_participants()),
        }
    }

    /// Returns all participants, ordered by id.
    pub(crate) fn all(&self) -> &BTreeSet<UserId> {
        &self.0
    }

    /// Returns the two users if there are exactly two.
    pub(crate) fn pair(&self) -> Option<Pair> {
        match (self.0.first(), self.0.last()) {
            (Some(low), Some(high)) if self.0.len() == 2 => Some(Pair { low: *low, high: *high }),
            _ => None,
        }
    }
}

/// The two users of a direct dialog, ordered by id, so that a pair has one representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub low: UserId,
    pub high: UserId,
}

/// Parses the ids of users to add to a group and removes duplicates.
///
/// # Errors
/// [`Error::Invalid`] for a malformed id, no user, or more than 1,000 users.
pub(crate) fn parse_invited(ids: &[Vec<u8>]) -> Result<BTreeSet<UserId>, Error> {
    let users: BTreeSet<_> = UserId::parse_all(ids)?.into_iter().collect();
    match users.len() {
        0 => Err(Error::Invalid("at least one user to add is required")),
        1..=PARTICIPANTS_MAX => Ok(users),
        _ => Err(too_many_participants()),
    }
}

/// Returns the error of a dialog that would exceed the limit.
pub(crate) fn too_many_participants() -> Error {
    Error::Invalid("a dialog has at most 1000 participants")
}

/// Checks with auth that all users exist. The call carries the caller's access token.
///
/// # Errors
/// [`Error::Invalid`] if any does not exist; [`Error::Auth`] if the call fails.
pub(crate) async fn ensure_users_exist(auth: &Peer, call: &Call, users: Vec<UserId>) -> Result<(), Error> {
    let ids: Vec<_> = users.into_iter().map(UserId::bytes).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let call = call.clone().with_deadline(Instant::now() + AUTH_TIMEOUT);
    let mut auth = AuthClient::with_interceptor(auth.clone(), call)
        .max_decoding_message_size(proto::RESPONSE_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    let reply = auth.users(UsersRequest { ids: ids.clone() }).await.map_err(Error::Auth)?.into_inner();
    let known: HashSet<_> = reply.users.into_iter().map(|user| user.id).collect();
    if ids.iter().all(|id| known.contains(id)) { Ok(()) } else { Err(Error::Invalid("unknown participant")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_ids(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| UserId::now().bytes()).collect()
    }

    #[test]
    fn a_dialog_has_2_to_1000_participants() {
        let caller = UserId::now();
        let is_refused = |ids: &[Vec<u8>]| matches!(Participants::parse(caller, ids), Err(Error::Invalid(_)));
        assert!(
            is_refused(&[]) && is_refused(&[caller.bytes(), caller.bytes()]) && is_refused(&user_ids(1_000))
        );
        assert!(is_refused(&[vec![1; 15]]));
        let twice = vec![UserId::now().bytes(); 2];
        assert!(Participants::parse(caller, &twice).unwrap().pair().is_some(), "a duplicate counts once");
        let many = Participants::parse(caller, &user_ids(999)).unwrap();
        assert_eq!((many.all().len(), many.pair()), (1_000, None));
    }

    #[test]
    fn a_pair_does_not_depend_on_the_caller() {
        let a = UserId::now();
        let b = UserId::now();
        let from =
            |caller: UserId, other: UserId| Participants::parse(caller, &[other.bytes()]).unwrap().pair();
        assert_eq!(from(a, b), from(b, a));
        assert_eq!(from(a, b), Some(Pair { low: a.min(b), high: a.max(b) }));
    }

    #[test]
    fn one_to_1000_users_can_be_invited() {
        assert!(matches!(parse_invited(&[]), Err(Error::Invalid(_))));
        assert!(matches!(parse_invited(&user_ids(1_001)), Err(Error::Invalid(_))));
        assert_eq!(
            parse_invited(&[user_ids(3), user_ids(1), vec![UserId::now().bytes(); 2]].concat())
                .unwrap()
                .len(),
            5
        );
    }
}
