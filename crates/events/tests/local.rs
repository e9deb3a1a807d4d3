//! Tests of the local event log: each event is applied once despite failures, and a consumer stops if its
//! log was replaced, restored from an old backup, or pruned too far.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use db::{Db, Tx, query};
use events::{Apply, BoxError, Consumer, Event, Headers, Local, Log, Mismatch, Record, outbox};
use testkit::{TestDb, eventually, sqlite};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TOPIC: &str = "test.topic";
const OTHER: &str = "test.other";

/// Copies records into a table. If `fails` is set, every third call fails after writing. Records with a
/// version in `delays` may wait so long.
#[derive(Default)]
struct CopyHandler {
    calls: Arc<AtomicUsize>,
    fails: bool,
    delays: Vec<(i64, Duration)>,
}

impl Apply for CopyHandler {
    fn max_delay(&self, record: &Record) -> Duration {
        let delay = self.delays.iter().find(|(version, _)| *version == record.version);
        delay.map_or(Duration::ZERO, |(_, delay)| *delay)
    }

    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        for record in records {
            let insert = query("insert into copy (version, payload) values ($1, $2)");
            insert.bind(record.version).bind(record.payload.to_vec()).execute(&mut *tx).await?;
        }
        let call = self.calls.fetch_add(1, Relaxed);
        if self.fails && call.is_multiple_of(3) { Err("injected failure".into()) } else { Ok(()) }
    }
}

async fn database() -> TestDb {
    let test = sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
    let mut tx = test.db.begin().await.unwrap();
    query("create table copy (version bigint, payload blob)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    test
}

async fn append(db: &Db, topic: &'static str, versions: std::ops::Range<i64>) {
    let events: Vec<Event> = versions
        .map(|version| Event {
            event_id: Uuid::now_v7(),
            topic,
            key: "k".to_owned(),
            version,
            kind: "Tested",
            payload: version.to_be_bytes().to_vec(),
            headers: Headers { request_id: Some("r-1".to_owned()), traceparent: None },
        })
        .collect();
    let mut tx = db.begin().await.unwrap();
    outbox::append(&mut tx, &events).await.unwrap();
    tx.commit().await.unwrap();
}

async fn copied(db: &Db) -> Vec<i64> {
    let rows = query("select version from copy order by rowid").all(db).await.unwrap();
    rows.iter().map(|row| row.get("version").unwrap()).collect()
}

fn local(producer: &Db) -> Local {
    Local::new(vec![(TOPIC, producer.clone()), (OTHER, producer.clone())])
}

fn log(producer: &Db) -> Log {
    Log::Local(local(producer))
}

fn consumer(log: &Log, db: &Db, fails: bool) -> Consumer<CopyHandler> {
    Consumer::new("copier", &[TOPIC], log, db, CopyHandler { fails, ..CopyHandler::default() })
}

#[tokio::test]
async fn each_event_is_applied_once_and_in_order_despite_failures() {
    let producer = database().await;
    let target = database().await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer(&log(&producer.db), &target.db, true).run(shutdown.clone()));
    for start in (0..600).step_by(20) {
        append(&producer.db, TOPIC, start..start + 20).await;
        append(&producer.db, OTHER, 9_000..9_002).await;
    }
    eventually("all events are applied", || async { copied(&target.db).await.len() >= 600 }).await;
    assert_eq!(copied(&target.db).await, (0..600).collect::<Vec<_>>());
    shutdown.cancel();
    running.await.unwrap().unwrap();
    append(&producer.db, TOPIC, 600..601).await;
    let shutdown = CancellationToken::new();
    let resumed = tokio::spawn(consumer(&log(&producer.db), &target.db, false).run(shutdown.clone()));
    eventually("the consumer continues at its offset", || async { copied(&target.db).await.len() == 601 })
        .await;
    shutdown.cancel();
    resumed.await.unwrap().unwrap();
}

#[tokio::test]
async fn records_that_may_wait_are_applied_with_the_next_one_or_after_their_delay() {
    let producer = database().await;
    let target = database().await;
    let shutdown = CancellationToken::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let long = Duration::from_secs(3_600);
    let delays = vec![(0, long), (1, long), (3, long), (4, Duration::from_millis(50))];
    let handler = CopyHandler { calls: calls.clone(), fails: false, delays };
    let consumer = Consumer::new("copier", &[TOPIC], &log(&producer.db), &target.db, handler);
    let running = tokio::spawn(consumer.run(shutdown.clone()));
    append(&producer.db, TOPIC, 0..1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    append(&producer.db, TOPIC, 1..2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(calls.load(Relaxed), 0, "both wait");
    append(&producer.db, TOPIC, 2..3).await;
    eventually("the urgent record is applied", || async { copied(&target.db).await == [0, 1, 2] }).await;
    assert_eq!(calls.load(Relaxed), 1);
    append(&producer.db, TOPIC, 3..4).await;
    append(&producer.db, TOPIC, 4..5).await;
    eventually("the shortest delay ends", || async { copied(&target.db).await == [0, 1, 2, 3, 4] }).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_consumer_stops_if_its_log_was_replaced_restored_or_pruned() {
    let producer = database().await;
    let target = database().await;
    append(&producer.db, TOPIC, 0..10).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer(&log(&producer.db), &target.db, false).run(shutdown.clone()));
    eventually("all events are applied", || async { copied(&target.db).await.len() == 10 }).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();

    let replaced = database().await;
    append(&replaced.db, TOPIC, 0..10).await;
    let stopped = consumer(&log(&replaced.db), &target.db, false).run(CancellationToken::new()).await;
    assert!(matches!(stopped, Err(stopped) if stopped.reason == Mismatch::DifferentRecord));

    let restored = database().await;
    append(&restored.db, TOPIC, 0..4).await;
    let stopped = consumer(&log(&restored.db), &target.db, false).run(CancellationToken::new()).await;
    assert!(matches!(stopped, Err(stopped) if stopped.reason == Mismatch::EndsAt(5)));

    append(&producer.db, TOPIC, 10..30).await;
    let mut tx = producer.db.begin().await.unwrap();
    query("delete from outbox where id < 20").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let stopped = consumer(&log(&producer.db), &target.db, false).run(CancellationToken::new()).await;
    assert!(matches!(stopped, Err(stopped) if stopped.reason == Mismatch::StartsAt(20)));
    assert_eq!(copied(&target.db).await.len(), 10, "no record of the other logs was applied");
}

#[tokio::test]
async fn pruning_waits_for_every_consumer_and_keeps_the_last_applied_row() {
    let producer = database().await;
    let target = database().await;
    let local = local(&producer.db);
    let log = Log::Local(local.clone());
    append(&producer.db, TOPIC, 0..10).await;
    let consumer = consumer(&log, &target.db, false);
    assert_eq!(
        local.prune(Duration::ZERO).await.unwrap(),
        0,
        "a consumer that has not started keeps all rows"
    );
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(consumer.run(shutdown.clone()));
    eventually("all events are applied", || async { copied(&target.db).await.len() == 10 }).await;
    assert_eq!(local.prune(Duration::from_secs(3600)).await.unwrap(), 0, "recent rows stay");
    eventually("all applied rows but the last are pruned", || async {
        local.prune(Duration::ZERO).await.unwrap() == 9
    })
    .await;
    append(&producer.db, TOPIC, 10..12).await;
    eventually("the consumer continues", || async { copied(&target.db).await.len() == 12 }).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let kept = query("select min(id) as low from outbox").one(&producer.db).await.unwrap();
    assert_eq!(kept.get::<i64>("low").unwrap(), 10);
}

#[tokio::test]
async fn a_tail_receives_each_later_event_once() {
    let producer = database().await;
    append(&producer.db, TOPIC, 0..5).await;
    let local = local(&producer.db);
    let mut tail = local.tail(&[TOPIC, OTHER]).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(50), tail.next()).await.is_err(),
        "there is no new event"
    );
    append(&producer.db, TOPIC, 5..7).await;
    append(&producer.db, OTHER, 100..101).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(tail.next().await.unwrap().records.iter().map(|record| record.version));
    }
    seen.sort_unstable();
    assert_eq!(seen, [5, 6, 100]);
    assert!(tokio::time::timeout(Duration::from_millis(50), tail.next()).await.is_err());
}

#[tokio::test]
async fn many_events_are_inserted_in_order_by_several_statements() {
    for test in testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS]).await {
        for count in [500, 501, 1_201] {
            append(&test.db, TOPIC, 0..count).await;
            let rows = query("select id, version from outbox order by id").all(&test.db).await.unwrap();
            let versions: Vec<i64> = rows.iter().map(|row| row.get("version").unwrap()).collect();
            assert_eq!(versions, (0..count).collect::<Vec<_>>(), "{}", test.name);
            let mut tx = test.db.begin().await.unwrap();
            query("delete from outbox").execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_tail_batch_has_at_most_500_records() {
    let producer = database().await;
    let local = local(&producer.db);
    let mut tail = local.tail(&[TOPIC]).await.unwrap();
    append(&producer.db, TOPIC, 0..1_201).await;
    let mut sizes = Vec::new();
    let mut versions = Vec::new();
    while versions.len() < 1_201 {
        let records = tail.next().await.unwrap().records;
        sizes.push(records.len());
        versions.extend(records.iter().map(|record| record.version));
    }
    assert_eq!(sizes, [500, 500, 201]);
    assert_eq!(versions, (0..1_201).collect::<Vec<_>>());
}

#[tokio::test]
async fn pruning_deletes_at_most_1000_rows_per_transaction() {
    let producer = database().await;
    let local = Local::new(vec![(TOPIC, producer.db.clone())]);
    append(&producer.db, TOPIC, 0..2_500).await;
    let in_past = || async {
        let row = query("select count(*) as n from outbox where created_at_us < (select now_us from clock)");
        row.one(&producer.db).await.unwrap().get::<i64>("n").unwrap() == 2_500
    };
    eventually("all rows are in the past", in_past).await;
    let commits = producer.db.commits();
    let before = *commits.borrow();
    assert_eq!(local.prune(Duration::ZERO).await.unwrap(), 2_500);
    assert_eq!(*commits.borrow() - before, 3, "1,000, 1,000 and 500");
}
