//! What the crate promises, on every database that answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::{future::Future, pin::pin};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use testkit::{databases, eventually};
use uuid::Uuid;

use db::{Db, Error, MIGRATIONS, Query, query};

async fn table(db: &Db, create: &'static str) {
    let mut tx = db.begin().await.unwrap();
    query(create).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn every_type_comes_back_as_it_went_in() {
    for test in databases(&[]).await {
        let db = &test.db;
        let uuid = if test.name == "sqlite" { "text" } else { "uuid" };
        let bytes = if test.name == "sqlite" { "blob" } else { "bytea" };
        let create = format!("create table t (a boolean, b bigint, c text, d {uuid}, e {bytes})");
        table(db, Box::leak(create.into_boxed_str())).await;
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
async fn a_set_goes_in_as_one_bind() {
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
async fn errors_are_told_apart() {
    for test in databases(&[]).await {
        let db = &test.db;
        table(
            db,
            "create table t (a bigint constraint positive check (a >= 0), b bigint, constraint t_a_b unique (a, b))",
        )
        .await;
        let mut tx = db.begin().await.unwrap();
        query("insert into t (a, b) values (1, 1)").execute(&mut tx).await.unwrap();
        tx.savepoint().await.unwrap();
        let again = query("insert into t (a, b) values (1, 1)").execute(&mut tx).await;
        assert!(matches!(again, Err(Error::Unique(name)) if name == "t_a_b"), "{}", test.name);
        tx.undo().await.unwrap();
        tx.savepoint().await.unwrap();
        let below = query("insert into t (a, b) values (-1, 1)").execute(&mut tx).await;
        assert!(matches!(below, Err(Error::Refused(name)) if name == "positive"), "{}", test.name);
        tx.undo().await.unwrap();
        tx.savepoint().await.unwrap();
        assert!(matches!(query("select nonsense").execute(&mut tx).await, Err(Error::Bug(_))));
        tx.undo().await.unwrap();
        tx.commit().await.unwrap();
        let count = query("select count(*) as n from t").one(db).await.unwrap();
        assert_eq!(count.get::<i64>("n").unwrap(), 1, "what the savepoints undid is gone, the rest is there");
    }
}

#[tokio::test]
async fn the_clock_runs_in_microseconds() {
    for test in databases(&[]).await {
        let db = &test.db;
        db.migrate(&[&MIGRATIONS]).await.unwrap();
        db.migrate(&[&MIGRATIONS]).await.unwrap();
        let now: i64 = query("select now_us from clock").one(db).await.unwrap().get("now_us").unwrap();
        let ours =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
        assert!((ours - now).abs() < 60_000_000, "{}: {now} against {ours}", test.name);
    }
}

/// sqlx 0.9 can hand on a connection whose cancelled `begin` is still open: every `begin` runs in a task of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelled_requests_leave_clean_connections() {
    for test in databases(&[]).await {
        let db = &test.db;
        table(db, "create table t (n bigint)").await;
        write(db, query("insert into t (n) values (0)")).await.unwrap();
        for round in 1..=5_000_i64 {
            cancelled(db.begin(), round % 97).await;
            cancelled(db.snapshot(), round % 103).await;
            if round % 10 == 0 {
                // One that is inside a transaction sees what it saw when it was asked first.
                everyone_sees(db, round - 10).await;
                write(db, query("update t set n = $1").bind(round)).await.unwrap();
                everyone_sees(db, round).await;
            }
        }
    }
}

/// Asks every connection that reads.
async fn everyone_sees(db: &Db, number: i64) {
    let ask = || async { query("select n from t").one(db).await.unwrap().get::<i64>("n").unwrap() };
    for seen in join_all((0..8).map(|_| ask())).await {
        assert_eq!(seen, number, "on {:?}", db.dialect());
    }
}

/// Looks at a request so often, then leaves it.
async fn cancelled(request: impl Future, looks: i64) {
    let mut request = pin!(request);
    for _ in 0..looks {
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
async fn a_write_runs_to_its_end_though_its_request_is_gone() {
    for test in databases(&[]).await {
        let db = &test.db;
        table(db, "create table t (n bigint)").await;
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        let of_write = db.clone();
        let write = async move {
            let mut tx = of_write.begin().await.unwrap();
            begin.send(()).unwrap();
            left.await.unwrap();
            query("insert into t (n) values (1)").execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        };
        let of_request = db.clone();
        let request = tokio::spawn(async move { of_request.detach(write).await });
        begun.await.unwrap();
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        leave.send(()).unwrap();
        eventually("it is written", || async {
            query("select n from t").optional(db).await.unwrap().is_some()
        })
        .await;
        db.close().await;
    }
}

#[tokio::test]
async fn a_commit_wakes_those_who_wait() {
    for test in databases(&[]).await {
        let db = &test.db;
        let mut commits = db.commits();
        commits.mark_unchanged();
        table(db, "create table t (a bigint)").await;
        assert!(commits.has_changed().unwrap());
    }
}
