//! Writer of a plan's answer: JSON with the fields in the order of the document, without a value in between.

use std::{fmt::Display, io::Write};

use async_graphql::Variables;
use serde::Serialize;

use super::{
    Root, Unplanned,
    loads::{Loads, history_page, read_states_page},
    selection::{
        ConnectionField, DialogField, EdgeField, Fields, MessageField, PageBoundsField, QueryField,
        ReadStateField, RowField, Selection, UnreadField, UserField,
    },
};
use crate::schema::{
    DateTime, Dialog, DialogUnread, Message, ReadState, Unread, User, cursor::List, loaders::DialogPage,
};

/// Initial capacity of an answer, in bytes.
const CAPACITY_BYTES: usize = 512;

/// Writes one answer.
pub(super) struct Writer<'a> {
    loads: &'a Loads,
    variables: &'a Variables,
    json: Vec<u8>,
}

/// Items of a page, and what is around it.
struct Items<'a, T> {
    items: &'a [T],
    has_next: bool,
    has_previous: bool,
}

type Written = Result<(), Unplanned>;

impl<'a> Writer<'a> {
    /// Creates a writer of the objects that were loaded.
    pub fn new(loads: &'a Loads, variables: &'a Variables) -> Self {
        Self { loads, variables, json: Vec::with_capacity(CAPACITY_BYTES) }
    }

    /// Returns the response with the values of the root fields, in the order of the document.
    ///
    /// # Errors
    /// [`Unplanned`] if a value is missing.
    pub fn answer(mut self, fields: &Selection<QueryField>, roots: &[Root]) -> Result<Vec<u8>, Unplanned> {
        let mut roots = roots.iter();
        self.raw("{\"data\":");
        self.object(fields, |writer, field| writer.root(field, roots.next().ok_or(Unplanned)?))?;
        self.raw("}");
        Ok(self.json)
    }

    fn root(&mut self, field: &QueryField, root: &Root) -> Written {
        match (field, root) {
            (QueryField::Me(fields) | QueryField::User { fields, .. }, Root::User(user)) => {
                self.optional(user.as_deref(), |writer, user| writer.user(fields, user))
            }
            (QueryField::Dialog { fields, .. }, Root::Dialog(dialog)) => {
                self.optional(dialog.as_deref(), |writer, dialog| writer.dialog(fields, dialog))
            }
            (QueryField::Dialogs { page, .. }, Root::Dialogs(found, list)) => {
                let DialogPage { dialogs, has_next } = &**found;
                let items = Items { items: dialogs, has_next: *has_next, has_previous: list.after.is_some() };
                let user = list.user.to_string();
                let list = List::new("dialogs", &user);
                self.page(page, &items, &|dialog| dialog.cursor(&list), |writer, fields, dialog| {
                    writer.dialog(fields, dialog)
                })
            }
            (QueryField::DialogUnread { fields, .. }, Root::Row(row)) => {
                self.optional(row.as_ref(), |writer, row| writer.row(fields, row))
            }
            (QueryField::Message { fields, .. }, Root::Message(message)) => {
                self.optional(message.as_deref(), |writer, message| writer.message(fields, message))
            }
            (QueryField::Unread { fields, .. }, Root::Unread(unread)) => self.unread(fields, unread),
            _ => Err(Unplanned),
        }
    }

    fn user(&mut self, fields: &Selection<UserField>, user: &User) -> Written {
        self.object(fields, |writer, field| {
            match field {
                UserField::Id => writer.plain(user.id.as_str()),
                UserField::Login => writer.value(&user.login),
                UserField::Name => writer.value(&user.name),
                UserField::CreatedAt => writer.time(user.created_at),
            }
            Ok(())
        })
    }

    fn message(&mut self, fields: &Selection<MessageField>, message: &Message) -> Written {
        self.object(fields, |writer, field| {
            match field {
                MessageField::Id => writer.plain(message.id.as_str()),
                MessageField::DialogId => writer.plain(message.dialog_id.as_str()),
                MessageField::Seq => writer.value(&message.seq),
                MessageField::SenderId => writer.plain(message.sender_id.as_str()),
                MessageField::Text => writer.value(&message.text),
                MessageField::Status => writer.plain(message.status.name()),
                MessageField::FailureReason => writer.value(&message.failure_reason),
                MessageField::TransactionId => writer.plain(message.transaction_id.as_str()),
                MessageField::CreatedAt => writer.time(message.created_at),
                MessageField::DeletedAt => match message.deleted_at {
                    Some(time) => writer.time(time),
                    None => writer.raw("null"),
                },
                MessageField::Sender(fields) => {
                    let sender = writer.loads.user(message.sender);
                    return writer.optional(sender.as_deref(), |writer, user| writer.user(fields, user));
                }
            }
            Ok(())
        })
    }

    fn dialog(&mut self, fields: &Selection<DialogField>, dialog: &Dialog) -> Written {
        self.object(fields, |writer, field| writer.dialog_field(field, dialog))
    }

    fn dialog_field(&mut self, field: &DialogField, dialog: &Dialog) -> Written {
        match field {
            DialogField::Id => self.plain(dialog.id),
            DialogField::Title => self.value(&dialog.title),
            DialogField::Direct => self.value(&dialog.direct),
            DialogField::ParticipantIds => {
                return self.list(&dialog.participants, |writer, id| {
                    writer.plain(id);
                    Ok(())
                });
            }
            DialogField::Participants { first, after, page } => {
                let found =
                    dialog.participants_page(first.int(self.variables)?, after.text(self.variables)?)?;
                let users: Vec<_> = found.users.iter().filter_map(|id| self.loads.user(*id)).collect();
                let items =
                    Items { items: &users, has_next: found.has_next, has_previous: found.has_previous };
                let parent = dialog.id.to_string();
                let list = List::new("participants", &parent);
                return self.page(page, &items, &|user| list.cursor(&user.id), |writer, fields, user| {
                    writer.user(fields, user)
                });
            }
            DialogField::CreatedAt => self.time(DateTime::from_microseconds(dialog.created_at_us)),
            DialogField::LastActivityAt => self.time(DateTime::from_microseconds(dialog.last_activity_us)),
            DialogField::LastMessage(fields) => {
                let message = dialog.last_message.as_ref();
                return self.optional(message, |writer, message| writer.message(fields, message));
            }
            DialogField::UnreadCount => self.value(&self.loads.row(dialog.id).map(|row| row.unread)),
            DialogField::ReadStates { first, after, fields } => {
                let page = read_states_page(dialog, self.variables, (first, after))?;
                let states = self.loads.read_states_of(&page);
                return self.list(&states, |writer, state| writer.read_state(fields, state));
            }
            DialogField::Messages { window, page } => {
                let history = history_page(dialog, self.variables, window)?;
                let history = self.loads.history_of(&history).ok_or(Unplanned)?;
                let items = Items {
                    items: &history.messages,
                    has_next: history.has_next,
                    has_previous: history.has_previous,
                };
                let parent = dialog.id.to_string();
                let list = List::new("messages", &parent);
                return self.page(
                    page,
                    &items,
                    &|message| list.cursor(&message.seq.to_string()),
                    |writer, fields, message| writer.message(fields, message),
                );
            }
        }
        Ok(())
    }

    fn read_state(&mut self, fields: &Selection<ReadStateField>, state: &ReadState) -> Written {
        self.object(fields, |writer, field| {
            match field {
                ReadStateField::UserId => writer.plain(state.user),
                ReadStateField::ReadSeq => writer.value(&state.read_seq),
                ReadStateField::User(fields) => {
                    let user = writer.loads.user(state.user);
                    return writer.optional(user.as_deref(), |writer, user| writer.user(fields, user));
                }
            }
            Ok(())
        })
    }

    fn unread(&mut self, fields: &Selection<UnreadField>, unread: &Unread) -> Written {
        self.object(fields, |writer, field| {
            match field {
                UnreadField::Total => writer.value(&unread.total),
                UnreadField::Version => writer.plain(unread.version),
                UnreadField::Stale => writer.value(&unread.stale),
                UnreadField::Dialogs { first, fields } => {
                    let rows = unread.first(first.int(writer.variables)?)?;
                    return writer.list(rows, |writer, row| writer.row(fields, row));
                }
            }
            Ok(())
        })
    }

    fn row(&mut self, fields: &Selection<RowField>, row: &DialogUnread) -> Written {
        self.object(fields, |writer, field| {
            match field {
                RowField::DialogId => writer.plain(row.dialog),
                RowField::Unread => writer.value(&row.unread),
                RowField::ReadSeq => writer.value(&row.read_seq),
                RowField::LastSeq => writer.value(&row.last_seq),
                RowField::Stale => writer.value(&row.stale),
                RowField::Dialog(fields) => {
                    let dialog = writer.loads.dialog(row.dialog);
                    return writer
                        .optional(dialog.as_deref(), |writer, dialog| writer.dialog(fields, dialog));
                }
            }
            Ok(())
        })
    }

    /// Writes a page.
    fn page<F, T>(
        &mut self,
        fields: &Selection<ConnectionField<F>>,
        items: &Items<'_, T>,
        cursor: &dyn Fn(&T) -> String,
        node: impl Fn(&mut Self, &Selection<F>, &T) -> Written + Copy,
    ) -> Written
    where
        ConnectionField<F>: Fields,
        EdgeField<F>: Fields,
    {
        self.object(fields, |writer, field| match field {
            ConnectionField::Nodes(fields) => {
                writer.list(items.items, |writer, item| node(writer, fields, item))
            }
            ConnectionField::Edges(fields) => writer.list(items.items, |writer, item| {
                writer.object(fields, |writer, field| match field {
                    EdgeField::Cursor => {
                        writer.plain(cursor(item));
                        Ok(())
                    }
                    EdgeField::Node(fields) => node(writer, fields, item),
                })
            }),
            ConnectionField::PageInfo(fields) => writer.object(fields, |writer, field| {
                match field {
                    PageBoundsField::HasNextPage => writer.value(&items.has_next),
                    PageBoundsField::HasPreviousPage => writer.value(&items.has_previous),
                    PageBoundsField::StartCursor => writer.value(&items.items.first().map(cursor)),
                    PageBoundsField::EndCursor => writer.value(&items.items.last().map(cursor)),
                }
                Ok(())
            }),
        })
    }

    /// Writes an object; `value` writes the value of each field.
    fn object<F: Fields>(
        &mut self,
        fields: &Selection<F>,
        mut value: impl FnMut(&mut Self, &F) -> Written,
    ) -> Written {
        let mut separator = "{";
        for selected in &fields.0 {
            self.raw(separator);
            separator = ",";
            self.raw(&selected.key);
            match &selected.field {
                Some(field) => value(self, field)?,
                None => self.plain(F::TYPE),
            }
        }
        self.raw(if fields.0.is_empty() { "{}" } else { "}" });
        Ok(())
    }

    fn list<T>(&mut self, items: &[T], mut value: impl FnMut(&mut Self, &T) -> Written) -> Written {
        self.raw("[");
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.raw(",");
            }
            value(self, item)?;
        }
        self.raw("]");
        Ok(())
    }

    fn optional<T>(&mut self, value: Option<&T>, some: impl FnOnce(&mut Self, &T) -> Written) -> Written {
        match value {
            Some(value) => some(self, value),
            None => {
                self.raw("null");
                Ok(())
            }
        }
    }

    fn time(&mut self, time: DateTime) {
        self.plain(time);
    }

    /// Writes a string whose text needs no escapes, such as an id.
    fn plain(&mut self, text: impl Display) {
        write!(self.json, "\"{text}\"").expect("writing to memory cannot fail");
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.json, value).expect("a string or a number serializes to JSON");
    }

    fn raw(&mut self, json: &str) {
        self.json.extend_from_slice(json.as_bytes());
    }
}
