//! Consumer of the events of auth and dialog: applies each batch, and writes effects, saga replies and
//! offsets in one transaction. An event that can never be applied becomes a dead letter and does not
//! stop the others.

use std::{collections::HashMap, time::Duration};

use db::Tx;
use events::{Apply, BoxError, Headers, Loss, LossKind, Record};
use proto::{DialogId, dead_letter::Origin, events::DeadLetter};

use crate::{
    cache::loader::Loader,
    event,
    kernel::{Input, ledger::Divergence},
    publish::{self, DeadLetterWithHeaders},
    store,
};

/// Name of the consumer, under which its offsets are stored.
pub(crate) const CONSUMER: &str = "counter";

/// Time that an event which changes no count waits for others.
const MAX_DELAY: Duration = Duration::from_millis(250);

/// Handler of the consumer.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) loader: Loader,
}

impl Apply for Handler {
    /// Events that change no count may wait.
    fn max_delay(&self, record: &Record) -> Duration {
        let changes_a_count = !matches!(
            record.kind.as_str(),
            "MessageCommitted" | "DialogRenamed" | "UserLoggedIn" | "UserRenamed" | "SessionRevoked"
        );
        if changes_a_count { Duration::ZERO } else { MAX_DELAY }
    }

    #[tracing::instrument(name = "counter.count", skip_all, fields(records = records.len()))]
    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        let mut dead_letters = Vec::new();
        let mut inputs = Vec::new();
        // The record of each input, by the same index.
        let mut origins = Vec::new();
        for record in records {
            match event::decode(&record.payload) {
                Ok(decoded) => {
                    origins.extend(std::iter::repeat_n(record, decoded.len()));
                    inputs.extend(decoded);
                }
                Err(invalid) => dead_letters.push(dead_letter(record, invalid.to_string())),
            }
        }
        let outcome = store::transact(tx, &inputs).await?;
        for index in &outcome.dead_letters {
            dead_letters.push(dead_letter(origins[*index], Divergence.to_string()));
        }
        let causes = causes(&inputs, &origins);
        let epoch = store::epoch(tx).await?;
        let headers_of = |dialog_id, seq| {
            causes.get(&(dialog_id, seq)).map(|headers| (*headers).clone()).unwrap_or_default()
        };
        publish::append(tx, epoch, outcome.effects, dead_letters, headers_of).await?;
        Ok(())
    }

    /// Raises the epoch: after a restore the log is read again from the restored offset, and the versions
    /// given out since then are void. Events that the log lost are found by the repair; until then all
    /// counts are stale ([`store::cut`]).
    async fn recover(&self, tx: &mut Tx, losses: &[Loss]) -> Result<bool, BoxError> {
        if losses.iter().any(|loss| loss.kind == LossKind::Replaced) {
            // Dialog numbers new messages like those that were counted.
            return Ok(false);
        }
        self.loader.raise_epoch(store::cut::raise_epoch(tx).await?);
        for loss in losses.iter().filter(|loss| loss.kind == LossKind::Cut) {
            store::cut::open(tx, (loss.topic, loss.partition), (loss.from, loss.to)).await?;
        }
        Ok(true)
    }
}

/// Returns the headers of each message's record by dialog and `seq`, and of the last record of each
/// dialog without `seq`.
fn causes<'a>(inputs: &[Input], origins: &[&'a Record]) -> HashMap<(DialogId, Option<i64>), &'a Headers> {
    let mut causes = HashMap::new();
    for (input, record) in inputs.iter().zip(origins) {
        if let Input::Dialog { dialog_id, change, .. } = input {
            causes.insert((*dialog_id, None), &record.headers);
            if let Some(message) = change.message() {
                causes.insert((*dialog_id, Some(message.seq)), &record.headers);
            }
        }
    }
    causes
}

fn dead_letter(record: &Record, error: impl Into<String>) -> DeadLetterWithHeaders {
    let origin = Origin {
        topic: record.topic,
        position: Some((record.partition, record.offset)),
        key: &record.key,
        payload: &record.payload,
    };
    (DeadLetter::new(CONSUMER, origin, error), record.headers.clone())
}
