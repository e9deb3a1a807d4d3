//! Who is to take part in a dialog, within the bounds, and whether auth knows them.

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

/// The most people of one dialog.
pub const PARTICIPANTS_MAX: usize = 1_000;
/// How long auth may take, where the caller has no sooner deadline.
const AUTH_LIMIT: Duration = Duration::from_secs(5);

/// The people of a new dialog: 2 to 1,000, the one who makes it among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participants(BTreeSet<UserId>);

impl Participants {
    /// The caller and the people named, each once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for nobody, the caller alone, more than 1,000, and what is no id.
    pub fn parse(caller: UserId, ids: &[Vec<u8>]) -> Result<Self, Error> {
        let mut people: BTreeSet<_> = UserId::parse_all(ids)?.into_iter().collect();
        people.insert(caller);
        match people.len() {
            ..2 => Err(Error::Invalid("a dialog needs somebody besides yourself")),
            2..=PARTICIPANTS_MAX => Ok(Self(people)),
            _ => Err(too_many()),
        }
    }

    /// Everybody, sorted.
    pub fn all(&self) -> &BTreeSet<UserId> {
        &self.0
    }

    /// The two, lower id first, where there are two.
    pub fn pair(&self) -> Option<(UserId, UserId)> {
        match (self.0.first(), self.0.last()) {
            (Some(low), Some(high)) if self.0.len() == 2 => Some((*low, *high)),
            _ => None,
        }
    }
}

/// People to be added to a group: 1 to 1,000, each once.
///
/// # Errors
/// [`Error::Invalid`] for nobody, more than 1,000, and what is no id.
pub fn invited(ids: &[Vec<u8>]) -> Result<BTreeSet<UserId>, Error> {
    let people: BTreeSet<_> = UserId::parse_all(ids)?.into_iter().collect();
    match people.len() {
        0 => Err(Error::Invalid("name somebody to add")),
        1..=PARTICIPANTS_MAX => Ok(people),
        _ => Err(too_many()),
    }
}

/// The error of a dialog that would become too large.
pub fn too_many() -> Error {
    Error::Invalid("a dialog has at most 1000 participants")
}

/// Asks auth, in the name of who calls, whether all of these people exist.
///
/// # Errors
/// [`Error::Invalid`] where somebody does not; [`Error::Auth`] where auth does not answer.
pub async fn must_exist(auth: &Peer, call: &Call, people: Vec<UserId>) -> Result<(), Error> {
    let ids: Vec<_> = people.into_iter().map(UserId::bytes).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let call = call.clone().with_deadline(Instant::now() + AUTH_LIMIT);
    let mut auth = AuthClient::with_interceptor(auth.clone(), call)
        .max_decoding_message_size(proto::ANSWER_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    let reply = auth.users(UsersRequest { ids: ids.clone() }).await.map_err(Error::Auth)?.into_inner();
    let known: HashSet<_> = reply.users.into_iter().map(|user| user.id).collect();
    if ids.iter().all(|id| known.contains(id)) { Ok(()) } else { Err(Error::Invalid("unknown participant")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| UserId::now().bytes()).collect()
    }

    #[test]
    fn a_dialog_has_2_to_1000_people() {
        let caller = UserId::now();
        let refused = |ids: &[Vec<u8>]| matches!(Participants::parse(caller, ids), Err(Error::Invalid(_)));
        assert!(refused(&[]) && refused(&[caller.bytes(), caller.bytes()]) && refused(&people(1_000)));
        assert!(refused(&[vec![1; 15]]));
        let twice = vec![UserId::now().bytes(); 2];
        assert!(
            Participants::parse(caller, &twice).unwrap().pair().is_some(),
            "the same person twice is one person"
        );
        let many = Participants::parse(caller, &people(999)).unwrap();
        assert_eq!((many.all().len(), many.pair()), (1_000, None));
    }

    #[test]
    fn a_pair_is_the_same_from_both_sides() {
        let (a, b) = (UserId::now(), UserId::now());
        let from =
            |caller: UserId, other: UserId| Participants::parse(caller, &[other.bytes()]).unwrap().pair();
        assert_eq!(from(a, b), from(b, a));
        assert_eq!(from(a, b), Some((a.min(b), a.max(b))));
    }

    #[test]
    fn one_to_1000_people_are_invited() {
        assert!(matches!(invited(&[]), Err(Error::Invalid(_))));
        assert!(matches!(invited(&people(1_001)), Err(Error::Invalid(_))));
        assert_eq!(
            invited(&[people(3), people(1), vec![UserId::now().bytes(); 2]].concat()).unwrap().len(),
            5
        );
    }
}
