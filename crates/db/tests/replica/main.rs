//! Reads on a real streaming replica that lags, pauses, dies and is promoted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed setup fails the test; measurements are printed"
)]

mod fixture;
mod history;

use std::time::{Duration, Instant};

use db::{Db, Error, ReplicaFault, query};
use fixture::{Fixture, Seen};
use testkit::{Replication, eventually};

#[tokio::test]
async fn a_replica_that_has_replayed_everything_is_read() {
    let Some(fixture) = Fixture::start().await else { return };
    assert!(!fixture.read().await.on_replica, "before the first check");
    fixture.until_on_replica().await;
    for n in 1..=20 {
        fixture.write(n).await;
        assert_eq!(fixture.read().await.n, n);
        eventually("the replica is read", || async {
            let seen = fixture.read().await;
            assert_eq!(seen.n, n);
            seen.on_replica
        })
        .await;
    }
}

#[tokio::test]
async fn a_replica_that_is_late_is_not_read() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.until_on_replica().await;
    fixture.servers.replica.execute("select pg_wal_replay_pause()").await;
    for n in 1..=20 {
        fixture.write(n).await;
        assert_eq!(fixture.read().await, Seen { n, on_replica: false });
    }
    let fault = fixture.db.check_replica().await.unwrap_err();
    assert!(matches!(fault, ReplicaFault::Late), "{fault:?}");
    fixture.servers.replica.execute("select pg_wal_replay_resume()").await;
    fixture.until_on_replica().await;
    assert_eq!(fixture.read().await.n, 20);
}

#[tokio::test]
async fn a_replica_that_is_killed_or_hangs_costs_a_moment_and_is_read_again_when_it_is_back() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.until_on_replica().await;
    let replica = &fixture.servers.replica;
    replica.kill();
    fixture.reads_stay_right(1).await;
    assert!(matches!(fixture.db.check_replica().await, Err(ReplicaFault::Away(_))));
    replica.start();
    fixture.until_on_replica().await;
    replica.pause();
    fixture.reads_stay_right(2).await;
    assert!(matches!(fixture.db.check_replica().await, Err(ReplicaFault::Away(_))));
    replica.resume();
    fixture.until_on_replica().await;
    assert_eq!(fixture.read().await.n, 2);
}

impl Fixture {
    /// Writes, and reads often and at once, with at most half a second for the first reads.
    async fn reads_stay_right(&self, n: i64) {
        self.write(n).await;
        let start = Instant::now();
        for seen in futures_util::future::join_all((0..20).map(|_| self.read())).await {
            assert_eq!(seen, Seen { n, on_replica: false });
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(self.read().await, Seen { n, on_replica: false });
        }
        assert!(start.elapsed() < Duration::from_millis(200), "nothing is waited for: {:?}", start.elapsed());
    }
}

/// A commit that waits for another synchronous replica is replayed on this one. It is not acknowledged, and
/// the primary does not show it: a read that shows it, followed by one of the primary, would go back in time.
#[tokio::test]
async fn a_commit_that_the_primary_does_not_show_is_not_shown() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.write(1).await;
    fixture.until_on_replica().await;
    fixture.servers.primary.set("synchronous_standby_names = 'FIRST 2 (*)'").await;
    // The setting takes effect a moment after the reload.
    let mut n = 1;
    let waiting = loop {
        n += 1;
        let db = fixture.db.clone();
        let mut write = tokio::spawn(async move { fixture::write(&db, n).await });
        if tokio::time::timeout(Duration::from_secs(1), &mut write).await.is_err() {
            break write;
        }
    };
    let direct = Db::open(&fixture.servers.replica.url("postgres"), 1).await.unwrap();
    eventually("the replica has replayed the commit", || async {
        query("select n from t").one(&direct).await.unwrap().get::<i64>("n").unwrap() == n
    })
    .await;
    for _ in 0..20 {
        assert_eq!(fixture.read().await, Seen { n: n - 1, on_replica: false });
        assert_eq!(fixture.read_of_primary().await.n, n - 1);
    }
    assert!(!waiting.is_finished());
    fixture.servers.primary.set("synchronous_standby_names = ''").await;
    waiting.await.unwrap();
    fixture.until_on_replica().await;
    assert_eq!(fixture.read().await.n, n);
}

/// Transactions that run for long do not keep the replica from being used, unless they have committed there.
#[tokio::test]
async fn a_transaction_that_is_open_on_the_primary_does_not_matter() {
    let Some(fixture) = Fixture::start().await else { return };
    let mut open = fixture.db.begin().await.unwrap();
    query("insert into other (n) values (1)").execute(&mut open).await.unwrap();
    for n in 1..=5 {
        fixture.write(n).await;
        fixture.until_on_replica().await;
        assert_eq!(fixture.read().await.n, n);
    }
    open.commit().await.unwrap();
}

#[tokio::test]
async fn a_read_that_recovery_cancels_is_repeated_on_the_primary() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.write(1).await;
    fixture.servers.replica.set("max_standby_streaming_delay = 0").await;
    fixture.until_on_replica().await;
    let read = async {
        let select = "select n, pg_is_in_recovery() as on_replica, pg_sleep(0.2) from t";
        let rows = query(select).read(&fixture.db).await.unwrap();
        fixture::seen(&rows)
    };
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fixture.servers.primary.execute("alter table t add column m bigint").await;
    };
    let (seen, ()) = tokio::join!(read, change);
    assert_eq!(seen, Seen { n: 1, on_replica: false });
    eventually("the replica is read without a check", || async { fixture.read().await.on_replica }).await;
}

#[tokio::test]
async fn a_server_that_is_not_a_replica_of_this_database_is_not_read() {
    let Some(fixture) = Fixture::start().await else { return };
    fixture.write(1).await;
    let db = Db::open(&fixture.servers.primary.url("postgres"), 4).await.unwrap();
    db.attach_replica(&fixture.servers.replica.url("template1"), 4).unwrap();
    let fault = db.check_replica().await.unwrap_err();
    assert!(matches!(fault, ReplicaFault::Foreign), "{fault:?}");
    assert_eq!(fixture::read(&db).await, Seen { n: 1, on_replica: false });

    fixture.servers.primary.execute("create database copy template template0").await;
    let db = Db::open(&fixture.servers.primary.url("postgres"), 4).await.unwrap();
    let Some(others) = Replication::start() else { return };
    db.attach_replica(&others.replica.url("postgres"), 4).unwrap();
    let fault = db.check_replica().await.unwrap_err();
    assert!(matches!(fault, ReplicaFault::Foreign), "{fault:?}");
    assert_eq!(fixture::read(&db).await, Seen { n: 1, on_replica: false });

    fixture.until_on_replica().await;
    fixture.servers.replica.promote();
    fixture.write(2).await;
    assert_eq!(fixture.read().await, Seen { n: 2, on_replica: false });
    let fault = fixture.db.check_replica().await.unwrap_err();
    assert!(matches!(fault, ReplicaFault::Promoted), "{fault:?}");
}

#[tokio::test]
async fn only_postgresql_has_replicas() {
    let test = testkit::sqlite(&[]).await;
    let refused = test.db.attach_replica("postgres://localhost/a", 1);
    assert!(matches!(refused, Err(Error::ReplicaUrl)), "{refused:?}");
    test.db.check_replica().await.unwrap();
    let Ok(url) = std::env::var("TEST_POSTGRES_URL") else { return };
    let db = Db::open(&url, 1).await.unwrap();
    for wrong in ["", "sqlite:a.db", "http://localhost/a", "postgres://localhost:port/a"] {
        assert!(matches!(db.attach_replica(wrong, 1), Err(Error::ReplicaUrl)), "{wrong}");
    }
}
