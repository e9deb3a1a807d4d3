//! Identities of servers. To ask for one costs as much as a read of a few rows, so it is kept for a second,
//! by the start of the server, which costs nothing: another server has another start.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use sqlx::{
    Row,
    postgres::{PgExecutor, PgRow},
};

/// Asks for the identity. A replica's timeline is that of its last restart point or of the pages that it has
/// written since: both follow the one that it replays.
const IDENTITY: &str = "select
    cast(extract(epoch from pg_postmaster_start_time()) * 1000000 as bigint) as started_at,
    cast(s.system_identifier as text) as cluster,
    cast(greatest(c.timeline_id, r.min_recovery_end_timeline) as bigint) as timeline
    from pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r";

/// Start of a server, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StartedAt(pub i64);

/// Identity of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Identifier of the cluster.
    pub cluster: String,
    /// Timeline that the server is known to have reached.
    pub timeline: u32,
}

/// Identities of the servers that were asked since they were last forgotten.
#[derive(Debug, Default)]
pub(crate) struct Identities(Mutex<BTreeMap<StartedAt, Identity>>);

impl Identities {
    /// Returns the identity of a server. Asks for it if it is not known, on a connection to the same server.
    pub(crate) async fn of(
        &self,
        server: StartedAt,
        on: impl PgExecutor<'_>,
    ) -> Result<Identity, sqlx::Error> {
        if let Some(known) = self.0.lock().get(&server) {
            return Ok(known.clone());
        }
        let row = sqlx::query(IDENTITY).fetch_one(on).await?;
        let identity = parse(&row)?;
        if StartedAt(row.try_get("started_at")?) != server {
            return Err(sqlx::Error::Protocol("another server has answered".to_owned()));
        }
        self.0.lock().insert(server, identity.clone());
        Ok(identity)
    }

    /// Forgets all identities: a replica may have reached another timeline.
    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }
}

fn parse(row: &PgRow) -> Result<Identity, sqlx::Error> {
    let timeline = u32::try_from(row.try_get::<i64, _>("timeline")?);
    Ok(Identity {
        cluster: row.try_get("cluster")?,
        timeline: timeline.map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}
