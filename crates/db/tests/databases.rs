//! Guarantees of the crate, on every available database.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::{future::Future, pin::pin};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use testkit::{databases, eventually};
use uuid::Uuid;

use db::{Db, Dialect, Error, MIGRATIONS, Query, query};

async fn create_table(db: &Db, create: &'static str) {
    let mut tx = db.begin().await.unwrap();
    query(create).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn every_type_is_read_as_it_was_written() {
    for test in databases(&[]).await {
        let db = &test.db;
        let uuid = if test.name == "sqlite" { "text" } else { "uuid" };
        let bytes = if test.name == "sqlite" { "blob" } else { "bytea" };
        let create = format!("create table t (a boolean, b bigint, c text, d {uuid}, e {bytes})");
        create_table(db, Box::leak(create.into_boxed_str())).await;
        let id = Uuid::now_v7();
        let mut tx = db.begin().await.unwrap();
        let insert = "insert into t (a, b, c, d, e) values ($1, $2, $3, $4, $5)";
        let full = query(insert).bind(true).bind(7).bind("x").bind(id).bind(vec![0_u8, 255]);
        full.execute(&mut tx).await.unwrap();
        let empty = query(insert).bind(None::<bool>).bind(None::<i64>).bind(None::<String>);
        empty.bind(None::<Uuid>).bind(None::<Vec<u8>>).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let row = query("select * from t where d = $1").bind(id).one(db).await.unwrap();
        assert!(row.get::<bool>("a").unwrap(), "{}", test.name);
        assert_eq!(row.get::<i64>("b").unwrap(), 7);
        assert_eq!(row.get::<String>("c").unwrap(), "x");
        assert_eq!(row.get::<Uuid>("d").unwrap(), id);
        assert_eq!(row.get::<Vec<u8>>("e").unwrap(), [0, 255]);
        let row = query("select * from t where d is null").one(db).await.unwrap();
        assert_eq!(row.get::<Option<Uuid>>("d").unwrap(), None);
        assert_eq!(row.get::<Option<i64>>("b").unwrap(), None);
    }
}

#[tokio::test]
async fn a_set_of_rows_is_one_bound_value() {
    for test in databases(&[]).await {
        let db = &test.db;
        let id = Uuid::now_v7();
        let input = json!([
            {"id": id, "n": 1, "yes": true, "body": "00ff"},
            {"id": Uuid::nil(), "n": 2, "yes": false, "body": null},
        ]);
        let rows =
            query("select r.* from rows($1: id uuid, n bigint, yes boolean, body bytea) as r order by n");
        let rows = rows.bind(
            serde_json::from_str::<serde_json::Value>(&input.to_string().replace("\"on\"", "\"on_\""))
                .unwrap(),
        );
        let rows = rows.all(db).await.unwrap();
        assert_eq!(rows.len(), 2, "{}", test.name);
        assert_eq!(rows[0].get::<Uuid>("id").unwrap(), id);
        assert_eq!(rows[0].get::<Vec<u8>>("body").unwrap(), [0, 255]);
        assert_eq!(rows[1].get::<i64>("n").unwrap(), 2);
        assert_eq!(rows[1].get::<Option<Vec<u8>>>("body").unwrap(), None);
    }
}

#[tokio::test]
async fn errors_are_classified() {
    for test in databases(&[]).await {
        let db = &test.db;
        let create = "create table t (a bigint constraint positive check (a >= 0), b bigint, \
                      constraint t_a_b unique (a, b))";
        create_table(db, create).await;
        let mut tx = db.begin().await.unwrap();
        query("insert into t (a, b) values (1, 1)").execute(&mut tx).await.unwrap();
        tx.savepoint().await.unwrap();
        let again = query("insert into t (a, b) values (1, 1)").execute(&mut tx).await;
        assert!(matches!(again, Err(Error::Unique(name)) if name == "t_a_b"), "{}", test.name);
        tx.rollback_to_savepoint().await.unwrap();
        tx.savepoint().await.unwrap();
        let below = query("insert into t (a, b) values (-1, 1)").execute(&mut tx).await;
        assert!(matches!(below, Err(Error::Refused(name)) if name == "positive"), "{}", test.name);
        tx.rollback_to_savepoint().await.unwrap();
        tx.savepoint().await.unwrap();
        assert!(matches!(query("select nonsense").execute(&mut tx).await, Err(Error::Bug(_))));
        tx.rollback_to_savepoint().await.unwrap();
        tx.commit().await.unwrap();
        let count = query("select count(*) as n from t").one(db).await.unwrap();
        assert_eq!(count.get::<i64>("n").unwrap(), 1, "only the write before the savepoints is kept");
    }
}

#[tokio::test]
async fn the_clock_counts_microseconds_and_migrations_run_twice() {
    for test in databases(&[]).await {
        let db = &test.db;
        db.migrate(&[&MIGRATIONS]).await.unwrap();
        db.migrate(&[&MIGRATIONS]).await.unwrap();
        let now: i64 = query("select now_us from clock").one(db).await.unwrap().get("now_us").unwrap();
        let local =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
        assert!((local - now).abs() < 60_000_000, "{}: {now} against {local}", test.name);
    }
}

/// sqlx 0.9 returns the connection of a cancelled `begin` to the pool with the transaction still open,
/// so each `begin` on PostgreSQL runs in its own task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelled_requests_leave_clean_connections() {
    for test in databases(&[]).await {
        let db = &test.db;
        create_table(db, "create table t (n bigint)").await;
        write(db, query("insert into t (n) values (0)")).await.unwrap();
        for round in 1..=5_000_i64 {
            cancelled(db.begin(), round % 97).await;
            cancelled(db.snapshot(), round % 103).await;
            if round % 10 == 0 {
                // A connection with an open transaction would still read the state of its first
                // statement.
                assert_all_connections_read(db, round - 10).await;
                write(db, query("update t set n = $1").bind(round)).await.unwrap();
                assert_all_connections_read(db, round).await;
            }
        }
    }
}

/// Reads concurrently over all connections for reads.
async fn assert_all_connections_read(db: &Db, number: i64) {
    let read = || async { query("select n from t").one(db).await.unwrap().get::<i64>("n").unwrap() };
    for seen in join_all((0..8).map(|_| read())).await {
        assert_eq!(seen, number, "on {:?}", db.dialect());
    }
}

/// Polls a request up to `polls` times, then cancels it.
async fn cancelled(request: impl Future, polls: i64) {
    let mut request = pin!(request);
    for _ in 0..polls {
        if request.as_mut().now_or_never().is_some() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn write(db: &Db, statement: Query) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    statement.execute(&mut tx).await?;
    tx.commit().await
}

#[tokio::test]
async fn a_detached_write_completes_after_its_request_was_cancelled() {
    for test in databases(&[]).await {
        let db = &test.db;
        create_table(db, "create table t (n bigint)").await;
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (proceed, may_proceed) = tokio::sync::oneshot::channel::<()>();
        let write_db = db.clone();
        let write = async move {
            let mut tx = write_db.begin().await.unwrap();
            started.send(()).unwrap();
            may_proceed.await.unwrap();
            query("insert into t (n) values (1)").execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        };
        let request_db = db.clone();
        let request = tokio::spawn(async move { request_db.detach(write).await });
        has_started.await.unwrap();
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        proceed.send(()).unwrap();
        eventually("the row is written", || async {
            query("select n from t").optional(db).await.unwrap().is_some()
        })
        .await;
        db.close().await;
    }
}

/// As while a backup is restored under a running process.
#[tokio::test]
async fn a_missing_row_or_table_is_unavailable() {
    for test in databases(&[]).await {
        let db = &test.db;
        create_table(db, "create table t (n bigint)").await;
        let select = || query("select n from t").one(db);
        let missing = select().await;
        assert!(matches!(missing, Err(Error::Unavailable(_))), "{}: {missing:?}", test.name);
        create_table(db, "drop table t").await;
        let missing = select().await;
        match db.dialect() {
            Dialect::Postgres => assert!(matches!(missing, Err(Error::Unavailable(_))), "{missing:?}"),
            // A restore replaces the file while no process uses it.
            Dialect::Sqlite => assert!(matches!(missing, Err(Error::Bug(_))), "{missing:?}"),
        }
    }
}

#[tokio::test]
async fn a_commit_notifies_subscribers() {
    for test in databases(&[]).await {
        let db = &test.db;
        let mut commits = db.commits();
        commits.mark_unchanged();
        create_table(db, "create table t (a bigint)").await;
        assert!(commits.has_changed().unwrap());
    }
}

/// A limit on the pages of the writing connection stands for a full disk: SQLite then ends the transaction
/// itself.
#[tokio::test]
async fn a_full_database_refuses_writes_only_while_it_is_full() {
    for test in databases(&[]).await.into_iter().filter(|test| test.name == "sqlite") {
        let db = &test.db;
        create_table(db, "create table t (a text)").await;
        let insert = async |length: usize| {
            let mut tx = db.begin().await?;
            query("insert into t values ($1)").bind("x".repeat(length)).execute(&mut tx).await?;
            tx.commit().await
        };
        for round in 0..3 {
            let mut tx = db.begin().await.unwrap();
            query("pragma max_page_count = 8").one(&mut tx).await.unwrap();
            let full = query("insert into t values ($1)").bind("x".repeat(1 << 20)).execute(&mut tx).await;
            assert!(matches!(full, Err(Error::Unavailable(_))), "{full:?}");
            drop(tx);
            // The limit belongs to the connection, so a new connection stands for a disk with space again.
            insert(1).await.unwrap();
            let count = query("select count(*) as n from t").one(db).await.unwrap();
            assert_eq!(count.get::<i64>("n").unwrap(), round + 1, "nothing of the refused write is left");
        }
    }
}

#[tokio::test]
async fn a_health_check_notices_that_writes_are_refused() {
    for test in databases(&[&MIGRATIONS]).await {
        let db = &test.db;
        let commits = db.commits();
        let failures = db.failures();
        for _ in 0..3 {
            db.try_write().await.unwrap();
        }
        assert!(!commits.has_changed().unwrap(), "{}: no reader of the outbox wakes for it", test.name);
        let kept = query("select filler from write_check").all(db).await;
        assert!(test.name == "sqlite" || kept.unwrap().is_empty(), "nothing is left of the tries");
        let (left, right) = tokio::join!(db.try_write(), db.try_write());
        left.and(right).unwrap();
        assert!(!failures.has_changed().unwrap());
        // As a server that its host has made read-only because the disk is full.
        let read_only: &[&'static str] = match db.dialect() {
            Dialect::Sqlite => &["pragma query_only = on"],
            Dialect::Postgres => &[
                "do $$ begin execute format('alter database %I set default_transaction_read_only = on',
                     current_database()); end $$",
                "set default_transaction_read_only = on",
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()",
            ],
        };
        let mut tx = db.begin().await.unwrap();
        for statement in read_only {
            query(statement).execute(&mut tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        db.ping().await.unwrap();
        let refused = db.try_write().await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable(_)), "{}: {refused:?}", test.name);
        assert!(failures.has_changed().unwrap(), "{}", test.name);
    }
}
