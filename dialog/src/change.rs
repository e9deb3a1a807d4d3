//! Changes since a version: a replay for a client that reconnects ([`messages_since`]), and the current
//! state of messages for a gateway's hub ([`live_messages`]). The `ChangesSince` call, for services that
//! repair gaps, reads [`store::change`] directly.

use db::Db;
use proto::{DialogId, MessageId, UserId};

use crate::{Error, message::Message, store::change};

/// Messages per replay. A client that missed more loads the history again.
const REPLAY_MAX: i64 = 1_000;

/// Version of a dialog. Clients receive it as "epoch-number".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// Incremented when the database is restored from a backup.
    pub epoch: i64,
    /// Incremented by one with each event. 0 precedes the first event, in every epoch.
    pub number: i64,
}

impl Version {
    /// Parses a version.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a negative number.
    pub(crate) fn parse(epoch: i64, number: i64) -> Result<Self, Error> {
        if epoch < 0 || number < 0 {
            return Err(Error::Invalid("a version has no negative numbers"));
        }
        Ok(Self { epoch, number })
    }
}

/// Messages that a client has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Current version of the dialog.
    pub head: Version,
    /// Current state of the changed messages, ordered by version. Empty if `reset`.
    pub messages: Vec<Message>,
    /// True if the client's version is from another epoch or in the future, or if more than 1,000
    /// messages changed.
    pub reset: bool,
}

/// Returns the messages that changed after `since`, or the current version only if there is no `since`.
///
/// # Errors
/// [`Error::NoDialog`] and [`Error::Database`].
#[tracing::instrument(name = "dialog.messages_since", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub(crate) async fn messages_since(
    db: &Db,
    caller: UserId,
    id: DialogId,
    since: Option<Version>,
) -> Result<Replay, Error> {
    let after = since.map_or(i64::MAX, |since| since.number);
    let found = change::messages(db, id, caller, after, REPLAY_MAX + 1).await?.ok_or(Error::NoDialog)?;
    let head = Version { epoch: found.epoch, number: found.head };
    let foreign = since
        .is_some_and(|since| since.number > 0 && (since.epoch != head.epoch || since.number > head.number));
    if foreign || found.changed.len() as i64 > REPLAY_MAX {
        return Ok(Replay { head, messages: Vec::new(), reset: true });
    }
    Ok(Replay { head, messages: found.changed, reset: false })
}

/// Current state of messages, for the subscribers of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveMessages {
    /// Current version of the dialog; number 0 if there is no such dialog.
    pub head: Version,
    /// Requested messages as their authors see them.
    pub messages: Vec<Message>,
    /// Current participants among the requested users.
    pub members: Vec<UserId>,
}

/// Returns messages of a dialog as their authors see them, and those of `users` that take part, from one
/// snapshot.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.live", skip_all, fields(dialog_id = %id))]
pub(crate) async fn live_messages(
    db: &Db,
    id: DialogId,
    messages: &[MessageId],
    users: &[UserId],
) -> Result<LiveMessages, Error> {
    let found = change::live(db, id, messages, users).await?;
    let head = Version { epoch: found.epoch, number: found.head };
    Ok(LiveMessages { head, messages: found.messages, members: found.members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_no_negative_numbers() {
        assert_eq!(Version::parse(1, 0).unwrap(), Version { epoch: 1, number: 0 });
        for (epoch, number) in [(-1, 1), (1, -1)] {
            assert!(matches!(Version::parse(epoch, number), Err(Error::Invalid(_))));
        }
    }
}
