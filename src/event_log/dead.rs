//! Dead letters: lists them, and publishes their events again.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use db::Db;
use events::{Event, Headers, Local, Log, Record, outbox};
use proto::{
    events::{DeadLetter, event::Kind},
    topic,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{kafka, line::Line, producer};
use crate::{
    existing_database,
    settings::{Dead, EventLog, Redrive, TopicName},
};

/// Time for which events that were published again are watched for becoming dead letters again.
const WATCH: Duration = Duration::from_secs(5);
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Dead letter with its record.
struct Letter {
    record: Record,
    letter: DeadLetter,
}

impl Letter {
    /// Returns the place of the event in its order.
    fn origin(&self) -> (&str, i32, i64) {
        (&self.letter.topic, self.letter.partition, self.letter.offset)
    }
}

/// Runs `tidings events dead`.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub(super) async fn list(settings: &Dead) -> anyhow::Result<ExitCode> {
    let letters = load(&settings.log).await?;
    for letter in &letters {
        println!("{}", Line::of(&letter.record).show(settings.json));
    }
    if !settings.json {
        println!("dead letters: {}", letters.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `tidings events redrive`. Exit status 1 if an event cannot be published again, or has become a dead
/// letter again.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub(super) async fn redrive(settings: &Redrive) -> anyhow::Result<ExitCode> {
    let known = load(&settings.log).await?;
    let known_ids: BTreeSet<Uuid> = known.iter().map(|letter| letter.record.event_id).collect();
    for wanted in &settings.ids {
        ensure!(known_ids.contains(wanted), "there is no dead letter with the id {wanted}");
    }
    let is_selected = |letter: &Letter| settings.all || settings.ids.contains(&letter.record.event_id);
    let mut selected: Vec<Letter> = known.into_iter().filter(is_selected).collect();
    selected.sort_by(|a, b| a.origin().cmp(&b.origin()));
    let mut published = Vec::new();
    let mut refused = 0;
    for letter in selected {
        match event(&letter.letter) {
            Ok((topic, event)) => {
                append(producer(topic, &settings.log, &settings.databases).await?, event).await?;
                published.push(letter.letter);
            }
            Err(reason) => {
                refused += 1;
                println!("{} is not published again: {reason}", letter.record.event_id);
            }
        }
    }
    let failed = failed_again(&settings.log, &published, &known_ids).await?;
    for letter in &failed {
        println!("{}", Line::of(&letter.record).show(false));
    }
    println!("published again: {}, failed again: {}, refused: {refused}", published.len(), failed.len());
    let is_clean = refused == 0 && failed.is_empty();
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Loads all dead letters, oldest first.
async fn load(settings: &EventLog) -> anyhow::Result<Vec<Letter>> {
    let mut letters = Vec::new();
    for log in logs(settings).await? {
        let visit = |record: Record| {
            if let Some(Kind::DeadLetter(letter)) = Kind::decode(&record.payload) {
                letters.push(Letter { record, letter });
            }
            true
        };
        log.read(&[topic::DEAD], 0, visit).await.context("the dead letters")?;
    }
    letters.sort_by_key(|letter| letter.record.created_at_us);
    Ok(letters)
}

/// Returns the logs that hold dead letters: Kafka, or the outboxes of the consumers.
async fn logs(settings: &EventLog) -> anyhow::Result<Vec<Log>> {
    if let Some(kafka) = kafka(settings)? {
        return Ok(vec![kafka]);
    }
    let folder = &settings.data_dir;
    let databases = [existing_database::dialog(folder).await?, existing_database::counter(folder).await?];
    Ok(databases.map(|db| Log::Local(Local::new(vec![(topic::DEAD, db)]))).into())
}

/// Returns the event of a dead letter as it is published again, or why it is not.
fn event(letter: &DeadLetter) -> Result<(TopicName, Event), String> {
    let topic = TopicName::value_variants().iter().copied().find(|topic| topic.name() == letter.topic);
    let topic = topic.ok_or_else(|| format!("no service publishes on {}", letter.topic))?;
    if letter.payload.is_empty() {
        return Err(format!("it holds no event; `tidings rebuild --dialog {}` repairs a dialog", letter.key));
    }
    let kind = Kind::decode(&letter.payload).ok_or("this build cannot decode it either")?;
    let event = Event {
        event_id: Uuid::now_v7(),
        topic: topic.name(),
        key: letter.key.clone(),
        version: version(&kind),
        kind: kind.name(),
        payload: letter.payload.clone(),
        headers: Headers::default(),
    };
    Ok((topic, event))
}

/// Returns the version that the event has in its record.
fn version(kind: &Kind) -> i64 {
    match kind {
        Kind::DialogCreated(event) => event.version,
        Kind::DialogRenamed(event) => event.version,
        Kind::ParticipantJoined(event) => event.version,
        Kind::ParticipantLeft(event) => event.version,
        Kind::MessageSent(event) => event.version,
        Kind::MessageCommitted(event) => event.version,
        Kind::MessageFailed(event) => event.version,
        Kind::MessageDeleted(event) => event.version,
        Kind::UnreadChanged(event) => event.version,
        _ => 0,
    }
}

async fn append(db: Db, event: Event) -> Result<(), db::Error> {
    let mut tx = db.begin().await?;
    outbox::append(&mut tx, &[event]).await?;
    tx.commit().await
}

/// Waits for dead letters of these events that are not known. Returns early if each has one.
async fn failed_again(
    settings: &EventLog,
    published: &[DeadLetter],
    known: &BTreeSet<Uuid>,
) -> anyhow::Result<Vec<Letter>> {
    let deadline = Instant::now() + WATCH;
    let is_new = |letter: &Letter| {
        !known.contains(&letter.record.event_id)
            && published.iter().any(|event| event.payload == letter.letter.payload)
    };
    loop {
        let mut failed: Vec<Letter> = load(settings).await?;
        failed.retain(is_new);
        if failed.len() >= published.len() || Instant::now() >= deadline {
            return Ok(failed);
        }
        sleep(WATCH_INTERVAL).await;
    }
}
