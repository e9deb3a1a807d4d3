//! The type `Dialog`: a conversation with the fields that the caller may see.

use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use proto::{DialogId, UserId, dialog};

use crate::{
    error::{Code, Error},
    schema::cursor::List,
    schema::loaders::{HistoryPage, ReadStatesPage},
};

use super::{
    DateTime, Message, MessageConnection, ReadState, Scope, User, UserConnection,
    page::{self, PAGE_DEFAULT},
};

/// A conversation, converted from the dialog service's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// The dialog's id.
    pub id: DialogId,
    pub(super) title: Option<String>,
    pub(super) direct: bool,
    pub(super) participants: Vec<UserId>,
    pub(super) created_at_us: i64,
    /// The time of the newest message, or of the dialog's creation. Lists of dialogs are sorted by it.
    pub last_activity_us: i64,
    pub(super) last_message: Option<Message>,
}

impl TryFrom<dialog::Dialog> for Dialog {
    type Error = Error;

    fn try_from(dialog: dialog::Dialog) -> Result<Self, Error> {
        Ok(Self {
            id: DialogId::parse(&dialog.id)?,
            title: dialog.title,
            direct: dialog.direct,
            participants: UserId::parse_all(&dialog.participant_ids)?,
            created_at_us: dialog.created_at_us,
            last_activity_us: dialog.last_activity_us,
            last_message: dialog.last_message.map(Message::try_from).transpose()?,
        })
    }
}

/// A conversation between two users or in a group. Visible to its participants only.
#[Object]
impl Dialog {
    /// Unique and permanent.
    pub(super) async fn id(&self) -> ID {
        ID(self.id.to_string())
    }

    /// The title of a group, 1 to 64 characters. Null if it has none.
    async fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// True if this is the direct dialog of two users. Its participants never change.
    async fn direct(&self) -> bool {
        self.direct
    }

    /// The ids of the current participants, sorted; at most 1,000. Has a complexity of 40, because the
    /// list takes up to 40 kB.
    #[graphql(complexity = 40)]
    async fn participant_ids(&self) -> Vec<ID> {
        self.participants.iter().map(|id| ID(id.to_string())).collect()
    }

    /// The current participants, sorted by id. Null with an UNAVAILABLE error while the auth service is
    /// unavailable; `participantIds` is always set.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn participants(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The page size, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Returns the items after this cursor.")] after: Option<String>,
    ) -> Result<Option<UserConnection>, Error> {
        let page = self.participants_page(first, after.as_deref())?;
        let users = Scope::of(ctx).loaders.users.load_all(page.users.iter().copied()).await?;
        let parent = self.id.to_string();
        let list = List::new("participants", &parent);
        let cursor = |user: &User| list.cursor(&user.id);
        Ok(Some(UserConnection::new(users, page.has_next, page.has_previous, cursor)))
    }

    /// The time of creation.
    async fn created_at(&self) -> DateTime {
        DateTime::from_microseconds(self.created_at_us)
    }

    /// The time of the newest message, or of the dialog's creation if there is none.
    async fn last_activity_at(&self) -> DateTime {
        DateTime::from_microseconds(self.last_activity_us)
    }

    /// The newest message that the caller may see. Null if there is none.
    async fn last_message(&self) -> Option<&Message> {
        self.last_message.as_ref()
    }

    /// The number of messages that the caller has not read. At least as new as every frame and response
    /// that this gateway has sent to the caller. Null with an UNAVAILABLE error while the counter
    /// service is unavailable. Null without an error until the counter service has processed that the
    /// caller joined.
    async fn unread_count(&self, ctx: &Context<'_>) -> Result<Option<i64>, Error> {
        let row = Scope::of(ctx).loaders.rows.load(self.id).await?;
        Ok(row.map(|row| row.unread))
    }

    /// The read receipts of the participants, sorted by user id. Null with an UNAVAILABLE error while
    /// the counter service is unavailable.
    #[graphql(complexity = "page::cost(first, PAGE_DEFAULT, child_complexity)")]
    async fn read_states(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The page size, 1 to 100.", default_with = "Some(PAGE_DEFAULT)")] first: Option<i32>,
        #[graphql(desc = "Returns the items after this `userId`: the last one of the previous page.")]
        after: Option<String>,
    ) -> Result<Option<Vec<ReadState>>, Error> {
        let first = page::size("first", first, PAGE_DEFAULT)?;
        let after =
            after.map(|id| id.parse()).transpose().map_err(|_| Error::input("`after` is not a `userId`"))?;
        let page = ReadStatesPage { dialog: self.id, first, after };
        let states = Scope::of(ctx).loaders.read_states.load(page).await?;
        Ok(Some(states.unwrap_or_default()))
    }

    /// The dialog's messages, oldest first. Without arguments, the newest 20. `after` requires `first`,
    /// `before` requires `last`, and `first` and `last` exclude each other.
    #[graphql(complexity = "page::cost(first.or(last), PAGE_DEFAULT, child_complexity)")]
    async fn messages(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Returns the first messages, or the first ones after `after`: 1 to 100.")]
        first: Option<i32>,
        #[graphql(desc = "Returns the messages after this cursor. Requires `first`.")] after: Option<String>,
        #[graphql(desc = "Returns the last messages, or the last ones before `before`: 1 to 100.")]
        last: Option<i32>,
        #[graphql(desc = "Returns the messages before this cursor. Requires `last`.")] before: Option<String>,
    ) -> Result<MessageConnection, Error> {
        let scope = Scope::of(ctx);
        // This is the only non-null field that needs another call: its failure nulls the parent,
        // possibly up to the root field, whose other work is then abandoned.
        let page = self
            .history_page(first, after.as_deref(), last, before.as_deref())
            .inspect_err(|_| scope.nulled_fields.failed(ctx))?;
        let history =
            scope.loaders.history.load(page).await.and_then(|history| {
                history.ok_or_else(|| Error::new(Code::NotFound, "there is no such dialog"))
            });
        let history = history.inspect_err(|_| scope.nulled_fields.failed(ctx))?;
        let messages = history.messages.iter().map(Arc::clone).collect();
        let parent = self.id.to_string();
        let list = List::new("messages", &parent);
        let cursor = |message: &Message| list.cursor(&message.seq.to_string());
        Ok(MessageConnection::new(messages, history.has_next, history.has_previous, cursor))
    }
}

/// A page of a dialog's participants.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParticipantsPage<'a> {
    /// The participants.
    pub users: &'a [UserId],
    /// True if there are participants after the page.
    pub has_next: bool,
    /// True if there are participants before the page.
    pub has_previous: bool,
}

impl Dialog {
    /// Returns the page of participants that the arguments of `participants` select.
    ///
    /// # Errors
    /// BAD_USER_INPUT.
    pub(super) fn participants_page(
        &self,
        first: Option<i32>,
        after: Option<&str>,
    ) -> Result<ParticipantsPage<'_>, Error> {
        let size = usize::try_from(page::size("first", first, PAGE_DEFAULT)?).unwrap_or_default();
        let position =
            |cursor: &str| List::new("participants", &self.id.to_string()).position::<UserId>(cursor);
        let after = after.map(position).transpose()?;
        let start = after.map_or(0, |after| self.participants.partition_point(|id| *id <= after));
        let rest = self.participants.get(start..).unwrap_or_default();
        let users = rest.get(..size).unwrap_or(rest);
        Ok(ParticipantsPage { users, has_next: rest.len() > size, has_previous: start > 0 })
    }

    /// Returns the page of messages that the arguments of `messages` select.
    ///
    /// # Errors
    /// BAD_USER_INPUT.
    pub(super) fn history_page(
        &self,
        first: Option<i32>,
        after: Option<&str>,
        last: Option<i32>,
        before: Option<&str>,
    ) -> Result<HistoryPage, Error> {
        history_page(self.id, first, after, last, before)
    }

    /// Returns the cursor of the dialog in a list of dialogs.
    pub(super) fn cursor(&self, list: &List<'_>) -> String {
        list.cursor(&format!("{}:{}", self.last_activity_us, self.id))
    }
}

/// Parses the page arguments of `messages`.
fn history_page(
    dialog: DialogId,
    first: Option<i32>,
    after: Option<&str>,
    last: Option<i32>,
    before: Option<&str>,
) -> Result<HistoryPage, Error> {
    let position = |cursor: &str| List::new("messages", &dialog.to_string()).position::<i64>(cursor);
    let seq = |cursor: Option<&str>| cursor.map(position).transpose();
    match (first, last) {
        (Some(_), Some(_)) => Err(Error::input("`first` and `last` exclude each other")),
        (Some(_), None) if before.is_some() => Err(Error::input("`before` goes with `last`")),
        (Some(_), None) => Ok(HistoryPage::Forward {
            dialog,
            first: page::size("first", first, PAGE_DEFAULT)?,
            after: seq(after)?,
        }),
        (None, _) if after.is_some() => Err(Error::input("`after` goes with `first`")),
        (None, _) => Ok(HistoryPage::Backward {
            dialog,
            last: page::size("last", last, PAGE_DEFAULT)?,
            before: seq(before)?,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_history_has_one_direction() {
        let dialog = DialogId::now();
        let parent = dialog.to_string();
        let list = List::new("messages", &parent);
        let cursor = list.cursor("7");
        let foreign = List::new("messages", &DialogId::now().to_string()).cursor("7");
        let page = |first, after: Option<&str>, last, before: Option<&str>| {
            history_page(dialog, first, after, last, before)
        };
        assert_eq!(
            page(None, None, None, None),
            Ok(HistoryPage::Backward { dialog, last: 20, before: None })
        );
        let forward = HistoryPage::Forward { dialog, first: 5, after: Some(7) };
        assert_eq!(page(Some(5), Some(&cursor), None, None), Ok(forward));
        let backward = HistoryPage::Backward { dialog, last: 5, before: Some(7) };
        assert_eq!(page(None, None, Some(5), Some(&cursor)), Ok(backward));
        for refused in [
            page(Some(5), None, Some(5), None),
            page(Some(5), None, None, Some(&cursor)),
            page(None, Some(&cursor), Some(5), None),
            page(None, Some(&cursor), None, None),
            page(Some(0), None, None, None),
            page(None, None, Some(101), None),
            page(Some(5), Some(&foreign), None, None),
            page(Some(5), Some("7"), None, None),
        ] {
            assert_eq!(refused.expect_err("the arguments are invalid").code(), Code::BadUserInput);
        }
    }
}
