//! Rebuild: makes the derived state of dialogs again from the dialog service, while events are applied.

use db::Db;
use events::Headers;
use proto::DialogId;

use super::{Maintenance, Progress, Report, known_dialogs};
use crate::{
    Error,
    derived::{Drift, Source},
    publish,
    store::{
        self,
        dialog_state::{Replacement, replace},
        maintenance as maintenance_store,
    },
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
    if let Some((last, progress)) = maintenance_store::load_progress(db).await? {
        rebuilt = Rebuilt { progress, drift: 0, continued: true };
        after = Some(last);
    }
    rebuilt.progress.known_dialogs = maintenance_store::dialog_count(db).await?;
    loop {
        let page = known_dialogs::page(maintenance, after).await?;
        for (number, dialog_id) in page.dialogs.iter().enumerate() {
            one(maintenance, *dialog_id, &mut rebuilt, &mut report).await?;
            if number % PROGRESS_INTERVAL == PROGRESS_INTERVAL - 1 {
                maintenance_store::save_progress(db, *dialog_id, &rebuilt.progress).await?;
                report(Report::Progress(rebuilt.progress));
            }
        }
        report(Report::Progress(rebuilt.progress));
        let Some(next) = page.next else { break };
        maintenance_store::save_progress(db, next, &rebuilt.progress).await?;
        after = Some(next);
    }
    maintenance_store::clear_progress(db).await?;
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
    if source.head == 0 && drift.is_empty() {
        // Neither service knows the dialog: not even its row that was locked is kept.
        tx.rollback().await?;
        return Ok((source, Replacement::Done { effects, drift }));
    }
    let epoch = store::epoch(&mut tx).await?;
    maintenance_store::note(&mut tx, &drift).await?;
    publish::append(&mut tx, epoch, effects.clone(), Vec::new(), |_, _| Headers::default()).await?;
    tx.commit().await?;
    Ok((source, Replacement::Done { effects, drift }))
}
