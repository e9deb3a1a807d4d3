//! Healing of a cut log: finds the dialogs that missed events, by comparing the versions of all dialogs
//! with the applied ones, and marks what each of them missed. The repair of gaps then fetches it. When
//! all are marked, the cut is closed: from then on only their counts are stale.

use std::collections::BTreeSet;

use access::ServiceToken;
use db::Db;
use proto::{
    DialogId, Peer,
    dialog::{DialogVersionsRequest, dialogs_client::DialogsClient},
};
use telemetry::Call;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Error, cache::loader::Loader, repair::CALL_TIMEOUT, store::cut};

/// Maximum number of dialogs in one call.
const DIALOGS_MAX: usize = 5_000;
/// Maximum number of dialogs marked in one transaction, because their writers wait for it.
const MARKED_MAX: usize = 200;

/// Marks the missing events of all dialogs, if the log was cut, and closes the cut.
///
/// # Errors
/// [`Error::Dialog`] and [`Error::Database`]. The next call starts again.
pub(crate) async fn heal(db: &Db, loader: &Loader, dialog: &Peer, token: &ServiceToken) -> Result<(), Error> {
    let cuts = cut::cuts(db).await?;
    metrics::gauge!("counter_log_cuts").set(cuts.len() as f64);
    if cuts.is_empty() {
        return Ok(());
    }
    let mut after = None;
    let mut marked = 0;
    loop {
        // After the cuts were loaded, so that every event that they lost is in the versions.
        let heads = versions(dialog, token, after).await?;
        let behind = cut::behind(db, &heads).await?;
        for dialogs in behind.chunks(MARKED_MAX) {
            if !db.detach(mark(db.clone(), cuts.clone(), dialogs.to_vec())).await? {
                return Ok(());
            }
        }
        marked += behind.len();
        match heads.last() {
            Some((last, _)) if heads.len() == DIALOGS_MAX => after = Some(*last),
            _ => break,
        }
    }
    if let Some(epoch) = db.detach(close(db.clone(), cuts)).await? {
        loader.raise_epoch(epoch);
        tracing::info!(epoch, dialogs = marked, "dialogs that missed events of the log are known");
    }
    Ok(())
}

async fn versions(
    dialog: &Peer,
    token: &ServiceToken,
    after: Option<DialogId>,
) -> Result<Vec<(DialogId, i64)>, Error> {
    let call = Call::new().with_authorization(&token.header()).with_deadline(Instant::now() + CALL_TIMEOUT);
    let limit = i32::try_from(DIALOGS_MAX).expect("5,000 fits into an i32");
    let request = DialogVersionsRequest { after_id: after.map(DialogId::bytes), limit };
    let mut client = DialogsClient::with_interceptor(dialog.clone(), call)
        .max_decoding_message_size(proto::RESPONSE_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    let reply = client.dialog_versions(request).await.map_err(Error::Dialog)?.into_inner();
    reply.dialogs.iter().map(|each| Ok((DialogId::parse(&each.dialog_id)?, each.version))).collect()
}

async fn mark(db: Db, cuts: BTreeSet<Uuid>, heads: Vec<(DialogId, i64)>) -> Result<bool, Error> {
    let mut tx = db.begin().await?;
    let is_open = cut::mark_missing(&mut tx, &cuts, &heads).await?;
    tx.commit().await?;
    Ok(is_open)
}

async fn close(db: Db, cuts: BTreeSet<Uuid>) -> Result<Option<i64>, Error> {
    let mut tx = db.begin().await?;
    let epoch = cut::close(&mut tx, &cuts).await?;
    tx.commit().await?;
    Ok(epoch)
}
