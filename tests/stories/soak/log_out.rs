//! Log-outs: the token of an ended session is refused at once by the gateway that has answered, and by the
//! other one within two seconds.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::findings::{Findings, Rule};
use crate::{
    caller::{Caller, PASSWORD},
    endpoint::Endpoint,
};

/// Time within which every gateway refuses a revoked token.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// Time after which a token that is still accepted is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(15);
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CHANGE_PASSWORD: &str = "mutation($old: String!, $new: String!) {
    changePassword(old: $old, new: $new) { expiresAt } }";
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

const REGISTRATIONS_MAX: usize = 5;
const REGISTRATION_INTERVAL: Duration = Duration::from_secs(2);

/// Figures of all log-outs of a run.
#[derive(Debug, Default)]
pub struct LogOuts {
    number: usize,
    pub acknowledged: usize,
    /// Log-outs that were answered with an error.
    pub refused: usize,
    /// Longest time until the other gateway refused the token.
    pub slowest: Duration,
}

impl LogOuts {
    /// Registers a user at one gateway and ends the session there: with `logout`, or with `changePassword`
    /// for every third user.
    pub async fn log_out(&mut self, endpoint: &Endpoint, findings: &Findings) {
        self.number += 1;
        let answering =
            if self.number.is_multiple_of(2) { endpoint.clone() } else { endpoint.second_gateway() };
        let Some(caller) = self.register(&answering).await else {
            findings.add(Rule::Refused, format!("registration {} failed", self.number));
            return;
        };
        let other = caller.at(&answering.second_gateway());
        if !accepted(&other).await {
            findings.add(Rule::Refused, "a new token is refused at the other gateway");
        }
        let (document, variables) = if self.number.is_multiple_of(3) {
            (CHANGE_PASSWORD, json!({"old": PASSWORD, "new": "another correct horse"}))
        } else {
            ("mutation { logout }", json!({}))
        };
        let answer = timeout(ANSWER_MAX, caller.try_execute(document, variables)).await.ok().flatten();
        if !answer.is_some_and(|answer| answer["errors"].is_null()) {
            self.refused += 1;
            return;
        }
        self.acknowledged += 1;
        let ended = Instant::now();
        if accepted(&caller).await {
            findings.add(Rule::AcceptedAfterLogOut, format!("{document}: by the gateway that answered it"));
        }
        self.wait_until_refused(&other, ended, document, findings).await;
    }

    /// Registers a user. Repeats the call with another login while it is refused, as it may be by a busy
    /// machine: passwords are expensive.
    async fn register(&self, answering: &Endpoint) -> Option<Caller> {
        for attempt in 0..REGISTRATIONS_MAX {
            let login = format!("leaver{}.{attempt}", self.number);
            let answering = answering.clone();
            let registered = tokio::spawn(async move { Caller::register(&answering, &login).await });
            if let Ok(caller) = registered.await {
                return Some(caller);
            }
            tokio::time::sleep(REGISTRATION_INTERVAL).await;
        }
        None
    }

    /// A token is accepted too long if a query that was sent after the time is answered.
    async fn wait_until_refused(
        &mut self,
        other: &Caller,
        ended: Instant,
        document: &str,
        findings: &Findings,
    ) {
        let mut last_accepted = None;
        loop {
            let sent = ended.elapsed();
            if sent < GIVEN_UP_AFTER && accepted(other).await {
                last_accepted = Some(sent);
                tokio::time::sleep(PROBE_INTERVAL).await;
                continue;
            }
            self.slowest = self.slowest.max(sent);
            if let Some(sent) = last_accepted.filter(|sent| *sent > REFUSED_WITHIN) {
                let what = format!("{document}: a query sent {sent:.2?} later, at the other gateway");
                findings.add(Rule::AcceptedAfterLogOut, what);
            }
            return;
        }
    }
}

/// Returns true if the gateway answers a query with this token.
async fn accepted(caller: &Caller) -> bool {
    let answer = timeout(ANSWER_MAX, caller.try_execute("{ me { id } }", json!({}))).await;
    answer.ok().flatten().is_some_and(|answer| answer["data"]["me"]["id"] == caller.id.as_str())
}
