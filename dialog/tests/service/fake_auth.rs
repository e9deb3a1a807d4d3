//! Fake auth service: answers `Users` with the users registered by a test, or fails with a given status.

use std::{collections::BTreeSet, future::ready, sync::Arc};

use parking_lot::Mutex;
use prost::Message;
use proto::{
    Peer, UserId,
    auth::{User, UsersReply, UsersRequest},
    local,
};
use testkit::{FakeGrpc, FakeRequest};
use tonic::Status;

/// Fake auth service. Clones share the state.
#[derive(Clone, Default)]
pub struct FakeAuth(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    users: BTreeSet<Vec<u8>>,
    failure: Option<Status>,
    calls: Vec<UsersCall>,
}

/// Recorded `Users` call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersCall {
    pub authorization: String,
    /// Number of users in the request.
    pub users: usize,
}

impl FakeAuth {
    pub fn peer(&self) -> Peer {
        let state = Arc::clone(&self.0);
        local(FakeGrpc::new(move |request| ready(state.lock().answer(&request))))
    }

    pub fn register(&self, user: UserId) {
        self.0.lock().users.insert(user.bytes());
    }

    /// Makes every following call fail with this status.
    pub fn fail_with(&self, status: Status) {
        self.0.lock().failure = Some(status);
    }

    /// Ends the effect of [`FakeAuth::fail_with`].
    pub fn recover(&self) {
        self.0.lock().failure = None;
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<UsersCall> {
        self.0.lock().calls.clone()
    }
}

impl State {
    fn answer(&mut self, request: &FakeRequest) -> Result<Vec<u8>, Status> {
        if request.method != "Users" {
            return Err(Status::unimplemented("dialog calls only Users"));
        }
        let ids = UsersRequest::decode(&*request.message).unwrap().ids;
        let authorization = request.headers.get("authorization").and_then(|value| value.to_str().ok());
        let authorization = authorization.unwrap_or_default().to_owned();
        self.calls.push(UsersCall { authorization, users: ids.len() });
        if let Some(status) = &self.failure {
            return Err(status.clone());
        }
        let known = ids.into_iter().filter(|id| self.users.contains(id));
        let users =
            known.map(|id| User { id, login: "x".to_owned(), name: "X".to_owned(), created_at_us: 1 });
        Ok(UsersReply { users: users.collect() }.encode_to_vec())
    }
}
