//! Databases of a former release under this one. `tests/former_release/make` has made them: with unread,
//! read and deleted messages, somebody who has left, and events on their way when the process was killed.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::eventually;

use crate::{
    app::App,
    caller::Caller,
    endpoint::Endpoint,
    maintenance::{run, run_in},
    oracle, restore,
    socket_client::SocketClient,
    stack::{Engines, Stack, databases},
};

const ARCHIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/former_release/data.tar.gz");
/// What clients of the former release ask for.
const OLD_DOCUMENT: &str = "{ me { id login name } dialogs(first: 50) { nodes { id title unreadCount
    lastMessage { id seq text status createdAt sender { login } }
    participants { nodes { id login name } } } pageInfo { hasNextPage endCursor } }
    unread { total version stale dialogs { dialogId unread readSeq } } }";

/// Unpacks the databases of the former release into a new folder.
async fn unpack() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--extract", "--file", ARCHIVE, "--directory", folder.path().to_str().unwrap()];
    restore::run("tar", &arguments).await;
    folder
}

fn expected(folder: &Path, database: &str) -> Value {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    println!("database of commit {}", all["commit"]);
    all[database].take()
}

/// Everybody signs in and sees exact counts and whole histories, with documents of the former release, and
/// talks on.
async fn goes_on(endpoint: &Endpoint, expected: &Value) {
    let [ann, bob, carl] = [
        Caller::login(endpoint, "ann").await,
        Caller::login(endpoint, "bob").await,
        Caller::login(endpoint, "carl").await,
    ];
    for (login, caller) in [("ann", &ann), ("bob", &bob), ("carl", &carl)] {
        let unread = expected["unread"][login].as_i64().unwrap();
        eventually("what was on its way is counted", || async { caller.total().await == unread }).await;
        let data = caller.data(OLD_DOCUMENT, json!({})).await;
        assert_eq!(data["me"]["login"], login, "{data}");
        let rows = data["dialogs"]["nodes"].as_array().unwrap();
        let sum: i64 = rows.iter().map(|row| row["unreadCount"].as_i64().unwrap()).sum();
        assert_eq!(sum, unread, "{data}");
    }
    for dialog in ["direct", "group"] {
        let id = expected[dialog].as_str().unwrap();
        eventually("every message is settled", || async {
            oracle::history(&bob, id).await.iter().all(|message| message["status"] == "COMMITTED")
        })
        .await;
        let history = oracle::history(&bob, id).await;
        assert_eq!(history.len() as u64, expected["messages"][dialog].as_u64().unwrap());
        oracle::assert_unread_is_exact(&bob, id, &history).await;
    }
    let bob_unread = expected["unread"]["bob"].as_i64().unwrap();
    // A device that was offline during the upgrade.
    let mut phone = SocketClient::watch_unread(&bob, expected["versions"]["bob"].as_str()).await;
    phone.until_total(bob_unread).await;
    ann.send(expected["group"].as_str().unwrap(), "after the upgrade").await;
    phone.until_total(bob_unread + 1).await;
    bob.mark_read(expected["group"].as_str().unwrap(), None).await;
    phone.until_total(6).await;
    assert_eq!(carl.total().await, 0);
}

#[tokio::test]
async fn a_data_folder_of_a_former_release_goes_on_exactly() {
    let former = unpack().await;
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(former.path().join("sqlite")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let app = App::start_in(folder, &[]).await;
    goes_on(&app, &expected(former.path(), "sqlite")).await;
    run_in(app.folder.path(), &["reconcile"]).await.assert(0, "drift: 0");
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

#[tokio::test]
async fn engines_databases_of_a_former_release_go_on_exactly() {
    let Some(engines) = Engines::fresh().await else { return };
    let former = unpack().await;
    let databases = databases(engines.postgres()).await;
    let mut settings = vec![("KAFKA_URL", engines.kafka.clone())];
    for (role, setting) in [
        ("auth", "AUTH_DATABASE_URL"),
        ("dialog", "DIALOG_DATABASE_URL"),
        ("counter", "COUNTER_DATABASE_URL"),
    ] {
        let dump = former.path().join("postgres").join(format!("{role}.sql"));
        let file = format!("--file={}", dump.display());
        let arguments =
            ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", &file, "--dbname", &databases[role]];
        restore::run("psql", &arguments).await;
        settings.push((setting, databases[role].clone()));
    }
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(&["migrate"], &settings).await.assert(0, "");
    // The log of the former release is not a part of the dumps.
    run(&["rebuild", "--all", "--forget-positions"], &settings).await.assert(0, "rebuilt 2 dialogs");
    // Replies that the lost log had are made up for after the deadline.
    let stack = Stack::start_on(engines, databases, &[("SAGA_DEADLINE", "3s")]).await;
    let endpoint = Endpoint { login_suffix: String::new(), ..stack.second_gateway() };
    goes_on(&endpoint, &expected(former.path(), "postgres")).await;
    let settings = stack.command_settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(&["reconcile"], &settings).await.assert(0, "drift: 0");
}
