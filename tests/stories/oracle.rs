//! Oracle: recomputes counts and states from the messages sent and read, and compares them with the
//! databases once no event is pending.

use std::{collections::BTreeMap, path::Path};

use counter::kernel::{self, Change, Input, State};
use db::{Db, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{caller::Caller, log_recorder::LogRecorder, stack::Stack};

/// Returns the whole history of a dialog, oldest first.
pub async fn history(caller: &Caller, dialog: &str) -> Vec<Value> {
    let document = "query($id: ID!, $after: String) { dialog(id: $id) { messages(first: 100, after: $after) {
        nodes { id seq status senderId deletedAt } pageInfo { hasNextPage endCursor } } } }";
    let mut all = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut data = caller.data(document, json!({"id": dialog, "after": after})).await;
        let page = &mut data["dialog"]["messages"];
        all.append(page["nodes"].as_array_mut().unwrap());
        if page["pageInfo"]["hasNextPage"] != true {
            return all;
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

/// Waits until the caller's count equals the number of undeleted messages of others above the caller's
/// read pointer, and until `DialogUnread.messages` are exactly these messages. Holds for callers who have
/// been in the dialog from the start.
pub async fn assert_unread_is_exact(caller: &Caller, dialog: &str, history: &[Value]) {
    let document = "query($id: ID!) { dialogUnread(dialogId: $id) { unread readSeq
        messages(first: 100) { nodes { id } } } }";
    eventually("the count is exact", || async {
        let data = caller.data(document, json!({"id": dialog})).await;
        let read_seq = data["dialogUnread"]["readSeq"].as_i64().unwrap();
        let counts = |message: &&Value| {
            message["seq"].as_i64().unwrap() > read_seq
                && message["senderId"] != caller.id.as_str()
                && message["deletedAt"].is_null()
        };
        let expected: Vec<&Value> = history.iter().filter(counts).map(|message| &message["id"]).collect();
        let messages = data["dialogUnread"]["messages"]["nodes"].as_array().unwrap();
        let is_explained =
            messages.iter().map(|message| &message["id"]).eq(expected.iter().copied().take(100));
        data["dialogUnread"]["unread"].as_u64().unwrap() == expected.len() as u64 && is_explained
    })
    .await;
}

/// A database's rows as text, for comparison.
type Rows = Vec<String>;

/// Asserts that the SQLite files are intact, that there are no dead letters or missing events, and that the
/// stored counters equal those that [`counter::kernel`] computes from the dialog service's events and the
/// users' read pointers. Call it after the process has exited.
pub async fn assert_databases_match_kernel(folder: &Path) {
    let mut databases = Vec::new();
    for name in ["auth", "dialog", "counter"] {
        let db = Db::open_file(&folder.join(format!("{name}.db"))).await.unwrap();
        let integrity =
            query("select integrity_check as verdict from pragma_integrity_check").one(&db).await.unwrap();
        assert_eq!(integrity.get::<String>("verdict").unwrap(), "ok", "{name}.db");
        databases.push(db);
    }
    let [_, dialog, counter] = &databases[..] else { unreachable!("three databases were opened") };
    for (name, db) in [("dialog", dialog), ("counter", counter)] {
        let dead = count(db, "select count(*) as n from outbox where topic = 'tidings.dead'").await;
        assert_eq!(dead, 0, "{name} has dead letters");
    }
    let missing = count(counter, "select count(*) as n from dialog_applied where missing <> '[]'").await;
    assert_eq!(missing, 0, "events are missing");
    assert_counters_match_kernel(events(dialog).await, counter).await;
}

/// Waits until Postgres and Kafka hold no pending work: the outboxes are empty, no message is PENDING, and
/// the counter has applied every event. Then asserts:
///
/// * the log has every version of every dialog at least once and in order;
/// * there are no dead letters or missing events;
/// * the stored counters equal those that [`counter::kernel`] computes from the log.
pub async fn assert_engines_match_kernel(stack: &Stack, log: &LogRecorder) {
    let [auth, dialog, counter] =
        [stack.database("auth").await, stack.database("dialog").await, stack.database("counter").await];
    for (name, db) in [("auth", &auth), ("dialog", &dialog), ("counter", &counter)] {
        eventually(&format!("the outbox of {name} is empty"), || async {
            count(db, "select count(*) as n from outbox").await == 0
        })
        .await;
    }
    eventually("nothing is PENDING", || async {
        count(&dialog, "select count(*) as n from message where status = 'pending'").await == 0
    })
    .await;
    let versions = query("select id, version from dialog").all(&dialog).await.unwrap();
    let versions: BTreeMap<String, i64> = versions
        .iter()
        .map(|row| (row.get::<uuid::Uuid>("id").unwrap().to_string(), row.get("version").unwrap()))
        .collect();
    eventually("the log is read to its end", || async { log.versions().newest == versions }).await;
    eventually("everything is applied", || async {
        count(&counter, "select cast(coalesce(sum(version), 0) as bigint) as n from dialog_applied").await
            == versions.values().sum::<i64>()
    })
    .await;
    assert_eq!(count(&counter, "select count(*) as n from dialog_applied where missing <> '[]'").await, 0);
    assert!(log.dead_letters().is_empty(), "dead letters: {:?}", log.dead_letters());
    let records = log.dialog_records();
    let inputs = records.iter().flat_map(|record| counter::event::decode(&record.payload).unwrap()).collect();
    assert_counters_match_kernel(inputs, &counter).await;
    println!(
        "{} records of dialog, {} of them repetitions, none lost, none out of order",
        records.len(),
        log.versions().repeated
    );
}

async fn count(db: &Db, select: &'static str) -> i64 {
    query(select).one(db).await.unwrap().get("n").unwrap()
}

async fn assert_counters_match_kernel(mut inputs: Vec<Input>, counter: &Db) {
    let mut state = State::default();
    inputs.extend(read_pointers(counter).await);
    kernel::transact(&mut state, &inputs);
    assert_eq!(stored_counters(counter).await, kernel_counters(&state), "unread by user and dialog");
    assert_eq!(stored_ledger(counter).await, kernel_ledger(&state), "state of every message");
    println!("{} events replayed through the kernel: the counters match", inputs.len());
}

async fn events(dialog: &Db) -> Vec<Input> {
    let rows = query("select payload from outbox where topic = 'tidings.dialog' order by id")
        .all(dialog)
        .await
        .unwrap();
    let read = |payload: Vec<u8>| counter::event::decode(&payload).unwrap();
    rows.iter().flat_map(|row| read(row.get("payload").unwrap())).collect()
}

async fn read_pointers(counter: &Db) -> Vec<Input> {
    let rows = query("select user_id, dialog_id, read_seq from member_counter").all(counter).await.unwrap();
    let input = |row: &db::Row| Input::Dialog {
        dialog_id: DialogId::new(row.get("dialog_id").unwrap()),
        version: None,
        change: Change::Read {
            user_id: UserId::new(row.get("user_id").unwrap()),
            up_to: row.get("read_seq").unwrap(),
        },
    };
    rows.iter().map(input).collect()
}

async fn stored_counters(counter: &Db) -> Rows {
    let rows = query("select user_id, dialog_id, unread from member_counter order by dialog_id, user_id");
    let rows = rows.all(counter).await.unwrap();
    let text = |row: &db::Row| {
        let id = |name| row.get::<uuid::Uuid>(name).unwrap();
        format!("{} {} {}", id("dialog_id"), id("user_id"), row.get::<i64>("unread").unwrap())
    };
    rows.iter().map(text).collect()
}

fn kernel_counters(state: &State) -> Rows {
    let dialogs = state.dialogs.iter();
    let members =
        dialogs.flat_map(|(id, dialog)| dialog.members.iter().map(move |(user, row)| (id, user, row)));
    members.map(|(dialog, user, row)| format!("{dialog} {user} {}", row.unread)).collect()
}

async fn stored_ledger(counter: &Db) -> Rows {
    let rows = query("select dialog_id, seq, message_id, state from ledger order by dialog_id, seq");
    let rows = rows.all(counter).await.unwrap();
    let text = |row: &db::Row| {
        let id = |name| row.get::<uuid::Uuid>(name).unwrap();
        let seq = row.get::<i64>("seq").unwrap();
        let state = row.get::<String>("state").unwrap();
        format!("{} {seq} {} {state}", id("dialog_id"), id("message_id"))
    };
    rows.iter().map(text).collect()
}

fn kernel_ledger(state: &State) -> Rows {
    let dialogs = state.dialogs.iter();
    let entries =
        dialogs.flat_map(|(id, dialog)| dialog.ledger.iter().map(move |(seq, entry)| (id, seq, entry)));
    let state_of = |entry: &kernel::ledger::Entry| match entry.state {
        kernel::ledger::EntryState::Counted => "counted",
        kernel::ledger::EntryState::Void(_) => "void",
    };
    entries
        .map(|(dialog, seq, entry)| format!("{dialog} {seq} {} {}", entry.message_id, state_of(entry)))
        .collect()
}
