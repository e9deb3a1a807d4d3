//! Revoked sessions whose access tokens may still be valid: the result of log-outs, changed passwords and
//! revocations.
//!
//! A session is remembered for the longest life of an access token, plus a leeway. HTTP requests look their
//! session up; sockets and streams watch theirs and end when it is revoked.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use proto::SessionId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Added to a token's life: the clocks of auth and of this gateway differ.
const LEEWAY: Duration = Duration::from_secs(120);

/// The revoked sessions that a gateway knows. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub struct RevokedSessions(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    retention: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revoked_at: HashMap<SessionId, Instant>,
    /// The same sessions, oldest first.
    by_age: VecDeque<(Instant, SessionId)>,
    watched: HashMap<SessionId, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    revoked: CancellationToken,
    watchers: usize,
}

impl RevokedSessions {
    /// Creates an empty registry. `token_lifetime` is the longest life of an access token.
    pub fn new(token_lifetime: Duration) -> Self {
        Self(Arc::new(Registry { retention: token_lifetime + LEEWAY, state: Mutex::default() }))
    }

    /// Revokes sessions: from now on their tokens are rejected, and their watches complete.
    pub fn revoke(&self, sessions: impl IntoIterator<Item = SessionId>) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.remove_older_than(now, self.0.retention);
        for session in sessions {
            if state.revoked_at.insert(session, now).is_none() {
                state.by_age.push_back((now, session));
            }
            if let Some(watched) = state.watched.get(&session) {
                watched.revoked.cancel();
            }
        }
    }

    /// Returns true if a session is revoked.
    pub fn contains(&self, session: SessionId) -> bool {
        self.0.state.lock().revoked_at.contains_key(&session)
    }

    /// Watches a session. The watch of a session that is revoked already completes immediately.
    pub fn watch(&self, session: SessionId) -> SessionWatch {
        let mut state = self.0.state.lock();
        let is_revoked = state.revoked_at.contains_key(&session);
        let watched = state.watched.entry(session).or_default();
        watched.watchers += 1;
        if is_revoked {
            watched.revoked.cancel();
        }
        let revoked = watched.revoked.clone();
        SessionWatch { sessions: self.clone(), session, revoked }
    }
}

impl State {
    fn remove_older_than(&mut self, now: Instant, retention: Duration) {
        while let Some((since, session)) = self.by_age.front().copied()
            && now.duration_since(since) > retention
        {
            self.by_age.pop_front();
            // A session that was revoked again is kept from the later time on.
            match self.revoked_at.get(&session).copied() {
                Some(last) if last > since => self.by_age.push_back((last, session)),
                _ => _ = self.revoked_at.remove(&session),
            }
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_revoked_session_is_remembered_for_the_life_of_its_tokens() {
        let revoked = RevokedSessions::new(Duration::from_secs(300));
        let first = SessionId::now();
        let second = SessionId::now();
        revoked.revoke([first]);
        assert!(revoked.contains(first) && !revoked.contains(second));
        tokio::time::advance(Duration::from_secs(301)).await;
        revoked.revoke([first, second]);
        tokio::time::advance(Duration::from_secs(301)).await;
        revoked.revoke([]);
        assert!(revoked.contains(first) && revoked.contains(second));
        tokio::time::advance(Duration::from_secs(301)).await;
        revoked.revoke([SessionId::now()]);
        assert!(!revoked.contains(first) && !revoked.contains(second));
        let state = revoked.0.state.lock();
        assert_eq!((state.revoked_at.len(), state.by_age.len()), (1, 1));
    }

    #[tokio::test]
    async fn watches_of_a_revoked_session_complete_and_are_removed() {
        let revoked = RevokedSessions::new(Duration::from_secs(300));
        let session = SessionId::now();
        let other = SessionId::now();
        let watches = [revoked.watch(session), revoked.watch(session)];
        let bystander = revoked.watch(other);
        assert!(watches[0].revoked().now_or_never().is_none());
        revoked.revoke([session]);
        for watch in watches {
            watch.revoked().await;
        }
        revoked.watch(session).revoked().await;
        assert!(bystander.revoked().now_or_never().is_none());
        drop(bystander);
        assert!(revoked.0.state.lock().watched.is_empty());
    }
}
