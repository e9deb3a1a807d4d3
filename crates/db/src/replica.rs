//! Reads on a streaming replica. A read gets the answer that the primary could have given: nothing that was
//! visible anywhere when it arrived is missing, and nothing is shown that the primary does not show yet, so
//! no later read goes back in time. Where that cannot be said within milliseconds, the primary is read
//! instead.
//!
//! docs/decisions/0031-reads-of-a-replica.md has the rule, its proof and its cost.

mod identity;
mod position;
mod question;
mod session;

use std::{
    collections::BTreeSet,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Row,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{Db, Error, Pools, Tx, is_postgres};
use identity::{Identities, StartedAt};
use position::{History, Primary, admit};
use question::Question;
pub(crate) use session::Session;
use session::Snapshot;

/// Longest time that a read waits for the replica to be as new as the primary, and after it for the primary
/// to show what the replica has shown.
const PATIENCE: Duration = Duration::from_millis(5);
/// Delay between two looks at the replica, or two questions to the primary, within [`PATIENCE`].
const PAUSE: Duration = Duration::from_millis(1);
/// Time of a question to the primary, and of a new connection for it.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(500);
/// Time in which a check expects the replica to replay what the primary had.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);

/// State of the primary. The end of the log is that of what is inserted: a commit without a flush
/// (`synchronous_commit = off`) is visible before it is flushed.
const PRIMARY: &str = "select
    cast(extract(epoch from pg_postmaster_start_time()) * 1000000 as bigint) as started_at,
    cast(current_database() as text) as database,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as timeline,
    cast(pg_current_wal_insert_lsn() as text) as ends_at,
    cast(pg_current_snapshot() as text) as running";

/// Reason why the replica cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaFault {
    /// It does not answer.
    #[error("the replica does not answer")]
    Away(#[source] Error),
    /// All connections to it are in use.
    #[error("all connections to the replica are in use")]
    Busy,
    /// It belongs to another cluster, or its URL names another database. That does not change by itself.
    #[error("it is not a replica of this database, but of another cluster, or another database of this one")]
    Foreign,
    /// It does not replay a log: it is a primary, perhaps since a failover.
    #[error("it is not a replica, but a primary")]
    Promoted,
    /// It has not followed the primary's last promotion, or is not known to have.
    #[error("the replica is on timeline {own}, and the primary on {primary}")]
    Timeline {
        /// Timeline of the replica's last restart point, or of the pages that it has written since.
        own: u32,
        /// Timeline of the primary.
        primary: u32,
    },
    /// It has not replayed the primary's log to the end.
    #[error("the replica is behind the primary")]
    Late,
}

/// Reason why a read uses the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The replica does not answer in time, or has not since.
    Away,
    /// All connections to the replica are in use.
    Busy,
    /// The replica has not replayed what the primary shows.
    Late,
    /// The primary does not show what the replica shows.
    Ahead,
    /// The server does not follow the primary.
    Foreign,
    /// The replica cancelled the read, which was in the way of its recovery.
    Conflict,
    /// The primary did not tell its position.
    Position,
}

impl Fallback {
    const ALL: [Self; 7] =
        [Self::Away, Self::Busy, Self::Late, Self::Ahead, Self::Foreign, Self::Conflict, Self::Position];

    fn label(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Ahead => "ahead",
            Self::Foreign => "foreign",
            Self::Conflict => "conflict",
            Self::Position => "position",
        }
    }

    /// Classifies a failure on the replica.
    pub(crate) fn of(error: &Error) -> Self {
        let code = match error {
            Error::Unavailable(sqlx::Error::Database(error)) => error.code(),
            _ => None,
        };
        // A conflict with recovery, as serialisation failure or as deadlock.
        if matches!(code.as_deref(), Some("40001" | "40P01")) { Self::Conflict } else { Self::Away }
    }
}

impl From<&ReplicaFault> for Fallback {
    fn from(fault: &ReplicaFault) -> Self {
        match fault {
            ReplicaFault::Away(error) => Self::of(error),
            ReplicaFault::Busy => Self::Busy,
            ReplicaFault::Foreign | ReplicaFault::Promoted | ReplicaFault::Timeline { .. } => Self::Foreign,
            ReplicaFault::Late => Self::Late,
        }
    }
}

/// Replica of a database.
#[derive(Debug)]
pub(crate) struct Replica {
    pool: PgPool,
    /// Question for the state of the primary.
    primary: Question<Arc<Primary>>,
    /// Connection of the question.
    asking: PgPool,
    /// False after a failure and before the first check, until a check succeeds.
    is_usable: AtomicBool,
    /// True while it was late for the last read: reads do not wait for it then.
    is_late: AtomicBool,
    /// Identities of the primary and the replica.
    identities: Arc<Identities>,
    tasks: TaskTracker,
}

impl Replica {
    fn new(primary: &PgPool, options: PgConnectOptions, connections_max: u32, tasks: TaskTracker) -> Self {
        count_from_zero();
        let pool = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(QUESTION_TIMEOUT);
        let asking = PgPoolOptions::new().max_connections(1).acquire_timeout(QUESTION_TIMEOUT);
        let asking =
            asking.test_before_acquire(false).connect_lazy_with((*primary.connect_options()).clone());
        let identities = Arc::new(Identities::default());
        let primary = Question::new(tasks.clone(), {
            let asking = asking.clone();
            let identities = Arc::clone(&identities);
            move || {
                let asking = asking.clone();
                let identities = Arc::clone(&identities);
                Box::pin(async move { ask_primary(&asking, &identities).await })
            }
        });
        Self {
            pool: pool.connect_lazy_with(options),
            primary,
            asking,
            is_usable: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            identities,
            tasks,
        }
    }

    /// Takes a snapshot that is as new as the primary at the call.
    async fn begin(&self) -> Result<(Session, Snapshot, History), Fallback> {
        if !self.is_usable.load(Ordering::Relaxed) {
            return Err(Fallback::Away);
        }
        // The order of the two does not matter: both are asked after the read has arrived.
        let answer = self.primary.ask();
        let opened = async {
            let mut session = Session::open(&self.pool, &self.identities, &self.tasks).await?;
            let snapshot = session.begin().await.map_err(ReplicaFault::Away)?;
            Ok((session, snapshot))
        };
        let (opened, primary) = tokio::join!(opened, answer);
        let (mut session, snapshot) = opened.map_err(|fault: ReplicaFault| Fallback::from(&fault))?;
        let primary = primary.ok().flatten().ok_or(Fallback::Position)?;
        let patience = if self.is_late.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let snapshot = catch_up(&mut session, snapshot, &primary, patience).await;
        self.is_late.store(matches!(snapshot, Err(ReplicaFault::Late)), Ordering::Relaxed);
        let snapshot = snapshot.map_err(|fault| Fallback::from(&fault))?;
        Ok((session, snapshot, primary.history.clone()))
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        tokio::join!(self.pool.close(), self.asking.close());
    }

    /// Counts a read of the primary, and stops using a replica that does not answer or is none.
    fn fall_back(&self, reason: Fallback) {
        if matches!(reason, Fallback::Away | Fallback::Foreign) {
            self.is_usable.store(false, Ordering::Relaxed);
        }
        metrics::counter!("database_reads_total", "source" => "primary").increment(1);
        metrics::counter!("database_replica_fallbacks_total", "reason" => reason.label()).increment(1);
    }
}

fn count_from_zero() {
    for source in ["primary", "replica"] {
        metrics::counter!("database_reads_total", "source" => source).increment(0);
    }
    for reason in Fallback::ALL {
        metrics::counter!("database_replica_fallbacks_total", "reason" => reason.label()).increment(0);
    }
}

/// Asks the primary for its state. A connection that was closed is replaced once.
async fn ask_primary(pool: &PgPool, identities: &Identities) -> Option<Arc<Primary>> {
    let ask = async {
        let row = match sqlx::query(PRIMARY).fetch_one(pool).await {
            Ok(row) => row,
            Err(_) => sqlx::query(PRIMARY).fetch_one(pool).await?,
        };
        let identity = identities.of(StartedAt(row.try_get("started_at")?), pool).await?;
        Ok::<_, sqlx::Error>(parse_primary(&row, identity.cluster))
    };
    match timeout(QUESTION_TIMEOUT, ask).await {
        Ok(Ok(primary)) => primary.map(Arc::new),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the primary did not tell its position");
            None
        }
        Err(_) => None,
    }
}

fn parse_primary(row: &PgRow, cluster: String) -> Option<Primary> {
    let text = |name| row.try_get::<String, _>(name).ok();
    Some(Primary {
        history: History {
            cluster,
            database: text("database")?,
            timeline: u32::from_str_radix(&text("timeline")?, 16).ok()?,
        },
        end: text("ends_at")?.parse().ok()?,
        running: text("running")?.parse().ok()?,
    })
}

/// Takes snapshots after a first one, until one is as new as the primary was.
async fn catch_up(
    session: &mut Session,
    mut snapshot: Snapshot,
    primary: &Primary,
    patience: Duration,
) -> Result<Snapshot, ReplicaFault> {
    let deadline = Instant::now() + patience;
    loop {
        match admit(primary, &snapshot.standby) {
            Ok(()) => return Ok(snapshot),
            Err(ReplicaFault::Late) if Instant::now() < deadline => {}
            Err(fault) => return Err(fault),
        }
        session.end().await.map_err(ReplicaFault::Away)?;
        sleep(PAUSE).await;
        snapshot = session.begin().await.map_err(ReplicaFault::Away)?;
    }
}

impl Db {
    /// Makes reads that ask for it ([`Db::replica`], [`Query::read`](crate::Query::read)) use a streaming
    /// replica at a `postgres:` URL. Does not connect: the replica is used once [`Db::check_replica`] has
    /// succeeded.
    ///
    /// # Errors
    /// [`Error::ReplicaUrl`] if the URL is malformed or has another scheme, and on SQLite.
    pub fn attach_replica(&self, url: &str, connections_max: u32) -> Result<(), Error> {
        let Pools::Postgres(primary) = &self.0.pools else { return Err(Error::ReplicaUrl) };
        if !is_postgres(url) {
            return Err(Error::ReplicaUrl);
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| Error::ReplicaUrl)?;
        let replica = Replica::new(primary, options, connections_max, self.0.writes.clone());
        // A second replica is ignored.
        drop(self.0.replica.set(replica));
        Ok(())
    }

    /// Checks that the replica follows the primary, within two seconds. A replica that failed is used again
    /// only after a check, so its owner calls this at intervals. Without a replica it succeeds.
    ///
    /// # Errors
    /// The reason why reads use the primary.
    pub async fn check_replica(&self) -> Result<(), ReplicaFault> {
        let Some(replica) = self.0.replica.get() else { return Ok(()) };
        let checked = replica.check().await;
        let is_usable = matches!(checked, Ok(()) | Err(ReplicaFault::Late | ReplicaFault::Busy));
        replica.is_usable.store(is_usable, Ordering::Relaxed);
        checked
    }

    /// Begins a read on the replica, if there is one that is as new as the primary. The caller passes the
    /// result to [`ReplicaRead::confirm`], and repeats the read on the primary if either gives `None`.
    pub async fn replica(&self) -> Option<ReplicaRead> {
        let replica = self.0.replica.get()?;
        match replica.begin().await {
            Ok((session, snapshot, history)) => {
                // Asked only now: the answer must be newer than the snapshot.
                let primary = replica.primary.ask();
                let tx = Tx::replica(self, session);
                Some(ReplicaRead { tx, primary, history, next: snapshot.next, db: self.clone() })
            }
            Err(reason) => {
                replica.fall_back(reason);
                None
            }
        }
    }
}

impl Replica {
    async fn check(&self) -> Result<(), ReplicaFault> {
        self.identities.forget();
        // Without the primary nothing is read at all.
        let Ok(Some(primary)) = self.primary.ask().await else { return Err(no_answer()) };
        let caught_up = async {
            let deadline = Instant::now() + CHECK_PATIENCE;
            loop {
                let mut session = Session::open(&self.pool, &self.identities, &self.tasks).await?;
                let snapshot = session.begin().await.map_err(ReplicaFault::Away)?;
                match catch_up(&mut session, snapshot, &primary, Duration::ZERO).await {
                    Err(ReplicaFault::Late) if Instant::now() < deadline => sleep(PATIENCE).await,
                    checked => return checked.map(drop),
                }
            }
        };
        timeout(2 * CHECK_PATIENCE, caught_up).await.unwrap_or_else(|_| Err(no_answer()))
    }
}

fn no_answer() -> ReplicaFault {
    ReplicaFault::Away(Error::Unavailable(sqlx::Error::PoolTimedOut))
}

/// Read of one snapshot of the replica.
#[derive(Debug)]
pub struct ReplicaRead {
    tx: Tx,
    /// State of the primary after the snapshot was taken.
    primary: oneshot::Receiver<Option<Arc<Primary>>>,
    /// History of the primary and the replica.
    history: History,
    /// Transactions from this id on are not in the snapshot.
    next: u64,
    db: Db,
}

impl ReplicaRead {
    /// Returns the transaction of the snapshot.
    pub fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Returns the result of the read, success or not, once the primary shows all that the snapshot has.
    /// `None` if a statement failed, or if the primary takes too long.
    pub async fn confirm<T>(mut self, result: T) -> Option<T> {
        match self.settle().await {
            Ok(()) => {
                metrics::counter!("database_reads_total", "source" => "replica").increment(1);
                Some(result)
            }
            Err(reason) => {
                self.db.0.replica.get()?.fall_back(reason);
                None
            }
        }
    }

    /// Waits until the primary shows all that the snapshot has. A commit is replayed before the primary shows
    /// it: a short time in any case, and as long as the primary waits for synchronous replicas.
    async fn settle(&mut self) -> Result<(), Fallback> {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = BTreeSet::new();
        let mut committed = BTreeSet::new();
        loop {
            if let Some(fault) = self.tx.replica_fault() {
                return Err(fault);
            }
            let primary = (&mut self.primary).await.ok().flatten().ok_or(Fallback::Position)?;
            if primary.history != self.history {
                return Err(Fallback::Foreign);
            }
            if let Some(doubts) = primary.running.doubts(self.next) {
                let unknown: Vec<u64> = doubts.difference(&asked).copied().collect();
                if !unknown.is_empty() {
                    committed.extend(self.tx.committed_on_replica(&unknown).await?);
                    asked.extend(unknown);
                }
                if doubts.is_disjoint(&committed) {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                return Err(Fallback::Ahead);
            }
            sleep(PAUSE).await;
            self.primary = self.db.0.replica.get().ok_or(Fallback::Away)?.primary.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: BTreeSet<_> = Fallback::ALL.map(Fallback::label).into();
        assert_eq!(labels.len(), Fallback::ALL.len());
    }
}
