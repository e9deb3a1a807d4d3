//! Order of a Postgres outbox under concurrent writers. Through the relay no event is lost or reordered.
//! The same checks fail for the two usual ways to read an outbox by cursor (docs/design.md#outbox-order;
//! measurements in docs/decisions/0006-kafka.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use db::{Db, Dialect, query};
use events::{Event, Headers, Log, outbox};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use testkit::{TestDb, databases, eventually};
use uuid::Uuid;

use crate::fixture::{Fixture, count, leak};

const WRITERS: u64 = 24;
const KEYS: usize = 20;
/// Number of transactions per writer.
const TRANSACTIONS: usize = 150;

/// Faults among the first occurrences of events in a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Faults {
    /// Events that were written and not read.
    lost: usize,
    /// Events that were read after a later version of their key.
    reordered: usize,
    /// Events whose predecessor was not read before them.
    missing: usize,
}

fn find_faults(written: &BTreeMap<String, i64>, log: &[(String, i64)]) -> Faults {
    let mut faults = Faults::default();
    let mut seen: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for (key, version) in log {
        let versions = seen.entry(key).or_default();
        if versions.contains(version) {
            continue;
        }
        faults.reordered += usize::from(versions.last().is_some_and(|last| last > version));
        faults.missing += usize::from(*version > 1 && !versions.contains(&(version - 1)));
        versions.insert(*version);
    }
    for (key, last) in written {
        let versions = seen.get(key.as_str());
        faults.lost +=
            (1..=*last).filter(|version| versions.is_none_or(|seen| !seen.contains(version))).count();
    }
    faults
}

#[test]
fn each_kind_of_fault_is_found() {
    let written = BTreeMap::from([("a".to_owned(), 4)]);
    let faults = |versions: &[i64]| {
        let log: Vec<_> = versions.iter().map(|version| ("a".to_owned(), *version)).collect();
        find_faults(&written, &log)
    };
    assert_eq!(faults(&[1, 2, 1, 2, 3, 2, 4]), Faults::default(), "repeated events are not faults");
    assert_eq!(faults(&[1, 3, 2, 4]), Faults { lost: 0, reordered: 1, missing: 1 });
    assert_eq!(faults(&[1, 2, 4]), Faults { lost: 1, reordered: 0, missing: 1 });
}

/// Creates a Postgres database, and a pool with enough connections for all writers.
async fn database() -> Option<(TestDb, Db)> {
    let all = databases(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
    let test = all.into_iter().find(|test| test.db.dialect() == Dialect::Postgres)?;
    let name: String = query("select current_database() as name")
        .one(&test.db)
        .await
        .unwrap()
        .get("name")
        .unwrap_or_default();
    let server = std::env::var("TEST_POSTGRES_URL").unwrap();
    let pool = Db::open(&format!("{}/{name}", server.rsplit_once('/').unwrap().0), 30).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    query("create table aggregate (key text primary key, version bigint not null)")
        .execute(&mut tx)
        .await
        .unwrap();
    query("create table claim (id uuid primary key)").execute(&mut tx).await.unwrap();
    for key in 0..KEYS {
        let insert = query("insert into aggregate (key, version) values ($1, 0)");
        insert.bind(format!("key-{key}")).execute(&mut tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    Some((test, pool))
}

/// Writes like a service: inserts a row, locks one or two aggregates in key order, takes their next
/// versions, and appends their events.
async fn write(db: Db, topic: &'static str, writer: u64) {
    let mut random = SmallRng::seed_from_u64(writer);
    for _ in 0..TRANSACTIONS {
        let keys: BTreeSet<usize> =
            (0..random.random_range(1..=2)).map(|_| random.random_range(0..KEYS)).collect();
        let mut tx = db.begin().await.unwrap();
        query("insert into claim (id) values ($1)").bind(Uuid::now_v7()).execute(&mut tx).await.unwrap();
        let mut events = Vec::new();
        for key in keys {
            let key = format!("key-{key}");
            let lock = query("update aggregate set version = version + 1 where key = $1 returning version");
            let row = lock.bind(key.as_str()).one(&mut tx).await.unwrap();
            events.push(Event {
                event_id: Uuid::now_v7(),
                topic,
                key,
                version: row.get("version").unwrap(),
                kind: "Tested",
                payload: vec![0; 40],
                headers: Headers::default(),
            });
        }
        outbox::append(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// Runs all writers concurrently. Returns the last version of each key.
async fn write_all(db: &Db, topic: &'static str) -> BTreeMap<String, i64> {
    let start = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(db.clone(), topic, writer))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let rows = query("select key, version from aggregate").all(db).await.unwrap();
    let written: BTreeMap<String, i64> =
        rows.iter().map(|row| (row.get("key").unwrap(), row.get("version").unwrap())).collect();
    println!("{} events written in {:?}", written.values().sum::<i64>(), start.elapsed());
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_neither_loses_nor_reorders_events() {
    let Some((test, pool)) = database().await else { return };
    let fixture = match std::env::var("TEST_KAFKA_URL") {
        Ok(url) => Fixture::real(url, Dialect::Postgres).await,
        Err(_) => Fixture::mock(leak(format!("test.{}", Uuid::now_v7().simple())), Dialect::Postgres),
    };
    let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
    // One of the two relays is killed while it works.
    let first = fixture.relay(&pool);
    let second = fixture.relay(&test.db);
    let killed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        first.kill().await;
    };
    let start = Instant::now();
    let (written, ()) = tokio::join!(write_all(&pool, fixture.topic), killed);
    let drained = || async { count(&pool, "outbox").await == 0 };
    eventually("the outbox is empty", drained).await;
    println!("published in {:?}", start.elapsed());
    let total = usize::try_from(written.values().sum::<i64>()).unwrap();
    let mut log = Vec::new();
    let mut distinct = BTreeSet::new();
    while let Ok(batch) = tokio::time::timeout(Duration::from_secs(2), tail.next()).await {
        for record in batch.unwrap().records {
            distinct.insert((record.key.clone(), record.version));
            log.push((record.key, record.version));
        }
    }
    println!("{} records, {} of them repeated", log.len(), log.len() - distinct.len());
    assert_eq!(find_faults(&written, &log), Faults::default());
    assert_eq!(distinct.len(), total);
    second.stop().await;
}

/// Reads the outbox by a cursor in the order of this statement, until the writers are done and no more
/// rows appear.
async fn read_by_cursor(db: Db, sql: &'static str, done: Arc<AtomicBool>) -> Vec<(String, i64)> {
    let mut log = Vec::new();
    let mut cursor = (0_i64, 0_i64);
    let mut idle = 0;
    while idle < 100 {
        let rows = query(sql).bind(cursor.0).bind(cursor.1).all(&db).await.unwrap();
        idle = if rows.is_empty() && done.load(SeqCst) { idle + 1 } else { 0 };
        for row in rows {
            cursor = (row.get("major").unwrap(), row.get("id").unwrap());
            log.push((row.get("key").unwrap(), row.get("version").unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log
}

async fn faults_of_cursor(sql: &'static str) -> Option<Faults> {
    let (_test, pool) = database().await?;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read_by_cursor(pool.clone(), sql, done.clone()));
    let written = write_all(&pool, "test.order").await;
    done.store(true, SeqCst);
    Some(find_faults(&written, &reader.await.unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_over_ids_loses_events() {
    let by_id = "select 0::bigint as major, id, key, version from outbox
        where $1 = 0 and id > $2 order by id limit 500";
    let Some(faults) = faults_of_cursor(by_id).await else { return };
    println!("by id: {faults:?}");
    assert!(faults.lost > 0, "{faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_over_transaction_ids_reorders_events() {
    let by_xid = "select xmin::text::bigint as major, id, key, version from outbox
        where (xmin::text::bigint, id) > ($1, $2)
        and xmin::text::bigint < (pg_snapshot_xmin(pg_current_snapshot())::text::bigint & 4294967295)
        order by xmin::text::bigint, id limit 500";
    let Some(faults) = faults_of_cursor(by_xid).await else { return };
    println!("by transaction id: {faults:?}");
    assert_eq!(faults.lost, 0);
    assert!(faults.reordered > 0, "{faults:?}");
}
