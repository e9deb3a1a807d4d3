//! Event log, and the outboxes and relays that fill it. A relay publishes the rows of its outbox in order
//! and deletes them. If it crashes in between, it publishes them again.

use std::{collections::VecDeque, fmt};

use proto::events::event::Kind;

use crate::bounds::Fault;

/// Encoded event, in the form in which outboxes and the log hold it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Record(Vec<u8>);

impl Record {
    /// Wraps the payload of an event.
    pub fn new(payload: Vec<u8>) -> Self {
        Self(payload)
    }

    /// Returns the encoded event.
    pub fn payload(&self) -> &[u8] {
        &self.0
    }

    /// Decodes the event.
    pub fn kind(&self) -> Kind {
        Kind::decode(&self.0).expect("every record of the model is a valid event")
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())
    }
}

/// Topic of the log, with one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Events of dialog.
    Dialog,
    /// Replies of the counter.
    Counter,
    /// Changes of the reader's counts.
    Unread,
}

/// Event log: for each consumer of a topic, the records that it has not consumed, in order. What every
/// consumer has passed is forgotten, since nothing depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// Topic `tidings.dialog`, for the counter.
    pub events: VecDeque<Record>,
    /// Topic `tidings.counter`, for dialog.
    pub replies: VecDeque<Record>,
    /// Topic `tidings.unread`, for the writer of the cache.
    pub cache_changes: VecDeque<Record>,
    /// Topic `tidings.unread`, for the gateway.
    pub gateway_changes: VecDeque<Record>,
}

impl Log {
    fn append(&mut self, row: Row) {
        match row.topic {
            Topic::Dialog => self.events.push_back(row.record),
            Topic::Counter => self.replies.push_back(row.record),
            Topic::Unread => {
                self.cache_changes.push_back(row.record.clone());
                self.gateway_changes.push_back(row.record);
            }
        }
    }
}

/// Row of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    topic: Topic,
    record: Record,
}

/// Outbox of a service with its relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Outbox(VecDeque<Row>);

impl Outbox {
    /// Appends an event.
    pub fn append(&mut self, topic: Topic, record: Record) {
        self.0.push_back(Row { topic, record });
    }

    /// Returns true if the outbox still has this event.
    pub fn contains(&self, record: &Record) -> bool {
        self.0.iter().any(|row| row.record == *record)
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Publishes the next row and deletes it. A publication that the broker does not accept leaves the row
    /// where it is, so it is no step of the model.
    pub fn relay(&mut self, log: &mut Log) -> bool {
        let row = self.0.pop_front();
        row.is_some_and(|row| {
            log.append(row);
            true
        })
    }

    /// Crashes the relay after it has published some rows and before it has deleted them.
    pub fn crash(&mut self, published: usize, log: &mut Log, fault: Option<Fault>) {
        if fault == Some(Fault::DeletionBeforePublication) {
            self.0.drain(..published);
        } else {
            self.0.iter().take(published).for_each(|row| log.append(row.clone()));
        }
    }
}
