//! Epoch: the generation of a database's past, in the one-row table `epoch` of a service that gives out
//! versions. A version belongs to the epoch in which it was given out. When the past is replaced, by a
//! restore, the epoch is raised, so that one version never means two states.
//!
//! The new epoch is `max(old + 1, unix milliseconds)` by the database's clock: two restores of one backup
//! never share an epoch. Seconds would not do: two starts of one backup can be less than one apart.

use db::{Db, Dialect, Error, Tx, query};

/// Raises the epoch in the caller's transaction. Returns the new one.
///
/// # Errors
/// Any error of the database.
pub async fn raise(tx: &mut Tx) -> Result<i64, Error> {
    let raise = match tx.dialect() {
        Dialect::Sqlite => {
            "update epoch set number = max(number + 1, (select now_us / 1000 from clock))
             returning number"
        }
        Dialect::Postgres => {
            "update epoch set number = greatest(number + 1, (select now_us / 1000 from clock))
             returning number"
        }
    };
    query(raise).one(tx).await?.get("number")
}

/// Logs that the epoch was raised because the database may be a copy. On SQLite every start does that.
pub fn log_raised(dialect: Dialect, epoch: i64) {
    match dialect {
        Dialect::Postgres => tracing::warn!(epoch, "the database may be a copy: its epoch is raised"),
        Dialect::Sqlite => tracing::debug!(epoch, "a start raises the epoch"),
    }
}

/// Identity of a database, which a copy of it does not have.
///
/// On PostgreSQL: the cluster, its timeline, the database and the table `epoch` itself. A dump that is
/// restored, here or elsewhere, creates the table again; a base backup that is recovered to a point in
/// time, and a promoted replica, start a timeline. On SQLite nothing in a file tells it from its copy, so
/// every start of the process is an identity of its own: a file can only be replaced in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

/// Result of [`Identity::compare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is the same database.
    Same,
    /// The database may be a copy of the one that was used last.
    Differs,
    /// There is nothing to compare with.
    Unknown,
}

impl Identity {
    /// Determines the identity of a database; `None` if the server does not permit it. Call it once for
    /// each start of a process on SQLite.
    pub async fn of(db: &Db) -> Option<Self> {
        if db.dialect() == Dialect::Sqlite {
            return Some(Self(uuid::Uuid::now_v7().to_string()));
        }
        let select = query(
            "select concat_ws('/', (select system_identifier from pg_control_system()),
                 substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
                 (select oid from pg_database where datname = current_database()),
                 cast(cast('epoch' as regclass) as oid)) as identity",
        );
        match select.one(db).await.and_then(|row| row.get("identity")) {
            Ok(identity) => Some(Self(identity)),
            Err(error) => {
                tracing::debug!(%error, "the identity of the database cannot be determined");
                None
            }
        }
    }

    /// Compares the identity with the one that was stored last.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn compare(&self, db: &Db) -> Result<Comparison, Error> {
        let stored: String = query("select identity from epoch").one(db).await?.get("identity")?;
        Ok(match stored.as_str() {
            stored if stored == self.0 => Comparison::Same,
            // Before the first use, or the first since identities are stored.
            "" if db.dialect() == Dialect::Postgres => Comparison::Unknown,
            _ => Comparison::Differs,
        })
    }

    /// Stores the identity in the caller's transaction. Returns false if it is stored already, in which
    /// case another process was first.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn store(&self, tx: &mut Tx) -> Result<bool, Error> {
        let update = query("update epoch set identity = $1 where identity <> $1");
        Ok(update.bind(self.0.as_str()).execute(tx).await? == 1)
    }
}
