//! What must be true at rest, computed anew from what was said and read.

use std::{collections::BTreeMap, path::Path};

use counter::kernel::{self, Change, Input, State};
use db::{Db, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{followed::Followed, person::Person, stack::Stack};

/// The whole history of a dialog, oldest first.
pub async fn history(person: &Person, dialog: &str) -> Vec<Value> {
    let document = "query($id: ID!, $after: String) { dialog(id: $id) { messages(first: 100, after: $after) {
        nodes { id seq status senderId deletedAt } pageInfo { hasNextPage endCursor } } } }";
    let (mut all, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut data = person.data(document, json!({"id": dialog, "after": after})).await;
        let page = &mut data["dialog"]["messages"];
        all.append(page["nodes"].as_array_mut().unwrap());
        if page["pageInfo"]["hasNextPage"] != true {
            return all;
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

/// The person's count is that of the others' undeleted messages above the person's pointer; for who was there from the
/// beginning.
pub async fn unread_is_exact(person: &Person, dialog: &str, history: &[Value]) {
    let document = "query($id: ID!) { dialogUnread(dialogId: $id) { unread readSeq } }";
    eventually("the count is exact", || async {
        let data = person.data(document, json!({"id": dialog})).await;
        let read_seq = data["dialogUnread"]["readSeq"].as_i64().unwrap();
        let counts = |message: &&Value| {
            message["seq"].as_i64().unwrap() > read_seq
                && message["senderId"] != person.id.as_str()
                && message["deletedAt"].is_null()
        };
        data["dialogUnread"]["unread"].as_u64().unwrap() == history.iter().filter(counts).count() as u64
    })
    .await;
}

/// A database's rows as text, for comparison.
type Rows = Vec<String>;

/// After the process has ended: the files are sound, nothing waits, and the counters are what the pure kernel makes of
/// dialog's events and the people's read pointers.
pub async fn the_databases_agree_with_the_kernel(folder: &Path) {
    let mut databases = Vec::new();
    for name in ["auth", "dialog", "counter"] {
        let db = Db::open_file(&folder.join(format!("{name}.db"))).await.unwrap();
        let sound =
            query("select integrity_check as verdict from pragma_integrity_check").one(&db).await.unwrap();
        assert_eq!(sound.get::<String>("verdict").unwrap(), "ok", "{name}.db");
        databases.push(db);
    }
    let [_, dialog, counter] = &databases[..] else { unreachable!("three were opened") };
    for (name, db) in [("dialog", dialog), ("counter", counter)] {
        let dead = count(db, "select count(*) as n from outbox where topic = 'tidings.dead'").await;
        assert_eq!(dead, 0, "{name} has dead letters");
    }
    let missing = count(counter, "select count(*) as n from dialog_applied where missing <> '[]'").await;
    assert_eq!(missing, 0, "events are missing");
    the_counters_are_the_kernels(events(dialog).await, counter).await;
}

/// At rest, on the engines: the log has every version of every dialog once or more and in order, nothing waits in an outbox,
/// no message is PENDING, no event is dead or missing, and the counters are what the pure kernel makes of the log.
pub async fn the_engines_agree_with_the_kernel(stack: &Stack, log: &Followed) {
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
    eventually("the log is read to its end", || async { log.versions().0 == versions }).await;
    eventually("everything is applied", || async {
        count(&counter, "select cast(coalesce(sum(version), 0) as bigint) as n from dialog_applied").await
            == versions.values().sum::<i64>()
    })
    .await;
    assert_eq!(count(&counter, "select count(*) as n from dialog_applied where missing <> '[]'").await, 0);
    assert!(log.dead().is_empty(), "dead letters: {:?}", log.dead());
    let told = log.told();
    let inputs = told.iter().filter_map(|record| counter::event::read(&record.payload).unwrap()).collect();
    the_counters_are_the_kernels(inputs, &counter).await;
    println!(
        "{} records of dialog, {} of them repetitions, none lost, none swapped",
        told.len(),
        log.versions().1
    );
}

async fn count(db: &Db, select: &'static str) -> i64 {
    query(select).one(db).await.unwrap().get("n").unwrap()
}

async fn the_counters_are_the_kernels(mut inputs: Vec<Input>, counter: &Db) {
    let mut state = State::default();
    inputs.extend(read_pointers(counter).await);
    kernel::transact(&mut state, &inputs);
    assert_eq!(stored_counters(counter).await, kernel_counters(&state), "unread by user and dialog");
    assert_eq!(stored_ledger(counter).await, kernel_ledger(&state), "what became of every message");
    println!("{} events replayed through the kernel: the counters agree", inputs.len());
}

async fn events(dialog: &Db) -> Vec<Input> {
    let rows = query("select payload from outbox where topic = 'tidings.dialog' order by id")
        .all(dialog)
        .await
        .unwrap();
    let read = |payload: Vec<u8>| counter::event::read(&payload).unwrap();
    rows.iter().filter_map(|row| read(row.get("payload").unwrap())).collect()
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
        let (seq, state) = (row.get::<i64>("seq").unwrap(), row.get::<String>("state").unwrap());
        format!("{} {seq} {} {state}", id("dialog_id"), id("message_id"))
    };
    rows.iter().map(text).collect()
}

fn kernel_ledger(state: &State) -> Rows {
    let dialogs = state.dialogs.iter();
    let entries =
        dialogs.flat_map(|(id, dialog)| dialog.ledger.iter().map(move |(seq, entry)| (id, seq, entry)));
    let state_of = |entry: &kernel::ledger::Entry| match entry.standing {
        kernel::ledger::Standing::Counted => "counted",
        kernel::ledger::Standing::Void(_) => "void",
    };
    entries
        .map(|(dialog, seq, entry)| format!("{dialog} {seq} {} {}", entry.message_id, state_of(entry)))
        .collect()
}
