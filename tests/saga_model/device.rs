//! Device of the reader, and the gateway that it is connected to. The hub is the gateway's own. It cannot be
//! cloned, so the model keeps its inputs and runs them again when it needs the hub.

use std::{collections::BTreeMap, sync::Arc};

use counter::rules::{Unread, Version};
use gateway::fuzzing::{
    Version as HubVersion,
    unread::{
        Entry, ROWS_MAX,
        frame::{Change, Frame, Kind, Row, Snapshot},
    },
};
use proto::{DialogId, events::event};
use wake::Wake;

use crate::{
    bounds::Fault,
    log::{Log, Record},
};

/// Id of the only subscriber.
const SUBSCRIBER: u64 = 1;

/// Counts that the device shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// Version of the counts; `None` before the first frame.
    pub version: Option<Version>,
    /// `unread` and `readSeq` of each dialog with unread messages.
    pub rows: BTreeMap<DialogId, (i64, i64)>,
    /// Sum of the counts.
    pub total: i64,
    /// Number of connections so far.
    pub connections: usize,
    /// Kind of the first frame of the newest connection.
    pub first_kind: Option<Kind>,
}

/// Gateway with the connection of the device, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Gateway(Option<Session>);

/// Connection of the device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    since: Option<Version>,
    /// Inputs of the hub so far.
    inputs: Vec<Input>,
    /// Reply in flight to the hub's request for a snapshot.
    reply: Option<Reply>,
}

/// Input of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Input {
    /// A change of the log.
    Apply(Record),
    /// A request for a snapshot, under the number of its input as the ticket.
    Request,
    /// The reply to the newest request; `None` if it failed.
    Reply(Option<Reply>),
    /// The device takes a frame.
    Take,
}

/// Snapshot of the counter, as the reply to a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reply {
    ticket: u64,
    unread: Arc<Unread>,
    is_current: bool,
}

impl Gateway {
    /// Returns true if the device is connected.
    pub fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Returns true if the hub of this connection has received a change twice.
    pub fn has_repeated(&self) -> bool {
        let inputs = self.0.iter().flat_map(|session| &session.inputs);
        let mut changes: Vec<&Record> = inputs
            .filter_map(|input| match input {
                Input::Apply(record) => Some(record),
                _ => None,
            })
            .collect();
        changes.pop().is_some_and(|newest| changes.contains(&newest))
    }

    /// Connects the device, which resumes with its version.
    pub fn connect(&mut self, device: &mut Device) -> bool {
        if self.is_connected() {
            return false;
        }
        device.connections += 1;
        device.first_kind = None;
        self.0 = Some(Session { since: device.version, inputs: Vec::new(), reply: None });
        true
    }

    /// Disconnects the device.
    pub fn disconnect(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Passes the next change of the log to the hub.
    pub fn follow(&mut self, log: &mut Log) -> bool {
        let Some(record) = log.gateway_changes.pop_front() else { return false };
        if let Some(session) = &mut self.0 {
            session.inputs.push(Input::Apply(record));
        }
        true
    }

    /// Sends the hub's request for a snapshot, and reads the snapshot from `counts`.
    pub fn request(&mut self, counts: Unread) -> bool {
        let Some(session) = self.0.as_mut().filter(|session| session.reply.is_none()) else {
            return false;
        };
        let mut hub = session.hub();
        if !hub.needs_request() {
            return false;
        }
        let ticket = session.inputs.len() as u64;
        let since = hub.start_request(ticket);
        let is_current = since == Some(hub_version(counts.version));
        session.inputs.push(Input::Request);
        session.reply = Some(Reply { ticket, unread: Arc::new(counts), is_current });
        true
    }

    /// Passes the reply to the hub.
    pub fn reply(&mut self) -> bool {
        let Some(session) = &mut self.0 else { return false };
        let Some(reply) = session.reply.take() else { return false };
        session.inputs.push(Input::Reply(Some(reply)));
        true
    }

    /// Lets the device take its next frame.
    pub fn take(&mut self, device: &mut Device, fault: Option<Fault>) -> bool {
        let Some(session) = &mut self.0 else { return false };
        let Some(frame) = session.hub().take(SUBSCRIBER) else { return false };
        session.inputs.push(Input::Take);
        device.apply(&frame, fault);
        true
    }

    /// Fails the request in flight, because the counter has crashed.
    pub fn fail_request(&mut self) {
        if let Some(session) = &mut self.0
            && session.reply.take().is_some()
        {
            session.inputs.push(Input::Reply(None));
        }
    }

    /// Crashes the process. It starts again at the end of the log.
    pub fn crash(&mut self, log: &mut Log) {
        self.0 = None;
        log.gateway_changes.clear();
    }

    /// Returns true if the device is connected and nothing is left to be sent to it.
    pub fn is_at_rest(&self, log: &Log) -> bool {
        let Some(session) = self.0.as_ref().filter(|session| session.reply.is_none()) else {
            return false;
        };
        let mut hub = session.hub();
        log.gateway_changes.is_empty() && !hub.needs_request() && hub.take(SUBSCRIBER).is_none()
    }
}

impl Session {
    /// Runs the inputs on a new hub.
    fn hub(&self) -> Entry {
        let mut hub = Entry::new(ROWS_MAX);
        hub.register(SUBSCRIBER, self.since.map(hub_version), Wake::new());
        let mut ticket = 0;
        for (index, input) in self.inputs.iter().enumerate() {
            match input {
                Input::Apply(record) => hub.apply(change(record)),
                Input::Request => {
                    ticket = index as u64;
                    hub.start_request(ticket);
                }
                Input::Reply(Some(reply)) => hub.finish_request(reply.ticket, reply.snapshot()),
                Input::Reply(None) => hub.fail_request(ticket),
                Input::Take => drop(hub.take(SUBSCRIBER)),
            }
        }
        hub
    }
}

impl Reply {
    fn snapshot(&self) -> Snapshot {
        let Unread { version, total, rows, truncated, stale } = &*self.unread;
        let row = |row: &counter::rules::Row| {
            let &counter::rules::Row { dialog_id: dialog, unread, read_seq, last_seq, stale } = row;
            Row { dialog, unread, read_seq, last_seq, stale }
        };
        Snapshot {
            version: hub_version(*version),
            total: *total,
            rows: (!self.is_current).then(|| rows.iter().map(row).collect()),
            truncated: *truncated,
            stale: *stale,
        }
    }
}

impl Device {
    fn apply(&mut self, frame: &Frame, fault: Option<Fault>) {
        if frame.kind == Kind::Snapshot && fault != Some(Fault::MergedSnapshot) {
            self.rows.clear();
        }
        for row in frame.rows.iter() {
            self.rows.insert(row.dialog, (row.unread, row.read_seq));
        }
        self.rows.retain(|_, (unread, _)| *unread > 0);
        self.version = Some(Version { epoch: frame.version.epoch, number: frame.version.number });
        self.total = frame.total;
        self.first_kind.get_or_insert(frame.kind);
    }
}

fn hub_version(version: Version) -> HubVersion {
    HubVersion::new(version.epoch, version.number)
}

fn change(record: &Record) -> Change {
    let event::Kind::UnreadChanged(event) = record.kind() else { panic!("{record:?} is no change") };
    Change::from_event(&event).expect("the ids of the model are valid").1
}
