//! Counting: the events of auth and dialog, in batches, from the log into the counters. Effects, replies and offset are one
//! transaction; what can never be applied goes to the dead letters and holds up nothing.

use std::collections::HashMap;

use db::Tx;
use events::{Apply, BoxError, Headers, Record};
use proto::{DialogId, events::DeadLetter};

use crate::{
    event,
    kernel::Input,
    publish::{self, Dead},
    store,
};

/// The consumer's name: its offsets are kept under it.
pub(crate) const CONSUMER: &str = "counter";

/// Applies events of auth and dialog.
#[derive(Debug)]
pub(crate) struct Count;

impl Apply for Count {
    #[tracing::instrument(name = "counter.count", skip_all, fields(records = records.len()))]
    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        let mut dead = Vec::new();
        let (mut inputs, mut origins) = (Vec::new(), Vec::new());
        for record in records {
            match event::read(&record.payload) {
                Ok(Some(input)) => {
                    inputs.push(input);
                    origins.push(record);
                }
                Ok(None) => {}
                Err(impossible) => dead.push(dead_letter(record, &impossible.to_string())),
            }
        }
        let done = store::transact(tx, &inputs).await?;
        for at in &done.effects.divergences {
            dead.push(dead_letter(origins[*at], "another message is known at this place of the dialog"));
        }
        for at in &done.refused {
            dead.push(dead_letter(origins[*at], "the database refuses it"));
        }
        let causes = causes(&inputs, &origins);
        let epoch = store::epoch(tx).await?;
        let cause = |dialog_id, seq| {
            causes.get(&(dialog_id, seq)).map(|headers| (*headers).clone()).unwrap_or_default()
        };
        publish::publish(tx, epoch, done.effects, dead, cause).await?;
        Ok(())
    }
}

/// The cause of each message, and of the newest change of each dialog.
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

fn dead_letter(record: &Record, error: &str) -> Dead {
    let letter = DeadLetter {
        topic: record.topic.to_owned(),
        partition: i32::try_from(record.partition).unwrap_or(-1),
        offset: record.offset,
        consumer: CONSUMER.to_owned(),
        error: error.to_owned(),
        key: record.key.clone(),
        payload: record.payload.to_vec(),
    };
    (letter, record.headers.clone())
}
