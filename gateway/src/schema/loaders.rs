//! The loaders of one operation. Each of them batches the calls of one RPC, so that a page of 50 dialogs
//! with all their fields needs as many calls as a page of one.

use std::{collections::HashMap, hash::Hash, str::FromStr, sync::Arc};

use futures_util::{FutureExt, future::join_all};

use proto::{DialogId, MessageId, TransactionId, UserId, auth, counter, dialog};
use telemetry::Call;
use tonic::{Code, Status};

use crate::{
    error::Error,
    hub::Service,
    schema::data_loader::Dispatcher,
    schema::data_loader::{Found, Loader},
    schema::{
        Dialog, DialogUnread, Message, OpenSession, ReadState, Unread, User, cursor::List, page::PAGE_MAX,
    },
    seen_versions::SeenVersions,
    version::Version,
};

// Maximum keys of one call. The services reject more: the limits are those of their handlers.
const USERS_MAX: usize = 10_000;
const DIALOGS_MAX: usize = 1_000;
const PAGES_MAX: usize = 100;

/// The loaders of one operation.
pub struct Loaders {
    /// Loads users.
    pub users: Loader<UserId, Arc<User>>,
    /// Loads the open sessions of the caller, who is the only key.
    pub sessions: Loader<UserId, Arc<Vec<OpenSession>>>,
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
    /// Loads pages of the messages that the caller has not read.
    pub unread_messages: Loader<UnreadMessagesPage, UnreadMessages>,
    /// Loads pages of the caller's dialogs. Each page has its own call, and its own error.
    pub lists: Loader<ListPage, Result<Arc<DialogPage>, Error>>,
    /// Loads the caller's counters of all dialogs, at least as new as a version that the client gives. Each
    /// version has its own call, and its own error.
    pub unread: Loader<Option<Version>, Result<Arc<Unread>, Error>>,
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

/// A page of the messages of a dialog that the caller has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnreadMessagesPage {
    /// The dialog.
    pub dialog: DialogId,
    /// The page size.
    pub first: i32,
    /// The exclusive start of the page; 0 for the first one.
    pub after: i64,
}

/// The ids of unread messages, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadMessages {
    /// The messages.
    pub ids: Vec<MessageId>,
    /// True if there are newer ones.
    pub has_next: bool,
}

/// The arguments of a page of the caller's dialogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListPage {
    /// The caller.
    pub user: UserId,
    /// The page size.
    pub first: i32,
    /// The exclusive start of the page.
    pub after: Option<ListPosition>,
    /// The number of participants that each dialog needs. `None` for all.
    pub participants_first: Option<i32>,
}

/// The position of a dialog in the caller's list, as stored in a cursor: `last_activity_us:dialog_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListPosition {
    /// The time of the dialog's newest message, or of its creation.
    pub last_activity_us: i64,
    /// The dialog.
    pub dialog: DialogId,
}

impl ListPage {
    /// Parses the arguments of a page.
    ///
    /// # Errors
    /// BAD_USER_INPUT if the cursor does not belong to the caller's list.
    pub fn parse(
        user: UserId,
        first: i32,
        after: Option<&str>,
        participants_first: Option<i32>,
    ) -> Result<Self, Error> {
        let position = |cursor| List::new("dialogs", &user.to_string()).position(cursor);
        Ok(Self { user, first, after: after.map(position).transpose()?, participants_first })
    }
}

impl FromStr for ListPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::input("malformed position");
        let (time, id) = text.split_once(':').ok_or_else(malformed)?;
        let last_activity_us = time.parse().map_err(|_| malformed())?;
        Ok(Self { last_activity_us, dialog: id.parse().map_err(|_| malformed())? })
    }
}

/// A page of the caller's dialogs, newest activity first.
#[derive(Debug)]
pub struct DialogPage {
    /// The dialogs.
    pub dialogs: Vec<Arc<Dialog>>,
    /// True if there are older dialogs.
    pub has_next: bool,
}

impl Loaders {
    /// Creates the loaders of one operation.
    pub fn new(dispatcher: &Dispatcher, source: &Arc<Source>) -> Self {
        Self {
            users: source.loader(dispatcher, USERS_MAX, Source::users),
            sessions: source.loader(dispatcher, 1, Source::sessions),
            dialogs: source.loader(dispatcher, DIALOGS_MAX, Source::dialogs),
            messages: source.loader(dispatcher, DIALOGS_MAX, Source::messages),
            history: source.loader(dispatcher, PAGES_MAX, Source::history),
            rows: source.loader(dispatcher, DIALOGS_MAX, Source::rows),
            read_states: source.loader(dispatcher, PAGES_MAX, Source::read_states),
            unread_messages: source.loader(dispatcher, PAGES_MAX, Source::unread_messages),
            lists: source.loader(dispatcher, PAGES_MAX, Source::lists),
            unread: source.loader(dispatcher, PAGES_MAX, Source::unread),
        }
    }

    /// Clears all loaders. Called before a write, so that later reads see its effect.
    pub fn clear(&self) {
        self.users.clear();
        self.sessions.clear();
        self.dialogs.clear();
        self.messages.clear();
        self.history.clear();
        self.rows.clear();
        self.read_states.clear();
        self.unread_messages.clear();
        self.lists.clear();
        self.unread.clear();
    }
}

/// The services, called on behalf of an operation's caller.
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
    fn loader<K, V, F, W>(
        self: &Arc<Self>,
        dispatcher: &Dispatcher,
        batch_max: usize,
        fetch: F,
    ) -> Loader<K, V>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        F: Fn(Arc<Self>, Vec<K>) -> W + Send + Sync + 'static,
        W: Future<Output = Found<K, V>> + Send + 'static,
    {
        let source = self.clone();
        Loader::new(dispatcher, batch_max, move |keys| fetch(source.clone(), keys))
    }

    async fn users(self: Arc<Self>, ids: Vec<UserId>) -> Found<UserId, Arc<User>> {
        let ids = ids.into_iter().map(UserId::bytes).collect();
        let reply = self.service.peers.auth(&self.call).users(auth::UsersRequest { ids }).await?.into_inner();
        let keyed = |user: auth::User| Ok((UserId::parse(&user.id)?, Arc::new(User::try_from(user)?)));
        reply.users.into_iter().map(keyed).collect()
    }

    async fn sessions(self: Arc<Self>, callers: Vec<UserId>) -> Found<UserId, Arc<Vec<OpenSession>>> {
        let request = auth::SessionsRequest::default();
        let reply = self.service.peers.auth(&self.call).sessions(request).await?.into_inner();
        let sessions = reply.sessions.into_iter().map(OpenSession::try_from).collect::<Result<_, _>>()?;
        let sessions = Arc::new(sessions);
        Ok(callers.into_iter().map(|caller| (caller, Arc::clone(&sessions))).collect())
    }

    async fn dialogs(self: Arc<Self>, ids: Vec<DialogId>) -> Found<DialogId, Arc<Dialog>> {
        let ids = ids.into_iter().map(DialogId::bytes).collect();
        let reply = self.service.peers.dialog(&self.call).get(dialog::GetRequest { ids }).await?.into_inner();
        let keyed = |dialog| Dialog::try_from(dialog).map(|dialog| (dialog.id, Arc::new(dialog)));
        reply.dialogs.into_iter().map(keyed).collect()
    }

    async fn messages(self: Arc<Self>, keys: Vec<MessageKey>) -> Found<MessageKey, Arc<Message>> {
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

    async fn history(self: Arc<Self>, pages: Vec<HistoryPage>) -> Found<HistoryPage, Arc<History>> {
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
    async fn rows(self: Arc<Self>, ids: Vec<DialogId>) -> Found<DialogId, DialogUnread> {
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
    async fn has_lost_version(&self, refusal: &Status) -> bool {
        let Some(user) = self.caller.filter(|_| refusal.code() == Code::InvalidArgument) else {
            return false;
        };
        let Some(seen) = self.seen_versions.get(user) else { return false };
        let reported = self.service.report_seen(user, seen).await;
        reported.is_ok_and(|epoch| epoch > seen.epoch)
    }

    async fn lists(self: Arc<Self>, pages: Vec<ListPage>) -> Found<ListPage, Result<Arc<DialogPage>, Error>> {
        let lists = pages.into_iter().map(|page| self.list(page).map(move |found| (page, found)));
        Ok(join_all(lists).await.into_iter().collect())
    }

    async fn list(&self, page: ListPage) -> Result<Arc<DialogPage>, Error> {
        let request = dialog::ListRequest {
            first: page.first,
            after: page.after.map(|ListPosition { last_activity_us, dialog }| dialog::ListCursor {
                last_activity_us,
                dialog_id: dialog.bytes(),
            }),
            participants_first: page.participants_first,
        };
        let reply = self.service.peers.dialog(&self.call).list(request).await?.into_inner();
        let dialogs = reply.dialogs.into_iter().map(|dialog| Dialog::try_from(dialog).map(Arc::new));
        Ok(Arc::new(DialogPage { dialogs: dialogs.collect::<Result<_, _>>()?, has_next: reply.has_next }))
    }

    async fn unread(
        self: Arc<Self>,
        versions: Vec<Option<Version>>,
    ) -> Found<Option<Version>, Result<Arc<Unread>, Error>> {
        let counters = versions
            .into_iter()
            .map(|version| self.counters(version).map(move |found| (version, found.map(Arc::new))));
        Ok(join_all(counters).await.into_iter().collect())
    }

    /// Loads the caller's counters, at least as new as a version of the client, and as every frame and
    /// response that this gateway has sent to the caller.
    async fn counters(&self, at_least: Option<Version>) -> Result<Unread, Error> {
        let user = self.caller.ok_or_else(Error::sign_in)?;
        let at_least = at_least.max(self.seen_versions.get(user)).map(Into::into);
        let request = counter::UnreadRequest { first: PAGE_MAX, at_least };
        let reply = match self.service.peers.counter(&self.call).unread(request).await {
            Err(status) if self.has_lost_version(&status).await => {
                self.service.peers.counter(&self.call).unread(request).await?
            }
            reply => reply?,
        };
        let unread = Unread::try_from(reply.into_inner())?;
        self.seen_versions.raise(user, unread.version);
        Ok(unread)
    }

    async fn read_states(
        self: Arc<Self>,
        pages: Vec<ReadStatesPage>,
    ) -> Found<ReadStatesPage, Vec<ReadState>> {
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

impl Source {
    async fn unread_messages(
        self: Arc<Self>,
        pages: Vec<UnreadMessagesPage>,
    ) -> Found<UnreadMessagesPage, UnreadMessages> {
        let page = |page: &UnreadMessagesPage| counter::UnreadMessagesPage {
            dialog_id: page.dialog.bytes(),
            first: page.first,
            after_seq: page.after,
        };
        let request = counter::UnreadMessagesRequest { pages: pages.iter().map(page).collect() };
        let reply = self.service.peers.counter(&self.call).unread_messages(request).await?.into_inner();
        let keyed = |(page, reply): (UnreadMessagesPage, counter::UnreadMessagesPageReply)| {
            let ids = MessageId::parse_all(&reply.message_ids)?;
            Ok((page, UnreadMessages { ids, has_next: reply.has_next }))
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
