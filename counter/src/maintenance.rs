//! Maintenance: the commands with which an operator checks, repairs and explains the derived state while
//! the system runs. They work on the counter's database and ask the dialog service for its rows.

pub(crate) mod background;
mod explain;
mod known_dialogs;
mod rebuild;
mod reconcile;

use access::ServiceToken;
use db::Db;
use proto::{DialogId, Peer, UserId};

pub use explain::{Explanation, UnreadMessage};
pub use rebuild::Rebuilt;
pub use reconcile::{Findings, Selection};

use crate::{
    Cache, Error,
    derived::{Drift, Source},
    store::cut,
};

/// Maintenance of one counter database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Maintenance {
    db: Db,
    cache: Option<Cache>,
    dialog: Peer,
    service_token: ServiceToken,
}

/// What a command has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Dialogs that are done.
    pub dialogs: u64,
    /// Messages in these dialogs.
    pub messages: u64,
    /// Dialogs in all, as far as known.
    pub known_dialogs: u64,
}

impl Maintenance {
    /// Creates the maintenance of a migrated database. `cache` is the shared cache of the counter, if it
    /// has one; `service_token` authenticates the calls to dialog.
    pub fn new(db: Db, cache: Option<Cache>, dialog: Peer, service_token: ServiceToken) -> Self {
        Self { db, cache, dialog, service_token }
    }

    /// Compares the stored state with the dialog service, and the cache with the database. Reports progress
    /// and each difference. With `repair`, makes the state of dialogs that differ again and notes what
    /// differed in `repaired_drift`.
    ///
    /// # Errors
    /// [`Error::Dialog`] if the dialog service does not answer; [`Error::Database`].
    pub async fn reconcile(
        &self,
        selection: Selection,
        repair: bool,
        report: impl FnMut(Report<'_>),
    ) -> Result<Findings, Error> {
        reconcile::run(self, selection, repair, report).await
    }

    /// Makes the derived state of one dialog, or of all, again. A rebuild of all that was interrupted goes
    /// on where it was.
    ///
    /// # Errors
    /// [`Error::Dialog`] if the dialog service does not answer; [`Error::Database`].
    pub async fn rebuild(
        &self,
        dialog_id: Option<DialogId>,
        report: impl FnMut(Report<'_>),
    ) -> Result<Rebuilt, Error> {
        rebuild::run(self, dialog_id, report).await
    }

    /// Forgets how far the consumers of this database have read the log, and raises the epoch: for a log
    /// that was lost or replaced. Call it after a rebuild of all dialogs.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn forget_positions(&self) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        cut::raise_epoch(&mut tx).await?;
        events::forget_positions(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Returns the messages that a user's count in a dialog consists of; `None` if the counter does not
    /// know the user in this dialog.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn explain(&self, user_id: UserId, dialog_id: DialogId) -> Result<Option<Explanation>, Error> {
        explain::explain(&self.db, user_id, dialog_id).await
    }

    async fn source(&self, dialog_id: DialogId) -> Result<Source, Error> {
        Source::load(&self.dialog, &self.service_token, dialog_id).await
    }
}

/// Report of a running command.
#[derive(Debug)]
pub enum Report<'a> {
    /// More dialogs are done.
    Progress(Progress),
    /// A difference was found.
    Drift(&'a Drift),
}
