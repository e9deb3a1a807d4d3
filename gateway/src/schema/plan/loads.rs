//! Loads of a plan: the keys of a whole page at once. Each selected field that needs a service is one future,
//! and all of them run at the same time, so that the loaders send the same batches as for the resolvers.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use async_graphql::Variables;
use futures_util::{
    FutureExt,
    future::{BoxFuture, try_join_all},
};
use parking_lot::Mutex;
use proto::{DialogId, UserId};

use super::{
    Unplanned,
    selection::{
        Argument, ConnectionField, DialogField, MessageField, ReadStateField, RowField, Selection, Window,
    },
};
use crate::schema::{
    Dialog, DialogUnread, Message, ReadState, Scope, User,
    data_loader::Loader,
    loaders::{History, HistoryPage, ReadStatesPage},
    page::{self, PAGE_DEFAULT},
};

/// Objects that a plan has loaded.
#[derive(Default)]
pub(super) struct Loads {
    users: Table<UserId, Arc<User>>,
    dialogs: Table<DialogId, Arc<Dialog>>,
    rows: Table<DialogId, DialogUnread>,
    read_states: Table<ReadStatesPage, Vec<ReadState>>,
    history: Table<HistoryPage, Arc<History>>,
}

/// Loaded batches of one loader.
struct Table<K, V>(Mutex<Vec<Arc<HashMap<K, V>>>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, V> Table<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    async fn load(&self, loader: &Loader<K, V>, keys: impl Iterator<Item = K>) -> Result<(), Unplanned> {
        for batch in loader.batches(keys).await? {
            let mut batches = self.0.lock();
            if !batches.iter().any(|known| Arc::ptr_eq(known, &batch)) {
                batches.push(batch);
            }
        }
        Ok(())
    }

    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().iter().find_map(|batch| batch.get(key)).cloned()
    }
}

type Load<'a> = BoxFuture<'a, Result<(), Unplanned>>;

impl Loads {
    /// Loads everything below these dialogs.
    pub async fn dialogs(
        &self,
        scope: &Scope,
        variables: &Variables,
        fields: &Selection<DialogField>,
        dialogs: &[Arc<Dialog>],
    ) -> Result<(), Unplanned> {
        let loads = fields.fields().filter_map(|field| -> Option<Load<'_>> {
            Some(match field {
                DialogField::Participants { first, after, .. } => {
                    self.participants(scope, variables, (first, after), dialogs).boxed()
                }
                DialogField::LastMessage(fields) => {
                    let messages = dialogs.iter().filter_map(|dialog| dialog.last_message.as_ref());
                    self.senders(scope, fields, messages).boxed()
                }
                DialogField::UnreadCount => {
                    self.rows.load(&scope.loaders.rows, dialogs.iter().map(|dialog| dialog.id)).boxed()
                }
                DialogField::ReadStates { first, after, fields } => {
                    self.read_states(scope, variables, (first, after), fields, dialogs).boxed()
                }
                DialogField::Messages { window, page } => {
                    self.messages(scope, variables, window, page, dialogs).boxed()
                }
                DialogField::Id
                | DialogField::Title
                | DialogField::Direct
                | DialogField::ParticipantIds
                | DialogField::CreatedAt
                | DialogField::LastActivityAt => return None,
            })
        });
        try_join_all(loads).await.map(drop)
    }

    /// Loads the dialogs of counters, and everything below them.
    pub async fn dialogs_of_rows(
        &self,
        scope: &Scope,
        variables: &Variables,
        fields: &Selection<RowField>,
        rows: &[DialogUnread],
    ) -> Result<(), Unplanned> {
        let selected = fields.fields().filter_map(|field| match field {
            RowField::Dialog(fields) => Some(fields),
            _ => None,
        });
        let selected: Vec<_> = selected.collect();
        if selected.is_empty() {
            return Ok(());
        }
        self.dialogs.load(&scope.loaders.dialogs, rows.iter().map(|row| row.dialog)).await?;
        let dialogs: Vec<_> = rows.iter().filter_map(|row| self.dialog(row.dialog)).collect();
        let below = selected.into_iter().map(|fields| self.dialogs(scope, variables, fields, &dialogs));
        try_join_all(below).await.map(drop)
    }

    /// Loads the authors of messages if they are selected.
    pub async fn senders<'a>(
        &self,
        scope: &Scope,
        fields: &Selection<MessageField>,
        messages: impl Iterator<Item = &'a Message> + Send,
    ) -> Result<(), Unplanned> {
        if fields.fields().any(|field| matches!(field, MessageField::Sender(_))) {
            self.users.load(&scope.loaders.users, messages.map(|message| message.sender)).await?;
        }
        Ok(())
    }

    async fn participants(
        &self,
        scope: &Scope,
        variables: &Variables,
        (first, after): (&Argument, &Argument),
        dialogs: &[Arc<Dialog>],
    ) -> Result<(), Unplanned> {
        let first = first.int(variables)?;
        let after = after.text(variables)?;
        let mut keys = Vec::with_capacity(dialogs.len());
        for dialog in dialogs {
            keys.extend_from_slice(dialog.participants_page(first, after)?.users);
        }
        self.users.load(&scope.loaders.users, keys.into_iter()).await
    }

    async fn read_states(
        &self,
        scope: &Scope,
        variables: &Variables,
        (first, after): (&Argument, &Argument),
        fields: &Selection<ReadStateField>,
        dialogs: &[Arc<Dialog>],
    ) -> Result<(), Unplanned> {
        let mut pages = Vec::with_capacity(dialogs.len());
        for dialog in dialogs {
            pages.push(read_states_page(dialog, variables, (first, after))?);
        }
        self.read_states.load(&scope.loaders.read_states, pages.iter().copied()).await?;
        if fields.fields().any(|field| matches!(field, ReadStateField::User(_))) {
            let states = pages.iter().flat_map(|page| self.read_states_of(page));
            let users: Vec<_> = states.map(|state| state.user).collect();
            self.users.load(&scope.loaders.users, users.into_iter()).await?;
        }
        Ok(())
    }

    async fn messages(
        &self,
        scope: &Scope,
        variables: &Variables,
        window: &Window,
        page: &Selection<ConnectionField<MessageField>>,
        dialogs: &[Arc<Dialog>],
    ) -> Result<(), Unplanned> {
        let mut pages = Vec::with_capacity(dialogs.len());
        for dialog in dialogs {
            pages.push(history_page(dialog, variables, window)?);
        }
        self.history.load(&scope.loaders.history, pages.iter().copied()).await?;
        let mut histories = Vec::with_capacity(pages.len());
        for page in &pages {
            histories.push(self.history_of(page).ok_or(Unplanned)?);
        }
        let below = page.nodes().map(|fields| {
            let messages = histories.iter().flat_map(|history| &history.messages);
            self.senders(scope, fields, messages.map(|message| &**message))
        });
        try_join_all(below).await.map(drop)
    }

    /// Returns a user that was loaded. `None` if there is none.
    pub fn user(&self, id: UserId) -> Option<Arc<User>> {
        self.users.get(&id)
    }

    /// Returns a dialog that was loaded. `None` if there is none.
    pub fn dialog(&self, id: DialogId) -> Option<Arc<Dialog>> {
        self.dialogs.get(&id)
    }

    /// Returns the counter of a dialog that was loaded. `None` if there is none.
    pub fn row(&self, id: DialogId) -> Option<DialogUnread> {
        self.rows.get(&id)
    }

    /// Returns read receipts that were loaded.
    pub fn read_states_of(&self, page: &ReadStatesPage) -> Vec<ReadState> {
        self.read_states.get(page).unwrap_or_default()
    }

    /// Returns a page of messages that was loaded. `None` if there is no such dialog.
    pub fn history_of(&self, page: &HistoryPage) -> Option<Arc<History>> {
        self.history.get(page)
    }
}

/// Returns the page of a dialog's read receipts that the arguments select.
pub(super) fn read_states_page(
    dialog: &Dialog,
    variables: &Variables,
    (first, after): (&Argument, &Argument),
) -> Result<ReadStatesPage, Unplanned> {
    let first = page::size("first", first.int(variables)?, PAGE_DEFAULT)?;
    let after = after.text(variables)?.map(str::parse).transpose().map_err(|_| Unplanned)?;
    Ok(ReadStatesPage { dialog: dialog.id, first, after })
}

/// Returns the page of a dialog's messages that the arguments select.
pub(super) fn history_page(
    dialog: &Dialog,
    variables: &Variables,
    window: &Window,
) -> Result<HistoryPage, Unplanned> {
    let Window { first, after, last, before } = window;
    Ok(dialog.history_page(
        first.int(variables)?,
        after.text(variables)?,
        last.int(variables)?,
        before.text(variables)?,
    )?)
}
