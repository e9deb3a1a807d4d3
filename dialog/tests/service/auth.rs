//! The auth service as dialog needs it: it knows people by their ids, or is away.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use proto::{
    UserId,
    auth::{
        ChangePasswordRequest, KeysReply, KeysRequest, LoginRequest, LogoutReply, LogoutRequest,
        RefreshRequest, RegisterRequest, RenameRequest, RevokedReply, RevokedRequest, SearchReply,
        SearchRequest, Session, User, UsersReply, UsersRequest, auth_server::Auth,
    },
};
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    people: BTreeSet<Vec<u8>>,
    away: Option<Status>,
    calls: Vec<(String, usize)>,
}

impl Directory {
    pub fn register(&self, person: UserId) {
        self.0.lock().unwrap().people.insert(person.bytes());
    }

    /// From now on every call is answered with this.
    pub fn go_away(&self, status: Status) {
        self.0.lock().unwrap().away = Some(status);
    }

    pub fn come_back(&self) {
        self.0.lock().unwrap().away = None;
    }

    /// The calls so far: the authorization shown, and how many people were asked about.
    pub fn calls(&self) -> Vec<(String, usize)> {
        self.0.lock().unwrap().calls.clone()
    }
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not asked by dialog"))
}

#[tonic::async_trait]
impl Auth for Directory {
    async fn users(&self, request: Request<UsersRequest>) -> Result<Response<UsersReply>, Status> {
        let mut state = self.0.lock().unwrap();
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        state.calls.push((authorization.unwrap_or_default().to_owned(), request.get_ref().ids.len()));
        if let Some(status) = &state.away {
            return Err(status.clone());
        }
        let known = request.into_inner().ids.into_iter().filter(|id| state.people.contains(id));
        let users =
            known.map(|id| User { id, login: "x".to_owned(), name: "X".to_owned(), created_at_us: 1 });
        Ok(Response::new(UsersReply { users: users.collect() }))
    }
    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<Session>, Status> {
        no()
    }
    async fn login(&self, _: Request<LoginRequest>) -> Result<Response<Session>, Status> {
        no()
    }
    async fn refresh(&self, _: Request<RefreshRequest>) -> Result<Response<Session>, Status> {
        no()
    }
    async fn logout(&self, _: Request<LogoutRequest>) -> Result<Response<LogoutReply>, Status> {
        no()
    }
    async fn change_password(&self, _: Request<ChangePasswordRequest>) -> Result<Response<Session>, Status> {
        no()
    }
    async fn rename(&self, _: Request<RenameRequest>) -> Result<Response<User>, Status> {
        no()
    }
    async fn search(&self, _: Request<SearchRequest>) -> Result<Response<SearchReply>, Status> {
        no()
    }
    async fn keys(&self, _: Request<KeysRequest>) -> Result<Response<KeysReply>, Status> {
        no()
    }
    async fn revoked(&self, _: Request<RevokedRequest>) -> Result<Response<RevokedReply>, Status> {
        no()
    }
}
