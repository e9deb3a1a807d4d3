//! The wire of the counters: requests into the domain's types within their bounds, answers and errors back.

use events::Headers;
use proto::{
    DialogId, UserId,
    counter::{
        self as wire, MarkReadReply, MarkReadRequest, ReadStatesPageReply, ReadStatesReply,
        ReadStatesRequest, RowsReply, RowsRequest, SettleReply, SettleRequest, SnapshotsReply,
        SnapshotsRequest, UnreadReply, UnreadRequest, counters_server::Counters,
    },
};
use telemetry::Call;
use tonic::{Request, Response, Status};

use crate::{
    App, Error,
    event::MAX,
    read, settle,
    unread::{self, ROWS, Row, Snapshot, StatesPage, Version},
};

/// Pages of one call, at most.
const PAGES: usize = 100;

#[tonic::async_trait]
impl Counters for App {
    async fn unread(&self, request: Request<UnreadRequest>) -> Result<Response<UnreadReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        let first = page(request.first)?;
        let at_least = request.at_least.as_ref().map(version);
        let unread = unread::of(&self.fills, user_id, first, at_least).await?;
        Ok(Response::new(UnreadReply {
            version: Some(version_wire(unread.version)),
            total: unread.total,
            rows: unread.rows.iter().map(row).collect(),
            truncated: unread.truncated,
        }))
    }

    async fn rows(&self, request: Request<RowsRequest>) -> Result<Response<RowsReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        at_most(request.dialog_ids.len(), ROWS, "at most 1,000 dialogs at once")?;
        let dialogs = DialogId::parse_all(&request.dialog_ids).map_err(Error::from)?;
        let at_least = request.at_least.as_ref().map(version);
        let (version, rows) = unread::rows(&self.db, user_id, &dialogs, at_least).await?;
        Ok(Response::new(RowsReply {
            rows: rows.iter().map(row).collect(),
            version: Some(version_wire(version)),
        }))
    }

    async fn mark_read(&self, request: Request<MarkReadRequest>) -> Result<Response<MarkReadReply>, Status> {
        let user_id = self.caller(&request).await?;
        let headers = Headers::from(&Call::of(&request));
        let request = request.into_inner();
        let dialog_id = DialogId::parse(&request.dialog_id).map_err(Error::from)?;
        if !(0..=MAX).contains(&request.seq) {
            return Err(Error::Invalid("a seq is between 0 and 2^53").into());
        }
        let marked = read::mark(&self.db, user_id, dialog_id, request.seq, headers).await?;
        Ok(Response::new(MarkReadReply {
            version: Some(version_wire(marked.version)),
            total: marked.total,
            row: Some(row(&marked.row)),
        }))
    }

    async fn read_states(
        &self,
        request: Request<ReadStatesRequest>,
    ) -> Result<Response<ReadStatesReply>, Status> {
        let user_id = self.caller(&request).await?;
        let request = request.into_inner();
        at_most(request.pages.len(), PAGES, "at most 100 pages at once")?;
        let pages = request.pages.iter().map(states_page).collect::<Result<Vec<_>, _>>()?;
        let states = unread::read_states(&self.db, user_id, &pages).await?;
        let state =
            |(user_id, read_seq): (UserId, i64)| wire::ReadState { user_id: user_id.bytes(), read_seq };
        let page = |page: Option<unread::ReadStates>| ReadStatesPageReply {
            found: page.is_some(),
            states: page.into_iter().flatten().map(state).collect(),
        };
        Ok(Response::new(ReadStatesReply { pages: states.into_iter().map(page).collect() }))
    }

    async fn snapshots(
        &self,
        request: Request<SnapshotsRequest>,
    ) -> Result<Response<SnapshotsReply>, Status> {
        self.guard.service(request.metadata())?;
        let request = request.into_inner();
        at_most(request.of.len(), ROWS, "at most 1,000 users at once")?;
        let of = request
            .of
            .iter()
            .map(|of| Ok((UserId::parse(&of.user_id)?, of.since.as_ref().map(version))))
            .collect::<Result<Vec<_>, Error>>()?;
        let snapshots = unread::snapshots(&self.db, &of).await?;
        Ok(Response::new(SnapshotsReply { snapshots: snapshots.into_iter().map(snapshot).collect() }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleReply>, Status> {
        self.guard.service(request.metadata())?;
        let headers = Headers::from(&Call::of(&request));
        let messages = request.into_inner().messages;
        at_most(messages.len(), ROWS, "at most 1,000 messages at once")?;
        let outcomes = settle::settle(&self.db, messages, headers).await?;
        let outcome = |outcome| match outcome {
            settle::Outcome::Counted => wire::Outcome { counted: true, refused: None },
            settle::Outcome::Refused(reason) => wire::Outcome { counted: false, refused: Some(reason) },
            settle::Outcome::Unknown => wire::Outcome { counted: false, refused: None },
        };
        Ok(Response::new(SettleReply { outcomes: outcomes.into_iter().map(outcome).collect() }))
    }
}

impl App {
    async fn caller<T>(&self, request: &Request<T>) -> Result<UserId, Status> {
        Ok(UserId::new(self.guard.caller(request.metadata()).await?.user))
    }
}

fn at_most(len: usize, bound: usize, otherwise: &'static str) -> Result<(), Error> {
    if len <= bound { Ok(()) } else { Err(Error::Invalid(otherwise)) }
}

fn page(first: i32) -> Result<usize, Error> {
    let within = |first: &usize| (1..=ROWS).contains(first);
    usize::try_from(first).ok().filter(within).ok_or(Error::Invalid("first is between 1 and 1,000"))
}

fn states_page(asked: &wire::ReadStatesPage) -> Result<StatesPage, Error> {
    let after = asked.after_user_id.as_deref().map(UserId::parse).transpose()?;
    Ok(StatesPage { dialog_id: DialogId::parse(&asked.dialog_id)?, first: page(asked.first)? as i64, after })
}

fn version(wire: &wire::Version) -> Version {
    Version { epoch: wire.epoch, number: wire.number }
}

fn version_wire(version: Version) -> wire::Version {
    wire::Version { epoch: version.epoch, number: version.number }
}

fn row(row: &Row) -> wire::Row {
    wire::Row {
        dialog_id: row.dialog_id.bytes(),
        unread: row.unread,
        read_seq: row.read_seq,
        last_seq: row.last_seq,
    }
}

fn snapshot(snapshot: Snapshot) -> wire::Snapshot {
    wire::Snapshot {
        user_id: snapshot.user_id.bytes(),
        version: Some(version_wire(snapshot.unread.version)),
        total: snapshot.unread.total,
        current: snapshot.current,
        rows: snapshot.unread.rows.iter().map(row).collect(),
        truncated: snapshot.unread.truncated,
    }
}
