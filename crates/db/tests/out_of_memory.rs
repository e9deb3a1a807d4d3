//! SQLite without memory, in a process of its own: the limit on its memory holds for the process.

use db::{Error, query};

#[tokio::test]
async fn a_database_without_memory_refuses_only_what_has_none() {
    let test = testkit::sqlite(&[]).await;
    let db = &test.db;
    let mut tx = db.begin().await.unwrap();
    query("create table t (a text)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let failures = db.failures();
    for round in 1..=3 {
        let mut tx = db.begin().await.unwrap();
        query("insert into t values ('lost')").execute(&mut tx).await.unwrap();
        query("pragma hard_heap_limit = 16000000").all(&mut tx).await.unwrap();
        let insert = query("insert into t values (hex(zeroblob(64000000)))");
        let refused = insert.execute(&mut tx).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable(_)), "{refused:?}");
        drop(tx);
        let mut tx = db.begin().await.unwrap();
        query("insert into t values ('kept')").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let rows = query("select a from t").all(db).await.unwrap();
        assert_eq!(rows.len(), round);
        assert!(rows.iter().all(|row| row.get::<String>("a").unwrap() == "kept"));
    }
    assert!(failures.has_changed().unwrap());
}
