//! PostgreSQL, Kafka and Redis for the roles: those that `bench/load/run` has started for this purpose
//! alone. Every start of a system empties them.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use db::Db;
use tokio::process::Command;

use crate::{
    meter::Metered,
    proc,
    store::{self, Statements},
};

/// Running engines.
#[derive(Debug, Clone)]
pub struct Engines {
    postgres: String,
    /// URL of the broker.
    pub kafka: String,
    /// URL of Redis.
    pub redis: String,
    folder: PathBuf,
    server: Db,
}

impl Engines {
    /// Finds the engines in the environment that `deploy/engines/up.sh` has written.
    pub async fn from_environment() -> anyhow::Result<Self> {
        let setting =
            |name: &str| std::env::var(name).with_context(|| format!("{name} is not set (make bench)"));
        let postgres = setting("TEST_POSTGRES_URL")?;
        let server = Db::open(&postgres, 2).await?;
        Ok(Self {
            postgres,
            kafka: setting("TEST_KAFKA_URL")?,
            redis: setting("TEST_REDIS_URL")?,
            folder: setting("ENGINES_DIR")?.into(),
            server,
        })
    }

    /// Empties all three and creates the databases.
    pub async fn clear(&self) -> anyhow::Result<()> {
        control("wipe", "kafka").await?;
        control("start", "kafka").await?;
        self.clear_cache().await?;
        store::create_databases(&self.server).await
    }

    /// Empties Redis, which keeps nothing over a restart.
    pub async fn clear_cache(&self) -> anyhow::Result<()> {
        control("stop", "redis").await?;
        control("start", "redis").await
    }

    /// Returns the URL of a database.
    pub fn database(&self, name: &str) -> String {
        let server = self.postgres.rsplit_once('/').map_or(self.postgres.as_str(), |(server, _)| server);
        format!("{server}/{name}")
    }

    /// Returns PostgreSQL's counts of statements.
    pub async fn statements(&self) -> Option<Statements> {
        store::statements(&self.server).await
    }

    /// Returns the processes of the engines.
    pub fn metered(&self) -> anyhow::Result<Vec<Metered>> {
        let metered = |name: &str| {
            let process = proc::process_id(&self.folder.join(format!("{name}.pid")))?;
            anyhow::Ok(Metered { name: name.to_owned(), process, with_children: name == "postgres" })
        };
        ["postgres", "redis", "kafka"].into_iter().map(metered).collect()
    }
}

/// Runs `deploy/engines/one.sh` with a verb.
async fn control(verb: &str, engine: &str) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/engines/one.sh");
    let output = Command::new(script).args([verb, engine]).output().await?;
    ensure!(output.status.success(), "one.sh {verb} {engine}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
