//! Reads and writes of several processes at once, of which each read must show all that any read or write
//! before it has shown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use db::{Db, query};
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::fixture::{Fixture, open};

/// Rows, each with a writer.
const ROWS: usize = 3;
const TIME: Duration = Duration::from_secs(8);

/// Facts that every later read must show.
#[derive(Default)]
struct World {
    /// Newest number of each row that a read has shown or a write has acknowledged.
    known: [AtomicI64; ROWS],
    is_over: AtomicBool,
    on_replica: AtomicU64,
    on_primary: AtomicU64,
    writes: AtomicU64,
}

/// With and without synchronous replication, by writes at a pace and as fast as they go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_read_goes_back_in_time() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.servers.primary.execute("create table c (id bigint primary key, n bigint)").await;
    fixture.servers.primary.execute("insert into c (id, n) values (0, 0), (1, 0), (2, 0)").await;
    for standbys in ["''", "'ANY 1 (*)'"] {
        fixture.servers.primary.set(&format!("synchronous_standby_names = {standbys}")).await;
        fixture.until_on_replica().await;
        for pause_ms in [0, 20] {
            run(&fixture, pause_ms, standbys).await;
        }
    }
}

async fn run(fixture: &Fixture, pause_ms: u64, standbys: &str) {
    let world = Arc::new(World::default());
    for (row, known) in world.known.iter().enumerate() {
        known.store(shown(&fixture.db, false).await[row], SeqCst);
    }
    let mut tasks = Vec::new();
    for row in 0..ROWS {
        tasks.push(tokio::spawn(write(fixture.db.clone(), Arc::clone(&world), row, pause_ms)));
    }
    for reader in 0..4 {
        // Two processes with the replica; the second one also reads the primary alone.
        let db = open(&fixture.servers).await;
        tasks.push(tokio::spawn(read(db, Arc::clone(&world), reader)));
    }
    let end = tokio::time::Instant::now() + TIME;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(700)).await;
        fixture.servers.replica.execute("select pg_wal_replay_pause()").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        fixture.servers.replica.execute("select pg_wal_replay_resume()").await;
    }
    world.is_over.store(true, SeqCst);
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let [replica, primary, writes] =
        [&world.on_replica, &world.on_primary, &world.writes].map(|count| count.load(SeqCst));
    println!(
        "synchronous_standby_names = {standbys}, {} writes/s: {} reads/s, {} % of them on the replica",
        writes / TIME.as_secs(),
        (replica + primary) / TIME.as_secs(),
        100 * replica / (replica + primary)
    );
    assert!(writes > 100 && replica > 100 && primary > 0, "{writes}, {replica}, {primary}");
}

async fn write(db: Db, world: Arc<World>, row: usize, pause_ms: u64) {
    while !world.is_over.load(SeqCst) {
        let mut tx = db.begin().await.unwrap();
        let update = query("update c set n = n + 1 where id = $1 returning n").bind(row as i64);
        let n = update.one(&mut tx).await.unwrap().get::<i64>("n").unwrap();
        tx.commit().await.unwrap();
        world.known[row].fetch_max(n, SeqCst);
        world.writes.fetch_add(1, SeqCst);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

async fn read(db: Db, world: Arc<World>, reader: u64) {
    let mut random = StdRng::seed_from_u64(reader);
    while !world.is_over.load(SeqCst) {
        // As the program does every second.
        if random.random_ratio(1, 100) {
            drop(db.check_replica().await);
        }
        let before = world.known.each_ref().map(|known| known.load(SeqCst));
        let rows = shown(&db, reader % 4 != 3).await;
        for row in 0..ROWS {
            let [now, before] = [rows[row], before[row]];
            assert!(now >= before, "row {row}: {now} after {before}, on the replica: {}", rows[ROWS] == 1);
            world.known[row].fetch_max(now, SeqCst);
        }
        if reader % 4 != 3 {
            let source = if rows[ROWS] == 1 { &world.on_replica } else { &world.on_primary };
            source.fetch_add(1, SeqCst);
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..2_000))).await;
    }
}

/// Reads the numbers of all rows, and 1 at the end if the replica has answered.
async fn shown(db: &Db, may_use_replica: bool) -> [i64; ROWS + 1] {
    let select =
        query("select n, cast(cast(pg_is_in_recovery() as int) as bigint) as source from c order by id");
    let rows = if may_use_replica { select.read(db).await } else { select.all(db).await }.unwrap();
    let mut shown = [rows[0].get("source").unwrap(); ROWS + 1];
    for (shown, row) in shown.iter_mut().zip(&rows) {
        *shown = row.get("n").unwrap();
    }
    shown
}
