//! What has changed since a version: for people who come back ([`messages_since`]), for the hub of a gateway ([`live`]) and,
//! straight from the store, for services that repair what they have missed.

use db::Db;
use proto::{DialogId, MessageId, UserId};

use crate::{
    Error,
    message::Message,
    store::{self, change, membership, message},
};

/// The most messages that are replayed; beyond that the history is to be loaded again.
const REPLAY_MAX: i64 = 1_000;

/// A dialog's version, shown as "epoch-number".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Raised by a restore.
    pub epoch: i64,
    /// One more with every event; 0 is before all of them, in every epoch.
    pub number: i64,
}

impl Version {
    /// Reads a version.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is no version of any dialog.
    pub fn parse(epoch: i64, number: i64) -> Result<Self, Error> {
        if epoch < 0 || number < 0 {
            return Err(Error::Invalid("a version has no negative numbers"));
        }
        Ok(Self { epoch, number })
    }
}

/// What a person has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The dialog's version now.
    pub head: Version,
    /// The messages that changed, in their present state, by version.
    pub messages: Vec<Message>,
    /// They are not told: the version was of another epoch or of the future, or too much has changed.
    pub reset: bool,
}

/// The messages that changed since a version; without one, the version now alone.
///
/// # Errors
/// [`Error::NoDialog`] and [`Error::Database`].
#[tracing::instrument(name = "dialog.messages_since", skip_all, fields(user_id = %caller, dialog_id = %id))]
pub async fn messages_since(
    db: &Db,
    caller: UserId,
    id: DialogId,
    since: Option<Version>,
) -> Result<Missed, Error> {
    let above = since.map_or(i64::MAX, |since| since.number);
    let found = change::messages(db, id, caller, above, REPLAY_MAX + 1).await?.ok_or(Error::NoDialog)?;
    let head = Version { epoch: found.epoch, number: found.head };
    let foreign = since
        .is_some_and(|since| since.number > 0 && (since.epoch != head.epoch || since.number > head.number));
    if foreign || found.changed.len() as i64 > REPLAY_MAX {
        return Ok(Missed { head, messages: Vec::new(), reset: true });
    }
    Ok(Missed { head, messages: found.changed, reset: false })
}

/// What a gateway shows to those who watch a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The dialog's version now; number 0 where there is no such dialog.
    pub head: Version,
    /// The messages asked for, as their authors see them.
    pub messages: Vec<Message>,
    /// Those of the people asked about who take part now.
    pub members: Vec<UserId>,
}

/// Messages of a dialog as their authors see them, and who of these people takes part, all from one snapshot.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.live", skip_all, fields(dialog_id = %id))]
pub async fn live(db: &Db, id: DialogId, messages: &[MessageId], people: &[UserId]) -> Result<Live, Error> {
    let mut tx = db.snapshot().await?;
    let head = Version { epoch: store::epoch(&mut tx).await?, number: change::head(&mut tx, id).await? };
    let messages = message::of_dialog(&mut tx, id, messages).await?;
    let members = membership::present_among(&mut tx, id, people).await?;
    tx.rollback().await?;
    Ok(Live { head, messages, members: members.into_iter().collect() })
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
