//! Life cycle that WebSockets and HTTP streams share: quotas, the end of a session or a token, and the
//! drain at shutdown; and the answers that clients of any transport have not taken yet.
//!
//! A socket or stream runs as a task spawned here. It ends when its token expires, its session is
//! revoked, its client has read nothing for [`STUCK_MAX`], or the gateway stops. [`Connections::drain`]
//! closes the rest over the drain window and waits for their tasks.

pub mod answer_budget;
pub mod drain;
pub(crate) mod gauge;
pub mod held_answers;
pub mod quota;
mod room;

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep_until};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::client::revoked_sessions::{RevokedSessions, SessionWatch};
use drain::DrainSchedule;
use held_answers::HeldAnswers;
use quota::Quota;

/// Longest time that a client may accept no byte of pending output before its socket or stream is
/// closed. Long enough for a phone that changes networks, short enough that a dead peer does not hold
/// its buffers.
pub(crate) const STUCK_MAX: Duration = Duration::from_secs(30);

/// The sockets and streams of a gateway. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Connections(Arc<State>);

struct State {
    quota: Quota,
    revoked: RevokedSessions,
    answers: HeldAnswers,
    drain_window: Duration,
    schedule: DrainSchedule,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// Creates the life cycle of a gateway without connections.
    pub fn new(quota: Quota, revoked: RevokedSessions, answers: HeldAnswers, drain_window: Duration) -> Self {
        Self(Arc::new(State {
            quota,
            revoked,
            answers,
            drain_window,
            schedule: DrainSchedule::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Closes all sockets and streams, spread over the drain window, and waits until their tasks have ended.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Spawns the task of a connection. [`Connections::drain`] waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(task);
    }

    /// Registers a task that something else spawns. [`Connections::drain`] waits until the token is dropped.
    pub(crate) fn task_token(&self) -> TaskTrackerToken {
        self.0.tasks.token()
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.0.quota
    }

    pub(crate) fn revoked(&self) -> &RevokedSessions {
        &self.0.revoked
    }

    pub(crate) fn answers(&self) -> &HeldAnswers {
        &self.0.answers
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Waits until the gateway starts to drain.
    pub(crate) async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Returns the time at which the calling connection closes, now that the gateway drains.
    pub(crate) fn close_at(&self) -> Instant {
        Instant::now() + self.0.drain_window.mul_f64(self.0.schedule.next())
    }
}

/// Counter of the bytes that a connection's peer has accepted. The HTTP server increments it and puts it
/// into the extensions of the connection's requests, because a WebSocket library shows whole messages
/// only. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<AtomicU64>);

impl Written {
    /// Adds accepted bytes.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Converts seconds since the epoch to an instant of this process. A time in the past is now.
pub(crate) fn instant(at_s: i64) -> Instant {
    let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(at_s).unwrap_or_default());
    Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Waits until a time. Never completes without one.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Waits until a session is revoked. Never completes for an anonymous client.
pub(crate) async fn revoked(session: Option<&SessionWatch>) {
    match session {
        Some(session) => session.revoked().await,
        None => pending().await,
    }
}
