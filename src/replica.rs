//! Replica of a role's database. It is optional at any time: while it is away or late, reads use the primary.

use std::{error::Error, time::Duration};

use anyhow::{Context, bail};
use db::{Db, ReplicaFault};
use telemetry::readiness::Component;
use tokio_util::sync::CancellationToken;

use crate::{engine::CONNECTIONS_MAX, process::Process, settings};

const SETTING: &str = "DATABASE_REPLICA_URL";
/// Interval of the checks. A replica that has failed is used again after the next one.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Lets reads use the replica, if one is set, and spawns its checks. A replica that is away is waited for in
/// the background.
///
/// # Errors
/// Fails if the URL is malformed or not one of PostgreSQL, or leads to a server that does not have this
/// database.
pub async fn attach(
    process: &mut Process,
    name: &'static str,
    db: &Db,
    settings: &settings::Replica,
) -> anyhow::Result<()> {
    let Some(url) = &settings.database_replica_url else { return Ok(()) };
    db.attach_replica(url, CONNECTIONS_MAX).context(SETTING)?;
    if let Err(fault @ ReplicaFault::Foreign) = db.check_replica().await {
        bail!("{SETTING}: {fault}");
    }
    let component = process.readiness.register(format!("{name} replica"));
    process.spawn(watch(component, db.clone(), process.shutdown.clone()));
    Ok(())
}

/// Reports a replica that cannot be used as degraded.
async fn watch(component: Component, db: Db, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let Some(checked) = shutdown.run_until_cancelled(db.check_replica()).await else { return };
        match checked {
            Ok(()) => component.ready(),
            Err(fault) => {
                let cause = fault.source().map(|cause| format!(": {cause}"));
                component.degraded(format!("{fault}{}", cause.unwrap_or_default()));
            }
        }
        shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await;
    }
}
