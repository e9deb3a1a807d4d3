//! Consumer of the event log: applies events to the hubs and revokes sessions. A gateway has one.
//!
//! It starts at the end of the log. The gateway is not ready before the sessions revoked until then are
//! loaded. While the log cannot be read it is degraded: it answers operations, and subscriptions wait for
//! the end of the log. When the log has discarded events before they were read, the reader loads the revoked
//! sessions again and the hubs load the state of their subscribers.

use std::time::Duration;

use events::{Log, Record, Tail};
use proto::{DialogId, InvalidId, SessionId, UserId, auth, events::event::Kind, topic};
use telemetry::readiness::Component;
use tokio_util::sync::CancellationToken;

use crate::{
    client::revoked_sessions::RevokedSessions,
    hub::{
        self, Hubs, Service,
        messages::frame::{Change, Event},
        read_states::ReadState,
    },
};

/// Topics that a gateway consumes.
const TOPICS: [&str; 4] = [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD];
/// Deadline of a call to auth.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the event log for the hubs and the revoked sessions of a gateway.
#[derive(Clone)]
pub struct LogReader {
    /// Hubs that receive the events.
    pub hubs: Hubs,
    /// Revoked sessions of the gateway.
    pub revoked: RevokedSessions,
    /// Services that the gateway calls on its own behalf.
    pub service: Service,
    /// Readiness of this reader.
    pub component: Component,
}

impl LogReader {
    /// Follows the log until the shutdown.
    pub async fn run(self, log: Log, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow(log)).await;
    }

    async fn follow(&self, log: Log) {
        let mut tail = self.open_tail(&log).await;
        self.hubs.set_following();
        // After the tail is open: a session revoked between the two steps is in the list or in the tail.
        self.load_revoked_sessions().await;
        self.component.ready();
        let mut backoff = hub::backoff();
        loop {
            match tail.next().await {
                Ok(next) => {
                    backoff.reset();
                    if next.skipped {
                        self.hubs.resync();
                        self.load_revoked_sessions().await;
                    }
                    self.component.ready();
                    next.records.iter().for_each(|record| self.apply_record(record));
                }
                Err(error) => {
                    tracing::warn!(%error, "the event log cannot be read, live updates are delayed");
                    self.component.degraded("the event log cannot be read");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Opens a tail at the end of the log. Retries until it succeeds; the gateway serves until then.
    async fn open_tail(&self, log: &Log) -> Tail {
        let mut backoff = hub::backoff();
        let mut is_serving = false;
        loop {
            match log.tail(&TOPICS).await {
                Ok(tail) => return tail,
                Err(error) => {
                    tracing::warn!(%error, "the end of the log cannot be found, subscriptions wait");
                    if !is_serving {
                        self.load_revoked_sessions().await;
                        is_serving = true;
                    }
                    self.component.degraded("the end of the log cannot be found: subscriptions wait");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Loads the revoked sessions from auth. Retries until it succeeds.
    async fn load_revoked_sessions(&self) {
        let mut backoff = hub::backoff();
        loop {
            let call = self.service.call(CALL_TIMEOUT);
            let reply = self.service.peers.auth(&call).revoked(auth::RevokedRequest {}).await;
            let sessions = reply.map(|reply| {
                reply
                    .into_inner()
                    .session_ids
                    .iter()
                    .filter_map(|id| SessionId::parse(id).ok())
                    .collect::<Vec<_>>()
            });
            match sessions {
                Ok(sessions) => return self.revoked.revoke(sessions),
                Err(status) => {
                    tracing::warn!(error = %status, "revoked sessions cannot be requested");
                    self.component.not_ready("revoked sessions cannot be requested");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn apply_record(&self, record: &Record) {
        let applied = Kind::decode(&record.payload).ok_or(InvalidId).and_then(|kind| self.apply(&kind));
        if applied.is_err() {
            // Not a dead letter here: the service that applies the event durably has written one.
            tracing::warn!(
                topic = record.topic,
                offset = record.offset,
                "a record that cannot be decoded is skipped"
            );
        }
    }

    fn apply(&self, kind: &Kind) -> Result<(), InvalidId> {
        match kind {
            Kind::SessionRevoked(event) => self.revoked.revoke(SessionId::parse_all(&event.session_ids)?),
            Kind::UnreadChanged(event) => self.hubs.unread.apply(event)?,
            Kind::ReadMarked(event) => {
                let state = ReadState { user: UserId::parse(&event.user_id)?, read_seq: event.read_seq };
                self.hubs.read_states.apply(DialogId::parse(&event.dialog_id)?, state);
            }
            kind => {
                if let Some((dialog, event)) = Event::from_log(kind)? {
                    self.hubs.messages.apply(dialog, event);
                    self.hubs.dialogs.apply(dialog, event.version, event.change);
                    if let Change::Left(user) = event.change {
                        self.hubs.read_states.leave(dialog, user);
                    }
                }
            }
        }
        Ok(())
    }
}
