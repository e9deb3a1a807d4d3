//! Access to SQLite, for one process, and to PostgreSQL, for many. A statement is written once, with
//! `$1` placeholders, and runs on both; where the dialects differ, the statement's author matches on
//! [`Dialect`].
//!
//! Guarantees: a write transaction completes even if its request is cancelled ([`Db::detach`]); the
//! variants of [`Error`] tell the caller how to react; every commit notifies this process
//! ([`Db::commits`], [`Db::announcements`]); a read on a replica shows what the primary shows
//! ([`Query::read`], [`Db::replica`]).

mod database_file;
mod error;
pub mod failpoint;
mod migrate;
mod query;
mod replica;
mod rows;
mod sqlite;
mod statements;
mod tx;
mod value;

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
    sqlite::SqliteConnectOptions,
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use database_file::{Claim, claim};
pub use error::Error;
pub use migrate::{MIGRATIONS, Migrations};
pub use query::{Executor, Query, Row, query};
pub use replica::{ReplicaFault, ReplicaRead};
pub use rows::hexadecimal;
pub use tx::Tx;
pub use value::{Column, Value};

use replica::Replica;
use sqlite::Sqlite;
use statements::Statements;
use tx::Signals;

/// Time that a request waits for a free connection. After it the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// SQL dialect of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    /// Returns the name of the database system in the conventions of OpenTelemetry.
    pub fn system(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
        }
    }
}

/// Database. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Db(Arc<Database>);

#[derive(Debug)]
struct Database {
    pools: Pools,
    replica: OnceLock<Replica>,
    /// Commits and failures of this process.
    signals: Signals,
    /// Tasks of [`Db::detach`].
    writes: TaskTracker,
    statements: Statements,
}

/// Transaction that is being begun.
type Begun<'a> = Pin<Box<dyn Future<Output = Result<Tx, Error>> + Send + 'a>>;

#[derive(Debug)]
enum Pools {
    Sqlite(Box<Sqlite>),
    Postgres(PgPool),
}

impl Db {
    /// Opens the database at a `sqlite:` or `postgres:` URL. A SQLite file is created if it does not
    /// exist. `connections_max` limits the pool of PostgreSQL.
    ///
    /// # Errors
    /// [`Error::Url`] if the URL is malformed, has another scheme, or names a SQLite database without a file;
    /// [`Error::Unavailable`] if the database does not answer.
    pub async fn open(url: &str, connections_max: u32) -> Result<Self, Error> {
        if is_postgres(url) {
            let options = PgConnectOptions::from_str(url).map_err(|_| Error::Url)?;
            let pool = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE_TIMEOUT);
            let pool = pool.after_release(|connection, _| {
                let reusable = !connection.is_in_transaction();
                Box::pin(async move { Ok(reusable) })
            });
            return Ok(Self::new(Pools::Postgres(pool.connect_with(options).await?)));
        }
        if url.starts_with("sqlite:") {
            return Self::sqlite(SqliteConnectOptions::from_str(url).map_err(|_| Error::Url)?).await;
        }
        Err(Error::Url)
    }

    /// Opens a SQLite file, and creates it if it does not exist. Only its owner has access to it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the file cannot be opened.
    pub async fn open_file(path: &Path) -> Result<Self, Error> {
        Self::sqlite(SqliteConnectOptions::new().filename(path)).await
    }

    async fn sqlite(options: SqliteConnectOptions) -> Result<Self, Error> {
        let options = options.create_if_missing(true);
        Ok(Self::new(Pools::Sqlite(Box::new(Sqlite::open(options).await?))))
    }

    fn new(pools: Pools) -> Self {
        let statements = Statements::default();
        Self(Arc::new(Database {
            pools,
            replica: OnceLock::new(),
            signals: Signals::default(),
            writes: TaskTracker::new(),
            statements,
        }))
    }

    /// Returns the SQL dialect of the database.
    pub fn dialect(&self) -> Dialect {
        match self.0.pools {
            Pools::Sqlite(_) => Dialect::Sqlite,
            Pools::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Replaces a part of every statement that this database executes from here on, for tests that must find
    /// the fault.
    #[cfg(feature = "planted-faults")]
    pub fn plant_fault(&self, rule: &'static str, replacement: &'static str) {
        self.0.statements.plant(rule, replacement);
    }

    /// Begins a write transaction: READ COMMITTED on PostgreSQL, `begin immediate` on SQLite, whose
    /// deferred transactions fail when they start to write after another writer. Call it inside
    /// [`Db::detach`] if the request can be cancelled.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no connection is free in time.
    pub async fn begin(&self) -> Result<Tx, Error> {
        // Boxed, because the compiler cannot show that callers with closures remain `Send` otherwise
        // (<https://github.com/rust-lang/rust/issues/110338>).
        let begun: Begun<'_> = match &self.0.pools {
            Pools::Sqlite(sqlite) => Box::pin(Tx::sqlite(self, &sqlite.writer, "begin immediate")),
            Pools::Postgres(pool) => {
                Box::pin(async move { begin(pool, "begin").await.map(|tx| Tx::postgres(self, tx)) })
            }
        };
        let tx = begun.await;
        tx.inspect_err(|error| self.0.signals.inspect(error))
    }

    /// Begins a transaction that reads one snapshot: `repeatable read, read only` on PostgreSQL,
    /// deferred on SQLite.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no connection is free in time.
    pub async fn snapshot(&self) -> Result<Tx, Error> {
        let begun: Begun<'_> = match &self.0.pools {
            Pools::Sqlite(sqlite) => Box::pin(Tx::sqlite(self, &sqlite.reader, "begin deferred")),
            Pools::Postgres(pool) => {
                let statement = "begin isolation level repeatable read, read only";
                Box::pin(async move { begin(pool, statement).await.map(|tx| Tx::postgres(self, tx)) })
            }
        };
        begun.await
    }

    /// Runs a write in its own task and returns its output. Cancelling the request, for instance because
    /// the client disconnects, does not cancel the write: [`Db::close`] waits for it.
    ///
    /// # Panics
    /// If the write panics, with the same payload.
    pub async fn detach<F>(&self, write: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.0.writes.spawn(write.in_current_span()).await {
            Ok(output) => output,
            // The task is never aborted, so the error is a panic.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Runs a write in its own task, which [`Db::close`] waits for.
    pub fn spawn(&self, write: impl Future<Output = ()> + Send + 'static) {
        self.0.writes.spawn(write);
    }

    /// Subscribes to the number of commits by this process, announced or not.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.signals.commits.subscribe()
    }

    /// Subscribes to the number of commits by this process that were announced in a channel
    /// ([`Tx::announce`]).
    pub fn announcements(&self, channel: &'static str) -> watch::Receiver<u64> {
        self.0.signals.channel(channel)
    }

    /// Subscribes to the number of failures of this process's transactions because the database was
    /// unavailable. A health check then need not wait for its next [`Db::try_write`].
    pub fn failures(&self) -> watch::Receiver<u64> {
        self.0.signals.failures.subscribe()
    }

    /// Returns the numbers of connections that are used and that are idle. On SQLite, those of readers.
    pub fn connections(&self) -> (u32, u32) {
        match &self.0.pools {
            Pools::Sqlite(sqlite) => sqlite.reader.connections(),
            Pools::Postgres(pool) => {
                let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
                (pool.size().saturating_sub(idle), idle)
            }
        }
    }

    /// Executes a trivial statement, for health checks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub async fn ping(&self) -> Result<(), Error> {
        query("select 1 as one").one(self).await.map(drop)
    }

    /// Writes without a change, for health checks: a full disk and a server that only reads answer
    /// [`Db::ping`], but not this. Takes space on the disk: on SQLite for one page of the write-ahead log,
    /// on PostgreSQL for one page of a table, which the rollback frees.
    ///
    /// # Errors
    /// Any error of the database means that writes fail.
    pub async fn try_write(&self) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        match tx.dialect() {
            Dialect::Sqlite => {
                query("pragma user_version = 0").execute(&mut tx).await?;
                // SQLite writes nothing before the commit, so a rollback would prove nothing.
                tx.commit_silently().await
            }
            Dialect::Postgres => {
                // Another process that is trying a write holds the lock on the table: one proof suffices.
                let alone = query("select pg_try_advisory_xact_lock(7241906) as alone").one(&mut tx).await?;
                if alone.get("alone")? {
                    // A table with pages to reuse would need no space. An emptied one gets a new file.
                    query("truncate write_check").execute(&mut tx).await?;
                    query("insert into write_check (filler) values ('x')").execute(&mut tx).await?;
                }
                tx.rollback().await
            }
        }
    }

    /// Waits for the writes of [`Db::detach`], then closes the connections.
    pub async fn close(&self) {
        self.0.writes.close();
        self.0.writes.wait().await;
        if let Some(replica) = self.0.replica.get() {
            replica.close().await;
        }
        match &self.0.pools {
            Pools::Sqlite(sqlite) => sqlite.close().await,
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

/// Begins a transaction in its own task, so that `begin` is never cancelled: sqlx 0.9 returns the
/// connection of a cancelled `begin` to the pool with the transaction still open
/// (docs/decisions/0002-no-begin-is-cancelled.md). If the caller is cancelled, the task drops the
/// transaction, which rolls it back.
async fn begin(pool: &PgPool, statement: &'static str) -> Result<Transaction<'static, Postgres>, Error> {
    let pool = pool.clone();
    let start = Instant::now();
    let transaction = tokio::spawn(async move { pool.begin_with(statement).await }).await;
    query::record_wait(start);
    // A task that did not complete was dropped by the shutdown of the runtime.
    Ok(transaction.map_err(|_| sqlx::Error::PoolClosed)??)
}
