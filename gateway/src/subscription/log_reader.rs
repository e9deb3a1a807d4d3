//! The one consumer of the log in a gateway: it feeds the hubs, and tells which sessions are over. It begins at the log's
//! end, and the gateway is not ready before its place is taken and the sessions revoked until then are known. Where the place
//! is lost, what streams and sessions have missed is asked for.

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

/// What a gateway reads.
const TOPICS: [&str; 4] = [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD];
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom the log is read for.
#[derive(Clone)]
pub struct LogReader {
    /// Those who watch.
    pub hubs: Hubs,
    /// The sessions that are over.
    pub revoked: RevokedSessions,
    /// The services.
    pub service: Service,
    /// This reader's own say in the gateway's readiness.
    pub component: Component,
}

impl LogReader {
    /// Follows the log until shut down.
    pub async fn run(self, log: Log, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow(log)).await;
    }

    async fn follow(&self, log: Log) {
        let mut tail = self.begin(&log).await;
        self.hubs.set_following();
        self.learn_revoked().await;
        self.component.ready();
        let mut backoff = hub::backoff();
        loop {
            match tail.next().await {
                Ok(next) => {
                    backoff.reset();
                    if next.skipped {
                        self.hubs.resync();
                        self.learn_revoked().await;
                    }
                    self.component.ready();
                    next.records.iter().for_each(|record| self.read(record));
                }
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be read; live frames wait");
                    self.component.degraded("the log cannot be read");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Takes a place at the log's end.
    async fn begin(&self, log: &Log) -> Tail {
        let mut backoff = hub::backoff();
        loop {
            match log.tail(&TOPICS).await {
                Ok(tail) => return tail,
                Err(error) => {
                    tracing::warn!(%error, "the log's end cannot be found");
                    self.component.not_ready("the log's end cannot be found");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Asks auth for the sessions that were revoked before the place was taken.
    async fn learn_revoked(&self) {
        let mut backoff = hub::backoff();
        loop {
            let call = self.service.call(PATIENCE);
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
                    tracing::warn!(error = %status, "revoked sessions cannot be asked for");
                    self.component.not_ready("revoked sessions cannot be asked for");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn read(&self, record: &Record) {
        let told = Kind::decode(&record.payload).ok_or(InvalidId).and_then(|kind| self.tell(&kind));
        if told.is_err() {
            // Whoever applies it durably has put it among the dead letters; there is nothing to show.
            tracing::warn!(
                topic = record.topic,
                offset = record.offset,
                "a record that cannot be read is passed over"
            );
        }
    }

    fn tell(&self, kind: &Kind) -> Result<(), InvalidId> {
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
                    if let Change::Left(user) = event.change {
                        self.hubs.read_states.leave(dialog, user);
                    }
                }
            }
        }
        Ok(())
    }
}
