//! A replaced past: a database restored from a backup, and a log that lost records under a stopped
//! counter. Clients end with exact numbers, and no number is wrong without `stale`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use db::{Db, query};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::{Value, json};
use testkit::eventually;
use tokio::process::Command;

use crate::{app::App, caller::Caller, kill::View, oracle, socket_client::SocketClient, stack::Stack};

const COUNTS: &str = "{ unread { total version stale dialogs { dialogId unread stale } } }";
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_version_of_the_lost_past_gets_a_snapshot_on_sqlite() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    for number in 1..=3 {
        a.send(&dialog, &format!("message {number}")).await;
    }
    eventually("three messages are counted", || async { b.total().await == 3 }).await;
    let (folder, _) = app.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy_database(folder.path(), backup.path());

    let app = App::start_in(folder, &[]).await;
    let a = a.at(&app);
    let b = b.at(&app);
    b.mark_read(&dialog, None).await;
    let lost = b.data(COUNTS, json!({})).await["unread"].clone();
    assert_eq!(lost["total"], 0);
    let (folder, _) = app.stop().await;
    copy_database(backup.path(), folder.path());

    let app = App::start_in(folder, &[]).await;
    let a = a.at(&app);
    let b = b.at(&app);
    // The same number of changes again, to another state.
    a.send(&dialog, "message 4").await;
    eventually("the fourth message is counted", || async { b.total().await == 4 }).await;
    let now = b.data(COUNTS, json!({})).await["unread"]["version"].clone();
    let number = |version: &Value| version.as_str().unwrap().split_once('-').unwrap().1.to_owned();
    println!("version before the restore {}, after it {now}", lost["version"]);
    assert_eq!(number(&now), number(&lost["version"]), "the test needs one number with two states");
    let mut phone = SocketClient::watch_unread(&b, lost["version"].as_str()).await;
    let frame = phone.frame("u", "unread").await;
    assert_eq!((&frame["kind"], &frame["total"]), (&json!("SNAPSHOT"), &json!(4)), "{frame}");
}

/// Copies the counter's database of a stopped program over another file, as a restore does.
fn copy_database(from: &Path, to: &Path) {
    for name in ["counter.db", "counter.db-wal", "counter.db-shm"] {
        drop(std::fs::remove_file(to.join(name)));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_restored_counter_begins_an_epoch_and_open_sockets_end_exact() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let people = People::register(&stack).await;
    let url = stack.databases["counter"].clone();
    let dump = tempfile::NamedTempFile::new().unwrap();
    run("pg_dump", &["-Fc", "--dbname", &url, "--file", dump.path().to_str().unwrap()]).await;
    let mut lost = people.lose_a_past(&stack).await;

    stack.stop("counter").await;
    restore_database(&url, dump.path()).await;
    stack.start_role("counter");
    people.ends_exact(&stack, &mut lost).await;
}

#[tokio::test]
async fn tables_copied_back_are_a_restore_too() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let people = People::register(&stack).await;
    let counter = stack.database("counter").await;
    let execute = async |sql: &'static str| query(sql).execute(&counter).await.unwrap();
    execute("create schema backup").await;
    for table in TABLES {
        let sql = format!("create table backup.{table} as table public.{table}");
        execute(Box::leak(sql.into_boxed_str())).await;
    }
    let mut lost = people.lose_a_past(&stack).await;

    // Stopped, not killed: Kafka then has the offsets to the end.
    stack.stop("counter").await;
    for table in TABLES {
        execute(Box::leak(format!("delete from public.{table}").into_boxed_str())).await;
        let sql = format!("insert into public.{table} select * from backup.{table}");
        execute(Box::leak(sql.into_boxed_str())).await;
    }
    stack.start_role("counter");
    people.ends_exact(&stack, &mut lost).await;
}

/// Tables of the counter's database that a backup has.
const TABLES: [&str; 6] =
    ["epoch", "ledger", "member_counter", "user_version", "dialog_applied", "consumer_offset"];

/// Two people with a dialog, of which one follows the counts.
struct People {
    a: Caller,
    b: Caller,
    dialog: String,
}

/// What clients know of a past that is then lost.
struct Lost {
    phone: SocketClient,
    view: View,
    version: String,
}

impl People {
    async fn register(stack: &Stack) -> Self {
        let a = Caller::register(stack, "ann").await;
        let b = Caller::register(&stack.second_gateway(), "bob").await;
        let dialog = a.create_group(&[&b], "two").await;
        for number in 1..=3 {
            a.send(&dialog, &format!("message {number}")).await;
        }
        eventually("three messages are counted", || async { b.total().await == 3 }).await;
        Self { a, b, dialog }
    }

    /// Reads, and receives four messages that the backup does not have.
    async fn lose_a_past(&self, stack: &Stack) -> Lost {
        self.b.mark_read(&self.dialog, None).await;
        for number in 4..=7 {
            self.a.send(&self.dialog, &format!("message {number}")).await;
        }
        let mut phone = SocketClient::watch_unread(&self.b, None).await;
        let mut view = View::default();
        while view.total != 4 {
            view.apply(&phone.frame("u", "unread").await);
        }
        stack.wait_for_cache(&self.b).await;
        let version = view.version.clone().unwrap();
        Lost { phone, view, version }
    }

    /// The read is lost; the messages come again from the log.
    async fn ends_exact(&self, stack: &Stack, lost: &mut Lost) {
        let started = Instant::now();
        while lost.view.total != 7 {
            lost.view.apply(&lost.phone.frame("u", "unread").await);
        }
        let version = lost.view.version.clone().unwrap();
        println!(
            "an open socket is exact {:?} after the start, {} became {version}",
            started.elapsed(),
            lost.version
        );
        let epoch = |version: &str| version.split_once('-').unwrap().0.parse::<i64>().unwrap();
        assert!(epoch(&version) > epoch(&lost.version), "{} {version}", lost.version);
        let at_least = "query($v: String) { unread(atLeast: $v) { total version } }";
        let answer = self.b.data(at_least, json!({"v": lost.version})).await;
        assert_eq!(answer["unread"]["total"], 7, "a version of the lost past is no error");
        self.a.send(&self.dialog, "message 8").await;
        while lost.view.total != 8 {
            lost.view.apply(&lost.phone.frame("u", "unread").await);
        }
        assert_eq!(lost.view.unread, BTreeMap::from([(self.dialog.clone(), 8)]));
        assert_eq!(self.b.total().await, 8);
        let mut again = SocketClient::watch_unread(&self.b, Some(&lost.version)).await;
        let frame = again.frame("u", "unread").await;
        assert_eq!((&frame["kind"], &frame["total"]), (&json!("SNAPSHOT"), &json!(8)), "{frame}");
        stack.wait_for_cache(&self.b).await;
    }
}

/// Replaces a PostgreSQL database by a dump.
pub async fn restore_database(url: &str, dump: &Path) {
    let name = url.rsplit_once('/').unwrap().1;
    let admin = Db::open(&std::env::var("TEST_POSTGRES_URL").unwrap(), 1).await.unwrap();
    let text = |sql: String| Box::leak(sql.into_boxed_str()) as &'static str;
    query(text(format!("drop database {name} with (force)"))).execute(&admin).await.unwrap();
    query(text(format!("create database {name}"))).execute(&admin).await.unwrap();
    run("pg_restore", &["--dbname", url, dump.to_str().unwrap()]).await;
}

pub async fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_log_that_was_cut_under_a_stopped_counter_is_healed() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack.second_gateway(), "bob").await;
    let c = Caller::register(&stack, "cleo").await;
    let mut dialogs = Vec::new();
    for number in 0..16 {
        dialogs.push(a.create_group(&[&b], &format!("group {number}")).await);
    }
    for dialog in &dialogs {
        a.send(dialog, "counted").await;
    }
    let mut phone = SocketClient::watch_unread(&b, None).await;
    let mut view = View::default();
    while view.total != 16 {
        view.apply(&phone.frame("u", "unread").await);
    }
    stack.stop("counter").await;
    cut_the_log(&stack, &a, &c, &dialogs).await;

    let started = Instant::now();
    stack.start_role("counter");
    let mut stale_after = None;
    let mut wrong_without_stale = 0;
    loop {
        let frame = phone.frame("u", "unread").await;
        view.apply(&frame);
        if frame["stale"] == true {
            stale_after.get_or_insert(started.elapsed());
        }
        let is_exact = view.total == 48;
        // Before the counter has started, the numbers of the past are still shown.
        wrong_without_stale += u32::from(stale_after.is_some() && frame["stale"] == false && !is_exact);
        if is_exact && frame["stale"] == false {
            break;
        }
    }
    println!("stale after {:?}, exact {:?} after the start", stale_after.unwrap(), started.elapsed());
    assert_eq!(wrong_without_stale, 0, "frames with a wrong total and without `stale`");
    let counts = b.data(COUNTS, json!({})).await["unread"].clone();
    assert_eq!((&counts["total"], &counts["stale"]), (&json!(48), &json!(false)), "{counts}");
    for dialog in &dialogs {
        let history = oracle::history(&b, dialog).await;
        oracle::assert_unread_is_exact(&b, dialog, &history).await;
    }
    assert_eq!(c.total().await, 32, "she joined while the counter was stopped");
    stack.wait_for_cache(&b).await;
    let stopped = stack.metric("counter", "consumer_stopped{consumer=\"counter\"}").await;
    assert_eq!(stopped, Some(0.0));
    // Nothing is noticed again.
    let version = counts["version"].clone();
    stack.stop("counter").await;
    stack.start_role("counter");
    stack.wait_until_ready().await;
    a.send(&dialogs[0], "one more").await;
    eventually("the next message is counted", || async { b.total().await == 49 }).await;
    let now = b.data(COUNTS, json!({})).await["unread"].clone();
    let epoch = |version: &Value| version.as_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_eq!((epoch(&now["version"]), &now["stale"]), (epoch(&version), &json!(false)));
}

/// Adds a user to every dialog, and sends and deletes messages. Then deletes half of the partitions, and
/// sends to all of them.
async fn cut_the_log(stack: &Stack, a: &Caller, c: &Caller, dialogs: &[String]) {
    let before = watermarks(stack.kafka_url()).await;
    let add = "mutation($d: ID!, $u: [ID!]!) {
        addParticipants(dialogId: $d, userIds: $u) { id } }";
    for dialog in dialogs {
        a.data(add, json!({"d": dialog, "u": [c.id]})).await;
        let deleted = a.send(dialog, "deleted").await;
        a.send(dialog, "lost").await;
        a.data("mutation($id: ID!) { deleteMessage(id: $id) { id } }", json!({"id": deleted["id"]})).await;
    }
    let dialog_db = stack.database("dialog").await;
    eventually("everything is published", || async {
        let row = query("select count(*) as n from outbox").one(&dialog_db).await.unwrap();
        row.get::<i64>("n").unwrap() == 0
    })
    .await;
    let after = watermarks(stack.kafka_url()).await;
    let grown: Vec<i32> =
        after.iter().filter(|(number, high)| **high > before[*number]).map(|(number, _)| *number).collect();
    let cut: BTreeSet<i32> = grown.iter().copied().take(grown.len() / 2).collect();
    delete_records(stack.kafka_url(), &cut).await;
    // Sends go on, also into the partitions that were cut.
    for dialog in dialogs {
        a.send(dialog, "after the cut").await;
    }
    println!("{} of {} partitions with records are cut", cut.len(), grown.len());
}

/// Returns the end of each partition of `tidings.dialog`.
pub async fn watermarks(kafka: &str) -> BTreeMap<i32, i64> {
    let brokers = kafka.trim_start_matches("kafka://").to_owned();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        let high = |number| consumer.fetch_watermarks("tidings.dialog", number, KAFKA_TIMEOUT).unwrap().1;
        (0..12).map(|number| (number, high(number))).collect()
    })
    .await
    .unwrap()
}

/// Deletes all records of these partitions of `tidings.dialog`, as retention does.
pub async fn delete_records(kafka: &str, partitions: &BTreeSet<i32>) {
    let brokers = kafka.trim_start_matches("kafka://");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    for number in partitions {
        list.add_partition_offset("tidings.dialog", *number, Offset::End).unwrap();
    }
    let options = AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT));
    admin.delete_records(&list, &options).await.unwrap();
}
