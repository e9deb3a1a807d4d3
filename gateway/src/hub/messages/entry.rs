//! One dialog in the hub of messages, as a state machine without I/O: its subscribers, and the messages
//! that are to be sent to them, each fetched once for all subscribers. A subscriber receives a message
//! only from a reply that lists its user as a participant and is at least as new as the message's latest
//! event.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use proto::{MessageId, UserId, dialog};
use wake::Wake;

use super::{
    frame::{Change, Event, Frame, Kind},
    subscriber::{Replay, State, Subscriber},
};
use crate::version::Version;

/// Maximum messages in one request.
const BATCH_MAX: usize = 128;
/// Maximum fetched messages kept for subscribers that have not taken them yet.
const FETCHED_MAX: usize = 512;

/// A dialog with at least one subscriber.
#[derive(Debug)]
pub struct Entry {
    /// The epoch of the dialog's versions, once known. A restore of the dialog service's database raises
    /// it.
    epoch: Option<i64>,
    /// The version of the newest event.
    newest: Option<i64>,
    /// True if events were skipped and all subscribers were reset. The next event then follows no known
    /// version.
    skipped: bool,
    subscribers: HashMap<u64, Subscriber>,
    /// The messages that are pending for at least one subscriber.
    messages: HashMap<MessageId, MessageState>,
    /// The fetched messages, oldest fetch first.
    fetched: VecDeque<MessageId>,
    to_fetch: BTreeSet<MessageId>,
    /// The value of `newest` when the request in flight was sent.
    in_flight: Option<i64>,
    pending_max: usize,
}

#[derive(Debug, Default)]
struct MessageState {
    /// The number of subscribers for which the message is pending.
    subscribers: usize,
    fetched: Option<Fetched>,
}

#[derive(Debug, Clone)]
struct Fetched {
    message: Option<Arc<dialog::Message>>,
    head: Version,
    /// The users of the request, with true for participants.
    members: Arc<BTreeMap<UserId, bool>>,
}

/// A request to the dialog service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The messages to fetch.
    pub messages: Vec<MessageId>,
    /// The users whose membership to check.
    pub users: Vec<UserId>,
}

/// The reply to a [`FetchRequest`].
#[derive(Debug)]
pub struct FetchReply {
    /// The dialog's version.
    pub head: Version,
    /// The messages that were found.
    pub messages: Vec<(MessageId, dialog::Message)>,
    /// The requested users who are participants.
    pub members: BTreeSet<UserId>,
}

/// The result of taking the next frame of a subscription.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// The next frame.
    Frame(Frame),
    /// There is no frame now. The subscriber is woken when there may be one.
    Wait,
    /// The subscription has ended, because its user is no longer a participant.
    Ended,
}

impl Entry {
    /// Creates a dialog without subscribers. `pending_max` limits the pending messages of one
    /// subscriber.
    pub fn new(pending_max: usize) -> Self {
        Self {
            epoch: None,
            newest: None,
            skipped: false,
            subscribers: HashMap::new(),
            messages: HashMap::new(),
            fetched: VecDeque::new(),
            to_fetch: BTreeSet::new(),
            in_flight: None,
            pending_max,
        }
    }

    /// Adds a subscriber. From now on it receives every event; [`Entry::open`] adds what it has missed
    /// before.
    pub fn register(&mut self, id: u64, user: UserId, wake: Wake) {
        self.subscribers.insert(id, Subscriber::new(user, self.newest, wake));
    }

    /// Starts a subscription with its replay.
    pub fn open(&mut self, id: u64, replay: Replay) {
        self.update_epoch(replay.head);
        if self.newest.is_none() {
            // No event was received yet, so this reply is the first to name a version. Later events must
            // continue it.
            let head = replay.head.number;
            self.newest = Some(head);
            self.subscribers.values_mut().for_each(|subscriber| _ = subscriber.accepts(head + 1));
        }
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        let removed = subscriber.open(replay, self.newest);
        removed.into_iter().for_each(|message| release(&mut self.messages, message));
    }

    /// Resets all live subscribers if the epoch has changed. The versions of a new epoch may be below
    /// those that were sent, and what was sent may no longer exist.
    fn update_epoch(&mut self, head: Version) {
        if self.epoch.is_some_and(|epoch| epoch < head.epoch) {
            self.newest = Some(head.number);
            for subscriber in self.subscribers.values_mut() {
                if let State::Live { epoch, base } = &mut subscriber.state {
                    *epoch = head.epoch;
                    *base = head.number;
                    reset(&mut self.messages, subscriber);
                }
            }
            self.prune_to_fetch();
        }
        self.epoch = self.epoch.max(Some(head.epoch));
    }

    /// Resets all subscribers of earlier epochs. The dialog's version in this epoch is not known yet.
    pub fn raise_epoch(&mut self, epoch: i64) {
        if self.epoch.is_none_or(|known| known >= epoch) {
            return;
        }
        self.epoch = Some(epoch);
        self.newest = None;
        self.in_flight = self.in_flight.map(|_| 0);
        for subscriber in self.subscribers.values_mut() {
            match &mut subscriber.state {
                State::Live { epoch: of, base } => {
                    *of = epoch;
                    *base = 0;
                    reset(&mut self.messages, subscriber);
                }
                State::Opening { began, .. } => *began = None,
                State::Ended => {}
            }
        }
        self.prune_to_fetch();
    }

    /// Removes a subscriber. Returns true if it was the last one, so that the entry can be removed.
    pub fn remove(&mut self, id: u64) -> bool {
        if let Some(mut subscriber) = self.subscribers.remove(&id) {
            subscriber.clear().into_iter().for_each(|message| release(&mut self.messages, message));
        }
        self.subscribers.is_empty()
    }

    /// Applies an event of the log.
    pub fn apply(&mut self, event: Event) {
        let version = event.version;
        if self.newest >= Some(version) {
            return;
        }
        let skipped = std::mem::take(&mut self.skipped);
        let has_gap = !skipped && self.newest.is_some_and(|newest| newest + 1 < version);
        self.newest = Some(version);
        for subscriber in self.subscribers.values_mut() {
            if !subscriber.accepts(version) {
                continue;
            }
            if has_gap {
                reset(&mut self.messages, subscriber);
            }
            match event.change {
                Change::Message(message, kind) => {
                    if subscriber.add(version, message, kind) {
                        self.messages.entry(message).or_default().subscribers += 1;
                    }
                    if matches!(subscriber.state, State::Live { .. }) {
                        self.to_fetch.insert(message);
                    }
                    if subscriber.pending_len() > self.pending_max {
                        reset(&mut self.messages, subscriber);
                    }
                }
                Change::Left(user) if subscriber.user == user => {
                    end(&mut self.messages, subscriber, version);
                }
                Change::Left(_) | Change::Joined(_) | Change::Renamed | Change::Other => {}
            }
        }
        self.prune_to_fetch();
    }

    /// Sends every subscriber a RESET, because events were skipped.
    pub fn resync(&mut self) {
        self.skipped = true;
        self.subscribers.values_mut().for_each(|subscriber| reset(&mut self.messages, subscriber));
        self.prune_to_fetch();
    }

    /// Sends one subscriber a RESET, because its last frame could not be delivered.
    pub fn resync_one(&mut self, id: u64) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            reset(&mut self.messages, subscriber);
        }
    }

    /// Starts the next request, if there are messages to fetch and no request is in flight.
    pub fn start_request(&mut self) -> Option<FetchRequest> {
        self.prune_to_fetch();
        if self.in_flight.is_some() || self.to_fetch.is_empty() {
            return None;
        }
        let mut messages = Vec::new();
        while messages.len() < BATCH_MAX
            && let Some(message) = self.to_fetch.pop_first()
        {
            messages.push(message);
        }
        self.in_flight = Some(self.newest.unwrap_or_default());
        let live = self.subscribers.values().filter(|it| matches!(it.state, State::Live { .. }));
        let users: BTreeSet<UserId> = live.map(|it| it.user).collect();
        Some(FetchRequest { messages, users: users.into_iter().collect() })
    }

    /// Returns the number of messages that are pending for any subscriber.
    #[cfg(test)]
    pub fn pending_len(&self) -> usize {
        self.messages.len()
    }

    /// Returns true if a request is to be sent.
    pub fn needs_request(&self) -> bool {
        self.in_flight.is_none() && !self.to_fetch.is_empty()
    }

    /// Records that the request in flight failed.
    pub fn fail_request(&mut self, request: FetchRequest) {
        self.in_flight = None;
        self.to_fetch.extend(request.messages);
        self.prune_to_fetch();
    }

    /// Applies the reply to the request in flight. Returns false if the reply is older than the request.
    /// Its messages are then to be fetched again, but only after a delay, so no subscriber is woken.
    pub fn finish_request(&mut self, request: &FetchRequest, reply: FetchReply) -> bool {
        let requested_at = self.in_flight.take().unwrap_or_default();
        self.update_epoch(reply.head);
        let members: Arc<BTreeMap<_, _>> =
            Arc::new(request.users.iter().map(|user| (*user, reply.members.contains(user))).collect());
        let mut found: HashMap<_, _> =
            reply.messages.into_iter().map(|(id, message)| (id, Arc::new(message))).collect();
        for id in &request.messages {
            if let Some(state) = self.messages.get_mut(id) {
                let message = found.remove(id);
                state.fetched = Some(Fetched { message, head: reply.head, members: members.clone() });
                self.fetched.push_back(*id);
            }
        }
        self.evict_fetched();
        let is_new = reply.head.number >= requested_at;
        if !is_new {
            self.to_fetch.extend(&request.messages);
            self.prune_to_fetch();
        }
        for subscriber in self.subscribers.values_mut() {
            let has_left = members.get(&subscriber.user) == Some(&false);
            match subscriber.state {
                State::Live { base, .. } if has_left && base <= reply.head.number => {
                    end(&mut self.messages, subscriber, i64::MAX);
                }
                _ if is_new => subscriber.wake(),
                _ => {}
            }
        }
        is_new
    }

    /// Takes the next frame of a subscription.
    pub fn take(&mut self, id: u64) -> Next {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return Next::Ended };
        let epoch = match subscriber.state {
            State::Ended => return Next::Ended,
            State::Opening { .. } => return Next::Wait,
            State::Live { epoch, .. } => epoch,
        };
        if let Some(frame) = subscriber.next_replayed() {
            return Next::Frame(frame);
        }
        loop {
            if subscriber.reset {
                return Next::Frame(take_reset(subscriber, epoch, self.newest));
            }
            let Some((version, pending)) = subscriber.first() else { return Next::Wait };
            let fetched = self.messages.get(&pending.message).and_then(|state| state.fetched.as_ref());
            let Some(fetched) = fetched.filter(|it| is_deliverable(it, subscriber.user, version)) else {
                self.fetch_pending(id);
                return Next::Wait;
            };
            if fetched.head.epoch != epoch {
                let head = fetched.head;
                reset(&mut self.messages, subscriber);
                return Next::Frame(take_reset(subscriber, head.epoch, self.newest.max(Some(head.number))));
            }
            let version = Version::new(epoch, version);
            let frame = fetched.message.clone();
            let frame = frame.map(|it| Frame::with_message(pending.kind, version, it, subscriber.user));
            subscriber.pop_first();
            release(&mut self.messages, pending.message);
            if let Some(frame) = frame {
                return Next::Frame(frame);
            }
        }
    }

    /// Schedules the next pending messages of a subscriber to be fetched.
    fn fetch_pending(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.get(&id) else { return };
        for (version, pending) in subscriber.pending().take(BATCH_MAX) {
            let fetched = self.messages.get(&pending.message).and_then(|state| state.fetched.as_ref());
            if !fetched.is_some_and(|fetched| is_deliverable(fetched, subscriber.user, version)) {
                self.to_fetch.insert(pending.message);
            }
        }
    }

    /// Drops the oldest fetched messages beyond [`FETCHED_MAX`]. They are fetched again when a reader
    /// takes them.
    fn evict_fetched(&mut self) {
        self.fetched.retain(|id| self.messages.get(id).is_some_and(|state| state.fetched.is_some()));
        while self.fetched.len() > FETCHED_MAX
            && let Some(id) = self.fetched.pop_front()
        {
            // A message that was fetched again is in the queue twice; the later fetch counts.
            if !self.fetched.contains(&id)
                && let Some(state) = self.messages.get_mut(&id)
            {
                state.fetched = None;
            }
        }
    }

    fn prune_to_fetch(&mut self) {
        self.to_fetch.retain(|message| self.messages.contains_key(message));
    }
}

/// Returns true if a fetched message may be sent to a user for an event of this version.
fn is_deliverable(fetched: &Fetched, user: UserId, version: i64) -> bool {
    fetched.head.number >= version && fetched.members.get(&user) == Some(&true)
}

fn take_reset(subscriber: &mut Subscriber, epoch: i64, newest: Option<i64>) -> Frame {
    let base = match subscriber.state {
        State::Live { base, .. } => newest.map_or(base, |newest| newest.max(base)),
        State::Opening { .. } | State::Ended => newest.unwrap_or_default(),
    };
    subscriber.reset = false;
    subscriber.state = State::Live { epoch, base };
    Frame::without_message(Kind::Reset, Version::new(epoch, base))
}

/// Replaces everything that is pending for a subscriber by a RESET.
fn reset(messages: &mut HashMap<MessageId, MessageState>, subscriber: &mut Subscriber) {
    subscriber.clear().into_iter().for_each(|message| release(messages, message));
    subscriber.reset = true;
    subscriber.wake();
}

/// Ends a subscription whose user left at this version. While it is opening, the replay decides: the
/// user may have joined again since.
fn end(messages: &mut HashMap<MessageId, MessageState>, subscriber: &mut Subscriber, version: i64) {
    if let State::Opening { left, .. } = &mut subscriber.state {
        *left = Some(version).max(*left);
        return;
    }
    subscriber.clear().into_iter().for_each(|message| release(messages, message));
    subscriber.state = State::Ended;
    subscriber.wake();
}

/// Records that a message is no longer pending for one subscriber.
fn release(messages: &mut HashMap<MessageId, MessageState>, message: MessageId) {
    if let Some(state) = messages.get_mut(&message) {
        state.subscribers -= 1;
        if state.subscribers == 0 {
            messages.remove(&message);
        }
    }
}
