//! Helpers shared by the tests of all crates: a database per test, a fake gRPC service, Redis servers, a
//! PostgreSQL primary with a replica, free ports, invalid access tokens, and [`eventually`], which waits for
//! a condition instead of sleeping.

mod fake_grpc;
pub mod invalid_tokens;
mod ports;
mod redis;
mod replication;

use std::{future::Future, process::Command, time::Duration};

use db::{Db, Migrations, query};
use tempfile::TempDir;

pub use fake_grpc::{CallState, FakeCall, FakeGrpc, FakeRequest, fake_request};
pub use ports::{free_address, free_port};
pub use redis::{RedisServer, redis_url};
pub use replication::{PostgresServer, Replication};

/// Sends a signal such as `-TERM` to a process.
///
/// # Panics
/// If there is no such process.
pub fn signal(process_id: u32, signal: &str) {
    let process_id = process_id.to_string();
    // The shell's builtin `kill`: small container images have no other one.
    let status = Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", signal, &process_id]).status();
    assert!(status.expect("there is a shell").success(), "kill {signal} {process_id}");
}

/// Database of one test. A SQLite database is removed when this value is dropped; a Postgres database
/// stays until the next test run.
#[derive(Debug)]
pub struct TestDb {
    /// The migrated database.
    pub db: Db,
    /// Name of the engine, for assertion messages.
    pub name: &'static str,
    _folder: Option<TempDir>,
}

/// Creates an empty SQLite database and, if `TEST_POSTGRES_URL` names a server, an empty Postgres
/// database as well, so that one test suite covers both engines.
///
/// # Panics
/// If a database cannot be created.
pub async fn databases(migrations: &[&'static Migrations]) -> Vec<TestDb> {
    let mut all = vec![sqlite(migrations).await];
    if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
        all.push(postgres(&server, migrations).await);
    }
    all
}

/// Creates an empty SQLite database in a temporary folder.
///
/// # Panics
/// If the database cannot be created.
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

/// Creates a Postgres database. The name needs no quoting: it consists of hexadecimal digits.
async fn create_database(admin: &Db, name: &str) {
    // `query` takes only static text. Leaking one short string per test is acceptable.
    let sql = Box::leak(format!("create database {name}").into_boxed_str());
    query(sql).execute(admin).await.expect("the server permits creating databases");
}

/// Waits until a condition holds, evaluating it every 5 ms.
///
/// # Panics
/// If the condition does not hold within a minute. The message contains `what`.
pub async fn eventually<F, Fut>(what: &str, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not true after a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
