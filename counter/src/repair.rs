//! Repair: events of a dialog that never came are made good by what dialog says its rows look like now. Nothing is locked
//! while it is asked; everything it tells is applied before the hole is taken for closed.

use std::time::Duration;

use access::ServiceToken;
use db::Db;
use events::Headers;
use proto::{
    DialogId, Peer,
    dialog::{ChangesSinceReply, ChangesSinceRequest, dialogs_client::DialogsClient},
    events::DeadLetter,
    topic,
};
use telemetry::Call;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, count, event,
    kernel::{Change, Input, applied::Missing},
    publish, store,
};

/// How often dialogs with holes are looked for.
const EVERY: Duration = Duration::from_secs(1);
/// Where no hole could be closed, the next look comes later and later, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Dialogs of one look.
const DIALOGS: i64 = 100;
/// Changes of one call.
const CHANGES: i32 = 1_000;
/// How long dialog may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks dialog for what is missing.
#[derive(Debug)]
pub(crate) struct Repair {
    pub(crate) db: Db,
    pub(crate) dialog: Peer,
    pub(crate) service_token: ServiceToken,
}

impl Repair {
    /// Looks for holes and closes them, until shut down.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let below_all = DialogId::new(uuid::Uuid::nil());
        let (mut pause, mut after) = (EVERY, below_all);
        while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let found = match store::incomplete(&self.db, after, DIALOGS).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "dialogs with holes could not be looked up");
                    continue;
                }
            };
            metrics::gauge!("counter_incomplete_dialogs").set(found.len() as f64);
            let (mut closed, mut failed) = (0, 0);
            for (dialog_id, missing) in &found {
                match shutdown.run_until_cancelled(self.close(*dialog_id, missing)).await {
                    None => return,
                    Some(Ok(())) => closed += 1,
                    Some(Err(error)) => {
                        failed += 1;
                        tracing::error!(%dialog_id, %error, "a hole in a dialog's events could not be closed");
                    }
                }
            }
            pause = if failed > 0 && closed == 0 { (pause * 2).min(BACKOFF_MAX) } else { EVERY };
            let more = found.last().filter(|_| found.len() as i64 == DIALOGS);
            after = more.map_or(below_all, |(dialog_id, _)| *dialog_id);
        }
    }

    /// Asks for everything since the first hole, up to the dialog's head, and applies it page by page.
    #[tracing::instrument(name = "counter.repair", skip_all, fields(%dialog_id))]
    async fn close(&self, dialog_id: DialogId, missing: &Missing) -> Result<(), Error> {
        let Some(first) = missing.first() else { return Ok(()) };
        let mut since = first - 1;
        loop {
            let call = Call::new()
                .with_authorization(&self.service_token.header())
                .with_deadline(Instant::now() + TIMEOUT);
            let headers = Headers::from(&call);
            let request = ChangesSinceRequest { dialog_id: dialog_id.bytes(), since, limit: CHANGES };
            let mut client = DialogsClient::with_interceptor(self.dialog.clone(), call)
                .max_decoding_message_size(proto::ANSWER_MAX_BYTES)
                .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
            let reply = client.changes_since(request).await.map_err(Error::Dialog)?.into_inner();
            if reply.head < first {
                return Err(Error::Behind { missing: first, head: reply.head });
            }
            let last = reply.changes.len() < usize::try_from(CHANGES).expect("a small number");
            let newest = reply.changes.iter().map(|change| change.version).max().unwrap_or(since);
            let head = reply.head;
            self.db.detach(apply(self.db.clone(), dialog_id, reply, last, headers)).await?;
            if last {
                tracing::info!(from = first, head, "a hole in a dialog's events is closed");
                return Ok(());
            }
            if newest <= since {
                return Err(event::Impossible("changes that do not go on").into());
            }
            since = newest;
        }
    }
}

/// Applies a page under the locks; after the last one, everything up to the head is there.
async fn apply(
    db: Db,
    dialog_id: DialogId,
    reply: ChangesSinceReply,
    last: bool,
    headers: Headers,
) -> Result<(), Error> {
    let mut inputs = Vec::new();
    for change in &reply.changes {
        inputs.extend(event::repaired(dialog_id, change)?);
    }
    if last {
        inputs.push(Input::Dialog { dialog_id, version: None, change: Change::Repaired(reply.head) });
    }
    let mut tx = db.begin().await?;
    let done = store::transact(&mut tx, &inputs).await?;
    let dead = done.effects.divergences.iter().chain(&done.refused).map(|at| {
        let letter = DeadLetter {
            topic: topic::DIALOG.to_owned(),
            partition: -1,
            offset: -1,
            consumer: count::CONSUMER.to_owned(),
            error: format!("a repair could not apply {:?}", inputs[*at]),
            key: dialog_id.to_string(),
            payload: Vec::new(),
        };
        (letter, headers.clone())
    });
    let dead = dead.collect();
    let epoch = store::epoch(&mut tx).await?;
    publish::publish(&mut tx, epoch, done.effects, dead, |_, _| headers.clone()).await?;
    tx.commit().await?;
    Ok(())
}
