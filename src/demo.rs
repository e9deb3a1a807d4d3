//! `tidings demo`: people who chat in a few dialogs at a stated rate through the public API, so that there is
//! something to see, and a comparison of their live counts with the query at the end. It needs only the
//! public address, no database and no token of the services.

mod api;
mod badge;
mod chat;
mod person;
mod plan;
mod report;
mod socket;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    api::{Api, Error},
    chat::{Chat, Dialog},
    person::{Comparison, Person},
};
use crate::{process::StopSignals, settings::Demo};

/// Time for which the comparison waits until every message is counted and every frame has arrived.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Interval between two questions for messages that are not counted.
const PENDING_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between two lines about registrations, which the server may delay.
const REGISTRATION_INTERVAL: Duration = Duration::from_secs(5);

/// Runs `tidings demo`. Exit status 1 if a badge differs from the query.
///
/// # Errors
/// Fails if the server does not answer, is not Tidings or refuses to register people, and if a signal
/// arrives before or after the chat.
pub async fn run(settings: &Demo) -> anyhow::Result<ExitCode> {
    let mut signals = StopSignals::catch()?;
    let password = format!("demo-{}", random_hex(12));
    let prepared = tokio::select! {
        prepared = prepare(settings, &password) => prepared,
        () = signals.next() => bail!("interrupted before the chat began"),
    };
    let chat = Arc::new(prepared?);
    report::print_people(&chat, &password);
    let stop = CancellationToken::new();
    let mut followers = JoinSet::new();
    for index in 0..chat.people.len() {
        let chat = Arc::clone(&chat);
        let stop = stop.clone();
        followers.spawn(async move { chat.people[index].follow(&chat.api, stop).await });
    }
    tokio::select! {
        ready = try_join_all(chat.people.iter().map(|person| person.wait_for_frame(&chat.api))) => {
            drop(ready?);
        }
        () = signals.next() => bail!("interrupted before the chat began"),
    }
    let elapsed = chat.run(settings, &mut signals).await;
    let compared = tokio::select! {
        compared = compare(&chat) => compared.context("the counts are not compared"),
        () = signals.next() => bail!("interrupted before the counts were compared"),
    };
    let (comparisons, has_pending) = compared?;
    stop.cancel();
    followers.join_all().await;
    let is_exact = report::print_result(&chat, elapsed, &comparisons, has_pending);
    Ok(if is_exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Registers the people and creates their dialogs.
async fn prepare(settings: &Demo, password: &str) -> anyhow::Result<Chat> {
    let api = Api::new(settings.url.clone());
    if let Err(error) = api.execute_once(None, "{ __typename }", &json!({})).await {
        match error {
            Error::Silent { .. } => bail!("{error}; `tidings serve` starts a server, --url names another"),
            error => return Err(error.into()),
        }
    }
    let people = register(&api, settings.people as usize, password).await?;
    let mut dialogs = Vec::new();
    for draft in plan::dialogs(people.len(), settings.dialogs as usize) {
        let [author, others @ ..] = &draft.members[..] else { continue };
        let others: Vec<&Person> = others.iter().map(|person| &people[*person]).collect();
        let created = people[*author].create(&api, &others, draft.title.as_deref()).await;
        let id = created.context("cannot create a dialog")?;
        dialogs.push(Dialog { id, members: draft.members });
    }
    Ok(Chat { api, people, dialogs, first_error: Mutex::default(), left_out: 0.into() })
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
async fn register(api: &Api, count: usize, password: &str) -> anyhow::Result<Vec<Person>> {
    let suffix = random_hex(5);
    let mut people = Vec::new();
    let mut printed_at = Instant::now();
    while people.len() < count {
        let name = plan::name(people.len());
        let login = format!("{name}-{suffix}");
        let registered = Person::register(api, login, &name, password).await;
        people.push(registered.with_context(|| format!("cannot register {name}-{suffix}"))?);
        if printed_at.elapsed() >= REGISTRATION_INTERVAL {
            println!("registered {} of {count} people; RATE_LIMIT_SIGN_IN delays the others", people.len());
            printed_at = Instant::now();
        }
    }
    Ok(people)
}

/// Waits until the messages are counted, then compares all badges. Returns true with the comparisons if
/// messages are still PENDING.
async fn compare(chat: &Chat) -> Result<(Vec<Comparison>, bool), Error> {
    let deadline = Instant::now() + SETTLE_MAX;
    let has_pending = loop {
        let asked = join_all(chat.people.iter().map(|person| person.has_pending(&chat.api))).await;
        let has_pending = asked.into_iter().collect::<Result<Vec<bool>, Error>>()?.contains(&true);
        if !has_pending || Instant::now() >= deadline {
            break has_pending;
        }
        sleep(PENDING_INTERVAL).await;
    };
    let compared = try_join_all(chat.people.iter().map(|person| person.compare(&chat.api, deadline))).await?;
    Ok((compared, has_pending))
}

/// Returns this many random hexadecimal digits, at most 12: the digits of a UUID up to its version.
fn random_hex(digits: usize) -> String {
    Uuid::new_v4().simple().to_string()[..digits].to_owned()
}
