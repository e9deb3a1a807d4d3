//! `tidings migrate`: migrates the given databases and creates the Kafka topics.

use anyhow::{Context, bail};
use events::Kafka;

use crate::{engine, process::StopSignals, settings::Migrate};

/// Migrates every database whose URL is set and creates the topics if `KAFKA_URL` is set. Waits for
/// unavailable engines.
///
/// # Errors
/// Fails if no URL is set, a migration fails, or an existing topic has another number of partitions.
pub async fn run(settings: Migrate) -> anyhow::Result<()> {
    let databases = &settings.databases;
    let targets = [
        ("AUTH_DATABASE_URL", &databases.auth_database_url, &auth::MIGRATIONS),
        ("DIALOG_DATABASE_URL", &databases.dialog_database_url, &dialog::MIGRATIONS),
        ("COUNTER_DATABASE_URL", &databases.counter_database_url, &counter::MIGRATIONS),
    ];
    if targets.iter().all(|(_, url, _)| url.is_none()) && settings.log.kafka_url.is_none() {
        bail!("nothing to migrate: neither AUTH_, DIALOG_ and COUNTER_DATABASE_URL nor KAFKA_URL are set");
    }
    let mut signals = StopSignals::catch()?;
    for (setting, url, migrations) in targets {
        if let Some(url) = url {
            engine::open(&mut signals, setting, url, None, migrations).await?.close().await;
            tracing::info!(setting, "database migrated");
        }
    }
    if let Some(url) = &settings.log.kafka_url {
        let kafka = Kafka::new(url, None).context("KAFKA_URL")?;
        engine::wait_for_kafka(&mut signals, &kafka).await?;
        kafka.ensure_topics(&engine::topics()).await.context("KAFKA_URL")?;
        tracing::info!("topics are in place");
    }
    Ok(())
}
