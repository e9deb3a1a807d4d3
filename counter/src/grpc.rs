//! gRPC interface: authenticates the caller, parses requests into domain types within their limits, and
//! encodes answers and errors.

use events::Headers;
use proto::{
    DialogId, MessageId, UserId,
    counter::{
        self as wire, LeaveReply, LeaveRequest, MarkReadReply, MarkReadRequest, ReadStatesPageReply,
        ReadStatesReply, ReadStatesRequest, RowsReply, RowsRequest, SeenReply, SeenRequest, SettleReply,
        SettleRequest, SnapshotsReply, SnapshotsRequest, UnreadMessagesPageReply, UnreadMessagesReply,
        UnreadMessagesRequest, UnreadReply, UnreadRequest, counters_server::Counters,
    },
};
use telemetry::Call;
use tonic::{Request, Response, Status};

use crate::{
    App, Error, call,
    event::NUMBER_MAX,
    restore, settle,
    unread::{self, ROWS_MAX, ReadStatesPage, Row, Snapshot, Version},
};

/// Maximum number of pages in one call.
const PAGES_MAX: usize = 100;
/// Maximum number of messages in a page of unread ones.
const UNREAD_MESSAGES_MAX: i32 = 100;

#[tonic::async_trait]
impl Counters for App {
    async fn unread(&self, request: Request<UnreadRequest>) -> Result<Response<UnreadReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        let first = page_size(request.first)?;
        let at_least = request.at_least.as_ref().map(parse_version);
        let unread = unread::load(&self.loader, user_id, first, at_least).await?;
        Ok(Response::new(UnreadReply {
            version: Some(encode_version(unread.version)),
            total: unread.total,
            rows: unread.rows.iter().map(encode_row).collect(),
            truncated: unread.truncated,
            stale: unread.stale,
        }))
    }

    async fn rows(&self, request: Request<RowsRequest>) -> Result<Response<RowsReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        at_most(request.dialog_ids.len(), ROWS_MAX, "at most 1,000 dialogs at once")?;
        let dialogs = DialogId::parse_all(&request.dialog_ids).map_err(Error::from)?;
        let at_least = request.at_least.as_ref().map(parse_version);
        let (version, rows) = unread::rows(&self.db, user_id, &dialogs, at_least).await?;
        Ok(Response::new(RowsReply {
            rows: rows.iter().map(encode_row).collect(),
            version: Some(encode_version(version)),
        }))
    }

    async fn mark_read(&self, request: Request<MarkReadRequest>) -> Result<Response<MarkReadReply>, Status> {
        let user_id = self.caller(&request).await?;
        let headers = Headers::from(&Call::of(&request));
        let request = request.into_inner();
        let dialog_id = DialogId::parse(&request.dialog_id).map_err(Error::from)?;
        if !(0..=NUMBER_MAX).contains(&request.seq) {
            return Err(Error::Invalid("a seq is between 0 and 2^53").into());
        }
        let marked = call::mark_read(&self.db, user_id, dialog_id, request.seq, headers).await?;
        Ok(Response::new(MarkReadReply {
            version: Some(encode_version(marked.head.version)),
            total: marked.head.total,
            row: Some(encode_row(&marked.row)),
            stale: marked.head.stale,
        }))
    }

    async fn read_states(
        &self,
        request: Request<ReadStatesRequest>,
    ) -> Result<Response<ReadStatesReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        at_most(request.pages.len(), PAGES_MAX, "at most 100 pages at once")?;
        let pages = request.pages.iter().map(read_states_page).collect::<Result<Vec<_>, _>>()?;
        let states = unread::read_states(&self.db, user_id, &pages).await?;
        let state =
            |(user_id, read_seq): (UserId, i64)| wire::ReadState { user_id: user_id.bytes(), read_seq };
        let page = |page: Option<unread::ReadStates>| ReadStatesPageReply {
            found: page.is_some(),
            states: page.into_iter().flatten().map(state).collect(),
        };
        Ok(Response::new(ReadStatesReply { pages: states.into_iter().map(page).collect() }))
    }

    async fn unread_messages(
        &self,
        request: Request<UnreadMessagesRequest>,
    ) -> Result<Response<UnreadMessagesReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        at_most(request.pages.len(), PAGES_MAX, "at most 100 pages at once")?;
        let pages = request.pages.iter().map(unread_messages_page).collect::<Result<Vec<_>, _>>()?;
        let pages = unread::messages(&self.db, user_id, &pages).await?;
        let page = |page: unread::MessageIds| UnreadMessagesPageReply {
            message_ids: page.ids.into_iter().map(MessageId::bytes).collect(),
            has_next: page.has_next,
        };
        Ok(Response::new(UnreadMessagesReply { pages: pages.into_iter().map(page).collect() }))
    }

    async fn snapshots(
        &self,
        request: Request<SnapshotsRequest>,
    ) -> Result<Response<SnapshotsReply>, Status> {
        self.guard.service(request.metadata())?;
        let request = request.into_inner();
        at_most(request.of.len(), ROWS_MAX, "at most 1,000 users at once")?;
        let requests = request
            .of
            .iter()
            .map(|of| Ok((UserId::parse(&of.user_id)?, of.since.as_ref().map(parse_version))))
            .collect::<Result<Vec<_>, Error>>()?;
        let snapshots = unread::snapshots(&self.db, &requests).await?;
        Ok(Response::new(SnapshotsReply { snapshots: snapshots.into_iter().map(encode_snapshot).collect() }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleReply>, Status> {
        self.guard.service(request.metadata())?;
        let headers = Headers::from(&Call::of(&request));
        let messages = request.into_inner().messages;
        at_most(messages.len(), ROWS_MAX, "at most 1,000 messages at once")?;
        let outcomes = settle::settle(&self.db, messages, headers).await?;
        let outcome = |outcome| match outcome {
            settle::Outcome::Counted => wire::Outcome { counted: true, refused: None },
            settle::Outcome::Refused(reason) => wire::Outcome { counted: false, refused: Some(reason) },
            settle::Outcome::Unknown => wire::Outcome { counted: false, refused: None },
        };
        Ok(Response::new(SettleReply { outcomes: outcomes.into_iter().map(outcome).collect() }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        self.guard.service(request.metadata())?;
        let headers = Headers::from(&Call::of(&request));
        let LeaveRequest { dialog_id, user_id, version } = request.into_inner();
        let dialog_id = DialogId::parse(&dialog_id).map_err(Error::from)?;
        let user_id = UserId::parse(&user_id).map_err(Error::from)?;
        if !(1..=NUMBER_MAX).contains(&version) {
            return Err(Error::Invalid("a version is between 1 and 2^53").into());
        }
        let left = call::leave(&self.db, user_id, dialog_id, version, headers).await?;
        self.cache.forget(user_id).await;
        Ok(Response::new(LeaveReply { version: Some(encode_version(left.head.version)) }))
    }

    async fn seen(&self, request: Request<SeenRequest>) -> Result<Response<SeenReply>, Status> {
        self.guard.service(request.metadata())?;
        let SeenRequest { user_id, version } = request.into_inner();
        let user_id = UserId::parse(&user_id).map_err(Error::from)?;
        let version = parse_version(&version.unwrap_or_default());
        let seen = restore::seen(&self.db, &self.loader, user_id, version).await;
        Ok(Response::new(SeenReply { epoch: seen.map_err(Error::from)? }))
    }
}

impl App {
    /// Returns the user of the request's access token.
    async fn caller<T>(&self, request: &Request<T>) -> Result<UserId, Status> {
        Ok(UserId::new(self.guard.caller(request.metadata()).await?.user))
    }
}

fn at_most(len: usize, max: usize, message: &'static str) -> Result<(), Error> {
    if len <= max { Ok(()) } else { Err(Error::Invalid(message)) }
}

fn page_size(first: i32) -> Result<usize, Error> {
    let within = |first: &usize| (1..=ROWS_MAX).contains(first);
    usize::try_from(first).ok().filter(within).ok_or(Error::Invalid("first is between 1 and 1,000"))
}

fn read_states_page(request: &wire::ReadStatesPage) -> Result<ReadStatesPage, Error> {
    let dialog_id = DialogId::parse(&request.dialog_id)?;
    let after = request.after_user_id.as_deref().map(UserId::parse).transpose()?;
    Ok(ReadStatesPage { dialog_id, first: page_size(request.first)? as i64, after })
}

fn unread_messages_page(request: &wire::UnreadMessagesPage) -> Result<unread::MessagesPage, Error> {
    let dialog_id = DialogId::parse(&request.dialog_id)?;
    if !(1..=UNREAD_MESSAGES_MAX).contains(&request.first) {
        return Err(Error::Invalid("first is between 1 and 100"));
    }
    if !(0..=NUMBER_MAX).contains(&request.after_seq) {
        return Err(Error::Invalid("a seq is between 0 and 2^53"));
    }
    Ok(unread::MessagesPage { dialog_id, first: request.first.into(), after: request.after_seq })
}

fn parse_version(wire: &wire::Version) -> Version {
    Version { epoch: wire.epoch, number: wire.number }
}

fn encode_version(version: Version) -> wire::Version {
    wire::Version { epoch: version.epoch, number: version.number }
}

fn encode_row(row: &Row) -> wire::Row {
    wire::Row {
        dialog_id: row.dialog_id.bytes(),
        unread: row.unread,
        read_seq: row.read_seq,
        last_seq: row.last_seq,
        stale: row.stale,
    }
}

fn encode_snapshot(snapshot: Snapshot) -> wire::Snapshot {
    wire::Snapshot {
        user_id: snapshot.user_id.bytes(),
        version: Some(encode_version(snapshot.unread.version)),
        total: snapshot.unread.total,
        current: snapshot.current,
        rows: snapshot.unread.rows.iter().map(encode_row).collect(),
        truncated: snapshot.unread.truncated,
        stale: snapshot.unread.stale,
    }
}
