//! The ledger: what became of every message, by dialog and seq. A row goes from absent to counted to void; steps may be
//! skipped and none is undone. It is the record that makes repetition harmless and the source of every recount.

use proto::{MessageId, UserId};

/// A message as the counter knows it: never its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its place in the dialog, from 1, without gaps.
    pub seq: i64,
    /// Which message has that place.
    pub id: MessageId,
    /// Whose own unread it never touches.
    pub author_id: UserId,
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which message has the seq, for ever.
    pub message_id: MessageId,
    /// Its author.
    pub author_id: UserId,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a message stands. [`Standing::Void`] is final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It counts for those who have not read it.
    Counted,
    /// It counts for nobody.
    Void(Why),
}

/// Why a message is void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The database refused to count it, for this reason: the message is FAILED.
    Refused(String),
    /// It was deleted.
    Deleted,
}

/// What a step of the ledger did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The row after it.
    pub entry: Entry,
    /// Whether the row differs from before.
    pub moved: bool,
    /// What the step adds to the unread of those whom the message counts for: 1, 0 or −1.
    pub delta: i64,
}

/// Another message has the place already: the services disagree about the past. A dead letter and an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another message is known at this place of the dialog")]
pub struct Divergence;

/// Moves the row of a message towards `to`, as far as that is allowed.
///
/// # Errors
/// [`Divergence`] where the row is another message's.
pub fn step(row: Option<&Entry>, message: &Message, to: Standing) -> Result<Step, Divergence> {
    let Some(row) = row else {
        let delta = i64::from(to == Standing::Counted);
        let entry = Entry { message_id: message.id, author_id: message.author_id, standing: to };
        return Ok(Step { entry, moved: true, delta });
    };
    if row.message_id != message.id || row.author_id != message.author_id {
        return Err(Divergence);
    }
    match (&row.standing, to) {
        (Standing::Counted, to @ Standing::Void(_)) => {
            Ok(Step { entry: Entry { standing: to, ..row.clone() }, moved: true, delta: -1 })
        }
        _ => Ok(Step { entry: row.clone(), moved: false, delta: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_may_be_skipped_and_none_is_undone() {
        let message = Message { seq: 1, id: MessageId::now(), author_id: UserId::now() };
        let deleted = Standing::Void(Why::Deleted);
        let counted = step(None, &message, Standing::Counted).unwrap();
        assert_eq!(counted.delta, 1);
        let void = step(Some(&counted.entry), &message, deleted.clone()).unwrap();
        assert_eq!((void.delta, &void.entry.standing), (-1, &deleted));
        let again = step(Some(&void.entry), &message, Standing::Counted).unwrap();
        assert_eq!((again.moved, again.delta, &again.entry), (false, 0, &void.entry));
        let other_why = step(Some(&void.entry), &message, Standing::Void(Why::Refused("no".into()))).unwrap();
        assert_eq!(other_why.entry, void.entry, "void is final, its reason too");
        assert_eq!(step(None, &message, deleted).unwrap().delta, 0, "what never counted is not taken back");
    }

    #[test]
    fn a_place_belongs_to_one_message_for_ever() {
        let message = Message { seq: 1, id: MessageId::now(), author_id: UserId::now() };
        let row = step(None, &message, Standing::Counted).unwrap().entry;
        let other = Message { id: MessageId::now(), ..message };
        assert_eq!(step(Some(&row), &other, Standing::Counted), Err(Divergence));
        let forged = Message { author_id: UserId::now(), ..message };
        assert_eq!(step(Some(&row), &forged, Standing::Void(Why::Deleted)), Err(Divergence));
    }
}
