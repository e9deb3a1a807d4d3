//! Two databases behind one door: SQLite for one process, Postgres for many. A statement is written once, with `$1` binds,
//! and runs on both; where the dialects differ, the caller matches on [`Dialect`] in sight.
//!
//! Promises: a write transaction survives its request ([`Db::detach`]); an error says what its caller can do about it
//! ([`Error`]); every commit is announced in this process ([`Db::commits`]).

mod error;
mod migrate;
mod query;
mod rows;
mod tx;
mod value;

use std::{future::Future, path::Path, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    Database, Pool, Transaction,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use error::Error;
pub use migrate::{MIGRATIONS, Migrations};
pub use query::{On, Query, Row, query};
pub use tx::Tx;
pub use value::{Column, Value};

/// How long a request waits for a connection before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long SQLite waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that read SQLite beside its one writer.
const SQLITE_READERS: u32 = 4;

/// Which database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// Postgres.
    Postgres,
}

/// A database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Db(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pools: Pools,
    commits: watch::Sender<u64>,
    writes: TaskTracker,
}

#[derive(Debug)]
enum Pools {
    Sqlite { writer: SqlitePool, reader: SqlitePool },
    Postgres(PgPool),
}

impl Db {
    /// Opens the database at a `sqlite:` or `postgres:` URL; `connections` bounds the pool of Postgres. A file that does
    /// not exist yet is made.
    ///
    /// # Errors
    /// [`Error::Url`] for any other scheme; [`Error::Unavailable`] where the database does not answer.
    pub async fn open(url: &str, connections: u32) -> Result<Self, Error> {
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(|_| Error::Url)?;
            let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
            return Ok(Self::over(Pools::Postgres(pool.connect_with(options).await?)));
        }
        if url.starts_with("sqlite:") {
            return Self::sqlite(SqliteConnectOptions::from_str(url).map_err(|_| Error::Url)?).await;
        }
        Err(Error::Url)
    }

    /// Opens the SQLite database in a file, made where it does not exist.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the file cannot be opened.
    pub async fn open_file(path: &Path) -> Result<Self, Error> {
        Self::sqlite(SqliteConnectOptions::new().filename(path)).await
    }

    async fn sqlite(options: SqliteConnectOptions) -> Result<Self, Error> {
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(256);
        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        let reader = pool(SQLITE_READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self::over(Pools::Sqlite { writer, reader }))
    }

    fn over(pools: Pools) -> Self {
        Self(Arc::new(Shared { pools, commits: watch::Sender::new(0), writes: TaskTracker::new() }))
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        match self.0.pools {
            Pools::Sqlite { .. } => Dialect::Sqlite,
            Pools::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Begins a write transaction: READ COMMITTED on Postgres, `begin immediate` on SQLite. Dropped uncommitted, it rolls
    /// back. To be called inside [`Db::detach`] where a request may go away.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no connection is to be had in time.
    pub async fn begin(&self) -> Result<Tx, Error> {
        match &self.0.pools {
            Pools::Sqlite { writer, .. } => {
                Ok(Tx::sqlite(begin(writer, "begin immediate").await?, &self.0.commits))
            }
            Pools::Postgres(pool) => Ok(Tx::postgres(begin(pool, "begin").await?, &self.0.commits)),
        }
    }

    /// Begins a transaction that reads one snapshot: `repeatable read, read only` on Postgres, deferred on SQLite.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no connection is to be had in time.
    pub async fn snapshot(&self) -> Result<Tx, Error> {
        match &self.0.pools {
            Pools::Sqlite { reader, .. } => {
                Ok(Tx::sqlite(begin(reader, "begin deferred").await?, &self.0.commits))
            }
            Pools::Postgres(pool) => {
                let statement = "begin isolation level repeatable read, read only";
                Ok(Tx::postgres(begin(pool, statement).await?, &self.0.commits))
            }
        }
    }

    /// Runs a write to its end in a task of its own, whatever becomes of the request that asked for it: a client that
    /// leaves cannot cut it in half.
    pub async fn detach<F>(&self, write: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.0.writes.spawn(write.in_current_span()).await {
            Ok(output) => output,
            Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
        }
    }

    /// Counts the commits of this process: a reader of the outbox waits here instead of polling.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.commits.subscribe()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        query("select 1 as one").one(self).await.map(drop)
    }

    /// Waits for detached writes, then closes the connections.
    pub async fn close(&self) {
        self.0.writes.close();
        self.0.writes.wait().await;
        match &self.0.pools {
            Pools::Sqlite { writer, reader } => {
                reader.close().await;
                writer.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// Begins in a task of its own: sqlx 0.9 hands on a connection whose cancelled `begin` is still open, so no `begin` is ever
/// cancelled. A transaction that nobody waits for any more is dropped there, and rolls back.
async fn begin<D: Database>(
    pool: &Pool<D>,
    statement: &'static str,
) -> Result<Transaction<'static, D>, Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await }).await;
    // Where the task did not end, the runtime is ending.
    Ok(begun.map_err(|_| sqlx::Error::PoolClosed)??)
}
