//! Commands of operators beside a running system: `reconcile`, `rebuild` and `explain`.

use std::{path::Path, process::Stdio};

use db::{Db, query};
use serde_json::json;
use testkit::eventually;
use tokio::process::Command;

use crate::{
    app::{App, program},
    caller::Caller,
    oracle, restore,
    socket_client::SocketClient,
    stack::{Stack, control_engine},
};

/// What a command has printed, and its exit status.
pub struct Output {
    status: i32,
    pub stdout: String,
    stderr: String,
}

impl Output {
    /// Asserts the exit status and a line of the output.
    #[track_caller]
    pub fn assert(&self, status: i32, line: &str) {
        let Self { stdout, stderr, .. } = self;
        assert_eq!(self.status, status, "{stdout}{stderr}");
        assert!(stdout.lines().chain(stderr.lines()).any(|each| each.contains(line)), "{stdout}{stderr}");
    }

    pub fn is_success(&self) -> bool {
        self.status == 0
    }

    /// Returns everything that it has printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command with these settings, and with none of the environment of the tests.
pub async fn run(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env_remove("DATA_DIR").envs(settings.iter().copied());
    let output = command.output().await.unwrap();
    Output {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub async fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    run(arguments, &[("DATA_DIR", folder.to_str().unwrap())]).await
}

/// Executes statements behind the back of the running system.
async fn damage(db: &Db, statements: &[&'static str]) {
    let mut tx = db.begin().await.unwrap();
    for statement in statements {
        assert!(query(statement).execute(&mut tx).await.unwrap() > 0, "{statement} must change something");
    }
    tx.commit().await.unwrap();
}

/// Kinds of damage, each with a line that `reconcile` prints about it.
const DAMAGE: [(&str, &str); 4] = [
    ("update member_counter set unread = unread + 3 where unread > 0", "drift of kind count: 1"),
    ("delete from ledger where seq = 2", "drift of kind message: 1"),
    ("update ledger set state = 'void', why = 'deleted' where seq = 1", "drift of kind message: 1"),
    (
        "update member_counter set joined_seq = 4 where read_seq = 0 and joined_seq = 0",
        "drift of kind membership: 1",
    ),
];

#[tokio::test]
async fn drift_is_found_and_repaired_while_the_system_runs_and_live_clients_see_it() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    for number in 1..=5 {
        ann.send(&dialog, &format!("message {number}")).await;
    }
    eventually("five messages are counted", || async { bob.total().await == 5 }).await;
    let folder = app.folder.path();
    let clean = run_in(folder, &["reconcile"]).await;
    clean.assert(0, "drift: 0");
    clean.assert(0, "compared 1 dialogs with 5 messages");
    let counter = Db::open_file(&folder.join("counter.db")).await.unwrap();
    for (number, (statement, line)) in DAMAGE.into_iter().enumerate() {
        let mut phone = SocketClient::watch_unread(&bob, None).await;
        phone.until_total(5).await;
        damage(&counter, &[statement]).await;
        run_in(folder, &["reconcile"]).await.assert(1, line);
        run_in(folder, &["reconcile", "--user", &ann.id]).await.assert(1, line);
        run_in(folder, &["reconcile", "--repair", "--dialog", &dialog]).await.assert(1, " repaired");
        run_in(folder, &["reconcile"]).await.assert(0, "drift: 0");
        let notes = query("select count(*) as notes from repaired_drift").one(&counter).await.unwrap();
        assert!(notes.get::<i64>("notes").unwrap() > number as i64, "{statement} is noted");
        // The next message is the sixth for a client that was connected all the time.
        let message = ann.send(&dialog, "one more").await;
        phone.until_total(6).await;
        let delete = "mutation($id: ID!) { deleteMessage(id: $id) { id } }";
        ann.data(delete, json!({"id": message["id"]})).await;
        phone.until_total(5).await;
    }
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

#[tokio::test]
async fn everything_derived_is_made_again_under_load() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let mut dialogs = Vec::new();
    for number in 0..4 {
        dialogs.push(ann.create_group(&[&bob], &format!("group {number}")).await);
    }
    for dialog in &dialogs {
        for number in 0..5 {
            ann.send(dialog, &format!("message {number}")).await;
        }
    }
    eventually("all are counted", || async { bob.total().await == 20 }).await;
    bob.mark_read(&dialogs[0], None).await;
    let folder = app.folder.path();
    let counter = Db::open_file(&folder.join("counter.db")).await.unwrap();
    damage(
        &counter,
        &[
            "delete from ledger where seq > 1",
            "update member_counter set unread = 77, joined_seq = 3",
            "update dialog_applied set last_at_us = 0",
        ],
    )
    .await;
    let sends = async {
        for number in 0..40 {
            ann.send(&dialogs[number % 4], "in between").await;
        }
    };
    let rebuild = run_in(folder, &["rebuild", "--all"]);
    let ((), rebuilt) = tokio::join!(sends, rebuild);
    rebuilt.assert(0, "rebuilt 4 dialogs");
    eventually("the count is exact", || async { bob.total().await == 55 }).await;
    run_in(folder, &["reconcile"]).await.assert(0, "drift: 0");

    run_in(folder, &["rebuild", "--dialog", &dialogs[1]]).await.assert(0, "differences mended: 0");

    let explained = run_in(folder, &["explain", &bob.id, &dialogs[1]]).await;
    explained.assert(0, "unread: 15");
    assert_eq!(explained.stdout.lines().filter(|line| line.starts_with("seq ")).count(), 15);
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

#[tokio::test]
async fn a_rebuild_that_was_killed_goes_on_where_it_was() {
    const DIALOGS: usize = 160;
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    for number in 0..DIALOGS {
        let dialog = ann.create_group(&[&bob], &format!("group {number}")).await;
        ann.send(&dialog, "hello").await;
    }
    eventually("all are counted", || async { bob.total().await == DIALOGS as i64 }).await;
    let folder = app.folder.path();
    let counter = Db::open_file(&folder.join("counter.db")).await.unwrap();
    damage(&counter, &["update member_counter set unread = 77"]).await;
    let mut command = Command::new(program());
    command.args(["rebuild", "--all"]).env("DATA_DIR", folder).stdout(Stdio::null()).kill_on_drop(true);
    let mut rebuild = command.spawn().unwrap();
    let done = async || {
        let row = query("select dialogs from rebuild_progress").optional(&counter).await.unwrap();
        row.map_or(0, |row| row.get::<i64>("dialogs").unwrap())
    };
    while done().await == 0 {
        assert!(rebuild.try_wait().unwrap().is_none(), "it ended before its first stored position");
    }
    rebuild.kill().await.unwrap();
    let done = done().await;
    println!("killed after {done} of {DIALOGS} dialogs");
    assert!((1..DIALOGS as i64).contains(&done), "{done}");
    run_in(folder, &["reconcile"]).await.assert(1, "drift of kind count: ");
    let rest = run_in(folder, &["rebuild", "--all"]).await;
    rest.assert(0, "the rest of an interrupted run");
    rest.assert(0, &format!("rebuilt {DIALOGS} dialogs with {DIALOGS} messages"));
    run_in(folder, &["reconcile"]).await.assert(0, "drift: 0");
    assert_eq!(bob.total().await, DIALOGS as i64);
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

/// Arguments, settings, and a part of the line on standard error.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn bad_input_is_one_line_and_loses_nothing() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    ann.send(&dialog, "hello").await;
    eventually("it is counted", || async { bob.total().await == 1 }).await;
    let folder = app.folder.path().to_str().unwrap().to_owned();
    let data = ("DATA_DIR", folder.as_str());
    let unknown = "01234567-89ab-7cde-8f01-23456789abcd";
    let postgres = ("COUNTER_DATABASE_URL", "postgres://postgres@127.0.0.1:1/counter");
    let cases: [Case<'_>; 10] = [
        (&["reconcile"], &[("DATA_DIR", "/nowhere")], "/nowhere/counter.db: there is no such file"),
        (&["reconcile"], &[postgres], "COUNTER_DATABASE_URL: the database is unavailable"),
        (&["reconcile"], &[("COUNTER_DATABASE_URL", "sqlite:x")], "SQLite is opened by DATA_DIR"),
        (&["rebuild"], &[data], "--all"),
        (&["rebuild", "--all", "--dialog", &dialog], &[data], "cannot be used with"),
        (&["reconcile", "--user", "ann"], &[data], "not an id"),
        (&["explain", &bob.id, unknown], &[data], "the counter does not know the user"),
        (&["explain", unknown, &dialog], &[data], "the counter does not know the user"),
        (&["reconcile"], &[data, ("DIALOG_URL", "http://127.0.0.1:1")], "SERVICE_TOKEN_FILE is not set"),
        (&["reconcile"], &[data, ("DIALOG_URL", "localhost")], "SERVICE_TOKEN_FILE is not set"),
    ];
    for (arguments, settings, line) in cases {
        let output = run(arguments, settings).await;
        output.assert(2, line);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
    // Unknown dialogs have no messages, so nothing differs.
    run_in(app.folder.path(), &["reconcile", "--dialog", unknown]).await.assert(0, "drift: 0");
    run_in(app.folder.path(), &["rebuild", "--dialog", unknown]).await.assert(0, "differences mended: 0");
    // Two at once do not disturb each other.
    let [one, other] = [(); 2].map(|()| run_in(app.folder.path(), &["reconcile", "--repair"]));
    let (one, other) = tokio::join!(one, other);
    one.assert(0, "drift: 0");
    other.assert(0, "drift: 0");
    let (folder, _) = app.stop().await;
    let counter = Db::open_file(&folder.path().join("counter.db")).await.unwrap();
    damage(&counter, &["delete from _sqlx_migrations where version = 104"]).await;
    counter.close().await;
    let older = run_in(folder.path(), &["reconcile"]).await;
    older.assert(2, "the database is at migration 103 and this build at 104: run `tidings migrate`");
}

/// On PostgreSQL, Kafka and Redis: the commands call dialog and compare the cache too.
#[tokio::test]
async fn engines_drift_is_found_and_repaired_also_in_the_cache() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let settings = stack.command_settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ann = Caller::register(&stack, "ann").await;
    let bob = Caller::register(&stack, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    for number in 1..=5 {
        ann.send(&dialog, &format!("message {number}")).await;
    }
    eventually("five messages are counted", || async { bob.total().await == 5 }).await;
    let mut phone = SocketClient::watch_unread(&bob, None).await;
    phone.until_total(5).await;
    stack.wait_for_cache(&bob).await;
    run(&["reconcile"], &settings).await.assert(0, "drift: 0");
    let counter = stack.database("counter").await;
    damage(&counter, &["update member_counter set unread = unread + 3 where unread > 0"]).await;
    let found = run(&["reconcile"], &settings).await;
    found.assert(1, "drift of kind count: 1");
    found.assert(1, "drift of kind cache: 1");
    run(&["reconcile", "--repair"], &settings).await.assert(1, " repaired");
    run(&["reconcile"], &settings).await.assert(0, "drift: 0");
    ann.send(&dialog, "one more").await;
    phone.until_total(6).await;
    damage(&counter, &["delete from ledger where seq > 2"]).await;
    run(&["rebuild", "--all"], &settings).await.assert(0, "rebuilt 1 dialogs with 6 messages");
    run(&["reconcile"], &settings).await.assert(0, "drift: 0");
    let token = settings.iter().map(|(name, value)| match *name {
        "SERVICE_TOKEN_FILE" => (*name, "/nowhere/token"),
        _ => (*name, *value),
    });
    let token: Vec<(&str, &str)> = token.collect();
    run(&["reconcile"], &token).await.assert(2, "SERVICE_TOKEN_FILE /nowhere/token");
    let message = ann.send(&dialog, "seventh").await;
    let transaction = message["transactionId"].as_str().unwrap();
    eventually("the message is committed", || async {
        run(&["saga", transaction], &settings).await.stdout.contains("COMMITTED")
    })
    .await;
    let path = run(&["saga", transaction], &settings).await;
    for line in
        ["stored  ", "published  tidings.dialog/", "counter    counted", "Counted", "counts of 1 users"]
    {
        path.assert(0, line);
    }
    run(&["events", "dead"], &settings).await.assert(0, "dead letters: 0");
}

async fn assert_reconciled(stack: &Stack) {
    let settings = stack.command_settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // It waits for events in flight itself.
    run(&["reconcile"], &settings).await.assert(0, "drift: 0");
}

/// Runs a command while the dialog service is stopped: it reads the database instead.
async fn without_dialog(stack: &Stack, arguments: &[&str]) -> Output {
    let settings = stack.command_settings();
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .filter(|(name, _)| *name != "DIALOG_URL")
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    run(arguments, &settings).await
}

#[tokio::test]
async fn engines_a_restored_dialog_database_is_the_truth_after_a_rebuild() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let ann = Caller::register(&stack, "ann").await;
    let bob = Caller::register(&stack, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    for _ in 0..4 {
        ann.send(&dialog, "kept").await;
    }
    eventually("four are counted", || async { bob.total().await == 4 }).await;
    bob.mark_read(&dialog, None).await;
    ann.send(&dialog, "kept and unread").await;
    let url = stack.databases["dialog"].clone();
    let dump = tempfile::NamedTempFile::new().unwrap();
    restore::run("pg_dump", &["-Fc", "--dbname", &url, "--file", dump.path().to_str().unwrap()]).await;
    for _ in 0..3 {
        ann.send(&dialog, "lost").await;
    }
    eventually("all are counted", || async { bob.total().await == 4 }).await;
    let mut phone = SocketClient::watch_unread(&bob, None).await;
    phone.until_total(4).await;
    stack.stop("dialog").await;
    // Counter goes on, and applies every event of the past that is lost now.
    let counter = stack.database("counter").await;
    eventually("counter has applied the whole log", || async {
        let ends = restore::watermarks(stack.kafka_url()).await;
        let select = "select partition, next_offset from consumer_offset
            where consumer = 'counter' and topic = 'tidings.dialog'";
        let offsets = query(select).all(&counter).await.unwrap();
        offsets.iter().all(|row| {
            let partition = i32::try_from(row.get::<i64>("partition").unwrap()).unwrap();
            row.get::<i64>("next_offset").unwrap() == ends[&partition]
        })
    })
    .await;
    restore::restore_database(&url, dump.path()).await;
    without_dialog(&stack, &["rebuild", "--all"]).await.assert(0, "rebuilt 1 dialogs with 5 messages");
    stack.start_role("dialog");
    stack.wait_until_ready().await;
    phone.until_total(1).await;
    assert_reconciled(&stack).await;
    ann.send(&dialog, "takes the number of a lost one").await;
    phone.until_total(2).await;
    assert_reconciled(&stack).await;
}

#[tokio::test]
async fn engines_a_topic_that_was_lost_leaves_no_drift_after_a_rebuild() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let ann = Caller::register(&stack, "ann").await;
    let bob = Caller::register(&stack, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    ann.send(&dialog, "counted").await;
    eventually("it is counted", || async { bob.total().await == 1 }).await;
    // These reach Kafka and no consumer.
    stack.stop("counter").await;
    for _ in 0..3 {
        ann.send(&dialog, "lost on the way").await;
    }
    let dialog_db = stack.database("dialog").await;
    eventually("Kafka has them", || async {
        let pending = query("select count(*) as n from outbox").one(&dialog_db).await.unwrap();
        pending.get::<i64>("n").unwrap() == 0
    })
    .await;
    stack.stop("dialog").await;
    control_engine("wipe", "kafka").await;
    control_engine("start", "kafka").await;
    let settings = stack.command_settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(&["migrate"], &settings).await.assert(0, "");
    let rebuilt = without_dialog(&stack, &["rebuild", "--all", "--forget-positions"]).await;
    rebuilt.assert(0, "rebuilt 1 dialogs with 4 messages");
    rebuilt.assert(0, "the consumers of dialog and counter start at the beginning of the log");
    stack.start_role("counter");
    stack.start_role("dialog");
    stack.wait_until_ready().await;
    eventually("all four are counted", || async { bob.total().await == 4 }).await;
    assert_reconciled(&stack).await;
    ann.send(&dialog, "after it").await;
    let mut phone = SocketClient::watch_unread(&bob, None).await;
    phone.until_total(5).await;
    assert_reconciled(&stack).await;
}
