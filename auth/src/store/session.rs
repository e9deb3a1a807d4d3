//! Statements about sessions.

use db::{Db, Error, Row, Tx, query};
use proto::{SessionId, UserId};

use crate::{
    password::Hash,
    refresh::{Lineage, Previous, Salt, Token},
};

/// Makes a session with its first token.
pub(crate) async fn insert(
    tx: &mut Tx,
    id: SessionId,
    user: UserId,
    token: &Token,
    expires_at_us: i64,
) -> Result<(), Error> {
    let insert =
        query("insert into session (id, user_id, family_hash, newest_hash, expires_at_us) values ($1, $2, $3, $4, $5)");
    let insert = insert.bind(id.uuid()).bind(user.uuid()).bind(token.family_hash()).bind(token.hash());
    insert.bind(expires_at_us).execute(tx).await.map(drop)
}

/// Locks the session of this family, where it is there.
pub(crate) async fn lock_lineage(tx: &mut Tx, family_hash: &[u8]) -> Result<Option<Lineage>, Error> {
    let lock = query(
        "update session set family_hash = family_hash where family_hash = $1
         returning id, user_id, newest_hash, previous_hash, previous_expires_at_us, salt, expires_at_us, ended_at_us",
    );
    lock.bind(family_hash).optional(tx).await?.as_ref().map(read_lineage).transpose()
}

fn read_lineage(row: &Row) -> Result<Lineage, Error> {
    let hash: Option<Vec<u8>> = row.get("previous_hash")?;
    let expires_at_us: Option<i64> = row.get("previous_expires_at_us")?;
    let salt: Option<Vec<u8>> = row.get("salt")?;
    let previous = hash.zip(expires_at_us).zip(salt.and_then(|salt| Salt::stored(&salt)));
    Ok(Lineage {
        session: SessionId::new(row.get("id")?),
        user: UserId::new(row.get("user_id")?),
        newest_hash: row.get("newest_hash")?,
        expires_at_us: row.get("expires_at_us")?,
        previous: previous.map(|((hash, expires_at_us), salt)| Previous { hash, expires_at_us, salt }),
        ended: row.get::<Option<i64>>("ended_at_us")?.is_some(),
    })
}

/// Puts a session's next token, made with this salt, in the place of the newest.
pub(crate) async fn rotate(
    tx: &mut Tx,
    id: SessionId,
    next: &Token,
    salt: &Salt,
    expires_at_us: i64,
) -> Result<(), Error> {
    let update = query(
        "update session set previous_hash = newest_hash, previous_expires_at_us = expires_at_us,
             newest_hash = $2, salt = $3, expires_at_us = $4
         where id = $1",
    );
    let update = update.bind(id.uuid()).bind(next.hash()).bind(salt.bytes()).bind(expires_at_us);
    update.execute(tx).await.map(drop)
}

/// The password's hash of the person whose session this is, unless it is over.
pub(crate) async fn password_hash(db: &Db, user: UserId, session: SessionId) -> Result<Option<Hash>, Error> {
    let select = query(
        "select account.password_hash from session join account on account.id = session.user_id
         where session.id = $1 and session.user_id = $2 and session.ended_at_us is null",
    );
    let row = select.bind(session.uuid()).bind(user.uuid()).optional(db).await?;
    row.map(|row| row.get("password_hash").map(Hash::stored)).transpose()
}

/// Ends this session of a person; its id, unless it was over.
pub(crate) async fn end(tx: &mut Tx, user: UserId, session: SessionId) -> Result<Option<SessionId>, Error> {
    let update = query(
        "update session set ended_at_us = (select now_us from clock)
         where id = $1 and user_id = $2 and ended_at_us is null returning id",
    );
    let row = update.bind(session.uuid()).bind(user.uuid()).optional(tx).await?;
    row.as_ref().map(read_id).transpose()
}

/// Ends all sessions of a person whose row is locked; the ids of those that were not over.
pub(crate) async fn end_all(tx: &mut Tx, user: UserId) -> Result<Vec<SessionId>, Error> {
    let update = query(
        "update session set ended_at_us = (select now_us from clock)
         where user_id = $1 and ended_at_us is null returning id",
    );
    update.bind(user.uuid()).all(tx).await?.iter().map(read_id).collect()
}

/// Ends the oldest sessions of a person whose row is locked, until `keep` are left that are neither over nor expired.
pub(crate) async fn end_oldest(tx: &mut Tx, user: UserId, keep: i64, now_us: i64) -> Result<Vec<SessionId>, Error> {
    let update = query(
        "update session set ended_at_us = (select now_us from clock)
         where ended_at_us is null and id in (
             select id from session where user_id = $1 and ended_at_us is null and expires_at_us > $3
             order by created_at_us desc, id desc limit 1000 offset $2
         )
         returning id",
    );
    update.bind(user.uuid()).bind(keep).bind(now_us).all(tx).await?.iter().map(read_id).collect()
}

/// The sessions that were ended within this time, newest first.
pub(crate) async fn revoked(db: &Db, within_us: i64, limit: i64) -> Result<Vec<SessionId>, Error> {
    let select = query(
        "select id from session where ended_at_us > (select now_us from clock) - $1 order by ended_at_us desc limit $2",
    );
    select.bind(within_us).bind(limit).all(db).await?.iter().map(read_id).collect()
}

/// Removes sessions that have been over or expired for longer than this; how many.
pub(crate) async fn remove(tx: &mut Tx, for_us: i64, limit: i64) -> Result<u64, Error> {
    let delete = query(
        "delete from session where id in (
             select id from session
             where ended_at_us < (select now_us from clock) - $1 or expires_at_us < (select now_us from clock) - $1
             limit $2
         )",
    );
    delete.bind(for_us).bind(limit).execute(tx).await
}

fn read_id(row: &Row) -> Result<SessionId, Error> {
    row.get("id").map(SessionId::new)
}
