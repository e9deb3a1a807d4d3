//! The process killed with SIGKILL again and again under load: nothing acknowledged is lost, nothing is counted twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    app::App,
    device::Device,
    followed::Followed,
    oracle,
    person::Person,
    stack::{ROLES, Stack},
};

const KILLS: u64 = 50;
pub const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id seq } }";
const READ: &str = "mutation($input: MarkReadInput!) { markRead(input: $input) { total } }";
const DELETE: &str = "mutation($id: ID!) { deleteMessage(id: $id) { deletedAt } }";

/// What clients were told, by client key: the message's id and seq, or nothing yet.
type Acknowledged = Arc<Mutex<BTreeMap<Key, Option<(String, i64)>>>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    sender: usize,
    dialog: usize,
    key: String,
}

/// A device's own view of its counters, kept by applying frames.
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
async fn fifty_kills_under_load_lose_nothing_and_count_nothing_twice() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut app = App::start().await;
    let mut people = Vec::new();
    for login in ["ann", "bob", "cleo"] {
        people.push(Person::register(&app, login).await);
    }
    let dialogs = Arc::new(vec![
        people[0].create_group(&[&people[1], &people[2]], "all").await,
        people[1].create_group(&[&people[2]], "two").await,
    ]);
    let acknowledged = Acknowledged::default();
    let mut view = View::default();
    for round in 0..KILLS {
        let life = Duration::from_millis(random.random_range(20..250));
        let load = load(&people, &dialogs, &acknowledged, random.random());
        let mut phone = Device::watching(&people[2], view.version.as_deref()).await;
        let watched = tokio::time::timeout(life, async {
            loop {
                view.apply(&phone.frame("u", "unread").await);
            }
        });
        assert!(watched.await.is_err(), "round {round}");
        let folder = app.kill().await;
        load.abort_all_and_wait().await;
        app = App::start_in(folder, &[]).await;
        people = people.iter().map(|person| person.at(&app)).collect();
    }
    retry_what_was_not_answered(&people, &dialogs, &acknowledged).await;
    everything_acknowledged_is_there_once(&people, &dialogs, &acknowledged).await;
    the_resumed_device_agrees_with_the_server(&people[2], view).await;
    println!("{} kills, {} messages acknowledged", KILLS, acknowledged.lock().unwrap().len());
    let (folder, _) = app.stop().await;
    oracle::the_databases_agree_with_the_kernel(folder.path()).await;
}

/// Each role of the stack killed again and again under the same load.
pub async fn roles_are_killed_under_load(stack: &mut Stack, kills_each: usize) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = Followed::from_now(stack.kafka_url()).await;
    let mut people = Vec::new();
    for (number, login) in ["ann", "bob", "cleo"].into_iter().enumerate() {
        let place = if number == 1 { stack.elsewhere() } else { (**stack).clone() };
        people.push(Person::register(&place, login).await);
    }
    let dialogs = Arc::new(vec![
        people[0].create_group(&[&people[1], &people[2]], "all").await,
        people[1].create_group(&[&people[2]], "two").await,
    ]);
    let acknowledged = Acknowledged::default();
    for round in 0..kills_each * ROLES.len() {
        let role = ROLES[round % ROLES.len()];
        let load = load(&people, &dialogs, &acknowledged, random.random());
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        stack.kill(role).await;
        load.abort_all_and_wait().await;
        stack.start_role(role);
        stack.is_ready().await;
    }
    retry_what_was_not_answered(&people, &dialogs, &acknowledged).await;
    everything_acknowledged_is_there_once(&people, &dialogs, &acknowledged).await;
    for person in &people {
        stack.cache_agrees(person).await;
    }
    let (kills, messages) = (kills_each * ROLES.len(), acknowledged.lock().unwrap().len());
    println!("{kills} kills of roles, {messages} messages acknowledged, each there once and counted");
    oracle::the_engines_agree_with_the_kernel(stack, &log).await;
}

struct Load(Vec<tokio::task::JoinHandle<()>>);

impl Load {
    async fn abort_all_and_wait(self) {
        for task in self.0 {
            task.abort();
            drop(task.await);
        }
    }
}

/// Everybody sends, reads and deletes, as fast as they are answered, until nobody answers.
fn load(people: &[Person], dialogs: &Arc<Vec<String>>, acknowledged: &Acknowledged, seed: u64) -> Load {
    let tasks = people.iter().enumerate().map(|(sender, person)| {
        let (person, dialogs, acknowledged) = (person.clone(), Arc::clone(dialogs), Arc::clone(acknowledged));
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(sender as u64));
            while act(sender, &person, &dialogs, &acknowledged, &mut random).await.is_some() {}
        })
    });
    Load(tasks.collect())
}

async fn act(
    sender: usize,
    person: &Person,
    dialogs: &[String],
    told: &Acknowledged,
    random: &mut StdRng,
) -> Option<()> {
    let dialog = if sender == 0 { 0 } else { random.random_range(0..dialogs.len()) };
    match random.random_range(0..10) {
        0..7 => {
            let key = Key { sender, dialog, key: format!("{:016x}", random.random::<u64>()) };
            told.lock().unwrap().insert(key.clone(), None);
            let message = send(person, dialogs, &key).await?;
            told.lock().unwrap().insert(key, Some(message));
        }
        7..9 => {
            person.try_ask(READ, json!({"input": {"dialogId": dialogs[dialog]}})).await?;
        }
        _ => {
            let mine: Vec<String> = {
                let told = told.lock().unwrap();
                let mine = told
                    .iter()
                    .filter(|(key, _)| key.sender == sender)
                    .filter_map(|(_, message)| message.clone());
                mine.map(|(id, _)| id).collect()
            };
            if !mine.is_empty() {
                let id = &mine[random.random_range(0..mine.len())];
                person.try_ask(DELETE, json!({"id": id})).await?;
            }
        }
    }
    Some(())
}

async fn send(person: &Person, dialogs: &[String], key: &Key) -> Option<(String, i64)> {
    let input = json!({"dialogId": dialogs[key.dialog], "text": format!("text of {}", key.key), "clientKey": key.key});
    let answer = person.try_ask(SEND, json!({"input": input})).await?;
    let message = &answer["data"]["sendMessage"];
    Some((message["id"].as_str()?.to_owned(), message["seq"].as_i64()?))
}

/// The seq of a message that is sent again under its key for as long as nobody answers.
pub async fn send_until_answered(person: &Person, dialog: &str, key: &str) -> i64 {
    let input = json!({"input": {"dialogId": dialog, "text": "hello", "clientKey": key}});
    for _ in 0..10 {
        let answer = person.try_ask(SEND, input.clone()).await.unwrap_or_default();
        if let Some(seq) = answer["data"]["sendMessage"]["seq"].as_i64() {
            return seq;
        }
    }
    panic!("a message was not taken ten times");
}

/// A client that was not answered sends again under the same key: it finds its message or makes it.
async fn retry_what_was_not_answered(people: &[Person], dialogs: &[String], told: &Acknowledged) {
    let keys: Vec<(Key, Option<(String, i64)>)> = told.lock().unwrap().clone().into_iter().collect();
    for (key, before) in keys {
        let message = send(&people[key.sender], dialogs, &key).await.expect("a retry is answered");
        if let Some(before) = before {
            assert_eq!(message, before, "one client key, one message");
        }
        told.lock().unwrap().insert(key, Some(message));
    }
}

async fn everything_acknowledged_is_there_once(people: &[Person], dialogs: &[String], told: &Acknowledged) {
    let told = told.lock().unwrap().clone();
    for (number, dialog) in dialogs.iter().enumerate() {
        let mut expected: Vec<(i64, String)> = Vec::new();
        for (key, message) in &told {
            if key.dialog == number {
                let (id, seq) = message.clone().expect("answered by now");
                expected.push((seq, id));
            }
        }
        expected.sort_unstable();
        let reader = &people[1];
        eventually("every message is COMMITTED", || async {
            oracle::history(reader, dialog).await.iter().all(|message| message["status"] == "COMMITTED")
        })
        .await;
        let history = oracle::history(reader, dialog).await;
        let stored: Vec<(i64, String)> = history
            .iter()
            .map(|message| (message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(stored, expected, "what was acknowledged is stored, once, and nothing else");
        assert!(stored.iter().map(|(seq, _)| *seq).eq(1..=stored.len() as i64), "seq has no gaps");
        for person in people.iter().skip(number) {
            oracle::unread_is_exact(person, dialog, &history).await;
        }
    }
}

async fn the_resumed_device_agrees_with_the_server(person: &Person, mut view: View) {
    let data = person.data("{ unread { total version dialogs { dialogId unread } } }", json!({})).await;
    let mut phone = Device::watching(person, view.version.as_deref()).await;
    while view.version.as_deref() != data["unread"]["version"].as_str() {
        view.apply(&phone.frame("u", "unread").await);
    }
    let mut server = BTreeMap::new();
    for row in data["unread"]["dialogs"].as_array().unwrap() {
        server.insert(row["dialogId"].as_str().unwrap().to_owned(), row["unread"].as_i64().unwrap());
    }
    assert_eq!((view.total, view.unread), (data["unread"]["total"].as_i64().unwrap(), server));
}
