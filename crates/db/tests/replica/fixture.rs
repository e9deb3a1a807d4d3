//! Database with a replica, and a table of one row with a number.

use db::{Db, Row, query};
use testkit::{Replication, eventually};

/// Database with a replica.
pub struct Fixture {
    pub db: Db,
    pub servers: Replication,
}

/// Number that a read has returned, and its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub n: i64,
    pub on_replica: bool,
}

impl Fixture {
    /// Starts the servers. Prints a line and returns `None` where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        let servers = Replication::start()?;
        for statement in
            ["create table t (n bigint)", "create table other (n bigint)", "insert into t (n) values (0)"]
        {
            servers.primary.execute(statement).await;
        }
        let db = open(&servers).await;
        Some(Self { db, servers })
    }

    /// Sets the number.
    pub async fn write(&self, n: i64) {
        write(&self.db, n).await;
    }

    /// Reads the number.
    pub async fn read(&self) -> Seen {
        read(&self.db).await
    }

    /// Reads the number on the primary.
    pub async fn read_of_primary(&self) -> Seen {
        seen(&query(SELECT).all(&self.db).await.unwrap())
    }

    /// Waits until a read uses the replica.
    pub async fn until_on_replica(&self) {
        eventually("a read uses the replica", || async {
            let checked = self.db.check_replica().await;
            checked.is_ok() && self.read().await.on_replica
        })
        .await;
    }
}

const SELECT: &str = "select n, pg_is_in_recovery() as on_replica from t";

/// Opens the database with its replica.
pub async fn open(servers: &Replication) -> Db {
    let db = Db::open(&servers.primary.url("postgres"), 8).await.unwrap();
    db.attach_replica(&servers.replica.url("postgres"), 8).unwrap();
    db
}

/// Sets the number.
pub async fn write(db: &Db, n: i64) {
    let mut tx = db.begin().await.unwrap();
    query("update t set n = $1").bind(n).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Reads the number.
pub async fn read(db: &Db) -> Seen {
    seen(&query(SELECT).read(db).await.unwrap())
}

/// Decodes the row of a read.
pub fn seen(rows: &[Row]) -> Seen {
    Seen { n: rows[0].get("n").unwrap(), on_replica: rows[0].get("on_replica").unwrap() }
}
