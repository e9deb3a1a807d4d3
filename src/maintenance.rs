//! Maintenance commands: `tidings reconcile`, `rebuild` and `explain`. They work beside a running system,
//! and migrate nothing.

use std::{process::ExitCode, time::Duration};

use access::ServiceToken;
use anyhow::{Context, bail};
use counter::{Drift, Findings, Maintenance, Report, Selection, Subject};
use db::Db;
use proto::Peer;

use crate::{
    discovery, engine, existing_database,
    progress::ProgressLine,
    settings::{Explain, Rebuild, Reconcile, System},
    wiring,
};

/// Issuer of the tokens of users, none of which reaches a command.
const NO_ISSUER: &str = "tidings";
/// Maximum number of differences that are printed.
const PRINTED_MAX: u64 = 100;

/// Runs `tidings reconcile`. Exit status 1 if something differs.
///
/// # Errors
/// Fails if a setting is invalid, a database has not the migrations of this build, or a service does not
/// answer.
pub async fn reconcile(settings: &Reconcile) -> anyhow::Result<ExitCode> {
    let maintenance = open(&settings.system).await?;
    let selection = match (settings.user, settings.dialog) {
        (Some(user_id), _) => Selection::User(user_id),
        (None, Some(dialog_id)) => Selection::Dialog(dialog_id),
        (None, None) => Selection::All,
    };
    let mut output = Output::new("compared");
    let findings = maintenance.reconcile(selection, settings.repair, |report| output.show(&report)).await;
    let findings = findings.context("reconcile")?;
    output.finish();
    print_findings(&findings, settings.repair);
    let is_clean = findings.drift_count() == 0;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `tidings rebuild`.
///
/// # Errors
/// As [`reconcile`].
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub async fn rebuild(settings: &Rebuild) -> anyhow::Result<ExitCode> {
    let maintenance = open(&settings.system).await?;
    let dialog =
        if settings.forget_positions { Some(dialog_database(&settings.system).await?) } else { None };
    let mut output = Output::new("rebuilt");
    let rebuilt = maintenance.rebuild(settings.dialog, |report| output.show(&report)).await;
    let rebuilt = rebuilt.context("rebuild")?;
    output.finish();
    let continued = if rebuilt.continued { ", the rest of an interrupted run" } else { "" };
    println!("differences mended: {}{continued}", rebuilt.drift);
    if let Some(dialog) = dialog {
        let mut tx = dialog.begin().await.context("rebuild")?;
        events::forget_positions(&mut tx).await.context("rebuild")?;
        tx.commit().await.context("rebuild")?;
        maintenance.forget_positions().await.context("rebuild")?;
        println!("the consumers of dialog and counter start at the beginning of the log");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `tidings explain`.
///
/// # Errors
/// As [`reconcile`]; fails if the counter does not know the user in this dialog.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub async fn explain(settings: &Explain) -> anyhow::Result<ExitCode> {
    let maintenance = open(&settings.system).await?;
    let user = settings.user;
    let dialog = settings.dialog;
    let Some(explanation) = maintenance.explain(user, dialog).await.context("explain")? else {
        bail!("the counter does not know the user {user} in the dialog {dialog}");
    };
    println!("unread: {}", explanation.unread);
    println!("membership: {:?}; read up to seq {}", explanation.membership, explanation.read_seq);
    let stale = if explanation.stale { "; events are missing, so the count may be wrong" } else { "" };
    println!("events applied up to version {}{stale}", explanation.applied);
    for message in &explanation.messages {
        println!("seq {}  message {}  by {}", message.seq, message.message_id, message.author_id);
    }
    let counted = explanation.messages.len() as i64;
    if counted == explanation.unread {
        return Ok(ExitCode::SUCCESS);
    }
    println!("the count is {} and {counted} messages are unread: `tidings reconcile`", explanation.unread);
    Ok(ExitCode::FAILURE)
}

/// Opens the databases, and connects to the dialog service or creates one in this process.
async fn open(settings: &System) -> anyhow::Result<Maintenance> {
    let cache = match &settings.cache.redis_url {
        Some(_) => Some(engine::cache(&settings.cache)?),
        None => None,
    };
    let counter = match &settings.counter_database_url {
        Some(url) => existing_database::open("COUNTER_DATABASE_URL", url, &counter::MIGRATIONS).await?,
        None => existing_database::counter(&settings.data_dir).await?,
    };
    let (dialog, token) = dialog(settings).await?;
    Ok(Maintenance::new(counter, cache, dialog, token))
}

/// Returns the dialog service, and the token that it accepts.
async fn dialog(settings: &System) -> anyhow::Result<(Peer, ServiceToken)> {
    if let Some(urls) = &settings.dialog_url {
        let path = settings.service_token_file.as_deref();
        let path = path.context("SERVICE_TOKEN_FILE is not set, which calls to DIALOG_URL require")?;
        let token = ServiceToken::load(path);
        let token = token.with_context(|| format!("SERVICE_TOKEN_FILE {}", path.display()))?;
        let (peer, discovery) = discovery::connect("DIALOG_URL", urls)?;
        tokio::spawn(discovery.run(tokio_util::sync::CancellationToken::new()));
        return Ok((peer, token));
    }
    let db = dialog_database(settings).await?;
    // Only this process can call this service, and it has no users.
    let token = ServiceToken::generate();
    let (no_auth, _) = discovery::connect("AUTH_URL", "http://127.0.0.1:1")?;
    let guard = wiring::guard(&no_auth, &token, NO_ISSUER);
    let settings = dialog::Settings { saga_deadline: Duration::MAX };
    let app = dialog::App::new(db, guard, no_auth, settings);
    Ok((proto::local(app.server()), token))
}

async fn dialog_database(settings: &System) -> anyhow::Result<Db> {
    match (&settings.dialog_database_url, &settings.counter_database_url) {
        (Some(url), _) => existing_database::open("DIALOG_DATABASE_URL", url, &dialog::MIGRATIONS).await,
        (None, Some(_)) => bail!("neither DIALOG_URL nor DIALOG_DATABASE_URL is set"),
        (None, None) => existing_database::dialog(&settings.data_dir).await,
    }
}

/// Output of a command: progress, and the first differences.
struct Output {
    line: ProgressLine,
    drift: u64,
}

impl Output {
    fn new(verb: &'static str) -> Self {
        Self { line: ProgressLine::new(verb), drift: 0 }
    }

    #[expect(clippy::print_stdout, reason = "the output of the command")]
    fn show(&mut self, report: &Report<'_>) {
        match report {
            Report::Progress(progress) => self.line.show(*progress),
            Report::Drift(drift) => {
                self.drift += 1;
                if self.drift <= PRINTED_MAX {
                    self.line.clear();
                    println!("{}", describe(drift));
                }
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "the output of the command")]
    fn finish(&mut self) {
        self.line.finish();
        if self.drift > PRINTED_MAX {
            println!("{} more differences are not printed", self.drift - PRINTED_MAX);
        }
    }
}

fn describe(drift: &Drift) -> String {
    let Drift { dialog_id, subject, stored, expected } = drift;
    let subject = match subject {
        Subject::Count(user_id) => format!("count of user {user_id}"),
        Subject::Message(seq) => format!("message with seq {seq}"),
        Subject::Membership(user_id) => format!("membership of user {user_id}"),
        Subject::Events => "applied events".to_owned(),
        Subject::Cache(user_id) => format!("cached count of user {user_id}"),
    };
    format!("dialog {dialog_id}: {subject} is {stored}, expected {expected}")
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
fn print_findings(findings: &Findings, repair: bool) {
    if findings.cached_users > 0 {
        println!("cached rows of {} users compared", findings.cached_users);
    }
    if findings.in_flight > 0 {
        println!("{} rows changed all the time and were not compared", findings.in_flight);
    }
    for kind in ["count", "message", "membership", "events", "cache"] {
        println!("drift of kind {kind}: {}", findings.drift.get(kind).copied().unwrap_or(0));
    }
    let repaired = if repair { format!(", {} repaired", findings.repaired) } else { String::new() };
    println!("drift: {}{repaired}", findings.drift_count());
}
