//! Read-only transaction on a connection to the replica.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::{
    Postgres, Row,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnection, PgPool, PgRow},
};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    Fallback, ReplicaFault,
    identity::{Identities, StartedAt},
    no_answer,
    position::{History, Standby},
};
use crate::Error;

/// Time of a statement on the replica, and of a new connection to it.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(250);
/// Time that a read waits for a connection while all are in use.
const BUSY_TIMEOUT: Duration = Duration::from_millis(5);
/// Time for the end of a transaction, after which its connection is closed.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks for the state of the server, then begins a transaction and takes its snapshot. In this order: a
/// position that is asked in the transaction, even by its first statement, is newer than the snapshot. One
/// message, so that a balancer or a pooler in between cannot give the parts to different servers.
const BEGIN: &str = "begin read only;
    select cast(extract(epoch from pg_postmaster_start_time()) * 1000000 as bigint) as started_at,
           cast(current_database() as text) as database,
           case when pg_is_in_recovery() then cast(pg_last_wal_replay_lsn() as text) end as replayed;
    commit;
    begin isolation level repeatable read read only;
    select cast(pg_snapshot_xmax(pg_current_snapshot()) as text) as next";
const END: &str = "rollback";

/// Transactions of a list, separated by commas, that have committed on the replica by now.
const COMMITTED: &str = "select cast(id as text) as id from unnest(string_to_array($1, ',')) as id
     where pg_xact_status(cast(id as xid8)) = 'committed'";

/// Read-only transaction on the replica. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Session {
    /// Absent after the drop only.
    connection: Option<PoolConnection<Postgres>>,
    /// First failure. Statements after it fail at once.
    fault: OnceLock<Fallback>,
    identities: Arc<Identities>,
    tasks: TaskTracker,
}

/// Snapshot of a replica.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// State of the replica before the snapshot was taken.
    pub standby: Standby,
    /// Transactions from this id on are not visible.
    pub next: u64,
}

impl Session {
    /// Waits for a connection to the replica.
    pub(crate) async fn open(
        pool: &PgPool,
        identities: &Arc<Identities>,
        tasks: &TaskTracker,
    ) -> Result<Self, ReplicaFault> {
        let is_busy = pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections();
        let patience = if is_busy { BUSY_TIMEOUT } else { STATEMENT_TIMEOUT };
        let connection = match timeout(patience, pool.acquire()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(ReplicaFault::Away(error.into())),
            Err(_) if is_busy => return Err(ReplicaFault::Busy),
            Err(_) => return Err(no_answer()),
        };
        Ok(Self {
            connection: Some(connection),
            fault: OnceLock::new(),
            identities: Arc::clone(identities),
            tasks: tasks.clone(),
        })
    }

    /// Begins the transaction, after the end of the one before.
    pub(crate) async fn begin(&mut self) -> Result<Snapshot, Error> {
        let rows = self.run(async |connection| sqlx::raw_sql(BEGIN).fetch_all(connection).await).await?;
        let [state, snapshot] = rows.as_slice() else { return Err(malformed()) };
        let server = StartedAt(state.try_get("started_at")?);
        let identities = Arc::clone(&self.identities);
        let identity = self.run(async |connection| identities.of(server, connection).await).await?;
        let history = History {
            cluster: identity.cluster,
            database: state.try_get("database")?,
            timeline: identity.timeline,
        };
        let replayed: Option<String> = state.try_get("replayed")?;
        let replayed = replayed.map(|text| text.parse()).transpose().map_err(|_| malformed())?;
        let next = snapshot.try_get::<String, _>("next")?.parse().map_err(|_| malformed())?;
        Ok(Snapshot { standby: Standby { history, replayed }, next })
    }

    /// Ends the transaction, so that another one can begin.
    pub(crate) async fn end(&mut self) -> Result<(), Error> {
        self.run(async |connection| sqlx::raw_sql(END).execute(connection).await).await.map(drop)
    }

    /// Executes a statement and returns its rows.
    pub(crate) async fn all(
        &mut self,
        query: sqlx::query::Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        self.run(async |connection| query.fetch_all(connection).await).await
    }

    /// Returns those of the transactions that have committed on the replica by now.
    pub(crate) async fn committed(&mut self, ids: &[u64]) -> Result<Vec<u64>, Error> {
        let list: Vec<String> = ids.iter().map(u64::to_string).collect();
        let rows = self.all(sqlx::query(COMMITTED).bind(list.join(","))).await?;
        let id = |row: &PgRow| row.try_get::<String, _>("id")?.parse().map_err(|_| malformed());
        rows.iter().map(id).collect()
    }

    /// Returns the reason of the first failure.
    pub(crate) fn fault(&self) -> Option<Fallback> {
        self.fault.get().copied()
    }

    async fn run<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let connection = self.connection.as_mut().filter(|_| self.fault.get().is_none());
        let connection = connection.ok_or(Error::Unavailable(sqlx::Error::WorkerCrashed))?;
        let result = match timeout(STATEMENT_TIMEOUT, call(connection)).await {
            Ok(result) => result.map_err(Error::from),
            Err(_) => Err(Error::Unavailable(sqlx::Error::PoolTimedOut)),
        };
        result.inspect_err(|error| {
            self.fault.get_or_init(|| Fallback::of(error));
        })
    }
}

impl Drop for Session {
    /// Ends the transaction in a task, which the answer need not wait for. A connection on which that fails
    /// is closed: the next read would be in the transaction of this one.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let end: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let ended = timeout(END_TIMEOUT, sqlx::raw_sql(END).execute(&mut *connection)).await;
            if !matches!(ended, Ok(Ok(_))) {
                connection.close_on_drop();
            }
        });
        self.tasks.spawn(end);
    }
}

fn malformed() -> Error {
    Error::Bug(sqlx::Error::Protocol("the replica answers in another form".to_owned()))
}
