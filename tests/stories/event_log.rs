//! Commands for the event log on SQLite, beside a running system.

use std::{process::Stdio, time::Duration};

use db::{Db, query};
use proto::{
    dead_letter::Origin,
    events::{DeadLetter, DialogCreated, event::Kind},
    topic,
};
use serde_json::Value;
use testkit::eventually;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    app::{App, program},
    caller::Caller,
    maintenance::run_in,
};

#[tokio::test]
async fn events_are_followed_without_the_text_of_a_message() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "plain title").await;
    let mut command = Command::new(program());
    command.args(["events", "follow", "--json", "--topic", "dialog", "--topic", "unread"]);
    command.env("DATA_DIR", app.folder.path()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let found = async {
        loop {
            // The command starts at the end of the log, at a time that is not known here.
            let next = timeout(Duration::from_millis(300), lines.next_line()).await;
            let Ok(line) = next else {
                ann.send(&dialog, "plain words").await;
                continue;
            };
            let line = line.unwrap().expect("the command goes on");
            assert!(!line.contains("plain"), "{line}");
            let event: Value = serde_json::from_str(&line).unwrap();
            seen.push(event["type"].as_str().unwrap().to_owned());
            let is_change = event["type"] == "UnreadChanged" && event["key"] == bob.id.as_str();
            if is_change && seen.iter().any(|kind| kind == "MessageCommitted") {
                return event;
            }
        }
    };
    let event = timeout(Duration::from_secs(30), found).await.expect("events within 30 s");
    let row = &event["rows"][0];
    assert_eq!(row["dialog"], dialog.as_str());
    assert!(row["unread"].as_i64().unwrap() > row["was"].as_i64().unwrap(), "{event}");
    assert!(event["age_ms"].as_i64().unwrap() < 30_000 && event["position"].is_string(), "{event}");
    assert!(seen.iter().any(|kind| kind == "MessageSent"), "{seen:?}");
}

/// Appends a record to an outbox, as a service or a foreign producer does.
async fn append(db: &Db, topic: &str, payload: &[u8]) {
    let mut tx = db.begin().await.unwrap();
    let insert = query(
        "insert into outbox (event_id, topic, key, version, type, payload)
         values ($1, $2, 'key', 0, 'Planted', $3)",
    );
    let insert = insert.bind(uuid::Uuid::now_v7()).bind(topic).bind(payload.to_vec());
    insert.execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_listed_and_published_again() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    ann.send(&dialog, "hello").await;
    eventually("it is counted", || async { bob.total().await == 1 }).await;
    let folder = app.folder.path();
    run_in(folder, &["events", "dead"]).await.assert(0, "dead letters: 0");
    run_in(folder, &["events", "redrive", "--all"]).await.assert(0, "published again: 0");

    // An event that was applied, as a dead letter: publishing it again changes nothing.
    let dialog_db = Db::open_file(&folder.join("dialog.db")).await.unwrap();
    let counter_db = Db::open_file(&folder.join("counter.db")).await.unwrap();
    let sent = query("select key, payload from outbox where type = 'MessageSent'").one(&dialog_db).await;
    let sent = sent.unwrap();
    let (key, payload): (String, Vec<u8>) = (sent.get("key").unwrap(), sent.get("payload").unwrap());
    let origin = Origin { topic: topic::DIALOG, position: Some((0, 3)), key: &key, payload: &payload };
    let letter = Kind::DeadLetter(DeadLetter::new("counter", origin, "a bug that is fixed")).payload();
    append(&counter_db, topic::DEAD, &letter).await;
    let listed = run_in(folder, &["events", "dead"]).await;
    listed.assert(0, "origin=tidings.dialog/0@3 event=MessageSent consumer=counter");
    listed.assert(0, "error=\"a bug that is fixed\"");
    let first = run_in(folder, &["events", "redrive", "--all"]).await;
    first.assert(0, "published again: 1, failed again: 0, refused: 0");
    run_in(folder, &["events", "redrive", "--all"]).await.assert(0, "published again: 1");
    assert_eq!(bob.total().await, 1);

    // One that fails again, and one that cannot be decoded.
    let invalid = DialogCreated { dialog_id: vec![7; 16], version: -1 };
    append(&dialog_db, topic::DIALOG, &Kind::DialogCreated(invalid).payload()).await;
    append(&dialog_db, topic::DIALOG, b"\xff\xff").await;
    eventually("both are dead letters", || async {
        run_in(folder, &["events", "dead"]).await.stdout.contains("dead letters: 3")
    })
    .await;
    let again = run_in(folder, &["events", "redrive", "--all"]).await;
    again.assert(1, "is not published again: this build cannot decode it either");
    again.assert(1, "version must be between 1 and 2^53");
    again.assert(1, "published again: 2, failed again: 1, refused: 1");
    let dead = run_in(folder, &["events", "dead", "--json"]).await.stdout;
    let letters: Vec<Value> = dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 4, "nothing is lost: {dead}");
    let chosen = letters.iter().find(|letter| letter["event"] == "MessageSent").unwrap();
    let chosen = chosen["id"].as_str().unwrap();
    run_in(folder, &["events", "redrive", chosen]).await.assert(0, "published again: 1");
    let unknown = "01234567-89ab-7cde-8f01-23456789abcd";
    run_in(folder, &["events", "redrive", unknown]).await.assert(2, "there is no dead letter with the id");
    assert_eq!(bob.total().await, 1);
    ann.send(&dialog, "the others go on").await;
    eventually("it is counted", || async { bob.total().await == 2 }).await;
}

#[tokio::test]
async fn a_saga_shows_the_path_of_a_message() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    let message = ann.send(&dialog, "hello").await;
    let transaction = message["transactionId"].as_str().unwrap();
    let folder = app.folder.path();
    eventually("it is committed", || async {
        run_in(folder, &["saga", transaction]).await.stdout.contains("COMMITTED")
    })
    .await;
    let path = run_in(folder, &["saga", transaction]).await;
    for line in
        ["stored  ", "published  tidings.dialog/0@", "counter    counted", "  Counted", "counts of 1 users"]
    {
        path.assert(0, line);
    }
    assert!(!path.stdout.contains("hello"));
    let unknown = "01234567-89ab-7cde-8f01-23456789abcd";
    run_in(folder, &["saga", unknown]).await.assert(2, "there is no message with the transaction id");
}
