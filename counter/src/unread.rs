//! Reading the counters: the unread of one person, of many dialogs, of many people at once, and who has read up to where.
//! An answer carries the version it belongs to and is never older than the one that is asked for.

use std::collections::{BTreeMap, BTreeSet};

use db::Db;
use proto::{DialogId, UserId};

use crate::{Error, fills::Fills, store};

/// Dialogs of one answer, at most.
pub const ROWS: usize = 1_000;

/// A version of a user's counters: versions of a later epoch are later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    /// Raised when the past is replaced.
    pub epoch: i64,
    /// Steps by one with every change.
    pub number: i64,
}

/// A person's numbers of one dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The dialog.
    pub dialog_id: DialogId,
    /// Messages by others that are not read.
    pub unread: i64,
    /// Read up to here.
    pub read_seq: i64,
    /// The newest message that the counters have seen.
    pub last_seq: i64,
}

/// A person's unread, whole or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// What it belongs to.
    pub version: Version,
    /// The exact sum, over all dialogs.
    pub total: i64,
    /// Dialogs with something unread, newest activity first.
    pub rows: Vec<Row>,
    /// More dialogs have something unread.
    pub truncated: bool,
}

/// A person's state as a stream needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose.
    pub user_id: UserId,
    /// The state; without rows where it is `current`.
    pub unread: Unread,
    /// The version that the asker has is the newest.
    pub current: bool,
}

/// A page of read pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatesPage {
    /// Where.
    pub dialog_id: DialogId,
    /// How many.
    pub first: i64,
    /// Above this user.
    pub after: Option<UserId>,
}

/// Who has read up to where, by user.
pub type ReadStates = Vec<(UserId, i64)>;

/// The `first` dialogs with something unread, newest activity first, and the exact total.
///
/// # Errors
/// [`Error::Future`] where `at_least` was never given to anyone; [`Error::Busy`]; else as the database has them.
#[tracing::instrument(name = "counter.unread.of", skip_all, fields(%user_id))]
pub async fn of(
    fills: &Fills,
    user_id: UserId,
    first: usize,
    at_least: Option<Version>,
) -> Result<Unread, Error> {
    let unread = fills.unread(user_id, at_least).await?;
    never_older(unread.version, at_least)?;
    Ok(cut(unread, first))
}

fn cut(mut unread: Unread, first: usize) -> Unread {
    unread.truncated = unread.rows.len() > first;
    unread.rows.truncate(first);
    unread
}

/// The database is the newest there is: a version above its own is of the future or of a past that was lost.
fn never_older(version: Version, at_least: Option<Version>) -> Result<(), Error> {
    if Some(version) < at_least { Err(Error::Future) } else { Ok(()) }
}

/// The caller's rows of these dialogs; those in which the caller does not take part are left out. In no order.
///
/// # Errors
/// As [`of`].
#[tracing::instrument(name = "counter.unread.rows", skip_all, fields(%user_id))]
pub async fn rows(
    db: &Db,
    user_id: UserId,
    dialogs: &[DialogId],
    at_least: Option<Version>,
) -> Result<(Version, Vec<Row>), Error> {
    let mut tx = db.snapshot().await?;
    let (version, _) = store::version(&mut tx, user_id).await?;
    let rows = store::rows_of(&mut tx, user_id, dialogs).await?;
    tx.rollback().await?;
    never_older(version, at_least)?;
    Ok((version, rows))
}

/// The states of many people in the order asked; without rows where `since` is the newest version.
///
/// # Errors
/// As the database has them.
#[tracing::instrument(name = "counter.unread.snapshots", skip_all, fields(users = of.len()))]
pub async fn snapshots(db: &Db, of: &[(UserId, Option<Version>)]) -> Result<Vec<Snapshot>, Error> {
    let users: Vec<UserId> = of.iter().map(|(user_id, _)| *user_id).collect();
    let mut tx = db.snapshot().await?;
    let versions = store::versions(&mut tx, &users).await?;
    let versions: BTreeMap<UserId, (Version, i64)> =
        versions.into_iter().map(|(user_id, version, total)| (user_id, (version, total))).collect();
    let behind: Vec<UserId> = of
        .iter()
        .filter(|(user_id, since)| *since != Some(versions[user_id].0))
        .map(|(user_id, _)| *user_id)
        .collect();
    let mut rows: BTreeMap<UserId, Vec<Row>> = BTreeMap::new();
    if !behind.is_empty() {
        for (user_id, row) in store::unread_of_many(&mut tx, &behind, ROWS as i64 + 1).await? {
            rows.entry(user_id).or_default().push(row);
        }
    }
    tx.rollback().await?;
    Ok(of
        .iter()
        .map(|(user_id, since)| {
            let (version, total) = versions[user_id];
            let current = *since == Some(version);
            let rows = if current { Vec::new() } else { rows.get(user_id).cloned().unwrap_or_default() };
            let unread = cut(Unread { version, total, rows, truncated: false }, ROWS);
            Snapshot { user_id: *user_id, unread, current }
        })
        .collect())
}

/// Pages of read pointers in the order asked; `None` for a dialog that the caller does not take part in.
///
/// # Errors
/// As the database has them.
#[tracing::instrument(name = "counter.read.states", skip_all, fields(%user_id, pages = pages.len()))]
pub async fn read_states(
    db: &Db,
    user_id: UserId,
    pages: &[StatesPage],
) -> Result<Vec<Option<ReadStates>>, Error> {
    let dialogs: Vec<DialogId> = pages.iter().map(|page| page.dialog_id).collect();
    let mut tx = db.snapshot().await?;
    let own: BTreeSet<DialogId> = store::memberships(&mut tx, user_id, &dialogs).await?.into_iter().collect();
    let open: Vec<(usize, &StatesPage)> =
        pages.iter().enumerate().filter(|(_, page)| own.contains(&page.dialog_id)).collect();
    let mut answers: Vec<Option<ReadStates>> =
        pages.iter().map(|page| own.contains(&page.dialog_id).then(Vec::new)).collect();
    if !open.is_empty() {
        for (place, user_id, read_seq) in store::read_states(&mut tx, &open).await? {
            if let Some(Some(states)) = answers.get_mut(place) {
                states.push((user_id, read_seq));
            }
        }
    }
    tx.rollback().await?;
    Ok(answers)
}
