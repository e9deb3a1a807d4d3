//! One live stream of a dialog: which messages its reader is owed, by the version of each one's newest event. Never a
//! queue: a message is owed once, whatever happened to it, and beyond a bound the history is to be loaded again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use proto::{MessageId, UserId, dialog};
use wake::Wake;

use super::frame::{Frame, Kind};
use crate::version::Version;

/// A message that the reader is owed.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// Which.
    pub message: MessageId,
    /// Its newest event.
    pub kind: Kind,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The dialog service is asked what the reader has missed. `began`: the dialog's version when the stream began, as
    /// the hub or the first event since knows it; `left`: the newest event by which the reader left.
    Opening { began: Option<i64>, left: Option<i64> },
    /// Told what happens above `base`.
    Live { epoch: i64, base: i64 },
    /// The reader takes no part any more.
    Over,
}

/// What the dialog service says that a reader has missed.
#[derive(Debug)]
pub struct Missed {
    /// The version that the reader knows.
    pub since: Option<Version>,
    /// The dialog's version.
    pub head: Version,
    /// What changed in between, by version.
    pub messages: Vec<dialog::Message>,
    /// It cannot be told.
    pub reset: bool,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Subscriber {
    /// Whose it is.
    pub user: UserId,
    /// Where it stands.
    pub state: State,
    /// Too much happened: owed a RESET, and nothing is marked until it is given.
    pub reset: bool,
    marks: BTreeMap<i64, Mark>,
    versions: HashMap<MessageId, i64>,
    replay: VecDeque<Frame>,
    wake: Wake,
}

impl Subscriber {
    /// A new stream; the hub is at `heard`.
    pub fn new(user: UserId, heard: Option<i64>, wake: Wake) -> Self {
        Self {
            user,
            state: State::Opening { began: heard, left: None },
            reset: false,
            marks: BTreeMap::new(),
            versions: HashMap::new(),
            replay: VecDeque::new(),
            wake,
        }
    }

    /// Lets its reader look again.
    pub fn wake(&self) {
        self.wake.raise();
    }

    /// Whether an event of this version is news here.
    pub fn hears(&mut self, version: i64) -> bool {
        match &mut self.state {
            State::Opening { began, .. } => {
                began.get_or_insert(version - 1);
                true
            }
            State::Live { base, .. } => *base < version,
            State::Over => false,
        }
    }

    /// Owes a message. `true` where it was not owed before.
    pub fn mark(&mut self, version: i64, message: MessageId, kind: Kind) -> bool {
        if self.reset {
            return false;
        }
        let before = self.versions.insert(message, version);
        if let Some(before) = before {
            self.marks.remove(&before);
        }
        self.marks.insert(version, Mark { message, kind });
        before.is_none()
    }

    /// How many messages it is owed.
    pub fn owed(&self) -> usize {
        self.marks.len()
    }

    /// The message that it is owed first.
    pub fn first(&self) -> Option<(i64, Mark)> {
        self.marks.first_key_value().map(|(version, mark)| (*version, *mark))
    }

    /// Those that it is owed, oldest first.
    pub fn marks(&self) -> impl Iterator<Item = (i64, Mark)> {
        self.marks.iter().map(|(version, mark)| (*version, *mark))
    }

    /// The first is given, or need not be.
    pub fn settle_first(&mut self) -> Option<MessageId> {
        let (_, mark) = self.marks.pop_first()?;
        self.versions.remove(&mark.message);
        Some(mark.message)
    }

    /// Owes nothing any more; gives what it was owed.
    pub fn settle_all(&mut self) -> Vec<MessageId> {
        self.marks.clear();
        self.versions.drain().map(|(message, _)| message).collect()
    }

    /// Owes nothing up to this version; gives what it was owed.
    fn settle_up_to(&mut self, version: i64) -> Vec<MessageId> {
        let mut settled = Vec::new();
        while self.first().is_some_and(|(first, _)| first <= version) {
            settled.extend(self.settle_first());
        }
        settled
    }

    /// What the dialog service said: replay, then live. The hub is at `heard`. Gives what is owed no longer.
    pub fn open(&mut self, missed: Missed, heard: Option<i64>) -> Vec<MessageId> {
        let State::Opening { began, left } = self.state else { return Vec::new() };
        let head = missed.head;
        if left > Some(head.number) {
            self.state = State::Over;
            self.wake();
            return self.settle_all();
        }
        // What happened between an answer and a later beginning has not been heard here.
        let gap = began > Some(head.number);
        let newest = heard.map_or(head.number, |heard| heard.max(head.number));
        let mut settled = self.settle_up_to(head.number);
        self.state = State::Live { epoch: head.epoch, base: head.number };
        if missed.reset || gap || self.reset {
            settled.extend(self.settle_all());
            self.reset = false;
            self.state = State::Live { epoch: head.epoch, base: newest };
            self.replay.push_back(Frame::bare(Kind::Reset, Version::new(head.epoch, newest)));
        } else {
            self.replay = replay(self.user, missed);
        }
        self.wake();
        settled
    }

    /// The next frame of the replay.
    pub fn replayed(&mut self) -> Option<Frame> {
        self.replay.pop_front()
    }
}

/// The newest state of every message that changed, by version. A failed message of somebody else is told, without its
/// words, where the reader may hold it as PENDING: with a `since` above 0, since it is not known here when it was sent.
/// Who comes from the beginning holds nothing and does not hear of it.
fn replay(user: UserId, missed: Missed) -> VecDeque<Frame> {
    let from_beginning = missed.since.is_some_and(|since| since.number == 0);
    let epoch = missed.head.epoch;
    let hidden = |it: &dialog::Message| {
        from_beginning && it.status() == dialog::Status::Failed && it.sender_id != user.uuid().as_bytes()
    };
    let mut frames: VecDeque<Frame> = missed
        .messages
        .into_iter()
        .filter(|message| !hidden(message))
        .map(|message| {
            let version = Version::new(epoch, message.version);
            Frame::about(Kind::of(&message), version, Arc::new(message), user)
        })
        .collect();
    if frames.is_empty() {
        frames.push_back(Frame::bare(Kind::Current, missed.head));
    }
    frames
}
