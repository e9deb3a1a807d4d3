//! Repeated SIGKILL under load: no acknowledged message is lost, and none is counted twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    app::App,
    caller::Caller,
    endpoint::Endpoint,
    log_recorder::LogRecorder,
    oracle,
    socket_client::SocketClient,
    stack::{ROLES, Stack},
};

const KILLS: u64 = 50;
/// Number of crashes of one process at each failpoint; `CRASHES_EACH` in the environment is another one. A
/// role crashes a fifth as often at each of its failpoints, of which there are more.
const CRASHES_EACH: usize = 10;
/// Failpoints of a role: around commits, publications, deletions from the outbox, and stored offsets.
const FAILPOINTS: [&str; 7] =
    ["commit", "committed", "publish", "acknowledged", "deleted", "offsets", "offsets_stored"];
pub const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id seq } }";
const READ: &str = "mutation($input: MarkReadInput!) { markRead(input: $input) { total } }";
const DELETE: &str = "mutation($id: ID!) { deleteMessage(id: $id) { deletedAt } }";

fn crashes_each() -> usize {
    let number = std::env::var("CRASHES_EACH").ok().map(|text| text.parse().expect("CRASHES_EACH: a number"));
    number.unwrap_or(CRASHES_EACH)
}

/// Sent messages by client key: the acknowledged id and seq, `None` before the acknowledgement.
type Sent = Arc<Mutex<BTreeMap<Key, Option<(String, i64)>>>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    sender: usize,
    dialog: usize,
    key: String,
}

/// A client's view of its counters, built by applying frames.
#[derive(Default)]
pub struct View {
    pub version: Option<String>,
    pub total: i64,
    pub unread: BTreeMap<String, i64>,
}

impl View {
    pub fn apply(&mut self, frame: &Value) {
        if frame["kind"] == "SNAPSHOT" {
            self.unread.clear();
        }
        self.version = frame["version"].as_str().map(str::to_owned);
        self.total = frame["total"].as_i64().unwrap();
        for row in frame["changed"].as_array().unwrap() {
            self.unread.insert(row["dialogId"].as_str().unwrap().to_owned(), row["unread"].as_i64().unwrap());
        }
        self.unread.retain(|_, unread| *unread > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_under_load_lose_and_double_nothing() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut app = App::start().await;
    let mut callers = register([&app, &app, &app]).await;
    let dialogs = create_dialogs(&callers).await;
    let acknowledged = Sent::default();
    let mut view = View::default();
    for round in 0..KILLS {
        let life = Duration::from_millis(random.random_range(20..250));
        let load = load(&callers, &dialogs, &acknowledged, random.random());
        let mut phone = SocketClient::watch_unread(&callers[2], view.version.as_deref()).await;
        let watched = tokio::time::timeout(life, async {
            loop {
                view.apply(&phone.frame("u", "unread").await);
            }
        });
        assert!(watched.await.is_err(), "round {round}");
        let folder = app.kill().await;
        load.abort_all_and_wait().await;
        app = App::start_in(folder, &[]).await;
        callers = callers.iter().map(|caller| caller.at(&app)).collect();
    }
    retry_unacknowledged(&callers, &dialogs, &acknowledged).await;
    assert_acknowledged_are_stored_once(&callers, &dialogs, &acknowledged).await;
    assert_resumed_view_matches_server(&callers[2], view).await;
    println!("{} kills, {} messages acknowledged", KILLS, acknowledged.lock().len());
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

/// Kills each role of the stack repeatedly under the same load.
pub async fn roles_are_killed_under_load(stack: &mut Stack, kills_each: usize) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = LogRecorder::start(stack.kafka_url()).await;
    let callers = register([&**stack, &stack.second_gateway(), &**stack]).await;
    let dialogs = create_dialogs(&callers).await;
    let acknowledged = Sent::default();
    for round in 0..kills_each * ROLES.len() {
        let role = ROLES[round % ROLES.len()];
        let load = load(&callers, &dialogs, &acknowledged, random.random());
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        stack.kill(role).await;
        load.abort_all_and_wait().await;
        stack.start_role(role);
        stack.wait_until_ready().await;
    }
    retry_unacknowledged(&callers, &dialogs, &acknowledged).await;
    assert_acknowledged_are_stored_once(&callers, &dialogs, &acknowledged).await;
    for caller in &callers {
        stack.wait_for_cache(caller).await;
    }
    let kills = kills_each * ROLES.len();
    let messages = acknowledged.lock().len();
    println!("{kills} kills of roles, {messages} messages acknowledged, each stored once and counted");
    oracle::assert_engines_match_kernel(stack, &log).await;
}

/// Ends one process at each failpoint, several times, under the same load. Requires a program with the
/// feature `failpoints`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "requires a program with failpoints (make prove)"]
async fn a_crash_at_any_commit_of_one_process_loses_and_doubles_nothing() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut app = App::start().await;
    let mut callers = register([&app, &app, &app]).await;
    let dialogs = create_dialogs(&callers).await;
    let acknowledged = Sent::default();
    let mut crashes = 0;
    for point in ["commit", "committed"] {
        for _ in 0..crashes_each() {
            // The first commits are those of the start, and of events that the crash before left over.
            let failpoint = format!("{point}:{}", random.random_range(40..120));
            let (folder, _) = app.stop().await;
            app = App::start_in(folder, &[("FAILPOINT", &failpoint)]).await;
            callers = callers.iter().map(|caller| caller.at(&app)).collect();
            let load = load(&callers, &dialogs, &acknowledged, random.random());
            let folder = app.crash().await;
            load.abort_all_and_wait().await;
            crashes += 1;
            app = App::start_in(folder, &[]).await;
            callers = callers.iter().map(|caller| caller.at(&app)).collect();
        }
    }
    retry_unacknowledged(&callers, &dialogs, &acknowledged).await;
    assert_acknowledged_are_stored_once(&callers, &dialogs, &acknowledged).await;
    println!("{crashes} crashes at failpoints, {} messages acknowledged", acknowledged.lock().len());
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

/// The same for the roles on PostgreSQL, Redis and Kafka, at each failpoint of the relay and the consumer
/// too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "requires a program with failpoints (make prove)"]
async fn engines_a_crash_at_any_failpoint_of_a_role_loses_and_doubles_nothing() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = LogRecorder::start(stack.kafka_url()).await;
    let callers = register([&stack, &stack, &stack]).await;
    let dialogs = create_dialogs(&callers).await;
    let acknowledged = Sent::default();
    let mut crashes = 0;
    for role in ["dialog", "counter"] {
        for point in FAILPOINTS {
            for _ in 0..crashes_each().div_ceil(5) {
                stack.stop(role).await;
                stack.set(role, "FAILPOINT", &format!("{point}:{}", random.random_range(1..12)));
                stack.start_role(role);
                // Some crash while they start, with what the crash before left over.
                for _ in 0..12 {
                    if stack.has_crashed_or_is_ready(role).await {
                        break;
                    }
                    // The load ends when a call is not answered, here also before a failpoint is passed.
                    let load = load(&callers, &dialogs, &acknowledged, random.random());
                    stack.crashes_within(role, Duration::from_secs(5)).await;
                    load.abort_all_and_wait().await;
                }
                stack.crash(role).await;
                crashes += 1;
                stack.set(role, "FAILPOINT", "");
                stack.start_role(role);
                stack.wait_until_ready().await;
            }
        }
    }
    retry_unacknowledged(&callers, &dialogs, &acknowledged).await;
    assert_acknowledged_are_stored_once(&callers, &dialogs, &acknowledged).await;
    println!("{crashes} crashes at failpoints, {} messages acknowledged", acknowledged.lock().len());
    oracle::assert_engines_match_kernel(&stack, &log).await;
}

/// Registers three users, each at an endpoint.
async fn register(endpoints: [&Endpoint; 3]) -> Vec<Caller> {
    let mut callers = Vec::new();
    for (endpoint, login) in endpoints.into_iter().zip(["ann", "bob", "cleo"]) {
        callers.push(Caller::register(endpoint, login).await);
    }
    callers
}

/// Creates a dialog of all three, and one of the last two.
async fn create_dialogs(callers: &[Caller]) -> Arc<Vec<String>> {
    Arc::new(vec![
        callers[0].create_group(&[&callers[1], &callers[2]], "all").await,
        callers[1].create_group(&[&callers[2]], "two").await,
    ])
}

/// Tasks that generate load.
struct Load(Vec<tokio::task::JoinHandle<()>>);

impl Load {
    async fn abort_all_and_wait(self) {
        for task in self.0 {
            task.abort();
            drop(task.await);
        }
    }
}

/// Starts a task for each caller that sends, reads and deletes without pause until the gateway stops
/// responding.
fn load(callers: &[Caller], dialogs: &Arc<Vec<String>>, acknowledged: &Sent, seed: u64) -> Load {
    let tasks = callers.iter().enumerate().map(|(sender, caller)| {
        let caller = caller.clone();
        let dialogs = Arc::clone(dialogs);
        let acknowledged = Arc::clone(acknowledged);
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(sender as u64));
            while act(sender, &caller, &dialogs, &acknowledged, &mut random).await.is_some() {}
        })
    });
    Load(tasks.collect())
}

async fn act(
    sender: usize,
    caller: &Caller,
    dialogs: &[String],
    acknowledged: &Sent,
    random: &mut StdRng,
) -> Option<()> {
    let dialog = if sender == 0 { 0 } else { random.random_range(0..dialogs.len()) };
    match random.random_range(0..10) {
        0..7 => {
            let key = Key { sender, dialog, key: format!("{:016x}", random.random::<u64>()) };
            acknowledged.lock().insert(key.clone(), None);
            let message = send(caller, dialogs, &key).await?;
            acknowledged.lock().insert(key, Some(message));
        }
        7..9 => {
            caller.try_execute(READ, json!({"input": {"dialogId": dialogs[dialog]}})).await?;
        }
        _ => {
            let mine: Vec<String> = {
                let acknowledged = acknowledged.lock();
                let mine = acknowledged
                    .iter()
                    .filter(|(key, _)| key.sender == sender)
                    .filter_map(|(_, message)| message.clone());
                mine.map(|(id, _)| id).collect()
            };
            if !mine.is_empty() {
                let id = &mine[random.random_range(0..mine.len())];
                caller.try_execute(DELETE, json!({"id": id})).await?;
            }
        }
    }
    Some(())
}

async fn send(caller: &Caller, dialogs: &[String], key: &Key) -> Option<(String, i64)> {
    let text = format!("text of {}", key.key);
    let input = json!({"dialogId": dialogs[key.dialog], "text": text, "clientKey": key.key});
    let answer = caller.try_execute(SEND, json!({"input": input})).await?;
    let message = &answer["data"]["sendMessage"];
    Some((message["id"].as_str()?.to_owned(), message["seq"].as_i64()?))
}

/// Sends a message, retrying with the same client key until it is acknowledged. Returns its seq.
pub async fn send_until_answered(caller: &Caller, dialog: &str, key: &str) -> i64 {
    let input = json!({"input": {"dialogId": dialog, "text": "hello", "clientKey": key}});
    for _ in 0..10 {
        let answer = caller.try_execute(SEND, input.clone()).await.unwrap_or_default();
        if let Some(seq) = answer["data"]["sendMessage"]["seq"].as_i64() {
            return seq;
        }
    }
    panic!("a message was not accepted in ten attempts");
}

/// Sends every message again with its client key, which returns the existing message or creates it.
async fn retry_unacknowledged(callers: &[Caller], dialogs: &[String], acknowledged: &Sent) {
    let keys: Vec<(Key, Option<(String, i64)>)> = acknowledged.lock().clone().into_iter().collect();
    for (key, before) in keys {
        let message = send(&callers[key.sender], dialogs, &key).await.expect("a retry is answered");
        if let Some(before) = before {
            assert_eq!(message, before, "one client key, one message");
        }
        acknowledged.lock().insert(key, Some(message));
    }
}

async fn assert_acknowledged_are_stored_once(callers: &[Caller], dialogs: &[String], acknowledged: &Sent) {
    let acknowledged = acknowledged.lock().clone();
    for (number, dialog) in dialogs.iter().enumerate() {
        let mut expected: Vec<(i64, String)> = Vec::new();
        for (key, message) in &acknowledged {
            if key.dialog == number {
                let (id, seq) = message.clone().expect("acknowledged by the retry");
                expected.push((seq, id));
            }
        }
        expected.sort_unstable();
        let reader = &callers[1];
        eventually("every message is COMMITTED", || async {
            oracle::history(reader, dialog).await.iter().all(|message| message["status"] == "COMMITTED")
        })
        .await;
        let history = oracle::history(reader, dialog).await;
        let stored: Vec<(i64, String)> = history
            .iter()
            .map(|message| (message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(stored, expected, "exactly the acknowledged messages are stored, each once");
        assert!(stored.iter().map(|(seq, _)| *seq).eq(1..=stored.len() as i64), "seq has no gaps");
        for caller in callers.iter().skip(number) {
            oracle::assert_unread_is_exact(caller, dialog, &history).await;
        }
    }
}

async fn assert_resumed_view_matches_server(caller: &Caller, mut view: View) {
    let data = caller.data("{ unread { total version dialogs { dialogId unread } } }", json!({})).await;
    let mut phone = SocketClient::watch_unread(caller, view.version.as_deref()).await;
    while view.version.as_deref() != data["unread"]["version"].as_str() {
        view.apply(&phone.frame("u", "unread").await);
    }
    let mut server = BTreeMap::new();
    for row in data["unread"]["dialogs"].as_array().unwrap() {
        server.insert(row["dialogId"].as_str().unwrap().to_owned(), row["unread"].as_i64().unwrap());
    }
    assert_eq!((view.total, view.unread), (data["unread"]["total"].as_i64().unwrap(), server));
}
