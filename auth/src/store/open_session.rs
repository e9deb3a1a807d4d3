//! Statements on open sessions: the list that a user sees, and the device of one of them.

use db::{Db, Error, Row, Tx, query};
use proto::SessionId;

use crate::{
    device::{Device, DeviceName, UserAgent},
    open_session::OpenSession,
    session::Caller,
};

/// Returns the open sessions of the caller that have not expired at `now_us`, newest use first, at most
/// `limit`. Returns none if the caller's session has ended.
pub(crate) async fn list(
    db: &Db,
    caller: Caller,
    now_us: i64,
    limit: i64,
) -> Result<Vec<OpenSession>, Error> {
    let select = query(
        "select id, device_name, user_agent, created_at_us,
             coalesce(refreshed_at_us, created_at_us) as last_used_at_us
         from session
         where user_id = $1 and ended_at_us is null and expires_at_us > $3 and exists (
             select 1 from session as own where own.id = $2 and own.user_id = $1 and own.ended_at_us is null
         )
         order by last_used_at_us desc, id desc limit $4",
    );
    let select = select.bind(caller.user.uuid()).bind(caller.session.uuid()).bind(now_us).bind(limit);
    select.all(db).await?.iter().map(open_session_from_row).collect()
}

fn open_session_from_row(row: &Row) -> Result<OpenSession, Error> {
    Ok(OpenSession {
        id: SessionId::new(row.get("id")?),
        device_name: row.get("device_name")?,
        user_agent: row.get("user_agent")?,
        created_at_us: row.get("created_at_us")?,
        last_used_at_us: row.get("last_used_at_us")?,
    })
}

/// Returns true if the caller's session has not ended.
pub(crate) async fn is_open(tx: &mut Tx, caller: Caller) -> Result<bool, Error> {
    let select = query("select id from session where id = $1 and user_id = $2 and ended_at_us is null");
    let row = select.bind(caller.session.uuid()).bind(caller.user.uuid()).optional(tx).await?;
    Ok(row.is_some())
}

/// Returns the device of an existing session, also of one that has ended.
pub(crate) async fn device(tx: &mut Tx, session: SessionId) -> Result<Device, Error> {
    let select = query("select device_name, user_agent from session where id = $1");
    let row = select.bind(session.uuid()).one(tx).await?;
    let name: Option<String> = row.get("device_name")?;
    let user_agent: Option<String> = row.get("user_agent")?;
    Ok(Device { name: name.map(DeviceName::from_stored), user_agent: user_agent.map(UserAgent::from_stored) })
}

#[cfg(test)]
mod tests {
    use proto::UserId;

    use super::*;
    use crate::store::{
        fixture::{FAR_FUTURE_US, databases, end, insert_user, session, session_on},
        session::record_refresh,
    };

    fn device_named(name: &str, user_agent: Option<&str>) -> Device {
        Device::parse(Some(name), user_agent.and_then(UserAgent::parse)).unwrap()
    }

    async fn listed(db: &Db, user: UserId, session: SessionId) -> Vec<SessionId> {
        let sessions = list(db, Caller { user, session }, 1_000, 9).await.unwrap();
        sessions.into_iter().map(|session| session.id).collect()
    }

    /// Moves the sign-in of a session into the past: the clock of SQLite has milliseconds.
    async fn age(db: &Db, id: SessionId, by_us: i64) {
        let mut tx = db.begin().await.unwrap();
        let update = query("update session set created_at_us = created_at_us - $2 where id = $1");
        update.bind(id.uuid()).bind(by_us).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn only_open_sessions_of_the_caller_are_listed_and_only_for_an_open_one() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            let foreign = session(db, bob, FAR_FUTURE_US).await.0;
            let own = session(db, ann, FAR_FUTURE_US).await.0;
            let ended = session(db, ann, FAR_FUTURE_US).await.0;
            let expired = session(db, ann, 1_000).await.0;
            end(db, ann, ended).await.unwrap();
            assert_eq!(listed(db, ann, own).await, [own], "{}", test.name);
            assert_eq!(listed(db, ann, expired).await, [own], "{}: not ended", test.name);
            for session in [ended, foreign, SessionId::now()] {
                assert_eq!(listed(db, ann, session).await, [], "{}", test.name);
            }
            let mut tx = db.begin().await.unwrap();
            for (user, session, expected) in [
                (ann, own, true),
                (bob, foreign, true),
                (ann, ended, false),
                (ann, foreign, false),
                (bob, own, false),
                (ann, SessionId::now(), false),
            ] {
                let caller = Caller { user, session };
                assert_eq!(is_open(&mut tx, caller).await.unwrap(), expected, "{}: {caller:?}", test.name);
            }
        }
    }

    #[tokio::test]
    async fn the_session_that_was_used_last_comes_first() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let mut ids = Vec::new();
            for number in 0..4 {
                let id = session(db, ann, FAR_FUTURE_US).await.0;
                age(db, id, (9 - number) * 1_000_000).await;
                ids.push(id);
            }
            assert_eq!(listed(db, ann, ids[0]).await, [ids[3], ids[2], ids[1], ids[0]], "{}", test.name);
            let mut tx = db.begin().await.unwrap();
            record_refresh(&mut tx, ids[1], 0, None).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(listed(db, ann, ids[0]).await, [ids[1], ids[3], ids[2], ids[0]], "{}", test.name);
            let caller = Caller { user: ann, session: ids[0] };
            let newest = list(db, caller, 0, 2).await.unwrap();
            assert_eq!(newest.len(), 2, "{}: the limit", test.name);
            let now_us = crate::store::session::now_us(db).await.unwrap();
            assert!((now_us - 60_000_000..=now_us).contains(&newest[0].last_used_at_us), "{}", test.name);
            assert!(newest[0].created_at_us < newest[0].last_used_at_us);
            assert_eq!(newest[1].created_at_us, newest[1].last_used_at_us, "never refreshed");
        }
    }

    #[tokio::test]
    async fn a_refresh_replaces_the_user_agent_if_it_is_known_and_keeps_the_name() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let unnamed = session(db, ann, FAR_FUTURE_US).await.0;
            let phone = device_named("Phone é", Some("agent/1"));
            let id = session_on(db, ann, phone.clone(), FAR_FUTURE_US).await.0;
            let mut tx = db.begin().await.unwrap();
            assert_eq!(device(&mut tx, unnamed).await.unwrap(), Device::default(), "{}", test.name);
            assert_eq!(device(&mut tx, id).await.unwrap(), phone, "{}", test.name);
            record_refresh(&mut tx, id, 0, None).await.unwrap();
            assert_eq!(device(&mut tx, id).await.unwrap(), phone, "{}", test.name);
            let newer = UserAgent::parse("agent/2");
            record_refresh(&mut tx, id, 0, newer.as_ref()).await.unwrap();
            record_refresh(&mut tx, unnamed, 0, newer.as_ref()).await.unwrap();
            tx.commit().await.unwrap();
            end(db, ann, id).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            let renewed = device_named("Phone é", Some("agent/2"));
            assert_eq!(device(&mut tx, id).await.unwrap(), renewed, "{}: ended", test.name);
            let expected = Device { name: None, user_agent: newer };
            assert_eq!(device(&mut tx, unnamed).await.unwrap(), expected, "{}", test.name);
        }
    }
}
