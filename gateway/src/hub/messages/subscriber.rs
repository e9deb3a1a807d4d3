//! One subscriber of a dialog's messages: the messages that are to be sent to it, by the version of
//! their latest event. There is no queue of events: a message is kept once, whatever happened to it, and
//! a RESET replaces too many of them. A slow reader therefore costs a bounded amount of memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use proto::{MessageId, UserId, dialog};
use wake::Wake;

use super::frame::{Frame, Kind};
use crate::version::Version;

/// A message that is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct PendingMessage {
    /// The message.
    pub message: MessageId,
    /// The kind of its latest event.
    pub kind: Kind,
}

/// The state of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The replay is being loaded.
    Opening {
        /// The dialog's version at the time of registration: the hub's version, or that before the first
        /// event since.
        began: Option<i64>,
        /// The version of the newest event by which the user left.
        left: Option<i64>,
    },
    /// Receives events above `base`.
    Live { epoch: i64, base: i64 },
    /// The user is no longer a participant.
    Ended,
}

/// The messages that a reader has missed, as the dialog service returned them.
#[derive(Debug)]
pub struct Replay {
    /// The version of the reader's state. None if the reader wants no replay.
    pub since: Option<Version>,
    /// The dialog's version.
    pub head: Version,
    /// The messages that changed after `since`, by version.
    pub messages: Vec<dialog::Message>,
    /// True if there are too many messages to replay, or `since` is not a version of this dialog.
    pub reset: bool,
}

/// The state of one subscriber.
#[derive(Debug)]
pub struct Subscriber {
    /// The subscriber's user.
    pub user: UserId,
    /// The state of the subscription.
    pub state: State,
    /// True if the next frame is a RESET. Nothing is added to `pending` until it is taken.
    pub reset: bool,
    /// The messages that are to be sent, by the version of their latest event.
    pending: BTreeMap<i64, PendingMessage>,
    /// The key of each message in `pending`.
    versions: HashMap<MessageId, i64>,
    replay: VecDeque<Frame>,
    wake: Wake,
}

impl Subscriber {
    /// Creates a subscriber. `newest` is the hub's version of the dialog.
    pub fn new(user: UserId, newest: Option<i64>, wake: Wake) -> Self {
        Self {
            user,
            state: State::Opening { began: newest, left: None },
            reset: false,
            pending: BTreeMap::new(),
            versions: HashMap::new(),
            replay: VecDeque::new(),
            wake,
        }
    }

    /// Wakes the reader, so that it takes the next frame.
    pub fn wake(&self) {
        self.wake.raise();
    }

    /// Returns true if an event of this version is to be applied.
    pub fn accepts(&mut self, version: i64) -> bool {
        match &mut self.state {
            State::Opening { began, .. } => {
                began.get_or_insert(version - 1);
                true
            }
            State::Live { base, .. } => *base < version,
            State::Ended => false,
        }
    }

    /// Adds a message, or moves it to its new version. Returns true if it was not pending before.
    pub fn add(&mut self, version: i64, message: MessageId, kind: Kind) -> bool {
        if self.reset {
            return false;
        }
        let previous = self.versions.insert(message, version);
        if let Some(previous) = previous {
            self.pending.remove(&previous);
        }
        self.pending.insert(version, PendingMessage { message, kind });
        previous.is_none()
    }

    /// Returns the number of pending messages.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Returns the oldest pending message and the version of its latest event.
    pub fn first(&self) -> Option<(i64, PendingMessage)> {
        self.pending().next()
    }

    /// Returns the pending messages with the version of their latest event, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = (i64, PendingMessage)> {
        self.pending.iter().map(|(version, pending)| (*version, *pending))
    }

    /// Removes the oldest pending message.
    pub fn pop_first(&mut self) -> Option<MessageId> {
        let (_, pending) = self.pending.pop_first()?;
        self.versions.remove(&pending.message);
        Some(pending.message)
    }

    /// Removes and returns all pending messages.
    pub fn clear(&mut self) -> Vec<MessageId> {
        self.pending.clear();
        self.versions.drain().map(|(message, _)| message).collect()
    }

    /// Removes and returns the pending messages up to and including `version`.
    fn remove_through(&mut self, version: i64) -> Vec<MessageId> {
        let mut removed = Vec::new();
        while self.first().is_some_and(|(first, _)| first <= version) {
            removed.extend(self.pop_first());
        }
        removed
    }

    /// Starts the subscription with a replay. `newest` is the hub's version of the dialog. Returns the
    /// messages that are no longer pending, because the replay contains them or a RESET replaces them.
    pub fn open(&mut self, replay: Replay, newest: Option<i64>) -> Vec<MessageId> {
        let State::Opening { began, left } = self.state else { return Vec::new() };
        let head = replay.head;
        if left > Some(head.number) {
            self.state = State::Ended;
            self.wake();
            return self.clear();
        }
        // The hub did not receive the events between the replay's version and a later registration.
        let has_gap = began > Some(head.number);
        let newest = newest.map_or(head.number, |newest| newest.max(head.number));
        let mut removed = self.remove_through(head.number);
        self.state = State::Live { epoch: head.epoch, base: head.number };
        if replay.reset || has_gap || self.reset {
            removed.extend(self.clear());
            self.reset = false;
            self.state = State::Live { epoch: head.epoch, base: newest };
            self.replay.push_back(Frame::without_message(Kind::Reset, Version::new(head.epoch, newest)));
        } else {
            self.replay = replay_frames(self.user, replay);
        }
        self.wake();
        removed
    }

    /// Takes the next frame of the replay.
    pub fn next_replayed(&mut self) -> Option<Frame> {
        self.replay.pop_front()
    }
}

/// Returns a frame for each message of a replay, by version, or CURRENT if there is none.
///
/// A failed message of another author is included, without its text, if the reader may know it as
/// PENDING. That is the case for every `since` above 0, because the time of sending is not known here. A
/// reader who starts at 0 knows no messages and does not receive it.
fn replay_frames(user: UserId, replay: Replay) -> VecDeque<Frame> {
    let from_start = replay.since.is_some_and(|since| since.number == 0);
    let epoch = replay.head.epoch;
    let is_hidden = |message: &dialog::Message| {
        from_start
            && message.status() == dialog::Status::Failed
            && message.sender_id != user.uuid().as_bytes()
    };
    let mut frames: VecDeque<Frame> = replay
        .messages
        .into_iter()
        .filter(|message| !is_hidden(message))
        .map(|message| {
            let version = Version::new(epoch, message.version);
            Frame::with_message(Kind::of(&message), version, Arc::new(message), user)
        })
        .collect();
    if frames.is_empty() {
        frames.push_back(Frame::without_message(Kind::Current, replay.head));
    }
    frames
}
