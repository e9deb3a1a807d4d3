//! A dialog whose row the transaction holds, and the events that happen to it meanwhile. One step of the version an event:
//! ids in the outbox and versions rise together because both are taken under the lock.

use events::{Event, Headers};
use proto::{DialogId, events::event::Kind, topic};
use uuid::Uuid;

/// A locked dialog. What is recorded here is written by [`crate::store::save`] and [`crate::store::save_all`].
#[derive(Debug)]
pub struct Held {
    /// Its id.
    pub id: DialogId,
    /// Whether it is the one dialog of two people.
    pub direct: bool,
    /// The newest message's seq.
    pub head_seq: i64,
    /// When something was last said in it, in microseconds since the epoch.
    pub last_activity_us: i64,
    version: i64,
    events: Vec<Event>,
}

impl Held {
    /// A dialog as its locked row has it.
    pub fn new(id: DialogId, direct: bool, version: i64, head_seq: i64, last_activity_us: i64) -> Self {
        Self { id, direct, head_seq, last_activity_us, version, events: Vec::new() }
    }

    /// The version now, with the events recorded so far.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The version that the next event takes.
    pub fn next_version(&self) -> i64 {
        self.version + 1
    }

    /// Records an event that was made with [`Held::next_version`].
    pub fn record(&mut self, kind: Kind, cause: &Headers) {
        self.record_as(Uuid::now_v7(), kind, cause);
    }

    /// Records an event under this identity.
    pub fn record_as(&mut self, event_id: Uuid, kind: Kind, cause: &Headers) {
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

    /// Whether nothing was recorded.
    pub fn is_unchanged(&self) -> bool {
        self.events.is_empty()
    }

    /// The recorded events, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use proto::{UserId, events::ParticipantLeft};

    use super::*;

    #[test]
    fn every_event_is_one_step_of_the_version() {
        let mut held = Held::new(DialogId::now(), false, 7, 0, 0);
        for _ in 0..3 {
            let left = ParticipantLeft {
                dialog_id: held.id.bytes(),
                version: held.next_version(),
                user_id: UserId::now().bytes(),
            };
            held.record(Kind::ParticipantLeft(left), &Headers::default());
        }
        let events = held.take_events();
        assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [8, 9, 10]);
        for event in events {
            let Some(Kind::ParticipantLeft(left)) = Kind::read(&event.payload) else {
                panic!("another event")
            };
            assert_eq!(left.version, event.version);
        }
        assert_eq!(held.version(), 10);
        assert!(held.is_unchanged());
    }
}
