//! What can be watched. The resolvers do no I/O: they tell a probe what is subscribed to, or turn one frame of the hub
//! into one result (see [`crate::live`]).

use async_graphql::{Context, Enum, ID, SimpleObject};
use futures_util::stream::{self, Iter};
use proto::dialog::Status;

use super::{DialogUnread, Message, ReadState, Scope, page};
use crate::{
    error::{Code, Error},
    hub::{messages, unread},
    live::{Feed, Frame, Start},
    version::Version,
};

/// One result, or none: what a resolver gives.
type AtMostOne<T> = Iter<std::option::IntoIter<T>>;

/// What a frame of `unread` is.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadEventKind {
    /// The whole state: it replaces what the client has. The dialogs with something unread, newest activity first; at most
    /// 1,000 of them, then `truncated`.
    Snapshot,
    /// The rows that changed since the frame before, those that became zero and new dialogs included. Several changes may
    /// be merged into one frame.
    Change,
    /// First frame where `since` is the newest version already: nothing has changed.
    Current,
}

/// A frame of `unread`. All numbers are absolute, never differences.
#[derive(SimpleObject, Debug)]
pub struct UnreadEvent {
    /// What the frame is.
    kind: UnreadEventKind,
    /// The version that the client has after this frame, "epoch-number"; give it as `since` to go on from here.
    version: String,
    /// The version of the frame before on this stream; null in the first.
    previous_version: Option<String>,
    /// How many messages the caller has not read in all dialogs together. Exact, also where the rows are truncated.
    total: i64,
    /// The rows, as the kind says.
    #[graphql(complexity = "page::list_cost(unread::ROWS_MAX, child_complexity)")]
    changed: Vec<DialogUnread>,
    /// Whether a snapshot leaves rows out.
    truncated: bool,
}

/// What a frame of `messages` says.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageEventKind {
    /// A message was stored.
    Sent,
    /// The counters have counted a message.
    Committed,
    /// The counters have refused a message. Its author reads why; others read neither text nor reason.
    Failed,
    /// A message was deleted by its author.
    Deleted,
    /// Too much has changed to be told: load the history again. Carries no message.
    Reset,
    /// First frame where nothing is replayed: carries the version to resume from, and no message.
    Current,
}

/// A frame of `messages`: the newest state of one message, with what happened to it last. Several events of a message may
/// be merged into one frame.
#[derive(SimpleObject, Debug)]
pub struct MessageEvent {
    /// What happened.
    kind: MessageEventKind,
    /// The dialog's version, "epoch-number"; give it as `since` to go on from here.
    version: String,
    /// The message; null in RESET and CURRENT.
    message: Option<Message>,
}

/// The root of subscriptions.
pub struct Subscription;

/// What can be watched, over WebSocket or as a stream over HTTP. Each stream begins with what is there and goes on with
/// every change; a client that reads slowly skips to the newest state. A stream that was cut off goes on from `since`.
#[async_graphql::Subscription]
impl Subscription {
    /// The caller's counters: the state first, then every change.
    async fn unread(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "The version that the client has. Where it is the newest, the first frame is CURRENT; where it is \
            any other, however strange, a SNAPSHOT."
        )]
        since: Option<String>,
    ) -> Result<AtMostOne<UnreadEvent>, Error> {
        Scope::of(ctx).viewer()?;
        let since = since.map(|text| text.parse()).transpose();
        let since = since.map_err(|_| Error::input("`since` is not a version"))?;
        let frame = Feed::begin(ctx, Start::Unread { since })?;
        one(frame.as_deref().map(UnreadEvent::try_from))
    }

    /// What is said in a dialog: the messages that changed since a version, then every change. It ends when the caller
    /// leaves the dialog.
    async fn messages(
        &self,
        ctx: &Context<'_>,
        dialog_id: ID,
        #[graphql(
            desc = "The version of a frame or \"0\", which is the beginning; without it: from now on."
        )]
        since: Option<String>,
    ) -> Result<AtMostOne<MessageEvent>, Error> {
        Scope::of(ctx).viewer()?;
        let dialog = dialog_id.parse().map_err(|_| absent())?;
        let since = since.as_deref().map(version_of_dialog).transpose()?;
        let frame = Feed::begin(ctx, Start::Messages { dialog, since })?;
        one(frame.as_deref().map(MessageEvent::try_from))
    }

    /// How far the participants of a dialog have read: everyone's state, then every move. It ends when the caller leaves
    /// the dialog.
    async fn read_states(&self, ctx: &Context<'_>, dialog_id: ID) -> Result<AtMostOne<ReadState>, Error> {
        Scope::of(ctx).viewer()?;
        let dialog = dialog_id.parse().map_err(|_| absent())?;
        let frame = Feed::begin(ctx, Start::ReadStates { dialog })?;
        one(frame.as_deref().map(|frame| match frame {
            Frame::ReadState(_, state) => Ok(ReadState { user: state.user, read_seq: state.read_seq }),
            _ => Err(other_stream()),
        }))
    }
}

fn one<T>(result: Option<Result<T, Error>>) -> Result<AtMostOne<T>, Error> {
    Ok(stream::iter(result.transpose()?))
}

/// Ids that are none look like those of dialogs that are absent or somebody else's.
fn absent() -> Error {
    Error::new(Code::NotFound, "no such dialog")
}

fn other_stream() -> Error {
    Error::internal("a frame of another stream")
}

/// A version, or "0": before everything, in every epoch.
fn version_of_dialog(text: &str) -> Result<Version, Error> {
    if text == "0" {
        return Ok(Version::new(0, 0));
    }
    text.parse().map_err(|_| Error::input("`since` is not a version"))
}

impl TryFrom<&Frame> for UnreadEvent {
    type Error = Error;

    fn try_from(frame: &Frame) -> Result<Self, Error> {
        let Frame::Unread(frame) = frame else { return Err(other_stream()) };
        let row = |row: &unread::frame::Row| DialogUnread {
            dialog: row.dialog,
            unread: row.unread,
            read_seq: row.read_seq,
            last_seq: row.last_seq,
        };
        Ok(Self {
            kind: match frame.kind {
                unread::frame::Kind::Snapshot => UnreadEventKind::Snapshot,
                unread::frame::Kind::Change => UnreadEventKind::Change,
                unread::frame::Kind::Current => UnreadEventKind::Current,
            },
            version: frame.version.to_string(),
            previous_version: frame.previous.map(|version| version.to_string()),
            total: frame.total,
            changed: frame.rows.iter().map(row).collect(),
            truncated: frame.truncated,
        })
    }
}

impl TryFrom<&Frame> for MessageEvent {
    type Error = Error;

    /// Others than the author read neither text nor reason of a failed message.
    fn try_from(frame: &Frame) -> Result<Self, Error> {
        use messages::frame::Kind;
        let Frame::Message(_, frame) = frame else { return Err(other_stream()) };
        let message = frame.message.as_deref().map(|message| {
            let mut message = message.clone();
            if !frame.author {
                message.failure_reason = None;
                if message.status() == Status::Failed {
                    message.text.clear();
                }
            }
            Message::try_from(message)
        });
        Ok(Self {
            kind: match frame.kind {
                Kind::Sent => MessageEventKind::Sent,
                Kind::Committed => MessageEventKind::Committed,
                Kind::Failed => MessageEventKind::Failed,
                Kind::Deleted => MessageEventKind::Deleted,
                Kind::Reset => MessageEventKind::Reset,
                Kind::Current => MessageEventKind::Current,
            },
            version: frame.version.to_string(),
            message: message.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::{DialogId, MessageId, TransactionId, UserId, dialog};

    use super::*;

    #[test]
    fn others_than_its_author_read_no_words_of_a_failed_message() {
        let author = UserId::now();
        let mut message = dialog::Message {
            id: MessageId::now().bytes(),
            dialog_id: DialogId::now().bytes(),
            sender_id: author.bytes(),
            transaction_id: TransactionId::now().bytes(),
            text: "words".to_owned(),
            failure_reason: Some("full".to_owned()),
            ..dialog::Message::default()
        };
        message.set_status(Status::Failed);
        let message = Arc::new(message);
        for (reader, text, reason) in [(author, "words", Some("full")), (UserId::now(), "", None)] {
            let version = Version::new(1, 1);
            let frame = messages::frame::Frame::about(
                messages::frame::Kind::Failed,
                version,
                message.clone(),
                reader,
            );
            let event = MessageEvent::try_from(&Frame::Message(DialogId::now(), frame)).expect("an event");
            let shown = event.message.expect("a message");
            assert_eq!((shown.text.as_str(), shown.failure_reason.as_deref()), (text, reason));
        }
    }

    #[test]
    fn the_beginning_is_a_version_of_dialogs_alone() {
        assert_eq!(version_of_dialog("0"), Ok(Version::new(0, 0)));
        assert_eq!(version_of_dialog("3-7"), Ok(Version::new(3, 7)));
        for text in ["", "00", "-1", "7", "x"] {
            assert!(version_of_dialog(text).is_err(), "{text}");
        }
    }
}
