//! The loaders of one operation: each batches one call of one service. A page of 50 dialogs with everything in it makes as
//! many calls as a page of one.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use proto::{DialogId, MessageId, TransactionId, UserId, auth, counter, dialog};
use telemetry::Call;

use crate::{
    batch::{Found, Loader},
    floor::Floor,
    peers::Peers,
    schema::{Dialog, DialogUnread, Message, ReadState, User},
    turn::Turn,
};

/// The most keys of one call, as the services have it.
const USERS_MAX: usize = 10_000;
const DIALOGS_MAX: usize = 1_000;
const PAGES_MAX: usize = 100;

/// What the resolvers of one operation load together.
pub struct Loaders {
    /// People.
    pub users: Loader<UserId, Arc<User>>,
    /// Dialogs of the caller.
    pub dialogs: Loader<DialogId, Arc<Dialog>>,
    /// Messages that the caller may see.
    pub messages: Loader<MessageKey, Arc<Message>>,
    /// Pages of history.
    pub history: Loader<HistoryPage, Arc<History>>,
    /// The caller's counters by dialog.
    pub rows: Loader<DialogId, DialogUnread>,
    /// Pages of read receipts.
    pub read_states: Loader<ReadStatesPage, Vec<ReadState>>,
}

/// What a message is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKey {
    /// Its id.
    Id(MessageId),
    /// The saga that counts it.
    Transaction(TransactionId),
}

/// A page of a dialog's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryPage {
    /// The first messages, or those after a number.
    Forward {
        /// Of which dialog.
        dialog: DialogId,
        /// How many.
        first: i32,
        /// Exclusive.
        after: Option<i64>,
    },
    /// The last messages, or those before a number.
    Backward {
        /// Of which dialog.
        dialog: DialogId,
        /// How many.
        last: i32,
        /// Exclusive.
        before: Option<i64>,
    },
}

/// Messages of a page, oldest first.
#[derive(Debug, PartialEq, Eq)]
pub struct History {
    /// The messages.
    pub messages: Vec<Arc<Message>>,
    /// Whether newer ones follow.
    pub has_next: bool,
    /// Whether there are older ones.
    pub has_previous: bool,
}

/// A page of a dialog's read receipts, by user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadStatesPage {
    /// Of which dialog.
    pub dialog: DialogId,
    /// How many.
    pub first: i32,
    /// Exclusive.
    pub after: Option<UserId>,
}

impl Loaders {
    /// For one operation, from this source.
    pub fn new(turn: &Turn, source: &Source) -> Self {
        Self {
            users: source.loader(turn, USERS_MAX, Source::users),
            dialogs: source.loader(turn, DIALOGS_MAX, Source::dialogs),
            messages: source.loader(turn, DIALOGS_MAX, Source::messages),
            history: source.loader(turn, PAGES_MAX, Source::history),
            rows: source.loader(turn, DIALOGS_MAX, Source::rows),
            read_states: source.loader(turn, PAGES_MAX, Source::read_states),
        }
    }

    /// Forgets everything: what follows a write is read anew.
    pub fn forget(&self) {
        self.users.forget();
        self.dialogs.forget();
        self.messages.forget();
        self.history.forget();
        self.rows.forget();
        self.read_states.forget();
    }
}

/// Where an operation's loaders fetch from: the services, on behalf of who asks.
#[derive(Clone)]
pub struct Source {
    /// The services.
    pub peers: Peers,
    /// What travels with the calls.
    pub call: Call,
    /// Who asks.
    pub viewer: Option<UserId>,
    /// What this gateway has shown.
    pub floor: Floor,
}

impl Source {
    fn loader<K, V, F, W>(&self, turn: &Turn, batch_max: usize, fetch: F) -> Loader<K, V>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        F: Fn(Self, Vec<K>) -> W + Send + Sync + 'static,
        W: Future<Output = Found<K, V>> + Send + 'static,
    {
        let source = self.clone();
        Loader::new(turn, batch_max, move |keys| fetch(source.clone(), keys))
    }

    async fn users(self, ids: Vec<UserId>) -> Found<UserId, Arc<User>> {
        let ids = ids.into_iter().map(UserId::bytes).collect();
        let reply = self.peers.auth(&self.call).users(auth::UsersRequest { ids }).await?.into_inner();
        let keyed = |user: auth::User| Ok((UserId::parse(&user.id)?, Arc::new(User::try_from(user)?)));
        reply.users.into_iter().map(keyed).collect()
    }

    async fn dialogs(self, ids: Vec<DialogId>) -> Found<DialogId, Arc<Dialog>> {
        let ids = ids.into_iter().map(DialogId::bytes).collect();
        let reply = self.peers.dialog(&self.call).get(dialog::GetRequest { ids }).await?.into_inner();
        let keyed = |dialog| Dialog::try_from(dialog).map(|dialog| (dialog.id, Arc::new(dialog)));
        reply.dialogs.into_iter().map(keyed).collect()
    }

    async fn messages(self, keys: Vec<MessageKey>) -> Found<MessageKey, Arc<Message>> {
        let mut request = dialog::MessagesRequest::default();
        for key in keys {
            match key {
                MessageKey::Id(id) => request.ids.push(id.bytes()),
                MessageKey::Transaction(id) => request.transaction_ids.push(id.bytes()),
            }
        }
        let reply = self.peers.dialog(&self.call).messages(request).await?.into_inner();
        let mut found = HashMap::new();
        for message in reply.messages {
            let id = MessageKey::Id(MessageId::parse(&message.id)?);
            let transaction = MessageKey::Transaction(TransactionId::parse(&message.transaction_id)?);
            let message = Arc::new(Message::try_from(message)?);
            found.insert(id, message.clone());
            found.insert(transaction, message);
        }
        Ok(found)
    }

    async fn history(self, pages: Vec<HistoryPage>) -> Found<HistoryPage, Arc<History>> {
        let request = dialog::HistoryRequest { pages: pages.iter().map(HistoryPage::request).collect() };
        let reply = self.peers.dialog(&self.call).history(request).await?.into_inner();
        let read = |(page, reply): (HistoryPage, dialog::HistoryPageReply)| {
            let messages = reply.messages.into_iter().map(|message| Message::try_from(message).map(Arc::new));
            let messages = messages.collect::<Result<_, _>>()?;
            let history = History { messages, has_next: reply.has_next, has_previous: reply.has_previous };
            Ok(reply.found.then(|| (page, Arc::new(history))))
        };
        pages.into_iter().zip(reply.pages).filter_map(|pair| read(pair).transpose()).collect()
    }

    /// The counters of the one who asks, never older than what this gateway has shown.
    async fn rows(self, ids: Vec<DialogId>) -> Found<DialogId, DialogUnread> {
        let request = counter::RowsRequest {
            dialog_ids: ids.into_iter().map(DialogId::bytes).collect(),
            at_least: self.viewer.and_then(|user| self.floor.get(user)).map(Into::into),
        };
        let reply = self.peers.counter(&self.call).rows(request).await?.into_inner();
        if let (Some(user), Some(version)) = (self.viewer, reply.version) {
            self.floor.raise(user, version.into());
        }
        let keyed = |row| DialogUnread::try_from(row).map(|row| (row.dialog, row));
        reply.rows.into_iter().map(keyed).collect()
    }

    async fn read_states(self, pages: Vec<ReadStatesPage>) -> Found<ReadStatesPage, Vec<ReadState>> {
        let request =
            counter::ReadStatesRequest { pages: pages.iter().map(ReadStatesPage::request).collect() };
        let reply = self.peers.counter(&self.call).read_states(request).await?.into_inner();
        let read = |(page, reply): (ReadStatesPage, counter::ReadStatesPageReply)| {
            let states = reply.states.into_iter().map(ReadState::try_from).collect::<Result<_, _>>()?;
            Ok((page, states))
        };
        pages.into_iter().zip(reply.pages).map(read).collect()
    }
}

impl HistoryPage {
    fn request(&self) -> dialog::HistoryPage {
        match *self {
            Self::Forward { dialog, first, after } => dialog::HistoryPage {
                dialog_id: dialog.bytes(),
                first: Some(first),
                after_seq: after,
                ..dialog::HistoryPage::default()
            },
            Self::Backward { dialog, last, before } => dialog::HistoryPage {
                dialog_id: dialog.bytes(),
                last: Some(last),
                before_seq: before,
                ..dialog::HistoryPage::default()
            },
        }
    }
}

impl ReadStatesPage {
    fn request(&self) -> counter::ReadStatesPage {
        counter::ReadStatesPage {
            dialog_id: self.dialog.bytes(),
            first: self.first,
            after_user_id: self.after.map(UserId::bytes),
        }
    }
}
