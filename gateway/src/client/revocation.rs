//! Revocation that does not depend on the event log: asks auth every second for the sessions that have ended.
//!
//! The log names the same sessions, normally within 100 ms. But a gateway cannot see that the log is late:
//! it may have read all records while auth's relay is paused, or cut off from Kafka. So auth is asked
//! always, and every gateway rejects the tokens of an ended session within two seconds, as long as auth
//! answers (docs/decisions/0017-revocation-without-the-log.md). While auth does not answer, the log alone
//! names ended sessions; without the log too, their tokens are accepted until they expire.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use proto::auth::RevokedSinceRequest;
use telemetry::readiness::Component;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{client::revoked_sessions::RevokedSessions, hub::Service};

/// Time from one answered question to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a question that is not answered is asked again, while the first one goes on. Of two auth
/// processes one may hang, and an auth that is slow must not be cut off: the first answer counts.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
/// Questions that run at the same time.
const QUESTIONS_MAX: usize = 4;
/// Deadline of a question, for each of its pages.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Age of the last answer at which this gateway is degraded.
const AGE_MAX: Duration = Duration::from_secs(2);

/// Start of a question, and the time of the next one if it was answered.
type Answered = (Instant, Result<i64, Status>);

/// Keeps the revoked sessions of a gateway complete.
#[derive(Clone)]
pub struct Revocation {
    /// Revoked sessions of the gateway.
    pub revoked: RevokedSessions,
    /// Services that the gateway calls on its own behalf.
    pub service: Service,
    /// Readiness of the answers.
    pub component: Component,
}

impl Revocation {
    /// Asks auth until the shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut since_us = 0;
        // Start of the latest question that was answered: what ended before it is known.
        let mut known_at = Instant::now();
        let mut next_at = known_at;
        let mut questions: FuturesUnordered<BoxFuture<'_, Answered>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = sleep_until(next_at), if questions.len() < QUESTIONS_MAX => {
                    let asked_at = Instant::now();
                    questions.push(self.ask(since_us).map(move |answer| (asked_at, answer)).boxed());
                    next_at = asked_at + REPEAT_AFTER;
                }
                Some((asked_at, answer)) = questions.next(), if !questions.is_empty() => match answer {
                    Ok(next_since_us) => {
                        questions.clear();
                        since_us = next_since_us;
                        known_at = asked_at;
                        next_at = asked_at + INTERVAL;
                        self.revoked.set_complete();
                    }
                    Err(status) => tracing::debug!(error = %status, "ended sessions cannot be requested"),
                },
            }
            self.report(known_at.elapsed());
        }
    }

    /// Revokes the sessions that ended since a time. Returns the time of the next question.
    async fn ask(&self, since_us: i64) -> Result<i64, Status> {
        let mut request = RevokedSinceRequest { since_us, after: None };
        let mut next_since_us = None;
        loop {
            let call = self.service.call(TIMEOUT);
            let reply = self.service.peers.auth(&call).revoked_since(request.clone()).await?.into_inner();
            self.revoked.revoke_named(&reply.sessions);
            // Of the first page: a session that ends while later pages are read belongs to the next question.
            let next = *next_since_us.get_or_insert(reply.next_since_us);
            let Some(position) = reply.more else { return Ok(next) };
            request.after = Some(position);
        }
    }

    fn report(&self, age: Duration) {
        metrics::gauge!("gateway_revocation_age_seconds").set(age.as_secs_f64());
        match (self.revoked.is_complete(), age > AGE_MAX) {
            (true, false) => self.component.ready(),
            (true, true) => {
                self.component.degraded("auth does not answer: ended sessions are known from the log only");
            }
            (false, true) => self.component.not_ready("auth has not named the ended sessions"),
            (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use access::ServiceToken;
    use proto::{SessionId, auth};
    use telemetry::Readiness;
    use tokio::time::sleep;

    use super::*;
    use crate::testing::{FakeServices, everywhere, fake_service};

    /// Revocation over fake services with this state.
    fn revocation(services: FakeServices) -> (Revocation, std::sync::Arc<parking_lot::Mutex<FakeServices>>) {
        let services = std::sync::Arc::new(parking_lot::Mutex::new(services));
        let answering = services.clone();
        let peer = fake_service(
            move |method: &str, bytes: &[u8]| answering.lock().answer(method, bytes),
            std::sync::Arc::default(),
        );
        let service = Service::new(everywhere(&peer), &ServiceToken::generate());
        let component = Readiness::new().register("revoked sessions");
        (Revocation { revoked: RevokedSessions::default(), service, component }, services)
    }

    #[tokio::test]
    async fn all_pages_are_read_and_the_next_question_starts_at_the_time_of_the_first() {
        let ended: Vec<SessionId> = (0..5).map(|_| SessionId::now()).collect();
        let services = FakeServices { revoked: ended.clone(), revoked_page: 2, ..FakeServices::default() };
        let (revocation, _) = revocation(services);
        let next_since_us = revocation.ask(0).await.expect("an answer");
        assert_eq!(next_since_us, 1, "the fake service numbers its answers");
        assert!(ended.iter().all(|session| revocation.revoked.rejects(*session, i64::MAX)));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_repeated_every_second_and_sooner_without_an_answer() {
        let (revocation, services) = revocation(FakeServices::default());
        let revoked = revocation.revoked.clone();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(revocation.run(shutdown.clone()));
        let started = Instant::now();
        let learned_after = async |session: SessionId| {
            let since = Instant::now();
            services.lock().revoked.push(session);
            while !revoked.rejects(session, i64::MAX) {
                sleep(Duration::from_millis(10)).await;
            }
            since.elapsed()
        };
        sleep(Duration::from_millis(10)).await;
        assert!(revoked.is_complete());
        assert!(learned_after(SessionId::now()).await <= INTERVAL);
        services.lock().unavailable.insert("RevokedSince");
        sleep(Duration::from_secs(10)).await;
        services.lock().unavailable.clear();
        assert!(learned_after(SessionId::now()).await <= INTERVAL + Duration::from_millis(20));
        assert!(started.elapsed() > Duration::from_secs(10));
        shutdown.cancel();
        running.await.expect("the task ends");
    }

    #[test]
    fn a_page_of_auth_is_below_the_limit_of_a_message() {
        let session = auth::EndedSession { session_id: vec![0xff; 16], expires_at_us: i64::MAX };
        let reply = auth::RevokedSinceReply { sessions: vec![session; 2_000], more: None, next_since_us: 1 };
        assert!(prost::Message::encoded_len(&reply) < 100_000);
    }
}
