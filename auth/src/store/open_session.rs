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
    Ok(Device {
        name: name.map(DeviceName::from_stored),
        user_agent: user_agent.map(UserAgent::from_stored),
    })
}
