//! `tidings migrate`: databases brought up to date, topics made.

use anyhow::{Context, bail};
use events::Kafka;

use crate::{engine, settings::Migrate};

/// Migrates what the settings name.
///
/// # Errors
/// Where nothing is named, or an engine refuses.
pub async fn run(settings: Migrate) -> anyhow::Result<()> {
    let databases = &settings.databases;
    let named = [
        ("AUTH_DATABASE_URL", &databases.auth_database_url, &auth::MIGRATIONS),
        ("DIALOG_DATABASE_URL", &databases.dialog_database_url, &dialog::MIGRATIONS),
        ("COUNTER_DATABASE_URL", &databases.counter_database_url, &counter::MIGRATIONS),
    ];
    if named.iter().all(|(_, url, _)| url.is_none()) && settings.log.kafka_url.is_none() {
        bail!("nothing to migrate: AUTH_, DIALOG_, COUNTER_DATABASE_URL and KAFKA_URL are not set");
    }
    for (setting, url, migrations) in named {
        if let Some(url) = url {
            engine::open(setting, url, None, migrations).await?.close().await;
            tracing::info!(setting, "the database is up to date");
        }
    }
    if let Some(url) = &settings.log.kafka_url {
        let kafka = Kafka::new(url, None).context("KAFKA_URL")?;
        engine::wait_for(&kafka).await?;
        kafka.ensure_topics(&engine::topics()).await.context("KAFKA_URL")?;
        tracing::info!("the topics are there");
    }
    Ok(())
}
