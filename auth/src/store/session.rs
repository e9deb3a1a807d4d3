//! Statements on table `session`: sessions and the lineages of their refresh tokens.

use db::{Db, Error, Row, Tx, query};
use proto::{SessionId, UserId};

use crate::{
    device::{DeviceName, UserAgent},
    password::Hash,
    refresh_token::{Lineage, Previous, Salt, Token},
    revoked::Position,
    session::{Caller, Ended, NewSession},
};

/// Inserts a session with its first token. `access_expires_at_us` is the expiry of its first access token.
pub(crate) async fn insert(
    tx: &mut Tx,
    user: UserId,
    new: &NewSession,
    expires_at_us: i64,
    access_expires_at_us: i64,
) -> Result<(), Error> {
    let NewSession { id, token, device, now_us: _ } = new;
    let insert = query(
        "insert into session (id, user_id, family_hash, newest_hash, expires_at_us, access_expires_at_us,
             device_name, user_agent)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    );
    let insert = insert.bind(id.uuid()).bind(user.uuid()).bind(token.family_hash()).bind(token.hash());
    let insert = insert.bind(expires_at_us).bind(access_expires_at_us);
    let insert = insert.bind(device.name.as_ref().map(DeviceName::as_str));
    insert.bind(device.user_agent.as_ref().map(UserAgent::as_str)).execute(tx).await.map(drop)
}

/// Records a refresh: its time, the user agent if it is known, and the expiry of the access token that is
/// about to be issued. Requires the lock on the session.
pub(crate) async fn record_refresh(
    tx: &mut Tx,
    id: SessionId,
    access_expires_at_us: i64,
    user_agent: Option<&UserAgent>,
) -> Result<(), Error> {
    // The latest expiry counts: another auth process may have signed a token before with a longer lifetime.
    let update = query(
        "update session set refreshed_at_us = (select now_us from clock),
             user_agent = coalesce($3, user_agent),
             access_expires_at_us =
                 case when access_expires_at_us > $2 then access_expires_at_us else $2 end
         where id = $1",
    );
    let update = update.bind(id.uuid()).bind(access_expires_at_us);
    update.bind(user_agent.map(UserAgent::as_str)).execute(tx).await.map(drop)
}

/// Locks the session with this token family. Returns `None` if there is none.
pub(crate) async fn lock_lineage(tx: &mut Tx, family_hash: &[u8]) -> Result<Option<Lineage>, Error> {
    let lock = query(
        "update session set family_hash = family_hash where family_hash = $1
         returning id, user_id, newest_hash, previous_hash, previous_expires_at_us, salt, expires_at_us,
             ended_at_us",
    );
    lock.bind(family_hash).optional(tx).await?.as_ref().map(lineage_from_row).transpose()
}

fn lineage_from_row(row: &Row) -> Result<Lineage, Error> {
    let hash: Option<Vec<u8>> = row.get("previous_hash")?;
    let expires_at_us: Option<i64> = row.get("previous_expires_at_us")?;
    let salt: Option<Vec<u8>> = row.get("salt")?;
    let previous = hash.zip(expires_at_us).zip(salt.and_then(|salt| Salt::from_bytes(&salt)));
    Ok(Lineage {
        session: SessionId::new(row.get("id")?),
        user: UserId::new(row.get("user_id")?),
        newest_hash: row.get("newest_hash")?,
        expires_at_us: row.get("expires_at_us")?,
        previous: previous.map(|((hash, expires_at_us), salt)| Previous { hash, expires_at_us, salt }),
        ended: row.get::<Option<i64>>("ended_at_us")?.is_some(),
    })
}

/// Stores `next`, derived with `salt`, as the newest token, and the newest as the previous one.
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

/// Returns the password hash of the caller, or `None` if the session has ended.
pub(crate) async fn password_hash(db: &Db, caller: Caller) -> Result<Option<Hash>, Error> {
    let select = query(
        "select account.password_hash from session join account on account.id = session.user_id
         where session.id = $1 and session.user_id = $2 and session.ended_at_us is null",
    );
    let row = select.bind(caller.session.uuid()).bind(caller.user.uuid()).optional(db).await?;
    row.map(|row| row.get("password_hash").map(Hash::from_stored)).transpose()
}

/// Ends a session of this user and returns it, or `None` if it has already ended or is another user's.
pub(crate) async fn end(tx: &mut Tx, user: UserId, session: SessionId) -> Result<Option<Ended>, Error> {
    let update = query(
        "update session set ended_at_us = (select now_us from clock)
         where id = $1 and user_id = $2 and ended_at_us is null returning id, access_expires_at_us",
    );
    let row = update.bind(session.uuid()).bind(user.uuid()).optional(tx).await?;
    row.as_ref().map(ended_from_row).transpose()
}

/// Ends all sessions of a user and returns those that were open. Requires the lock on the user's row.
pub(crate) async fn end_all(tx: &mut Tx, user: UserId) -> Result<Vec<Ended>, Error> {
    let update = query(
        "update session set ended_at_us = (select now_us from clock)
         where user_id = $1 and ended_at_us is null returning id, access_expires_at_us",
    );
    update.bind(user.uuid()).all(tx).await?.iter().map(ended_from_row).collect()
}

/// Ends the oldest open sessions of a user until `keep` remain, and returns them. Expired sessions do not
/// count. Requires the lock on the user's row.
pub(crate) async fn end_oldest(
    tx: &mut Tx,
    user: UserId,
    keep: i64,
    now_us: i64,
) -> Result<Vec<Ended>, Error> {
    // `limit 1000` because SQLite has no `offset` without a limit. A user never has that many open
    // sessions.
    let update = query(
        "update session set ended_at_us = (select now_us from clock)
         where ended_at_us is null and id in (
             select id from session where user_id = $1 and ended_at_us is null and expires_at_us > $3
             order by created_at_us desc, id desc limit 1000 offset $2
         )
         returning id, access_expires_at_us",
    );
    update.bind(user.uuid()).bind(keep).bind(now_us).all(tx).await?.iter().map(ended_from_row).collect()
}

/// Returns at most `limit` ended sessions behind a position, in the order in which they ended, each with its
/// position. Sessions whose access tokens expired before `valid_after_us` are left out.
pub(crate) async fn revoked_since(
    db: &Db,
    after: Position,
    valid_after_us: i64,
    limit: i64,
) -> Result<Vec<(Position, Ended)>, Error> {
    let select = query(
        "select id, ended_at_us, access_expires_at_us from session
         where ended_at_us is not null and (ended_at_us, id) > ($1, $2) and access_expires_at_us > $3
         order by ended_at_us, id limit $4",
    );
    let select = select.bind(after.ended_at_us).bind(after.session.uuid()).bind(valid_after_us).bind(limit);
    let position = |row: &Row| -> Result<_, Error> {
        let ended = ended_from_row(row)?;
        Ok((Position { ended_at_us: row.get("ended_at_us")?, session: ended.session }, ended))
    };
    select.all(db).await?.iter().map(position).collect()
}

/// Returns the time of the database, in microseconds since the Unix epoch.
pub(crate) async fn now_us(db: &Db) -> Result<i64, Error> {
    query("select now_us from clock").one(db).await?.get("now_us")
}

/// Deletes at most `limit` sessions that ended or expired more than `age_us` microseconds ago and whose
/// access tokens expired then too, and returns their number.
pub(crate) async fn delete_old(tx: &mut Tx, age_us: i64, limit: i64) -> Result<u64, Error> {
    let delete = query(
        "delete from session where id in (
             select id from session
             where (ended_at_us < (select now_us from clock) - $1
                     or expires_at_us < (select now_us from clock) - $1)
                 and access_expires_at_us < (select now_us from clock) - $1
             limit $2
         )",
    );
    delete.bind(age_us).bind(limit).execute(tx).await
}

fn ended_from_row(row: &Row) -> Result<Ended, Error> {
    Ok(Ended { session: SessionId::new(row.get("id")?), expires_at_us: row.get("access_expires_at_us")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{FAR_FUTURE_US, databases, end as end_one, hash, insert_user, session};

    const HOUR_US: i64 = 3_600_000_000;

    fn sorted(ended: &[Ended]) -> Vec<SessionId> {
        let mut ids: Vec<_> = ended.iter().map(|ended| ended.session).collect();
        ids.sort();
        ids
    }

    #[tokio::test]
    async fn a_lineage_holds_the_newest_and_the_previous_token() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let (id, first) = session(db, ann, 100).await;
            session(db, ann, 100).await;
            let salts = [Salt::random(), Salt::random()];
            let second = first.successor(&salts[0]);
            let third = second.successor(&salts[1]);
            let mut tx = db.begin().await.unwrap();
            assert!(lock_lineage(&mut tx, &Token::random().family_hash()).await.unwrap().is_none());
            let fresh = lock_lineage(&mut tx, &first.family_hash()).await.unwrap().unwrap();
            assert_eq!((fresh.session, fresh.user, fresh.expires_at_us, fresh.ended), (id, ann, 100, false));
            assert!(fresh.newest_hash == first.hash() && fresh.previous.is_none(), "{}", test.name);
            rotate(&mut tx, id, &second, &salts[0], 200).await.unwrap();
            rotate(&mut tx, id, &third, &salts[1], 300).await.unwrap();
            tx.commit().await.unwrap();
            end_one(db, ann, id).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            let lineage = lock_lineage(&mut tx, &third.family_hash()).await.unwrap().unwrap();
            let previous = Previous { hash: second.hash(), expires_at_us: 200, salt: salts[1].clone() };
            let expected = Lineage {
                session: id,
                user: ann,
                newest_hash: third.hash(),
                expires_at_us: 300,
                previous: Some(previous),
                ended: true,
            };
            assert!(lineage == expected, "{}", test.name);
        }
    }

    #[tokio::test]
    async fn a_session_ends_once_and_only_by_its_own_user() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            let (id, _) = session(db, ann, FAR_FUTURE_US).await;
            assert_eq!(
                password_hash(db, Caller { user: ann, session: id }).await.unwrap(),
                Some(hash("hash")),
                "{}",
                test.name
            );
            assert_eq!(password_hash(db, Caller { user: bob, session: id }).await.unwrap(), None);
            assert_eq!(end_one(db, bob, id).await, None);
            assert_eq!(end_one(db, ann, SessionId::now()).await, None);
            assert_eq!(end_one(db, ann, id).await, Some(id));
            assert_eq!(end_one(db, ann, id).await, None);
            assert_eq!(password_hash(db, Caller { user: ann, session: id }).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn all_sessions_of_one_user_end_and_no_others() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            let ended_before = session(db, ann, FAR_FUTURE_US).await.0;
            end_one(db, ann, ended_before).await.unwrap();
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(session(db, ann, FAR_FUTURE_US).await.0);
            }
            let others = session(db, bob, FAR_FUTURE_US).await.0;
            let mut tx = db.begin().await.unwrap();
            let ended = end_all(&mut tx, ann).await.unwrap();
            assert!(ended.iter().all(|ended| ended.expires_at_us == FAR_FUTURE_US));
            assert_eq!(sorted(&ended), ids, "{}", test.name);
            assert_eq!(end_all(&mut tx, ann).await.unwrap(), []);
            tx.commit().await.unwrap();
            assert!(password_hash(db, Caller { user: bob, session: others }).await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn the_oldest_sessions_end_and_ended_or_expired_ones_do_not_count() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            session(db, bob, FAR_FUTURE_US).await;
            let mut ids = Vec::new();
            for number in 0..7 {
                let expires_at_us = if number == 5 { 1_000 } else { FAR_FUTURE_US };
                ids.push(session(db, ann, expires_at_us).await.0);
            }
            end_one(db, ann, ids[6]).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            assert_eq!(end_oldest(&mut tx, ann, 5, 1_000).await.unwrap(), [], "{}", test.name);
            let ended = end_oldest(&mut tx, ann, 3, 1_000).await.unwrap();
            assert_eq!(sorted(&ended), ids[..2], "{}", test.name);
            assert_eq!(end_oldest(&mut tx, ann, 0, 0).await.unwrap().len(), 4);
            assert_eq!(end_oldest(&mut tx, bob, 1, 0).await.unwrap(), []);
        }
    }

    #[tokio::test]
    async fn ended_sessions_are_paged_in_the_order_in_which_they_ended() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let mut ids = Vec::new();
            for expires_at_us in [FAR_FUTURE_US, FAR_FUTURE_US, FAR_FUTURE_US, 1_000, FAR_FUTURE_US] {
                ids.push(session(db, ann, expires_at_us).await.0);
            }
            let start = Position::start(0);
            assert_eq!(revoked_since(db, start, 0, 10).await.unwrap(), [], "{}: all are open", test.name);
            for (number, index) in [2, 0, 3, 1].into_iter().enumerate() {
                end_one(db, ann, ids[index]).await.unwrap();
                // Distinct times: the clock of SQLite has milliseconds.
                let mut tx = db.begin().await.unwrap();
                let end = query("update session set ended_at_us = $2 where id = $1");
                end.bind(ids[index].uuid()).bind(number as i64).execute(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
            }
            let sessions = |page: &[(Position, Ended)]| -> Vec<SessionId> {
                page.iter().map(|(_, ended)| ended.session).collect()
            };
            let all = revoked_since(db, start, 0, 10).await.unwrap();
            assert_eq!(sessions(&all), [2, 0, 3, 1].map(|index| ids[index]), "{}", test.name);
            let valid = revoked_since(db, start, 1_000, 10).await.unwrap();
            assert_eq!(sessions(&valid), [2, 0, 1].map(|index| ids[index]), "{}", test.name);
            let first = revoked_since(db, start, 1_000, 2).await.unwrap();
            let rest = revoked_since(db, first[1].0, 1_000, 2).await.unwrap();
            assert_eq!((&first[..], &rest[..]), (&valid[..2], &valid[2..]), "{}", test.name);
            let since_second = Position::start(valid[1].0.ended_at_us);
            assert_eq!(revoked_since(db, since_second, 1_000, 9).await.unwrap(), valid[1..], "{}", test.name);
            assert_eq!(revoked_since(db, rest[0].0, 0, 9).await.unwrap(), [], "nothing ended later");
        }
    }

    #[tokio::test]
    async fn the_latest_expiry_of_access_tokens_is_recorded() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let (id, _) = session(db, ann, 100).await;
            let mut tx = db.begin().await.unwrap();
            for (expires_at_us, recorded) in [(99, 100), (101, 101), (50, 101)] {
                record_refresh(&mut tx, id, expires_at_us, None).await.unwrap();
                let select = query("select access_expires_at_us from session where id = $1").bind(id.uuid());
                let row = select.one(&mut tx).await.unwrap();
                assert_eq!(row.get::<i64>("access_expires_at_us").unwrap(), recorded, "{}", test.name);
            }
            let ended = end(&mut tx, ann, id).await.unwrap();
            assert_eq!(ended, Some(Ended { session: id, expires_at_us: 101 }), "{}", test.name);
        }
    }

    #[tokio::test]
    async fn a_session_is_kept_while_its_access_tokens_are_valid() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let (id, _) = session(db, ann, 0).await;
            let mut tx = db.begin().await.unwrap();
            record_refresh(&mut tx, id, FAR_FUTURE_US, None).await.unwrap();
            end(&mut tx, ann, id).await.unwrap();
            assert_eq!(delete_old(&mut tx, -HOUR_US, 9).await.unwrap(), 0, "{}", test.name);
        }
    }

    #[tokio::test]
    async fn old_sessions_are_deleted_in_batches() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let (open, token) = session(db, ann, FAR_FUTURE_US).await;
            for expires_at_us in [0, 1, FAR_FUTURE_US] {
                let (id, _) = session(db, ann, expires_at_us).await;
                if expires_at_us == FAR_FUTURE_US {
                    end_one(db, ann, id).await.unwrap();
                }
            }
            let mut tx = db.begin().await.unwrap();
            assert_eq!(delete_old(&mut tx, HOUR_US, 1).await.unwrap(), 1, "{}", test.name);
            assert_eq!(delete_old(&mut tx, HOUR_US, 9).await.unwrap(), 1);
            assert_eq!(delete_old(&mut tx, HOUR_US, 9).await.unwrap(), 0, "one ended less than an hour ago");
            query("update session set access_expires_at_us = 0").execute(&mut tx).await.unwrap();
            assert_eq!(delete_old(&mut tx, -HOUR_US, 9).await.unwrap(), 1, "ended, and nothing is valid");
            let kept = lock_lineage(&mut tx, &token.family_hash()).await.unwrap();
            assert!(kept.is_some_and(|lineage| lineage.session == open), "{}", test.name);
        }
    }
}
