//! Selected fields of a plan: those of a normalized document, as enums of the types that a plan can answer.

use async_graphql::{Name, Variables};
use async_graphql_parser::types as executor;
use async_graphql_value::{ConstValue, Value};

use super::Unplanned;
use crate::{
    operation::response_shape::EMPTY_OBJECT,
    schema::page::{self, PAGE_DEFAULT},
};

/// Selected fields of an object, in the order of the document.
#[derive(Debug)]
pub(super) struct Selection<F>(pub Vec<Selected<F>>);

/// Selected field.
#[derive(Debug)]
pub(super) struct Selected<F> {
    /// Response name as JSON, with the colon: `"id":`.
    pub key: Box<str>,
    /// The field, `None` for `__typename`.
    pub field: Option<F>,
}

/// Fields of one type of the schema.
pub(super) trait Fields: Sized {
    /// Name of the type.
    const TYPE: &'static str;

    /// Returns the selected field. `None` if a plan cannot answer it.
    fn parse(field: &executor::Field) -> Option<Self>;
}

/// Fields of a type that is paged.
pub(super) trait NodeFields: Fields {
    /// Name of the type of a page.
    const CONNECTION: &'static str;
    /// Name of the type of an item with its cursor.
    const EDGE: &'static str;
}

impl<F: Fields> Selection<F> {
    /// Returns the fields below a field. `None` if a plan cannot answer one of them.
    pub fn below(field: &executor::Field) -> Option<Self> {
        Self::parse(&field.selection_set.node)
    }

    /// Returns the fields of a normalized selection set. `None` if a plan cannot answer one of them.
    pub fn parse(set: &executor::SelectionSet) -> Option<Self> {
        let mut selected = Vec::with_capacity(set.items.len());
        for item in &set.items {
            let executor::Selection::Field(field) = &item.node else { return None };
            let field = &field.node;
            let name = field.response_key().node.as_str();
            if name == EMPTY_OBJECT {
                continue;
            }
            let is_typename = field.name.node == "__typename";
            let parsed = if is_typename { None } else { Some(F::parse(field)?) };
            selected.push(Selected { key: format!("\"{name}\":").into(), field: parsed });
        }
        Some(Self(selected))
    }

    /// Returns the fields, except for `__typename`.
    pub fn fields(&self) -> impl Iterator<Item = &F> {
        self.0.iter().filter_map(|selected| selected.field.as_ref())
    }
}

/// Argument of a field: absent, a constant or a variable.
#[derive(Debug)]
pub(super) struct Argument(Option<Value>);

impl Argument {
    fn of(field: &executor::Field, name: &str) -> Self {
        Self(field.get_argument(name).map(|value| value.node.clone()))
    }

    /// Returns true if the request gives no value.
    pub fn is_absent(&self, variables: &Variables) -> bool {
        match &self.0 {
            None | Some(Value::Null) => true,
            Some(Value::Variable(name)) => matches!(variable(variables, name), None | Some(ConstValue::Null)),
            Some(_) => false,
        }
    }

    /// Returns the value of an argument of type `Int`.
    pub fn int(&self, variables: &Variables) -> Result<Option<i32>, Unplanned> {
        let number = match &self.0 {
            _ if self.is_absent(variables) => return Ok(None),
            Some(Value::Number(number)) => Some(number),
            Some(Value::Variable(name)) => match variable(variables, name) {
                Some(ConstValue::Number(number)) => Some(number),
                _ => None,
            },
            _ => None,
        };
        let int = number.and_then(|number| number.as_i64()).and_then(|int| i32::try_from(int).ok());
        int.map(Some).ok_or(Unplanned)
    }

    /// Returns the value of an argument of type `String` or `ID`.
    pub fn text<'a>(&'a self, variables: &'a Variables) -> Result<Option<&'a str>, Unplanned> {
        match &self.0 {
            _ if self.is_absent(variables) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Variable(name)) => match variable(variables, name) {
                Some(ConstValue::String(text)) => Ok(Some(text)),
                _ => Err(Unplanned),
            },
            _ => Err(Unplanned),
        }
    }
}

fn variable<'a>(variables: &'a Variables, name: &Name) -> Option<&'a ConstValue> {
    variables.get(name)
}

/// Fields of the query root.
#[derive(Debug)]
pub(super) enum QueryField {
    Me(Selection<UserField>),
    User { id: Argument, fields: Selection<UserField> },
    Dialog { id: Argument, fields: Selection<DialogField> },
    Dialogs { first: Argument, after: Argument, page: Selection<ConnectionField<DialogField>> },
    DialogUnread { dialog_id: Argument, fields: Selection<RowField> },
    Message { id: Argument, transaction_id: Argument, fields: Selection<MessageField> },
    Unread { at_least: Argument, fields: Selection<UnreadField> },
}

impl Fields for QueryField {
    const TYPE: &'static str = "Query";

    fn parse(field: &executor::Field) -> Option<Self> {
        let argument = |name| Argument::of(field, name);
        Some(match field.name.node.as_str() {
            "me" => Self::Me(Selection::below(field)?),
            "user" => Self::User { id: argument("id"), fields: Selection::below(field)? },
            "dialog" => Self::Dialog { id: argument("id"), fields: Selection::below(field)? },
            "dialogs" => Self::Dialogs {
                first: argument("first"),
                after: argument("after"),
                page: Selection::below(field)?,
            },
            "dialogUnread" => {
                Self::DialogUnread { dialog_id: argument("dialogId"), fields: Selection::below(field)? }
            }
            "message" => Self::Message {
                id: argument("id"),
                transaction_id: argument("transactionId"),
                fields: Selection::below(field)?,
            },
            "unread" => Self::Unread { at_least: argument("atLeast"), fields: Selection::below(field)? },
            _ => return None,
        })
    }
}

/// Fields of `User`.
#[derive(Debug)]
pub(super) enum UserField {
    Id,
    Login,
    Name,
    CreatedAt,
}

impl Fields for UserField {
    const TYPE: &'static str = "User";

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "id" => Self::Id,
            "login" => Self::Login,
            "name" => Self::Name,
            "createdAt" => Self::CreatedAt,
            _ => return None,
        })
    }
}

impl NodeFields for UserField {
    const CONNECTION: &'static str = "UserConnection";
    const EDGE: &'static str = "UserEdge";
}

/// Fields of `Message`.
#[derive(Debug)]
pub(super) enum MessageField {
    Id,
    DialogId,
    Seq,
    SenderId,
    Text,
    Status,
    FailureReason,
    TransactionId,
    CreatedAt,
    DeletedAt,
    Sender(Selection<UserField>),
}

impl Fields for MessageField {
    const TYPE: &'static str = "Message";

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "id" => Self::Id,
            "dialogId" => Self::DialogId,
            "seq" => Self::Seq,
            "senderId" => Self::SenderId,
            "text" => Self::Text,
            "status" => Self::Status,
            "failureReason" => Self::FailureReason,
            "transactionId" => Self::TransactionId,
            "createdAt" => Self::CreatedAt,
            "deletedAt" => Self::DeletedAt,
            "sender" => Self::Sender(Selection::below(field)?),
            _ => return None,
        })
    }
}

impl NodeFields for MessageField {
    const CONNECTION: &'static str = "MessageConnection";
    const EDGE: &'static str = "MessageEdge";
}

/// Fields of `Dialog`.
#[derive(Debug)]
pub(super) enum DialogField {
    Id,
    Title,
    Direct,
    ParticipantIds,
    Participants { first: Argument, after: Argument, page: Selection<ConnectionField<UserField>> },
    CreatedAt,
    LastActivityAt,
    LastMessage(Selection<MessageField>),
    UnreadCount,
    ReadStates { first: Argument, after: Argument, fields: Selection<ReadStateField> },
    Messages { window: Window, page: Selection<ConnectionField<MessageField>> },
}

/// Arguments of the field `messages`.
#[derive(Debug)]
pub(super) struct Window {
    pub first: Argument,
    pub after: Argument,
    pub last: Argument,
    pub before: Argument,
}

impl Fields for DialogField {
    const TYPE: &'static str = "Dialog";

    fn parse(field: &executor::Field) -> Option<Self> {
        let argument = |name| Argument::of(field, name);
        let first = argument("first");
        let after = argument("after");
        Some(match field.name.node.as_str() {
            "id" => Self::Id,
            "title" => Self::Title,
            "direct" => Self::Direct,
            "participantIds" => Self::ParticipantIds,
            "participants" => Self::Participants { first, after, page: Selection::below(field)? },
            "createdAt" => Self::CreatedAt,
            "lastActivityAt" => Self::LastActivityAt,
            "lastMessage" => Self::LastMessage(Selection::below(field)?),
            "unreadCount" => Self::UnreadCount,
            "readStates" => Self::ReadStates { first, after, fields: Selection::below(field)? },
            "messages" => {
                let window = Window { first, after, last: argument("last"), before: argument("before") };
                Self::Messages { window, page: Selection::below(field)? }
            }
            _ => return None,
        })
    }
}

impl NodeFields for DialogField {
    const CONNECTION: &'static str = "DialogConnection";
    const EDGE: &'static str = "DialogEdge";
}

/// Fields of `Unread`.
#[derive(Debug)]
pub(super) enum UnreadField {
    Total,
    Version,
    Stale,
    Dialogs { first: Argument, fields: Selection<RowField> },
}

impl Fields for UnreadField {
    const TYPE: &'static str = "Unread";

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "total" => Self::Total,
            "version" => Self::Version,
            "stale" => Self::Stale,
            "dialogs" => {
                Self::Dialogs { first: Argument::of(field, "first"), fields: Selection::below(field)? }
            }
            _ => return None,
        })
    }
}

/// Fields of `DialogUnread`.
#[derive(Debug)]
pub(super) enum RowField {
    DialogId,
    Dialog(Selection<DialogField>),
    Unread,
    ReadSeq,
    LastSeq,
    Stale,
}

impl Fields for RowField {
    const TYPE: &'static str = "DialogUnread";

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "dialogId" => Self::DialogId,
            "dialog" => Self::Dialog(Selection::below(field)?),
            "unread" => Self::Unread,
            "readSeq" => Self::ReadSeq,
            "lastSeq" => Self::LastSeq,
            "stale" => Self::Stale,
            _ => return None,
        })
    }
}

/// Fields of `ReadState`.
#[derive(Debug)]
pub(super) enum ReadStateField {
    UserId,
    User(Selection<UserField>),
    ReadSeq,
}

impl Fields for ReadStateField {
    const TYPE: &'static str = "ReadState";

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "userId" => Self::UserId,
            "user" => Self::User(Selection::below(field)?),
            "readSeq" => Self::ReadSeq,
            _ => return None,
        })
    }
}

/// Fields of a page.
#[derive(Debug)]
pub(super) enum ConnectionField<F> {
    Edges(Selection<EdgeField<F>>),
    Nodes(Selection<F>),
    PageInfo(Selection<PageBoundsField>),
}

impl<F: NodeFields> Fields for ConnectionField<F> {
    const TYPE: &'static str = F::CONNECTION;

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "edges" => Self::Edges(Selection::below(field)?),
            "nodes" => Self::Nodes(Selection::below(field)?),
            "pageInfo" => Self::PageInfo(Selection::below(field)?),
            _ => return None,
        })
    }
}

impl<F> Selection<ConnectionField<F>> {
    /// Returns the selections of the items, with and without their cursors.
    pub fn nodes(&self) -> impl Iterator<Item = &Selection<F>> {
        let selected = self.0.iter().filter_map(|selected| selected.field.as_ref());
        selected.flat_map(|field| {
            let (direct, edges) = match field {
                ConnectionField::Nodes(fields) => (Some(fields), None),
                ConnectionField::Edges(edges) => (None, Some(edges)),
                ConnectionField::PageInfo(_) => (None, None),
            };
            let edges = edges.into_iter().flat_map(|edges| &edges.0);
            let below = edges.filter_map(|selected| match &selected.field {
                Some(EdgeField::Node(fields)) => Some(fields),
                _ => None,
            });
            direct.into_iter().chain(below)
        })
    }
}

impl Selection<ConnectionField<DialogField>> {
    /// Returns the number of participants that each dialog needs: one more than a page of them, to know if
    /// there is a next page. `None` for all.
    pub fn participants_first(&self, variables: &Variables) -> Option<i32> {
        self.nodes().flat_map(Selection::fields).try_fold(0, |needed, field| match field {
            DialogField::ParticipantIds => None,
            DialogField::Participants { first, after, .. } => {
                let first = first.int(variables).ok()?.unwrap_or(PAGE_DEFAULT);
                (after.is_absent(variables) && page::size("first", Some(first), PAGE_DEFAULT).is_ok())
                    .then_some(needed.max(first + 1))
            }
            _ => Some(needed),
        })
    }
}

/// Fields of an item with its cursor.
#[derive(Debug)]
pub(super) enum EdgeField<F> {
    Cursor,
    Node(Selection<F>),
}

impl<F: NodeFields> Fields for EdgeField<F> {
    const TYPE: &'static str = F::EDGE;

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "cursor" => Self::Cursor,
            "node" => Self::Node(Selection::below(field)?),
            _ => return None,
        })
    }
}

/// Fields of the schema's `PageInfo`.
#[derive(Debug)]
pub(super) enum PageBoundsField {
    HasNextPage,
    HasPreviousPage,
    StartCursor,
    EndCursor,
}

impl Fields for PageBoundsField {
    const TYPE: &'static str = "PageInfo";

    fn parse(field: &executor::Field) -> Option<Self> {
        Some(match field.name.node.as_str() {
            "hasNextPage" => Self::HasNextPage,
            "hasPreviousPage" => Self::HasPreviousPage,
            "startCursor" => Self::StartCursor,
            "endCursor" => Self::EndCursor,
            _ => return None,
        })
    }
}
