//! gRPC service `tidings.dialog.Dialogs`: authenticates callers, parses requests, calls the operation
//! and encodes the response. Ids of new objects are generated here.

use proto::{
    DialogId, MessageId, TransactionId, UserId,
    dialog::{
        AddParticipantsRequest, ChangesSinceReply, ChangesSinceRequest, CreateRequest, DeleteRequest, Dialog,
        DialogVersion, DialogVersionsReply, DialogVersionsRequest, GetReply, GetRequest, HistoryReply,
        HistoryRequest, LeaveReply, LeaveRequest, ListReply, ListRequest, LiveReply, LiveRequest, Message,
        MessagesReply, MessagesRequest, MessagesSinceReply, MessagesSinceRequest, ParticipantsReply,
        ParticipantsRequest, ReadTargetReply, ReadTargetRequest, RenameRequest, SendRequest,
        dialogs_server::Dialogs,
    },
};
use telemetry::Call;
use tonic::{Request, Response, Status};

use crate::{
    App, Error, change, create, delete,
    history::history,
    list::list,
    membership,
    page::{Cursor, Page, PageSize, ParticipantsFirst},
    participants::{Participants, parse_invited},
    rename, send,
    store::{self, change::Changes},
    text::{ClientKey, Text, Title},
    wire::convert_all,
};

/// Objects requested by id per call.
const IDS_MAX: usize = 1_000;
/// Users per `Live` call: the subscribers of one dialog at one gateway.
const SUBSCRIBERS_MAX: usize = 10_000;
/// Pages of history per call.
const PAGES_MAX: usize = 100;

impl App {
    /// Authenticates a user and returns the user, the call context and the request.
    async fn authenticate_user<T>(&self, request: Request<T>) -> Result<(UserId, Call, T), Status> {
        let caller = self.guard.caller(request.metadata()).await?;
        Ok((UserId::new(caller.user), Call::of(&request), request.into_inner()))
    }

    /// Authenticates another service and returns the request.
    fn authenticate_service<T>(&self, request: Request<T>) -> Result<T, Status> {
        self.guard.service(request.metadata())?;
        Ok(request.into_inner())
    }
}

#[tonic::async_trait]
impl Dialogs for App {
    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Dialog>, Status> {
        let (caller, call, request) = self.authenticate_user(request).await?;
        let new = create::NewDialog {
            id: DialogId::now(),
            participants: Participants::parse(caller, &request.participant_ids)?,
            title: request.title.map(Title::parse).transpose()?,
            client_key: request.client_key.map(ClientKey::parse).transpose()?,
        };
        let dialog = create::create(&self.db, &self.auth, &call, caller, new).await?;
        Ok(Response::new(dialog.into()))
    }

    async fn add_participants(
        &self,
        request: Request<AddParticipantsRequest>,
    ) -> Result<Response<Dialog>, Status> {
        let (caller, call, request) = self.authenticate_user(request).await?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let invited = parse_invited(&request.user_ids)?;
        let dialog = membership::add(&self.db, &self.auth, &call, caller, id, invited).await?;
        Ok(Response::new(dialog.into()))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        let (caller, call, request) = self.authenticate_user(request).await?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let version = membership::leave(&self.db, &call, caller, id).await?;
        Ok(Response::new(LeaveReply { version }))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Result<Response<Dialog>, Status> {
        let (caller, call, request) = self.authenticate_user(request).await?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let title = Title::parse(request.title)?;
        Ok(Response::new(rename::rename(&self.db, &call, caller, id, title).await?.into()))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let (caller, _, request) = self.authenticate_user(request).await?;
        let after = request.after.as_ref().map_or(Ok(Cursor::START), Cursor::parse)?;
        let participants = ParticipantsFirst::parse(request.participants_first)?;
        let page = list(&self.db, caller, PageSize::parse(request.first)?, after, participants).await?;
        Ok(Response::new(ListReply { dialogs: convert_all(page.dialogs), has_next: page.has_next }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let (caller, _, request) = self.authenticate_user(request).await?;
        at_most(IDS_MAX, request.ids.len())?;
        let ids = parse(DialogId::parse_all(&request.ids))?;
        let dialogs = store::dialog::read_by_ids(&self.db, caller, ids).await.map_err(Error::from)?;
        Ok(Response::new(GetReply { dialogs: convert_all(dialogs) }))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryReply>, Status> {
        let (caller, _, request) = self.authenticate_user(request).await?;
        at_most(PAGES_MAX, request.pages.len())?;
        let pages = request.pages.iter().map(Page::parse).collect::<Result<Vec<_>, _>>()?;
        let pages = history(&self.db, caller, &pages).await?.into_iter();
        // The default is an empty page with `found` false, for a dialog that the caller may not see.
        let pages = pages.map(|page| page.map(Into::into).unwrap_or_default()).collect();
        Ok(Response::new(HistoryReply { pages }))
    }

    async fn messages(&self, request: Request<MessagesRequest>) -> Result<Response<MessagesReply>, Status> {
        let (caller, _, request) = self.authenticate_user(request).await?;
        at_most(IDS_MAX, request.ids.len() + request.transaction_ids.len())?;
        let ids = parse(MessageId::parse_all(&request.ids))?;
        let transactions = parse(TransactionId::parse_all(&request.transaction_ids))?;
        let messages =
            store::message::by_ids(&self.db, caller, &ids, &transactions).await.map_err(Error::from)?;
        Ok(Response::new(MessagesReply { messages: convert_all(messages) }))
    }

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<Message>, Status> {
        let (caller, call, request) = self.authenticate_user(request).await?;
        let new = send::NewMessage {
            id: MessageId::now(),
            transaction_id: TransactionId::now(),
            dialog_id: parse(DialogId::parse(&request.dialog_id))?,
            text: Text::parse(request.text)?,
            client_key: request.client_key.map(ClientKey::parse).transpose()?,
            read_up_to: parse(request.read_up_to.as_deref().map(MessageId::parse).transpose())?,
        };
        Ok(Response::new(send::send(&self.db, &self.sends, &call, caller, new).await?.into()))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<Message>, Status> {
        let (caller, call, request) = self.authenticate_user(request).await?;
        let id = parse(MessageId::parse(&request.message_id))?;
        Ok(Response::new(delete::delete(&self.db, &call, caller, id).await?.into()))
    }

    async fn read_target(
        &self,
        request: Request<ReadTargetRequest>,
    ) -> Result<Response<ReadTargetReply>, Status> {
        let (caller, _, request) = self.authenticate_user(request).await?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let message = parse(request.message_id.as_deref().map(MessageId::parse).transpose())?;
        let seq = store::message::seq_of(&self.db, id, caller, message).await.map_err(Error::from)?;
        match seq.ok_or(Error::NoDialog)? {
            // 0: the given message is not in this dialog.
            0 if message.is_some() => Err(Error::NoMessage.into()),
            seq => Ok(Response::new(ReadTargetReply { seq })),
        }
    }

    async fn messages_since(
        &self,
        request: Request<MessagesSinceRequest>,
    ) -> Result<Response<MessagesSinceReply>, Status> {
        let (caller, _, request) = self.authenticate_user(request).await?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let since =
            request.since.map(|since| change::Version::parse(since.epoch, since.number)).transpose()?;
        let replay = change::messages_since(&self.db, caller, id, since).await?;
        Ok(Response::new(replay.into()))
    }

    async fn changes_since(
        &self,
        request: Request<ChangesSinceRequest>,
    ) -> Result<Response<ChangesSinceReply>, Status> {
        let request = self.authenticate_service(request)?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        if request.since < 0 || !(1..=1_000).contains(&request.limit) {
            return Err(Error::Invalid("since must not be negative, and limit must be 1 to 1000").into());
        }
        let changes = store::change::rows(&self.db, id, request.since, request.limit.into()).await;
        let Changes { head, changes } = changes.map_err(Error::from)?.unwrap_or_default();
        Ok(Response::new(ChangesSinceReply { head, changes: convert_all(changes) }))
    }

    async fn dialog_versions(
        &self,
        request: Request<DialogVersionsRequest>,
    ) -> Result<Response<DialogVersionsReply>, Status> {
        let request = self.authenticate_service(request)?;
        let after = parse(request.after_id.as_deref().map(DialogId::parse).transpose())?;
        if !(1..=10_000).contains(&request.limit) {
            return Err(Error::Invalid("limit must be 1 to 10000").into());
        }
        let versions = store::dialog::versions(&self.db, after, request.limit.into()).await;
        let encode = |(id, version): (DialogId, i64)| DialogVersion { dialog_id: id.bytes(), version };
        let dialogs = versions.map_err(Error::from)?.into_iter().map(encode).collect();
        Ok(Response::new(DialogVersionsReply { dialogs }))
    }

    async fn live(&self, request: Request<LiveRequest>) -> Result<Response<LiveReply>, Status> {
        let request = self.authenticate_service(request)?;
        at_most(IDS_MAX, request.message_ids.len())?;
        at_most(SUBSCRIBERS_MAX, request.user_ids.len())?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let messages = parse(MessageId::parse_all(&request.message_ids))?;
        let users = parse(UserId::parse_all(&request.user_ids))?;
        Ok(Response::new(change::live_messages(&self.db, id, &messages, &users).await?.into()))
    }

    async fn participants(
        &self,
        request: Request<ParticipantsRequest>,
    ) -> Result<Response<ParticipantsReply>, Status> {
        let request = self.authenticate_service(request)?;
        let id = parse(DialogId::parse(&request.dialog_id))?;
        let users = store::membership::present(&self.db, id).await.map_err(Error::from)?;
        Ok(Response::new(ParticipantsReply { user_ids: users.into_iter().map(UserId::bytes).collect() }))
    }
}

/// Converts the error of a malformed id to INVALID_ARGUMENT.
fn parse<T>(id: Result<T, proto::InvalidId>) -> Result<T, Status> {
    id.map_err(|invalid| Error::from(invalid).into())
}

fn at_most(max: usize, requested: usize) -> Result<(), Status> {
    if requested <= max { Ok(()) } else { Err(Error::Invalid("too many ids or pages in one call").into()) }
}
