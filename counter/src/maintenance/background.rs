//! Background comparison: a slow reconciliation that never ends, for metrics and alarms. It repairs nothing.

use std::{collections::BTreeMap, time::Duration};

use proto::DialogId;
use tokio_util::sync::CancellationToken;

use super::{
    Maintenance, known_dialogs,
    reconcile::{CHUNK, compare_chunk},
};
use crate::{Error, derived::Drift, store};

/// Delay before each pass.
const PASS_DELAY: Duration = Duration::from_secs(60);
/// Intended length of a pass.
const PASS_LENGTH: Duration = Duration::from_secs(3_600);
/// Bounds of the delay between two chunks of dialogs.
const CHUNK_DELAY_MIN: Duration = Duration::from_millis(20);
const CHUNK_DELAY_MAX: Duration = Duration::from_secs(1);
/// Kinds of drift that it can find.
const KINDS: [&str; 3] = ["count", "message", "membership"];

/// Compares all dialogs again and again until shutdown.
pub(crate) async fn run(maintenance: Maintenance, shutdown: CancellationToken) {
    // The alert on a pass that does not end must fire although none has ever ended.
    record_time();
    while shutdown.run_until_cancelled(tokio::time::sleep(PASS_DELAY)).await.is_some() {
        match shutdown.run_until_cancelled(pass(&maintenance)).await {
            None => return,
            Some(Ok(drift)) => {
                for kind in KINDS {
                    let rows = drift.get(kind).copied().unwrap_or(0);
                    metrics::gauge!("counter_drift_rows", "kind" => kind).set(f64::from(rows));
                }
                record_time();
            }
            Some(Err(error)) => tracing::warn!(%error, "the background comparison was interrupted"),
        }
    }
}

fn record_time() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    metrics::gauge!("counter_drift_checked_timestamp_seconds").set(now.unwrap_or_default().as_secs_f64());
}

async fn pass(maintenance: &Maintenance) -> Result<BTreeMap<&'static str, u32>, Error> {
    let chunks = store::maintenance::dialog_count(&maintenance.db).await?.div_ceil(CHUNK as u64).max(1);
    let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
    let delay = (PASS_LENGTH / chunks).clamp(CHUNK_DELAY_MIN, CHUNK_DELAY_MAX);
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let page = known_dialogs::page(maintenance, after).await?;
        let dialogs: Vec<DialogId> = page.dialogs.into_iter().collect();
        for chunk in dialogs.chunks(CHUNK) {
            for (_, _, _, comparison) in compare_chunk(maintenance, chunk).await? {
                for drift in &comparison.drift {
                    log(drift);
                    *found.entry(drift.subject.kind()).or_default() += 1;
                }
            }
            tokio::time::sleep(delay).await;
        }
        let Some(next) = page.next else { return Ok(found) };
        after = Some(next);
    }
}

fn log(drift: &Drift) {
    let Drift { dialog_id, subject, stored, expected } = drift;
    tracing::error!(%dialog_id, ?subject, stored, expected, "drift: `tidings reconcile --repair` mends it");
}
