//! What can be asked. Every field is nullable: a service that is away costs its own field and no other.

use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use proto::{DialogId, auth, counter, dialog};

use crate::{
    cursor::List,
    error::{Code, Error},
    loaders::MessageKey,
    version::Version,
};

use super::{
    Dialog, DialogConnection, DialogUnread, Message, Scope, Unread, User, UserConnection,
    page::{self, PAGE_DEFAULT, PAGE_MAX},
};

/// The root of queries.
pub struct Query;

/// What can be asked. All of it needs sign-in; every field is null with an error of its own where its service is away.
#[Object]
impl Query {
    /// Who is signed in.
    async fn me(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>, Error> {
        let scope = Scope::of(ctx);
        scope.loaders.users.load(scope.viewer()?.user).await
    }

    /// A person by id. Null where there is none.
    async fn user(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<User>>, Error> {
        let scope = Scope::of(ctx);
        scope.viewer()?;
        let Ok(id) = id.parse() else { return Ok(None) };
        scope.loaders.users.load(id).await
    }

    /// People whose login or name begins with a text, by login.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn users(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "2 to 32 characters.")] search: String,
        #[graphql(desc = "How many, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Those after this cursor of the same search.")] after: Option<String>,
    ) -> Result<Option<UserConnection>, Error> {
        let scope = Scope::of(ctx);
        scope.viewer()?;
        let list = List::new("users", &search);
        let request = auth::SearchRequest {
            prefix: search.clone(),
            first: page::size("first", first, PAGE_DEFAULT)?,
            after_login: after.map(|cursor| list.position(&cursor)).transpose()?,
        };
        let follows = request.after_login.is_some();
        let reply = scope.peers().auth(scope.call()).search(request).await?.into_inner();
        let users = reply
            .users
            .into_iter()
            .map(|user| User::try_from(user).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Some(UserConnection::new(users, reply.has_next, follows, |user: &User| list.cursor(&user.login))))
    }

    /// A dialog by id. Null where there is none or the caller takes no part in it.
    async fn dialog(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<Dialog>>, Error> {
        let scope = Scope::of(ctx);
        scope.viewer()?;
        let Ok(id) = id.parse() else { return Ok(None) };
        scope.loaders.dialogs.load(id).await
    }

    /// The caller's dialogs, most recent activity first.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn dialogs(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Those after this cursor.")] after: Option<String>,
    ) -> Result<Option<DialogConnection>, Error> {
        let scope = Scope::of(ctx);
        let parent = scope.viewer()?.user.to_string();
        let list = List::new("dialogs", &parent);
        let after = after.map(|cursor| list.position::<Position>(&cursor)).transpose()?;
        let follows = after.is_some();
        let request = dialog::ListRequest {
            first: page::size("first", first, PAGE_DEFAULT)?,
            after: after.map(|Position { last_activity_us, dialog }| dialog::ListCursor {
                last_activity_us,
                dialog_id: dialog.bytes(),
            }),
        };
        let reply = scope.peers().dialog(scope.call()).list(request).await?.into_inner();
        let dialogs = reply.dialogs.into_iter().map(|dialog| Dialog::try_from(dialog).map(Arc::new));
        let dialogs = dialogs.collect::<Result<_, _>>()?;
        let cursor = |dialog: &Dialog| list.cursor(&format!("{}:{}", dialog.last_activity_us, dialog.id));
        Ok(Some(DialogConnection::new(dialogs, reply.has_next, follows, cursor)))
    }

    /// The caller's counter of one dialog. Answered by the counters alone: it works while dialogs are away. Null where
    /// the caller takes no part in it.
    async fn dialog_unread(&self, ctx: &Context<'_>, dialog_id: ID) -> Result<Option<DialogUnread>, Error> {
        let scope = Scope::of(ctx);
        scope.viewer()?;
        let Ok(id) = dialog_id.parse() else { return Ok(None) };
        scope.loaders.rows.load(id).await
    }

    /// A message by its id, or by the saga that counts it: exactly one of them. Null where there is none, or the caller
    /// may not see it.
    async fn message(
        &self,
        ctx: &Context<'_>,
        id: Option<ID>,
        transaction_id: Option<ID>,
    ) -> Result<Option<Arc<Message>>, Error> {
        let scope = Scope::of(ctx);
        scope.viewer()?;
        let key = match (id, transaction_id) {
            (Some(id), None) => id.parse().map(MessageKey::Id),
            (None, Some(id)) => id.parse().map(MessageKey::Transaction),
            _ => return Err(Error::input("give exactly one of `id` and `transactionId`")),
        };
        let Ok(key) = key else { return Ok(None) };
        scope.loaders.messages.load(key).await
    }

    /// The caller's counters. Never older than what this gateway has pushed or answered to the caller.
    async fn unread(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "A version that the caller already knows from elsewhere: the answer is at least as new."
        )]
        at_least: Option<String>,
    ) -> Result<Option<Unread>, Error> {
        let scope = Scope::of(ctx);
        let user = scope.viewer()?.user;
        let known = at_least.map(|text| text.parse::<Version>()).transpose();
        let known = known.map_err(|_| Error::input("`atLeast` is not a version"))?;
        let at_least = known.max(scope.floor().get(user)).map(Into::into);
        let request = counter::UnreadRequest { first: PAGE_MAX, at_least };
        let unread = Unread::read(scope.peers().counter(scope.call()).unread(request).await?.into_inner())?;
        scope.floor().raise(user, unread.version);
        Ok(Some(unread))
    }

    #[graphql(entity)]
    async fn user_entity(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<User>>, Error> {
        self.user(ctx, id).await
    }

    #[graphql(entity)]
    async fn dialog_entity(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<Dialog>>, Error> {
        self.dialog(ctx, id).await
    }

    #[graphql(entity)]
    async fn message_entity(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Arc<Message>>, Error> {
        self.message(ctx, Some(id), None).await
    }
}

/// A dialog's place in the list of dialogs.
struct Position {
    last_activity_us: i64,
    dialog: DialogId,
}

impl std::str::FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let strange = || Error::new(Code::BadUserInput, "not a position");
        let (time, id) = text.split_once(':').ok_or_else(strange)?;
        let last_activity_us = time.parse().map_err(|_| strange())?;
        Ok(Self { last_activity_us, dialog: id.parse().map_err(|_| strange())? })
    }
}
