//! What tests share: databases of their own, waiting for conditions instead of sleeping, and tokens that nobody may believe.

pub mod forged;

mod redis;

use std::{future::Future, process::Command, time::Duration};

use db::{Db, Migrations, query};
use tempfile::TempDir;

pub use redis::{RedisServer, redis_url};

/// Sends a signal, as `-TERM`, by the shell: a small machine has no other `kill`.
///
/// # Panics
/// Where there is no such process.
pub fn signal(process_id: u32, signal: &str) {
    let process_id = process_id.to_string();
    let sent = Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", signal, &process_id]).status();
    assert!(sent.expect("there is a shell").success(), "kill {signal} {process_id}");
}

/// A database of a test's own, removed when dropped (of Postgres: when the next run begins).
#[derive(Debug)]
pub struct TestDb {
    /// The database, migrated.
    pub db: Db,
    /// Which it is, for messages.
    pub name: &'static str,
    _folder: Option<TempDir>,
}

/// A fresh SQLite database, and one of Postgres too where `TEST_POSTGRES_URL` names a server: one suite on every backend.
///
/// # Panics
/// Where a database cannot be made.
pub async fn databases(migrations: &[&'static Migrations]) -> Vec<TestDb> {
    let mut all = vec![sqlite(migrations).await];
    if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
        all.push(postgres(&server, migrations).await);
    }
    all
}

/// A fresh SQLite database in a folder of its own.
///
/// # Panics
/// Where it cannot be made.
pub async fn sqlite(migrations: &[&'static Migrations]) -> TestDb {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let db = Db::open_file(&folder.path().join("test.db")).await.expect("SQLite opens");
    db.migrate(migrations).await.expect("the migrations run");
    TestDb { db, name: "sqlite", _folder: Some(folder) }
}

async fn postgres(server: &str, migrations: &[&'static Migrations]) -> TestDb {
    let name = format!("test_{}", uuid::Uuid::now_v7().simple());
    let admin = Db::open(server, 1).await.expect("TEST_POSTGRES_URL answers");
    create_database(&admin, &name).await;
    admin.close().await;
    let url = format!("{}/{name}", server.rsplit_once('/').expect("TEST_POSTGRES_URL names a database").0);
    let db = Db::open(&url, 8).await.expect("the new database opens");
    db.migrate(migrations).await.expect("the migrations run");
    TestDb { db, name: "postgres", _folder: None }
}

/// The name is made of hexadecimal digits above; statements are static, so the text is leaked, once a test.
async fn create_database(admin: &Db, name: &str) {
    let sql = Box::leak(format!("create database {name}").into_boxed_str());
    query(sql).execute(admin).await.expect("the server lets us create databases");
}

/// Waits until a condition holds, looking every 5 ms.
///
/// # Panics
/// Where it does not hold within a minute, naming `what`.
pub async fn eventually<F, Fut>(what: &str, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "still not so after a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
