//! Load: users that send, read, delete, join, leave and query at a modest rate through both gateways and the
//! balancer, and retry what was not answered. Records what was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::{sync::RwLock, time::timeout};
use tokio_util::sync::CancellationToken;

use super::findings::{Findings, Rule};
use crate::{caller::Caller, kill::SEND};

/// Time for an answer, longer than the gateway's deadline of an operation.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Pause before a retry.
const RETRY_AFTER: Duration = Duration::from_millis(300);
/// Codes that a client retries.
const RETRIED: [&str; 4] = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "RATE_LIMITED"];

const READ: &str = "mutation($input: MarkReadInput!) {
    markRead(input: $input) { version total dialog { unread readSeq } } }";
const DELETE: &str = "mutation($id: ID!) { deleteMessage(id: $id) { id deletedAt } }";
const JOIN: &str =
    "mutation($id: ID!, $users: [ID!]!) { addParticipants(dialogId: $id, userIds: $users) { id } }";
const LEAVE: &str = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";
const COUNTERS: &str = "{ unread { total version dialogs { dialogId unread readSeq } } }";

/// A user, with a caller for each way in: both gateways and the balancer.
pub struct Person {
    pub id: String,
    pub callers: [Caller; 3],
}

pub struct Dialog {
    pub id: String,
    pub direct: bool,
    /// Held during a change of the membership, so that a repeated call undoes no later one.
    membership: tokio::sync::Mutex<()>,
}

impl Dialog {
    pub fn new(id: String, direct: bool) -> Self {
        Self { id, direct, membership: tokio::sync::Mutex::default() }
    }
}

/// A message with the client key that it is sent with.
pub struct Sent {
    pub author: usize,
    pub dialog: usize,
    variables: Value,
    /// Id and seq, once acknowledged.
    pub message: Option<(String, i64)>,
}

/// Calls of one kind of operation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub started: usize,
    pub acknowledged: usize,
    pub repeated: usize,
}

/// Sends that were acknowledged in some time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sends {
    pub acknowledged: usize,
    /// Those among them whose first call was not answered, or answered with a code that clients retry.
    pub repeated: usize,
    /// Longest time from a first call to its acknowledgement.
    pub slowest: Duration,
}

/// Everything acknowledged so far.
#[derive(Default)]
pub struct State {
    /// Participants by dialog.
    pub members: Vec<BTreeSet<usize>>,
    pub sent: BTreeMap<String, Sent>,
    /// Acknowledged messages by dialog: id, seq and author.
    messages: Vec<Vec<(String, i64, usize)>>,
    /// Newest acknowledged read pointers by user and dialog, with the time of the answer.
    pub reads: HashMap<(usize, usize), (i64, Instant)>,
    /// Hash of the counters by user and version.
    versions: HashMap<(usize, String), u64>,
    pub tallies: BTreeMap<&'static str, Tally>,
    /// Sends since [`Load::take_sends`].
    sends: Sends,
    /// Time at rest at which an answer was behind the database last, if any was.
    pub cache_behind: Option<Duration>,
    /// Errors that were retried, by code.
    pub codes: BTreeMap<String, usize>,
}

impl Sends {
    fn add(&mut self, attempts: usize, time: Duration) {
        self.acknowledged += 1;
        self.repeated += usize::from(attempts > 1);
        self.slowest = self.slowest.max(time);
    }
}

/// The users and dialogs under load.
pub struct Load {
    pub people: Vec<Person>,
    pub dialogs: Vec<Dialog>,
    pub state: Mutex<State>,
    pub findings: Findings,
    /// Held for reading during an operation, for writing while the load rests.
    pub gate: RwLock<()>,
    /// Ends all operations.
    pub stop: CancellationToken,
    /// False if the schema has no field `stale`.
    pub has_stale: bool,
    /// True if users know only the balancer.
    pub balanced: bool,
}

/// Final answer to an operation.
enum Answer {
    Acknowledged(Value),
    Refused(String),
}

impl Load {
    pub fn new(
        people: Vec<Person>,
        dialogs: Vec<(Dialog, BTreeSet<usize>)>,
        has_stale: bool,
        balanced: bool,
    ) -> Self {
        let (dialogs, members): (Vec<_>, Vec<_>) = dialogs.into_iter().unzip();
        let messages = vec![Vec::new(); dialogs.len()];
        let state = Mutex::new(State { members, messages, ..State::default() });
        let gate = RwLock::default();
        let stop = CancellationToken::new();
        Self { people, dialogs, state, findings: Findings::default(), gate, stop, has_stale, balanced }
    }

    /// Returns a user's callers, one for each way in that users know.
    pub fn callers(&self, me: usize) -> &[Caller] {
        &self.people[me].callers[if self.balanced { 2 } else { 0 }..]
    }

    /// Returns the sends that were acknowledged since the last call.
    pub fn take_sends(&self) -> Sends {
        std::mem::take(&mut self.state.lock().sends)
    }

    /// Starts a task for each of the first `users`, with operations at this mean interval each.
    pub fn start(
        self: &Arc<Self>,
        users: usize,
        interval: Duration,
        seed: u64,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let start = |me: usize| {
            let load = Arc::clone(self);
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(me as u64));
                while !load.stop.is_cancelled() {
                    let pause = interval.mul_f64(random.random_range(0.1..1.9));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = load.stop.cancelled() => return,
                    }
                    let _running = load.gate.read().await;
                    // It may have ended during the pause.
                    if load.stop.is_cancelled() {
                        return;
                    }
                    load.act(me, users, &mut random).await;
                }
            })
        };
        (0..users).map(start).collect()
    }

    async fn act(&self, me: usize, users: usize, random: &mut StdRng) {
        let mine: Vec<usize> = {
            let state = self.state.lock();
            (0..self.dialogs.len()).filter(|dialog| state.members[*dialog].contains(&me)).collect()
        };
        let Some(&dialog) = mine.choose(random) else { return };
        match random.random_range(0..100) {
            0..50 => self.send(me, dialog, random).await,
            50..65 => self.read(me, dialog, random).await,
            65..72 => self.delete(me, dialog, random).await,
            72..77 => self.join(me, users, dialog, random).await,
            77..80 => self.leave(me, dialog, random).await,
            _ => self.query(me, random).await,
        }
    }

    async fn send(&self, me: usize, dialog: usize, random: &mut StdRng) {
        let key = format!("{:016x}", random.random::<u64>());
        let read_up_to =
            self.message_of(dialog, random).filter(|_| random.random_bool(0.3)).map(|(id, ..)| id);
        self.send_key(me, dialog, key, read_up_to, random).await;
    }

    /// Sends a message until it is acknowledged. Returns its id.
    pub async fn send_key(
        &self,
        me: usize,
        dialog: usize,
        key: String,
        read_up_to: Option<String>,
        random: &mut StdRng,
    ) -> Option<String> {
        let input = json!({"dialogId": self.dialogs[dialog].id, "text": format!("text of {key}"),
            "clientKey": key, "readUpTo": read_up_to});
        let variables = json!({ "input": input });
        let sent = Sent { author: me, dialog, variables: variables.clone(), message: None };
        self.state.lock().sent.insert(key.clone(), sent);
        match self.until_answered("sendMessage", me, random, SEND, variables).await?.0 {
            Answer::Acknowledged(data) => Some(self.record_sent(&key, &data["sendMessage"])),
            Answer::Refused(what) => {
                self.findings.add(Rule::Refused, format!("sendMessage: {what}"));
                None
            }
        }
    }

    fn record_sent(&self, key: &str, message: &Value) -> String {
        let id = message["id"].as_str().unwrap_or_default().to_owned();
        let seq = message["seq"].as_i64().unwrap_or_default();
        let mut state = self.state.lock();
        let sent = state.sent.get_mut(key).expect("it is recorded before it is sent");
        let author = sent.author;
        let dialog = sent.dialog;
        match sent.message.replace((id.clone(), seq)) {
            None => state.messages[dialog].push((id.clone(), seq, author)),
            Some(before) if before == (id.clone(), seq) => {}
            Some(before) => {
                self.findings.add(Rule::Double, format!("key {key}: {before:?} and {:?}", (&id, seq)));
            }
        }
        id
    }

    /// Sends every message again that was not acknowledged, which returns the stored message or stores it.
    pub async fn retry_unacknowledged(&self, random: &mut StdRng) {
        let open: Vec<(String, usize, Value)> = {
            let state = self.state.lock();
            let open = state.sent.iter().filter(|(_, sent)| sent.message.is_none());
            open.map(|(key, sent)| (key.clone(), sent.author, sent.variables.clone())).collect()
        };
        for (key, author, variables) in open {
            let answer = self.until_answered("sendMessage", author, random, SEND, variables).await;
            match answer {
                Some((Answer::Acknowledged(data), _)) => drop(self.record_sent(&key, &data["sendMessage"])),
                Some((Answer::Refused(what), _)) => {
                    self.findings.add(Rule::Refused, format!("repeated sendMessage: {what}"));
                }
                None => {}
            }
        }
    }

    fn message_of(&self, dialog: usize, random: &mut StdRng) -> Option<(String, i64, usize)> {
        self.state.lock().messages[dialog].choose(random).cloned()
    }

    async fn read(&self, me: usize, dialog: usize, random: &mut StdRng) {
        let up_to = self.message_of(dialog, random).filter(|_| random.random_bool(0.6)).map(|(id, ..)| id);
        let variables = json!({"input": {"dialogId": self.dialogs[dialog].id, "upTo": up_to}});
        let Some(answer) = self.until_answered("markRead", me, random, READ, variables).await else { return };
        match answer.0 {
            Answer::Acknowledged(data) => {
                let seq = data["markRead"]["dialog"]["readSeq"].as_i64().unwrap_or_default();
                let mut state = self.state.lock();
                let newest = state.reads.entry((me, dialog)).or_insert((0, Instant::now()));
                if newest.0 < seq {
                    *newest = (seq, Instant::now());
                }
            }
            Answer::Refused(what) => self.findings.add(Rule::Refused, format!("markRead: {what}")),
        }
    }

    async fn delete(&self, me: usize, dialog: usize, random: &mut StdRng) {
        let mine: Vec<String> = {
            let state = self.state.lock();
            let mine = state.messages[dialog].iter().filter(|(_, _, author)| *author == me);
            mine.map(|(id, ..)| id.clone()).collect()
        };
        let Some(id) = mine.choose(random) else { return };
        let answer = self.until_answered("deleteMessage", me, random, DELETE, json!({"id": id})).await;
        if let Some((Answer::Refused(what), _)) = answer {
            self.findings.add(Rule::Refused, format!("deleteMessage: {what}"));
        }
    }

    async fn join(&self, me: usize, users: usize, dialog: usize, random: &mut StdRng) {
        if self.dialogs[dialog].direct {
            return;
        }
        let _only = self.dialogs[dialog].membership.lock().await;
        let others: Vec<usize> = {
            let state = self.state.lock();
            (0..users).filter(|user| !state.members[dialog].contains(user)).collect()
        };
        let Some(&other) = others.choose(random) else { return };
        let variables = json!({"id": self.dialogs[dialog].id, "users": [self.people[other].id]});
        match self.until_answered("addParticipants", me, random, JOIN, variables).await {
            Some((Answer::Acknowledged(_), _)) => drop(self.state.lock().members[dialog].insert(other)),
            Some((Answer::Refused(what), _)) => {
                self.findings.add(Rule::Refused, format!("addParticipants: {what}"));
            }
            None => {}
        }
    }

    async fn leave(&self, me: usize, dialog: usize, random: &mut StdRng) {
        let _only = self.dialogs[dialog].membership.lock().await;
        if self.dialogs[dialog].direct || self.state.lock().members[dialog].len() <= 2 {
            return;
        }
        let variables = json!({"id": self.dialogs[dialog].id});
        match self.until_answered("leaveDialog", me, random, LEAVE, variables).await {
            // A repeated call finds that the first one has succeeded.
            Some((Answer::Refused(what), attempts)) if attempts == 1 || !what.contains("NOT_FOUND") => {
                self.findings.add(Rule::Refused, format!("leaveDialog: {what}"));
            }
            Some(_) => drop(self.state.lock().members[dialog].remove(&me)),
            None => {}
        }
    }

    async fn query(&self, me: usize, random: &mut StdRng) {
        match self.until_answered("unread", me, random, COUNTERS, json!({})).await {
            Some((Answer::Acknowledged(data), _)) => self.record_counters(me, &data["unread"]),
            Some((Answer::Refused(what), _)) => self.findings.add(Rule::Refused, format!("unread: {what}")),
            None => {}
        }
    }

    /// Compares an answer of `unread` with earlier ones at the same version, and its total with its rows.
    pub fn record_counters(&self, me: usize, unread: &Value) {
        let number = |value: &Value| value.as_i64().unwrap_or(-1);
        let mut rows: Vec<(&str, i64, i64)> = unread["dialogs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| {
                (
                    row["dialogId"].as_str().unwrap_or_default(),
                    number(&row["unread"]),
                    number(&row["readSeq"]),
                )
            })
            .collect();
        rows.sort_unstable();
        let total = number(&unread["total"]);
        let version = unread["version"].as_str().unwrap_or_default().to_owned();
        if rows.iter().map(|row| row.1).sum::<i64>() != total {
            self.findings
                .add(Rule::TwoStates, format!("total {total} of user {me} at {version}, rows {rows:?}"));
        }
        let mut hasher = DefaultHasher::new();
        (total, &rows).hash(&mut hasher);
        let hash = hasher.finish();
        let known = *self.state.lock().versions.entry((me, version.clone())).or_insert(hash);
        if known != hash {
            self.findings
                .add(Rule::TwoStates, format!("user {me} at {version}: total {total}, rows {rows:?}"));
        }
    }

    /// Executes an operation, again and again if it is not answered. Returns the answer and the number of
    /// attempts; `None` when the run ends first.
    async fn until_answered(
        &self,
        operation: &'static str,
        me: usize,
        random: &mut StdRng,
        document: &str,
        variables: Value,
    ) -> Option<(Answer, usize)> {
        self.state.lock().tallies.entry(operation).or_default().started += 1;
        let started = Instant::now();
        for attempt in 1.. {
            let caller = self.callers(me).choose(random).expect("there is one");
            let call = timeout(ANSWER_MAX, caller.try_execute(document, variables.clone()));
            let answer = tokio::select! {
                answer = call => answer.ok().flatten(),
                () = self.stop.cancelled() => return None,
            };
            let code = match answer {
                None => "no answer".to_owned(),
                Some(answer) if answer["errors"].is_null() => {
                    let mut state = self.state.lock();
                    state.tallies.entry(operation).or_default().acknowledged += 1;
                    if operation == "sendMessage" {
                        state.sends.add(attempt, started.elapsed());
                    }
                    drop(state);
                    return Some((Answer::Acknowledged(answer["data"].clone()), attempt));
                }
                Some(answer) => {
                    let code =
                        answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("no code").to_owned();
                    if !RETRIED.contains(&code.as_str()) {
                        return Some((Answer::Refused(answer["errors"].to_string()), attempt));
                    }
                    code
                }
            };
            {
                let mut state = self.state.lock();
                *state.codes.entry(code).or_default() += 1;
                state.tallies.entry(operation).or_default().repeated += 1;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_AFTER) => {}
                () = self.stop.cancelled() => return None,
            }
        }
        None
    }
}
