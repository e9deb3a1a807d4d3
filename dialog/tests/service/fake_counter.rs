//! Fake counter service: answers `Settle` with the outcomes given by a test, or is unavailable.

use std::{collections::HashMap, future::ready, sync::Arc};

use parking_lot::Mutex;
use prost::Message;
use proto::{
    Peer,
    counter::{Outcome, SettleReply, SettleRequest},
    events::MessageSent,
    local,
};
use testkit::{FakeGrpc, FakeRequest};
use tonic::Status;

/// Fake counter service. Clones share the state.
#[derive(Clone, Default)]
pub struct FakeCounter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Outcome by message id: `None` for a counted message, the reason for a refused one. Others are
    /// undecided.
    outcomes: HashMap<Vec<u8>, Option<String>>,
    unavailable: bool,
    requested: Vec<MessageSent>,
    authorizations: Vec<String>,
}

impl FakeCounter {
    pub fn peer(&self) -> Peer {
        let state = Arc::clone(&self.0);
        local(FakeGrpc::new(move |request| ready(state.lock().answer(&request))))
    }

    pub fn count(&self, message: &[u8]) {
        self.0.lock().outcomes.insert(message.to_vec(), None);
    }

    pub fn refuse(&self, message: &[u8], reason: &str) {
        self.0.lock().outcomes.insert(message.to_vec(), Some(reason.to_owned()));
    }

    pub fn set_unavailable(&self, unavailable: bool) {
        self.0.lock().unavailable = unavailable;
    }

    /// Returns the messages of all requests so far.
    pub fn requested(&self) -> Vec<MessageSent> {
        self.0.lock().requested.clone()
    }

    /// Returns the authorization of each call so far.
    pub fn authorizations(&self) -> Vec<String> {
        self.0.lock().authorizations.clone()
    }
}

impl State {
    fn answer(&mut self, request: &FakeRequest) -> Result<Vec<u8>, Status> {
        if request.method != "Settle" {
            return Err(Status::unimplemented("dialog calls only Settle"));
        }
        let authorization = request.headers.get("authorization").and_then(|value| value.to_str().ok());
        self.authorizations.push(authorization.unwrap_or_default().to_owned());
        let messages = SettleRequest::decode(&*request.message).unwrap().messages;
        assert!(messages.len() <= 100, "a request has at most 100 messages");
        self.requested.extend(messages.iter().cloned());
        if self.unavailable {
            return Err(Status::unavailable("unavailable"));
        }
        let outcomes = messages.iter().map(|message| match self.outcomes.get(&message.message_id) {
            None => Outcome { counted: false, refused: None },
            Some(None) => Outcome { counted: true, refused: None },
            Some(reason) => Outcome { counted: false, refused: reason.clone() },
        });
        Ok(SettleReply { outcomes: outcomes.collect() }.encode_to_vec())
    }
}
