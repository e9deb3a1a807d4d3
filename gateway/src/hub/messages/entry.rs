//! One dialog in the hub, as a pure state machine: its streams, and the messages that some of them are owed, fetched once
//! for all. A stream gets a frame only from an answer that names its user as a member and is at least as new as the
//! event that the frame is about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use proto::{MessageId, UserId, dialog};
use wake::Wake;

use super::{
    frame::{Event, Frame, Kind, What},
    subscriber::{Missed, State, Subscriber},
};
use crate::version::Version;

/// Messages fetched at once.
const FETCH_MAX: usize = 128;
/// Fetched messages that are kept for streams that have not taken them yet.
const KEPT_MAX: usize = 512;

/// A dialog with at least one live stream.
#[derive(Debug)]
pub struct Entry {
    /// The dialog service's, as far as it was told. It rises where its data was restored.
    epoch: Option<i64>,
    heard: Option<i64>,
    /// Events are missing, and every stream knows it.
    skipped: bool,
    subscribers: HashMap<u64, Subscriber>,
    owed: HashMap<MessageId, Owed>,
    kept: VecDeque<MessageId>,
    wanted: BTreeSet<MessageId>,
    fetching: Option<i64>,
    bound: usize,
}

/// A message that streams are owed.
#[derive(Debug, Default)]
struct Owed {
    streams: usize,
    fetched: Option<Fetched>,
}

#[derive(Debug, Clone)]
struct Fetched {
    message: Option<Arc<dialog::Message>>,
    head: Version,
    members: Arc<BTreeMap<UserId, bool>>,
}

/// What to ask the dialog service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which messages.
    pub messages: Vec<MessageId>,
    /// Whether these take part.
    pub users: Vec<UserId>,
}

/// The answer.
#[derive(Debug)]
pub struct Answer {
    /// The dialog's version.
    pub head: Version,
    /// The messages found.
    pub messages: Vec<(MessageId, dialog::Message)>,
    /// Who takes part.
    pub members: BTreeSet<UserId>,
}

/// What a stream has to give.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// A frame.
    Frame(Frame),
    /// Nothing now.
    Wait,
    /// Nothing ever: its user takes no part.
    Over,
}

impl Entry {
    /// A dialog without streams. `bound`: how many messages a stream may be owed.
    pub fn new(bound: usize) -> Self {
        Self {
            epoch: None,
            heard: None,
            skipped: false,
            subscribers: HashMap::new(),
            owed: HashMap::new(),
            kept: VecDeque::new(),
            wanted: BTreeSet::new(),
            fetching: None,
            bound,
        }
    }

    /// Adds a stream. From now on nothing is missed for it; [`Entry::open`] says what came before.
    pub fn register(&mut self, id: u64, user: UserId, wake: Wake) {
        self.subscribers.insert(id, Subscriber::new(user, self.heard, wake));
    }

    /// What a new stream has missed.
    pub fn open(&mut self, id: u64, missed: Missed) {
        self.learn(missed.head);
        if self.heard.is_none() {
            // The answer is the first to say where the dialog is; from there on no event may be missing.
            let head = missed.head.number;
            self.heard = Some(head);
            self.subscribers.values_mut().for_each(|subscriber| _ = subscriber.hears(head + 1));
        }
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        let settled = subscriber.open(missed, self.heard);
        settled.into_iter().for_each(|message| release(&mut self.owed, message));
    }

    /// In a new epoch versions begin anew, maybe below what was heard: all that streams know is of before.
    fn learn(&mut self, head: Version) {
        if self.epoch.is_some_and(|epoch| epoch < head.epoch) {
            self.heard = Some(head.number);
            for subscriber in self.subscribers.values_mut() {
                if let State::Live { epoch, base } = &mut subscriber.state {
                    (*epoch, *base) = (head.epoch, head.number);
                    reset(&mut self.owed, subscriber);
                }
            }
            self.forget_unowed();
        }
        self.epoch = self.epoch.max(Some(head.epoch));
    }

    /// Removes a stream. `true`: it was the last, and this entry can go.
    pub fn remove(&mut self, id: u64) -> bool {
        if let Some(mut subscriber) = self.subscribers.remove(&id) {
            subscriber.settle_all().into_iter().for_each(|message| release(&mut self.owed, message));
        }
        self.subscribers.is_empty()
    }

    /// An event of the log.
    pub fn hear(&mut self, event: Event) {
        let version = event.version;
        if self.heard >= Some(version) {
            return;
        }
        let skipped = std::mem::take(&mut self.skipped);
        let gap = !skipped && self.heard.is_some_and(|heard| heard + 1 < version);
        self.heard = Some(version);
        for subscriber in self.subscribers.values_mut() {
            if !subscriber.hears(version) {
                continue;
            }
            if gap {
                reset(&mut self.owed, subscriber);
            }
            match event.what {
                What::Message(message, kind) => {
                    if subscriber.mark(version, message, kind) {
                        self.owed.entry(message).or_default().streams += 1;
                    }
                    if matches!(subscriber.state, State::Live { .. }) {
                        self.wanted.insert(message);
                    }
                    if subscriber.owed() > self.bound {
                        reset(&mut self.owed, subscriber);
                    }
                }
                What::Left(user) if subscriber.user == user => leave(&mut self.owed, subscriber, version),
                What::Left(_) | What::Other => {}
            }
        }
        self.forget_unowed();
    }

    /// Events are missing: every stream is owed a RESET in place of everything.
    pub fn refresh(&mut self) {
        self.skipped = true;
        self.subscribers.values_mut().for_each(|subscriber| reset(&mut self.owed, subscriber));
        self.forget_unowed();
    }

    /// What this stream was given could not be shown: it is owed a RESET in place of everything.
    pub fn refresh_one(&mut self, id: u64) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            reset(&mut self.owed, subscriber);
        }
    }

    /// What to ask now, where something is to be fetched and nothing is on its way.
    pub fn ask(&mut self) -> Option<Question> {
        self.forget_unowed();
        if self.fetching.is_some() || self.wanted.is_empty() {
            return None;
        }
        let mut messages = Vec::new();
        while messages.len() < FETCH_MAX
            && let Some(message) = self.wanted.pop_first()
        {
            messages.push(message);
        }
        self.fetching = Some(self.heard.unwrap_or_default());
        let live = self.subscribers.values().filter(|it| matches!(it.state, State::Live { .. }));
        let users: BTreeSet<UserId> = live.map(|it| it.user).collect();
        Some(Question { messages, users: users.into_iter().collect() })
    }

    /// How many messages some stream is owed.
    #[cfg(test)]
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether there is something to ask.
    pub fn wants(&self) -> bool {
        self.fetching.is_none() && !self.wanted.is_empty()
    }

    /// The question got no answer.
    pub fn unanswered(&mut self, question: Question) {
        self.fetching = None;
        self.wanted.extend(question.messages);
        self.forget_unowed();
    }

    /// The answer to the question. `false`: it is older than the question, and asking again at once is no use: nobody is
    /// told to look, and what was asked is still wanted.
    pub fn answered(&mut self, question: &Question, answer: Answer) -> bool {
        let asked_at = self.fetching.take().unwrap_or_default();
        self.learn(answer.head);
        let members: Arc<BTreeMap<_, _>> =
            Arc::new(question.users.iter().map(|user| (*user, answer.members.contains(user))).collect());
        let mut found: HashMap<_, _> =
            answer.messages.into_iter().map(|(id, message)| (id, Arc::new(message))).collect();
        for id in &question.messages {
            if let Some(owed) = self.owed.get_mut(id) {
                let message = found.remove(id);
                owed.fetched = Some(Fetched { message, head: answer.head, members: members.clone() });
                self.kept.push_back(*id);
            }
        }
        self.trim();
        let is_new = answer.head.number >= asked_at;
        if !is_new {
            self.wanted.extend(&question.messages);
            self.forget_unowed();
        }
        for subscriber in self.subscribers.values_mut() {
            let gone = members.get(&subscriber.user) == Some(&false);
            match subscriber.state {
                State::Live { base, .. } if gone && base <= answer.head.number => {
                    leave(&mut self.owed, subscriber, i64::MAX);
                }
                _ if is_new => subscriber.wake(),
                _ => {}
            }
        }
        is_new
    }

    /// What a stream has to give now.
    pub fn take(&mut self, id: u64) -> Next {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return Next::Over };
        let epoch = match subscriber.state {
            State::Over => return Next::Over,
            State::Opening { .. } => return Next::Wait,
            State::Live { epoch, .. } => epoch,
        };
        if let Some(frame) = subscriber.replayed() {
            return Next::Frame(frame);
        }
        loop {
            if subscriber.reset {
                return Next::Frame(given_reset(subscriber, epoch, self.heard));
            }
            let Some((version, mark)) = subscriber.first() else { return Next::Wait };
            let fetched = self.owed.get(&mark.message).and_then(|owed| owed.fetched.as_ref());
            let Some(fetched) = fetched.filter(|it| good(it, subscriber.user, version)) else {
                self.want(id);
                return Next::Wait;
            };
            if fetched.head.epoch != epoch {
                let head = fetched.head;
                reset(&mut self.owed, subscriber);
                return Next::Frame(given_reset(subscriber, head.epoch, self.heard.max(Some(head.number))));
            }
            let about =
                |message| Frame::about(mark.kind, Version::new(epoch, version), message, subscriber.user);
            let frame = fetched.message.clone().map(about);
            subscriber.settle_first();
            release(&mut self.owed, mark.message);
            if let Some(frame) = frame {
                return Next::Frame(frame);
            }
        }
    }

    /// Fetches what a stream is owed first.
    fn want(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.get(&id) else { return };
        for (version, mark) in subscriber.marks().take(FETCH_MAX) {
            let fetched = self.owed.get(&mark.message).and_then(|owed| owed.fetched.as_ref());
            if !fetched.is_some_and(|fetched| good(fetched, subscriber.user, version)) {
                self.wanted.insert(mark.message);
            }
        }
    }

    /// Keeps a bounded number of fetched messages; what is dropped is fetched again when it is asked for.
    fn trim(&mut self) {
        self.kept.retain(|id| self.owed.get(id).is_some_and(|owed| owed.fetched.is_some()));
        while self.kept.len() > KEPT_MAX
            && let Some(id) = self.kept.pop_front()
        {
            if !self.kept.contains(&id)
                && let Some(owed) = self.owed.get_mut(&id)
            {
                owed.fetched = None;
            }
        }
    }

    fn forget_unowed(&mut self) {
        self.wanted.retain(|message| self.owed.contains_key(message));
    }
}

/// Whether this stream may be given what was fetched, for an event of this version.
fn good(fetched: &Fetched, user: UserId, version: i64) -> bool {
    fetched.head.number >= version && fetched.members.get(&user) == Some(&true)
}

fn given_reset(subscriber: &mut Subscriber, epoch: i64, heard: Option<i64>) -> Frame {
    let base = match subscriber.state {
        State::Live { base, .. } => heard.map_or(base, |heard| heard.max(base)),
        State::Opening { .. } | State::Over => heard.unwrap_or_default(),
    };
    subscriber.reset = false;
    subscriber.state = State::Live { epoch, base };
    Frame::bare(Kind::Reset, Version::new(epoch, base))
}

/// Owes this stream a RESET in place of everything.
fn reset(owed: &mut HashMap<MessageId, Owed>, subscriber: &mut Subscriber) {
    subscriber.settle_all().into_iter().for_each(|message| release(owed, message));
    subscriber.reset = true;
    subscriber.wake();
}

/// The user left at this version: nothing more for this stream.
fn leave(owed: &mut HashMap<MessageId, Owed>, subscriber: &mut Subscriber, version: i64) {
    if let State::Opening { left, .. } = &mut subscriber.state {
        *left = Some(version).max(*left);
        return;
    }
    subscriber.settle_all().into_iter().for_each(|message| release(owed, message));
    subscriber.state = State::Over;
    subscriber.wake();
}

/// A stream is owed this message no longer.
fn release(owed: &mut HashMap<MessageId, Owed>, message: MessageId) {
    if let Some(entry) = owed.get_mut(&message) {
        entry.streams -= 1;
        if entry.streams == 0 {
            owed.remove(&message);
        }
    }
}
