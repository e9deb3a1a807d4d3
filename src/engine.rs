//! The engines behind a role: its database and the log. A role waits for them with a line a second, and starts when they
//! are there.

use std::{future::Future, path::Path, time::Duration};

use anyhow::{Context, bail};
use counter::Cache;
use db::{Db, Migrations};
use events::{Aside, Kafka, Local, Log, Relay, Topic};
use limit::Limiter;
use proto::topic;
use telemetry::{Readiness, readiness::Component};
use tokio_util::sync::CancellationToken;

use crate::{
    process::{Process, stop_signal},
    settings,
};

/// Connections to Postgres of one role.
const CONNECTIONS: u32 = 16;
/// How often a role that waits says so, and looks again.
const EVERY: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Parts of a topic: as many instances of a role as can share its work.
const PARTITIONS: i32 = 12;

/// How long dead letters stay, wherever they are.
const DEAD_KEEP: Duration = DAY.saturating_mul(30);

/// Every topic, as `tidings migrate` makes it.
pub fn topics() -> Vec<Topic> {
    let topic = |name, days| Topic { name, partitions: PARTITIONS, retention: DAY * days };
    let mut topics: Vec<Topic> =
        [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD].map(|name| topic(name, 7)).into();
    topics.push(Topic { name: topic::DEAD, partitions: PARTITIONS, retention: DEAD_KEEP });
    topics
}

/// Opens a database and brings it up to date, on the direct URL where a pooler stands before the other.
///
/// # Errors
/// Where the URL is none, or the schema cannot be brought up to date.
pub async fn open(
    setting: &'static str,
    url: &str,
    direct_url: Option<&str>,
    migrations: &'static Migrations,
) -> anyhow::Result<Db> {
    let direct = waiting(setting, || Db::open(direct_url.unwrap_or(url), CONNECTIONS)).await?;
    migrate(setting, &direct, migrations).await?;
    match direct_url {
        None => Ok(direct),
        Some(_) => {
            direct.close().await;
            waiting(setting, || Db::open(url, CONNECTIONS)).await
        }
    }
}

/// Opens the SQLite database in a file of the folder and brings it up to date.
///
/// # Errors
/// Where it cannot be opened or brought up to date.
pub async fn open_file(data_dir: &Path, name: &str, migrations: &'static Migrations) -> anyhow::Result<Db> {
    let path = data_dir.join(name);
    let db = Db::open_file(&path).await.with_context(|| format!("{} cannot be opened", path.display()))?;
    migrate(&path.display().to_string(), &db, migrations).await?;
    Ok(db)
}

async fn migrate(what: &str, db: &Db, migrations: &'static Migrations) -> anyhow::Result<()> {
    let migrated = db.migrate(&[&db::MIGRATIONS, &events::MIGRATIONS, migrations]).await;
    migrated.with_context(|| format!("{what} cannot be brought up to date"))
}

/// Tries until the database answers. Ends the process in good order where it is told to stop meanwhile.
async fn waiting<F>(setting: &'static str, open: impl Fn() -> F) -> anyhow::Result<Db>
where
    F: Future<Output = Result<Db, db::Error>>,
{
    loop {
        match open().await {
            Ok(db) => return Ok(db),
            Err(db::Error::Unavailable(error)) => tracing::warn!(setting, %error, "waiting for the database"),
            Err(error) => return Err(error).context(setting),
        }
        pause(setting).await?;
    }
}

/// Tries until a broker answers.
///
/// # Errors
/// Where the process is told to stop meanwhile.
pub async fn wait_for(kafka: &Kafka) -> anyhow::Result<()> {
    while let Err(error) = kafka.ping().await {
        tracing::warn!(setting = "KAFKA_URL", %error, "waiting for Kafka");
        pause("KAFKA_URL").await?;
    }
    Ok(())
}

async fn pause(setting: &str) -> anyhow::Result<()> {
    tokio::select! {
        () = tokio::time::sleep(EVERY) => Ok(()),
        stopped = stop_signal() => {
            stopped?;
            bail!("stopped while it waited for {setting}");
        }
    }
}

/// The log: outboxes of this process, of which some have dead letters, or Kafka.
///
/// # Errors
/// Where databases and log do not go together, or the URL is none.
pub fn log(
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
            // Dead letters are for people: nothing here reads them.
            let dead = with_dead_letters.iter();
            let dead = dead.map(|db| Aside { topic: topic::DEAD, db: (*db).clone(), keep: DEAD_KEEP });
            Ok(Log::Local(Local::with_asides(outboxes.collect(), dead.collect())))
        }
        Some(_) => bail!("KAFKA_URL goes with databases at postgres: URLs"),
        None => bail!("databases at postgres: URLs want KAFKA_URL"),
    }
}

/// The counter's cache: a map of this process, or Redis, which need not be there yet.
///
/// # Errors
/// Where the URL is none.
pub fn cache(settings: &settings::Redis) -> anyhow::Result<Cache> {
    match &settings.redis_url {
        Some(url) => Cache::redis(url).context("REDIS_URL"),
        None => Ok(Cache::in_process()),
    }
}

/// Where rate limits are counted: in this process, or in Redis, which need not be there yet.
///
/// # Errors
/// Where the URL is none.
pub fn limiter(settings: &settings::Redis) -> anyhow::Result<Limiter> {
    match &settings.redis_url {
        Some(url) => Limiter::shared(url, "tidings:rate:").context("REDIS_URL"),
        None => Ok(Limiter::local()),
    }
}

/// What stands behind the log: the relay of every outbox to Kafka, or the pruning of outboxes that are the log.
pub fn carry(process: &mut Process, log: &Log, outboxes: &[(&'static str, &Db)]) {
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
        process.spawn(watch_database(component, (*db).clone(), process.shutdown.clone()));
    }
}

/// Without its cache the counter works on: it reads its database.
pub async fn watch_cache(cache: Cache, readiness: Readiness, shutdown: CancellationToken) {
    let component = readiness.register("redis");
    while !shutdown.is_cancelled() {
        match cache.check().await {
            Ok(()) => component.ready(),
            Err(error) => component.degraded(error.to_string()),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await;
    }
}

/// Without its database a role is not ready.
async fn watch_database(component: Component, db: Db, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match db.ping().await {
            Ok(()) => component.ready(),
            Err(error) => component.not_ready(error.to_string()),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await;
    }
}

/// Without the broker a role works on: its outbox grows.
async fn watch_broker(kafka: Kafka, component: Component, shutdown: CancellationToken) {
    component.ready();
    while !shutdown.is_cancelled() {
        let Some(answer) = shutdown.run_until_cancelled(kafka.ping()).await else { return };
        match answer {
            Ok(()) => component.ready(),
            Err(error) => component.degraded(error.to_string()),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use db::query;

    use super::*;

    #[tokio::test]
    async fn dead_letters_of_one_process_stay_for_thirty_days() {
        let test = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let Ok(Log::Local(local)) = log(None, None, &[(topic::DIALOG, &test.db)], &[&test.db]) else {
            panic!("SQLite without Kafka is the local log")
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
        let age = query("update outbox set created_at_us = created_at_us - version * 86400000000");
        age.execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(local.prune(DAY).await.unwrap(), 1);
        let left = query("select version from outbox").one(&test.db).await.unwrap();
        assert_eq!(left.get::<i64>("version").unwrap(), 29);
    }
}
