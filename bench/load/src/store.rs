//! SQL of the generator: databases of its own, accounts that need no password, and PostgreSQL's counts of
//! statements.

use anyhow::Context;
use db::{Db, Dialect, query};
use uuid::Uuid;

/// Databases of the system under test, by role.
pub const DATABASES: [(&str, &str); 3] =
    [("auth", "bench_auth"), ("dialog", "bench_dialog"), ("counter", "bench_counter")];
/// Accounts that one transaction inserts.
const ACCOUNTS_MAX: usize = 1_000;

/// Statements that PostgreSQL has executed in the databases of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statements {
    /// All of them, with begin and commit.
    pub calls: u64,
    /// Commits of explicit transactions.
    pub transactions: u64,
}

/// Creates the databases of the system, empty.
pub async fn create_databases(server: &Db) -> anyhow::Result<()> {
    for statement in [
        "drop database if exists bench_auth with (force)",
        "drop database if exists bench_dialog with (force)",
        "drop database if exists bench_counter with (force)",
        "create database bench_auth",
        "create database bench_dialog",
        "create database bench_counter",
    ] {
        query(statement).execute(server).await.context(statement)?;
    }
    Ok(())
}

/// Reads the counts of statements; `None` where the server does not load `pg_stat_statements`.
pub async fn statements(server: &Db) -> Option<Statements> {
    let row = query(
        "select cast(coalesce(sum(s.calls), 0) as bigint) as calls,
            cast(coalesce(sum(s.calls) filter (where lower(s.query) = 'commit'), 0) as bigint) as commits
        from pg_stat_statements s join pg_database d on d.oid = s.dbid
        where d.datname in ('bench_auth', 'bench_dialog', 'bench_counter')",
    );
    let row = row.one(server).await.ok()?;
    let count = |name| row.get::<i64>(name).ok().and_then(|count| u64::try_from(count).ok());
    Some(Statements { calls: count("calls")?, transactions: count("commits")? })
}

/// Inserts accounts with these ids. They have no password: their access tokens are signed directly.
pub async fn insert_accounts(auth: &Db, ids: &[Uuid]) -> anyhow::Result<()> {
    for some in ids.chunks(ACCOUNTS_MAX) {
        let mut tx = auth.begin().await?;
        for id in some {
            let login = format!("b{}", &id.simple().to_string()[..31]);
            let insert = query(
                "insert into account (id, login, name, name_lower, password_hash)
                values ($1, $2, $3, $4, '-')",
            );
            let insert = insert.bind(*id).bind(login.clone()).bind(login.clone()).bind(login);
            insert.execute(&mut tx).await.context("an account")?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Returns true while a message is PENDING.
pub async fn has_pending(dialog_db: &Db) -> anyhow::Result<bool> {
    let pending = query("select 1 as one from message where status = 'pending' limit 1");
    Ok(pending.optional(dialog_db).await?.is_some())
}

/// Stores a message in one transaction of its own, which claims the key, numbers the dialog, inserts the
/// message and appends to the outbox. No program takes part.
pub async fn insert_message(dialog_db: &Db, dialog: Uuid, author: Uuid, text: &str) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let mut tx = dialog_db.begin().await?;
    let claim = query(
        "insert into message_key (author_id, client_key, message_id, dialog_id, text_hash)
        values ($1, $2, $3, $4, $5)",
    );
    let claim = claim.bind(author).bind(id.simple().to_string()).bind(id).bind(dialog).bind(vec![0_u8; 32]);
    claim.execute(&mut tx).await?;
    let number = query(
        "update dialog set head_seq = head_seq + 1, version = version + 1 where id = $1
        returning head_seq, version",
    );
    let row = number.bind(dialog).one(&mut tx).await?;
    let seq: i64 = row.get("head_seq")?;
    let version: i64 = row.get("version")?;
    let insert = query(
        "insert into message
            (id, dialog_id, seq, author_id, text, transaction_id, changed_version, created_at_us)
        values ($1, $2, $3, $4, $5, $1, $6, 0)",
    );
    let insert = insert.bind(id).bind(dialog).bind(seq).bind(author).bind(text).bind(version);
    insert.execute(&mut tx).await?;
    let append = query(
        "insert into outbox (event_id, topic, key, version, type, payload)
        values ($1, 'bench', $2, $3, 'bench', $4)",
    );
    let append = append.bind(id).bind(dialog.to_string()).bind(version).bind(text.as_bytes().to_vec());
    append.execute(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// Messages to store in a direct dialog, all by one author, committed, counted and unread.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Dialog.
    pub dialog: Uuid,
    /// Author of all messages.
    pub author: Uuid,
    /// Other participant, who has read nothing.
    pub reader: Uuid,
    /// Number of messages that the dialog has.
    pub head: i64,
    /// Number of messages to add.
    pub count: i64,
}

/// Stores messages in both databases of a stopped system, as if each had been sent and counted: two
/// versions of the dialog, a row of the ledger, and no event that is left to apply.
pub async fn fill_dialog(dialog_db: &Db, counter_db: &Db, stored: &Stored) -> anyhow::Result<()> {
    let mut tx = dialog_db.begin().await?;
    let row = query("select version from dialog where id = $1").bind(stored.dialog).one(&mut tx).await?;
    let version: i64 = row.get("version")?;
    // The time in milliseconds comes first in an id, so that ids sort by time as those of real messages do.
    let insert = match dialog_db.dialect() {
        Dialect::Postgres => {
            "insert into message (id, dialog_id, seq, author_id, text, status, transaction_id,
                changed_version, created_at_us)
            select cast(lpad(to_hex($5 + n), 12, '0') || '7' || substr(md5(cast(random() as text)), 1, 19)
                    as uuid), $1, $2 + n,
                $3, 'A message of sixty-four bytes, as people send them all day long.', 'committed',
                gen_random_uuid(), $6 + 2 * n, ($5 + n) * 1000
            from generate_series(cast(1 as bigint), $4) as n"
        }
        Dialect::Sqlite => {
            "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < $4)
            insert into message (id, dialog_id, seq, author_id, text, status, transaction_id,
                changed_version, created_at_us)
            select substr(printf('%012x', $5 + n), 1, 8) || '-' || substr(printf('%012x', $5 + n), 9)
                    || '-7000-8000-' || lower(hex(randomblob(6))), $1, $2 + n,
                $3, 'A message of sixty-four bytes, as people send them all day long.', 'committed',
                lower(hex(randomblob(4))) || '-0000-4000-8000-' || lower(hex(randomblob(6))),
                $6 + 2 * n, ($5 + n) * 1000
            from numbers where $4 > 0"
        }
    };
    // The newest message is a second old.
    let start_ms = jiff::Timestamp::now().as_millisecond() - stored.count - 1_000;
    let insert = query(insert).bind(stored.dialog).bind(stored.head).bind(stored.author).bind(stored.count);
    insert.bind(start_ms).bind(version).execute(&mut tx).await.context("messages")?;
    let update = query(
        "update dialog set version = version + 2 * $2, head_seq = head_seq + $2, last_activity_us = $3
        where id = $1",
    );
    let update = update.bind(stored.dialog).bind(stored.count).bind((start_ms + stored.count) * 1000);
    update.execute(&mut tx).await?;
    tx.commit().await?;
    fill_counter(counter_db, stored).await
}

async fn fill_counter(counter_db: &Db, stored: &Stored) -> anyhow::Result<()> {
    let mut tx = counter_db.begin().await?;
    let insert = match counter_db.dialect() {
        Dialect::Postgres => {
            "insert into ledger (dialog_id, seq, message_id, author_id, state)
            select $1, $2 + n, gen_random_uuid(), $3, 'counted'
            from generate_series(cast(1 as bigint), $4) as n"
        }
        Dialect::Sqlite => {
            "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < $4)
            insert into ledger (dialog_id, seq, message_id, author_id, state)
            select $1, $2 + n, $1, $3, 'counted' from numbers where $4 > 0"
        }
    };
    let insert = query(insert).bind(stored.dialog).bind(stored.head).bind(stored.author).bind(stored.count);
    insert.execute(&mut tx).await.context("ledger")?;
    let applied = query(
        "update dialog_applied set version = version + 2 * $2, last_seq = last_seq + $2 where dialog_id = $1",
    );
    applied.bind(stored.dialog).bind(stored.count).execute(&mut tx).await?;
    let unread = "update member_counter set unread = unread + $3 where dialog_id = $1 and user_id = $2";
    query(unread).bind(stored.dialog).bind(stored.reader).bind(stored.count).execute(&mut tx).await?;
    let read = "update member_counter set read_seq = read_seq + $3 where dialog_id = $1 and user_id = $2";
    query(read).bind(stored.dialog).bind(stored.author).bind(stored.count).execute(&mut tx).await?;
    for user in [stored.author, stored.reader] {
        query("update user_version set version = version + 1 where user_id = $1")
            .bind(user)
            .execute(&mut tx)
            .await?;
    }
    Ok(tx.commit().await?)
}

/// Gathers the statistics of the planner, as the server would after a while.
pub async fn analyze(db: &Db) -> anyhow::Result<()> {
    if db.dialect() == Dialect::Postgres {
        query("analyze").execute(db).await?;
    }
    Ok(())
}
