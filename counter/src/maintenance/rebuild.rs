//! Rebuild: makes the derived state of dialogs again from the dialog service, while events are applied.

use db::{Db, query};
use events::Headers;
use proto::{DialogId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Maintenance, Progress, Report, known_dialogs};
use crate::{
    Error,
    derived::{Drift, Source, Subject},
    publish, store,
    store::dialog_state::{Replacement, replace},
};

/// Result of a rebuild.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Dialogs and messages that were made again.
    pub progress: Progress,
    /// Differences that were found and are mended.
    pub drift: u64,
    /// True if an interrupted rebuild was continued.
    pub continued: bool,
}

/// Rebuilds one dialog or all.
pub(super) async fn run(
    maintenance: &Maintenance,
    dialog_id: Option<DialogId>,
    mut report: impl FnMut(Report<'_>),
) -> Result<Rebuilt, Error> {
    let mut rebuilt = Rebuilt::default();
    if let Some(dialog_id) = dialog_id {
        one(maintenance, dialog_id, &mut rebuilt, &mut report).await?;
        report(Report::Progress(rebuilt.progress));
        return Ok(rebuilt);
    }
    let db = &maintenance.db;
    let mut after = None;
    if let Some((last, progress)) = load_progress(db).await? {
        rebuilt = Rebuilt { progress, drift: 0, continued: true };
        after = Some(last);
    }
    rebuilt.progress.known_dialogs = known_dialogs::count(db).await?;
    loop {
        let page = known_dialogs::page(maintenance, after).await?;
        for (number, (dialog_id, _)) in page.dialogs.iter().enumerate() {
            one(maintenance, *dialog_id, &mut rebuilt, &mut report).await?;
            if number % PROGRESS_INTERVAL == PROGRESS_INTERVAL - 1 {
                save_progress(db, *dialog_id, &rebuilt.progress).await?;
                report(Report::Progress(rebuilt.progress));
            }
        }
        report(Report::Progress(rebuilt.progress));
        let Some(next) = page.next else { break };
        save_progress(db, next, &rebuilt.progress).await?;
        after = Some(next);
    }
    clear_progress(db).await?;
    Ok(rebuilt)
}

/// Number of dialogs after which the position is stored and progress is reported.
const PROGRESS_INTERVAL: usize = 50;

async fn one(
    maintenance: &Maintenance,
    dialog_id: DialogId,
    rebuilt: &mut Rebuilt,
    report: &mut impl FnMut(Report<'_>),
) -> Result<(), Error> {
    let (source, drift) = dialog(maintenance, dialog_id).await?;
    rebuilt.progress.dialogs += 1;
    rebuilt.progress.messages += source.messages.len() as u64;
    rebuilt.drift += drift.len() as u64;
    for drift in &drift {
        report(Report::Drift(drift));
    }
    Ok(())
}

/// Makes the state of one dialog again. Returns its source and what differed.
pub(super) async fn dialog(
    maintenance: &Maintenance,
    dialog_id: DialogId,
) -> Result<(Source, Vec<Drift>), Error> {
    let Maintenance { db, cache, dialog, service_token } = maintenance;
    let mut source = maintenance.source(dialog_id).await?;
    let mut is_final = false;
    loop {
        let (read, outcome) = db.detach(attempt(db.clone(), dialog_id, source, is_final)).await?;
        source = read;
        match outcome {
            Replacement::Behind(version) => {
                source.read_on(dialog, service_token, dialog_id).await?;
                is_final = source.head < version;
            }
            Replacement::Done { effects, drift } => {
                // The writer of the cache follows the events; until then it must not show the old numbers.
                if let Some(cache) = cache {
                    for change in &effects.changes {
                        cache.forget(change.user_id).await;
                    }
                }
                return Ok((source, drift));
            }
        }
    }
}

async fn attempt(
    db: Db,
    dialog_id: DialogId,
    source: Source,
    is_final: bool,
) -> Result<(Source, Replacement), Error> {
    let mut tx = db.begin().await?;
    let outcome = replace(&mut tx, dialog_id, &source, is_final).await?;
    let Replacement::Done { effects, drift } = outcome else {
        tx.rollback().await?;
        return Ok((source, outcome));
    };
    let epoch = store::epoch(&mut tx).await?;
    note(&mut tx, &drift).await?;
    publish::append(&mut tx, epoch, effects.clone(), Vec::new(), |_, _| Headers::default()).await?;
    tx.commit().await?;
    Ok((source, Replacement::Done { effects, drift }))
}

/// Notes what differed, in the transaction that mends it.
async fn note(tx: &mut db::Tx, drift: &[Drift]) -> Result<(), Error> {
    if drift.is_empty() {
        return Ok(());
    }
    let rows = drift.iter().map(|drift| {
        let (user_id, seq) = match drift.subject {
            Subject::Count(user_id) | Subject::Membership(user_id) | Subject::Cache(user_id) => {
                (Some(user_id), None)
            }
            Subject::Message(seq) => (None, Some(seq)),
            Subject::Events => (None, None),
        };
        json!({
            "id": Uuid::now_v7(), "dialog_id": drift.dialog_id.uuid(), "kind": drift.subject.kind(),
            "user_id": user_id.map(UserId::uuid), "seq": seq, "stored": drift.stored,
            "expected": drift.expected,
        })
    });
    let insert = query(
        "insert into repaired_drift
             (id, dialog_id, kind, user_id, seq, stored, expected, repaired_at_us)
         select r.id, r.dialog_id, r.kind, r.user_id, r.seq, r.stored, r.expected, clock.now_us
         from rows($1: id uuid, dialog_id uuid, kind text, user_id uuid, seq bigint, stored text, \
                       expected text) as r cross join clock",
    );
    insert.bind(Value::Array(rows.collect())).execute(tx).await?;
    Ok(())
}

async fn load_progress(db: &Db) -> Result<Option<(DialogId, Progress)>, Error> {
    let row = query("select last_dialog_id, dialogs, messages from rebuild_progress").optional(db).await?;
    let Some(row) = row else { return Ok(None) };
    let number = |name| row.get::<i64>(name).map(|number| u64::try_from(number).unwrap_or_default());
    let progress = Progress { dialogs: number("dialogs")?, messages: number("messages")?, known_dialogs: 0 };
    Ok(Some((DialogId::new(row.get("last_dialog_id")?), progress)))
}

async fn save_progress(db: &Db, last: DialogId, progress: &Progress) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    let upsert = query(
        "insert into rebuild_progress (last_dialog_id, dialogs, messages) values ($1, $2, $3)
         on conflict (only_one) do update set last_dialog_id = excluded.last_dialog_id,
             dialogs = excluded.dialogs, messages = excluded.messages",
    );
    let upsert = upsert.bind(last.uuid()).bind(progress.dialogs as i64).bind(progress.messages as i64);
    upsert.execute(&mut tx).await?;
    Ok(tx.commit().await?)
}

async fn clear_progress(db: &Db) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    query("delete from rebuild_progress").execute(&mut tx).await?;
    Ok(tx.commit().await?)
}
