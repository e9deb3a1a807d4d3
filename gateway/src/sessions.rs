//! Sessions that are over although their access tokens still live: what log-outs, changed passwords and revocations leave
//! behind, for as long as a token may live. HTTP asks; sockets are told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::SessionId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How much longer than a token's life a session is remembered: clocks differ.
const LEEWAY: Duration = Duration::from_secs(120);

/// The sessions that are over. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Revoked(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    keep: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    over: HashMap<SessionId, Instant>,
    oldest: VecDeque<(Instant, SessionId)>,
    watched: HashMap<SessionId, (CancellationToken, usize)>,
}

impl Revoked {
    /// None yet. `token_lifetime`: how long an access token lives at most.
    pub fn new(token_lifetime: Duration) -> Self {
        Self(Arc::new(Shared { keep: token_lifetime + LEEWAY, state: Mutex::default() }))
    }

    /// These sessions are over: from now on their tokens are refused, and who watches them is told.
    pub fn revoke(&self, sessions: impl IntoIterator<Item = SessionId>) {
        let now = Instant::now();
        let mut state = self.state();
        state.forget_older_than(now, self.0.keep);
        for session in sessions {
            if state.over.insert(session, now).is_none() {
                state.oldest.push_back((now, session));
            }
            if let Some((over, _)) = state.watched.get(&session) {
                over.cancel();
            }
        }
    }

    /// Whether a session is over.
    pub fn contains(&self, session: SessionId) -> bool {
        self.state().over.contains_key(&session)
    }

    /// Watches a session; one that is over already is told at once.
    pub fn watch(&self, session: SessionId) -> Watch {
        let mut state = self.state();
        let is_over = state.over.contains_key(&session);
        let (over, watchers) = state.watched.entry(session).or_default();
        *watchers += 1;
        if is_over {
            over.cancel();
        }
        let over = over.clone();
        Watch { revoked: self.clone(), session, over }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_older_than(&mut self, now: Instant, keep: Duration) {
        while let Some((since, session)) = self.oldest.front().copied()
            && now.duration_since(since) > keep
        {
            self.oldest.pop_front();
            // Revoked again meanwhile, it counts from then.
            match self.over.get(&session).copied() {
                Some(last) if last > since => self.oldest.push_back((last, session)),
                _ => _ = self.over.remove(&session),
            }
        }
    }
}

/// Somebody's interest in a session, until dropped.
#[derive(Debug)]
pub struct Watch {
    revoked: Revoked,
    session: SessionId,
    over: CancellationToken,
}

impl Watch {
    /// Comes back when the session is over.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.revoked.state();
        if let Some((_, watchers)) = state.watched.get_mut(&self.session) {
            *watchers -= 1;
            if *watchers == 0 {
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
    async fn a_session_that_is_over_is_remembered_as_long_as_its_tokens_live() {
        let revoked = Revoked::new(Duration::from_secs(300));
        let (first, second) = (SessionId::now(), SessionId::now());
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
        let state = revoked.state();
        assert_eq!((state.over.len(), state.oldest.len()), (1, 1));
    }

    #[tokio::test]
    async fn who_watches_a_session_is_told_and_forgotten_afterwards() {
        let revoked = Revoked::new(Duration::from_secs(300));
        let (session, other) = (SessionId::now(), SessionId::now());
        let watches = [revoked.watch(session), revoked.watch(session)];
        let bystander = revoked.watch(other);
        assert!(watches[0].over().now_or_never().is_none());
        revoked.revoke([session]);
        for watch in watches {
            watch.over().await;
        }
        revoked.watch(session).over().await;
        assert!(bystander.over().now_or_never().is_none());
        drop(bystander);
        assert!(revoked.state().watched.is_empty());
    }
}
