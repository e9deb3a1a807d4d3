//! `tidings saga`: the path of one message, from its storage to the clients, with times.

use std::process::ExitCode;

use anyhow::{Context, bail};
use dialog::StoredMessage as Message;
use events::{Record, outbox};
use proto::{
    events::{UnreadChanged, event::Kind},
    topic,
};

use super::{line::time, open, producer};
use crate::settings::{Saga, TopicName};

/// Clocks of several databases may differ by this: events are searched from so long before the message on.
const CLOCK_SKEW_US: i64 = 60_000_000;

/// Events of the message in the log.
#[derive(Default)]
struct Path {
    sent: Option<Record>,
    answered: Option<Record>,
    settled: Option<Record>,
    /// Number of users whose counts the message changed, with the times of the first and the last event.
    pushed: Option<(usize, i64, i64)>,
}

/// Runs `tidings saga`. Exit status 1 if the message is still PENDING.
///
/// # Errors
/// Fails if a setting is invalid, the log or a database does not answer, or there is no such saga.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub async fn run(settings: &Saga) -> anyhow::Result<ExitCode> {
    let dialog = producer(TopicName::Dialog, &settings.log, &settings.databases).await?;
    let counter = producer(TopicName::Counter, &settings.log, &settings.databases).await?;
    let Some(message) = dialog::stored_message(&dialog, settings.transaction).await? else {
        bail!("there is no message with the transaction id {}", settings.transaction);
    };
    let Message { id, dialog_id, seq, created_at_us, .. } = &message;
    println!("message {id} in dialog {dialog_id}, seq {seq}");
    let after = |at_us: i64| format!("{}  +{} ms", time(at_us), (at_us - created_at_us).max(0) / 1_000);
    println!("stored     {}", after(*created_at_us));
    let log = open(&settings.log).await?;
    let topics = [topic::DIALOG, topic::COUNTER, topic::UNREAD];
    let mut path = Path::default();
    let visit = |record| {
        path.add(&message, record);
        true
    };
    log.read(&topics, created_at_us - CLOCK_SKEW_US, visit).await.context("the event log")?;
    let position = |record: &Record| format!("{}/{}@{}", record.topic, record.partition, record.offset);
    match &path.sent {
        Some(record) => println!("published  {}", position(record)),
        None if outbox::holds(&dialog, settings.transaction.uuid()).await? => {
            println!("published  not yet: in the outbox")
        }
        None => println!("published  no longer in the log"),
    }
    match counter::ledger_entry(&counter, *dialog_id, *seq).await? {
        Some((known, state)) if known == *id => println!("counter    {state}"),
        Some((known, _)) => println!("counter    has the message {known} at this seq"),
        None => println!("counter    has no entry"),
    }
    match &path.answered {
        Some(record) => println!("answered   {}  {}", after(record.created_at_us), record.kind),
        None => println!("answered   no reply in the log"),
    }
    let reason = message.failure_reason.as_deref().map(|reason| format!(": {reason}"));
    let status = format!("{}{}", message.status.to_uppercase(), reason.unwrap_or_default());
    let deleted = if message.is_deleted { ", deleted since" } else { "" };
    match &path.settled {
        Some(record) => println!("settled    {}  {status}{deleted}", after(record.created_at_us)),
        None => println!("settled    {status}{deleted}"),
    }
    match path.pushed {
        Some((users, first, last)) => {
            println!("pushed     {} to {}  counts of {users} users", after(first), after(last));
        }
        None => println!("pushed     no counts in the log"),
    }
    Ok(if message.status == "pending" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Path {
    fn add(&mut self, message: &Message, record: Record) {
        let is_message = |id: &[u8]| *id == *message.id.bytes();
        match Kind::decode(&record.payload) {
            Some(Kind::MessageSent(event)) if is_message(&event.message_id) => self.sent = Some(record),
            Some(Kind::Counted(event)) if is_message(&event.message_id) => {
                self.answered.get_or_insert(record);
            }
            Some(Kind::CountRefused(event)) if is_message(&event.message_id) => {
                self.answered.get_or_insert(record);
            }
            Some(Kind::MessageCommitted(event)) if is_message(&event.message_id) => {
                self.settled.get_or_insert(record);
            }
            Some(Kind::MessageFailed(event)) if is_message(&event.message_id) => {
                self.settled.get_or_insert(record);
            }
            Some(Kind::UnreadChanged(event)) if counts(&event, message) => {
                let at_us = record.created_at_us;
                let (users, first, last) = self.pushed.unwrap_or((0, at_us, at_us));
                self.pushed = Some((users + 1, first.min(at_us), last.max(at_us)));
            }
            _ => {}
        }
    }
}

/// Returns true for the change with which the message, or it and later ones, began to count for a user.
fn counts(event: &UnreadChanged, message: &Message) -> bool {
    let grew = event.rows.iter().filter(|row| *row.dialog_id == *message.dialog_id.bytes());
    let mut grew = grew.filter(|row| row.unread > row.was);
    grew.any(|row| row.last_seq >= message.seq && row.last_seq - (row.unread - row.was) < message.seq)
}
