//! Ended sessions whose access tokens may still be valid, in pages, for gateways that ask for them again and
//! again. The order is that of their ends by the clock of the database.
//!
//! A session becomes visible with the commit of its transaction, after the time that it records as its end.
//! A reader therefore starts again [`OVERLAP`] before its last question and receives some sessions twice;
//! without it, a transaction that commits late would be passed by
//! (docs/decisions/0017-revocation-without-the-log.md).

use std::time::Duration;

use proto::SessionId;
use uuid::Uuid;

use crate::{App, CLOCK_SKEW_MAX, Error, microseconds, session::Ended, store};

/// Sessions per page: 60 KiB.
const PAGE_MAX: usize = 2_000;
/// Longest time that a transaction which ends sessions may take without being passed by.
const OVERLAP: Duration = Duration::from_secs(60);

/// Position of an ended session in the order of the ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub ended_at_us: i64,
    pub session: SessionId,
}

impl Position {
    /// Returns the position before all sessions that ended at this time or later.
    pub(crate) const fn start(ended_at_us: i64) -> Self {
        Self { ended_at_us, session: SessionId::new(Uuid::nil()) }
    }
}

/// Page of ended sessions.
#[derive(Debug)]
pub(crate) struct Page {
    pub sessions: Vec<Ended>,
    /// Position of the last one, if there are more.
    pub more: Option<Position>,
    /// Time to continue from after the last page.
    pub next_since_us: i64,
}

/// Returns the first page of the sessions that ended at `since_us` or later, or the page behind `after`.
#[tracing::instrument(name = "auth.session.revoked", skip_all)]
pub(crate) async fn since(app: &App, since_us: i64, after: Option<Position>) -> Result<Page, Error> {
    page(app, since_us, after, PAGE_MAX).await
}

async fn page(app: &App, since_us: i64, after: Option<Position>, limit: usize) -> Result<Page, Error> {
    // Read before the sessions: one that is committed between the two statements is on this page or the next.
    let now_us = store::session::now_us(&app.db).await?;
    // A time in the future means that the clock went back, for instance with another server. What ended since
    // may be recorded with any earlier time.
    let since_us = if since_us > now_us { 0 } else { since_us };
    let after = after.unwrap_or(Position::start(since_us));
    let valid_after_us = now_us - microseconds(CLOCK_SKEW_MAX);
    let mut found = store::session::revoked_since(&app.db, after, valid_after_us, limit as i64 + 1).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    Ok(Page {
        more: found.last().filter(|_| has_more).map(|(position, _)| *position),
        sessions: found.into_iter().map(|(_, ended)| ended).collect(),
        next_since_us: now_us - microseconds(OVERLAP),
    })
}

#[cfg(test)]
mod tests {
    use db::query;

    use super::*;
    use crate::{session::fixture::app, store::fixture};

    #[tokio::test]
    async fn pages_continue_behind_the_last_session_and_then_a_minute_earlier() {
        for test in fixture::databases().await {
            let app = app(&test.db);
            let ann = fixture::insert_user(&test.db, "ann", "Ann").await;
            let mut ids = Vec::new();
            for _ in 0..5 {
                let (id, _) = fixture::session(&test.db, ann, fixture::FAR_FUTURE_US).await;
                ids.push(fixture::end(&test.db, ann, id).await.unwrap());
            }
            let mut found = Vec::new();
            let mut after = None;
            let mut sizes = Vec::new();
            let next_since_us = loop {
                let Page { sessions, more, next_since_us } = page(&app, 0, after, 2).await.unwrap();
                sizes.push(sessions.len());
                found.extend(sessions.iter().map(|ended| ended.session));
                match more {
                    Some(_) => after = more,
                    None => break next_since_us,
                }
            };
            assert_eq!((found, sizes), (ids.clone(), vec![2, 2, 1]), "{}", test.name);
            let again = since(&app, next_since_us, None).await.unwrap();
            assert_eq!(again.sessions.len(), 5, "{}: they ended less than a minute ago", test.name);
            assert!(again.more.is_none() && again.next_since_us >= next_since_us);

            // Committed late, with an earlier time: within the overlap it is found.
            let mut tx = test.db.begin().await.unwrap();
            let back = query("update session set ended_at_us = ended_at_us - $2 where id = $1");
            back.bind(ids[0].uuid()).bind(59_000_000).execute(&mut tx).await.unwrap();
            let back = query("update session set ended_at_us = ended_at_us - $2 where id = $1");
            back.bind(ids[1].uuid()).bind(120_000_000).execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            let late = since(&app, next_since_us, None).await.unwrap();
            let late: Vec<_> = late.sessions.iter().map(|ended| ended.session).collect();
            assert_eq!(late, [ids[0], ids[2], ids[3], ids[4]], "{}", test.name);
            let clock_went_back = since(&app, i64::MAX, None).await.unwrap();
            assert_eq!(clock_went_back.sessions.len(), 5, "{}", test.name);
        }
    }
}
