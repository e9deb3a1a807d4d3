//! The procedures of docs/operations.md to back up and to go back in all: dump, wipe, restore, and no count
//! differs.

use std::path::Path;

use db::{Db, query};
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
    stack::{ROLES, Stack, control_engine},
};

/// Roles with a database.
const SERVICES: [&str; 3] = ["auth", "dialog", "counter"];
const VERSION: &str = "{ unread { version } }";
/// Unread messages of the reader at the time of the backup.
const UNREAD: i64 = 3;
/// Messages that are lost with everything after the backup.
const LOST: i64 = 4;

/// An author and a reader, with messages that were read, are unread, and were deleted.
struct People {
    author: Caller,
    reader: Caller,
    dialog: String,
}

impl People {
    async fn talk(endpoint: &Endpoint) -> Self {
        let author = Caller::register(endpoint, "ann").await;
        let reader = Caller::register(endpoint, "bob").await;
        let dialog = author.create_group(&[&reader], "two").await;
        let people = Self { author, reader, dialog };
        people.author.send(&people.dialog, "read").await;
        people.wait_for(1).await;
        people.reader.mark_read(&people.dialog, None).await;
        for _ in 0..UNREAD {
            people.author.send(&people.dialog, "kept").await;
        }
        let deleted = people.author.send(&people.dialog, "deleted").await;
        let delete = "mutation($id: ID!) { deleteMessage(id: $id) { id } }";
        people.author.data(delete, json!({"id": deleted["id"]})).await;
        people.wait_for(UNREAD).await;
        people
    }

    /// What the backup does not have.
    async fn talk_on(&self, endpoint: &Endpoint) {
        self.reader.mark_read(&self.dialog, None).await;
        for _ in 0..LOST {
            self.author.send(&self.dialog, "lost").await;
        }
        self.wait_for(LOST).await;
        Caller::register(endpoint, "carl").await;
    }

    async fn wait_for(&self, total: i64) {
        eventually("the total", || async { self.reader.total().await == total }).await;
    }

    async fn version(&self) -> String {
        let data = self.reader.data(VERSION, json!({})).await;
        data["unread"]["version"].as_str().unwrap().to_owned()
    }

    /// Everything is as it was at the backup, and goes on. A device that saw a version of the lost past gets
    /// a snapshot.
    async fn are_as_before(&self, endpoint: &Endpoint, lost: &str) {
        self.wait_for(UNREAD).await;
        let mut phone = SocketClient::watch_unread(&self.reader, Some(lost)).await;
        let frame = phone.frame("u", "unread").await;
        assert_eq!((&frame["kind"], &frame["total"]), (&json!("SNAPSHOT"), &json!(UNREAD)), "{frame}");
        let texts: Vec<Value> = oracle::history(&self.reader, &self.dialog).await;
        assert_eq!(texts.len(), 1 + UNREAD as usize + 1, "{texts:?}");
        let login = Caller::login(endpoint, "bob").await;
        assert_eq!(login.id, self.reader.id);
        // It has the number of a lost message.
        self.author.send(&self.dialog, "after the restore").await;
        phone.until_total(UNREAD + 1).await;
        self.reader.mark_read(&self.dialog, None).await;
        phone.until_total(0).await;
    }
}

#[tokio::test]
async fn a_copy_of_the_data_folder_is_a_backup() {
    let app = App::start().await;
    let people = People::talk(&app).await;
    let (folder, _) = app.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy_files(folder.path(), backup.path());

    let app = App::start_in(folder, &[]).await;
    let people = People { author: people.author.at(&app), reader: people.reader.at(&app), ..people };
    people.talk_on(&app).await;
    let lost = people.version().await;
    drop(app.kill().await);

    let folder = tempfile::tempdir().unwrap();
    copy_files(backup.path(), folder.path());
    let app = App::start_in(folder, &[]).await;
    let people = People { author: people.author.at(&app), reader: people.reader.at(&app), ..people };
    people.are_as_before(&app, &lost).await;
    run_in(app.folder.path(), &["reconcile"]).await.assert(0, "drift: 0");
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn engines_all_databases_go_back_to_one_backup() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let people = People::talk(&stack).await;
    // Without dialog and counter nothing changes that a count follows from.
    stack.stop("dialog").await;
    stack.stop("counter").await;
    let backup = dump(&stack).await;
    stack.start_role("dialog");
    stack.start_role("counter");
    stack.wait_until_ready().await;
    people.talk_on(&stack).await;
    let lost = people.version().await;

    for role in ROLES {
        stack.kill(role).await;
    }
    for role in SERVICES {
        restore::restore_database(&stack.databases[role], &backup.path().join(role)).await;
    }
    control_engine("wipe", "kafka").await;
    control_engine("start", "kafka").await;
    let settings = stack.command_settings();
    // Dialog does not run: its database is read.
    let settings = settings.iter().filter(|(name, _)| *name != "DIALOG_URL");
    let settings: Vec<(&str, &str)> = settings.map(|(name, value)| (*name, value.as_str())).collect();
    run(&["migrate"], &settings).await.assert(0, "");
    run(&["rebuild", "--all", "--forget-positions"], &settings).await.assert(0, "rebuilt 1 dialogs");
    if let Some((_, redis)) = settings.iter().find(|(name, _)| *name == "REDIS_URL") {
        restore::run("redis-cli", &["-u", redis, "flushdb"]).await;
    }
    for role in ROLES {
        stack.start_role(role);
    }
    stack.wait_until_ready().await;
    people.are_as_before(&stack, &lost).await;
    let settings = stack.command_settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(&["reconcile"], &settings).await.assert(0, "drift: 0");
    let auth = stack.database("auth").await;
    assert_eq!(accounts(&auth).await, 2, "the account after the backup is lost");
}

/// Dumps every database into a file of a new folder.
async fn dump(stack: &Stack) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for role in SERVICES {
        let file = folder.path().join(role);
        let arguments = ["-Fc", "--dbname", &stack.databases[role], "--file", file.to_str().unwrap()];
        restore::run("pg_dump", &arguments).await;
    }
    folder
}

async fn accounts(auth: &Db) -> i64 {
    query("select count(*) as n from account").one(auth).await.unwrap().get("n").unwrap()
}
