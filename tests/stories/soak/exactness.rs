//! Comparison of everything that says a count: what was acknowledged, dialog's tables, the counter's tables,
//! GraphQL at both gateways, and the clients' folded states.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{findings::Rule, load::Load, system::System, tables::Tables, watcher::Watcher};
use crate::caller::Caller;

/// Time for outboxes and sagas to end without load.
const REST_MAX: Duration = Duration::from_secs(90);
/// Time after which an answer must be exact or stale although the counter is behind dialog.
const BEHIND_MAX: Duration = Duration::from_secs(5);
/// Time for the cache to catch up: after an outage of Redis its writer retries every 5 s.
const CACHE_MAX: Duration = Duration::from_secs(10);
/// Root fields that a document may have.
const ROOT_FIELDS_MAX: usize = 20;
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Time for a client to reconnect, with a 20 s timeout for a silent gateway, and to reach the state.
const VIEW_MAX: Duration = Duration::from_secs(60);

/// Waits until outboxes are empty, nothing is PENDING and the counter has applied everything; the load must
/// be paused. While the counter is behind, checks that its numbers say so.
pub async fn rest(load: &Load, system: &System) {
    let started = Instant::now();
    let mut answers_checked = false;
    loop {
        let state = backlog(system).await;
        let behind = match &state {
            Ok((0, 0, unapplied)) if unapplied.is_empty() => return,
            Ok((0, 0, _)) => true,
            _ => false,
        };
        if behind && !answers_checked && started.elapsed() > BEHIND_MAX {
            answers_checked = true;
            if let Ok(tables) = tables(system).await {
                answers(load, &tables).await;
            }
        }
        if started.elapsed() > REST_MAX {
            let state = match state {
                Ok((events, pending, unapplied)) => {
                    format!("{events} events in outboxes, {pending} PENDING, unapplied: {unapplied:?}")
                }
                Err(error) => error.to_string(),
            };
            load.findings.add(Rule::NotAtRest, format!("after {REST_MAX:?}: {state}"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn backlog(system: &System) -> Result<(i64, i64, Vec<String>), db::Error> {
    let databases = system.databases().await?;
    let (events, pending) = databases.backlog(i64::MAX).await?;
    let unapplied = databases.unapplied().await?;
    databases.close().await;
    Ok((events, pending, unapplied))
}

pub async fn tables(system: &System) -> Result<Tables, db::Error> {
    let databases = system.databases().await?;
    let tables = Tables::read(&databases).await?;
    databases.close().await;
    Ok(tables)
}

/// Compares everything. The load must be paused and the system at rest. Returns the number of stale answers.
pub async fn check(load: &Load, system: &System, watchers: &[(usize, Watcher)]) -> usize {
    let tables = match tables(system).await {
        Ok(tables) => tables,
        Err(error) => {
            load.findings.add(Rule::NotAtRest, format!("the tables cannot be read: {error}"));
            return 0;
        }
    };
    acknowledged(load, &tables);
    memberships(load, &tables);
    let stale = answers(load, &tables).await;
    if stale == 0 {
        stored(load, &tables);
    }
    join_all(watchers.iter().map(|(me, watcher)| view(load, *me, watcher))).await;
    stale
}

/// Everything acknowledged is stored once.
fn acknowledged(load: &Load, tables: &Tables) {
    let state = load.state.lock();
    let mut stored = std::collections::HashMap::new();
    for (dialog, messages) in &tables.messages {
        for message in messages {
            stored.insert(message.id, (*dialog, message.seq, message.author));
            if message.status == "failed" {
                load.findings.add(Rule::Failed, format!("message {} of {dialog}", message.id));
            }
        }
    }
    let mut keyed = 0;
    for (key, sent) in &state.sent {
        let author = uuid(&load.people[sent.author].id);
        let of_key = tables.keys.get(&(author, key.clone()));
        keyed += usize::from(of_key.is_some());
        let Some((id, seq)) = &sent.message else { continue };
        let expected = (uuid(&load.dialogs[sent.dialog].id), *seq, author);
        if of_key != Some(&uuid(id)) || stored.get(&uuid(id)) != Some(&expected) {
            load.findings.add(Rule::Lost, format!("message {id} of key {key}, seq {seq}: {of_key:?}"));
        }
    }
    for _ in keyed..stored.len() {
        load.findings.add(Rule::Double, format!("{} messages for {keyed} keys", stored.len()));
    }
    for ((user, dialog), (seq, _)) in &state.reads {
        let key = (uuid(&load.dialogs[*dialog].id), uuid(&load.people[*user].id));
        let pointer = tables.members.get(&key).map_or(0, |member| member.read_seq);
        if pointer < *seq {
            load.findings.add(Rule::ReadLost, format!("user {user}, {}: {pointer} after {seq}", key.0));
        }
    }
}

fn memberships(load: &Load, tables: &Tables) {
    let state = load.state.lock();
    for (dialog, members) in load.dialogs.iter().zip(&state.members) {
        let expected = members.iter().map(|user| uuid(&load.people[*user].id)).collect();
        let stored = tables.participants(uuid(&dialog.id));
        if stored != expected {
            load.findings.add(Rule::Membership, format!("{}: {stored:?}, expected {expected:?}", dialog.id));
        }
    }
}

/// The counter's tables equal the calculated counts, and the ledger equals the messages.
fn stored(load: &Load, tables: &Tables) {
    for ((dialog, user), member) in &tables.members {
        let expected = tables.unread(*dialog, *user);
        if member.stored != Some(expected) {
            let what = format!("user {user}, {dialog}: {:?}, expected {expected}", member.stored);
            load.findings.add(Rule::Tables, what);
        }
    }
    for (dialog, messages) in &tables.messages {
        for message in messages {
            let expected = (message.id, message.status == "committed" && !message.deleted);
            let entry =
                tables.ledger.get(&(*dialog, message.seq)).map(|entry| (entry.message, entry.counted));
            if entry != Some(expected) {
                let what = format!("ledger {dialog} {}: {entry:?}, expected {expected:?}", message.seq);
                load.findings.add(Rule::Tables, what);
            }
        }
    }
    let messages: usize = tables.messages.values().map(Vec::len).sum();
    if tables.ledger.len() != messages {
        load.findings.add(Rule::Tables, format!("{} ledger rows, {messages} messages", tables.ledger.len()));
    }
}

/// Every number of every user at both gateways is exact, or stale, within [`CACHE_MAX`]. Returns the number
/// of stale ones.
async fn answers(load: &Load, tables: &Tables) -> usize {
    let mut stale = 0;
    let started = Instant::now();
    for (me, person) in load.people.iter().enumerate() {
        let user = uuid(&person.id);
        let dialogs: Vec<Uuid> = load
            .dialogs
            .iter()
            .map(|dialog| uuid(&dialog.id))
            .filter(|dialog| tables.participants(*dialog).contains(&user))
            .collect();
        let documents = counters_documents(&dialogs, load.has_stale);
        for caller in &person.callers[..2] {
            loop {
                let data = match counters(caller, &documents).await {
                    Ok(data) => data,
                    Err(answer) => {
                        load.findings.add(Rule::Refused, format!("counters of user {me} at rest: {answer}"));
                        break;
                    }
                };
                let compared = compare(load, me, tables, &dialogs, &data);
                if !compared.wrong.is_empty() && started.elapsed() < CACHE_MAX {
                    {
                        let mut state = load.state.lock();
                        state.cache_behind = state.cache_behind.max(Some(started.elapsed()));
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                compared.wrong.into_iter().for_each(|what| load.findings.add(Rule::WrongWithoutStale, what));
                stale += compared.stale;
                break;
            }
        }
    }
    stale
}

/// Result of the comparison of one answer.
#[derive(Default)]
struct Compared {
    /// Number of stale numbers.
    stale: usize,
    /// A line for each number that is wrong and not stale.
    wrong: Vec<String>,
}

/// Compares one user's answer with the calculated counts.
fn compare(load: &Load, me: usize, tables: &Tables, dialogs: &[Uuid], data: &Value) -> Compared {
    let user = uuid(&load.people[me].id);
    let mut compared = Compared::default();
    let mut expect = |what: String, answer: &Value, is_stale: bool, expected: i64| {
        compared.stale += usize::from(is_stale);
        if !is_stale && answer.as_i64() != Some(expected) {
            compared.wrong.push(format!("user {me}, {what}: {answer}, expected {expected}"));
        }
    };
    let mut total = 0;
    for (number, dialog) in dialogs.iter().enumerate() {
        let row = &data[format!("d{number}")];
        let expected = tables.unread(*dialog, user);
        total += expected;
        expect(format!("dialog {dialog}"), &row["unread"], row["stale"] == true, expected);
    }
    let unread = &data["unread"];
    let list_is_stale = unread["stale"] == true;
    expect("total".to_owned(), &unread["total"], list_is_stale, total);
    let listed = |dialog: &Uuid| {
        let rows = unread["dialogs"].as_array().into_iter().flatten();
        rows.into_iter().find(|row| row["dialogId"] == dialog.to_string().as_str())
    };
    for dialog in dialogs {
        let row = listed(dialog);
        let is_stale = row.map_or(list_is_stale, |row| row["stale"] == true);
        let zero = json!(0);
        let answer = row.map_or(&zero, |row| &row["unread"]);
        expect(format!("list, dialog {dialog}"), answer, is_stale, tables.unread(*dialog, user));
    }
    load.record_counters(me, unread);
    compared
}

/// Executes the documents and returns their data together, or the first answer with an error.
async fn counters(caller: &Caller, documents: &[String]) -> Result<Value, Value> {
    let mut data = serde_json::Map::new();
    for document in documents {
        let answer = tokio::time::timeout(ANSWER_MAX, caller.try_execute(document, json!({}))).await;
        let mut answer = answer.ok().flatten().unwrap_or_default();
        match (answer["errors"].is_null(), answer["data"].take()) {
            (true, Value::Object(part)) => data.extend(part),
            (_, part) => {
                answer["data"] = part;
                return Err(answer);
            }
        }
    }
    Ok(Value::Object(data))
}

/// Returns documents that ask for the counts of these dialogs, each with as many root fields as a document
/// may have.
fn counters_documents(dialogs: &[Uuid], has_stale: bool) -> Vec<String> {
    let stale = if has_stale { "stale" } else { "" };
    let unread = format!("unread {{ total version {stale} dialogs {{ dialogId unread readSeq {stale} }} }}");
    let dialog = |(number, dialog): (usize, &Uuid)| {
        format!("d{number}: dialogUnread(dialogId: \"{dialog}\") {{ unread readSeq {stale} }}")
    };
    let fields: Vec<String> = std::iter::once(unread).chain(dialogs.iter().enumerate().map(dialog)).collect();
    fields.chunks(ROOT_FIELDS_MAX).map(|fields| format!("{{ {} }}", fields.join(" "))).collect()
}

/// A client's folded state reaches the server's version and equals its state.
async fn view(load: &Load, me: usize, watcher: &Watcher) {
    let caller = &load.people[me].callers[0];
    let document = "{ unread { total version dialogs { dialogId unread } } }";
    let started = Instant::now();
    loop {
        let answer = caller.try_execute(document, json!({})).await.unwrap_or_default();
        let unread = &answer["data"]["unread"];
        let rows = unread["dialogs"].as_array().into_iter().flatten();
        let rows = rows.map(|row| {
            (
                row["dialogId"].as_str().unwrap_or_default().to_owned(),
                row["unread"].as_i64().unwrap_or_default(),
            )
        });
        let server =
            (unread["version"].as_str().map(str::to_owned), unread["total"].as_i64(), rows.collect());
        let client = {
            let watched = watcher.watched.lock();
            (watched.view.version.clone(), Some(watched.view.total), watched.view.unread.clone())
        };
        if client == server {
            return;
        }
        let same_version = client.0 == server.0 && server.0.is_some();
        if same_version || started.elapsed() > VIEW_MAX {
            let what = format!("user {me}: client {client:?}, server {server:?}");
            load.findings.add(Rule::ViewDiffers, what);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn uuid(id: &str) -> Uuid {
    id.parse().expect("ids of users, dialogs and messages are UUIDs")
}
