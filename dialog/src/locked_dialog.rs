//! Locked dialog: a row of `dialog` that the transaction holds locked, and the events recorded on it.
//! Each event increments the version by one. Versions and outbox ids are both assigned under the lock
//! and therefore increase in the same order.

use events::{Event, Headers};
use proto::{DialogId, events::event::Kind, topic};
use uuid::Uuid;

/// Locked dialog. `save` and `save_all` of the store write the recorded events.
#[derive(Debug)]
pub struct LockedDialog {
    /// The dialog.
    pub id: DialogId,
    /// True for the one dialog of two users without a title.
    pub direct: bool,
    /// Seq of the newest message; 0 if there is none.
    pub head_seq: i64,
    /// Time of the newest message, or of the creation, in microseconds since the Unix epoch.
    pub last_activity_us: i64,
    version: i64,
    events: Vec<Event>,
}

impl LockedDialog {
    /// Creates the dialog from the values of its locked row.
    pub fn new(id: DialogId, direct: bool, version: i64, head_seq: i64, last_activity_us: i64) -> Self {
        Self { id, direct, head_seq, last_activity_us, version, events: Vec::new() }
    }

    /// Returns the version after the events recorded so far.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Returns the version of the next event.
    pub fn next_version(&self) -> i64 {
        self.version + 1
    }

    /// Records an event, which carries the version from [`LockedDialog::next_version`].
    pub fn record(&mut self, kind: Kind, cause: &Headers) {
        self.record_as(Uuid::now_v7(), kind, cause);
    }

    /// Records an event with a given event id.
    pub(crate) fn record_as(&mut self, event_id: Uuid, kind: Kind, cause: &Headers) {
        self.version += 1;
        self.events.push(Event {
            event_id,
            topic: topic::DIALOG,
            key: self.id.to_string(),
            version: self.version,
            kind: kind.name(),
            payload: kind.payload(),
            headers: cause.clone(),
        });
    }

    /// Returns true if no event was recorded.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes the recorded events, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use proto::{UserId, events::ParticipantLeft};

    use super::*;

    #[test]
    fn each_event_increments_the_version_by_one() {
        let mut dialog = LockedDialog::new(DialogId::now(), false, 7, 0, 0);
        for _ in 0..3 {
            let left = ParticipantLeft {
                dialog_id: dialog.id.bytes(),
                version: dialog.next_version(),
                user_id: UserId::now().bytes(),
            };
            dialog.record(Kind::ParticipantLeft(left), &Headers::default());
        }
        let events = dialog.take_events();
        assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [8, 9, 10]);
        for event in events {
            let Some(Kind::ParticipantLeft(left)) = Kind::decode(&event.payload) else {
                panic!("not a ParticipantLeft event")
            };
            assert_eq!(left.version, event.version);
        }
        assert_eq!(dialog.version(), 10);
        assert!(dialog.is_unchanged());
    }
}
