//! Consumer of the event log: applies events to the hubs and revokes sessions. A gateway has one.
//!
//! It starts at the end of the log. While the log cannot be read the gateway is degraded: it answers
//! operations, and subscriptions wait for the end of the log. When the log has discarded events before they
//! were read, the hubs load the state of their subscribers. Revoked sessions need no such care: auth is asked
//! for them too ([`crate::client::revocation`]).

use events::{Log, Record, Tail};
use proto::{DialogId, InvalidId, SessionId, UserId, events::event::Kind, topic};
use telemetry::{Traceparent, readiness::Component, trace::Span};
use tokio_util::sync::CancellationToken;

use crate::{
    client::revoked_sessions::{EndedSession, RevokedSessions},
    hub::{
        self, Hubs,
        messages::frame::{Change, Event},
        read_states::ReadState,
    },
};

/// Topics that a gateway consumes.
const TOPICS: [&str; 4] = [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD];

/// Reads the event log for the hubs and the revoked sessions of a gateway.
#[derive(Clone)]
pub struct LogReader {
    /// Hubs that receive the events.
    pub hubs: Hubs,
    /// Revoked sessions of the gateway.
    pub revoked: RevokedSessions,
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
        self.component.ready();
        let mut backoff = hub::backoff();
        loop {
            match tail.next().await {
                Ok(next) => {
                    backoff.reset();
                    if next.skipped {
                        self.hubs.resync();
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
        loop {
            match log.tail(&TOPICS).await {
                Ok(tail) => return tail,
                Err(error) => {
                    tracing::warn!(%error, "the end of the log cannot be found, subscriptions wait");
                    self.component.degraded("the end of the log cannot be found: subscriptions wait");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn apply_record(&self, record: &Record) {
        let span = record.headers.sampled().map(|parent| events::process("gateway", record, parent));
        let cause = span.as_ref().map(Span::traceparent);
        let applied =
            Kind::decode(&record.payload).ok_or(InvalidId).and_then(|kind| self.apply(&kind, cause));
        if applied.is_ok() {
            record.log_applied("gateway");
        } else {
            // Not a dead letter here: the service that applies the event durably has written one.
            tracing::warn!(
                topic = record.topic,
                offset = record.offset,
                "a record that cannot be decoded is skipped"
            );
        }
    }

    fn apply(&self, kind: &Kind, cause: Option<Traceparent>) -> Result<(), InvalidId> {
        match kind {
            Kind::SessionRevoked(event) => {
                let expires_at_us = event.expires_at_us;
                let sessions = SessionId::parse_all(&event.session_ids)?.into_iter();
                self.revoked.revoke(sessions.map(|session| EndedSession { session, expires_at_us }));
            }
            Kind::UnreadChanged(event) => self.hubs.unread.apply(event, cause)?,
            Kind::UnreadEpochRaised(event) => {
                self.hubs.unread.raise_epoch(event.epoch);
                self.hubs.read_states.resync();
            }
            Kind::DialogEpochRaised(event) => {
                self.hubs.messages.raise_epoch(event.epoch);
                self.hubs.dialogs.forget_versions();
            }
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
