//! Model test of the state machine of messages: random dialogs whose participants join and leave,
//! compared with the dialog service's own state. The log is late, repeats and loses events, replies are
//! late or missing, and clients read slowly.

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
    entry::{Entry, FetchReply, FetchRequest, Next},
    frame::{Change, Event, Frame, Kind},
    subscriber::Replay,
};
use crate::version::Version;

const USERS: u128 = 4;

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

/// The dialog service, with one dialog.
struct Server {
    version: i64,
    messages: BTreeMap<MessageId, dialog::Message>,
    members: BTreeSet<UserId>,
    left_at: HashMap<UserId, Vec<i64>>,
    /// The participants at every version.
    member_at: BTreeMap<i64, BTreeSet<UserId>>,
}

impl Server {
    fn step(&mut self, rng: &mut SmallRng) -> Event {
        self.version += 1;
        let version = self.version;
        let index = rng.random_range(0..self.messages.len().max(1));
        let message = self.messages.values_mut().nth(index);
        let change = match (rng.random_range(0..20), message) {
            (0, _) => {
                let user = user(rng.random_range(0..USERS));
                if self.members.remove(&user) {
                    self.left_at.entry(user).or_default().push(version);
                    Change::Left(user)
                } else {
                    self.members.insert(user);
                    Change::Other
                }
            }
            (1..9, Some(message)) if message.status() == Status::Pending => {
                let failed = rng.random_bool(0.4);
                message.set_status(if failed { Status::Failed } else { Status::Committed });
                message.version = version;
                Change::Message(id_of(message), if failed { Kind::Failed } else { Kind::Committed })
            }
            (9..12, Some(message)) if message.deleted_at_us.is_none() => {
                message.deleted_at_us = Some(version);
                message.version = version;
                Change::Message(id_of(message), Kind::Deleted)
            }
            _ => {
                let id = MessageId::new(Uuid::from_u128(version as u128));
                let mut message = dialog::Message { id: id.bytes(), version, ..Default::default() };
                message.sender_id = user(rng.random_range(0..USERS)).bytes();
                message.set_status(Status::Pending);
                self.messages.insert(id, message);
                Change::Message(id, Kind::Sent)
            }
        };
        self.member_at.insert(version, self.members.clone());
        Event { version, change }
    }

    fn replay(&self, since: Option<Version>) -> Replay {
        let head = Version::new(1, self.version);
        let foreign = since.is_some_and(|it| it.number > 0 && (it.epoch != 1 || it.number > self.version));
        let above = since.map_or(i64::MAX, |since| since.number);
        let mut messages: Vec<_> =
            self.messages.values().filter(|it| it.version > above && !foreign).cloned().collect();
        messages.sort_by_key(|message| message.version);
        Replay { since, head, messages, reset: foreign }
    }

    fn reply(&self, request: &FetchRequest) -> FetchReply {
        let found = request.messages.iter().filter_map(|id| Some((*id, self.messages.get(id)?.clone())));
        let members = request.users.iter().copied().filter(|user| self.members.contains(user));
        FetchReply {
            head: Version::new(1, self.version),
            messages: found.collect(),
            members: members.collect(),
        }
    }
}

fn id_of(message: &dialog::Message) -> MessageId {
    MessageId::parse(&message.id).expect("the id is valid")
}

/// The state of a message that a client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KnownMessage {
    version: i64,
    status: Status,
    is_deleted: bool,
}

impl From<&dialog::Message> for KnownMessage {
    fn from(message: &dialog::Message) -> Self {
        Self {
            version: message.version,
            status: message.status(),
            is_deleted: message.deleted_at_us.is_some(),
        }
    }
}

/// A client, which keeps the newest state of each message that it has received or loaded from the
/// history.
struct Client {
    wake: Wake,
    user: UserId,
    version: Option<i64>,
    known: HashMap<MessageId, KnownMessage>,
    from_start: bool,
    opened_at: i64,
    ended: bool,
    is_slow: bool,
}

impl Client {
    /// Loads the current history.
    fn load(&mut self, server: &Server) {
        let visible =
            |it: &&dialog::Message| it.status() != Status::Failed || it.sender_id == self.user.bytes();
        let messages = server.messages.values().filter(visible);
        self.known = messages.map(|it| (id_of(it), it.into())).collect();
    }

    fn apply(&mut self, frame: &Frame, server: &Server) {
        assert!(
            self.version < Some(frame.version.number),
            "versions increase: {:?} to {frame:?}",
            self.version
        );
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
        assert!(member, "a frame of a change that the user may not see: {frame:?}");
        let author = message.sender_id == self.user.bytes();
        assert_eq!(frame.author, author);
        let failed = message.status() == Status::Failed;
        let hidden = failed && !author && self.from_start && frame.version.number <= self.opened_at;
        assert!(!hidden, "a failed message that the client never knew as PENDING: {frame:?}");
        self.known.insert(id_of(message), message.as_ref().into());
    }
}

struct Simulation {
    rng: SmallRng,
    server: Server,
    log: Vec<Event>,
    repeats: Vec<Event>,
    /// True if the log has lost an event.
    lost: bool,
    entry: Option<Entry>,
    clients: BTreeMap<u64, Client>,
    /// Subscriptions that wait for their replay, which is loaded first and delivered later.
    opening: Vec<(u64, Option<Replay>)>,
    in_flight: Option<(FetchRequest, Option<FetchReply>)>,
    last_id: u64,
    pending_max: usize,
}

impl Simulation {
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
        let pending_max = if rng.random_bool(0.3) { 3 } else { 1000 };
        Self {
            rng,
            server,
            log: Vec::new(),
            repeats: Vec::new(),
            lost: false,
            entry: None,
            clients: BTreeMap::new(),
            opening: Vec::new(),
            in_flight: None,
            last_id: 0,
            pending_max,
        }
    }

    fn register(&mut self) {
        let user = user(self.rng.random_range(0..USERS));
        self.last_id += 1;
        let wake = Wake::new();
        let entry = self.entry.get_or_insert_with(|| Entry::new(self.pending_max));
        entry.register(self.last_id, user, wake.clone());
        self.opening.push((self.last_id, None));
        let is_slow = self.rng.random_bool(0.3);
        let client = Client {
            wake,
            user,
            version: None,
            known: HashMap::new(),
            from_start: false,
            opened_at: 0,
            ended: false,
            is_slow,
        };
        self.clients.insert(self.last_id, client);
    }

    /// Loads or delivers the replay of an opening subscription.
    fn open(&mut self) {
        if self.opening.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.opening.len());
        let (id, replay) = self.opening.swap_remove(index);
        let client = self.clients.get_mut(&id).expect("a client and its opening are removed together");
        if let Some(replay) = replay {
            self.entry.as_mut().expect("an entry with a client exists").open(id, replay);
        } else if !self.server.members.contains(&client.user) {
            self.leave(id);
        } else {
            let since = match self.rng.random_range(0..5) {
                0 => Some(Version::new(0, 0)),
                1 => Some(Version::new(self.rng.random_range(0..3), self.server.version + 1)),
                2 => Some(Version::new(1, self.server.version)),
                _ => None,
            };
            // A client that does not start at 0 has loaded the history.
            if since.is_none_or(|since| since.number > 0) {
                client.load(&self.server);
            }
            client.from_start = since.is_some_and(|since| since.number == 0);
            client.opened_at = self.server.version;
            self.opening.push((id, Some(self.server.replay(since))));
        }
    }

    fn leave(&mut self, id: u64) {
        self.opening.retain(|(opening, _)| *opening != id);
        self.clients.remove(&id);
        if self.entry.as_mut().is_some_and(|entry| entry.remove(id)) {
            self.entry = None;
            self.in_flight = None;
        }
    }

    fn any_client(&mut self) -> Option<u64> {
        let index = self.rng.random_range(0..self.clients.len().max(1));
        self.clients.keys().nth(index).copied()
    }

    fn deliver(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let event = self.log.remove(0);
        let lost = self.rng.random_bool(0.02) && !self.log.is_empty();
        if let Some(entry) = self.entry.as_mut().filter(|_| !lost) {
            entry.apply(event);
            if self.rng.random_bool(0.1) {
                self.repeats.push(event);
            }
        }
        self.lost |= lost;
        if self.rng.random_bool(0.1)
            && let (Some(entry), Some(event)) = (&mut self.entry, self.repeats.pop())
        {
            entry.apply(event);
        }
    }

    fn fetch(&mut self) {
        let Some(entry) = &mut self.entry else { return };
        match self.in_flight.take() {
            None => self.in_flight = entry.start_request().map(|request| (request, None)),
            Some((request, None)) => {
                if self.rng.random_bool(0.1) {
                    entry.fail_request(request);
                } else {
                    let reply = self.server.reply(&request);
                    self.in_flight = Some((request, Some(reply)));
                }
            }
            Some((request, Some(reply))) => {
                assert!(entry.finish_request(&request, reply), "the reply is as new as the log");
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
                Next::Ended => return client.ended = true,
                Next::Frame(frame) => {
                    assert!(!client.ended);
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
                    let is_slow = self.clients[&id].is_slow;
                    if !is_slow || self.rng.random_bool(0.1) {
                        self.read(id);
                    }
                }
            }
        }
    }

    /// Delivers the rest of the log and one last event, and lets every client read until nothing happens
    /// any more.
    fn settle(&mut self) {
        while !self.log.is_empty() {
            self.deliver();
        }
        let last = self.server.step(&mut self.rng);
        if let Some(entry) = &mut self.entry {
            entry.apply(last);
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
    let mut simulation = Simulation::new(seed);
    for _ in 0..simulation.rng.random_range(5..150) {
        simulation.step();
    }
    simulation.settle();
    for client in simulation.clients.values() {
        let has_left = simulation
            .server
            .left_at
            .get(&client.user)
            .is_some_and(|it| it.iter().any(|at| *at > client.opened_at));
        assert!(!client.ended || has_left, "only leaving ends a subscription");
        if has_left {
            assert!(client.ended || simulation.lost, "leaving ends a subscription");
            continue;
        }
        assert!(client.version.is_some(), "every client has a first frame");
        for message in simulation.server.messages.values() {
            let id = id_of(message);
            let is_author = message.sender_id == client.user.bytes();
            match client.known.get(&id) {
                Some(known) => {
                    assert_eq!(*known, message.into(), "the client knows the newest state of {id}")
                }
                None => assert!(!is_author && message.status() == Status::Failed, "{id} is missing"),
            }
        }
    }
    if let Some(entry) = &simulation.entry {
        assert!(!entry.needs_request(), "no request is needed at rest");
        assert_eq!(entry.pending_len(), 0, "nothing is pending at rest");
    }
}

#[test]
fn every_client_ends_with_the_newest_visible_state_in_any_history() {
    for seed in 0..10_000 {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}
