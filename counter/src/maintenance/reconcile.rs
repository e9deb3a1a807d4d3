//! Reconciliation: compares the stored state with the dialog service while events are applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use proto::{DialogId, UserId};
use tokio::time::{Instant, sleep};

use super::{Maintenance, Progress, Report, known_dialogs, rebuild};
use crate::{
    Cache, Error,
    derived::{Comparison, Drift, Source, cache_drift, compare, events_drift},
    kernel::Dialog,
    store::{self, dialog_state},
    unread::ROWS_MAX,
};

/// Number of dialogs whose rows are read in one snapshot.
pub(super) const CHUNK: usize = 20;
/// Number of calls to the dialog service at a time.
const CALLS_MAX: usize = 4;
/// Time for which dialogs whose events have not been applied yet are waited for.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which they are looked at.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(500);
/// Number of users whose cache is compared at a time.
const USERS_MAX: i64 = 500;

/// Dialogs to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// All dialogs, and the cache of all users.
    All,
    /// Dialogs of a user that the counter knows, and the user's cache.
    User(UserId),
    /// One dialog.
    Dialog(DialogId),
}

/// Result of a reconciliation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What was compared.
    pub progress: Progress,
    /// Users whose cached rows were compared.
    pub cached_users: u64,
    /// Differences by kind.
    pub drift: BTreeMap<&'static str, u64>,
    /// Differences that were mended.
    pub repaired: u64,
    /// Rows whose last change was in flight at every look, so that they were not compared. Only a dialog
    /// that changes all the time has some.
    pub in_flight: u64,
}

impl Findings {
    /// Returns the number of differences of all kinds.
    pub fn drift_count(&self) -> u64 {
        self.drift.values().sum()
    }

    fn count(&mut self, drift: &Drift) {
        *self.drift.entry(drift.subject.kind()).or_default() += 1;
    }
}

/// Dialog whose events had not all been applied when it was compared.
struct Behind {
    dialog_id: DialogId,
    /// Version of the dialog service.
    head: i64,
}

/// Compares the selected dialogs.
pub(super) async fn run(
    maintenance: &Maintenance,
    selection: Selection,
    repair: bool,
    mut report: impl FnMut(Report<'_>),
) -> Result<Findings, Error> {
    let mut pass = Pass { maintenance, repair, findings: Findings::default(), behind: Vec::new() };
    let db = &maintenance.db;
    match selection {
        Selection::Dialog(dialog_id) => pass.dialogs(&[dialog_id], &mut report).await?,
        Selection::User(user_id) => {
            let dialogs = store::maintenance::dialogs_of(db, user_id).await?;
            pass.findings.progress.known_dialogs = dialogs.len() as u64;
            pass.dialogs(&dialogs, &mut report).await?;
        }
        Selection::All => {
            pass.findings.progress.known_dialogs = store::maintenance::dialog_count(db).await?;
            let mut after = None;
            loop {
                let page = known_dialogs::page(maintenance, after).await?;
                let dialogs: Vec<DialogId> = page.dialogs.into_iter().collect();
                pass.dialogs(&dialogs, &mut report).await?;
                let Some(next) = page.next else { break };
                after = Some(next);
            }
        }
    }
    pass.catch_up(&mut report).await?;
    if let Some(cache) = &maintenance.cache {
        let user = match selection {
            Selection::User(user_id) => Some(user_id),
            Selection::All => None,
            Selection::Dialog(_) => return Ok(pass.findings),
        };
        pass.cache(cache, user, &mut report).await?;
    }
    Ok(pass.findings)
}

/// Loads the stored state of dialogs in one snapshot, and then their sources, and compares them.
pub(super) async fn compare_chunk(
    maintenance: &Maintenance,
    dialogs: &[DialogId],
) -> Result<Vec<(DialogId, Source, Dialog, Comparison)>, Error> {
    let mut tx = maintenance.db.snapshot().await?;
    let mut stored = dialog_state::load(&mut tx, dialogs).await?;
    tx.rollback().await?;
    // After the snapshot: what the counter knew then, the dialog service has now.
    let mut calls: Vec<BoxFuture<'_, Result<Source, Error>>> = Vec::with_capacity(dialogs.len());
    for dialog_id in dialogs {
        calls.push(maintenance.source(*dialog_id).boxed());
    }
    let sources: Vec<Source> = stream::iter(calls).buffered(CALLS_MAX).try_collect().await?;
    let compared = dialogs.iter().zip(sources).map(|(id, source)| {
        let stored = stored.remove(id).unwrap_or_default();
        let comparison = compare(*id, &source, &stored);
        (*id, source, stored, comparison)
    });
    Ok(compared.collect())
}

/// One pass over dialogs.
struct Pass<'a> {
    maintenance: &'a Maintenance,
    repair: bool,
    findings: Findings,
    behind: Vec<Behind>,
}

impl Pass<'_> {
    async fn dialogs(
        &mut self,
        dialogs: &[DialogId],
        report: &mut impl FnMut(Report<'_>),
    ) -> Result<(), Error> {
        for chunk in dialogs.chunks(CHUNK) {
            for (dialog_id, source, stored, comparison) in compare_chunk(self.maintenance, chunk).await? {
                self.findings.progress.dialogs += 1;
                self.findings.progress.messages += source.messages.len() as u64;
                if comparison.in_flight > 0 || events_drift(dialog_id, source.head, &stored).is_some() {
                    self.behind.push(Behind { dialog_id, head: source.head });
                } else {
                    self.found(dialog_id, &comparison.drift, report).await?;
                }
            }
            report(Report::Progress(self.findings.progress));
        }
        Ok(())
    }

    async fn found(
        &mut self,
        dialog_id: DialogId,
        drift: &[Drift],
        report: &mut impl FnMut(Report<'_>),
    ) -> Result<(), Error> {
        for drift in drift {
            self.findings.count(drift);
            report(Report::Drift(drift));
        }
        if self.repair && !drift.is_empty() {
            rebuild::dialog(self.maintenance, dialog_id).await?;
            self.findings.repaired += drift.len() as u64;
        }
        Ok(())
    }

    /// Compares dialogs again whose events were in flight, once these have been applied. Events that are
    /// not applied in time count as a difference.
    async fn catch_up(&mut self, report: &mut impl FnMut(Report<'_>)) -> Result<(), Error> {
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        let mut behind = std::mem::take(&mut self.behind);
        while !behind.is_empty() {
            let is_late = Instant::now() >= deadline;
            let unapplied = if is_late { BTreeSet::new() } else { self.unapplied(&behind).await? };
            let (mut still, applied): (Vec<Behind>, Vec<Behind>) =
                behind.into_iter().partition(|each| unapplied.contains(&each.dialog_id));
            for chunk in applied.chunks(CHUNK) {
                still.extend(self.compare_again(chunk, is_late, report).await?);
            }
            behind = still;
            if !behind.is_empty() {
                sleep(CATCH_UP_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Returns those of the dialogs whose events have not been applied up to the version seen first.
    async fn unapplied(&self, behind: &[Behind]) -> Result<BTreeSet<DialogId>, Error> {
        let heads: Vec<(DialogId, i64)> = behind.iter().map(|each| (each.dialog_id, each.head)).collect();
        let unapplied = store::cut::behind(&self.maintenance.db, &heads).await?;
        Ok(unapplied.into_iter().map(|(dialog_id, _)| dialog_id).collect())
    }

    /// Compares dialogs again. Returns those that must be waited for, unless it is too late.
    async fn compare_again(
        &mut self,
        behind: &[Behind],
        is_late: bool,
        report: &mut impl FnMut(Report<'_>),
    ) -> Result<Vec<Behind>, Error> {
        let heads: BTreeMap<DialogId, i64> = behind.iter().map(|each| (each.dialog_id, each.head)).collect();
        let ids: Vec<DialogId> = heads.keys().copied().collect();
        let mut still = Vec::new();
        for (dialog_id, _, stored, comparison) in compare_chunk(self.maintenance, &ids).await? {
            // Up to the version that was seen first: a busy dialog is always a little behind.
            let head = heads[&dialog_id];
            match events_drift(dialog_id, head, &stored) {
                Some(_) if !is_late => still.push(Behind { dialog_id, head }),
                Some(drift) => {
                    let drift: Vec<Drift> = [drift].into_iter().chain(comparison.drift).collect();
                    self.found(dialog_id, &drift, report).await?;
                }
                None => {
                    self.findings.in_flight += comparison.in_flight as u64;
                    self.found(dialog_id, &comparison.drift, report).await?;
                }
            }
        }
        Ok(still)
    }

    /// Compares cached rows with the database at the same version, of one user or of all.
    async fn cache(
        &mut self,
        cache: &Cache,
        user: Option<UserId>,
        report: &mut impl FnMut(Report<'_>),
    ) -> Result<(), Error> {
        let mut after = uuid::Uuid::nil();
        loop {
            let users = match user {
                Some(user_id) => vec![user_id],
                None => store::maintenance::users_after(&self.maintenance.db, after, USERS_MAX).await?,
            };
            for user_id in &users {
                self.cached_user(cache, *user_id, report).await?;
            }
            match users.last() {
                Some(last) if user.is_none() && users.len() as i64 == USERS_MAX => after = last.uuid(),
                _ => return Ok(()),
            }
        }
    }

    async fn cached_user(
        &mut self,
        cache: &Cache,
        user_id: UserId,
        report: &mut impl FnMut(Report<'_>),
    ) -> Result<(), Error> {
        let Some(cached) = cache.get(user_id).await else { return Ok(()) };
        let mut tx = self.maintenance.db.snapshot().await?;
        let head = store::version(&mut tx, user_id).await?;
        let rows = store::unread(&mut tx, user_id, ROWS_MAX as i64 + 1).await?;
        tx.rollback().await?;
        // A cache at another version is only late.
        if cached.version != head.version || rows.len() > ROWS_MAX {
            return Ok(());
        }
        self.findings.cached_users += 1;
        let stored: BTreeMap<DialogId, i64> =
            rows.into_iter().map(|row| (row.dialog_id, row.unread)).collect();
        let cached: BTreeMap<DialogId, i64> =
            cached.rows.iter().filter(|row| row.unread > 0).map(|row| (row.dialog_id, row.unread)).collect();
        let dialogs: BTreeSet<DialogId> = stored.keys().chain(cached.keys()).copied().collect();
        let mut differs = 0;
        for dialog_id in dialogs {
            let count = |of: &BTreeMap<DialogId, i64>| of.get(&dialog_id).copied().unwrap_or(0);
            if count(&stored) != count(&cached) {
                differs += 1;
                let drift = cache_drift(dialog_id, user_id, count(&cached), count(&stored));
                self.findings.count(&drift);
                report(Report::Drift(&drift));
            }
        }
        if self.repair && differs > 0 {
            cache.forget(user_id).await;
            self.findings.repaired += differs;
        }
        Ok(())
    }
}
