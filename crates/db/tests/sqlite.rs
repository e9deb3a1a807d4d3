//! Transactions of SQLite that end otherwise than by a commit.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::time::Duration;

use db::{Db, Error, query};
use futures_util::FutureExt;
use testkit::TestDb;

/// Takes a good part of a second.
const LONG: &str = "insert into t with recursive n(n) as \
    (select 1 union all select n + 1 from n where n < 2000000) select max(n) from n";

async fn table() -> TestDb {
    let test = testkit::sqlite(&[]).await;
    let mut tx = test.db.begin().await.unwrap();
    query("create table t (n bigint)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    test
}

async fn insert(db: &Db) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    query("insert into t values (1)").execute(&mut tx).await?;
    tx.commit().await
}

async fn count(db: &Db) -> i64 {
    query("select count(*) as n from t").one(db).await.unwrap().get("n").unwrap()
}

#[tokio::test]
async fn placeholders_are_numbers_in_any_order() {
    let test = table().await;
    let row = query("select $2 - $1 as n, $1 as one").bind(1).bind(3).one(&test.db).await.unwrap();
    assert_eq!(row.get::<i64>("n").unwrap(), 2);
    assert_eq!(row.get::<i64>("one").unwrap(), 1);
    let unbound = query("select $2 as n").bind(1).one(&test.db).await;
    assert!(matches!(unbound, Err(Error::Bug(_))), "{unbound:?}");
    let absent = row.get::<i64>("absent");
    assert!(matches!(absent, Err(Error::Bug(_))), "{absent:?}");
    let text = row.get::<String>("n");
    assert!(matches!(text, Err(Error::Bug(_))), "{text:?}");
}

#[tokio::test]
async fn a_cancelled_statement_rolls_its_transaction_back() {
    let test = table().await;
    let db = &test.db;
    for _ in 0..2 {
        let mut tx = db.begin().await.unwrap();
        query("insert into t values (1)").execute(&mut tx).await.unwrap();
        let cancelled = tokio::time::timeout(Duration::from_millis(1), query(LONG).execute(&mut tx)).await;
        assert!(cancelled.is_err(), "another thread executes it");
        // The transaction went with the statement.
        let late = query("insert into t values (2)").execute(&mut tx).await;
        assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
        tx.commit().await.unwrap_err();
        insert(db).await.unwrap();
    }
    assert_eq!(count(db).await, 2, "only the writes after them");
}

#[tokio::test]
async fn a_cancelled_commit_is_a_commit() {
    let test = table().await;
    let db = &test.db;
    let commits = db.commits();
    let before = *commits.borrow();
    let mut tx = db.begin().await.unwrap();
    query("insert into t values (1)").execute(&mut tx).await.unwrap();
    let mut commit = Box::pin(tx.commit());
    assert!(commit.as_mut().now_or_never().is_none());
    drop(commit);
    // Waits for the writing connection.
    insert(db).await.unwrap();
    assert_eq!(count(db).await, 2);
    assert_eq!(*commits.borrow() - before, 2, "and its readers wake");
}

#[tokio::test]
async fn nothing_is_written_after_sqlite_has_ended_the_transaction() {
    let test = table().await;
    let db = &test.db;
    let mut tx = db.begin().await.unwrap();
    query("create unique index t_n on t (n)").execute(&mut tx).await.unwrap();
    query("insert into t values (1)").execute(&mut tx).await.unwrap();
    let ended = query("insert or rollback into t values (1)").execute(&mut tx).await;
    assert!(matches!(ended, Err(Error::Unique(_))), "{ended:?}");
    let late = query("insert into t values (2)").execute(&mut tx).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert!(matches!(tx.commit().await, Err(Error::Unavailable(_))));
    assert_eq!(count(db).await, 0);
    insert(db).await.unwrap();
    assert_eq!(count(db).await, 1);
}

#[tokio::test]
async fn closing_waits_for_transactions_and_refuses_new_ones() {
    let test = table().await;
    let db = &test.db;
    let mut tx = db.begin().await.unwrap();
    let mut close = Box::pin(db.close());
    assert!(close.as_mut().now_or_never().is_none());
    query("insert into t values (1)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    close.await;
    assert!(matches!(db.begin().await, Err(Error::Unavailable(_))));
    assert!(matches!(db.ping().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_commit_is_announced_in_its_channels() {
    let test = table().await;
    let db = &test.db;
    let events = db.announcements("events");
    let others = db.announcements("others");
    insert(db).await.unwrap();
    assert!(!events.has_changed().unwrap());
    let mut tx = db.begin().await.unwrap();
    tx.announce("events");
    query("insert into t values (1)").execute(&mut tx).await.unwrap();
    assert!(!events.has_changed().unwrap(), "not before the commit");
    tx.commit().await.unwrap();
    assert!(events.has_changed().unwrap());
    assert!(!others.has_changed().unwrap());
}
