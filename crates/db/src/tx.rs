//! Transactions and savepoints.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use sqlx::Postgres;
use tokio::sync::watch;

use crate::{
    Db, Dialect, Error, failpoint, query,
    replica::{Fallback, Session},
    sqlite,
    statements::Statement,
};

/// Open transaction. Dropping it without a commit rolls it back.
#[derive(Debug)]
pub struct Tx {
    pub(crate) transaction: Transaction,
    db: Db,
    /// Channels to announce the commit in.
    channels: Vec<&'static str>,
}

/// Counters of a [`Db`] that its transactions increment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// Number of commits.
    pub(crate) commits: watch::Sender<u64>,
    /// Number of transactions, statements and commits that failed because the database was unavailable.
    pub(crate) failures: watch::Sender<u64>,
    /// Number of commits by the channel that they were announced in.
    channels: Arc<RwLock<HashMap<&'static str, watch::Sender<u64>>>>,
}

impl Signals {
    /// Counts a commit, and once more in each of its channels.
    fn announce(&self, channels: &[&'static str]) {
        self.commits.send_modify(|count| *count += 1);
        let known = self.channels.read();
        for channel in channels.iter().filter_map(|channel| known.get(channel)) {
            channel.send_modify(|count| *count += 1);
        }
    }

    /// Subscribes to the commits that are announced in a channel.
    pub(crate) fn channel(&self, channel: &'static str) -> watch::Receiver<u64> {
        self.channels.write().entry(channel).or_default().subscribe()
    }

    /// Counts a failure if the error says that the database is unavailable.
    pub(crate) fn inspect(&self, error: &Error) {
        if matches!(error, Error::Unavailable(_)) {
            self.failures.send_modify(|count| *count += 1);
        }
    }
}

#[derive(Debug)]
pub(crate) enum Transaction {
    Sqlite(sqlite::Transaction),
    Postgres(sqlx::Transaction<'static, Postgres>),
    /// On a replica of a PostgreSQL database, read-only.
    Replica(Session),
}

impl Tx {
    pub(crate) async fn sqlite(
        db: &Db,
        pool: &Arc<sqlite::Pool>,
        begin: &'static str,
    ) -> Result<Self, Error> {
        let begin = db.statement(begin);
        let transaction = Transaction::Sqlite(sqlite::Transaction::begin(pool, &begin).await?);
        Ok(Self { transaction, db: db.clone(), channels: Vec::new() })
    }

    pub(crate) fn postgres(db: &Db, transaction: sqlx::Transaction<'static, Postgres>) -> Self {
        Self { transaction: Transaction::Postgres(transaction), db: db.clone(), channels: Vec::new() }
    }

    pub(crate) fn replica(db: &Db, session: Session) -> Self {
        Self { transaction: Transaction::Replica(session), db: db.clone(), channels: Vec::new() }
    }

    /// Returns the reason why a statement on the replica failed.
    pub(crate) fn replica_fault(&self) -> Option<Fallback> {
        match &self.transaction {
            Transaction::Replica(session) => session.fault(),
            Transaction::Sqlite(_) | Transaction::Postgres(_) => None,
        }
    }

    /// Returns those of the transactions that have committed on the replica by now.
    pub(crate) async fn committed_on_replica(&mut self, ids: &[u64]) -> Result<Vec<u64>, Fallback> {
        match &mut self.transaction {
            Transaction::Replica(session) => {
                session.committed(ids).await.map_err(|error| Fallback::of(&error))
            }
            Transaction::Sqlite(_) | Transaction::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// Returns a statement in the dialect of the database.
    pub(crate) fn statement(&self, sql: &'static str) -> Arc<Statement> {
        self.db.statement(sql)
    }

    /// Reports the result of a statement.
    pub(crate) fn inspect<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match self.transaction {
            // The primary may be well.
            Transaction::Replica(_) => result,
            _ => result.inspect_err(|error| self.db.0.signals.inspect(error)),
        }
    }

    /// Returns the SQL dialect of the database.
    pub fn dialect(&self) -> Dialect {
        match self.transaction {
            Transaction::Sqlite(_) => Dialect::Sqlite,
            Transaction::Postgres(_) | Transaction::Replica(_) => Dialect::Postgres,
        }
    }

    /// Announces the commit in a channel, if there is one: its receivers wait for a certain kind of change,
    /// such as an event of one topic.
    pub fn announce(&mut self, channel: &'static str) {
        if !self.channels.contains(&channel) {
            self.channels.push(channel);
        }
    }

    /// Commits the transaction, then notifies the receivers of [`Db::commits`] and
    /// [`Db::announcements`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed. The transaction may or may not have
    /// been committed, so the caller must be able to repeat it safely.
    pub async fn commit(mut self) -> Result<(), Error> {
        let signals = self.db.0.signals.clone();
        let committed = signals.clone();
        let channels = std::mem::take(&mut self.channels);
        let result = self.finish(move || committed.announce(&channels)).await;
        result.inspect_err(|error| signals.inspect(error))
    }

    /// Commits a transaction without a change that a receiver waits for.
    pub(crate) async fn commit_silently(self) -> Result<(), Error> {
        self.finish(|| {}).await
    }

    async fn finish(self, committed: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        metrics::counter!("database_commits_total").increment(1);
        failpoint::pass("commit");
        match self.transaction {
            Transaction::Sqlite(tx) => tx.commit(&self.db.statement("commit"), committed).await?,
            Transaction::Postgres(tx) => {
                tx.commit().await?;
                committed();
            }
            Transaction::Replica(session) => drop(session),
        }
        failpoint::pass("committed");
        Ok(())
    }

    /// Rolls the transaction back now. On PostgreSQL, dropping it does so only when the connection is used
    /// again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed. The database then rolls the transaction back
    /// itself.
    pub async fn rollback(self) -> Result<(), Error> {
        match self.transaction {
            Transaction::Sqlite(tx) => drop(tx),
            Transaction::Postgres(tx) => tx.rollback().await?,
            Transaction::Replica(session) => drop(session),
        }
        Ok(())
    }

    /// Sets a savepoint. Savepoints nest.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed.
    pub async fn savepoint(&mut self) -> Result<(), Error> {
        query("savepoint nested").execute(self).await.map(drop)
    }

    /// Removes the innermost savepoint and keeps the writes after it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed.
    pub async fn release_savepoint(&mut self) -> Result<(), Error> {
        query("release savepoint nested").execute(self).await.map(drop)
    }

    /// Undoes the writes after the innermost savepoint and removes it. This makes the transaction
    /// usable again after a failed statement.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed.
    pub async fn rollback_to_savepoint(&mut self) -> Result<(), Error> {
        query("rollback to savepoint nested").execute(&mut *self).await?;
        self.release_savepoint().await
    }
}
