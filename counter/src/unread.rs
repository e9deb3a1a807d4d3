//! Queries: unread counts of one user, rows of given dialogs, snapshots of many users, and read pointers
//! of members. Every answer carries the version that it belongs to, and is never older than the version
//! that the client asks for.

use std::collections::{BTreeMap, BTreeSet};

use db::Db;
use proto::{DialogId, MessageId, UserId};

use crate::{Error, cache::loader::Loader, store};

/// Maximum number of dialogs in an answer.
pub(crate) const ROWS_MAX: usize = 1_000;

/// Version of a user's counts. Versions are ordered by epoch, then by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Version {
    /// Raised when the past is replaced, for example by a restore.
    pub epoch: i64,
    /// Incremented by every transaction that changes the user's counts.
    pub number: i64,
}

/// A user's counts in one dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// The dialog.
    pub dialog_id: DialogId,
    /// Number of unread messages.
    pub unread: i64,
    /// Read pointer, inclusive.
    pub read_seq: i64,
    /// Newest message that the counter has seen; it may be ahead of `version` in an answer.
    pub last_seq: i64,
    /// True if events of the dialog are missing, so that the numbers may be wrong.
    pub stale: bool,
}

/// Version and total of a user's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: Version,
    /// Sum over all dialogs.
    pub(crate) total: i64,
    /// True if events of one of the user's dialogs are missing, so that the total may be wrong.
    pub(crate) stale: bool,
}

/// A user's unread counts, complete or the first rows of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unread {
    /// Version of these counts.
    pub version: Version,
    /// Exact sum over all dialogs, including those that are not in `rows`.
    pub total: i64,
    /// Dialogs with unread messages, newest activity first.
    pub rows: Vec<Row>,
    /// True if more dialogs have unread messages.
    pub truncated: bool,
    /// True if events of one of the user's dialogs are missing, so that the total may be wrong.
    pub stale: bool,
}

/// A user's counts for a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) user_id: UserId,
    /// Counts; without rows if `current`.
    pub(crate) unread: Unread,
    /// True if the subscriber already has the newest version.
    pub(crate) current: bool,
}

/// Request for a page of read pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadStatesPage {
    pub(crate) dialog_id: DialogId,
    /// Page size.
    pub(crate) first: i64,
    /// Last user of the previous page.
    pub(crate) after: Option<UserId>,
}

/// Users with their read pointers, sorted by user.
pub(crate) type ReadStates = Vec<(UserId, i64)>;

/// Returns the `first` dialogs with unread messages, newest activity first, and the exact total.
///
/// # Errors
/// [`Error::Future`] if `at_least` is newer than the database; [`Error::Busy`]; [`Error::Database`]. A
/// load shared with other requests returns its error inside [`Error::Shared`].
#[tracing::instrument(name = "counter.unread.of", skip_all, fields(%user_id))]
pub(crate) async fn load(
    loader: &Loader,
    user_id: UserId,
    first: usize,
    at_least: Option<Version>,
) -> Result<Unread, Error> {
    let unread = loader.unread(user_id, at_least).await?;
    require(unread.version, at_least)?;
    Ok(truncate(unread, first))
}

fn truncate(mut unread: Unread, first: usize) -> Unread {
    unread.truncated = unread.rows.len() > first;
    unread.rows.truncate(first);
    unread
}

/// Fails if the database is older than `at_least`. Nothing is newer than the database, so such a version
/// was invented by the client or was lost in a restore; waiting for it would not help.
fn require(version: Version, at_least: Option<Version>) -> Result<(), Error> {
    if Some(version) < at_least { Err(Error::Future) } else { Ok(()) }
}

/// Returns the caller's rows of these dialogs in no particular order, without dialogs that the caller is
/// not a participant of. Reads the database in one snapshot, not the cache, which has no rows without
/// unread messages.
///
/// # Errors
/// [`Error::Future`] if `at_least` is newer than the database; [`Error::Database`].
#[tracing::instrument(name = "counter.unread.rows", skip_all, fields(%user_id))]
pub(crate) async fn rows(
    db: &Db,
    user_id: UserId,
    dialogs: &[DialogId],
    at_least: Option<Version>,
) -> Result<(Version, Vec<Row>), Error> {
    let mut tx = db.snapshot().await?;
    let version = store::version(&mut tx, user_id).await?.version;
    let rows = store::rows(&mut tx, user_id, dialogs).await?;
    tx.rollback().await?;
    require(version, at_least)?;
    Ok((version, rows))
}

/// Returns the counts of many users in the order of the request; without rows for a user whose `since`
/// is the newest version. Reads the database: a subscription starts from the newest state, not from one
/// that the cache may hold.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "counter.unread.snapshots", skip_all, fields(users = requests.len()))]
pub(crate) async fn snapshots(
    db: &Db,
    requests: &[(UserId, Option<Version>)],
) -> Result<Vec<Snapshot>, Error> {
    let users: Vec<UserId> = requests.iter().map(|(user_id, _)| *user_id).collect();
    let mut tx = db.snapshot().await?;
    let versions = store::versions(&mut tx, &users).await?;
    let versions: BTreeMap<UserId, Head> = versions.into_iter().collect();
    let outdated: Vec<UserId> = requests
        .iter()
        .filter(|(user_id, since)| *since != Some(versions[user_id].version))
        .map(|(user_id, _)| *user_id)
        .collect();
    let mut rows: BTreeMap<UserId, Vec<Row>> = BTreeMap::new();
    if !outdated.is_empty() {
        for (user_id, row) in store::unread_of_many(&mut tx, &outdated, ROWS_MAX as i64 + 1).await? {
            rows.entry(user_id).or_default().push(row);
        }
    }
    tx.rollback().await?;
    Ok(requests
        .iter()
        .map(|(user_id, since)| {
            let Head { version, total, stale } = versions[user_id];
            let current = *since == Some(version);
            let rows = if current { Vec::new() } else { rows.get(user_id).cloned().unwrap_or_default() };
            let unread = truncate(Unread { version, total, rows, truncated: false, stale }, ROWS_MAX);
            Snapshot { user_id: *user_id, unread, current }
        })
        .collect())
}

/// Request for a page of unread messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessagesPage {
    pub(crate) dialog_id: DialogId,
    /// Page size.
    pub(crate) first: i64,
    /// Seq of the last message of the previous page.
    pub(crate) after: i64,
}

/// Page of unread messages, by seq.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MessageIds {
    pub(crate) ids: Vec<MessageId>,
    /// True if there are more.
    pub(crate) has_next: bool,
}

/// Returns pages of the messages that the caller's counts consist of, in the order of the request.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "counter.unread.messages", skip_all, fields(%user_id, pages = pages.len()))]
pub(crate) async fn messages(
    db: &Db,
    user_id: UserId,
    pages: &[MessagesPage],
) -> Result<Vec<MessageIds>, Error> {
    let mut answers = vec![MessageIds::default(); pages.len()];
    for (index, id) in store::unread_messages(db, user_id, pages).await? {
        let (Some(answer), Some(page)) = (answers.get_mut(index), pages.get(index)) else { continue };
        // One more than the page was asked for.
        answer.has_next = answer.ids.len() as i64 == page.first;
        if !answer.has_next {
            answer.ids.push(id);
        }
    }
    Ok(answers)
}

/// Returns pages of read pointers in the order of the request; `None` for a dialog that the caller is
/// not a participant of, the same as for one that does not exist.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "counter.read.states", skip_all, fields(%user_id, pages = pages.len()))]
pub(crate) async fn read_states(
    db: &Db,
    user_id: UserId,
    pages: &[ReadStatesPage],
) -> Result<Vec<Option<ReadStates>>, Error> {
    let dialogs: Vec<DialogId> = pages.iter().map(|page| page.dialog_id).collect();
    let mut tx = db.snapshot().await?;
    let own: BTreeSet<DialogId> = store::memberships(&mut tx, user_id, &dialogs).await?.into_iter().collect();
    let visible: Vec<(usize, &ReadStatesPage)> =
        pages.iter().enumerate().filter(|(_, page)| own.contains(&page.dialog_id)).collect();
    let mut answers: Vec<Option<ReadStates>> =
        pages.iter().map(|page| own.contains(&page.dialog_id).then(Vec::new)).collect();
    if !visible.is_empty() {
        for (index, user_id, read_seq) in store::read_states(&mut tx, &visible).await? {
            if let Some(Some(states)) = answers.get_mut(index) {
                states.push((user_id, read_seq));
            }
        }
    }
    tx.rollback().await?;
    Ok(answers)
}
