//! The loaders of one operation. Each of them batches the calls of one RPC, so that a page of 50 dialogs
//! with all their fields needs as many calls as a page of one.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use proto::{DialogId, MessageId, TransactionId, UserId, auth, counter, dialog};
use telemetry::Call;
use tonic::{Code, Status};

use crate::{
    hub::Service,
    schema::data_loader::Dispatcher,
    schema::data_loader::{Found, Loader},
    schema::{Dialog, DialogUnread, Message, ReadState, User},
    seen_versions::SeenVersions,
};

// Maximum keys of one call. The services reject more: the limits are those of their handlers.
const USERS_MAX: usize = 10_000;
const DIALOGS_MAX: usize = 1_000;
const PAGES_MAX: usize = 100;

/// The loaders of one operation.
pub struct Loaders {
    /// Loads users.
    pub users: Loader<UserId, Arc<User>>,
    /// Loads dialogs that the caller takes part in.
    pub dialogs: Loader<DialogId, Arc<Dialog>>,
    /// Loads messages that the caller may see.
    pub messages: Loader<MessageKey, Arc<Message>>,
    /// Loads pages of message history.
    pub history: Loader<HistoryPage, Arc<History>>,
    /// Loads the caller's counters.
    pub rows: Loader<DialogId, DialogUnread>,
    /// Loads pages of read receipts.
    pub read_states: Loader<ReadStatesPage, Vec<ReadState>>,
}

/// The key of a message: its id or the id of its saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKey {
    /// The id of the message.
    Id(MessageId),
    /// The id of the saga that counts the message.
    Transaction(TransactionId),
}

/// A page of a dialog's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryPage {
    /// The first messages, or the first ones after a `seq`.
    Forward {
        /// The dialog.
        dialog: DialogId,
        /// The page size.
        first: i32,
        /// The exclusive start of the page.
        after: Option<i64>,
    },
    /// The last messages, or the last ones before a `seq`.
    Backward {
        /// The dialog.
        dialog: DialogId,
        /// The page size.
        last: i32,
        /// The exclusive end of the page.
        before: Option<i64>,
    },
}

/// The messages of a page, oldest first.
#[derive(Debug, PartialEq, Eq)]
pub struct History {
    /// The messages.
    pub messages: Vec<Arc<Message>>,
    /// True if there are newer messages.
    pub has_next: bool,
    /// True if there are older messages.
    pub has_previous: bool,
}

/// A page of a dialog's read receipts, sorted by user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadStatesPage {
    /// The dialog.
    pub dialog: DialogId,
    /// The page size.
    pub first: i32,
    /// The exclusive start of the page.
    pub after: Option<UserId>,
}

impl Loaders {
    /// Creates the loaders of one operation.
    pub fn new(dispatcher: &Dispatcher, source: &Source) -> Self {
        Self {
            users: source.loader(dispatcher, USERS_MAX, Source::users),
            dialogs: source.loader(dispatcher, DIALOGS_MAX, Source::dialogs),
            messages: source.loader(dispatcher, DIALOGS_MAX, Source::messages),
            history: source.loader(dispatcher, PAGES_MAX, Source::history),
            rows: source.loader(dispatcher, DIALOGS_MAX, Source::rows),
            read_states: source.loader(dispatcher, PAGES_MAX, Source::read_states),
        }
    }

    /// Clears all loaders. Called before a write, so that later reads see its effect.
    pub fn clear(&self) {
        self.users.clear();
        self.dialogs.clear();
        self.messages.clear();
        self.history.clear();
        self.rows.clear();
        self.read_states.clear();
    }
}

/// The services, called on behalf of an operation's caller.
#[derive(Clone)]
pub struct Source {
    /// The services.
    pub service: Service,
    /// The call context: deadline, request id, trace and access token.
    pub call: Call,
    /// The caller. None if the operation is not authenticated.
    pub caller: Option<UserId>,
    /// The newest versions that this gateway has sent to each user.
    pub seen_versions: SeenVersions,
}

impl Source {
    fn loader<K, V, F, W>(&self, dispatcher: &Dispatcher, batch_max: usize, fetch: F) -> Loader<K, V>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        F: Fn(Self, Vec<K>) -> W + Send + Sync + 'static,
        W: Future<Output = Found<K, V>> + Send + 'static,
    {
        let source = self.clone();
        Loader::new(dispatcher, batch_max, move |keys| fetch(source.clone(), keys))
    }

    async fn users(self, ids: Vec<UserId>) -> Found<UserId, Arc<User>> {
        let ids = ids.into_iter().map(UserId::bytes).collect();
        let reply = self.service.peers.auth(&self.call).users(auth::UsersRequest { ids }).await?.into_inner();
        let keyed = |user: auth::User| Ok((UserId::parse(&user.id)?, Arc::new(User::try_from(user)?)));
        reply.users.into_iter().map(keyed).collect()
    }

    async fn dialogs(self, ids: Vec<DialogId>) -> Found<DialogId, Arc<Dialog>> {
        let ids = ids.into_iter().map(DialogId::bytes).collect();
        let reply = self.service.peers.dialog(&self.call).get(dialog::GetRequest { ids }).await?.into_inner();
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
        let reply = self.service.peers.dialog(&self.call).messages(request).await?.into_inner();
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
        let reply = self.service.peers.dialog(&self.call).history(request).await?.into_inner();
        let keyed = |(page, reply): (HistoryPage, dialog::HistoryPageReply)| {
            let messages = reply.messages.into_iter().map(|message| Message::try_from(message).map(Arc::new));
            let messages = messages.collect::<Result<_, _>>()?;
            let history = History { messages, has_next: reply.has_next, has_previous: reply.has_previous };
            Ok(reply.found.then(|| (page, Arc::new(history))))
        };
        pages.into_iter().zip(reply.pages).filter_map(|pair| keyed(pair).transpose()).collect()
    }

    /// Loads the caller's counters, at least as new as every frame and response that this gateway has
    /// sent to the caller.
    async fn rows(self, ids: Vec<DialogId>) -> Found<DialogId, DialogUnread> {
        let request = counter::RowsRequest {
            dialog_ids: ids.into_iter().map(DialogId::bytes).collect(),
            at_least: self.caller.and_then(|user| self.seen_versions.get(user)).map(Into::into),
        };
        let reply = match self.service.peers.counter(&self.call).rows(request.clone()).await {
            Err(status) if self.has_lost_version(&status).await => {
                self.service.peers.counter(&self.call).rows(request).await?
            }
            reply => reply?,
        };
        let reply = reply.into_inner();
        if let (Some(user), Some(version)) = (self.caller, reply.version) {
            self.seen_versions.raise(user, version.into());
        }
        let keyed = |row| DialogUnread::try_from(row).map(|row| (row.dialog, row));
        reply.rows.into_iter().map(keyed).collect()
    }

    /// Returns true if the counter service refused a version because its database has lost it in a
    /// restore, which it then recognises. Only a version that this gateway received from the service is
    /// reported, never one that the client sent.
    pub async fn has_lost_version(&self, refusal: &Status) -> bool {
        let Some(user) = self.caller.filter(|_| refusal.code() == Code::InvalidArgument) else {
            return false;
        };
        let Some(seen) = self.seen_versions.get(user) else { return false };
        let reported = self.service.report_seen(user, seen).await;
        reported.is_ok_and(|epoch| epoch > seen.epoch)
    }

    async fn read_states(self, pages: Vec<ReadStatesPage>) -> Found<ReadStatesPage, Vec<ReadState>> {
        let request =
            counter::ReadStatesRequest { pages: pages.iter().map(ReadStatesPage::request).collect() };
        let reply = self.service.peers.counter(&self.call).read_states(request).await?.into_inner();
        let keyed = |(page, reply): (ReadStatesPage, counter::ReadStatesPageReply)| {
            let states = reply.states.into_iter().map(ReadState::try_from).collect::<Result<_, _>>()?;
            Ok((page, states))
        };
        pages.into_iter().zip(reply.pages).map(keyed).collect()
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
