//! Revoked sessions whose access tokens may still be valid: the result of log-outs, changed passwords and
//! reused refresh tokens.
//!
//! A session is remembered until the last of its access tokens has expired, at the time that auth states,
//! plus a leeway. HTTP requests look their session up; sockets and streams watch theirs and end when it is
//! revoked. At most [`SESSIONS_MAX`] are remembered. Beyond that the sessions whose tokens expire first are
//! dropped, and all tokens that expire no later are rejected: a client refreshes its token and continues.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use proto::{SessionId, auth};
use tokio_util::sync::CancellationToken;

/// Time for which a session is remembered after its last token has expired. The clock may be set back, and a
/// token is verified a moment before its session is looked up.
const LEEWAY_US: i64 = 120_000_000;
/// Sessions remembered: about 45 MB.
const SESSIONS_MAX: usize = 500_000;
/// Life of the tokens of a session in an event without their expiry, which only an auth process of an earlier
/// version writes. Auth is asked for the exact time within a second.
const UNSTATED_LIFE_US: i64 = 3_600_000_000;

/// Session that has ended. No access token of it expires later than `expires_at_us`, in microseconds since
/// the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// The session.
    pub session: SessionId,
    /// Latest expiry of its access tokens.
    pub expires_at_us: i64,
}

/// The revoked sessions that a gateway knows. Cheap to clone; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct RevokedSessions(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    /// Cancelled when auth has named all ended sessions once.
    complete: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    memory: Memory,
    watched: HashMap<SessionId, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    revoked: CancellationToken,
    watchers: usize,
}

impl RevokedSessions {
    /// Revokes sessions: from now on their tokens are rejected, and their watches complete.
    pub fn revoke(&self, ended: impl IntoIterator<Item = EndedSession>) {
        let now_us = now_us();
        let mut state = self.0.state.lock();
        let State { memory, watched } = &mut *state;
        memory.forget_expired(now_us);
        let mut dropped = 0;
        for EndedSession { session, expires_at_us } in ended {
            let unstated = now_us.saturating_add(UNSTATED_LIFE_US);
            let expires_at_us = if expires_at_us == 0 { unstated } else { expires_at_us };
            dropped += usize::from(memory.add(session, expires_at_us, SESSIONS_MAX));
            if let Some(watched) = watched.get(&session) {
                watched.revoked.cancel();
            }
        }
        metrics::gauge!("gateway_revoked_sessions").set(memory.expiries.len() as f64);
        if dropped > 0 {
            metrics::counter!("gateway_revoked_sessions_dropped_total").increment(dropped as u64);
            let until_us = memory.rejected_until_us;
            tracing::error!(
                dropped,
                until_us,
                "too many revoked sessions: tokens that expire by then are rejected"
            );
        }
    }

    /// Revokes the sessions that an answer of auth names. A malformed id is ignored.
    pub fn revoke_named(&self, ended: &[auth::EndedSession]) {
        let parsed = ended.iter().filter_map(|ended| {
            let session = SessionId::parse(&ended.session_id).ok()?;
            Some(EndedSession { session, expires_at_us: ended.expires_at_us })
        });
        self.revoke(parsed);
    }

    /// Returns true if a token of this session with this expiry, in seconds since the Unix epoch, must be
    /// rejected.
    pub fn rejects(&self, session: SessionId, expires_at_s: i64) -> bool {
        let state = self.0.state.lock();
        state.memory.contains(session)
            || expires_at_s.saturating_mul(1_000_000) <= state.memory.rejected_until_us
    }

    /// Watches a session. The watch of a session that is revoked already completes immediately.
    pub fn watch(&self, session: SessionId) -> SessionWatch {
        let mut state = self.0.state.lock();
        let is_revoked = state.memory.contains(session);
        let watched = state.watched.entry(session).or_default();
        watched.watchers += 1;
        if is_revoked {
            watched.revoked.cancel();
        }
        let revoked = watched.revoked.clone();
        SessionWatch { sessions: self.clone(), session, revoked }
    }

    /// Notes that every session that ended before the start of this gateway is known.
    pub fn set_complete(&self) {
        self.0.complete.cancel();
    }

    /// Returns false until [`RevokedSessions::set_complete`]. Tokens cannot be judged before.
    pub fn is_complete(&self) -> bool {
        self.0.complete.is_cancelled()
    }

    /// Waits for [`RevokedSessions::set_complete`].
    pub async fn complete(&self) {
        self.0.complete.cancelled().await;
    }
}

/// Revoked sessions with the latest expiry of their tokens.
#[derive(Debug, Default)]
struct Memory {
    expiries: HashMap<SessionId, i64>,
    /// The same sessions, first to expire first.
    by_expiry: BTreeSet<(i64, SessionId)>,
    /// Every token that expires no later is rejected: its session may be one that was dropped.
    rejected_until_us: i64,
}

impl Memory {
    fn contains(&self, session: SessionId) -> bool {
        self.expiries.contains_key(&session)
    }

    /// Adds a session, or gives it a later expiry. Returns true if a session was dropped to make room.
    fn add(&mut self, session: SessionId, expires_at_us: i64, sessions_max: usize) -> bool {
        let known = self.expiries.get(&session).copied();
        if known.is_some_and(|known| known >= expires_at_us) || expires_at_us <= self.rejected_until_us {
            return false;
        }
        if let Some(known) = known {
            self.by_expiry.remove(&(known, session));
        }
        self.expiries.insert(session, expires_at_us);
        self.by_expiry.insert((expires_at_us, session));
        if self.expiries.len() <= sessions_max {
            return false;
        }
        if let Some((expires_at_us, first)) = self.by_expiry.pop_first() {
            self.expiries.remove(&first);
            self.rejected_until_us = self.rejected_until_us.max(expires_at_us);
        }
        true
    }

    fn forget_expired(&mut self, now_us: i64) {
        while let Some((expires_at_us, session)) = self.by_expiry.first().copied()
            && expires_at_us.saturating_add(LEEWAY_US) < now_us
        {
            self.by_expiry.pop_first();
            self.expiries.remove(&session);
        }
    }
}

/// Watch of one session, held by a socket or stream.
#[derive(Debug)]
pub struct SessionWatch {
    sessions: RevokedSessions,
    session: SessionId,
    revoked: CancellationToken,
}

impl SessionWatch {
    /// Waits until the session is revoked.
    pub async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}

impl Drop for SessionWatch {
    fn drop(&mut self) {
        let mut state = self.sessions.0.state.lock();
        if let Some(watched) = state.watched.get_mut(&self.session) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                state.watched.remove(&self.session);
            }
        }
    }
}

/// The clock that also decides whether a token has expired.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn a_session_is_remembered_until_its_last_token_has_expired() {
        let mut memory = Memory::default();
        let [hour, minute, both] = [SessionId::now(), SessionId::now(), SessionId::now()];
        memory.add(hour, 3_600 * SECOND_US, 9);
        memory.add(minute, 60 * SECOND_US, 9);
        memory.add(both, 60 * SECOND_US, 9);
        memory.add(both, 3_600 * SECOND_US, 9);
        memory.add(both, 60 * SECOND_US, 9);
        memory.forget_expired(180 * SECOND_US);
        assert_eq!([hour, minute, both].map(|session| memory.contains(session)), [true, true, true]);
        memory.forget_expired(181 * SECOND_US);
        assert_eq!([hour, minute, both].map(|session| memory.contains(session)), [true, false, true]);
        memory.forget_expired(3_720 * SECOND_US);
        assert!(memory.contains(hour) && memory.contains(both));
        memory.forget_expired(3_721 * SECOND_US);
        assert!(memory.expiries.is_empty() && memory.by_expiry.is_empty());
    }

    #[test]
    fn beyond_the_bound_tokens_are_rejected_that_expire_no_later_than_those_of_a_dropped_session() {
        let mut memory = Memory::default();
        let sessions: Vec<_> = (1..=5).map(|second| (SessionId::now(), second * SECOND_US)).collect();
        let dropped: Vec<_> =
            sessions.iter().rev().map(|(session, expiry)| memory.add(*session, *expiry, 3)).collect();
        assert_eq!(dropped, [false, false, false, true, false], "the last one expires before a dropped one");
        assert_eq!((memory.expiries.len(), memory.by_expiry.len()), (3, 3));
        assert_eq!(memory.rejected_until_us, 2 * SECOND_US);
        for (session, expiry) in &sessions {
            assert!(memory.contains(*session) || *expiry <= memory.rejected_until_us, "{expiry}");
        }
        assert!(!memory.add(sessions[0].0, SECOND_US, 3), "a repeated one is not dropped again");
    }

    #[test]
    fn a_token_is_rejected_by_its_session_or_by_its_expiry() {
        let revoked = RevokedSessions::default();
        let [ended, open] = [SessionId::now(), SessionId::now()];
        let expires_at_us = now_us() + 60 * SECOND_US;
        revoked.revoke([EndedSession { session: ended, expires_at_us }]);
        assert!(revoked.rejects(ended, i64::MAX) && !revoked.rejects(open, 1));
        revoked.0.state.lock().memory.rejected_until_us = 7 * SECOND_US;
        assert!(revoked.rejects(open, 7) && !revoked.rejects(open, 8));
        let unstated = SessionId::now();
        revoked.revoke([EndedSession { session: unstated, expires_at_us: 0 }]);
        assert!(revoked.rejects(unstated, i64::MAX), "an event of an earlier version states no expiry");
    }

    #[tokio::test]
    async fn watches_of_a_revoked_session_complete_and_are_removed() {
        let revoked = RevokedSessions::default();
        let session = SessionId::now();
        let other = SessionId::now();
        let watches = [revoked.watch(session), revoked.watch(session)];
        let bystander = revoked.watch(other);
        assert!(watches[0].revoked().now_or_never().is_none());
        revoked.revoke([EndedSession { session, expires_at_us: i64::MAX }]);
        for watch in watches {
            watch.revoked().await;
        }
        revoked.watch(session).revoked().await;
        assert!(bystander.revoked().now_or_never().is_none());
        drop(bystander);
        assert!(revoked.0.state.lock().watched.is_empty());
    }
}
