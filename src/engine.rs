//! Engines of a role: database, event log, cache and rate limiter. At startup a role waits for its
//! database, and `migrate` also for Kafka, with a log line per second. Afterwards their state is a
//! component of `/readyz`.

use std::{
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use counter::Cache;
use db::{Db, Migrations};
use events::{Kafka, Local, Log, Relay, Topic, UnconsumedTopic};
use limit::Limiter;
use proto::topic;
use telemetry::{Readiness, readiness::Component};
use tokio_util::sync::CancellationToken;

use crate::{
    process::{Process, StopSignals},
    settings,
};

/// Maximum number of PostgreSQL connections per role.
pub const CONNECTIONS_MAX: u32 = 16;
/// Interval of connection attempts at startup and of the checks for `/readyz`.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Delay between two tries of a write to a database that accepts them. Each costs a write to the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Partitions per topic, which is also the maximum number of instances of a role that share its work.
/// Fixed: with another number, keys would move between partitions and events of a key could be applied
/// out of order.
const PARTITIONS: i32 = 12;

/// Retention of dead letters, in Kafka and in outbox tables.
const DEAD_LETTER_RETENTION: Duration = DAY.saturating_mul(30);

/// Returns all topics with the settings that `tidings migrate` creates them with.
pub fn topics() -> Vec<Topic> {
    let topic = |name, days| Topic { name, partitions: PARTITIONS, retention: DAY * days };
    let mut topics: Vec<Topic> =
        [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD].map(|name| topic(name, 7)).into();
    topics.push(Topic { name: topic::DEAD, partitions: PARTITIONS, retention: DEAD_LETTER_RETENTION });
    topics
}

/// Opens a database and applies its migrations, on `direct_url` if given: migrations need a session of
/// their own, which a transaction pooler does not provide.
///
/// # Errors
/// Fails if the URL is malformed, a migration fails, or a signal arrives while the database is unavailable.
pub async fn open(
    signals: &mut StopSignals,
    setting: &'static str,
    url: &str,
    direct_url: Option<&str>,
    migrations: &'static Migrations,
) -> anyhow::Result<Db> {
    let direct = connect(signals, setting, || Db::open(direct_url.unwrap_or(url), CONNECTIONS_MAX)).await?;
    migrate(setting, &direct, migrations).await?;
    match direct_url {
        None => Ok(direct),
        Some(_) => {
            direct.close().await;
            connect(signals, setting, || Db::open(url, CONNECTIONS_MAX)).await
        }
    }
}

/// Opens the SQLite database in a file of `data_dir`, which it creates if absent, and applies its
/// migrations.
///
/// # Errors
/// Fails if the file cannot be opened or a migration fails.
pub async fn open_file(data_dir: &Path, name: &str, migrations: &'static Migrations) -> anyhow::Result<Db> {
    let path = data_dir.join(name);
    let db = Db::open_file(&path).await.with_context(|| format!("cannot open {}", path.display()))?;
    migrate(&path.display().to_string(), &db, migrations).await?;
    Ok(db)
}

async fn migrate(name: &str, db: &Db, migrations: &'static Migrations) -> anyhow::Result<()> {
    let migrated = db.migrate(&[&db::MIGRATIONS, &events::MIGRATIONS, migrations]).await;
    migrated.with_context(|| format!("cannot migrate the database of {name}"))
}

/// Connects, and retries every second while the database is unavailable. Fails on any other error and on
/// a stop signal.
async fn connect<F>(
    signals: &mut StopSignals,
    setting: &'static str,
    open: impl Fn() -> F,
) -> anyhow::Result<Db>
where
    F: Future<Output = Result<Db, db::Error>>,
{
    loop {
        match open().await {
            Ok(db) => return Ok(db),
            Err(db::Error::Unavailable(error)) => tracing::warn!(setting, %error, "waiting for the database"),
            Err(error) => return Err(error).context(setting),
        }
        pause(signals, setting).await?;
    }
}

/// Waits until a broker answers.
///
/// # Errors
/// Fails if a stop signal arrives first.
pub async fn wait_for_kafka(signals: &mut StopSignals, kafka: &Kafka) -> anyhow::Result<()> {
    while let Err(error) = kafka.ping().await {
        tracing::warn!(setting = "KAFKA_URL", %error, "waiting for Kafka");
        pause(signals, "KAFKA_URL").await?;
    }
    Ok(())
}

async fn pause(signals: &mut StopSignals, setting: &str) -> anyhow::Result<()> {
    tokio::select! {
        () = tokio::time::sleep(CHECK_INTERVAL) => Ok(()),
        () = signals.next() => bail!("signal received while waiting for {setting}"),
    }
}

/// Creates the event log: Kafka, or the outbox tables themselves if all databases are SQLite. `outboxes`
/// lists the topics and the databases that hold their outboxes, `with_dead_letters` the databases whose
/// outboxes also hold dead letters.
///
/// # Errors
/// Fails if Kafka is combined with SQLite, PostgreSQL is used without Kafka, or `KAFKA_URL` is malformed.
pub fn event_log(
    kafka_url: Option<&str>,
    instance: Option<&str>,
    outboxes: &[(&'static str, &Db)],
    with_dead_letters: &[&Db],
) -> anyhow::Result<Log> {
    let sqlite = outboxes.iter().filter(|(_, db)| db.dialect() == db::Dialect::Sqlite).count();
    match kafka_url {
        Some(url) if sqlite == 0 => Ok(Log::Kafka(Kafka::new(url, instance).context("KAFKA_URL")?)),
        None if sqlite == outboxes.len() => {
            let outboxes = outboxes.iter().map(|(topic, db)| (*topic, (*db).clone()));
            // Operators read dead letters, the process does not: no consumer's cursor would ever release
            // the rows.
            let dead = with_dead_letters.iter();
            let dead = dead.map(|db| UnconsumedTopic {
                topic: topic::DEAD,
                db: (*db).clone(),
                retention: DEAD_LETTER_RETENTION,
            });
            Ok(Log::Local(Local::with_unconsumed_topics(outboxes.collect(), dead.collect())))
        }
        Some(_) => bail!("KAFKA_URL requires PostgreSQL databases: set the database URLs"),
        None => bail!("PostgreSQL databases require KAFKA_URL"),
    }
}

/// Creates the counter's cache: in Redis, which may still be unavailable, or in this process.
///
/// # Errors
/// Fails if the URL is malformed.
pub fn cache(settings: &settings::Redis) -> anyhow::Result<Cache> {
    match &settings.redis_url {
        Some(url) => Cache::redis(url).context("REDIS_URL"),
        None => Ok(Cache::in_process()),
    }
}

/// Creates the rate limiter: in Redis, which may still be unavailable, or in this process.
///
/// # Errors
/// Fails if the URL is malformed.
pub fn limiter(settings: &settings::Redis) -> anyhow::Result<Limiter> {
    match &settings.redis_url {
        Some(url) => Limiter::shared(url, "tidings:rate:").context("REDIS_URL"),
        None => Ok(Limiter::local()),
    }
}

/// Spawns the tasks that the event log and the databases need: the relay of each outbox to Kafka or the
/// pruning of the local log, and the checks for `/readyz`.
pub fn spawn_tasks(process: &mut Process, log: &Log, outboxes: &[(&'static str, &Db)]) {
    match log.clone() {
        Log::Local(local) => {
            let shutdown = process.shutdown.clone();
            process.spawn(async move { local.run(shutdown).await });
        }
        Log::Kafka(kafka) => {
            for (name, db) in outboxes {
                process.spawn(Relay::new(name, db, &kafka).run(process.shutdown.clone()));
            }
            process.spawn(watch_broker(kafka, process.readiness.register("kafka"), process.shutdown.clone()));
        }
    }
    for (name, db) in outboxes {
        let component = process.readiness.register(format!("{name} database"));
        process.spawn(watch_database(name, component, (*db).clone(), process.shutdown.clone()));
    }
}

/// Reports Redis as degraded while it is unavailable: the counter then reads its database.
pub async fn watch_cache(cache: Cache, readiness: Readiness, shutdown: CancellationToken) {
    let component = readiness.register("redis");
    while !shutdown.is_cancelled() {
        match cache.check().await {
            Ok(()) => component.ready(),
            Err(error) => component.degraded(error.to_string()),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await;
    }
}

/// Sets the metrics of the connections to a database.
fn set_connections(database: &'static str, db: &Db) {
    let (used, idle) = db.connections();
    for (state, connections) in [("used", used), ("idle", idle)] {
        metrics::gauge!("database_connections", "database" => database, "state" => state)
            .set(f64::from(connections));
    }
}

/// Reports a database as not ready while it is unavailable or refuses writes. A write is tried every
/// [`WRITE_INTERVAL`], at once after a transaction has failed, and at each check while writes fail.
async fn watch_database(database: &'static str, component: Component, db: Db, shutdown: CancellationToken) {
    let mut written_at: Option<Instant> = None;
    let mut failures = db.failures();
    while !shutdown.is_cancelled() {
        set_connections(database, &db);
        let failed = failures.has_changed().unwrap_or_default();
        failures.mark_unchanged();
        let reads_suffice = !failed && written_at.is_some_and(|at| at.elapsed() < WRITE_INTERVAL);
        let answer = if reads_suffice { db.ping().await } else { db.try_write().await };
        match answer {
            Ok(()) => {
                component.ready();
                if !reads_suffice {
                    written_at = Some(Instant::now());
                }
            }
            Err(error) => {
                // Readiness is for operators: the words of the database say whether its disk is full.
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                component.not_ready(format!("{error}{}", cause.unwrap_or_default()));
                written_at = None;
            }
        }
        shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await;
    }
}

/// Reports Kafka as degraded while no broker answers: requests succeed, and their events wait in the
/// outbox.
async fn watch_broker(kafka: Kafka, component: Component, shutdown: CancellationToken) {
    component.ready();
    while !shutdown.is_cancelled() {
        // A ping may wait 5 s for a broker; shutdown must not.
        let Some(answer) = shutdown.run_until_cancelled(kafka.ping()).await else { return };
        match answer {
            Ok(()) => component.ready(),
            Err(error) => component.degraded(error.to_string()),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await;
    }
}

#[cfg(test)]
mod tests {
    use db::query;

    use super::*;

    #[tokio::test]
    async fn dead_letters_of_the_local_log_are_kept_for_thirty_days() {
        let test = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let Ok(Log::Local(local)) = event_log(None, None, &[(topic::DIALOG, &test.db)], &[&test.db]) else {
            panic!("SQLite without Kafka uses the local log")
        };
        let mut tx = test.db.begin().await.unwrap();
        for days in [29_i64, 31] {
            let letter = events::Event {
                event_id: uuid::Uuid::now_v7(),
                topic: topic::DEAD,
                key: "k".to_owned(),
                version: days,
                kind: "DeadLetter",
                payload: Vec::new(),
                headers: events::Headers::default(),
            };
            events::outbox::append(&mut tx, &[letter]).await.unwrap();
        }
        let backdate = query("update outbox set created_at_us = created_at_us - version * 86400000000");
        backdate.execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(local.prune(DAY).await.unwrap(), 1);
        let left = query("select version from outbox").one(&test.db).await.unwrap();
        assert_eq!(left.get::<i64>("version").unwrap(), 29);
    }
}
