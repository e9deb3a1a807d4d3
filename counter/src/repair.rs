//! Repair of gaps: fetches the changes of dialogs with missing versions from the dialog service and
//! applies them. No lock is held during a call, and a gap is closed only when all changes up to the
//! dialog's head have been applied.

use std::time::Duration;

use access::ServiceToken;
use db::Db;
use events::Headers;
use proto::{DialogId, Peer, dead_letter::Origin, dialog::ChangesSinceReply, events::DeadLetter, topic};
use resilience::Backoff;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    cache::loader::Loader,
    count,
    derived::source::{CHANGES_MAX, changes_since, service_call},
    event, heal,
    kernel::{Change, Input, applied::Missing},
    publish, store,
};

/// Delay between two searches for gaps.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum delay while no gap can be closed.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Maximum number of dialogs found by one search.
const DIALOGS_MAX: i64 = 100;

/// Position before all dialogs.
const FIRST_PAGE: DialogId = DialogId::new(uuid::Uuid::nil());

/// Result of one search.
struct Round {
    closed: usize,
    failed: usize,
    /// The search found as many dialogs as it may.
    is_full: bool,
    /// Start of the next search.
    next: DialogId,
}

/// Background task that closes gaps.
#[derive(Debug)]
pub(crate) struct Repair {
    pub(crate) db: Db,
    pub(crate) loader: Loader,
    pub(crate) dialog: Peer,
    pub(crate) service_token: ServiceToken,
}

impl Repair {
    /// Searches for dialogs with gaps and closes them, until shut down.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut after = FIRST_PAGE;
        let mut delay = INTERVAL;
        // The delay before the first retry is already twice the interval.
        let mut backoff = Backoff::new(INTERVAL * 2, BACKOFF_MAX);
        while shutdown.run_until_cancelled(tokio::time::sleep(delay)).await.is_some() {
            let Some(round) = shutdown.run_until_cancelled(self.round(after)).await else { return };
            delay = if round.failed > 0 && round.closed == 0 {
                backoff.next_delay()
            } else {
                backoff.reset();
                // Many gaps at once, such as after a cut of the log, are closed without pauses.
                if round.is_full && round.failed == 0 { Duration::ZERO } else { INTERVAL }
            };
            after = round.next;
        }
    }

    /// Searches once, from the dialog after `after`, and closes what it finds.
    async fn round(&self, after: DialogId) -> Round {
        let mut round = Round { closed: 0, failed: 0, is_full: false, next: after };
        if let Err(error) = heal::heal(&self.db, &self.loader, &self.dialog, &self.service_token).await {
            round.failed += 1;
            tracing::error!(%error, "search for dialogs that missed events of the log failed");
        }
        let found = match store::incomplete(&self.db, after, DIALOGS_MAX).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "search for missing events failed");
                return round;
            }
        };
        metrics::gauge!("counter_incomplete_dialogs").set(found.len() as f64);
        for (dialog_id, missing) in &found {
            match self.close(*dialog_id, missing).await {
                Ok(()) => round.closed += 1,
                Err(error) => {
                    round.failed += 1;
                    tracing::error!(%dialog_id, %error, "repair of missing events failed");
                }
            }
        }
        // Continue after the last dialog of a full page, so that dialogs that keep failing do not hide the
        // others.
        round.is_full = found.len() as i64 == DIALOGS_MAX;
        let last = found.last().filter(|_| round.is_full);
        round.next = last.map_or(FIRST_PAGE, |(dialog_id, _)| *dialog_id);
        round
    }

    /// Fetches all changes since the first gap, up to the dialog's head, and applies them page by page.
    ///
    /// It reads to the head, not to the end of the gap: a row of the dialog service shows only its last
    /// change, so a missing version may have been replaced by one above the gap.
    #[tracing::instrument(name = "counter.repair", skip_all, fields(%dialog_id))]
    async fn close(&self, dialog_id: DialogId, missing: &Missing) -> Result<(), Error> {
        let Some(first) = missing.first() else { return Ok(()) };
        let mut since = first - 1;
        loop {
            let call = service_call(&self.service_token);
            let headers = Headers::from(&call);
            let reply = changes_since(&self.dialog, call, dialog_id, since).await?;
            if reply.head < first {
                return Err(Error::Behind { missing: first, head: reply.head });
            }
            let last = reply.changes.len() < CHANGES_MAX as usize;
            let newest = reply.changes.iter().map(|change| change.version).max().unwrap_or(since);
            let head = reply.head;
            self.db.detach(apply(self.db.clone(), dialog_id, reply, last, headers)).await?;
            if last {
                tracing::info!(from = first, head, "missing events repaired");
                return Ok(());
            }
            if newest <= since {
                return Err(event::InvalidEvent("a full page of changes must advance the version").into());
            }
            since = newest;
        }
    }
}

/// Applies one page under the locks. The last page also closes the gaps up to the head.
async fn apply(
    db: Db,
    dialog_id: DialogId,
    reply: ChangesSinceReply,
    last: bool,
    headers: Headers,
) -> Result<(), Error> {
    let mut inputs = Vec::new();
    for change in &reply.changes {
        inputs.extend(event::from_change(dialog_id, change)?);
    }
    if last {
        inputs.push(Input::Dialog { dialog_id, version: None, change: Change::Repaired(reply.head) });
    }
    let mut tx = db.begin().await?;
    let outcome = store::transact(&mut tx, &inputs).await?;
    let key = dialog_id.to_string();
    let dead_letters = outcome.dead_letters.iter().map(|index| {
        let origin = Origin { topic: topic::DIALOG, position: None, key: &key, payload: &[] };
        let error = format!("repair could not apply {:?}", inputs[*index]);
        (DeadLetter::new(count::CONSUMER, origin, error), headers.clone())
    });
    let dead_letters = dead_letters.collect();
    let epoch = store::epoch(&mut tx).await?;
    publish::append(&mut tx, epoch, outcome.effects, dead_letters, |_, _| headers.clone()).await?;
    tx.commit().await?;
    Ok(())
}
