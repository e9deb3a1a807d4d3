//! Settling: what became of messages that wait too long for their saga's reply. What was never seen is applied now, under
//! the same locks as an event of the log, without moving the dialog's version.

use std::collections::HashMap;

use db::Db;
use events::Headers;
use proto::{
    MessageId,
    events::{DeadLetter, MessageSent, event::Kind},
    topic,
};

use crate::{Error, count, event, publish, store};

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is counted, or was deleted: it stands.
    Counted,
    /// It was refused, for this reason.
    Refused(String),
    /// Another message has its place, or it is out of bounds: nobody can say. Operators are told.
    Unknown,
}

/// Tells what became of the messages, in the order asked. One that is out of bounds goes to the dead letters and holds up
/// no other.
///
/// # Errors
/// As the database has them; to be repeated without harm.
#[tracing::instrument(name = "counter.settle", skip_all, fields(messages = messages.len()))]
pub async fn settle(db: &Db, messages: Vec<MessageSent>, headers: Headers) -> Result<Vec<Outcome>, Error> {
    db.detach(write(db.clone(), messages, headers)).await
}

async fn write(db: Db, messages: Vec<MessageSent>, headers: Headers) -> Result<Vec<Outcome>, Error> {
    let (mut inputs, mut origins, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    for message in &messages {
        match event::settled(message) {
            Ok(input) => {
                inputs.push(input);
                origins.push(message);
            }
            Err(impossible) => dead.push((dead_letter(message, &impossible.to_string()), headers.clone())),
        }
    }
    let mut tx = db.begin().await?;
    let mut done = store::transact(&mut tx, &inputs).await?;
    // The reply is the answer of this call.
    let answers = std::mem::take(&mut done.effects.answers).into_iter();
    let answers: HashMap<MessageId, Option<String>> =
        answers.map(|answer| (answer.message_id, answer.refused)).collect();
    let divergent = done.effects.divergences.iter().map(|at| {
        (dead_letter(origins[*at], "another message is known at this place of the dialog"), headers.clone())
    });
    dead.extend(divergent);
    let epoch = store::epoch(&mut tx).await?;
    publish::publish(&mut tx, epoch, done.effects, dead, |_, _| headers.clone()).await?;
    tx.commit().await?;
    let outcome = |message: &MessageSent| match MessageId::parse(&message.message_id)
        .ok()
        .and_then(|id| answers.get(&id))
    {
        Some(None) => Outcome::Counted,
        Some(Some(reason)) => Outcome::Refused(reason.clone()),
        None => Outcome::Unknown,
    };
    Ok(messages.iter().map(outcome).collect())
}

/// A message that came by a call has no place in the log.
fn dead_letter(message: &MessageSent, why: &str) -> DeadLetter {
    DeadLetter {
        topic: topic::DIALOG.to_owned(),
        partition: -1,
        offset: -1,
        consumer: count::CONSUMER.to_owned(),
        error: format!("settled: {why}"),
        key: uuid::Uuid::from_slice(&message.dialog_id).map(|id| id.to_string()).unwrap_or_default(),
        payload: Kind::MessageSent(message.clone()).payload(),
    }
}
