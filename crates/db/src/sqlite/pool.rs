//! Connections to one SQLite file, leased one at a time. A lease returns its connection when it is dropped,
//! with no transaction open, and closes one that may keep failing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::{
    connection::{self, Outcome},
    failure,
};
use crate::{ACQUIRE_TIMEOUT, Error, Value, statements::Statement};

/// Use of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads only: writes are refused.
    Read,
    /// Reads and writes.
    Write,
}

/// Connections to one file.
#[derive(Debug)]
pub(crate) struct Pool {
    path: PathBuf,
    access: Access,
    /// Maximum number of connections.
    size: u32,
    idle: Mutex<Vec<rusqlite::Connection>>,
    /// One permit per connection, open or not yet.
    permits: Arc<Semaphore>,
    is_closed: AtomicBool,
}

impl Pool {
    pub(crate) fn new(path: &Path, access: Access, size: u32) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            access,
            size,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(size as usize)),
            is_closed: AtomicBool::new(false),
        })
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Returns the numbers of connections that are leased and that are idle.
    pub(crate) fn connections(&self) -> (u32, u32) {
        let free = u32::try_from(self.permits.available_permits()).unwrap_or(u32::MAX);
        let idle = u32::try_from(self.idle.lock().len()).unwrap_or(u32::MAX);
        (self.size.saturating_sub(free), idle)
    }

    /// Leases a connection, in the order of the callers, and opens one if none is idle.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Lease, Error> {
        let permit = self.permit().await?;
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let pool = Arc::clone(self);
                let opened = tokio::task::spawn_blocking(move || connection::open(&pool.path, pool.access));
                opened.await.map_err(|_| sqlx::Error::PoolClosed)?.map_err(failure::error)?
            }
        };
        let connection = Some(connection);
        Ok(Lease { connection, pool: Arc::clone(self), may_keep_failing: false, _permit: permit })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(sqlx::Error::PoolClosed);
        }
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(sqlx::Error::PoolClosed),
            Err(TryAcquireError::NoPermits) => {}
        }
        let permit = tokio::time::timeout(ACQUIRE_TIMEOUT, Arc::clone(&self.permits).acquire_owned()).await;
        permit.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)
    }

    /// Refuses new leases, waits for the others, and closes the connections.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // An error means that the pool is closed already.
        drop(self.permits.acquire_many(self.size).await);
        self.permits.close();
        let connections = std::mem::take(&mut *self.idle.lock());
        // The last connection moves the write-ahead log into the file. A runtime that is shutting down
        // drops the connections.
        drop(tokio::task::spawn_blocking(move || drop(connections)).await);
    }
}

/// Leased connection.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Absent while the lease is dropped.
    connection: Option<rusqlite::Connection>,
    pool: Arc<Pool>,
    may_keep_failing: bool,
    /// Released after the connection is back.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Executes a statement. Does not wait for locks.
    pub(super) fn run(&mut self, statement: &Statement, values: &[Value]) -> Result<Outcome, Error> {
        let outcome = connection::run(self.connection(), statement, values);
        self.inspect(outcome)
    }

    /// Executes a statement and waits for the locks of other processes.
    pub(super) fn run_patiently(
        &mut self,
        statement: &Statement,
        values: &[Value],
    ) -> Result<Outcome, Error> {
        let outcome = connection::run_patiently(self.connection(), statement, values);
        self.inspect(outcome)
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        !self.connection().is_autocommit()
    }

    pub(super) fn access(&self) -> Access {
        self.pool.access()
    }

    pub(super) fn connection(&self) -> &rusqlite::Connection {
        self.connection.as_ref().expect("only a drop takes the connection")
    }

    fn inspect(&mut self, outcome: Result<Outcome, Error>) -> Result<Outcome, Error> {
        outcome.inspect_err(|error| self.may_keep_failing |= failure::is_persistent(error))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if !connection.is_autocommit() {
            // A rollback writes nothing to the disk.
            self.may_keep_failing |= connection.execute_batch("rollback").is_err();
        }
        if !self.may_keep_failing {
            self.pool.idle.lock().push(connection);
        }
    }
}
