//! The order of a Postgres outbox under concurrent writers: through the relay nothing is lost, swapped or missing; the two
//! usual ways to read an outbox by cursor are caught by the same checker (DESIGN §5 has the figures that led to the relay).

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

use crate::world::{World, count, leak};

const WRITERS: u64 = 24;
const KEYS: usize = 20;
/// Transactions of each writer.
const EACH: usize = 150;

/// What is wrong with a log, in first occurrences.
#[derive(Debug, Default, PartialEq, Eq)]
struct Faults {
    /// Written and never read.
    lost: usize,
    /// Read after a later version of its key.
    swapped: usize,
    /// Not there when the next version of its key was read.
    missing: usize,
}

fn check(written: &BTreeMap<String, i64>, log: &[(String, i64)]) -> Faults {
    let mut faults = Faults::default();
    let mut seen: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for (key, version) in log {
        let versions = seen.entry(key).or_default();
        if versions.contains(version) {
            continue;
        }
        faults.swapped += usize::from(versions.last().is_some_and(|last| last > version));
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
fn the_checker_tells_what_is_wrong() {
    let written = BTreeMap::from([("a".to_owned(), 4)]);
    let faults = |versions: &[i64]| {
        let log: Vec<_> = versions.iter().map(|version| ("a".to_owned(), *version)).collect();
        check(&written, &log)
    };
    assert_eq!(faults(&[1, 2, 1, 2, 3, 2, 4]), Faults::default(), "repeats may follow");
    assert_eq!(faults(&[1, 3, 2, 4]), Faults { lost: 0, swapped: 1, missing: 1 });
    assert_eq!(faults(&[1, 2, 4]), Faults { lost: 1, swapped: 0, missing: 1 });
}

/// A database of Postgres, and connections enough that all writers are at work at the same time.
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
    let wide = Db::open(&format!("{}/{name}", server.rsplit_once('/').unwrap().0), 30).await.unwrap();
    let mut tx = wide.begin().await.unwrap();
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
    Some((test, wide))
}

/// What a service does: claim something of its own, lock one or two aggregates in key order, take their versions, append.
async fn write(db: Db, topic: &'static str, writer: u64) {
    let mut random = SmallRng::seed_from_u64(writer);
    for _ in 0..EACH {
        let keys: BTreeSet<usize> =
            (0..random.random_range(1..=2)).map(|_| random.random_range(0..KEYS)).collect();
        let mut tx = db.begin().await.unwrap();
        query("insert into claim (id) values ($1)").bind(Uuid::now_v7()).execute(&mut tx).await.unwrap();
        let mut events = Vec::new();
        for key in keys {
            let (key, event_id) = (format!("key-{key}"), Uuid::now_v7());
            let lock = query("update aggregate set version = version + 1 where key = $1 returning version");
            let row = lock.bind(key.as_str()).one(&mut tx).await.unwrap();
            let (version, kind, payload) = (row.get("version").unwrap(), "Tested", vec![0; 40]);
            events.push(Event { event_id, topic, key, version, kind, payload, headers: Headers::default() });
        }
        outbox::append(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// All writers at once; whatever else reads meanwhile.
async fn write_all(db: &Db, topic: &'static str) -> BTreeMap<String, i64> {
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(db.clone(), topic, writer))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let rows = query("select key, version from aggregate").all(db).await.unwrap();
    let written: BTreeMap<String, i64> =
        rows.iter().map(|row| (row.get("key").unwrap(), row.get("version").unwrap())).collect();
    println!("{} events written in {:?}", written.values().sum::<i64>(), began.elapsed());
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_the_relay_nothing_is_lost_swapped_or_missing() {
    let Some((test, wide)) = database().await else { return };
    let world = match std::env::var("TEST_KAFKA_URL") {
        Ok(url) => World::real(url, Dialect::Postgres).await,
        Err(_) => World::mock(leak(format!("test.{}", Uuid::now_v7().simple())), Dialect::Postgres),
    };
    let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
    // Two relays, one of which is killed in the middle, as a process would be.
    let (first, second) = (world.relay(&wide), world.relay(&test.db));
    let killed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        first.kill().await;
    };
    let began = Instant::now();
    let (written, ()) = tokio::join!(write_all(&wide, world.topic), killed);
    let drained = || async { count(&wide, "outbox").await == 0 };
    eventually("the outbox is empty", drained).await;
    println!("and relayed in {:?}", began.elapsed());
    let (mut log, total) = (Vec::new(), usize::try_from(written.values().sum::<i64>()).unwrap());
    let mut distinct = BTreeSet::new();
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(2), tail.next()).await {
        for record in next.unwrap().records {
            distinct.insert((record.key.clone(), record.version));
            log.push((record.key, record.version));
        }
    }
    println!("{} records, {} of them repeats", log.len(), log.len() - distinct.len());
    assert_eq!(check(&written, &log), Faults::default());
    assert_eq!(distinct.len(), total);
    second.stop().await;
}

/// Reads the outbox by a cursor over this order until the writers are done and nothing more comes.
async fn follow(db: Db, sql: &'static str, done: Arc<AtomicBool>) -> Vec<(String, i64)> {
    let (mut log, mut at, mut idle) = (Vec::new(), (0_i64, 0_i64), 0);
    while idle < 100 {
        let rows = query(sql).bind(at.0).bind(at.1).all(&db).await.unwrap();
        idle = if rows.is_empty() && done.load(SeqCst) { idle + 1 } else { 0 };
        for row in rows {
            at = (row.get("major").unwrap(), row.get("id").unwrap());
            log.push((row.get("key").unwrap(), row.get("version").unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log
}

async fn followed(sql: &'static str) -> Option<Faults> {
    let (_test, wide) = database().await?;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(follow(wide.clone(), sql, done.clone()));
    let written = write_all(&wide, "test.order").await;
    done.store(true, SeqCst);
    Some(check(&written, &reader.await.unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_over_ids_is_caught_losing() {
    let by_id = "select 0::bigint as major, id, key, version from outbox where $1 = 0 and id > $2 order by id limit 500";
    let Some(faults) = followed(by_id).await else { return };
    println!("by id: {faults:?}");
    assert!(faults.lost > 0, "{faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_over_transaction_ids_is_caught_swapping() {
    let by_xid = "select xmin::text::bigint as major, id, key, version from outbox
        where (xmin::text::bigint, id) > ($1, $2)
        and xmin::text::bigint < (pg_snapshot_xmin(pg_current_snapshot())::text::bigint & 4294967295)
        order by xmin::text::bigint, id limit 500";
    let Some(faults) = followed(by_xid).await else { return };
    println!("by transaction id: {faults:?}");
    assert_eq!(faults.lost, 0);
    assert!(faults.swapped > 0, "{faults:?}");
}
