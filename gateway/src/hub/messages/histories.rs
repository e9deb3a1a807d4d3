//! The hub's machine for messages against an oracle: random dialogs whose people come and go, a log that lags, repeats and
//! loses, answers that come late or not at all, and readers that dawdle.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::FutureExt;
use proto::{
    MessageId, UserId,
    dialog::{self, Status},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Uuid;
use wake::Wake;

use super::{
    entry::{Answer, Entry, Next, Question},
    frame::{Event, Frame, Kind, What},
    subscriber::Missed,
};
use crate::version::Version;

const USERS: u128 = 4;

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

/// The dialog service: one dialog.
struct Server {
    version: i64,
    messages: BTreeMap<MessageId, dialog::Message>,
    members: BTreeSet<UserId>,
    left_at: HashMap<UserId, Vec<i64>>,
    /// Who took part at every version.
    member_at: BTreeMap<i64, BTreeSet<UserId>>,
}

impl Server {
    fn step(&mut self, rng: &mut SmallRng) -> Event {
        self.version += 1;
        let version = self.version;
        let some = rng.random_range(0..self.messages.len().max(1));
        let pick = self.messages.values_mut().nth(some);
        let what = match (rng.random_range(0..20), pick) {
            (0, _) => {
                let someone = user(rng.random_range(0..USERS));
                if self.members.remove(&someone) {
                    self.left_at.entry(someone).or_default().push(version);
                    What::Left(someone)
                } else {
                    self.members.insert(someone);
                    What::Other
                }
            }
            (1..9, Some(message)) if message.status() == Status::Pending => {
                let failed = rng.random_bool(0.4);
                message.set_status(if failed { Status::Failed } else { Status::Committed });
                message.version = version;
                What::Message(parse(message), if failed { Kind::Failed } else { Kind::Committed })
            }
            (9..12, Some(message)) if message.deleted_at_us.is_none() => {
                message.deleted_at_us = Some(version);
                message.version = version;
                What::Message(parse(message), Kind::Deleted)
            }
            _ => {
                let id = MessageId::new(Uuid::from_u128(version as u128));
                let mut message = dialog::Message { id: id.bytes(), version, ..Default::default() };
                message.sender_id = user(rng.random_range(0..USERS)).bytes();
                message.set_status(Status::Pending);
                self.messages.insert(id, message);
                What::Message(id, Kind::Sent)
            }
        };
        self.member_at.insert(version, self.members.clone());
        Event { version, what }
    }

    fn missed(&self, since: Option<Version>) -> Missed {
        let head = Version::new(1, self.version);
        let foreign = since.is_some_and(|it| it.number > 0 && (it.epoch != 1 || it.number > self.version));
        let above = since.map_or(i64::MAX, |since| since.number);
        let mut messages: Vec<_> =
            self.messages.values().filter(|it| it.version > above && !foreign).cloned().collect();
        messages.sort_by_key(|message| message.version);
        Missed { since, head, messages, reset: foreign }
    }

    fn answer(&self, question: &Question) -> Answer {
        let found = question.messages.iter().filter_map(|id| Some((*id, self.messages.get(id)?.clone())));
        let members = question.users.iter().copied().filter(|user| self.members.contains(user));
        Answer { head: Version::new(1, self.version), messages: found.collect(), members: members.collect() }
    }
}

fn parse(message: &dialog::Message) -> MessageId {
    MessageId::parse(&message.id).expect("an id")
}

/// A client: what it holds of each message is the newest version it was told, or has loaded from the history.
struct Client {
    wake: Wake,
    user: UserId,
    version: Option<i64>,
    /// By message: the version, the status and whether it is deleted.
    holds: HashMap<MessageId, (i64, Status, bool)>,
    from_beginning: bool,
    opened_at: i64,
    over: bool,
    lazy: bool,
}

impl Client {
    /// The history is loaded, as it is now.
    fn load(&mut self, server: &Server) {
        let visible =
            |it: &&dialog::Message| it.status() != Status::Failed || it.sender_id == self.user.bytes();
        let messages = server.messages.values().filter(visible);
        self.holds =
            messages.map(|it| (parse(it), (it.version, it.status(), it.deleted_at_us.is_some()))).collect();
    }

    fn apply(&mut self, frame: &Frame, server: &Server) {
        assert!(self.version < Some(frame.version.number), "versions rise: {:?} to {frame:?}", self.version);
        self.version = Some(frame.version.number);
        let Some(message) = &frame.message else {
            if frame.kind == Kind::Reset {
                self.load(server);
            }
            return;
        };
        let member = server
            .member_at
            .range(frame.version.number.max(message.version)..)
            .any(|(_, members)| members.contains(&self.user));
        assert!(member, "told of what happened without it: {frame:?}");
        let author = message.sender_id == self.user.bytes();
        assert_eq!(frame.author, author);
        let failed = message.status() == Status::Failed;
        let hidden = failed && !author && self.from_beginning && frame.version.number <= self.opened_at;
        assert!(!hidden, "a failed message of others, to who holds nothing: {frame:?}");
        self.holds
            .insert(parse(message), (message.version, message.status(), message.deleted_at_us.is_some()));
    }
}

struct World {
    rng: SmallRng,
    server: Server,
    log: Vec<Event>,
    repeats: Vec<Event>,
    lost: bool,
    entry: Option<Entry>,
    clients: BTreeMap<u64, Client>,
    opening: Vec<(u64, Option<Missed>)>,
    asked: Option<(Question, Option<Answer>)>,
    next: u64,
    bound: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut server = Server {
            version: 0,
            messages: BTreeMap::new(),
            members: (0..USERS).map(user).collect(),
            left_at: HashMap::new(),
            member_at: BTreeMap::new(),
        };
        for _ in 0..rng.random_range(1..6) {
            server.step(&mut rng);
        }
        let bound = if rng.random_bool(0.3) { 3 } else { 1000 };
        Self {
            rng,
            server,
            log: Vec::new(),
            repeats: Vec::new(),
            lost: false,
            entry: None,
            clients: BTreeMap::new(),
            opening: Vec::new(),
            asked: None,
            next: 0,
            bound,
        }
    }

    fn register(&mut self) {
        let user = user(self.rng.random_range(0..USERS));
        self.next += 1;
        let wake = Wake::new();
        let entry = self.entry.get_or_insert_with(|| Entry::new(self.bound));
        entry.register(self.next, user, wake.clone());
        self.opening.push((self.next, None));
        let lazy = self.rng.random_bool(0.3);
        let client = Client {
            wake,
            user,
            version: None,
            holds: HashMap::new(),
            from_beginning: false,
            opened_at: 0,
            over: false,
            lazy,
        };
        self.clients.insert(self.next, client);
    }

    /// The question of a new stream is read by the dialog service, or its answer arrives.
    fn open(&mut self) {
        if self.opening.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.opening.len());
        let (id, missed) = self.opening.swap_remove(at);
        let client = self.clients.get_mut(&id).expect("it is removed with its question");
        if let Some(missed) = missed {
            self.entry.as_mut().expect("it has a client").open(id, missed);
        } else if !self.server.members.contains(&client.user) {
            self.leave(id);
        } else {
            let since = match self.rng.random_range(0..5) {
                0 => Some(Version::new(0, 0)),
                1 => Some(Version::new(self.rng.random_range(0..3), self.server.version + 1)),
                2 => Some(Version::new(1, self.server.version)),
                _ => None,
            };
            // Who does not come from the beginning has loaded what there is; who is late with reading, what there will be.
            if since.is_none_or(|since| since.number > 0) {
                client.load(&self.server);
            }
            client.from_beginning = since.is_some_and(|since| since.number == 0);
            client.opened_at = self.server.version;
            self.opening.push((id, Some(self.server.missed(since))));
        }
    }

    fn leave(&mut self, id: u64) {
        self.opening.retain(|(opening, _)| *opening != id);
        self.clients.remove(&id);
        if self.entry.as_mut().is_some_and(|entry| entry.remove(id)) {
            self.entry = None;
            self.asked = None;
        }
    }

    fn any_client(&mut self) -> Option<u64> {
        let at = self.rng.random_range(0..self.clients.len().max(1));
        self.clients.keys().nth(at).copied()
    }

    fn deliver(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let event = self.log.remove(0);
        let lost = self.rng.random_bool(0.02) && !self.log.is_empty();
        if let Some(entry) = self.entry.as_mut().filter(|_| !lost) {
            entry.hear(event);
            if self.rng.random_bool(0.1) {
                self.repeats.push(event);
            }
        }
        self.lost |= lost;
        if self.rng.random_bool(0.1)
            && let (Some(entry), Some(event)) = (&mut self.entry, self.repeats.pop())
        {
            entry.hear(event);
        }
    }

    fn fetch(&mut self) {
        let Some(entry) = &mut self.entry else { return };
        match self.asked.take() {
            None => self.asked = entry.ask().map(|question| (question, None)),
            Some((question, None)) => {
                if self.rng.random_bool(0.1) {
                    entry.unanswered(question);
                } else {
                    let answer = self.server.answer(&question);
                    self.asked = Some((question, Some(answer)));
                }
            }
            Some((question, Some(answer))) => {
                assert!(entry.answered(&question, answer), "the answer is as new as the log");
            }
        }
    }

    fn read(&mut self, id: u64) {
        let (Some(client), Some(entry)) = (self.clients.get_mut(&id), &mut self.entry) else { return };
        if client.wake.raised().now_or_never().is_none() {
            return;
        }
        loop {
            match entry.take(id) {
                Next::Wait => return,
                Next::Over => return client.over = true,
                Next::Frame(frame) => {
                    assert!(!client.over);
                    client.apply(&frame, &self.server);
                }
            }
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => {
                let event = self.server.step(&mut self.rng);
                self.log.push(event);
            }
            25..50 => self.deliver(),
            50..65 => self.fetch(),
            65..75 => self.open(),
            75..80 => self.register(),
            80..82 => {
                if let Some(id) = self.any_client() {
                    self.leave(id);
                }
            }
            _ => {
                if let Some(id) = self.any_client() {
                    let lazy = self.clients[&id].lazy;
                    if !lazy || self.rng.random_bool(0.1) {
                        self.read(id);
                    }
                }
            }
        }
    }

    fn settle(&mut self) {
        while !self.log.is_empty() {
            self.deliver();
        }
        let last = self.server.step(&mut self.rng);
        if let Some(entry) = &mut self.entry {
            entry.hear(last);
        }
        for _ in 0..300 {
            self.fetch();
            self.open();
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                self.read(id);
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.rng.random_range(5..150) {
        world.step();
    }
    world.settle();
    for client in world.clients.values() {
        let has_left = world
            .server
            .left_at
            .get(&client.user)
            .is_some_and(|it| it.iter().any(|at| *at > client.opened_at));
        assert!(!client.over || has_left, "only who has left is over");
        if has_left {
            assert!(client.over || world.lost, "who has left is over");
            continue;
        }
        assert!(client.version.is_some(), "everyone has a first frame");
        for message in world.server.messages.values() {
            let (id, author) = (parse(message), message.sender_id == client.user.bytes());
            let truth = (message.version, message.status(), message.deleted_at_us.is_some());
            match client.holds.get(&id) {
                Some(holds) => assert_eq!(*holds, truth, "{id} is the newest"),
                None => assert!(!author && message.status() == Status::Failed, "{id} is missing"),
            }
        }
    }
    if let Some(entry) = &world.entry {
        assert!(!entry.wants(), "at rest nothing is asked");
        assert_eq!(entry.owed(), 0, "nothing is owed to anybody");
    }
}

#[test]
fn whatever_happens_every_reader_ends_with_the_newest_state_and_only_with_what_it_may_see() {
    for seed in 0..10_000 {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}
