//! The counters as the sweeper needs them: they say what a test tells them to say, or are away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use proto::{
    counter::{
        MarkReadReply, MarkReadRequest, Outcome, ReadStatesReply, ReadStatesRequest, RowsReply, RowsRequest,
        SettleReply, SettleRequest, SnapshotsReply, SnapshotsRequest, UnreadReply, UnreadRequest,
        counters_server::Counters,
    },
    events::MessageSent,
};
use tonic::{Request, Response, Status};

/// What the counters know: messages by id, `None` where they are counted, else why they were refused. What is not here is
/// not decided.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    known: HashMap<Vec<u8>, Option<String>>,
    away: bool,
    asked: Vec<MessageSent>,
    authorizations: Vec<String>,
}

impl Ledger {
    pub fn count(&self, message: &[u8]) {
        self.0.lock().unwrap().known.insert(message.to_vec(), None);
    }

    pub fn refuse(&self, message: &[u8], reason: &str) {
        self.0.lock().unwrap().known.insert(message.to_vec(), Some(reason.to_owned()));
    }

    pub fn set_away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }

    /// What was asked about so far.
    pub fn asked(&self) -> Vec<MessageSent> {
        self.0.lock().unwrap().asked.clone()
    }

    /// The authorizations shown so far.
    pub fn authorizations(&self) -> Vec<String> {
        self.0.lock().unwrap().authorizations.clone()
    }
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not asked by dialog"))
}

#[tonic::async_trait]
impl Counters for Ledger {
    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleReply>, Status> {
        let mut state = self.0.lock().unwrap();
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        state.authorizations.push(authorization.unwrap_or_default().to_owned());
        let messages = request.into_inner().messages;
        assert!(messages.len() <= 100, "a question has at most 100 messages");
        state.asked.extend(messages.iter().cloned());
        if state.away {
            return Err(Status::unavailable("away"));
        }
        let outcomes = messages.iter().map(|message| match state.known.get(&message.message_id) {
            None => Outcome { counted: false, refused: None },
            Some(None) => Outcome { counted: true, refused: None },
            Some(reason) => Outcome { counted: false, refused: reason.clone() },
        });
        Ok(Response::new(SettleReply { outcomes: outcomes.collect() }))
    }
    async fn unread(&self, _: Request<UnreadRequest>) -> Result<Response<UnreadReply>, Status> {
        no()
    }
    async fn rows(&self, _: Request<RowsRequest>) -> Result<Response<RowsReply>, Status> {
        no()
    }
    async fn mark_read(&self, _: Request<MarkReadRequest>) -> Result<Response<MarkReadReply>, Status> {
        no()
    }
    async fn read_states(&self, _: Request<ReadStatesRequest>) -> Result<Response<ReadStatesReply>, Status> {
        no()
    }
    async fn snapshots(&self, _: Request<SnapshotsRequest>) -> Result<Response<SnapshotsReply>, Status> {
        no()
    }
}
