//! Commands for the event log: `tidings events follow`, `dead` and `redrive`, and `tidings saga`.

mod dead;
mod fields;
mod line;
pub mod saga;

use std::process::ExitCode;

use anyhow::Context;
use db::Db;
use events::{Kafka, Local, Log, Record};
use proto::topic;

use crate::{
    existing_database,
    process::StopSignals,
    settings::{EventLog, EventsCommand, Follow, LogDatabases, TopicName},
};
use line::Line;

/// All topics but that of the dead letters.
const TOPICS: [TopicName; 4] = [TopicName::Auth, TopicName::Dialog, TopicName::Counter, TopicName::Unread];

/// Runs `tidings events`.
///
/// # Errors
/// Fails if a setting is invalid, or the log or a database does not answer.
pub async fn run(command: &EventsCommand) -> anyhow::Result<ExitCode> {
    match command {
        EventsCommand::Follow(settings) => follow(settings).await,
        EventsCommand::Dead(settings) => dead::list(settings).await,
        EventsCommand::Redrive(settings) => dead::redrive(settings).await,
    }
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
async fn follow(settings: &Follow) -> anyhow::Result<ExitCode> {
    let topics: Vec<&'static str> = match settings.topics.as_slice() {
        [] => TOPICS.into_iter().map(TopicName::name).collect(),
        topics => topics.iter().map(|topic| topic.name()).collect(),
    };
    let mut tail = open(&settings.log).await?.tail(&topics).await.context("the event log")?;
    let mut signals = StopSignals::catch()?;
    let is_selected = |record: &&Record| settings.key.as_deref().is_none_or(|key| key == record.key);
    loop {
        let batch = tokio::select! {
            batch = tail.next() => batch.context("the event log")?,
            () = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        if batch.skipped {
            println!("# the log no longer had the next events; some may be missing here");
        }
        for record in batch.records.iter().filter(is_selected) {
            println!("{}", Line::of(record).show(settings.json));
        }
    }
}

/// Opens the log with all topics but that of the dead letters.
async fn open(settings: &EventLog) -> anyhow::Result<Log> {
    if let Some(kafka) = kafka(settings)? {
        return Ok(kafka);
    }
    let folder = &settings.data_dir;
    let [auth, dialog, counter] = [
        existing_database::auth(folder).await?,
        existing_database::dialog(folder).await?,
        existing_database::counter(folder).await?,
    ];
    Ok(Log::Local(Local::new(vec![
        (topic::AUTH, auth),
        (topic::DIALOG, dialog),
        (topic::COUNTER, counter.clone()),
        (topic::UNREAD, counter),
    ])))
}

fn kafka(settings: &EventLog) -> anyhow::Result<Option<Log>> {
    let Some(url) = &settings.kafka_url else { return Ok(None) };
    Ok(Some(Log::Kafka(Kafka::new(url, None).context("KAFKA_URL")?)))
}

/// Opens the database whose outbox holds a topic.
async fn producer(topic: TopicName, log: &EventLog, databases: &LogDatabases) -> anyhow::Result<Db> {
    let (setting, url, migrations) = match topic {
        TopicName::Auth => ("AUTH_DATABASE_URL", &databases.auth_database_url, &::auth::MIGRATIONS),
        TopicName::Dialog => ("DIALOG_DATABASE_URL", &databases.dialog_database_url, &::dialog::MIGRATIONS),
        TopicName::Counter | TopicName::Unread => {
            ("COUNTER_DATABASE_URL", &databases.counter_database_url, &::counter::MIGRATIONS)
        }
    };
    if log.kafka_url.is_some() {
        let url = url.as_ref().with_context(|| format!("{setting} is not set"))?;
        return existing_database::open(setting, url, migrations).await;
    }
    match topic {
        TopicName::Auth => existing_database::auth(&log.data_dir).await,
        TopicName::Dialog => existing_database::dialog(&log.data_dir).await,
        TopicName::Counter | TopicName::Unread => existing_database::counter(&log.data_dir).await,
    }
}
